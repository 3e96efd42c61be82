/* pool.h - worker threads of one kernels: a parallel for over numbered tasks.
 * The caller is worker 0 and works too. Helpers spin for a few tens of microseconds after a task, because the next
 * operation of a forward pass comes at once, then sleep. One thread: no synchronisation at all.
 * Which worker does which task varies; results must not depend on it. */
#ifndef JOMED_KERNELS_CPU_POOL_H
#define JOMED_KERNELS_CPU_POOL_H

#include "base/err.h"

typedef struct pool pool;
typedef void (*pool_task)(void *ctx, int task, int worker);

bool pool_open(pool **out, int threads, err *e); /* ERR_MEMORY */
void pool_close(pool *p);                        /* NULL is fine */
int  pool_threads(const pool *p);
/* fn(ctx, 0 .. n - 1, worker); returns when all are done. */
void pool_run(pool *p, pool_task fn, void *ctx, int n);

#endif
