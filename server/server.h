/* server.h - `jomed serve` from the outside: bind, open, wait, drain, close.
 *
 *     server_bind()    the address is ours, but nobody can connect yet: a taken port shows before models are read
 *     server_open()    memory, threads; a real case is scored; only then the port opens and /readyz says 200
 *     server_drain()   /readyz 503, a grace in which work is still taken, then no new work, then what runs is
 *                      finished
 *     server_close()
 *
 * HTTP threads read, check and answer; workers compute; between them is the bounded queue (worker.h). Requests
 * that take too long to arrive are ended by the watch (watch.h). */
#ifndef JOMED_SERVER_SERVER_H
#define JOMED_SERVER_SERVER_H

#include "diagnose/diagnose.h"
#include "server/config.h"

typedef struct server server;

/* *fd is bound to c->bind and c->port but does not listen; *port is the one it has. ERR_FILE. */
bool server_bind(int *fd, int *port, const config *c, err *e);

/* c and en are kept, kern too: c->workers of them, one per worker. Takes fd, also on failure. */
bool server_open(server **out, const config *c, const engine *en, kernels *const *kern, int fd, err *e);

/* Called in steps by who waits for signals, so that a second signal is seen: each call returns within step_ms.
 * DRAINED: server_close() may be called. STUCK: drain_timeout_ms is over and a request still runs. */
typedef enum { DRAINING, DRAINED, STUCK } drain_state;
void        server_drain_begin(server *s);
drain_state server_drain_step(server *s, int step_ms);
void        server_close(server *s); /* needs DRAINED; NULL is fine */

#endif
