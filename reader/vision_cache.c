#include "reader/vision_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Two, since a worker of eval has one picture at a time and a viewer's user goes back and forth between two.
 * 324 tokens of width 3,584 in f32 are 4.6 MB; a picture of more than PLACE_BYTES is not kept. */
enum { PLACES = 2, PLACE_BYTES = 32 << 20 };

typedef struct {
    uint8_t      picture[32]; /* image_hash() */
    int          adapter;
    image_policy policy;
    size_t       n; /* activations of its tokens: by it another reader's would be told apart */
} picture_key;

typedef struct {
    picture_key key;
    bool        valid;
    act        *tokens;
    size_t      room; /* activations that fit */
    uint64_t    used; /* when it was last */
} place;

struct vision_cache {
    kernels *k;
    place    at[PLACES];
    uint64_t now;
    vision_cache_stats stats;
};

vision_cache *vision_cache_new(kernels *k)
{
    vision_cache *c = mem_zalloc(1, sizeof *c);
    if (c) c->k = k;
    return c;
}

void vision_cache_free(vision_cache *c)
{
    if (!c) return;
    for (int i = 0; i < PLACES; i++)
        if (c->at[i].tokens) c->k->free_(c->k, c->at[i].tokens);
    free(c);
}

vision_cache_stats vision_cache_read_stats(const vision_cache *c) { return c->stats; }

static bool same(const picture_key *x, const picture_key *y)
{
    return x->adapter == y->adapter && x->policy == y->policy && x->n == y->n
        && memcmp(x->picture, y->picture, sizeof x->picture) == 0;
}

static place *lookup(vision_cache *c, const picture_key *key)
{
    for (int i = 0; i < PLACES; i++)
        if (c->at[i].valid && same(&c->at[i].key, key)) return &c->at[i];
    return NULL;
}

static place *least_recently_used(vision_cache *c)
{
    place *p = &c->at[0];
    for (int i = 1; i < PLACES; i++)
        if (c->at[i].used < p->used) p = &c->at[i];
    return p;
}

/* Room for n activations; what was in p is gone. */
static bool make_room(place *p, kernels *k, size_t n)
{
    if (n > PLACE_BYTES / (size_t)k->act_bytes) return false;
    p->valid = false;
    if (p->room >= n) return true;
    if (p->tokens) k->free_(k, p->tokens);
    p->tokens = k->alloc(k, n * (size_t)k->act_bytes);
    p->room = p->tokens ? n : 0;
    return p->tokens != NULL;
}

bool vision_cache_take(vision_cache *c, kernels *k, const image *img, image_policy policy, int adapter, size_t n,
                       vision_fill fill, void *ctx, act **out, err *e)
{
    picture_key key = {.adapter = adapter, .policy = policy, .n = n};
    image_hash(key.picture, img);
    *out = NULL;
    place *p = lookup(c, &key);
    if (p) {
        c->stats.reused++;
    } else {
        c->stats.encoded++; /* also where the caller has to, for lack of room */
        p = least_recently_used(c);
        if (!make_room(p, k, n)) return true;
        /* Only what is known to be complete is kept: a device may fail after the call. */
        if (!fill(ctx, p->tokens, e) || !k->sync(k, e)) return false;
        p->key = key;
        p->valid = true;
    }
    p->used = ++c->now;
    *out = p->tokens;
    return true;
}
