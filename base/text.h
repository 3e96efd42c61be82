/* text.h - growable text, UTF-8 and base64 checks, hexadecimal. */
#ifndef JOMED_BASE_TEXT_H
#define JOMED_BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

/* A growable byte string on the heap; s is always terminated. failed is sticky: check it once at the end. */
typedef struct { char *s; size_t len, cap; bool failed; } text;
void text_add(text *t, const char *s);
void text_addn(text *t, const char *s, size_t n);
void text_printf(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_free(text *t);

bool utf8_valid(const char *s, size_t n); /* RFC 3629: no surrogates, no overlong forms, no U+0000 is allowed too */
/* Decode one code point at *s (valid UTF-8), advance *s. */
uint32_t utf8_next(const char **s);
int      utf8_put(char out[4], uint32_t cp); /* bytes written, 1..4 */

/* Strict RFC 4648 section 4: no white space, padding required. *out lives in a. ERR_INPUT names field. */
bool  base64_decode(uint8_t **out, size_t *n, const char *s, size_t len, const char *field, arena *a, err *e);
size_t base64_encoded_bytes(size_t n); /* with the terminating zero */
void  base64_encode(char *out, const uint8_t *in, size_t n);
void  hex_encode(char *out, const uint8_t *in, size_t n); /* 2n+1 bytes */
bool  hex_decode(uint8_t *out, size_t n, const char *hex); /* false: not exactly 2n hex digits */

#endif
