#include "server/metrics.h"

#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

static const int STATUSES[] = {200, 400, 404, 405, 406, 408, 411, 413, 415,
                               417, 422, 431, 499, 500, 503, 504, 0 /* any other */};
static const double BOUNDS[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
enum { N_STATUSES = sizeof STATUSES / sizeof *STATUSES, N_BOUNDS = sizeof BOUNDS / sizeof *BOUNDS };

static const char *const METHOD_NAME[N_METHODS] = {"GET", "HEAD", "POST", "other"};
static const char *const SHED_NAME[N_SHED] = {"queue_full", "draining", "memory", "deadline", "client_gone"};

typedef struct { atomic_ulong bucket[N_BOUNDS + 1], sum_us; } histogram;

struct metrics {
    atomic_ulong requests[N_ROUTES + 1][N_METHODS][N_STATUSES], shed[N_SHED], tokens, streams;
    atomic_int   open_streams;
    histogram    duration[N_ROUTES + 1], stage[N_STAGES], queue_wait;
    int64_t      started;
};

metrics *metrics_new(void)
{
    metrics *m = mem_zalloc(1, sizeof *m);
    if (m) m->started = clock_unix();
    return m;
}

void metrics_free(metrics *m) { free(m); }

static void count(atomic_ulong *c, unsigned long n) { atomic_fetch_add_explicit(c, n, memory_order_relaxed); }
static unsigned long value(const atomic_ulong *c)
{
    return atomic_load_explicit((atomic_ulong *)c, memory_order_relaxed);
}

static void observe(histogram *h, double seconds)
{
    int b = 0;
    while (b < N_BOUNDS && seconds > BOUNDS[b]) b++;
    count(&h->bucket[b], 1);
    count(&h->sum_us, seconds > 0 ? (unsigned long)(seconds * 1e6) : 0);
}

void metrics_request(metrics *m, route_id r, method_id method, int status, double seconds)
{
    int s = 0;
    while (s < N_STATUSES - 1 && STATUSES[s] != status) s++;
    count(&m->requests[r][method][s], 1);
    observe(&m->duration[r], seconds);
}

void metrics_stage(metrics *m, stage s, double seconds) { observe(&m->stage[s], seconds); }
void metrics_queue_wait(metrics *m, double seconds) { observe(&m->queue_wait, seconds); }
void metrics_shed(metrics *m, shed_reason why) { count(&m->shed[why], 1); }
void metrics_token(metrics *m) { count(&m->tokens, 1); }

void metrics_stream(metrics *m, int more)
{
    atomic_fetch_add(&m->open_streams, more);
    if (more > 0) count(&m->streams, 1);
}

static void header(text *out, const char *name, const char *type, const char *help)
{
    text_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* label: `route="/livez"`, or "" for none. */
static void put_histogram(text *out, const char *name, const char *label, const histogram *h)
{
    const char   *comma = *label ? "," : "";
    unsigned long n = 0;
    for (int b = 0; b < N_BOUNDS; b++) {
        n += value(&h->bucket[b]);
        text_printf(out, "%s_bucket{%s%sle=\"%g\"} %lu\n", name, label, comma, BOUNDS[b], n);
    }
    n += value(&h->bucket[N_BOUNDS]);
    text_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %lu\n", name, label, comma, n);
    const char *open = *label ? "{" : "", *shut = *label ? "}" : "";
    text_printf(out, "%s_sum%s%s%s %.6f\n%s_count%s%s%s %lu\n", name, open, label, shut,
                (double)value(&h->sum_us) / 1e6, name, open, label, shut, n);
}

static void put_requests(const metrics *m, text *out)
{
    header(out, "jomed_http_requests_total", "counter", "Answered requests.");
    for (int r = 0; r <= N_ROUTES; r++)
        for (int k = 0; k < N_METHODS; k++)
            for (int s = 0; s < N_STATUSES; s++) {
                unsigned long n = value(&m->requests[r][k][s]);
                char          code[8] = "other";
                if (n == 0) continue;
                if (STATUSES[s]) snprintf(code, sizeof code, "%d", STATUSES[s]);
                text_printf(out, "jomed_http_requests_total{route=\"%s\",method=\"%s\",code=\"%s\"} %lu\n",
                            route_label((route_id)r), METHOD_NAME[k], code, n);
            }
}

static void gauge(text *out, const char *name, const char *help, double v)
{
    header(out, name, "gauge", help);
    text_printf(out, "%s %.17g\n", name, v);
}

static void counter(text *out, const char *name, const char *help, double v)
{
    header(out, name, "counter", help);
    text_printf(out, "%s %.17g\n", name, v);
}

static void put_identities(const gauges *g, text *out)
{
    const index_info *ix = index_describe(g->en->index);
    gauge(out, "jomed_index_vectors", "Passages in the index.", (double)ix->n_passages);
    header(out, "jomed_index_info", "gauge", "Identity of the index.");
    text_printf(out, "jomed_index_info{version=\"%d\",sha256=\"%s\"} 1\n", ix->format, ix->hash);
    header(out, "jomed_model_info", "gauge", "Identity of the models.");
    text_printf(out, "jomed_model_info{part=\"reader\",family=\"%s\",sha256=\"%s\"} 1\n",
                reader_family(g->en->reader), reader_hash(g->en->reader));
    text_printf(out, "jomed_model_info{part=\"retriever\",family=\"jina-clip-v1\",sha256=\"%s\"} 1\n",
                retriever_hash(g->en->retriever));
    header(out, "jomed_build_info", "gauge", "Identity of the program.");
    text_printf(out, "jomed_build_info{version=\"%s\",libmicrohttpd=\"%s\"} 1\n", JOMED_VERSION, MHD_get_version());
}

static void put_cache(const reader_cache_stats *c, text *out)
{
    counter(out, "jomed_prefix_cache_hits_total", "Candidate prefixes found in the cache.", (double)c->hits);
    counter(out, "jomed_prefix_cache_host_hits_total", "Those of them that came from host memory.",
            (double)c->host_hits);
    counter(out, "jomed_prefix_cache_misses_total", "Candidate prefixes computed.", (double)c->misses);
    counter(out, "jomed_prefix_cache_evictions_total", "Candidate prefixes that left the device for room.",
            (double)c->evictions);
    counter(out, "jomed_prefix_cache_host_evictions_total", "Those dropped from host memory for room.",
            (double)c->host_evictions);
    gauge(out, "jomed_prefix_cache_bytes", "Bytes of cached prefixes on the device.", (double)c->bytes);
    gauge(out, "jomed_prefix_cache_limit_bytes", "The most that these may be.", (double)c->limit_bytes);
    gauge(out, "jomed_prefix_cache_host_bytes", "Bytes of cached prefixes in pinned host memory.",
          (double)c->host_bytes);
    gauge(out, "jomed_prefix_cache_host_limit_bytes",
          "The most that these may be: less than was set where the machine gave no more.",
          (double)c->host_limit_bytes);
}

/* The few numbers of /proc/self that every Prometheus client exports; a missing /proc leaves them out. */
static void put_process(const metrics *m, text *out)
{
    struct timespec cpu;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0)
        counter(out, "process_cpu_seconds_total", "Processor time used.",
                (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
    FILE *f = fopen("/proc/self/statm", "re");
    long  pages, resident;
    if (f && fscanf(f, "%ld %ld", &pages, &resident) == 2) {
        gauge(out, "process_virtual_memory_bytes", "Address space.", (double)pages * (double)sysconf(_SC_PAGESIZE));
        gauge(out, "process_resident_memory_bytes", "Resident memory.",
              (double)resident * (double)sysconf(_SC_PAGESIZE));
    }
    if (f) fclose(f);
    gauge(out, "process_start_time_seconds", "Start, seconds since 1970.", (double)m->started);
}

void metrics_text(const metrics *m, const gauges *g, text *out)
{
    char label[80];
    put_requests(m, out);
    header(out, "jomed_http_request_duration_seconds", "histogram", "From the headers to the end of the answer.");
    for (int r = 0; r <= N_ROUTES; r++) {
        snprintf(label, sizeof label, "route=\"%s\"", route_label((route_id)r));
        put_histogram(out, "jomed_http_request_duration_seconds", label, &m->duration[r]);
    }
    header(out, "jomed_stage_duration_seconds", "histogram", "Stages of computed requests.");
    for (int s = 0; s < N_STAGES; s++) {
        snprintf(label, sizeof label, "stage=\"%s\"", STAGE_NAME[s]);
        put_histogram(out, "jomed_stage_duration_seconds", label, &m->stage[s]);
    }
    header(out, "jomed_queue_wait_seconds", "histogram", "Time in the queue.");
    put_histogram(out, "jomed_queue_wait_seconds", "", &m->queue_wait);
    header(out, "jomed_requests_shed_total", "counter", "Requests given up before they were computed.");
    for (int s = 0; s < N_SHED; s++)
        text_printf(out, "jomed_requests_shed_total{reason=\"%s\"} %lu\n", SHED_NAME[s], value(&m->shed[s]));
    counter(out, "jomed_streams_total", "Answers sent as event streams.", (double)value(&m->streams));
    counter(out, "jomed_stream_token_events_total", "Token events written for streams.", (double)value(&m->tokens));
    gauge(out, "jomed_streams_open", "Event streams under way.", atomic_load((atomic_int *)&m->open_streams));
    gauge(out, "jomed_queue_depth", "Requests waiting for a worker.", g->queue_depth);
    gauge(out, "jomed_inflight_requests", "Requests between their headers and the end of their answer.",
          g->in_flight);
    gauge(out, "jomed_request_body_bytes", "Request bodies held in memory.", (double)g->body_bytes);
    gauge(out, "jomed_ready", "1 when /readyz says 200.", g->ready);
    put_cache(&g->cache, out);
    put_identities(g, out);
    put_process(m, out);
}
