/* diagnose.c - a request's whole path, in the order of design.md section 3. */
#include "diagnose/diagnose.h"

#include <math.h>

#include "base/clock.h"
#include "diagnose/check.h"
#include "diagnose/labels.h"
#include "diagnose/open.h"
#include "kernels/range.h"

const char RESEARCH_USE[] = "For research use only. Not for diagnostic procedures.";
const char JOMED_VERSION[] = "0.1.0";
const char *const STAGE_NAME[N_STAGES] = {"decode", "retrieve", "passages", "read", "fuse"};

/* One request under way. */
typedef struct {
    const engine           *en;
    kernels                *kern;
    const diagnose_request *q;
    arena                  *a;
    answer                 *out;
    err                    *e;
    bool                    ok;    /* it has not failed yet */
    image                   img;
    candidate              *c;
    reader_query            ask;   /* what the reader is asked */
    reader_scores           s;
    double                  started, stage_started;
    int                     stage; /* the one that runs; -1: none yet */
} run;

static bool in_time(const diagnose_request *q, err *e)
{
    if (q->deadline_at > 0 && clock_ms() > q->deadline_at)
        return err_at(e, ERR_DEADLINE, "deadline-passed", "deadline_ms",
                      "the request's deadline passed before it was answered");
    return true;
}

/* Close the stage that ran, begin the next; N_STAGES ends the last. Refuses once the deadline is spent. */
static bool at(run *r, int next, err *e)
{
    double now = clock_ms();
    if (r->stage >= 0) r->out->stage_ms[r->stage] = now - r->stage_started;
    r->stage = next;
    r->stage_started = now;
    r->out->total_ms = now - r->started;
    return next == N_STAGES || in_time(r->q, e);
}

task_kind diagnose_task(const diagnose_request *q)
{
    return q->n_labels > 0 ? TASK_LABELS : q->n_answers > 0 ? TASK_CLOSED : TASK_OPEN;
}

static bool choose_adapter(run *r, err *e)
{
    if (r->q->adapter) return reader_find_adapter(r->en->reader, r->q->adapter, &r->out->adapter, e);
    r->out->adapter = r->en->adapter;
    return true;
}

static bool decode(run *r, err *e)
{
    if (!image_decode(&r->img, r->q->image, r->q->image_bytes, &r->en->limits, r->a, e)) return false;
    r->out->clipped = r->img.clipped;
    return true;
}

/* What the device has done so far. */
static uint64_t work(const run *r)
{
    return r->kern->flops + (r->kern->exact ? r->kern->exact->flops : 0);
}

/* Candidates of both heads and p_R. */
static bool find(run *r, err *e)
{
    uint64_t  before = work(r);
    exclusion x = r->q->exclude;
    uint8_t   own[32];
    if (r->q->exclude_self) {
        image_hash(own, &r->img);
        x.image_sha256 = own;
    }
    bool ok = retrieve(r->en->retriever, r->kern, r->en->index, &r->img, r->q->k, &x, r->en->tau, &r->c, &r->out->K,
                       r->a, e);
    r->out->flops += work(r) - before;
    return ok;
}

static bool load_passages(run *r, err *e)
{
    answer *o = r->out;
    if (!(o->z = ARENA_NEW(r->a, evidence, o->K, e))) return false;
    for (int k = 0; k < o->K; k++) {
        o->z[k].c = r->c[k];
        if (!index_passage(r->en->index, r->c[k].id, &o->z[k].p, r->a, e)) return false;
    }
    return true;
}

/* For the reader: a passage's picture, wanted only where its prefix is not cached. */
static bool load_image(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    const run     *r = ctx;
    const uint8_t *bytes;
    size_t         n;
    media_type     type;
    err            why = {0};
    if (!index_passage_image(r->en->index, id, &bytes, &n, &type, a, e)) return false;
    if (image_decode(out, bytes, n, &IMAGE_LIMITS, a, &why)) return true;
    if (why.code == ERR_MEMORY) return *e = why, false;
    /* It is the index's image that is wrong, not the request's. */
    return err_at(e, ERR_FILE, "passage-image-undecodable", NULL,
                  "the image of passage %lld cannot be decoded: run `jomed index verify` on the index",
                  (long long)id);
}

static bool go_on(void *ctx, err *e) { return in_time(((const run *)ctx)->q, e); }

/* What the reader is to be asked: the candidates with their captions, and the request's question. */
static bool ask(run *r, err *e)
{
    answer         *o = r->out;
    reader_passage *z = ARENA_NEW(r->a, reader_passage, o->K, e);
    if (!z) return false;
    for (int k = 0; k < o->K; k++) z[k] = (reader_passage){o->z[k].c.id, o->z[k].p.caption ? o->z[k].p.caption : ""};
    r->ask = (reader_query){.img = &r->img,
                            .policy = r->en->policy,
                            .vision = r->q->vision,
                            .question = r->q->question,
                            .answers = r->q->answers,
                            .A = r->q->n_answers,
                            .z = z,
                            .K = o->K,
                            .load = load_image,
                            .load_ctx = r,
                            .adapter = o->adapter,
                            .go_on = go_on,
                            .go_on_ctx = r};
    if (o->task == TASK_LABELS) labels_ask(&r->ask, r->q);
    return true;
}

/* An open answer is decoded by itself. */
static bool decode_answer(run *r, err *e)
{
    uint64_t before = work(r);
    bool     ok = open_decode(r->en, r->kern, r->q, &r->ask, r->out, r->a, e);
    r->out->flops += work(r) - before;
    return ok;
}

/* All closed ones are scored together, in the same passes. */
static bool score(const engine *en, kernels *kern, run *r, const int *which, int n, err *e)
{
    reader_job *job = ARENA_NEW(r[which[0]].a, reader_job, n, e);
    if (!job) return false;
    for (int i = 0; i < n; i++) {
        run *x = &r[which[i]];
        job[i] = (reader_job){&x->ask, x->a, &x->s, x->e};
    }
    if (!reader_score_many(en->reader, kern, job, n, e)) return false;
    for (int i = 0; i < n; i++) {
        run *x = &r[which[i]];
        x->ok = x->e->code == ERR_NONE;
        if (x->ok) x->out->flops += x->s.flops;
    }
    return true;
}

/* What each says given each of its candidates. */
static void read_all(const engine *en, kernels *kern, run *r, int n)
{
    int which[MAX_TOGETHER], m = 0;
    err e = {0};
    for (int i = 0; i < n; i++) {
        if (!r[i].ok || !(r[i].ok = ask(&r[i], r[i].e))) continue;
        if (r[i].out->task == TASK_OPEN) r[i].ok = decode_answer(&r[i], r[i].e);
        else which[m++] = i;
    }
    if (m == 0 || score(en, kern, r, which, m, &e)) return;
    for (int i = 0; i < m; i++) {
        r[which[i]].ok = false;
        *r[which[i]].e = e;
    }
}

/* Fuse, and say how far the candidates agree. */
static bool conclude(run *r, err *e)
{
    answer              *o = r->out;
    const reader_scores *s = &r->s;
    if (o->task == TASK_OPEN) return true; /* fused token by token while it was decoded */
    if (o->task == TASK_LABELS) return labels_conclude(r->q, s, o, r->a, e);
    int     A = o->A = r->q->n_answers, K = o->K;
    float  *each = ARENA_NEW(r->a, float, (size_t)K * A, e), *p_r = ARENA_NEW(r->a, float, K, e);
    int64_t *id = ARENA_NEW(r->a, int64_t, K, e);
    if (!(o->prob = ARENA_NEW(r->a, float, A, e)) || !each || !p_r || !id) return false;
    for (int k = 0; k < K; k++) {
        p_r[k] = o->z[k].c.weight;
        id[k] = o->z[k].c.id;
    }
    fuse(r->q->mode, K, A, id, p_r, s->logp, s->logit, each, o->prob);

    o->answer = argmax(o->prob, A);
    o->consistent = true;
    o->end_token = s->end_token;
    o->n_cached = s->n_cached;
    o->prompt_tokens = s->prompt_tokens;
    double agreement = 0, entropy = 0;
    for (int k = 0; k < K; k++) {
        evidence *z = &o->z[k];
        z->logp = s->logp + (size_t)k * A;
        z->logit = s->logit + (size_t)k * A;
        z->prob = each + (size_t)k * A;
        z->answer = argmax(z->prob, A);
        o->consistent = o->consistent && z->answer == o->z[0].answer;
        if (z->answer == o->answer) agreement += p_r[k];
    }
    for (int i = 0; i < A; i++) {
        if (!isfinite(o->prob[i]))
            return err_set(e, ERR_BUG, "the scores are not finite numbers: are the reader's weights sound?");
        if (o->prob[i] > 0) entropy -= (double)o->prob[i] * log(o->prob[i]);
    }
    o->agreement = (float)agreement;
    o->entropy = (float)entropy;
    return true;
}

static run begin(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e)
{
    *out = (answer){.task = diagnose_task(q)};
    return (run){
        .en = en, .kern = kern, .q = q, .a = a, .out = out, .e = e, .ok = true, .started = clock_ms(), .stage = -1};
}

/* A step of each request that has not failed. */
static void each(run *r, int n, int next, bool (*step)(run *r, err *e))
{
    if (step) range_begin(STAGE_NAME[next]);
    for (int i = 0; i < n; i++)
        if (r[i].ok) r[i].ok = at(&r[i], next, r[i].e) && (!step || step(&r[i], r[i].e));
    if (step) range_end();
}

static bool check(run *r, err *e) { return diagnose_check(r->q, e) && choose_adapter(r, e); }

void diagnose_many(const engine *en, kernels *kern, const diagnose_job *job, int n)
{
    run r[MAX_TOGETHER];
    kernels_recover(kern);
    for (int i = 0; i < n; i++) {
        r[i] = begin(en, kern, job[i].q, job[i].a, job[i].out, job[i].e);
        r[i].ok = check(&r[i], r[i].e);
    }
    each(r, n, STAGE_DECODE, decode);          /* u8 [H,W,3]                        */
    each(r, n, STAGE_RETRIEVE, find);          /* K candidates, p_R(z_k | q)        */
    each(r, n, STAGE_PASSAGES, load_passages); /* their captions and origins        */
    each(r, n, STAGE_READ, NULL);
    range_begin(STAGE_NAME[STAGE_READ]);
    read_all(en, kern, r, n);                  /* f32 [K,A] log p(a | z_k o q)      */
    range_end();
    each(r, n, STAGE_FUSE, conclude);          /* f32 [A], sums to 1; the agreement */
    each(r, n, N_STAGES, NULL);
}

bool diagnose(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e)
{
    err why = {0};
    diagnose_many(en, kern, &(diagnose_job){q, a, out, &why}, 1);
    if (why.code) *e = why;
    return !why.code;
}

bool diagnose_retrieve(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e)
{
    kernels_recover(kern);
    run r = begin(en, kern, q, a, out, e);

    return check_image(q, e)
        && at(&r, STAGE_DECODE, e)   && decode(&r, e)
        && at(&r, STAGE_RETRIEVE, e) && find(&r, e)
        && at(&r, STAGE_PASSAGES, e) && load_passages(&r, e)
        && at(&r, N_STAGES, e);
}
