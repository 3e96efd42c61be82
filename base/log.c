#include "base/log.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

/* What may be written. Nothing here can hold an image, a question, a caption, an answer or a patient's key. */
static const char *const ALLOWED[] = {
    "request",     "route",       "method",   "status",       "problem",     "field",
    "code",        "k",           "task",     "answers",      "labels",      "events",
    "cached",      "body_bytes",  "queue_ms", "decode_ms",    "retrieve_ms", "passages_ms",
    "read_ms",     "fuse_ms",     "total_ms", "flops",        "trace",       "text",
    "file",        "port",        "host",     "version",      "reader",      "retriever",
    "index",       "workers",     "threads",  "queue",        "bytes",       "scratch_bytes",
    "cache_bytes", "arena_bytes", "passages", "parameters",   "device",      "signal",
    "waiting",     "adapter",     "sha256",   "merged_bytes", "seconds",     "library",
    "option",      "count",       "search",   "cache_host_bytes",
};

static atomic_int least_level = LOG_INFO; /* set once by main from the configuration */

void log_threshold(log_level least) { atomic_store(&least_level, (int)least); }

static const char *const LEVEL[] = {"debug", "info", "warn", "error"};

bool log_level_parse(log_level *out, const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, LEVEL[i]) == 0) return *out = (log_level)i, true;
    return false;
}

/* A line under construction in a fixed buffer. A string that does not fit is cut inside its quotes; a field
 * that would not find room for its name and a number is left out: the line is JSON whatever is in it. */
typedef struct { char s[4096]; size_t n; } line;
enum { ROOM_TO_CLOSE = 8, ROOM_FOR_A_FIELD = 160 };

static void put(line *l, const char *s)
{
    size_t n = strlen(s), left = sizeof l->s - ROOM_TO_CLOSE - l->n;
    if (n > left) n = left;
    memcpy(l->s + l->n, s, n);
    l->n += n;
}

static void put_string(line *l, const char *s)
{
    put(l, "\"");
    for (; *s && l->n < sizeof l->s - ROOM_TO_CLOSE - 8; s++) {
        unsigned char c = (unsigned char)*s;
        char          esc[8] = {(char)c, 0};
        if (c == '"' || c == '\\') snprintf(esc, sizeof esc, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            snprintf(esc, sizeof esc, "\\u%04x", c); /* bytes as Latin-1: a log stays ASCII */
        put(l, esc);
    }
    put(l, "\"");
}

static bool allowed(const char *key)
{
    for (size_t i = 0; i < sizeof ALLOWED / sizeof *ALLOWED; i++)
        if (strcmp(key, ALLOWED[i]) == 0) return true;
    return false;
}

static void put_field(line *l, const log_field *f)
{
    char num[40];
    if (l->n > sizeof l->s - ROOM_FOR_A_FIELD) return;
    put(l, ", ");
    if (!allowed(f->key)) {
        put(l, "\"dropped_field\": ");
        put_string(l, f->key);
        return;
    }
    put_string(l, f->key);
    put(l, ": ");
    if (f->kind == LOG_STR) {
        put_string(l, f->s ? f->s : "");
        return;
    }
    if (f->kind == LOG_INT) snprintf(num, sizeof num, "%lld", (long long)f->i);
    else if (isfinite(f->d)) snprintf(num, sizeof num, "%.3f", f->d);
    else snprintf(num, sizeof num, "null");
    put(l, num);
}

void log_line(log_level level, const char *event, const log_field *f, int n)
{
    if ((int)level < atomic_load_explicit(&least_level, memory_order_relaxed)) return;
    line l = {.n = 0};
    char now[32];
    clock_rfc3339(now);
    put(&l, "{\"time\": ");
    put_string(&l, now);
    put(&l, ", \"level\": ");
    put_string(&l, LEVEL[level]);
    put(&l, ", \"event\": ");
    put_string(&l, event);
    for (int i = 0; i < n; i++) put_field(&l, &f[i]);
    memcpy(l.s + l.n, "}\n", 2);
    l.n += 2;
    ssize_t r;
    do r = write(STDERR_FILENO, l.s, l.n);
    while (r < 0 && errno == EINTR);
}

void log_err(const char *event, const err *e)
{
    LOG(LOG_ERROR, event, LOG_S("code", err_code_name(e->code)), LOG_S("problem", e->problem),
        LOG_S("field", e->field), LOG_S("text", e->text));
}
