#include "server/worker.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/queue.h"
#include "diagnose/json.h"
#include "server/watch.h"

typedef struct {
    pool         *p;
    kernels      *kern;
    vision_cache *vision;          /* of its own: where a viewer asks again about a picture, the tower ran before */
    arena        *a[MAX_TOGETHER]; /* one for each job of a batch */
    pthread_t     thread;
    bool          started;
    atomic_bool   starved;         /* its own case found no memory the last time */
    atomic_size_t high;            /* of any of them, for others to read */
} worker;

struct pool {
    workers_options  o;
    queue        *waiting;
    atomic_int    running;
    atomic_ulong  recent_us; /* moving average of one job's time */
    atomic_bool   broken;
    worker       *w;
};

static void *worker_main(void *arg);

bool workers_open(pool **out, const workers_options *o, err *e)
{
    bool  ok = false;
    pool *p = mem_zalloc(1, sizeof *p);
    if (!p) {
        err_set(e, ERR_MEMORY, "out of memory for the workers");
        goto done;
    }
    p->o = *o;
    if (p->o.batch < 1) p->o.batch = 1;
    p->waiting = queue_new(o->queue);
    p->w = mem_zalloc((size_t)o->workers, sizeof *p->w);
    ok = p->waiting && p->w;
    for (int i = 0; ok && i < o->workers; i++) {
        p->w[i].p = p;
        p->w[i].kern = o->kern[i];
        p->w[i].vision = vision_cache_new(o->kern[i]);
        ok = p->w[i].vision != NULL;
        for (int j = 0; ok && j < p->o.batch; j++) {
            p->w[i].a[j] = arena_new(o->arena_bytes);
            ok = p->w[i].a[j] != NULL;
        }
    }
    if (!ok) {
        err_set(e, ERR_MEMORY, "out of memory for the workers");
        goto done;
    }
    *out = p;
    p = NULL;
done:
    workers_close(p);
    return ok;
}

void workers_close(pool *p)
{
    if (!p) return;
    if (p->waiting) queue_close(p->waiting);
    for (int i = 0; p->w && i < p->o.workers; i++) {
        if (p->w[i].started) pthread_join(p->w[i].thread, NULL);
        for (int j = 0; j < p->o.batch; j++) arena_free(p->w[i].a[j]);
        vision_cache_free(p->w[i].vision);
    }
    queue_free(p->waiting);
    free(p->w);
    free(p);
}

bool workers_start(pool *p, err *e)
{
    /* signals are for the main thread, which waits for them */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = true;
    for (int i = 0; ok && i < p->o.workers; i++) {
        ok = pthread_create(&p->w[i].thread, NULL, worker_main, &p->w[i]) == 0;
        p->w[i].started = ok;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok || err_set(e, ERR_MEMORY, "cannot start %d worker threads", p->o.workers);
}

/* ---- the warm-up case ---- */

/* A soft ring on a ramp: no one's picture, and not constant, so that a norm of zero cannot hide. */
static bool draw(image *img, arena *a, err *e)
{
    enum { SIDE = 64 };
    *img = (image){.width = SIDE, .height = SIDE, .rgb = arena_take_n(a, (size_t)3 * SIDE * SIDE, 1, e)};
    if (!img->rgb) return false;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            double r = hypot(x - 31.5, y - 31.5), v = 40 + 2 * x + 80 * exp(-(r - 18) * (r - 18) / 20);
            for (int c = 0; c < 3; c++) img->rgb[3 * (y * SIDE + x) + c] = (uint8_t)(v > 255 ? 255 : v);
        }
    return true;
}

static bool warm_up(worker *w, err *e)
{
    static const char *const answers[] = {"Yes", "No"};
    image                    img;
    uint8_t                 *png;
    size_t                   n;
    answer                   out;
    arena_reset(w->a[0]);
    bool ok = draw(&img, w->a[0], e) && image_encode_png(&png, &n, &img, w->a[0], e);
    diagnose_request q = {
        .question = "Is this image normal?", .answers = answers, .n_answers = 2, .k = 1, .mode = MODE_PAPER};
    if (ok) {
        q.image = png;
        q.image_bytes = n;
        ok = diagnose(w->p->o.en, w->kern, &q, w->a[0], &out, e);
    }
    double sum = 0;
    for (int i = 0; ok && i < out.A; i++) sum += out.prob[i];
    if (ok && !(fabs(sum - 1) < 1e-4))
        ok = err_set(e, ERR_FILE, "warm-up: the answer's probabilities sum to %g, not 1: are the weights sound?",
                     sum);
    arena_reset(w->a[0]);
    return ok;
}

bool workers_warm_up(pool *p, err *e)
{
    for (int i = 0; i < p->o.workers; i++)
        if (!warm_up(&p->w[i], e)) return false;
    return true;
}

/* ---- memory that runs out ---- */

enum { STARVED_RETRY_MS = 1000 };

/* A request went without memory. It alone may have asked for too much, and a client must not be able to turn a server
 * red with that; or there is none left. The case of the start tells: a worker that cannot score it either would
 * answer nobody. */
static void check_memory(worker *w)
{
    err  e = {0};
    bool starved = !warm_up(w, &e);
    if (e.code == ERR_GPU) atomic_store(&w->p->broken, true);
    if (atomic_exchange(&w->starved, starved) == starved) return;
    if (starved) log_err("starved", &e);
    else LOG(LOG_INFO, "recovered", LOG_S("text", "a worker that had no memory has scored its own case again"));
}

/* A starved worker gets no request once balancers see /readyz, so it looks by itself whether memory is back. */
static job *next_job(worker *w)
{
    job *j = NULL;
    for (bool over = false; atomic_load(&w->starved) && !j && !over;)
        if (!(j = queue_pop_within(w->p->waiting, STARVED_RETRY_MS, &over)) && !over) check_memory(w);
    return j ? j : queue_pop(w->p->waiting);
}

/* ---- jobs ---- */

static bool client_gone(const job *j) { return watch_peer_gone(j->fd); }

static bool late(const job *j, double now) { return j->q->deadline_at > 0 && now > j->q->deadline_at; }

static void fail(job *j) { respond_err(&j->out, &j->why, NULL, j->request_id); }

/* Give up on a job before it is computed. */
static void give_up(pool *p, job *j, double now)
{
    j->queue_ms = now - j->queued_at;
    if (client_gone(j)) {
        j->out.status = STATUS_CLIENT_GONE;
        metrics_shed(p->o.m, SHED_GONE);
    } else {
        err_at(&j->why, ERR_DEADLINE, "deadline-passed", "deadline_ms",
               "the request's deadline passed while it waited");
        fail(j);
        metrics_shed(p->o.m, SHED_DEADLINE);
    }
    p->o.done(j);
}

static void record(pool *p, job *j, const answer *a)
{
    j->n_cached = a->n_cached;
    j->flops = a->flops;
    for (int s = 0; s < N_STAGES; s++) {
        j->stage_ms[s] = a->stage_ms[s];
        if (a->stage_ms[s] > 0) metrics_stage(p->o.m, (stage)s, a->stage_ms[s] / 1e3);
    }
}

typedef struct { pool *p; job *j; } emitter;

/* The reader has emitted text; false stops its work, since nobody waits for the rest. */
static bool emit(void *ctx, const char *s, size_t n, err *e)
{
    const emitter *to = ctx;
    if (!stream_token(to->j->stream, s, n, e)) return false;
    to->j->n_events++;
    metrics_token(to->p->o.m);
    return true;
}

/* The job has an answer, or j->why says why it has none. */
static void respond(worker *w, job *j, const diagnose_request *q, const answer *a)
{
    const engine *en = w->p->o.en;
    record(w->p, j, a);
    if (j->why.code == ERR_GPU) atomic_store(&w->p->broken, true);
    if (j->stream && stream_lost(j->stream)) {
        j->out.status = STATUS_CLIENT_GONE;
        j->why = (err){0};
    } else if (j->why.code) fail(j);
    else
        respond_json(&j->out, 200,
                     j->retrieve_only ? retrieval_json(en, a, j->request_id) : answer_json(en, q, a, j->request_id),
                     j->request_id);
}

static void compute(worker *w, job *j)
{
    const engine    *en = w->p->o.en;
    answer           a = {0};
    emitter          to = {w->p, j};
    diagnose_request q = *j->q;
    q.vision = w->vision;
    if (j->stream) {
        q.open.on_text = emit;
        q.open.on_text_ctx = &to;
    }
    if (j->retrieve_only) diagnose_retrieve(en, w->kern, &q, w->a[0], &a, &j->why);
    else diagnose(en, w->kern, &q, w->a[0], &a, &j->why);
    respond(w, j, &q, &a);
}

/* Closed questions share their passes over the weights; an open one takes a step for each token by itself. */
static bool can_share(void *item, void *ctx)
{
    const job *j = item;
    (void)ctx;
    return !j->retrieve_only && diagnose_task(j->q) != TASK_OPEN;
}

static void compute_together(worker *w, job **j, int n)
{
    diagnose_job d[MAX_TOGETHER] = {0};
    answer       a[MAX_TOGETHER] = {0};
    for (int i = 0; i < n; i++) d[i] = (diagnose_job){j[i]->q, w->a[i], &a[i], &j[i]->why};
    diagnose_many(w->p->o.en, w->kern, d, n);
    for (int i = 0; i < n; i++) respond(w, j[i], j[i]->q, &a[i]);
}

/* The job's turn has come; false: nobody waits for it any more. */
static bool take(pool *p, job *j)
{
    double now = clock_ms();
    j->queue_ms = now - j->queued_at;
    metrics_queue_wait(p->o.m, j->queue_ms / 1e3);
    if (!late(j, now) && !client_gone(j)) return true;
    give_up(p, j, now);
    return false;
}

/* The first job, and those that wait and can be read with it. */
static int fill_batch(pool *p, job **j, job *first)
{
    int n = take(p, first);
    j[0] = first;
    if (n == 0 || !can_share(first, NULL)) return n;
    for (job *next; n < p->o.batch && (next = queue_take_if(p->waiting, can_share, NULL)) != NULL;)
        if (take(p, next)) j[n++] = next;
    return n;
}

static void finish_batch(worker *w, job **j, int n, double ms)
{
    pool  *p = w->p;
    size_t high = 0;
    /* one job in eight: quick to follow a change of load, slow enough not to jump with one large image */
    unsigned long us = (unsigned long)(ms * 1e3 / n), old = atomic_load(&p->recent_us);
    atomic_store(&p->recent_us, old ? old - old / 8 + us / 8 : us);
    for (int i = 0; i < n; i++)
        if (arena_high_water(w->a[i]) > high) high = arena_high_water(w->a[i]);
    if (high > atomic_load(&w->high)) atomic_store(&w->high, high);
    atomic_fetch_sub(&p->running, n);
    for (int i = 0; i < n; i++) p->o.done(j[i]); /* it is the HTTP thread's again: do not touch it */
    for (int i = 0; i < n; i++) arena_reset(w->a[i]);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    pool   *p = w->p;
    for (job *first, *j[MAX_TOGETHER]; (first = next_job(w)) != NULL;) {
        double began = clock_ms();
        int    n = fill_batch(p, j, first);
        if (n == 0) continue;
        atomic_fetch_add(&p->running, n);
        if (n == 1) compute(w, j[0]);
        else compute_together(w, j, n);
        bool doubtful = atomic_load(&w->starved);
        for (int i = 0; i < n; i++) doubtful = doubtful || j[i]->why.code == ERR_MEMORY;
        finish_batch(w, j, n, clock_ms() - began);
        if (doubtful) check_memory(w);
    }
    return NULL;
}

bool workers_submit(pool *p, job *j)
{
    j->queued_at = clock_ms();
    return queue_push(p->waiting, j);
}

static bool is_hopeless(void *item, void *now) { return late(item, *(double *)now) || client_gone(item); }

void workers_sweep(pool *p)
{
    double now = clock_ms();
    for (job *j; (j = queue_take_if(p->waiting, is_hopeless, &now)) != NULL;) give_up(p, j, now);
}

bool workers_full(pool *p) { return queue_len(p->waiting) >= queue_capacity(p->waiting); }
int  workers_waiting(pool *p) { return queue_len(p->waiting); }
int  workers_running(pool *p) { return atomic_load(&p->running); }
bool workers_broken(pool *p) { return atomic_load(&p->broken); }

bool workers_starved(pool *p)
{
    for (int i = 0; i < p->o.workers; i++)
        if (atomic_load(&p->w[i].starved)) return true;
    return false;
}

int workers_retry_after_s(pool *p)
{
    double one = (double)atomic_load(&p->recent_us) / 1e6;
    double s = ceil((workers_waiting(p) + workers_running(p)) * one / p->o.workers);
    return s < 1 ? 1 : s > 3600 ? 3600 : (int)s;
}

size_t workers_arena_bytes(pool *p)
{
    size_t most = 0;
    for (int i = 0; i < p->o.workers; i++) {
        size_t high = atomic_load(&p->w[i].high);
        if (high > most) most = high;
    }
    return most;
}
