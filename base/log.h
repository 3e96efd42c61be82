/* log.h - one JSON object a line on stderr, one write() each.
 * Only the fields of the table in log.c can be written: that list is what keeps patients' data out of logs.
 * Threads  any thread at any time. */
#ifndef JOMED_BASE_LOG_H
#define JOMED_BASE_LOG_H

#include <stdint.h>
#include "base/err.h"

typedef enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR } log_level;
void log_threshold(log_level least); /* INFO at start */
bool log_level_parse(log_level *out, const char *name);

typedef struct {
    const char *key;
    enum { LOG_STR, LOG_INT, LOG_NUM } kind;
    const char *s;
    int64_t i;
    double d;
} log_field;
#define LOG_S(k, v) ((log_field){.key = (k), .kind = LOG_STR, .s = (v)})
#define LOG_I(k, v) ((log_field){.key = (k), .kind = LOG_INT, .i = (int64_t)(v)})
#define LOG_D(k, v) ((log_field){.key = (k), .kind = LOG_NUM, .d = (double)(v)})

/* {"time": "...", "level": "info", "event": EVENT, fields...}. A key that is not on the list is written as
 * "dropped_field": KEY instead of its value. */
void log_line(log_level level, const char *event, const log_field *f, int n);
#define LOG(level, event, ...) \
    log_line((level), (event), (const log_field[]){__VA_ARGS__}, \
             (int)(sizeof((const log_field[]){__VA_ARGS__}) / sizeof(log_field)))
void log_err(const char *event, const err *e); /* level error, with code, problem, field and text */

#endif
