/* http.h - inside server/: the state that its files share, and the HTTP library's glue. */
#ifndef JOMED_SERVER_HTTP_H
#define JOMED_SERVER_HTTP_H

#include <stdatomic.h>
#include "server/metrics.h"
#include "server/request.h"
#include "server/server.h"
#include "server/watch.h"
#include "server/worker.h"

typedef struct http http; /* the listening half */

struct server {
    const config  *cfg;
    const engine  *en;
    const char    *device;   /* the kernels' name */
    request_limits limits;
    body_budget    budget;
    metrics       *m;
    pool          *pool;
    watch         *watch;
    http          *http;
    char          *openapi;
    atomic_int     in_flight;
    atomic_bool    draining; /* /readyz says 503, answers end their connections */
    atomic_bool    refusing; /* new work is refused */
    double         drain_began;
};

/* listen_fd is taken, also on failure. */
bool http_open(http **out, server *s, int listen_fd, err *e);
void http_refuse_connections(http *h); /* no new ones; the open ones go on */
void http_close(http *h);              /* no request may be waiting in the pool; NULL is fine */
void http_resume(job *j);              /* the pool's done() */

/* resources.c - what GET answers. id: the number in the path. verbose: the query string has it. */
void resource_get(server *s, route_id r, int64_t id, bool verbose, const char *request_id, response *out, err *why);
bool server_ready(const server *s);

/* openapi.c - the document, made once at start; free(). NULL: out of memory. */
char *openapi_document(const request_limits *l);

#endif
