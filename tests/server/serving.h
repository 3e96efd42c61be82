/* serving.h - a server with the fake engine, inside the test's own process, and bodies to send to it. */
#ifndef JOMED_TESTS_SERVING_H
#define JOMED_TESTS_SERVING_H

#include <signal.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "server/server.h"
#include "tests/server/client.h"
#include "tests/server/fake_engine.c"

enum { MAX_WORKERS = 4 };
typedef struct {
    config   cfg;
    engine   en;
    kernels  kern[MAX_WORKERS];
    kernels *kerns[MAX_WORKERS];
    server  *s;
    int      port;
} serving;

static inline void serving_defaults(serving *v)
{
    *v = (serving){0};
    config_defaults(&v->cfg);
    v->cfg.port = 0;
    v->cfg.workers = 2;
    v->cfg.threads = 1;
    v->cfg.drain_grace_ms = 0;
    v->en.limits = IMAGE_LIMITS;
    for (int i = 0; i < MAX_WORKERS; i++) {
        v->kern[i].name = "fake";
        v->kerns[i] = &v->kern[i];
    }
}

static inline void serving_start(serving *v)
{
    err e = {0};
    int fd;
    signal(SIGPIPE, SIG_IGN);
    log_threshold(getenv("JOMED_TEST_LOG") ? LOG_DEBUG : (log_level)(LOG_ERROR + 1));
    OK(server_bind(&fd, &v->port, &v->cfg, &e), e);
    v->cfg.port = v->port;
    OK(server_open(&v->s, &v->cfg, &v->en, v->kerns, fd, &e), e);
}

static inline void serving_stop(serving *v)
{
    server_drain_begin(v->s);
    drain_state d;
    while ((d = server_drain_step(v->s, 5)) == DRAINING) { }
    assert_int_equal(d, DRAINED);
    server_close(v->s);
    v->s = NULL;
}

/* A picture that decodes: from the demonstration set. */
static inline const char *picture(size_t *n)
{
    static char  *bytes;
    static size_t size;
    err           e = {0};
    if (!bytes) OK(file_read(&bytes, &size, DEMO("synthetic/breast/test/0000.png"), 1 << 20, &e), e);
    *n = size;
    return bytes;
}

/* The picture as base64. */
static inline const char *picture64(void)
{
    static char *s;
    size_t       n;
    const char  *p = picture(&n);
    if (!s) {
        s = malloc(base64_encoded_bytes(n));
        base64_encode(s, (const uint8_t *)p, n);
    }
    return s;
}

/* POST path with a JSON body; more: header lines, each with its CR LF. */
static inline text post_json(const char *path, const char *more, const char *body)
{
    text t = {0};
    text_printf(&t,
                "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
                path, more, strlen(body), body);
    assert_false(t.failed);
    return t;
}

/* A sound diagnosis request; extra: more members, with a comma before. */
static inline text sound_json(const char *extra)
{
    text t = {0};
    text_printf(&t, "{\"image\":\"%s\",\"question\":\"Is it?\",\"answers\":[\"Yes\",\"No\"]%s}", picture64(), extra);
    return t;
}

static inline text sound_request(const char *more, const char *extra)
{
    text body = sound_json(extra), t = post_json("/v1/diagnoses", more, body.s);
    text_free(&body);
    return t;
}

static inline reply ask_text(int port, text t)
{
    reply r = ask_bytes(port, t.s, t.len);
    text_free(&t);
    return r;
}

/* The value of a metric line that starts with name (labels and all); -1: there is none. */
static inline double serving_metric(const serving *v, const char *name)
{
    reply       r = ask(v->port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    size_t      n = strlen(name);
    double      value = -1;
    const char *s = r.body;
    assert_non_null(s);
    for (; s && *s; s = strchr(s, '\n') ? strchr(s, '\n') + 1 : NULL)
        if (strncmp(s, name, n) == 0 && s[n] == ' ') value = atof(s + n);
    free(r.body);
    return value;
}

static inline void serving_wait_for(const serving *v, const char *name, double value)
{
    while (serving_metric(v, name) != value) usleep(2000);
}
/* The name of the count of diagnoses that ended with this status. */
#define COUNTED(code) "jomed_http_requests_total{route=\"/v1/diagnoses\",method=\"POST\",code=\"" #code "\"}"

#endif
