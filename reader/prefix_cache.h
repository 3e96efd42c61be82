/* prefix_cache.h - keys and values of candidate prefixes. A prefix [system, z image, z caption] does not depend
 * on the query, so what was computed for one patient is exact for every other.
 *
 *   find -> on the device: use it, release
 *        -> in host memory: reserve, restore, publish, release the host's copy; use it, release
 *        -> miss: reserve, fill, publish, use it, release
 *
 * A reader of the entry holds a reference, and an entry that is held is neither evicted nor freed. The bytes of
 * everything taken, filled or not, stay within the limit at all times.
 * Least recently used goes first. Two workers may fill the same prefix at once: the first to publish wins, the other
 * uses its own copy once. No room and no memory are not errors: the caller computes in scratch, to the same bits.
 *
 * Host tier  What is evicted from the device is copied to pinned host memory by the worker that wants its room, and
 *            is in neither tier meanwhile: who asks then computes it. What is copied back stays below, so that the
 *            next time it goes without a copy. Its bounds are bytes of pinned blocks; its order and references are
 *            those of the device. A copy that finds no room is not kept. Pinned memory that the machine does not give
 *            leaves the tier, for good, at the size that it has.
 *
 * Threads  any; one mutex, never held while computing, copying or allocating. Internal to reader/. */
#ifndef JOMED_READER_PREFIX_CACHE_H
#define JOMED_READER_PREFIX_CACHE_H

#include "reader/decoder.h"
#include "reader/reader.h"

typedef struct prefix_cache prefix_cache;

/* One process has one reader and one index, so the passage's id is enough; the caption's hash guards against an
 * id that is used for two texts. adapter: as reader.h counts them. */
typedef struct { int64_t passage, adapter; image_policy policy; uint64_t caption; } prefix_key;
prefix_key prefix_key_of(int64_t passage, int64_t adapter, image_policy policy, const char *caption);
bool       prefix_key_same(prefix_key x, prefix_key y);

typedef struct prefix_entry {
    kv  keys;   /* data NULL: a copy in host memory */
    int cursor; /* position of the token that follows */
    /* the cache's own */
    prefix_key     key;
    size_t         bytes;    /* counted */
    size_t         kv_bytes; /* of keys and values */
    int            refs;
    bool           published;
    struct prefix_entry *chain, *newer, *older;
    int            n_blocks; /* 0: it lies on the device */
    void          *block[];  /* pinned */
} prefix_entry;

enum { PREFIX_BLOCK_BYTES = 1 << 20 };

/* host_bytes: of the tier in host memory, whole blocks; 0: none. NULL: out of memory. */
prefix_cache *prefix_cache_new(size_t limit_bytes, size_t host_bytes);
void          prefix_cache_free(prefix_cache *c, kernels *k); /* NULL is fine; nothing may be held */

const prefix_entry *prefix_cache_find(prefix_cache *c, prefix_key key); /* NULL: in neither tier */
/* NULL: no room */
prefix_entry       *prefix_cache_reserve(prefix_cache *c, kernels *k, prefix_key key, size_t kv_bytes);
/* A copy in host memory to dst, device memory of its keys' size: there, and p needed no longer, after k->sync(). */
void                prefix_cache_restore(const prefix_entry *p, kernels *k, act *dst);
void                prefix_cache_publish(prefix_cache *c, prefix_entry *p);
void                prefix_cache_release(prefix_cache *c, kernels *k, const prefix_entry *p); /* NULL is fine */

void prefix_cache_read_stats(prefix_cache *c, reader_cache_stats *out);
void prefix_cache_clear(prefix_cache *c, kernels *k); /* entries in use go when they are released */

#endif
