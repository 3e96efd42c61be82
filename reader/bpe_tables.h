/* bpe_tables.h - the tables of a byte-level BPE, and the merge loop [Sennrich et al. 2016, arXiv:1508.07909, algorithm 1].
 *   pieces  id <-> bytes        merges  (left id, right id) -> (rank, id of both together)
 * Tables are filled once, at open, and read-only after that.
 * Time    a lookup is one probe of a hash table at most half full; merging n bytes is O(n log n), whatever they are. */
#ifndef JOMED_READER_BPE_TABLES_H
#define JOMED_READER_BPE_TABLES_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"

enum { BPE_MAX_IDS = 1 << 21, BPE_MAX_MERGES = 1 << 22 };

typedef struct { uint32_t off; int32_t len; } piece; /* bytes in the pool; len -1: no such id */

typedef struct { uint64_t key; int32_t rank, id; } merge_slot; /* key: left << 32 | right; NO_PAIR: empty */

typedef struct {
    char       *pool;
    size_t      pool_bytes;
    piece      *piece;      /* [n_ids] */
    int         n_ids;      /* largest id + 1 */
    int32_t    *by_bytes;   /* [piece_mask + 1] ids; -1: empty */
    uint32_t    piece_mask;
    merge_slot *merge;      /* [merge_mask + 1] */
    uint32_t    merge_mask;
    int32_t     byte_id[256];
} bpe_tables;

/* Room for ids below n_ids with pool_bytes bytes in all, and for n_merges merges. */
bool bpe_tables_init(bpe_tables *v, int n_ids, int n_pieces, size_t pool_bytes, int n_merges, err *e);
void bpe_tables_free(bpe_tables *v);

/* Add a piece of n bytes; false if the id or the bytes are there already. */
bool bpe_tables_add(bpe_tables *v, int32_t id, const char *s, size_t n);
int32_t bpe_tables_find(const bpe_tables *v, const char *s, size_t n); /* -1: not there */

/* A pair that is given twice has the later rank, as in the tokenizers library. */
void bpe_tables_add_merge(bpe_tables *v, int32_t left, int32_t right, int32_t rank, int32_t id);

/* Memory of the merge loop, kept from piece to piece of one call. */
typedef struct { struct symbol *symbol; struct pending *heap; int room; int64_t steps; } bpe_scratch;

/* Merge the n single-byte ids at ids in place, always the lowest rank, the leftmost of equals, until no pair is known.
 * Returns how many are left; -1: e is set. scratch->steps grows by the pairs looked at: at most 3 n. */
int bpe_merge(const bpe_tables *v, int32_t *ids, int n, bpe_scratch *scratch, arena *a, err *e);

#endif
