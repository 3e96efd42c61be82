/* request.h - the body of a request, JSON or multipart/form-data, to a diagnose_request.
 * One table a route says which fields there are, of what type, within what bounds, and which are required. It
 * does the checking here, and openapi.c writes the same table down for clients.
 * Memory   strings and the decoded image live in the request; it ends with request_free(). What is buffered is
 *          counted against a budget shared by all requests, before it is taken. */
#ifndef JOMED_SERVER_REQUEST_H
#define JOMED_SERVER_REQUEST_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "diagnose/diagnose.h"
#include "server/respond.h"

typedef enum {
    FIELD_IMAGE,  /* multipart: the file's bytes; JSON: a base64 string */
    FIELD_TEXT,   /* min..max bytes of UTF-8 */
    FIELD_TEXTS,  /* min..max texts of at most item_max bytes; multipart: the field repeated, or once as a JSON
                     array */
    FIELD_INT,    /* min..max */
    FIELD_NUMBER, /* min..max, not necessarily whole */
    FIELD_BOOL,
    FIELD_CHOICE, /* one of choices */
} field_type;

typedef struct {
    const char *name; /* "exclude.study" is the member study of the object exclude; in multipart it is the
                         field's name */
    field_type  type;
    bool        required;
    size_t      offset; /* in query */
    int64_t     min, max, item_max;
    const char *problem;                /* slug when a bound is broken */
    const char *choices, *def, *example; /* "paper|reference"; def and example as JSON */
    const char *help;
    unsigned    tasks;             /* the kinds of question it is for, 1 << task_kind each; 0: all */
    const char *too_many;           /* FIELD_TEXTS: slug when there are more than max */
} field;

enum { TEXTS_MAX = (int)MAX_ANSWERS > (int)MAX_LABELS ? (int)MAX_ANSWERS : (int)MAX_LABELS };
typedef struct { const char *item[TEXTS_MAX]; int n; bool was_array; } text_list;

/* What the table fills in. */
typedef struct {
    diagnose_request q;
    text_list        answers, labels;
    int              mode, deadline_ms;
    bool             stream;
} query;

enum { DEADLINE_MS_TOP = 86400000 };
extern const field DIAGNOSIS_FIELDS[];
extern const int   N_DIAGNOSIS_FIELDS;
extern const field RETRIEVAL_FIELDS[];
extern const int   N_RETRIEVAL_FIELDS;

/* Bytes that all requests may hold together. */
typedef struct { atomic_size_t used; size_t limit; } body_budget;

typedef struct {
    size_t       body_bytes;
    int          deadline_ms, deadline_max_ms;
    image_limits image;
    body_budget *budget;
} request_limits;

typedef enum { BODY_JSON, BODY_MULTIPART, BODY_OTHER } body_type;
body_type request_body_type(const char *content_type); /* NULL is BODY_OTHER */

typedef struct request request;

/* limits is kept. ERR_INPUT multipart-malformed: no usable boundary. ERR_MEMORY. */
bool request_new(request **out, const field *fields, int n_fields, const char *content_type,
                 const request_limits *limits, err *e);
void request_free(request *r); /* NULL is fine */

/* The next bytes of the body. ERR_TOO_LARGE body-too-large or, of a multipart body, image-too-large as soon as the
 * picture's header has come; ERR_BUSY (the budget is spent), ERR_MEMORY: no use to go on. Any other error is about
 * the fields, and stays: later calls return it again without work. */
bool request_feed(request *r, const char *p, size_t n, err *e);
/* The body is complete: check it all. diagnosis: also what diagnose_check() checks. now_ms starts the deadline. */
bool request_finish(request *r, bool diagnosis, double now_ms, err *e);

/* After request_finish(). */
const diagnose_request *request_query(const request *r);
/* Shall the answer be sent as it is made? The field says so, or, where it was not given, the caller. */
bool request_streams(const request *r, bool otherwise);
size_t request_bytes(const request *r);                  /* received so far */
/* The name of a field that is not ours, where it is plain enough to send back; NULL otherwise. */
const char *request_unknown_field(const request *r);

#endif
