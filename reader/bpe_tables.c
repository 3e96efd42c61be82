#include "reader/bpe_tables.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define NO_PAIR UINT64_MAX

/* --- Tables ------------------------------------------------------------------------------------------------------ */

/* The smallest 2^k - 1 that leaves a table of n entries at most half full. */
static uint32_t mask_for(int n)
{
    uint32_t size = 16;
    while (size < 2u * (uint32_t)n) size *= 2;
    return size - 1;
}

bool bpe_tables_init(bpe_tables *v, int n_ids, int n_pieces, size_t pool_bytes, int n_merges, err *e)
{
    *v = (bpe_tables){.n_ids = n_ids, .piece_mask = mask_for(n_pieces), .merge_mask = mask_for(n_merges)};
    v->pool     = mem_alloc(pool_bytes + 1);
    v->piece    = mem_alloc(((size_t)n_ids + 1) * sizeof *v->piece);
    v->by_bytes = mem_alloc(((size_t)v->piece_mask + 1) * sizeof *v->by_bytes);
    v->merge    = mem_alloc(((size_t)v->merge_mask + 1) * sizeof *v->merge);
    if (!v->pool || !v->piece || !v->by_bytes || !v->merge) {
        bpe_tables_free(v);
        return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    }
    for (int i = 0; i < n_ids; i++) v->piece[i] = (piece){0, -1};
    for (uint32_t i = 0; i <= v->piece_mask; i++) v->by_bytes[i] = -1;
    for (uint32_t i = 0; i <= v->merge_mask; i++) v->merge[i].key = NO_PAIR;
    for (int i = 0; i < 256; i++) v->byte_id[i] = -1;
    return true;
}

void bpe_tables_free(bpe_tables *v)
{
    free(v->pool);
    free(v->piece);
    free(v->by_bytes);
    free(v->merge);
    *v = (bpe_tables){0};
}

/* FNV-1a, its upper bits mixed in: the table uses the lower ones. */
static uint32_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

/* The slot that holds s, or the empty one where it would go. */
static int32_t *piece_slot(const bpe_tables *v, const char *s, size_t n)
{
    for (uint32_t i = hash_bytes(s, n);; i++) {
        int32_t *slot = &v->by_bytes[i & v->piece_mask];
        if (*slot < 0) return slot;
        const piece *p = &v->piece[*slot];
        if ((size_t)p->len == n && memcmp(v->pool + p->off, s, n) == 0) return slot;
    }
}

bool bpe_tables_add(bpe_tables *v, int32_t id, const char *s, size_t n)
{
    int32_t *slot = piece_slot(v, s, n);
    if (*slot >= 0 || v->piece[id].len >= 0) return false;
    v->piece[id] = (piece){(uint32_t)v->pool_bytes, (int32_t)n};
    memcpy(v->pool + v->pool_bytes, s, n);
    v->pool_bytes += n;
    *slot = id;
    if (n == 1) v->byte_id[(uint8_t)s[0]] = id;
    return true;
}

int32_t bpe_tables_find(const bpe_tables *v, const char *s, size_t n) { return *piece_slot(v, s, n); }

static merge_slot *merge_find(const bpe_tables *v, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t h = key * 0x9e3779b97f4a7c15u; /* Fibonacci hashing: the upper bits are the mixed ones */
    for (uint32_t i = (uint32_t)(h >> 32);; i++) {
        merge_slot *slot = &v->merge[i & v->merge_mask];
        if (slot->key == key || slot->key == NO_PAIR) return slot;
    }
}

void bpe_tables_add_merge(bpe_tables *v, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    *merge_find(v, left, right) = (merge_slot){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id};
}

/* --- The merge loop ----------------------------------------------------------------------------------------------
 * Symbols are a doubly linked list over the byte positions; pairs that can merge wait in a heap, lowest rank first, and
 * equal ranks left to right. A merge makes the left symbol longer and takes the right one out, so pairs that wait may go
 * stale: one is current if the two symbols there now still merge to the id it was noted with. (A symbol only grows, so
 * the same id can only come from the same two.) */

struct symbol { int32_t id, prev, next; }; /* id -1: merged into its left neighbour; prev, next -1: none */

struct pending { int32_t rank, at, id; };

static bool before(const struct pending *x, const struct pending *y)
{
    return x->rank != y->rank ? x->rank < y->rank : x->at < y->at;
}

static void sift_down(struct pending *h, int n, int i)
{
    struct pending x = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&h[child + 1], &h[child])) child++;
        if (!before(&h[child], &x)) break;
        h[i] = h[child];
    }
    h[i] = x;
}

static void heap_push(struct pending *h, int *n, struct pending x)
{
    int i = (*n)++;
    for (int up; i > 0 && before(&x, &h[up = (i - 1) / 2]); i = up) h[i] = h[up];
    h[i] = x;
}

/* The merge of the symbol at i with the one that follows, if there is one. */
static bool pair_at(const bpe_tables *v, const struct symbol *s, int i, struct pending *out)
{
    if (i < 0 || s[i].id < 0 || s[i].next < 0) return false;
    const merge_slot *m = merge_find(v, s[i].id, s[s[i].next].id);
    if (m->key == NO_PAIR) return false;
    *out = (struct pending){m->rank, i, m->id};
    return true;
}

static bool scratch_room(bpe_scratch *sc, int n, arena *a, err *e)
{
    if (sc->room >= n) return true;
    int room = n < 128 ? 256 : 2 * n;
    sc->symbol = ARENA_NEW(a, struct symbol, room, e);
    sc->heap   = sc->symbol ? ARENA_NEW(a, struct pending, 2 * (size_t)room, e) : NULL; /* n - 1 at first, one more a merge */
    sc->room   = sc->heap ? room : 0;
    return sc->heap != NULL;
}

int bpe_merge(const bpe_tables *v, int32_t *ids, int n, bpe_scratch *sc, arena *a, err *e)
{
    if (n < 2) return n;
    if (!scratch_room(sc, n, a, e)) return -1;
    struct symbol  *s = sc->symbol;
    struct pending *h = sc->heap, top, now;
    int             n_heap = 0, left = 0;

    for (int i = 0; i < n; i++) s[i] = (struct symbol){ids[i], i - 1, i + 1 < n ? i + 1 : -1};
    for (int i = 0; i + 1 < n; i++)
        if (pair_at(v, s, i, &now)) h[n_heap++] = now;
    for (int i = n_heap / 2; i-- > 0;) sift_down(h, n_heap, i);

    while (n_heap > 0) {
        top = h[0];
        h[0] = h[--n_heap];
        sift_down(h, n_heap, 0);
        sc->steps++;
        if (!pair_at(v, s, top.at, &now) || now.id != top.id) continue; /* stale */

        struct symbol *l = &s[top.at], *r = &s[l->next];
        l->id = top.id;
        r->id = -1;
        l->next = r->next;
        if (l->next >= 0) s[l->next].prev = top.at;
        if (pair_at(v, s, l->prev, &now)) heap_push(h, &n_heap, now);
        if (pair_at(v, s, top.at, &now)) heap_push(h, &n_heap, now);
    }
    for (int i = 0; i >= 0; i = s[i].next) ids[left++] = s[i].id;
    return left;
}
