/* prefix_cache.h - keys and values of candidate prefixes. A prefix [system, z image, z caption] does not depend
 * on the query, so what was computed for one patient is exact for every other.
 *
 *   find -> hit: use it, release
 *        -> miss: reserve, fill, publish, use it, release
 *
 * A reader of the entry holds a reference, and an entry that is held is neither evicted nor freed. The bytes of
 * everything taken, filled or not, stay within the limit at all times.
 * Least recently used goes first. Two workers may fill the same prefix at once: the first to publish wins, the other
 * uses its own copy once. No room and no memory are not errors: the caller computes in scratch, to the same bits.
 *
 * Threads  any; one mutex, never held while computing or allocating. Internal to reader/. */
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
    kv  keys;
    int cursor; /* position of the token that follows */
    /* the cache's own */
    prefix_key     key;
    size_t         bytes;
    int            refs;
    bool           published;
    struct prefix_entry *chain, *newer, *older;
} prefix_entry;

prefix_cache *prefix_cache_new(size_t limit_bytes); /* NULL: out of memory */
void          prefix_cache_free(prefix_cache *c, kernels *k); /* NULL is fine; nothing may be held */

const prefix_entry *prefix_cache_find(prefix_cache *c, prefix_key key); /* NULL: not there */
/* NULL: no room */
prefix_entry       *prefix_cache_reserve(prefix_cache *c, kernels *k, prefix_key key, size_t kv_bytes);
void                prefix_cache_publish(prefix_cache *c, prefix_entry *p);
void                prefix_cache_release(prefix_cache *c, kernels *k, const prefix_entry *p); /* NULL is fine */

void prefix_cache_read_stats(prefix_cache *c, reader_cache_stats *out);
void prefix_cache_clear(prefix_cache *c, kernels *k); /* entries in use go when they are released */

#endif
