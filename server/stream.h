/* stream.h - an answer that is sent while it is made: text/event-stream [WHATWG HTML, section 9.2] between the
 * worker that writes events and the HTTP thread that takes bytes when the socket has room for them.
 *
 *     event: token    data: {"text":"..."}   what the reader emitted
 *     event: answer   data: {...}            the last one: what the same request gets without streaming
 *     event: error    data: {...}            the last one instead: the problem object, of a failure behind the first
 *                                            event
 *
 * A worker never waits for a client. What is not taken yet is held up to STREAM_BYTES, and a client that is
 * further behind is given up like one that has gone. The reader waits by sleeping: its connection is suspended,
 * so it costs no thread.
 * Memory   one buffer, grown as needed; the last event's data is the caller's response, kept.
 * Threads  one writes and one reads. sleep() and wake() are called under the stream's lock, in turn, beginning
 *          with wake(), so that a connection is resumed exactly once for each time it was suspended; they must
 *          not call back. */
#ifndef JOMED_SERVER_STREAM_H
#define JOMED_SERVER_STREAM_H

#include <sys/types.h>
#include "server/respond.h"

enum { STREAM_BYTES = 64 << 10 };

typedef struct {
    void (*sleep)(void *owner);
    void (*wake)(void *owner);
    void *owner;
    int   fd; /* of the client: asked before each event whether it is still there; -1: not asked */
} stream_reader;

typedef struct stream stream;
bool stream_new(stream **out, const stream_reader *r, err *e); /* the reader sleeps already. ERR_MEMORY */
void stream_free(stream *s); /* NULL is fine */

/* ---- the writer ---- */

/* A token event of n bytes of UTF-8. ERR_BUSY: nobody takes it any more, so the work may stop. ERR_MEMORY: as
 * if it had not been called. */
bool stream_token(stream *s, const char *text, size_t n, err *e);
/* No more events but the last: last is kept until stream_free(). A 200 is the answer event; a problem is the
 * error event, or, where no event went before, for the reader to send as an answer of its own status
 * (stream_begun() is false). */
void stream_close(stream *s, const response *last);
bool stream_lost(stream *s); /* nobody takes it: the client has gone or is too slow, or the reader has left */

/* ---- the reader ---- */

bool stream_begun(stream *s); /* there is an event to send */
/* Up to max bytes, max > 0. */
enum {
    STREAM_SLEEPS = 0 /* none yet: the reader is asleep */,
    STREAM_ENDED = -1 /* all was taken */,
    STREAM_DROPPED = -2 /* lost: no end */
};
ssize_t stream_take(stream *s, char *to, size_t max);
void    stream_leave(stream *s); /* takes no more, is not woken any more, and its fd may be closed */

#endif
