/* metrics.h - counters and histograms, and their Prometheus text (format 0.0.4). Labels come from fixed sets (route
 * templates, known statuses, stage names), so no request can make a new series or leave its content here.
 * Threads  any; counting takes no lock. */
#ifndef JOMED_SERVER_METRICS_H
#define JOMED_SERVER_METRICS_H

#include "base/text.h"
#include "server/routes.h"

typedef enum { METHOD_GET, METHOD_HEAD, METHOD_POST, METHOD_OTHER, N_METHODS } method_id;
typedef enum { SHED_QUEUE, SHED_DRAIN, SHED_MEMORY, SHED_DEADLINE, SHED_GONE, N_SHED } shed_reason;

typedef struct metrics metrics;
metrics *metrics_new(void); /* NULL: out of memory */
void     metrics_free(metrics *m);

void metrics_request(metrics *m, route_id r, method_id method, int status, double seconds);
void metrics_stage(metrics *m, stage s, double seconds);
void metrics_queue_wait(metrics *m, double seconds);
void metrics_shed(metrics *m, shed_reason why);
void metrics_token(metrics *m); /* a token event for a stream */
void metrics_stream(metrics *m, int more); /* 1: one was opened, -1: closed */

/* What is read at the moment of asking. */
typedef struct {
    int                queue_depth, in_flight, ready;
    size_t             body_bytes;
    const engine      *en;
    reader_cache_stats cache;
} gauges;
void metrics_text(const metrics *m, const gauges *g, text *out);

#endif
