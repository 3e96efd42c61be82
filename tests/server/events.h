/* events.h - a client of event streams: chunks off the wire, one event after the other. */
#ifndef JOMED_TESTS_EVENTS_H
#define JOMED_TESTS_EVENTS_H

#include "tests/server/client.h"

typedef struct { char name[16]; char *data; } event; /* name "": the stream has ended, or broke off (see broken) */
typedef struct {
    int    fd;
    bool   chunked, broken;
    size_t left; /* of the chunk */
} events;

static inline bool event_byte(events *s, char *c) { return recv(s->fd, c, 1, 0) == 1; }

static inline bool event_line(events *s, char *line, size_t size)
{
    size_t n = 0;
    char   c;
    while (event_byte(s, &c))
        if (c == '\n') {
            if (n > 0 && line[n - 1] == '\r') n--;
            line[n] = 0;
            return true;
        } else if (n + 1 < size) line[n++] = c;
    return false;
}

/* The next byte behind the chunks' framing; false at the end. */
static inline bool event_next(events *s, char *c)
{
    char line[64];
    if (!s->chunked) return event_byte(s, c); /* HTTP/1.0: until the connection ends */
    if (s->left == 0) {
        if (!event_line(s, line, sizeof line)) return s->broken = true, false;
        s->left = strtoul(line, NULL, 16);
        if (s->left == 0) return s->broken = !event_line(s, line, sizeof line) || line[0], false;
    }
    if (!event_byte(s, c)) return s->broken = true, false;
    if (--s->left == 0 && (!event_line(s, line, sizeof line) || line[0])) s->broken = true;
    return true;
}

/* The head of an answer that must be a stream. */
static inline events hear_stream(int fd)
{
    reply  r = {0};
    char   v[64] = "";
    events s = {.fd = fd};
    assert_true(hear_head(fd, &r));
    if (r.status != 200 || !header_of(&r, "Content-Type", v, sizeof v) || strcmp(v, "text/event-stream") != 0)
        fail_msg("no event stream: %s", r.head);
    assert_true(header_of(&r, "Cache-Control", v, sizeof v) && strcmp(v, "no-store") == 0);
    assert_true(header_of(&r, "X-Accel-Buffering", v, sizeof v) && strcmp(v, "no") == 0);
    assert_true(header_of(&r, "X-Request-Id", v, sizeof v));
    assert_false(header_of(&r, "Content-Length", v, sizeof v));
    s.chunked = header_of(&r, "Transfer-Encoding", v, sizeof v);
    return s;
}

/* The next event, exactly "event: NAME", "data: DATA", an empty line. */
static inline event hear_event(events *s)
{
    event  ev = {.data = calloc(1, 1 << 16)};
    size_t n = 0;
    char  *data, *end;
    assert_non_null(ev.data);
    while (n + 1 < 1 << 16 && event_next(s, ev.data + n)) {
        n++;
        if (n < 2 || memcmp(ev.data + n - 2, "\n\n", 2) != 0) continue;
        if (sscanf(ev.data, "event: %15[a-z]\n", ev.name) != 1 || !(data = strstr(ev.data, "\ndata: ")))
            fail_msg("no event: %s", ev.data);
        end = strchr(data + 7, '\n');
        if (end != ev.data + n - 2) fail_msg("an event of several lines: %s", ev.data);
        memmove(ev.data, data + 7, (size_t)(end - data - 7));
        ev.data[end - data - 7] = 0;
        return ev;
    }
    if (n > 0) s->broken = true;
    ev.data[n] = 0;
    return ev;
}

#endif
