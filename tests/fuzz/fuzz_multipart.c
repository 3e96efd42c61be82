/* fuzz_multipart.c - the first line as a Content-Type, the rest as a body: in one piece and in single bytes,
 * which must say the same; and as a request, which must end as fuzz_json.c says. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "server/multipart.h"
#include "server/request.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

static bool on_begin(void *ctx, const char *name, err *e)
{
    (void)e;
    MUST(strlen(name) < PART_NAME_BYTES);
    text_printf(ctx, "<%s|", name);
    return true;
}
static bool on_data(void *ctx, const char *p, size_t n, err *e) { return (void)e, text_addn(ctx, p, n), true; }
static bool on_end(void *ctx, err *e) { return (void)e, text_add(ctx, ">"), true; }
static const multipart_sink SINK = {on_begin, on_data, on_end};

static bool parse(const char *type, const char *body, size_t n, size_t piece, text *told, err *e)
{
    multipart m;
    if (!multipart_init(&m, type, &SINK, told, e)) return false;
    for (size_t i = 0; i < n; i += piece)
        if (!multipart_feed(&m, body + i, n - i < piece ? n - i : piece, e)) return false;
    return multipart_end(&m, e);
}

static void as_request(const char *type, const char *body, size_t n)
{
    body_budget    budget = {.limit = 1 << 24};
    request_limits limits = {.body_bytes = 1 << 20,
                             .deadline_ms = 1000,
                             .deadline_max_ms = 5000,
                             .image = IMAGE_LIMITS,
                             .budget = &budget};
    request       *r = NULL;
    err            e = {0}, again = {0};
    json_use_our_memory();
    bool ok = request_body_type(type) == BODY_MULTIPART
              && request_new(&r, DIAGNOSIS_FIELDS, N_DIAGNOSIS_FIELDS, type, &limits, &e)
              && request_feed(r, body, n, &e) && request_finish(r, true, 1, &e);
    if (ok) MUST(diagnose_check(request_query(r), &again));
    request_free(r);
    MUST(atomic_load(&budget.used) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nl = memchr(data, '\n', n);
    size_t         line = nl ? (size_t)(nl - data) : n;
    char           type[512];
    if (line >= sizeof type || memchr(data, 0, line)) return 0;
    memcpy(type, data, line);
    type[line] = 0;
    const char *body = nl ? (const char *)nl + 1 : "";
    size_t      bytes = nl ? n - line - 1 : 0;

    text whole = {0}, bits = {0};
    err  e = {0}, e_bits = {0};
    bool ok = parse(type, body, bytes, bytes ? bytes : 1, &whole, &e),
         ok_bits = parse(type, body, bytes, 1, &bits, &e_bits);
    MUST(ok == ok_bits && strcmp(e.text, e_bits.text) == 0);
    MUST(!ok || (whole.len == bits.len && (whole.len == 0 || memcmp(whole.s, bits.s, whole.len) == 0)));
    text_free(&whole);
    text_free(&bits);
    as_request(type, body, bytes);
    return 0;
}
