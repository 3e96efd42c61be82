/* pool.c - see pool.h. A run is published as one word: its generation, and how many of its tasks nobody has
 * taken yet. Who takes a task lowers the word by compare-and-swap, so each is taken once, and only of the run
 * that the taker saw.
 *
 *   pool_run                                      helper
 *   fn, ctx, n, finished = 0                      wait until the word's generation changes (spin, then sleep)
 *   word = (generation + 1, n), wake sleepers     take tasks while the word has any
 *   take tasks, wait until all are finished       finished += 1 for each (release)
 *
 * A run ends when its tasks are done, not when every helper has come by. Where more threads run than there are
 * cores, a helper may be without one for milliseconds, which is a hundred operations of a small model: nobody
 * waits for it, the caller does its share. Only a helper that lost its core in the middle of a task holds a run
 * up. */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "base/memory.h"

enum { SPINS = 4000 /* about 40 us of pauses */, SPINS_BEFORE_YIELD = 2000 };

typedef struct { pool *p; int worker; pthread_t thread; } helper;

struct pool {
    int               threads, started;
    _Atomic(pool_task) fn;
    _Atomic(void *)   ctx;
    atomic_uint       n;
    _Alignas(64) atomic_ullong word; /* generation << 32 | tasks that nobody has taken */
    _Alignas(64) atomic_int finished; /* by helpers */
    _Alignas(64) atomic_int sleepers;
    atomic_bool       stop;
    pthread_mutex_t   lock;
    pthread_cond_t    wake;
    helper            helpers[];
};

static inline void pause_cpu(void) { __builtin_ia32_pause(); }

static unsigned generation_of(unsigned long long word) { return (unsigned)(word >> 32); }
static unsigned left_of(unsigned long long word) { return (unsigned)word; }

/* Do tasks of the run of this generation until none is left; returns how many. What fn, ctx and n hold belongs
 * to that run if the swap succeeds: they change only after its last task is finished, and this one is not. */
static int take_tasks(pool *p, unsigned generation, int worker, bool tell)
{
    int                done = 0;
    unsigned long long word = atomic_load_explicit(&p->word, memory_order_acquire);
    while (generation_of(word) == generation && left_of(word) > 0) {
        pool_task fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void     *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        unsigned  n = atomic_load_explicit(&p->n, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->word, &word, word - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        fn(ctx, (int)(n - left_of(word)), worker);
        done++;
        if (tell) atomic_fetch_add_explicit(&p->finished, 1, memory_order_release);
        word = atomic_load_explicit(&p->word, memory_order_acquire);
    }
    return done;
}

/* Until the generation is no longer seen, and return it. */
static unsigned wait_generation(pool *p, unsigned seen)
{
    unsigned g;
    for (int i = 0; i < SPINS; i++) {
        if ((g = generation_of(atomic_load_explicit(&p->word, memory_order_acquire))) != seen) return g;
        pause_cpu();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while ((g = generation_of(atomic_load(&p->word))) == seen) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
    return g;
}

static void *helper_main(void *arg)
{
    helper  *h    = arg;
    pool    *p    = h->p;
    unsigned seen = 0;
    for (;;) {
        seen = wait_generation(p, seen);
        if (atomic_load(&p->stop)) return NULL;
        take_tasks(p, seen, h->worker, true);
    }
}

/* Returns the new run's generation. */
static unsigned publish(pool *p, unsigned n)
{
    unsigned next = generation_of(atomic_load_explicit(&p->word, memory_order_relaxed)) + 1;
    atomic_store(&p->word, (unsigned long long)next << 32 | n);
    if (atomic_load(&p->sleepers) == 0) return next;
    pthread_mutex_lock(&p->lock); /* a helper between its check and its wait holds the lock: not missed */
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    return next;
}

void pool_run(pool *p, pool_task fn, void *ctx, int n)
{
    if (p->threads == 1 || n <= 1) {
        for (int i = 0; i < n; i++) fn(ctx, i, 0);
        return;
    }
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n, (unsigned)n, memory_order_relaxed);
    atomic_store_explicit(&p->finished, 0, memory_order_relaxed);
    unsigned generation = publish(p, (unsigned)n);
    int      others = n - take_tasks(p, generation, 0, false);
    for (int i = 0; atomic_load_explicit(&p->finished, memory_order_acquire) < others; i++) {
        if (i < SPINS_BEFORE_YIELD) pause_cpu();
        else sched_yield(); /* a helper has lost its core to someone else */
    }
}

bool pool_open(pool **out, int threads, err *e)
{
    pool *p = mem_aligned(64, sizeof *p + (size_t)threads * sizeof(helper));
    if (!p) return err_set(e, ERR_MEMORY, "kernels: out of memory");
    *p = (pool){.threads = threads};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 0; i < threads - 1; i++) {
        p->helpers[i] = (helper){.p = p, .worker = i + 1};
        if (pthread_create(&p->helpers[i].thread, NULL, helper_main, &p->helpers[i]) != 0) {
            pool_close(p);
            return err_set(e, ERR_MEMORY, "kernels: cannot start thread %d of %d", i + 2, threads);
        }
        p->started++;
    }
    *out = p;
    return true;
}

void pool_close(pool *p)
{
    if (!p) return;
    atomic_store(&p->stop, true);
    publish(p, 0);
    for (int i = 0; i < p->started; i++) pthread_join(p->helpers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int pool_threads(const pool *p) { return p->threads; }
