/* verify.h - is an index folder whole? For `jomed index verify`. */
#ifndef JOMED_INDEX_VERIFY_H
#define JOMED_INDEX_VERIFY_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

/* Told once for each problem; the string lives until it returns. */
typedef void (*verify_report)(void *ctx, const char *problem);

/* Checks manifest, sizes, checksums, SQLite's own integrity, counts, dimensions, and that every stored vector
 * has length 1; with images also that every passage's image can be read and has the pixels that were indexed
 * (slow). Goes on after a problem as far as it can. false: the check itself could not be made (ERR_MEMORY).
 * *problems: how many were told; 0 means whole. */
bool index_verify(const char *dir, bool images, verify_report tell, void *ctx, int64_t *problems, err *e);

#endif
