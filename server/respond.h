/* respond.h - what is sent back: a status, a body, a few headers. Problems follow RFC 9457.
 * The table of problem types in respond.c is the only place where HTTP statuses are chosen. */
#ifndef JOMED_SERVER_RESPOND_H
#define JOMED_SERVER_RESPOND_H

#include <jansson.h>
#include <stddef.h>
#include "base/err.h"

enum { REQUEST_ID_BYTES = 65, FIELD_NAME_BYTES = 65 };

typedef struct {
    int         status;         /* 0: nothing to send yet */
    const char *media;          /* static */
    const char *problem;        /* slug, static; NULL: not a problem */
    const char *allow;          /* 405: static */
    const char *accept_post;    /* 415: static */
    const char *accept_encoding; /* 415 for a compressed body: static */
    int         retry_after_s;  /* 0: no header */
    bool        close;          /* end the connection after this answer */
    char       *body;           /* heap, free() by response_free(); NULL: small is the body */
    size_t      bytes;
    char        small[1024];    /* problems are written here, so that saying no never needs memory */
} response;

void response_free(response *r);

/* A JSON body; takes the reference. NULL or a failed dump gives the out-of-memory problem. */
void respond_json(response *r, int status, json_t *body, const char *request_id);
/* A body that the caller has made on the heap; taken. */
void respond_body(response *r, int status, const char *media, char *body, size_t bytes);

/* The problem that e stands for. field (may be NULL) overrides e->field: it is for names that came with the
 * request and so may go back to the client but into no log. Texts of our own failures stay in the log: the
 * client reads the title. */
void respond_err(response *r, const err *e, const char *field, const char *request_id);
/* A problem of HTTP itself, by its slug. detail: static text, no request content; NULL: none. */
void respond_problem(response *r, const char *slug, const char *detail, const char *request_id);

/* The table, for docs and tests: i-th problem type; NULL behind the last. */
const char *problem_at(int i, int *status, const char **title);
extern const char PROBLEM_PREFIX[]; /* "urn:jomed:problem:" */

/* The whole answer as it goes over the wire, for the two cases where the HTTP library cannot send one: while a
 * body is still coming. Returns its bytes; always fits 2,048. */
size_t response_raw(const response *r, const char *request_id, char *out, size_t size);

#endif
