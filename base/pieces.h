/* pieces.h - the vocabulary of a tokenizer: id <-> bytes. Filled once, at open, and read-only after that.
 * Time  a lookup is a probe of a hash table at most half full. The hash of a text grows byte by byte, so that
 *       all prefixes of a text can be looked up in one pass (fnv_byte, pieces_find_hashed). */
#ifndef JOMED_BASE_PIECES_H
#define JOMED_BASE_PIECES_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

typedef struct { uint32_t off; int32_t len; } piece; /* bytes in the pool; len -1: no such id */

/* id -1: empty; the hash spares most looks at other pieces */
typedef struct { uint32_t hash; int32_t id; } piece_slot;

typedef struct {
    char       *pool;
    size_t      pool_bytes;
    piece      *piece;   /* [n_ids] */
    int         n_ids;   /* largest id + 1 */
    piece_slot *slot;    /* [mask + 1] */
    uint32_t    mask;
    int         longest; /* bytes of the longest piece */
} pieces;

/* Room for n pieces of pool_bytes bytes in all, with ids below n_ids. */
bool pieces_init(pieces *p, int n_ids, int n, size_t pool_bytes, err *e);
void pieces_free(pieces *p);

/* Add a piece; false if the id or the bytes are there already. */
bool    pieces_add(pieces *p, int32_t id, const char *s, size_t n);
int32_t pieces_find(const pieces *p, const char *s, size_t n); /* -1: not there */

/* The piece that spells prefix, then s; h is the hash over both (hash.h). */
int32_t pieces_find_hashed(const pieces *p, uint64_t h, const char *prefix, size_t n_prefix, const char *s,
                           size_t n);

#endif
