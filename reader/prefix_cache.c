#include "reader/prefix_cache.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/memory.h"

enum { BUCKETS = 4096 }; /* 1 GB of 2 MB prefixes is 512 entries; the demonstration's 150 KB ones make 7,000 */

struct prefix_cache {
    pthread_mutex_t lock;
    prefix_entry   *bucket[BUCKETS];
    prefix_entry   *newest, *oldest; /* of the published ones, held or not */
    size_t          bytes, limit;
    int             entries;
    uint64_t        hits, misses, evictions;
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

prefix_cache *prefix_cache_new(size_t limit_bytes)
{
    prefix_cache *c = mem_zalloc(1, sizeof *c);
    if (!c) return NULL;
    c->limit = limit_bytes;
    if (pthread_mutex_init(&c->lock, NULL) != 0) { free(c); return NULL; }
    return c;
}

static void drop(kernels *k, prefix_entry *p)
{
    if (p->keys.data) k->free_(k, p->keys.data);
    free(p);
}

/* --- under the lock from here on --- */

static void list_add(prefix_cache *c, prefix_entry *p)
{
    p->newer = NULL;
    p->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = p;
    c->newest = p;
}

static void list_remove(prefix_cache *c, prefix_entry *p)
{
    *(p->newer ? &p->newer->older : &c->newest) = p->older;
    *(p->older ? &p->older->newer : &c->oldest) = p->newer;
}

static prefix_entry *lookup(prefix_cache *c, prefix_key key)
{
    prefix_entry *p = c->bucket[slot(key)];
    while (p && !prefix_key_same(p->key, key)) p = p->chain;
    return p;
}

static void unpublish(prefix_cache *c, prefix_entry *p)
{
    prefix_entry **at = &c->bucket[slot(p->key)];
    while (*at != p) at = &(*at)->chain;
    *at = p->chain;
    list_remove(c, p);
    p->published = false;
    c->entries--;
}

/* Take p out and put it on the list of what is to be freed once the lock is gone. */
static void retire(prefix_cache *c, prefix_entry *p, prefix_entry **freed)
{
    unpublish(c, p);
    c->bytes -= p->bytes;
    p->chain = *freed;
    *freed = p;
}

/* Make room for bytes more by retiring the oldest that nobody holds. */
static bool make_room(prefix_cache *c, size_t bytes, prefix_entry **freed)
{
    if (bytes > c->limit) return false; /* would empty the cache for nothing */
    for (prefix_entry *p = c->oldest; c->bytes > c->limit - bytes; ) {
        if (!p) return false;
        prefix_entry *next = p->newer;
        if (p->refs == 0) {
            retire(c, p, freed);
            c->evictions++;
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

const prefix_entry *prefix_cache_find(prefix_cache *c, prefix_key key)
{
    pthread_mutex_lock(&c->lock);
    prefix_entry *p = lookup(c, key);
    if (p) {
        p->refs++;
        list_remove(c, p);
        list_add(c, p);
    }
    *(p ? &c->hits : &c->misses) += 1;
    pthread_mutex_unlock(&c->lock);
    return p;
}

prefix_entry *prefix_cache_reserve(prefix_cache *c, kernels *k, prefix_key key, size_t kv_bytes)
{
    size_t  bytes = kv_bytes + sizeof(prefix_entry);
    prefix_entry *freed = NULL;
    pthread_mutex_lock(&c->lock);
    bool room = make_room(c, bytes, &freed);
    if (room) c->bytes += bytes;
    pthread_mutex_unlock(&c->lock);
    free_list(k, freed);
    if (!room) return NULL;

    prefix_entry *p = mem_zalloc(1, sizeof *p);
    if (p) {
        *p = (prefix_entry){.key = key, .bytes = bytes, .refs = 1, .keys.data = k->alloc(k, kv_bytes)};
        if (p->keys.data) return p;
    }
    free(p);
    pthread_mutex_lock(&c->lock);
    c->bytes -= bytes;
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void prefix_cache_publish(prefix_cache *c, prefix_entry *p)
{
    pthread_mutex_lock(&c->lock);
    if (!lookup(c, p->key)) {
        prefix_entry **at = &c->bucket[slot(p->key)];
        p->chain = *at;
        *at = p;
        list_add(c, p);
        p->published = true;
        c->entries++;
    }
    pthread_mutex_unlock(&c->lock);
}

void prefix_cache_release(prefix_cache *c, kernels *k, const prefix_entry *held)
{
    if (!held) return;
    prefix_entry *p = (prefix_entry *)held; /* ours: readers only borrow it as const */
    pthread_mutex_lock(&c->lock);
    bool gone = --p->refs == 0 && !p->published;
    if (gone) c->bytes -= p->bytes;
    pthread_mutex_unlock(&c->lock);
    if (gone) drop(k, p);
}

void prefix_cache_clear(prefix_cache *c, kernels *k)
{
    prefix_entry *freed = NULL;
    pthread_mutex_lock(&c->lock);
    for (prefix_entry *p = c->oldest, *next; p; p = next) {
        next = p->newer;
        if (p->refs == 0) retire(c, p, &freed);
        else unpublish(c, p); /* the last release frees it and gives its bytes back */
    }
    pthread_mutex_unlock(&c->lock);
    free_list(k, freed);
}

void prefix_cache_read_stats(prefix_cache *c, reader_cache_stats *out)
{
    pthread_mutex_lock(&c->lock);
    *out = (reader_cache_stats){.hits = c->hits, .misses = c->misses, .evictions = c->evictions,
                                .bytes = c->bytes, .limit_bytes = c->limit, .entries = c->entries};
    pthread_mutex_unlock(&c->lock);
}

void prefix_cache_free(prefix_cache *c, kernels *k)
{
    if (!c) return;
    prefix_cache_clear(c, k);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
