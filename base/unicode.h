/* unicode.h - canonical decomposition and composition (NFD, NFC) of text that anyone may have written.
 * Tables   utf8proc's; the ordering of marks is ours, because utf8proc's own takes quadratic time on a long
 *          run of marks, which a request could hold. */
#ifndef JOMED_BASE_UNICODE_H
#define JOMED_BASE_UNICODE_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

/* NFD of n code points; *out lives in a. */
bool unicode_nfd(const int32_t *cp, size_t n, int32_t **out, size_t *len, arena *a, err *e);

/* NFC of n bytes of valid UTF-8; *out lives in a, or is s itself where nothing can change. */
bool unicode_nfc(const char *s, size_t n, const char **out, size_t *len, arena *a, err *e);

#endif
