#include "reader/prefix_cache.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/memory.h"

enum { BUCKETS = 4096 }; /* 1 GB of 2 MB prefixes is 512 entries; the demonstration's 150 KB ones make 7,000 */

typedef struct {
    prefix_entry *bucket[BUCKETS];
    prefix_entry *newest, *oldest; /* of the published ones, held or not */
    size_t        bytes, limit;
    int           entries;
    uint64_t      evictions;
} tier;

/* The host's memory is cut into blocks of one size, taken as they are first needed and then kept: prefixes of any
 * length change places without a gap that fits none, and locking pages, which is slow, is done once a block. */
struct prefix_cache {
    pthread_mutex_t lock;
    tier            device, host;
    void           *spare;        /* blocks that no copy uses; each begins with the address of the next */
    size_t          pinned_bytes; /* of all blocks */
    uint64_t        hits, host_hits, misses;
};

prefix_key prefix_key_of(int64_t passage, int64_t adapter, image_policy policy, const char *caption)
{
    return (prefix_key){passage, adapter, policy, fnv_text(caption)};
}

bool prefix_key_same(prefix_key x, prefix_key y)
{
    return x.passage == y.passage && x.adapter == y.adapter && x.policy == y.policy && x.caption == y.caption;
}

static size_t slot(prefix_key k)
{
    uint64_t h = ((uint64_t)k.passage * 0x9e3779b97f4a7c15u) ^ ((uint64_t)k.adapter << 32)
                 ^ ((uint64_t)k.policy << 60) ^ k.caption;
    return (size_t)((h ^ h >> 29) % BUCKETS);
}

prefix_cache *prefix_cache_new(size_t limit_bytes, size_t host_bytes)
{
    prefix_cache *c = mem_zalloc(1, sizeof *c);
    if (!c) return NULL;
    c->device.limit = limit_bytes;
    c->host.limit = host_bytes;
    if (pthread_mutex_init(&c->lock, NULL) != 0) { free(c); return NULL; }
    return c;
}

static void drop(kernels *k, prefix_entry *p)
{
    if (p->keys.data) k->free_(k, p->keys.data);
    free(p);
}

/* --- under the lock from here on --- */

static tier *tier_of(prefix_cache *c, const prefix_entry *p) { return p->n_blocks ? &c->host : &c->device; }

static void list_add(tier *t, prefix_entry *p)
{
    p->newer = NULL;
    p->older = t->newest;
    *(t->newest ? &t->newest->newer : &t->oldest) = p;
    t->newest = p;
}

static void list_remove(tier *t, prefix_entry *p)
{
    *(p->newer ? &p->newer->older : &t->newest) = p->older;
    *(p->older ? &p->older->newer : &t->oldest) = p->newer;
}

/* The entry of that key, now the most recently used; NULL: none. */
static prefix_entry *lookup(tier *t, prefix_key key)
{
    prefix_entry *p = t->bucket[slot(key)];
    while (p && !prefix_key_same(p->key, key)) p = p->chain;
    if (p) {
        list_remove(t, p);
        list_add(t, p);
    }
    return p;
}

static void unpublish(tier *t, prefix_entry *p)
{
    prefix_entry **at = &t->bucket[slot(p->key)];
    while (*at != p) at = &(*at)->chain;
    *at = p->chain;
    list_remove(t, p);
    p->published = false;
    t->entries--;
}

static void give_blocks(prefix_cache *c, prefix_entry *p)
{
    while (p->n_blocks) {
        void **block = p->block[--p->n_blocks];
        *block = c->spare;
        c->spare = block;
    }
}

/* p is used no more: a copy's blocks are the next one's, what lies on the device is freed once the lock is gone. */
static void discount(prefix_cache *c, prefix_entry *p)
{
    tier_of(c, p)->bytes -= p->bytes;
    give_blocks(c, p);
}

/* Take p out and put it on the list of what is to be freed. Returns where the next one goes on it, behind p. */
static prefix_entry **retire(prefix_cache *c, prefix_entry *p, prefix_entry **freed)
{
    unpublish(tier_of(c, p), p);
    discount(c, p);
    p->chain = *freed;
    *freed = p;
    return &p->chain;
}

/* Make room for bytes more by retiring the oldest that nobody holds, in that order: so they come to be in the tier
 * below. */
static bool make_room(prefix_cache *c, tier *t, size_t bytes, prefix_entry **freed)
{
    if (bytes > t->limit) return false; /* would empty the cache for nothing */
    for (prefix_entry *p = t->oldest; t->bytes > t->limit - bytes; ) {
        if (!p) return false;
        prefix_entry *next = p->newer;
        if (p->refs == 0) {
            freed = retire(c, p, freed);
            t->evictions++;
        }
        p = next;
    }
    return true;
}

/* --- end of that --- */

static void free_list(kernels *k, prefix_entry *p)
{
    while (p) {
        prefix_entry *next = p->chain;
        drop(k, p);
        p = next;
    }
}

/* A copy of p, to be filled, with all its blocks. NULL: a copy is there already, or there is no room. */
static prefix_entry *reserve_below(prefix_cache *c, kernels *k, const prefix_entry *p)
{
    int           n = (int)((p->kv_bytes + PREFIX_BLOCK_BYTES - 1) / PREFIX_BLOCK_BYTES);
    size_t        bytes = (size_t)n * PREFIX_BLOCK_BYTES;
    prefix_entry *freed = NULL, *copy = mem_zalloc(1, sizeof *copy + (size_t)n * sizeof *copy->block);
    if (!copy) return NULL;
    *copy = (prefix_entry){.keys = p->keys, .cursor = p->cursor, .key = p->key, .bytes = bytes,
                           .kv_bytes = p->kv_bytes, .refs = 1};
    copy->keys.data = NULL;

    pthread_mutex_lock(&c->lock);
    bool room = !lookup(&c->host, p->key) && make_room(c, &c->host, bytes, &freed);
    if (room) c->host.bytes += bytes;
    for (; room && copy->n_blocks < n && c->spare; c->spare = *(void **)c->spare)
        copy->block[copy->n_blocks++] = c->spare;
    int old = copy->n_blocks;
    pthread_mutex_unlock(&c->lock);
    free_list(k, freed);
    if (!room) { free(copy); return NULL; }

    while (copy->n_blocks < n && (copy->block[copy->n_blocks] = k->alloc_host(k, PREFIX_BLOCK_BYTES)))
        copy->n_blocks++;
    bool whole = copy->n_blocks == n;
    pthread_mutex_lock(&c->lock);
    c->pinned_bytes += (size_t)(copy->n_blocks - old) * PREFIX_BLOCK_BYTES;
    if (!whole) {
        c->host.limit = c->pinned_bytes; /* else nothing would be evicted from the tier any more, nor come into it */
        c->host.bytes -= bytes;
        give_blocks(c, copy);
    }
    pthread_mutex_unlock(&c->lock);
    if (whole) return copy;
    free(copy);
    return NULL;
}

/* Where block i of a copy begins in its keys and values, and how long it is. */
static size_t block_at(const prefix_entry *p, int i, size_t *bytes)
{
    size_t at = (size_t)i * PREFIX_BLOCK_BYTES, left = p->kv_bytes - at;
    *bytes = left < PREFIX_BLOCK_BYTES ? left : PREFIX_BLOCK_BYTES;
    return at;
}

/* Free p, which was evicted and nobody else has, after a copy of it. A device that fails here is told by the
 * request's next operation. */
static void move_below(prefix_cache *c, kernels *k, prefix_entry *p)
{
    err           ignored = {0};
    prefix_entry *copy = reserve_below(c, k, p);
    for (int i = 0; copy && i < copy->n_blocks; i++) {
        size_t bytes, at = block_at(copy, i, &bytes);
        k->save(k, copy->block[i], (const char *)p->keys.data + at, bytes);
    }
    if (copy && k->sync(k, &ignored)) prefix_cache_publish(c, copy);
    drop(k, p); /* first: it waits for the device, which after a failure may still write to the blocks */
    prefix_cache_release(c, k, copy);
}

void prefix_cache_restore(const prefix_entry *p, kernels *k, act *dst)
{
    for (int i = 0; dst && i < p->n_blocks; i++) { /* NULL: scratch ran out, which is kept */
        size_t bytes, at = block_at(p, i, &bytes);
        k->restore(k, (char *)dst + at, p->block[i], bytes);
    }
}

const prefix_entry *prefix_cache_find(prefix_cache *c, prefix_key key)
{
    pthread_mutex_lock(&c->lock);
    prefix_entry *p = lookup(&c->device, key);
    if (!p && (p = lookup(&c->host, key))) c->host_hits++;
    if (p) p->refs++;
    *(p ? &c->hits : &c->misses) += 1;
    pthread_mutex_unlock(&c->lock);
    return p;
}

prefix_entry *prefix_cache_reserve(prefix_cache *c, kernels *k, prefix_key key, size_t kv_bytes)
{
    size_t        bytes = kv_bytes + sizeof(prefix_entry), going = 0;
    prefix_entry *freed = NULL;
    pthread_mutex_lock(&c->lock);
    bool room = make_room(c, &c->device, bytes, &freed), below = c->host.limit > 0;
    for (const prefix_entry *p = freed; p; p = p->chain) going += p->bytes;
    /* What is freed stays counted until it is: of it `bytes` become ours, the others may have the rest then. */
    size_t taken = room ? bytes : 0, rest = going > taken ? going - taken : 0;
    c->device.bytes += taken + rest;
    pthread_mutex_unlock(&c->lock);
    for (prefix_entry *next; below && freed; freed = next) {
        next = freed->chain;
        move_below(c, k, freed);
    }
    free_list(k, freed);

    prefix_entry *p = room ? mem_zalloc(1, sizeof *p) : NULL;
    if (p) *p = (prefix_entry){.key = key, .bytes = bytes, .kv_bytes = kv_bytes, .refs = 1,
                               .keys.data = k->alloc(k, kv_bytes)};
    bool made = p && p->keys.data;
    if (!made) free(p);
    pthread_mutex_lock(&c->lock);
    c->device.bytes -= rest + (made ? 0 : taken);
    pthread_mutex_unlock(&c->lock);
    return made ? p : NULL;
}

void prefix_cache_publish(prefix_cache *c, prefix_entry *p)
{
    tier *t = tier_of(c, p);
    pthread_mutex_lock(&c->lock);
    if (!lookup(t, p->key)) {
        prefix_entry **at = &t->bucket[slot(p->key)];
        p->chain = *at;
        *at = p;
        list_add(t, p);
        p->published = true;
        t->entries++;
    }
    pthread_mutex_unlock(&c->lock);
}

void prefix_cache_release(prefix_cache *c, kernels *k, const prefix_entry *held)
{
    if (!held) return;
    prefix_entry *p = (prefix_entry *)held; /* ours: readers only borrow it as const */
    pthread_mutex_lock(&c->lock);
    bool gone = --p->refs == 0 && !p->published;
    if (gone) discount(c, p);
    pthread_mutex_unlock(&c->lock);
    if (gone) drop(k, p);
}

static void empty(prefix_cache *c, tier *t, prefix_entry **freed)
{
    for (prefix_entry *p = t->oldest, *next; p; p = next) {
        next = p->newer;
        if (p->refs == 0) retire(c, p, freed);
        else unpublish(t, p); /* the last release frees it and gives its bytes back */
    }
}

void prefix_cache_clear(prefix_cache *c, kernels *k)
{
    prefix_entry *freed = NULL;
    pthread_mutex_lock(&c->lock);
    empty(c, &c->device, &freed);
    empty(c, &c->host, &freed);
    pthread_mutex_unlock(&c->lock);
    free_list(k, freed);
}

void prefix_cache_read_stats(prefix_cache *c, reader_cache_stats *out)
{
    pthread_mutex_lock(&c->lock);
    *out = (reader_cache_stats){.hits = c->hits, .host_hits = c->host_hits, .misses = c->misses,
                                .evictions = c->device.evictions, .bytes = c->device.bytes,
                                .limit_bytes = c->device.limit, .entries = c->device.entries,
                                .host_evictions = c->host.evictions, .host_bytes = c->host.bytes,
                                .host_limit_bytes = c->host.limit, .host_entries = c->host.entries};
    pthread_mutex_unlock(&c->lock);
}

void prefix_cache_free(prefix_cache *c, kernels *k)
{
    if (!c) return;
    prefix_cache_clear(c, k);
    for (void *next; c->spare; c->spare = next) {
        next = *(void **)c->spare;
        k->free_host(k, c->spare);
    }
    pthread_mutex_destroy(&c->lock);
    free(c);
}
