/* http.c - libmicrohttpd's callbacks: the walk of one request.
 *
 *   first call     headers_read, refuse_head: everything that can be refused is refused here, before the body
 *                  is read and before "100 Continue" goes out, so that a client that waits for it never uploads
 *   with data      request_feed
 *   without data   GET: answer. POST: request_finish, then suspend the connection and submit the job
 *   after resume   the job's answer; or the first events of a stream, then take_events as more come
 *   completed      log, count, free: by then nobody else holds the exchange, but for a stream whose worker
 *                  still runs. Then the worker does it, when it has stopped
 *
 * TRAP: the library takes no answer while a body is still coming. A body that grows past its limit, or whose
 * picture says that it is too large, is therefore refused with bytes of our own (response_raw) and the connection
 * is dropped.
 * TRAP: suspend before submitting. A worker may resume at once, and resuming what is not suspended is undefined. */
#include "server/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "server/headers.h"

struct http {
    server              *s;
    struct MHD_Daemon   *daemon;
    struct MHD_Response *no_memory; /* made at start: the answer when there is no memory to make one */
    int                  listen_fd; /* ours to close; -1: the library's */
};

/* One request and its answer. */
typedef struct {
    server                *s;
    struct MHD_Connection *connection;
    watched               *watched;
    int                    fd;
    route_id               route;
    method_id              method;
    int64_t                id; /* of a passage */
    bool                   verbose, answered, submitted, streaming;
    bool                   takes_json, wants_events; /* by its Accept header */
    atomic_int             holders; /* the connection, and the worker of a stream */
    char                   request_id[REQUEST_ID_BYTES], trace[33];
    request               *body; /* NULL: none is taken */
    err                    failed; /* of the body's fields: kept until all of it has come */
    err                    why;
    job                    job;
    response               out;
    double                 began;
    int                    status; /* of the whole, once completed: for log and metrics */
} exchange;

static const char ACCEPT_POST[] = "application/json, multipart/form-data";

/* ---- answering ---- */

static void add_header(struct MHD_Response *r, const char *name, const char *value)
{
    /* fails only without memory; an answer without a header is better than none, but for those that frame it,
     * which the library makes itself */
    if (value) (void)MHD_add_response_header(r, name, value);
}

static void add_common_headers(exchange *x, struct MHD_Response *r, const response *out)
{
    add_header(r, "Content-Type", out->media);
    add_header(r, "Cache-Control", "no-store");
    add_header(r, "X-Content-Type-Options", "nosniff");
    add_header(r, "X-Request-Id", x->request_id);
    if (out->close || atomic_load(&x->s->draining)) add_header(r, "Connection", "close");
}

static struct MHD_Response *make_response(exchange *x, response *out)
{
    struct MHD_Response *r = out->body
                                 ? MHD_create_response_from_buffer(out->bytes, out->body, MHD_RESPMEM_MUST_FREE)
                                 : MHD_create_response_from_buffer(out->bytes, out->small, MHD_RESPMEM_MUST_COPY);
    if (!r) return NULL;
    out->body = NULL; /* the library's now */
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", out->retry_after_s);
    add_common_headers(x, r, out);
    add_header(r, "Allow", out->allow);
    add_header(r, "Accept-Post", out->accept_post);
    add_header(r, "Accept-Encoding", out->accept_encoding);
    add_header(r, "Retry-After", out->retry_after_s > 0 ? seconds : NULL);
    return r;
}

/* Hand r, with the status of x->out, to the library; NULL: there was no memory for it. MHD_NO drops the
 * connection. */
static enum MHD_Result queue_response(exchange *x, struct MHD_Response *r)
{
    x->answered = true;
    if (!r) {
        x->out.status = 503;
        return MHD_queue_response(x->connection, 503, x->s->http->no_memory);
    }
    enum MHD_Result sent = MHD_queue_response(x->connection, (unsigned)x->out.status, r);
    MHD_destroy_response(r);
    return sent;
}

static enum MHD_Result answer_now(exchange *x)
{
    if (!watch_move(x->watched, clock_ms() + (double)x->s->cfg->write_timeout_ms, false)) return MHD_NO;
    return queue_response(x, make_response(x, &x->out));
}

static void set_problem(exchange *x, const char *slug, const char *detail)
{
    respond_problem(&x->out, slug, detail, x->request_id);
    if (x->out.status == 503) x->out.retry_after_s = workers_retry_after_s(x->s->pool);
}

static void set_error(exchange *x, const err *e)
{
    x->why = *e;
    respond_err(&x->out, e, x->body ? request_unknown_field(x->body) : NULL, x->request_id);
    if (x->out.status == 503) x->out.retry_after_s = workers_retry_after_s(x->s->pool);
    if (e->code == ERR_BUSY || e->code == ERR_MEMORY) metrics_shed(x->s->m, SHED_MEMORY);
}

/* ---- first call ---- */

static void name_request(exchange *x, const headers *h)
{
    unsigned char r[8] = {0};
    if (h->request_id && request_id_is_sane(h->request_id)) {
        snprintf(x->request_id, sizeof x->request_id, "%s", h->request_id);
    } else {
        /* before the kernel is seeded */
        if (getrandom(r, sizeof r, GRND_NONBLOCK) < 0) memcpy(r, &x->began, sizeof r);
        hex_encode(x->request_id, r, sizeof r);
    }
    if (h->traceparent && !trace_id(x->trace, h->traceparent)) x->trace[0] = 0;
}

static method_id method_of(const char *m)
{
    return strcmp(m, "GET") == 0    ? METHOD_GET
           : strcmp(m, "HEAD") == 0 ? METHOD_HEAD
           : strcmp(m, "POST") == 0 ? METHOD_POST
                                    : METHOD_OTHER;
}

static enum MHD_Result see_argument(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
    exchange *x = cls;
    (void)kind, (void)value;
    if (strcmp(key, "verbose") == 0) x->verbose = true;
    return MHD_YES;
}

/* Why a POST is refused before its body; NULL: it is not. */
static const char *refuse_post(exchange *x, const headers *h, const char **detail)
{
    server *s = x->s;
    if (h->content_encoding && strcasecmp(h->content_encoding, "identity") != 0) {
        x->out.accept_encoding = "identity";
        return "encoding-unsupported";
    }
    if (request_body_type(h->content_type) == BODY_OTHER) {
        x->out.accept_post = ACCEPT_POST;
        return "media-type-unsupported";
    }
    if (h->content_length < 0 && !h->chunked) return "length-required";
    if (h->content_length > s->cfg->body_bytes) {
        *detail = "Content-Length is larger than the limit that /v1/models names";
        return "body-too-large";
    }
    if (MHD_get_connection_values(x->connection, MHD_GET_ARGUMENT_KIND, NULL, NULL) > 0) {
        *detail = "fields belong into the body: the query string is not read";
        return "field-unknown";
    }
    if (atomic_load(&s->refusing)) {
        metrics_shed(s->m, SHED_DRAIN);
        return "draining";
    }
    if (workers_full(s->pool)) {
        metrics_shed(s->m, SHED_QUEUE);
        return "busy";
    }
    return workers_broken(s->pool) ? "device-failed" : NULL;
}

static const char *refuse_head(exchange *x, const headers *h, const char *version, const char **detail)
{
    const route *r = x->route < N_ROUTES ? &ROUTES[x->route] : NULL;
    bool         get = x->method == METHOD_GET || x->method == METHOD_HEAD;
    if ((*detail = headers_conflict(h, version)) != NULL) return "header-conflict";
    if (h->n > x->s->cfg->headers) return "headers-too-many";
    if (!r) return "not-found";
    if (r->post ? x->method != METHOD_POST : !get) {
        x->out.allow = r->post ? "POST" : "GET, HEAD";
        return "method-not-allowed";
    }
    if (h->expect && strcasecmp(h->expect, "100-continue") != 0) return "expectation-failed";
    if (!accept_admits(h->accept, r->media)) return "not-acceptable";
    if (get && (h->content_length > 0 || h->chunked)) return "body-unexpected";
    return r->post ? refuse_post(x, h, detail) : NULL;
}

static exchange *exchange_new(server *s, struct MHD_Connection *c, watched *w)
{
    exchange *x = mem_zalloc(1, sizeof *x);
    if (!x) return NULL;
    x->s = s;
    x->connection = c;
    x->watched = w;
    x->fd = w->fd;
    x->began = clock_ms();
    atomic_init(&x->holders, 1);
    atomic_fetch_add(&s->in_flight, 1);
    return x;
}

static enum MHD_Result begin(server *s, struct MHD_Connection *c, const char *path, const char *method,
                             const char *version, void **state)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    watched                        *w = info ? info->socket_context : NULL;
    exchange                       *x = w ? exchange_new(s, c, w) : NULL;
    if (!x) return MHD_queue_response(c, 503, s->http->no_memory);
    *state = x;

    headers     h;
    const char *detail = NULL;
    headers_read(&h, c);
    name_request(x, &h);
    x->method = method_of(method);
    x->route = route_find(path, &x->id);
    x->takes_json = accept_admits(h.accept, "application/json");
    x->wants_events = accept_prefers(h.accept, "text/event-stream", "application/json");
    bool has_body = h.content_length > 0 || h.chunked;
    if (has_body) snprintf(w->request_id, sizeof w->request_id, "%s", x->request_id);
    if (!watch_move(w, has_body ? clock_ms() + (double)s->cfg->read_timeout_ms : 0, has_body)) return MHD_NO;

    const char *slug = refuse_head(x, &h, version, &detail);
    if (slug) set_problem(x, slug, detail);
    else if (ROUTES[x->route].post
             && !request_new(&x->body, ROUTES[x->route].fields, *ROUTES[x->route].n_fields, h.content_type,
                             &s->limits, &x->failed))
        set_error(x, &x->failed);
    else if (!ROUTES[x->route].post) MHD_get_connection_values(c, MHD_GET_ARGUMENT_KIND, see_argument, x);

    /* Without a body the answer can wait for the second call, which keeps the connection; a body is not to be
     * read. */
    bool framing = slug && strcmp(slug, "header-conflict") == 0;
    if (x->out.status && (has_body || framing)) {
        x->out.close = true;
        watch_linger(s->watch, x->fd);
        return answer_now(x);
    }
    return MHD_YES;
}

/* ---- the body ---- */

/* Refuse in the middle of a body: no use to read on. */
static enum MHD_Result refuse_body(exchange *x, const err *e)
{
    char raw[2048];
    if (!watch_move(x->watched, clock_ms() + (double)x->s->cfg->write_timeout_ms, false)) return MHD_NO;
    set_error(x, e);
    x->answered = true;
    size_t n = response_raw(&x->out, x->request_id, raw, sizeof raw);
    if (send(x->fd, raw, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n) watch_linger(x->s->watch, x->fd);
    return MHD_NO;
}

static enum MHD_Result take_body(exchange *x, const char *data, size_t *n)
{
    err e = {0};
    if (!x->body) { /* a body that refuse_head() did not foresee: answered at its end */
        *n = 0;
        return MHD_YES;
    }
    bool ok = request_feed(x->body, data, *n, &e);
    *n = 0;
    if (ok) return MHD_YES;
    if (e.code == ERR_TOO_LARGE || e.code == ERR_BUSY || e.code == ERR_MEMORY) return refuse_body(x, &e);
    x->failed = e; /* about a field: the answer follows at the end of the body, and the connection lives on */
    return MHD_YES;
}

/* ---- streams ---- */

static void sleep_reader(void *owner) { MHD_suspend_connection(((exchange *)owner)->connection); }
static void wake_reader(void *owner) { MHD_resume_connection(((exchange *)owner)->connection); }

static ssize_t take_events(void *cls, uint64_t pos, char *to, size_t max)
{
    exchange *x = cls;
    (void)pos;
    ssize_t n = stream_take(x->job.stream, to, max);
    return n == STREAM_ENDED     ? MHD_CONTENT_READER_END_OF_STREAM
           : n == STREAM_DROPPED ? MHD_CONTENT_READER_END_WITH_ERROR
                                 : n;
}

/* There is an event: send the head, and let the library ask for events as the client takes them. The client has
 * the time of the work, which ends by its deadline, and that of any answer. */
static enum MHD_Result begin_stream(exchange *x)
{
    enum { BLOCK_BYTES = 4096 };
    if (!watch_move(x->watched, x->job.q->deadline_at + (double)x->s->cfg->write_timeout_ms, false)) return MHD_NO;
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, take_events, x, NULL);
    x->out = (response){.status = 200, .media = "text/event-stream"};
    x->streaming = r != NULL;
    if (r) {
        add_common_headers(x, r, &x->out);
        add_header(r, "X-Accel-Buffering", "no"); /* nginx holds an answer back until it has a buffer full of it */
        metrics_stream(x->s->m, 1);
    }
    return queue_response(x, r);
}

/* ---- the end of the request ---- */

/* What has come is a sound request; how is its answer to be sent? */
static bool choose_form(exchange *x, err *e)
{
    bool open = diagnose_task(request_query(x->body)) == TASK_OPEN;
    if (x->route == ROUTE_DIAGNOSES && open && request_streams(x->body, x->wants_events)) {
        stream_reader r = {sleep_reader, wake_reader, x, x->fd};
        return stream_new(&x->job.stream, &r, e);
    }
    return x->takes_json
           || err_at(e, ERR_INPUT, "not-acceptable", NULL,
                     "only the answer to an open question can be sent as text/event-stream");
}

static enum MHD_Result submit(exchange *x)
{
    err e = x->failed;
    if (e.code || !request_finish(x->body, x->route == ROUTE_DIAGNOSES, clock_ms(), &e) || !choose_form(x, &e)) {
        set_error(x, &e);
        return answer_now(x);
    }
    stream *events = x->job.stream;
    x->job = (job){.q = request_query(x->body),
                   .retrieve_only = x->route == ROUTE_RETRIEVALS,
                   .request_id = x->request_id,
                   .fd = x->fd,
                   .stream = events,
                   .owner = x};
    if (!watch_move(x->watched, 0, false)) return MHD_NO; /* from here on the deadline rules */
    x->submitted = true;
    if (events) atomic_store(&x->holders, 2);
    MHD_suspend_connection(x->connection);
    if (workers_submit(x->s->pool, &x->job)) return MHD_YES; /* x is the pool's: do not touch it */
    metrics_shed(x->s->m, SHED_QUEUE);
    respond_problem(&x->job.out, "busy", NULL, x->request_id);
    http_resume(&x->job);
    return MHD_YES;
}

static void release(exchange *x);

void http_resume(job *j)
{
    exchange *x = j->owner;
    if (!j->stream) {
        MHD_resume_connection(x->connection);
        return;
    }
    stream_close(j->stream, &j->out);
    release(x);
}

static enum MHD_Result finish(exchange *x)
{
    if (x->job.stream && stream_begun(x->job.stream)) return begin_stream(x);
    if (x->submitted) {
        x->out = x->job.out;
        x->job.out.body = NULL;
        x->why = x->job.why;
        if (x->out.status == STATUS_CLIENT_GONE) return MHD_NO;
        if (x->out.status == 503) x->out.retry_after_s = workers_retry_after_s(x->s->pool);
        return answer_now(x);
    }
    if (x->out.status) return answer_now(x);
    if (x->body) return submit(x);
    resource_get(x->s, x->route, x->id, x->verbose, x->request_id, &x->out, &x->why);
    return answer_now(x);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path, const char *method,
                                  const char *version, const char *data, size_t *n, void **state)
{
    exchange *x = *state;
    if (!x) return begin(cls, c, path, method, version, state);
    if (x->answered) return MHD_NO; /* the library does not come back after an answer; if it did, this would end it */
    return *n > 0 ? take_body(x, data, n) : finish(x);
}

/* ---- completed ---- */

static int log_job(const job *j, log_field *f, int n)
{
    static const char *const key[N_STAGES] = {"decode_ms", "retrieve_ms", "passages_ms", "read_ms", "fuse_ms"};
    static const char *const task[] = {[TASK_CLOSED] = "closed", [TASK_OPEN] = "open", [TASK_LABELS] = "labels"};
    if (!j->retrieve_only) f[n++] = LOG_S("task", task[diagnose_task(j->q)]);
    f[n++] = LOG_I("k", j->q->k);
    f[n++] = LOG_I("answers", j->q->n_answers);
    if (j->q->n_labels) f[n++] = LOG_I("labels", j->q->n_labels);
    if (j->stream) f[n++] = LOG_I("events", j->n_events);
    f[n++] = LOG_I("cached", j->n_cached);
    f[n++] = LOG_D("queue_ms", j->queue_ms);
    for (int s = 0; s < N_STAGES; s++) f[n++] = LOG_D(key[s], j->stage_ms[s]);
    f[n++] = LOG_I("flops", j->flops);
    return n;
}

static void log_exchange(const exchange *x, double total_ms)
{
    static const char *const method[N_METHODS] = {"GET", "HEAD", "POST", "other"};
    /* what ended a stream came after its head had said 200 */
    const char *problem = x->streaming ? x->job.out.problem : x->out.problem;
    const err  *why = x->streaming ? &x->job.why : &x->why;
    log_field   f[28];
    int         n = 0;
    f[n++] = LOG_S("request", x->request_id);
    if (x->trace[0]) f[n++] = LOG_S("trace", x->trace);
    f[n++] = LOG_S("route", route_label(x->route));
    f[n++] = LOG_S("method", method[x->method]);
    f[n++] = LOG_I("status", x->status);
    if (problem) f[n++] = LOG_S("problem", problem);
    if (why->field) f[n++] = LOG_S("field", why->field);
    if (x->status >= 500 && why->text[0]) f[n++] = LOG_S("text", why->text);
    if (x->body) f[n++] = LOG_I("body_bytes", request_bytes(x->body));
    if (x->submitted) n = log_job(&x->job, f, n);
    f[n++] = LOG_D("total_ms", total_ms);
    bool quiet = x->route < N_ROUTES && ROUTES[x->route].quiet && x->status == 200;
    log_line(x->status >= 500 ? LOG_ERROR : quiet ? LOG_DEBUG : LOG_INFO, "request", f, n);
}

/* The last who holds x ends it: it is logged, counted, and gone. */
static void release(exchange *x)
{
    if (atomic_fetch_sub(&x->holders, 1) > 1) return;
    server *s = x->s;
    double  ms = clock_ms() - x->began;
    log_exchange(x, ms);
    metrics_request(s->m, x->route, x->method, x->status, ms / 1e3);
    stream_free(x->job.stream);
    response_free(&x->out);
    response_free(&x->job.out);
    request_free(x->body);
    free(x);
    atomic_fetch_sub(&s->in_flight, 1);
}

static int status_of(const exchange *x, enum MHD_RequestTerminationCode how)
{
    if (x->streaming) return how != MHD_REQUEST_TERMINATED_COMPLETED_OK ? STATUS_CLIENT_GONE : x->job.out.status;
    if (x->answered) return x->out.status;
    if (watch_gave_up(x->watched)) return 408;
    return how == MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN ? 503 : STATUS_CLIENT_GONE;
}

static void on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode how)
{
    exchange *x = *state;
    (void)cls, (void)c;
    if (!x) return;
    *state = NULL;
    x->status = status_of(x, how);
    if (x->streaming) metrics_stream(x->s->m, -1);
    watch_move(x->watched, clock_ms() + (double)x->s->cfg->idle_timeout_ms, false);
    if (x->job.stream) stream_leave(x->job.stream);
    release(x);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    server *s = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = info ? watch_add(s->watch, info->connect_fd, clock_ms() + (double)s->cfg->read_timeout_ms) : NULL;
    } else if (*context) {
        watch_remove(s->watch, *context);
        *context = NULL;
    }
}

/* ---- opening and closing ---- */

bool http_open(http **out, server *s, int listen_fd, err *e)
{
    static const char out_of_memory[] =
        "{\"type\":\"urn:jomed:problem:out-of-memory\",\"status\":503,\"title\":\"The server has no memory left for this request\"}";
    bool  ok = false;
    http *h = mem_zalloc(1, sizeof *h);
    if (!h) {
        close(listen_fd);
        return err_set(e, ERR_MEMORY, "out of memory for the HTTP server");
    }
    h->s = s;
    h->listen_fd = listen_fd;
    s->http = h;
    h->no_memory =
        MHD_create_response_from_buffer(sizeof out_of_memory - 1, (void *)out_of_memory, MHD_RESPMEM_PERSISTENT);
    if (!h->no_memory
        || MHD_add_response_header(h->no_memory, "Content-Type", "application/problem+json") != MHD_YES
        || MHD_add_response_header(h->no_memory, "Retry-After", "1") != MHD_YES) {
        err_set(e, ERR_MEMORY, "out of memory for the HTTP server");
        goto done;
    }
    if (listen(listen_fd, 1024) != 0) {
        err_set(e, ERR_FILE, "cannot listen on %s port %d: %s", s->cfg->bind, (int)s->cfg->port, strerror(errno));
        goto done;
    }
    /* TRAP: not epoll. With it, a thread of the pool that wakes while the daemon is quiesced takes the listening
     * socket out of its set just when MHD_quiesce_daemon() does, and the library aborts the process (0.9.75 to
     * 1.0.1: 8 of 3,000 drains under load, none of 3,000 with poll). Both serve as many requests a second; but with
     * poll a thread accepts one connection a round, and at 2,000 that never rest some wait for seconds. */
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
    if (strchr(s->cfg->bind, ':')) flags |= MHD_USE_IPv6;
    h->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, s,
                                 MHD_OPTION_LISTEN_SOCKET, listen_fd,
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                                 MHD_OPTION_THREAD_POOL_SIZE, (unsigned)s->cfg->http_threads,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->cfg->connections,
                                 MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)s->cfg->connections_per_ip,
                                 MHD_OPTION_CONNECTION_TIMEOUT, 0U, /* the watch has better ones */
                                 /* 0.9.75's strictness is only a missing Host, which headers.c refuses in
                                  * better form (the library sends its refusal's head twice); later versions
                                  * also refuse folding and bare LF */
                                 MHD_OPTION_STRICT_FOR_CLIENT, MHD_VERSION > 0x00097500 ? 1 : 0,
                                 MHD_OPTION_END);
    if (!h->daemon) {
        err_set(e, ERR_FILE, "libmicrohttpd %s cannot start: are %d connections within the limit of open files?",
                MHD_get_version(), (int)s->cfg->connections);
        goto done;
    }
    h->listen_fd = -1;
    *out = h;
    h = NULL;
    ok = true;
done:
    http_close(h);
    return ok;
}

void http_refuse_connections(http *h)
{
    /* The library's threads look at the listening socket a little longer, so it may not be closed before they
     * have ended. Shutting it down makes the kernel refuse connections at once, which tells a balancer. */
    h->listen_fd = MHD_quiesce_daemon(h->daemon);
    if (h->listen_fd >= 0) shutdown(h->listen_fd, SHUT_RDWR);
}

void http_close(http *h)
{
    if (!h) return;
    if (h->daemon) MHD_stop_daemon(h->daemon);
    if (h->no_memory) MHD_destroy_response(h->no_memory);
    if (h->listen_fd >= 0) close(h->listen_fd);
    h->s->http = NULL;
    free(h);
}
