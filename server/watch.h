/* watch.h - time limits on connections, which the HTTP library cannot give: it only knows idle time, so one
 * byte a second holds a connection for ever, and a suspended connection has no limit at all. One thread looks
 * at all connections a few times a second. A connection past its limit is shut down; while a body is being read
 * it is told why first (408). The same thread lets refused uploads linger: closing a socket with unread input
 * makes the kernel reset it, and the client would lose the refusal that it has not read yet. */
#ifndef JOMED_SERVER_WATCH_H
#define JOMED_SERVER_WATCH_H

#include <stdatomic.h>
#include <stdint.h>
#include "server/respond.h"

typedef struct watched watched;
struct watched {
    int             fd;
    _Atomic int64_t state; /* 2 * limit in clock_ms() + (1 while a body is read); 0: no limit; below: has been
                              shut down */
    char            request_id[REQUEST_ID_BYTES]; /* written by the connection's own thread while no body is read */
    watched        *prev, *next;
};

typedef struct watch watch;
/* tick(ctx) is called by the watch's thread at each round. ERR_MEMORY. */
bool watch_open(watch **out, void (*tick)(void *ctx), void *ctx, err *e);
void watch_close(watch *w); /* NULL is fine */

watched *watch_add(watch *w, int fd, double until_ms); /* NULL: out of memory */
void     watch_remove(watch *w, watched *c);           /* before fd is closed */
/* A new limit (0: none). false: too late, the connection has been given up and nothing may be sent on it.
 * What the caller wrote to *c before is seen by the watch. */
bool watch_move(watched *c, double until_ms, bool reading_body);
bool watch_gave_up(const watched *c); /* by its limit; false also where the client went first */

/* The other side has ended its sending half, or all: that is what giving up looks like (a time-out, an
 * interrupted curl), long before anything can tell it from a client that would still listen. -1 is nobody's,
 * and never gone. */
bool watch_peer_gone(int fd);

/* Read and throw away what still comes on fd, until it ends or two seconds have passed. fd is duplicated, so
 * the caller may close its own. Past some hundreds at once this does nothing. */
void watch_linger(watch *w, int fd);

#endif
