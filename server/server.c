#include "server/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "server/http.h"

bool server_bind(int *fd, int *port, const config *c, err *e)
{
    struct sockaddr_in  four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)c->port)};
    bool                is_four = inet_pton(AF_INET, c->bind, &four.sin_addr) == 1;
    if (!is_four && inet_pton(AF_INET6, c->bind, &six.sin6_addr) != 1)
        return err_set(e, ERR_FILE, "%s is no numeric address", c->bind);
    struct sockaddr *at = is_four ? (struct sockaddr *)&four : (struct sockaddr *)&six;
    socklen_t        size = is_four ? sizeof four : sizeof six;
    int              yes = 1, s = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0) return err_set(e, ERR_FILE, "cannot make a socket: %s", strerror(errno));
    /* so that a restart need not wait for old connections to be forgotten; a port with a listener stays refused */
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(s, at, size) != 0 || getsockname(s, at, &size) != 0) {
        err_set(e, ERR_FILE, "cannot take %s port %d: %s", c->bind, (int)c->port, strerror(errno));
        close(s);
        return false;
    }
    *fd = s;
    *port = ntohs(is_four ? four.sin_port : six.sin6_port);
    return true;
}

static void tick(void *ctx)
{
    server *s = ctx;
    if (s->pool) workers_sweep(s->pool);
}

static bool compute_side_open(server *s, kernels *const *kern, err *e)
{
    workers_options o = {.en = s->en, .kern = kern, .workers = (int)s->cfg->workers, .queue = (int)s->cfg->queue,
                      .batch = (int)s->cfg->batch,
                      .arena_bytes = (size_t)s->cfg->arena_bytes, .m = s->m, .done = http_resume};
    s->device = kern[0]->name;
    return workers_open(&s->pool, &o, e) && workers_warm_up(s->pool, e) && workers_start(s->pool, e);
}

/* Take down what is there, in reverse. */
static void close_all(server *s)
{
    if (!s) return;
    http_close(s->http);
    watch_close(s->watch); /* its tick sweeps the pool */
    workers_close(s->pool);
    metrics_free(s->m);
    free(s->openapi);
    free(s);
}

bool server_open(server **out, const config *c, const engine *en, kernels *const *kern, int fd, err *e)
{
    bool    ok = false;
    http   *opened;
    server *s = mem_zalloc(1, sizeof *s);
    if (!s) {
        err_set(e, ERR_MEMORY, "out of memory for the server");
        goto done;
    }
    s->cfg = c;
    s->en = en;
    s->budget.limit = (size_t)c->buffered_bytes;
    s->limits = (request_limits){.body_bytes = (size_t)c->body_bytes,
                                 .deadline_ms = (int)c->deadline_ms,
                                 .deadline_max_ms = (int)c->deadline_max_ms,
                                 .image = en->limits,
                                 .budget = &s->budget};
    s->m = metrics_new();
    s->openapi = openapi_document(&s->limits);
    if (!s->m || !s->openapi) {
        err_set(e, ERR_MEMORY, "out of memory for the server");
        goto done;
    }
    if (!compute_side_open(s, kern, e) || !watch_open(&s->watch, tick, s, e)) goto done;
    ok = http_open(&opened, s, fd, e);
    fd = -1;
    if (!ok) goto done;
    *out = s;
    s = NULL;
done:
    if (fd >= 0) close(fd);
    close_all(s);
    return ok;
}

void server_drain_begin(server *s)
{
    s->drain_began = clock_ms();
    atomic_store(&s->draining, true);
    LOG(LOG_INFO, "drain", LOG_I("waiting", workers_waiting(s->pool)), LOG_I("count", atomic_load(&s->in_flight)));
}

drain_state server_drain_step(server *s, int step_ms)
{
    double began = s->drain_began, grace = (double)s->cfg->drain_grace_ms;
    double now = clock_ms();
    if (!atomic_load(&s->refusing) && now - began >= grace) {
        atomic_store(&s->refusing, true);
        http_refuse_connections(s->http);
    }
    if (atomic_load(&s->refusing) && atomic_load(&s->in_flight) == 0) return DRAINED;
    if (now - began >= grace + (double)s->cfg->drain_timeout_ms) return STUCK;
    struct timespec t = {step_ms / 1000, step_ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
    return DRAINING;
}

void server_close(server *s) { close_all(s); }
