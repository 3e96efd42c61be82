#include "server/stream.h"

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/memory.h"
#include "base/text.h"
#include "server/watch.h"

/* Bytes that are sent from where they lie. */
typedef struct { const char *p; size_t n; } piece;
enum { LAST_PIECES = 3 };

struct stream {
    pthread_mutex_t lock;
    stream_reader   r;
    bool            asleep, begun, closed;
    bool            left; /* said by the reader: there is nobody to wake, and fd is not ours any more */
    bool            gone; /* said by the writer of the client; the reader is still there, to be told */
    text            pending; /* token events; [taken, len) are not sent yet */
    size_t          taken;
    piece           last[LAST_PIECES]; /* the last event: its name, its data, its end */
};

bool stream_new(stream **out, const stream_reader *r, err *e)
{
    stream *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "out of memory for a stream");
    pthread_mutex_init(&s->lock, NULL); /* cannot fail on Linux with default attributes */
    s->r = *r;
    s->asleep = true;
    *out = s;
    return true;
}

void stream_free(stream *s)
{
    if (!s) return;
    pthread_mutex_destroy(&s->lock);
    text_free(&s->pending);
    free(s);
}

static void wake(stream *s)
{
    if (!s->asleep || s->left) return;
    s->asleep = false;
    s->r.wake(s->r.owner);
}

/* ---- the writer ---- */

static int append(const char *p, size_t n, void *ctx)
{
    text *t = ctx;
    text_addn(t, p, n);
    return t->failed ? -1 : 0;
}

static bool append_token(text *t, const char *s, size_t n)
{
    json_t *o = json_pack("{s:o}", "text", json_stringn(s, n));
    text_add(t, "event: token\ndata: ");
    bool ok = o && json_dump_callback(o, append, t, JSON_COMPACT) == 0; /* on one line: JSON escapes line ends */
    text_add(t, "\n\n");
    json_decref(o);
    return ok && !t->failed;
}

static bool put_token(stream *s, const char *p, size_t n, err *e)
{
    text *t = &s->pending;
    if (s->left || s->gone || watch_peer_gone(s->r.fd)) return err_set(e, ERR_BUSY, "the client has gone");
    if (s->taken > 0) {
        memmove(t->s, t->s + s->taken, t->len - s->taken);
        t->len -= s->taken;
        s->taken = 0;
    }
    size_t before = t->len;
    bool   ok = append_token(t, p, n) || err_set(e, ERR_MEMORY, "out of memory for a stream");
    if (ok && t->len > STREAM_BYTES) {
        ok = err_set(e, ERR_BUSY, "the client is too slow for its stream");
        if (s->r.fd >= 0) shutdown(s->r.fd, SHUT_RDWR); /* it may never read again: the HTTP library sees an end
                                                           and closes */
    }
    if (!ok) {
        t->len = before;
        t->failed = false;
    }
    return ok;
}

bool stream_token(stream *s, const char *p, size_t n, err *e)
{
    pthread_mutex_lock(&s->lock);
    bool ok = put_token(s, p, n, e);
    if (ok) {
        s->begun = true;
        wake(s);
    } else if (e->code == ERR_BUSY) s->gone = true;
    pthread_mutex_unlock(&s->lock);
    return ok;
}

void stream_close(stream *s, const response *last)
{
    pthread_mutex_lock(&s->lock);
    bool answered = last->status == 200;
    if (answered || (s->begun && last->problem)) {
        static const char answer[] = "event: answer\ndata: ", error[] = "event: error\ndata: ";
        s->begun = true;
        s->last[0] = answered ? (piece){answer, sizeof answer - 1} : (piece){error, sizeof error - 1};
        s->last[1] = (piece){last->body ? last->body : last->small, last->bytes};
        s->last[2] = (piece){"\n\n", 2};
    }
    s->closed = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

bool stream_lost(stream *s)
{
    pthread_mutex_lock(&s->lock);
    bool lost = s->left || s->gone;
    pthread_mutex_unlock(&s->lock);
    return lost;
}

/* ---- the reader ---- */

bool stream_begun(stream *s)
{
    pthread_mutex_lock(&s->lock);
    bool begun = s->begun;
    pthread_mutex_unlock(&s->lock);
    return begun;
}

static size_t take_pending(stream *s, char *to, size_t max)
{
    size_t n = s->pending.len - s->taken;
    if (n > max) n = max;
    if (n > 0) memcpy(to, s->pending.s + s->taken, n);
    s->taken += n;
    return n;
}

static size_t take_last(stream *s, char *to, size_t max)
{
    size_t all = 0;
    for (int i = 0; i < LAST_PIECES; i++) {
        size_t n = s->last[i].n < max - all ? s->last[i].n : max - all;
        if (n > 0) memcpy(to + all, s->last[i].p, n);
        s->last[i].p += n;
        s->last[i].n -= n;
        all += n;
    }
    return all;
}

ssize_t stream_take(stream *s, char *to, size_t max)
{
    pthread_mutex_lock(&s->lock);
    size_t n = s->gone ? 0 : take_pending(s, to, max);
    if (s->closed && !s->gone) n += take_last(s, to + n, max - n);
    ssize_t taken = n > 0 ? (ssize_t)n : s->gone ? STREAM_DROPPED : s->closed ? STREAM_ENDED : STREAM_SLEEPS;
    if (taken == STREAM_SLEEPS) {
        s->asleep = true;
        s->r.sleep(s->r.owner);
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

void stream_leave(stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->left = true;
    pthread_mutex_unlock(&s->lock);
}
