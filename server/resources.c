/* resources.c - the GET side: evidence, identities, health. Nothing here waits for a worker. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "diagnose/json.h"
#include "server/http.h"

bool server_ready(const server *s)
{
    return !atomic_load(&s->draining) && !workers_broken(s->pool) && !workers_starved(s->pool);
}

static void get_passage(server *s, int64_t id, arena *a, const char *request_id, response *out, err *why)
{
    passage p;
    if (!index_passage(s->en->index, id, &p, a, why)) return;
    json_t *o = json_pack("{s:I, s:s?, s:s?, s:s?, s:o, s:s, s:s}", "id", (json_int_t)p.id, "source", p.source,
                          "caption", p.caption, "license", p.license, "image",
                          json_sprintf("/v1/passages/%lld/image", (long long)p.id), "image_sha256", p.image_sha256,
                          "intended_use", RESEARCH_USE);
    respond_json(out, 200, o, request_id);
}

static void get_passage_image(server *s, int64_t id, arena *a, response *out, err *why)
{
    const uint8_t *bytes;
    size_t         n;
    media_type     type;
    if (!index_passage_image(s->en->index, id, &bytes, &n, &type, a, why)) return;
    char *copy = mem_alloc(n);
    if (!copy) {
        err_set(why, ERR_MEMORY, "out of memory for a passage's image");
        return;
    }
    memcpy(copy, bytes, n);
    respond_body(out, 200, media_type_name(type), copy, n);
}

/* The two that read the index need a request's memory. */
static void with_arena(server *s, route_id r, int64_t id, const char *request_id, response *out, err *why)
{
    if (id < 0) {
        err_at(why, ERR_NOT_FOUND, "passage-unknown", NULL, "a passage's id is a whole number");
        return;
    }
    arena *a = arena_new((size_t)s->cfg->arena_bytes);
    if (!a) err_set(why, ERR_MEMORY, "out of memory");
    else if (r == ROUTE_PASSAGE) get_passage(s, id, a, request_id, out, why);
    else get_passage_image(s, id, a, out, why);
    arena_free(a);
}

static void get_ready(server *s, bool verbose, const char *request_id, response *out)
{
    bool    ready = server_ready(s), broken = workers_broken(s->pool), draining = atomic_load(&s->draining);
    json_t *o = json_pack("{s:b}", "ready", ready);
    /* the models are open and a case has been scored, or the port would not be open */
    if (o && verbose
        && json_object_set_new(o, "checks",
                               json_pack("{s:b, s:b, s:b, s:b, s:b, s:i, s:i, s:i, s:i}", "case_scored_at_start", 1,
                                         "device", !broken, "memory", !workers_starved(s->pool), "accepting",
                                         !draining, "queue_has_room", !workers_full(s->pool), "waiting",
                                         workers_waiting(s->pool), "running", workers_running(s->pool), "workers",
                                         (int)s->cfg->workers, "in_flight", atomic_load(&s->in_flight)))
               != 0) {
        json_decref(o);
        o = NULL;
    }
    respond_json(out, ready ? 200 : 503, o, request_id);
}

static void get_models(server *s, const char *request_id, response *out)
{
    json_t *o = models_json(s->en, s->device);
    json_t *limits =
        json_pack("{s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I}", "body_bytes",
                  (json_int_t)s->cfg->body_bytes, "max_pixels", (json_int_t)s->cfg->max_pixels, "max_side",
                  (json_int_t)s->cfg->max_side, "max_k", MAX_K, "max_answers", MAX_ANSWERS, "max_answer_bytes",
                  MAX_ANSWER_BYTES, "max_labels", MAX_LABELS, "max_label_bytes", MAX_LABEL_BYTES, "max_new_tokens",
                  MAX_NEW_TOKENS, "max_beams", MAX_BEAMS, "max_question_bytes", MAX_QUESTION_BYTES, "max_key_bytes",
                  MAX_KEY_BYTES, "deadline_ms", (json_int_t)s->cfg->deadline_ms, "deadline_max_ms",
                  (json_int_t)s->cfg->deadline_max_ms);
    if (!o || !limits || json_object_set(o, "limits", limits) != 0) {
        json_decref(o);
        o = NULL;
    }
    json_decref(limits);
    respond_json(out, 200, o, request_id);
}

static void get_metrics(server *s, response *out, err *why)
{
    text   t = {0};
    gauges g = {.queue_depth = workers_waiting(s->pool),
                .in_flight = atomic_load(&s->in_flight),
                .ready = server_ready(s),
                .body_bytes = atomic_load(&s->budget.used),
                .en = s->en};
    reader_cache(s->en->reader, &g.cache);
    metrics_text(s->m, &g, &t);
    if (t.failed) {
        text_free(&t);
        err_set(why, ERR_MEMORY, "out of memory for metrics");
        return;
    }
    respond_body(out, 200, "text/plain; version=0.0.4; charset=utf-8", t.s, t.len);
}

static void get_text(response *out, const char *media, const char *s, err *why)
{
    char *copy = mem_strdup(s);
    if (!copy) err_set(why, ERR_MEMORY, "out of memory");
    else respond_body(out, 200, media, copy, strlen(copy));
}

void resource_get(server *s, route_id r, int64_t id, bool verbose, const char *request_id, response *out, err *why)
{
    switch (r) {
    case ROUTE_PASSAGE:
    case ROUTE_PASSAGE_IMAGE: with_arena(s, r, id, request_id, out, why); break;
    case ROUTE_MODELS: get_models(s, request_id, out); break;
    case ROUTE_LIVEZ: get_text(out, "application/json", "{\"alive\":true}", why); break;
    case ROUTE_READYZ: get_ready(s, verbose, request_id, out); break;
    case ROUTE_METRICS: get_metrics(s, out, why); break;
    case ROUTE_OPENAPI: get_text(out, "application/json", s->openapi, why); break;
    default: err_set(why, ERR_BUG, "%s is not a resource to get", route_label(r)); break;
    }
    if (why->code) respond_err(out, why, NULL, request_id);
}
