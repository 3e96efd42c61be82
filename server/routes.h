/* routes.h - the table of resources. http.c looks a path up here; openapi.c and metrics.c walk it. */
#ifndef JOMED_SERVER_ROUTES_H
#define JOMED_SERVER_ROUTES_H

#include <stdint.h>
#include "server/request.h"

typedef enum {
    ROUTE_DIAGNOSES, ROUTE_RETRIEVALS, ROUTE_PASSAGE, ROUTE_PASSAGE_IMAGE, ROUTE_MODELS,
    ROUTE_LIVEZ, ROUTE_READYZ, ROUTE_METRICS, ROUTE_OPENAPI, N_ROUTES,
    ROUTE_NONE = N_ROUTES /* what metrics call "other" */
} route_id;

typedef struct {
    const char  *path;      /* "{id}" stands for a passage's number */
    bool         post;      /* else GET and HEAD */
    bool         quiet;     /* asked all the time by machines: its successes are logged at debug level only */
    const char  *media;     /* of a successful answer: "image/png, image/jpeg" lists what it may be */
    const field *fields;    /* of the body; NULL: no body */
    const int   *n_fields;
    const char  *summary;
} route;
extern const route ROUTES[N_ROUTES];

/* ROUTE_NONE: no such resource. *id: the number in the path, -1 where it has none or it is no number. */
route_id route_find(const char *path, int64_t *id);
const char *route_label(route_id r); /* path, or "other" */

/* Does this Accept header (NULL: none) admit one of the types listed in media? [RFC 9110 section 12.5.1] */
bool accept_admits(const char *accept, const char *media);
/* Does it ask for media rather than for the other one? */
bool accept_prefers(const char *accept, const char *media, const char *other);

#endif
