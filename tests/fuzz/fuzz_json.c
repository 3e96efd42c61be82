/* fuzz_json.c - bytes as a JSON request. Whatever they are: an error that a client can be told, or a request
 * that keeps every promise of diagnose_check(); no memory is left counted, and no error text holds what only
 * the request could have said. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "server/request.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

static void check_error(const err *e, const request *r)
{
    response out = {0};
    MUST(e->text[0]);
    respond_err(&out, e, r ? request_unknown_field(r) : NULL, "id");
    MUST(out.status == 400 || out.status == 413 || out.status == 415 || out.status == 422 || out.status == 503);
    json_t *o = json_loadb(out.small, out.bytes, JSON_REJECT_DUPLICATES, NULL); /* whatever is in it, it is JSON */
    MUST(o);
    json_decref(o);
}

static void check_request(const diagnose_request *q, bool diagnosis)
{
    err e = {0};
    MUST(q->image && q->image_bytes > 0 && q->k >= 1 && q->k <= MAX_K && q->deadline_at > 0);
    MUST(!diagnosis || diagnose_check(q, &e));
    /* what belongs to one kind of question is on no other */
    const open_options *o = &q->open;
    MUST(!diagnosis || !(q->answers && q->labels));
    MUST((diagnosis && diagnose_task(q) == TASK_OPEN)
         || (!o->max_new_tokens && !o->beams && o->repetition_penalty == 0));
    MUST(o->max_new_tokens >= 0 && o->max_new_tokens <= MAX_NEW_TOKENS && o->beams >= 0 && o->beams <= MAX_BEAMS);
    MUST(o->repetition_penalty == 0
         || (o->repetition_penalty >= 1 && o->repetition_penalty <= MAX_REPETITION_PENALTY));
    if (q->exclude.study)
        MUST(utf8_valid(q->exclude.study, strlen(q->exclude.study)) && strlen(q->exclude.study) <= MAX_KEY_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    body_budget    budget = {.limit = 1 << 24};
    request_limits limits = {.body_bytes = 1 << 20,
                             .deadline_ms = 1000,
                             .deadline_max_ms = 5000,
                             .image = IMAGE_LIMITS,
                             .budget = &budget};
    json_use_our_memory();
    for (int diagnosis = 0; diagnosis < 2; diagnosis++) {
        request *r = NULL;
        err      e = {0};
        bool ok = request_new(&r, diagnosis ? DIAGNOSIS_FIELDS : RETRIEVAL_FIELDS,
                              diagnosis ? N_DIAGNOSIS_FIELDS : N_RETRIEVAL_FIELDS, "application/json", &limits, &e)
                  && request_feed(r, (const char *)data, n, &e) && request_finish(r, diagnosis, 1, &e);
        MUST(ok == (e.code == ERR_NONE));
        if (ok) check_request(request_query(r), diagnosis);
        else check_error(&e, r);
        request_free(r);
        MUST(atomic_load(&budget.used) == 0);
    }
    return 0;
}
