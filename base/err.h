/* err.h - the one error type. What can fail returns bool, true for done, and takes err *e last;
 * it returns false if and only if *e is set. The first error wins.
 * The text is written for the person who must mend it and never holds request content, so it may be
 * logged; it may name a field of the request, a file, a tensor or an option. */
#ifndef JOMED_BASE_ERR_H
#define JOMED_BASE_ERR_H

#include <stdbool.h>

typedef enum {
    ERR_NONE,
    ERR_INPUT,       /* 400 the request is malformed */
    ERR_TOO_LARGE,   /* 413 over a limit that is decided before work is done */
    ERR_UNSUPPORTED, /* 415 a media type that is not taken */
    ERR_UNUSABLE,    /* 422 well formed, but nothing can be done with it */
    ERR_NOT_FOUND,   /* 404 */
    ERR_BUSY,        /* 503 the queue is full, or the server drains */
    ERR_DEADLINE,    /* 504 */
    ERR_FILE,        /* no start: a file is missing or wrong; 500 if found while serving */
    ERR_MEMORY,      /* 503 */
    ERR_GPU,         /* 503 */
    ERR_USAGE,       /* command line: exit status 2 */
    ERR_BUG          /* 500 our own mistake */
} err_code;

typedef struct {
    err_code    code;
    const char *problem; /* stable slug of the problem type, e.g. "image-undecodable"; static; NULL: by code */
    const char *field;   /* the request field or option at fault, static; NULL: none */
    char        text[240];
} err;

/* Fill e and return false, so that a failure is one line. A set e stays as it is. */
bool err_set(err *e, err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same, naming the problem type and the field. Both strings must be static. */
bool err_at(err *e, err_code code, const char *problem, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

const char *err_code_name(err_code code); /* "input", "deadline", ...: for logs and metrics */

#endif
