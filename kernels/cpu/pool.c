/* pool.c - see pool.h. A run is published by its generation number; helpers take task numbers from one counter.
 *
 *   pool_run                                       helper
 *   fn, ctx, n, next = 0, working = helpers        wait until generation changes (spin, then sleep)
 *   generation += 1 (release), wake sleepers       take tasks until none is left
 *   take tasks, wait until working == 0            working -= 1 (release)                              */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "base/memory.h"

enum { SPINS = 4000 /* about 40 us of pauses */, SPINS_BEFORE_YIELD = 20000 };

typedef struct { pool *p; int worker; pthread_t thread; } helper;

struct pool {
    int             threads, started;
    pool_task       fn;
    void           *ctx;
    int             n;
    _Alignas(64) atomic_int next;
    _Alignas(64) atomic_int working;
    _Alignas(64) atomic_uint generation;
    atomic_int      sleepers;
    atomic_bool     stop;
    pthread_mutex_t lock;
    pthread_cond_t  wake;
    helper          helpers[];
};

static inline void pause_cpu(void) { __builtin_ia32_pause(); }

static void take_tasks(pool *p, int worker)
{
    int n = p->n;
    for (int i; (i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < n;) p->fn(p->ctx, i, worker);
}

/* Until generation is no longer seen, and return it. */
static unsigned wait_generation(pool *p, unsigned seen)
{
    unsigned g;
    for (int i = 0; i < SPINS; i++) {
        if ((g = atomic_load_explicit(&p->generation, memory_order_acquire)) != seen) return g;
        pause_cpu();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while ((g = atomic_load(&p->generation)) == seen) pthread_cond_wait(&p->wake, &p->lock);
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
        take_tasks(p, h->worker);
        atomic_fetch_sub_explicit(&p->working, 1, memory_order_release);
    }
}

static void publish(pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->lock); /* a helper between its check and its wait holds the lock: not missed */
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void pool_run(pool *p, pool_task fn, void *ctx, int n)
{
    if (p->threads == 1 || n <= 1) {
        for (int i = 0; i < n; i++) fn(ctx, i, 0);
        return;
    }
    p->fn  = fn;
    p->ctx = ctx;
    p->n   = n;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->working, p->started, memory_order_relaxed);
    publish(p);
    take_tasks(p, 0);
    for (int i = 0; atomic_load_explicit(&p->working, memory_order_acquire) > 0; i++) {
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
    publish(p);
    for (int i = 0; i < p->started; i++) pthread_join(p->helpers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int pool_threads(const pool *p) { return p->threads; }
