/* client.h - a client of the wire: bytes out, an answer in. It does what the test says, sound or not. */
#ifndef JOMED_TESTS_CLIENT_H
#define JOMED_TESTS_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/check.h"

typedef struct { int status; char head[8192]; char *body; size_t body_bytes; bool closed; } reply;

static inline int dial(int port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval     patience = {60, 0}; /* a hung server fails the test instead of holding it for ever */
    int                fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) != 0) fail_msg("connect: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

/* false: the other side has closed. */
static inline bool say(int fd, const void *p, size_t n)
{
    for (const char *s = p; n > 0;) {
        ssize_t k = send(fd, s, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        s += k;
        n -= (size_t)k;
    }
    return true;
}

static inline bool says(int fd, const char *s) { return say(fd, s, strlen(s)); }

/* One byte at a time until the empty line: what follows belongs to the body or to the next answer. */
static inline bool hear_head(int fd, reply *r)
{
    size_t n = 0;
    while (n + 1 < sizeof r->head) {
        if (recv(fd, r->head + n, 1, 0) != 1) break;
        r->head[++n] = 0;
        if (n >= 4 && memcmp(r->head + n - 4, "\r\n\r\n", 4) == 0)
            return sscanf(r->head, "HTTP/1.1 %d", &r->status) == 1;
    }
    r->head[n] = 0;
    r->closed = true;
    return false;
}

/* The value of a header into out; false: absent. */
static inline bool header_of(const reply *r, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);
    for (const char *s = strstr(r->head, "\r\n"); s && s[2]; s = strstr(s + 2, "\r\n")) {
        if (strncasecmp(s + 2, name, n) != 0 || s[2 + n] != ':') continue;
        s += 3 + n;
        while (*s == ' ') s++;
        snprintf(out, size, "%.*s", (int)strcspn(s, "\r"), s);
        return true;
    }
    return false;
}

/* The body that the head announces. */
static inline void hear_body(int fd, reply *r, bool head_only)
{
    char len[32];
    r->body_bytes = header_of(r, "Content-Length", len, sizeof len) ? (size_t)atoll(len) : 0;
    r->body = calloc(1, r->body_bytes + 1);
    assert_non_null(r->body);
    for (size_t n = 0; !head_only && n < r->body_bytes;) {
        ssize_t k = recv(fd, r->body + n, r->body_bytes - n, 0);
        if (k <= 0) fail_msg("the body of a %d ended after %zu of %zu bytes", r->status, n, r->body_bytes);
        n += (size_t)k;
    }
}

/* One answer; 100 Continue is not one. status 0: the connection ended without any. head_only: it answers a HEAD. */
static inline reply hear_one(int fd, bool head_only)
{
    reply r = {0};
    do {
        r.status = 0;
        if (!hear_head(fd, &r)) return r.status = 0, r;
    } while (r.status == 100);
    hear_body(fd, &r, head_only);
    return r;
}
static inline reply hear(int fd) { return hear_one(fd, false); }

/* True when the server ends the connection, having said nothing more. */
static inline bool is_ended(int fd)
{
    char    c;
    ssize_t n = recv(fd, &c, 1, 0);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* One request on a connection of its own. */
static inline reply ask_bytes(int port, const void *p, size_t n)
{
    int fd = dial(port);
    say(fd, p, n);
    reply r = hear(fd);
    close(fd);
    return r;
}
static inline reply ask(int port, const char *s) { return ask_bytes(port, s, strlen(s)); }

/* The answer must be this status, and, for a problem, of this type. */
#define EXPECT(r, want, slug) do { \
        reply       *r_ = &(r); \
        const char  *slug_ = (slug); \
        char         type_[96]; \
        snprintf(type_, sizeof type_, "\"urn:jomed:problem:%s\"", slug_ ? slug_ : ""); \
        if (r_->status != (want) || (slug_ && (!r_->body || !strstr(r_->body, type_)))) \
            fail_msg("wanted %d %s, got %d: %s%s", (want), slug_ ? slug_ : "", r_->status, r_->head, r_->body ? r_->body : ""); \
    } while (0)
#define EXPECT_FIELD(r, name) do { \
        if (!strstr((r).body, "\"field\":\"" name "\"")) fail_msg("wanted field %s: %s", name, (r).body); \
    } while (0)

#endif
