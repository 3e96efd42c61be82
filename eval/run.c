/* run.c - see run.h. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/memory.h"
#include "eval/prediction.h"
#include "eval/run.h"

/* What came of one case, on the heap of nobody's arena: it waits for its turn. */
typedef struct {
    bool         failed;
    char        *line; /* of the predictions file; NULL: nobody wants it */
    err          why;
    case_result  r;
    const char **names; /* answers or labels: one block with its strings */
    int          n_names;
    float       *prob;  /* [n_names] of labels; NULL: none */
} outcome;

/* A case's place in the order of work: cases of one picture have the same first. */
typedef struct { uint64_t picture; int64_t first, i; } turn;

typedef struct {
    const run_plan *p;
    turn           *order;  /* [n_cases] */
    pthread_mutex_t lock;
    pthread_cond_t  ready;
    outcome       **slot;   /* [n_cases], NULL until answered; under lock */
    int64_t         n_answered; /* under lock, as are the rest */
    err             broken; /* what ends the run */
    int             n_left; /* workers that still run */
    vision_cache_stats vision; /* of those that have ended */
    atomic_bool     stop;

    pthread_mutex_t reading; /* of the data set */
    int64_t         next;    /* in order; under reading */
} run;

/* at, end: what is left of the picture that it works on, in order. */
typedef struct { run *run; kernels *kern; vision_cache *vision; int64_t at, end; pthread_t thread; } worker;

static void outcome_free(outcome *o)
{
    if (!o) return;
    free(o->line);
    free(o->names);
    free(o->prob);
    free(o);
}

/* ---- the order of work ---- */

static int by_picture(const void *a, const void *b)
{
    const turn *x = a, *y = b;
    if (x->picture != y->picture) return x->picture < y->picture ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

static int by_first(const void *a, const void *b)
{
    const turn *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

/* Pictures by their first case, so that an archive that is quickest read forwards is read so. */
static bool put_in_order(run *r, err *e)
{
    int64_t n = r->p->n_cases;
    turn   *t = r->order = mem_alloc(((size_t)n + 1) * sizeof *t);
    if (!t) return err_set(e, ERR_MEMORY, "eval: out of memory");
    for (int64_t i = 0; i < n; i++) t[i] = (turn){dataset_picture(r->p->set, i), i, i};
    qsort(t, (size_t)n, sizeof *t, by_picture);
    for (int64_t i = 1; i < n; i++)
        if (t[i].picture && t[i].picture == t[i - 1].picture) t[i].first = t[i - 1].first;
    qsort(t, (size_t)n, sizeof *t, by_first);
    return true;
}

/* The next case of the worker's picture, or the first of the next picture. false: none is left. */
static bool claim(worker *w, int64_t *i)
{
    run *r = w->run;
    if (w->at == w->end) {
        w->at = w->end = r->next;
        while (w->end < r->p->n_cases && r->order[w->end].first == r->order[w->at].first) w->end++;
        r->next = w->end;
    }
    if (w->at == w->end) return false;
    *i = r->order[w->at++].i;
    return true;
}

/* ---- one case ---- */

/* The names that the result's numbers stand for, in one block, and the labels' probabilities: the case's own lie
 * in an arena that is reset before its turn comes. */
static bool keep_names(outcome *o, const eval_case *c, const answer *ans, err *e)
{
    const char *const *names = c->labels ? c->labels : c->answers;
    int                n = c->labels ? c->n_labels : c->n_answers;
    size_t             bytes = (size_t)n * sizeof *o->names;
    for (int i = 0; i < n; i++) bytes += strlen(names[i]) + 1;
    if (!(o->names = mem_alloc(bytes ? bytes : 1))) return err_set(e, ERR_MEMORY, "eval: out of memory");
    o->n_names = n;
    char *to = (char *)(o->names + n);
    for (int i = 0; i < n; i++) {
        o->names[i] = to;
        to = stpcpy(to, names[i]) + 1;
    }
    if (ans->task != TASK_LABELS) return true;
    if (!(o->prob = mem_alloc((size_t)n * sizeof *o->prob))) return err_set(e, ERR_MEMORY, "eval: out of memory");
    memcpy(o->prob, ans->label_prob, (size_t)n * sizeof *o->prob);
    return true;
}

/* The request that a client would make of the case. */
static diagnose_request request_of(const worker *w, const eval_case *c)
{
    const run_plan  *p = w->run->p;
    diagnose_request q = {.image = c->image,
                          .image_bytes = c->image_bytes,
                          .question = c->question,
                          .answers = c->answers,
                          .n_answers = c->n_answers,
                          .k = p->k,
                          .mode = p->mode,
                          .exclude_self = p->exclude_self,
                          .exclude = {.study = c->study, .patient = c->patient},
                          .vision = w->vision};
    if (c->labels && !c->generated) {
        q.labels = c->labels;
        q.n_labels = c->n_labels;
    } else if (!c->answers) {
        q.open.max_new_tokens = c->max_new_tokens;
    }
    return q;
}

/* One case as the server would answer it. false: o->why says what is wrong with it. */
static bool answer_case(const worker *w, int64_t i, outcome *o, const eval_case *c, arena *a)
{
    const run_plan  *p = w->run->p;
    diagnose_request q = request_of(w, c);
    answer           ans;
    return diagnose(p->en, w->kern, &q, a, &ans, &o->why)
        && case_result_of(&o->r, c, &ans, p->mode, p->en->tau, a, &o->why) && keep_names(o, c, &ans, &o->why)
        && (p->predictions < 0 || prediction_of(&o->line, i, c, &ans, &o->r, &o->why));
}

/* The next case of the set. Claimed and read in one go, so that the file is read forwards. false: none is left. */
static bool next_case(worker *w, int64_t *i, eval_case *c, arena *a, bool *read, err *why)
{
    run *r = w->run;
    pthread_mutex_lock(&r->reading);
    bool some = claim(w, i);
    if (some) *read = dataset_case(r->p->set, *i, c, a, why);
    pthread_mutex_unlock(&r->reading);
    return some;
}

/* Answer a case. NULL: there is none left; or, with e, no memory even for saying what failed, or the device is
 * lost. */
static outcome *next_outcome(worker *w, int64_t *i, arena *a, err *e)
{
    eval_case c = {0};
    bool      read = false;
    outcome  *o = mem_zalloc(1, sizeof *o);
    if (!o) return err_set(e, ERR_MEMORY, "eval: out of memory"), NULL;
    if (!next_case(w, i, &c, a, &read, &o->why)) return outcome_free(o), NULL;
    if (read && answer_case(w, *i, o, &c, a)) return o;
    o->failed = true;
    free(o->line);
    o->line = NULL;
    if (o->why.code == ERR_GPU) err_set(e, ERR_GPU, "%s", o->why.text);
    else if (w->run->p->predictions < 0 || prediction_failed(&o->line, *i, c.gold_text, &o->why, e)) return o;
    outcome_free(o);
    return NULL;
}

/* Stop all: the first reason is kept. */
static void run_break(run *r, const err *why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->broken.code) r->broken = *why;
    pthread_mutex_unlock(&r->lock);
    atomic_store(&r->stop, true);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    run    *r = w->run;
    err     e = {0};
    arena  *a = arena_new(0);
    if (!a || !(w->vision = vision_cache_new(w->kern))) err_set(&e, ERR_MEMORY, "eval: out of memory");
    while (!e.code && !atomic_load(&r->stop)) {
        int64_t  i;
        outcome *o = next_outcome(w, &i, a, &e);
        if (!o) break;
        pthread_mutex_lock(&r->lock);
        r->slot[i] = o;
        r->n_answered++;
        pthread_cond_signal(&r->ready);
        pthread_mutex_unlock(&r->lock);
        arena_reset(a);
    }
    arena_free(a);
    vision_cache_stats v = w->vision ? vision_cache_read_stats(w->vision) : (vision_cache_stats){0};
    vision_cache_free(w->vision);
    if (e.code) run_break(r, &e);
    pthread_mutex_lock(&r->lock);
    r->vision.encoded += v.encoded;
    r->vision.reused += v.reused;
    r->n_left--;
    pthread_cond_signal(&r->ready);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* The outcome of case i once it is there. NULL: not within a fifth of a second, or no worker is left (*over). */
static outcome *wait_for(run *r, int64_t i, bool *over, int64_t *answered)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 200 * 1000 * 1000;
    if (until.tv_nsec >= 1000 * 1000 * 1000) {
        until.tv_sec++;
        until.tv_nsec -= 1000 * 1000 * 1000;
    }
    pthread_mutex_lock(&r->lock);
    while (!r->slot[i] && r->n_left > 0)
        if (pthread_cond_timedwait(&r->ready, &r->lock, &until) != 0) break;
    outcome *o = r->slot[i];
    r->slot[i] = NULL;
    *over = !o && r->n_left == 0;
    *answered = r->n_answered;
    pthread_mutex_unlock(&r->lock);
    return o;
}

static bool take(const run_plan *p, report *to, int64_t i, const outcome *o, err *e)
{
    if (p->predictions >= 0 && !prediction_write(p->predictions, o->line, e)) return false;
    return o->failed ? report_add_failed(to, i, &o->why, e) : report_add(to, &o->r, o->names, o->n_names, o->prob, e);
}

/* Empty the slots in order until all are taken or nothing more will come, and then what was answered out of order. */
static void collect(run *r, report *to, int64_t *done)
{
    const run_plan *p = r->p;
    bool            over = false;
    err             e = {0};
    for (int64_t i = 0; i < p->n_cases && !e.code;) {
        int64_t  answered;
        outcome *o = wait_for(r, i, &over, &answered);
        if (o && take(p, to, i, o, &e)) (*done)++;
        if ((o || over) && !e.code) i++;
        outcome_free(o);
        if (over && r->broken.code) break;
        if (!over && p->progress && !p->progress(p->progress_ctx, answered, p->n_cases)) atomic_store(&r->stop, true);
    }
    if (e.code) run_break(r, &e);
}

static bool start(run *r, err *e)
{
    pthread_condattr_t monotonic;
    if (!put_in_order(r, e)) return false;
    r->slot = mem_zalloc((size_t)r->p->n_cases + 1, sizeof *r->slot);
    if (!r->slot) return err_set(e, ERR_MEMORY, "eval: out of memory");
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->reading, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->ready, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return true;
}

bool run_cases(const run_plan *p, report *to, int64_t *done, err *e)
{
    run     r = {.p = p};
    worker *w = mem_zalloc((size_t)p->workers, sizeof *w);
    int     n = 0;
    *done = 0;
    if (!w || !start(&r, e)) {
        free(r.order);
        free(w);
        return err_set(e, ERR_MEMORY, "eval: out of memory");
    }
    r.n_left = p->workers;
    for (; n < p->workers; n++) {
        w[n] = (worker){.run = &r, .kern = p->kern[n]};
        if (pthread_create(&w[n].thread, NULL, worker_main, &w[n]) != 0) break;
    }
    if (n < p->workers) {
        err why = {0};
        err_set(&why, ERR_MEMORY, "eval: worker %d of %d could not be started", n + 1, p->workers);
        run_break(&r, &why);
        pthread_mutex_lock(&r.lock);
        r.n_left -= p->workers - n;
        pthread_mutex_unlock(&r.lock);
    }
    collect(&r, to, done);
    atomic_store(&r.stop, true);
    for (int i = 0; i < n; i++) pthread_join(w[i].thread, NULL);
    for (int64_t i = 0; i < p->n_cases; i++) outcome_free(r.slot[i]);
    free(r.slot);
    free(r.order);
    free(w);
    report_set_vision(to, r.vision);
    pthread_mutex_destroy(&r.lock);
    pthread_mutex_destroy(&r.reading);
    pthread_cond_destroy(&r.ready);
    if (r.broken.code) return err_set(e, r.broken.code, "%s", r.broken.text);
    return true;
}
