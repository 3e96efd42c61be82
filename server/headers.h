/* headers.h - what a request's head says, and whether it may be believed.
 * Why we check framing ourselves: libmicrohttpd 0.9.75 and 1.0.1, the versions of Debian 12 and 13, take two
 * different Content-Length headers, Content-Length beside Transfer-Encoding, and two Host headers. Behind a
 * proxy that reads them the other way, the rest of a body is served as another client's request (request
 * smuggling). RFC 9112 sections 3.2, 6.1 and 6.3 say to refuse and to close. */
#ifndef JOMED_SERVER_HEADERS_H
#define JOMED_SERVER_HEADERS_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int         n, n_content_length, n_transfer_encoding, n_host;
    bool        malformed;      /* a name that is no token, a length that is no number, a coding that is not
                                   chunked */
    int64_t     content_length; /* -1: none */
    bool        chunked;
    /* NULL: absent; borrowed */
    const char *content_type, *content_encoding, *accept, *expect, *request_id, *traceparent;
    bool        repeated;       /* one of these was given twice */
} headers;

void headers_read(headers *h, struct MHD_Connection *c);
/* NULL: sound. Else what is wrong, for the header-conflict problem. */
const char *headers_conflict(const headers *h, const char *version);

/* 1 to 64 of A-Z a-z 0-9 . _ - */
bool request_id_is_sane(const char *s);
/* The trace id of a W3C traceparent, 32 digits; false: not one. */
bool trace_id(char out[33], const char *traceparent);

#endif
