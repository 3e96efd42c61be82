/* multipart.h - a streaming parser of multipart/form-data [RFC 7578, RFC 2046 section 5.1].
 * The body may be cut anywhere, down to single bytes; work is linear in its length, and nothing is kept but the
 * headers of the part under way. Taken: boundaries of 1 to 200 characters (some clients exceed the RFC's 70), quoted
 * and unquoted parameters, a preamble and an epilogue. Refused: folded headers, a transfer encoding other than the
 * identity, a part without a name, a body that ends before its closing delimiter. */
#ifndef JOMED_SERVER_MULTIPART_H
#define JOMED_SERVER_MULTIPART_H

#include <stddef.h>
#include "base/err.h"

enum { BOUNDARY_MAX = 200, PART_HEADER_BYTES = 4096, PART_NAME_BYTES = 128, PARTS_MAX = 256 };

/* What is told of each part, in order. name is borrowed until the call returns. data may come in many pieces, or in
 * none. false stops the parser with the error that was set. */
typedef struct {
    bool (*begin)(void *ctx, const char *name, err *e);
    bool (*data)(void *ctx, const char *p, size_t n, err *e);
    bool (*end)(void *ctx, err *e);
} multipart_sink;

typedef struct {
    multipart_sink sink;
    void          *ctx;
    char           delimiter[4 + BOUNDARY_MAX + 1]; /* CR LF - - boundary */
    size_t         delimiter_len, matched;          /* matched: bytes of it seen so far */
    int            state, parts;
    char           header[PART_HEADER_BYTES];
    size_t         header_len;
} multipart;

/* content_type: the request's header. ERR_INPUT multipart-malformed: no usable boundary. */
bool multipart_init(multipart *m, const char *content_type, const multipart_sink *sink, void *ctx, err *e);
bool multipart_feed(multipart *m, const char *p, size_t n, err *e);
bool multipart_end(multipart *m, err *e);

/* Parameter of a header such as `form-data; name="x"`, unquoted into out. */
/* BAD: malformed, given twice, or too long for out */
typedef enum { PARAM_NONE, PARAM_FOUND, PARAM_BAD } param_result;
param_result header_param(const char *value, const char *name, char *out, size_t size);
/* True when the header's value before any parameter is this media type or word; case is ignored. */
bool header_is(const char *value, const char *word);

#endif
