/* bpe_merge.h - the merges of a BPE, and the loop that applies them [Sennrich et al. 2016, arXiv:1508.07909,
 * algorithm 1]. The table is filled once, at open, and read-only after that.
 * Time  merging n bytes is O(n log n), whatever they are; a lookup is a probe of a hash table at most half
 *       full. */
#ifndef JOMED_READER_BPE_MERGE_H
#define JOMED_READER_BPE_MERGE_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"

enum { BPE_MAX_MERGES = 1 << 22 };

/* key: left id << 32 | right id; id: both together */
typedef struct { uint64_t key; int32_t rank, id; } merge_slot;
typedef struct { merge_slot *slot; uint32_t mask; } merge_table;

bool merge_table_init(merge_table *m, int n_merges, err *e);
void merge_table_free(merge_table *m);
/* A pair that is given twice has the later rank, as in the tokenizers library. */
void merge_table_add(merge_table *m, int32_t left, int32_t right, int32_t rank, int32_t id);

/* Memory of the loop, kept from piece to piece of one call; zero at first. */
typedef struct { struct symbol *symbol; uint64_t *heap; int room; int64_t steps; } bpe_scratch;

/* Merge the n ids in place, always the lowest rank, the leftmost of equals, until no two neighbours are a
 * known pair. Returns how many are left; -1: e is set. scratch->steps grows by the pairs taken from the heap:
 * at most 3 n. */
int bpe_merge(const merge_table *m, int32_t *ids, int n, bpe_scratch *scratch, arena *a, err *e);

#endif
