/* worker.h - the threads that compute, and the bounded queue before them.
 * A job is made by an HTTP thread, which suspends its connection and submits it. From then on it belongs to the
 * pool, until the pool calls done() with it, exactly once; after that it is the HTTP thread's again. */
#ifndef JOMED_SERVER_WORKER_H
#define JOMED_SERVER_WORKER_H

#include "diagnose/diagnose.h"
#include "server/metrics.h"
#include "server/respond.h"
#include "server/stream.h"

typedef struct {
    /* in */
    const diagnose_request *q;
    bool                    retrieve_only;
    const char             *request_id;
    int                     fd;     /* of the client: asked whether it is still there before work starts; -1:
                                       not asked */
    stream                 *stream; /* takes the answer's text as it is emitted; NULL: nobody waits for it */
    void                   *owner;  /* the HTTP side's */
    /* out */
    response out;
    err      why;                   /* of a failure, for the log */
    double   queued_at, queue_ms, stage_ms[N_STAGES];
    int      n_cached, n_events;
    uint64_t flops;
} job;

enum { STATUS_CLIENT_GONE = 499 }; /* of a job nobody waits for: logged, never sent */

typedef struct pool pool;
typedef struct {
    const engine   *en;
    kernels *const *kern;    /* one per worker; kept */
    int             workers, queue;
    int             batch;   /* jobs of those waiting that a worker reads in the same passes, at most
                                MAX_TOGETHER; 0: 1 */
    size_t          arena_bytes;
    metrics        *m;
    void (*done)(job *j);    /* called by a worker, or by the thread in workers_sweep() */
} workers_options;

/* Threads wait for workers_start(). */
bool workers_open(pool **out, const workers_options *o, err *e);
/* Score one real case on every worker's kernels, a drawn picture against the index: what readiness means. A worker
 * does so again when a request went without memory. */
bool workers_warm_up(pool *p, err *e);
bool workers_start(pool *p, err *e);
/* Finish what is queued and running, end the threads, free. NULL is fine. */
void workers_close(pool *p);

/* false: the queue is full; the job is still the caller's. */
bool workers_submit(pool *p, job *j);
/* Answer the waiting jobs whose deadline has passed or whose client is gone, and free their places. To be
 * called often. */
void workers_sweep(pool *p);

bool   workers_full(pool *p);
int    workers_waiting(pool *p);
int    workers_running(pool *p);
int    workers_retry_after_s(pool *p); /* what waits and runs, times the recent time of one, over the workers;
                                          at least 1 */
bool   workers_broken(pool *p);        /* the device failed: nothing more will be answered */
bool   workers_starved(pool *p);       /* a worker has no memory for a case: it looks again by itself, and after
                                          each request that it takes nevertheless */
size_t workers_arena_bytes(pool *p);   /* most that any worker's arena has held */

#endif
