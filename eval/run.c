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
typedef enum { CASE_SCORED, CASE_FAILED, CASE_OPEN } outcome_kind;
typedef struct {
    outcome_kind kind;
    char        *line; /* of the predictions file */
    err          why;
    case_result  r;
    const char **answers; /* one block with its strings */
    int          n_answers;
} outcome;

typedef struct {
    const run_plan *p;
    pthread_mutex_t lock;
    pthread_cond_t  ready;
    outcome       **slot;   /* [n_cases], NULL until answered; under lock */
    err             broken; /* what ends the run; under lock */
    int             n_left; /* workers that still run; under lock */
    atomic_bool     stop;

    pthread_mutex_t reading; /* of the data set, which is read case after case */
    int64_t         next;    /* under reading */
} run;

typedef struct { run *run; kernels *kern; pthread_t thread; } worker;

static void outcome_free(outcome *o)
{
    if (!o) return;
    free(o->line);
    free(o->answers);
    free(o);
}

/* The closed set in one block: the case's own lies in an arena that is reset before its turn comes. */
static bool keep_answers(outcome *o, const eval_case *c, err *e)
{
    size_t bytes = (size_t)c->n_answers * sizeof *o->answers;
    for (int i = 0; i < c->n_answers; i++) bytes += strlen(c->answers[i]) + 1;
    if (!(o->answers = mem_alloc(bytes))) return err_set(e, ERR_MEMORY, "eval: out of memory");
    o->n_answers = c->n_answers;
    char *to = (char *)(o->answers + c->n_answers);
    for (int i = 0; i < c->n_answers; i++) {
        o->answers[i] = to;
        to = stpcpy(to, c->answers[i]) + 1;
    }
    return true;
}

/* One case as the server would answer it. false: o->why says what is wrong with it. */
static bool answer_case(const worker *w, int64_t i, outcome *o, eval_case *c, arena *a)
{
    const run_plan *p = w->run->p;
    answer          ans;
    if (!c->answers) {
        o->kind = CASE_OPEN;
        return prediction_open(&o->line, i, c->gold_text, &o->why);
    }
    diagnose_request q = {.image = c->image, .image_bytes = c->image_bytes, .question = c->question, .answers = c->answers,
                          .n_answers = c->n_answers, .k = p->k, .mode = p->mode, .exclude_self = p->exclude_self,
                          .exclude = {.study = c->study, .patient = c->patient}};
    return diagnose(p->en, w->kern, &q, a, &ans, &o->why)
        && case_result_of(&o->r, c, &ans, p->mode, p->en->tau, a, &o->why)
        && keep_answers(o, c, &o->why) && prediction_of(&o->line, i, c, &ans, &o->why);
}

/* The next case of the set. Claimed and read in one go, so that the file is read forwards. false: none is left. */
static bool next_case(run *r, int64_t *i, eval_case *c, arena *a, bool *read, err *why)
{
    pthread_mutex_lock(&r->reading);
    *i = r->next;
    bool some = *i < r->p->n_cases;
    if (some) {
        r->next++;
        *read = dataset_case(r->p->set, *i, c, a, why);
    }
    pthread_mutex_unlock(&r->reading);
    return some;
}

/* Answer a case. NULL: there is none left; or, with e, no memory even for saying what failed, or the device is lost. */
static outcome *next_outcome(const worker *w, int64_t *i, arena *a, err *e)
{
    eval_case c = {0};
    bool      read = false;
    outcome  *o = mem_zalloc(1, sizeof *o);
    if (!o) return err_set(e, ERR_MEMORY, "eval: out of memory"), NULL;
    if (!next_case(w->run, i, &c, a, &read, &o->why)) return outcome_free(o), NULL;
    if (read && answer_case(w, *i, o, &c, a)) return o;
    o->kind = CASE_FAILED;
    free(o->line);
    o->line = NULL;
    if (o->why.code == ERR_GPU) err_set(e, ERR_GPU, "%s", o->why.text);
    else if (prediction_failed(&o->line, *i, c.gold_text, &o->why, e)) return o;
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
    if (!a) err_set(&e, ERR_MEMORY, "eval: out of memory");
    while (!e.code && !atomic_load(&r->stop)) {
        int64_t  i;
        outcome *o = next_outcome(w, &i, a, &e);
        if (!o) break;
        pthread_mutex_lock(&r->lock);
        r->slot[i] = o;
        pthread_cond_signal(&r->ready);
        pthread_mutex_unlock(&r->lock);
        arena_reset(a);
    }
    arena_free(a);
    if (e.code) run_break(r, &e);
    pthread_mutex_lock(&r->lock);
    r->n_left--;
    pthread_cond_signal(&r->ready);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* The outcome of case i once it is there. NULL: not within a fifth of a second, or never (*over). */
static outcome *wait_for(run *r, int64_t i, bool *over)
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
    pthread_mutex_unlock(&r->lock);
    return o;
}

static bool take(const run_plan *p, report *to, int64_t i, const outcome *o, err *e)
{
    if (p->predictions >= 0 && !prediction_write(p->predictions, o->line, e)) return false;
    switch (o->kind) {
    case CASE_SCORED: return report_add(to, &o->r, o->answers, o->n_answers, e);
    case CASE_FAILED: return report_add_failed(to, i, &o->why, e);
    case CASE_OPEN: report_add_open(to); break;
    }
    return true;
}

/* Empty the slots in order until all are taken, or nothing more will come. */
static void collect(run *r, report *to, int64_t *done)
{
    const run_plan *p = r->p;
    bool            over = false;
    err             e = {0};
    while (*done < p->n_cases && !over && !e.code) {
        outcome *o = wait_for(r, *done, &over);
        if (o && take(p, to, *done, o, &e)) (*done)++;
        outcome_free(o);
        if (p->progress && !p->progress(p->progress_ctx, *done, p->n_cases)) atomic_store(&r->stop, true);
    }
    if (e.code) run_break(r, &e);
}

static bool start(run *r, err *e)
{
    pthread_condattr_t monotonic;
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
    free(w);
    pthread_mutex_destroy(&r.lock);
    pthread_mutex_destroy(&r.reading);
    pthread_cond_destroy(&r.ready);
    if (r.broken.code) return err_set(e, r.broken.code, "%s", r.broken.text);
    return true;
}
