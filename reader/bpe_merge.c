#include "reader/bpe_merge.h"

#include <stdlib.h>

#include "base/memory.h"

#define NO_PAIR UINT64_MAX

/* --- The table --------------------------------------------------------------------------------------------------- */

bool merge_table_init(merge_table *m, int n_merges, err *e)
{
    uint32_t size = 16;
    while (size < 2u * (uint32_t)n_merges) size *= 2;
    m->mask = size - 1;
    if (!(m->slot = mem_alloc((size_t)size * sizeof *m->slot))) return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    for (uint32_t i = 0; i < size; i++) m->slot[i].key = NO_PAIR;
    return true;
}

void merge_table_free(merge_table *m)
{
    free(m->slot);
    *m = (merge_table){0};
}

static uint64_t key_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

static merge_slot *find(const merge_table *m, int32_t left, int32_t right)
{
    uint64_t key = key_of(left, right);
    uint64_t h = key * 0x9e3779b97f4a7c15u; /* Fibonacci hashing: the upper bits are the mixed ones */
    for (uint32_t i = (uint32_t)(h >> 32);; i++) {
        merge_slot *slot = &m->slot[i & m->mask];
        if (slot->key == key || slot->key == NO_PAIR) return slot;
    }
}

void merge_table_add(merge_table *m, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    *find(m, left, right) = (merge_slot){key_of(left, right), rank, id};
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
static bool pair_at(const merge_table *m, const struct symbol *s, int i, struct pending *out)
{
    if (i < 0 || s[i].id < 0 || s[i].next < 0) return false;
    const merge_slot *slot = find(m, s[i].id, s[s[i].next].id);
    if (slot->key == NO_PAIR) return false;
    *out = (struct pending){slot->rank, i, slot->id};
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

int bpe_merge(const merge_table *m, int32_t *ids, int n, bpe_scratch *sc, arena *a, err *e)
{
    if (n < 2) return n;
    if (!scratch_room(sc, n, a, e)) return -1;
    struct symbol  *s = sc->symbol;
    struct pending *h = sc->heap, top, now;
    int             n_heap = 0, left = 0;

    for (int i = 0; i < n; i++) s[i] = (struct symbol){ids[i], i - 1, i + 1 < n ? i + 1 : -1};
    for (int i = 0; i + 1 < n; i++)
        if (pair_at(m, s, i, &now)) h[n_heap++] = now;
    for (int i = n_heap / 2; i-- > 0;) sift_down(h, n_heap, i);

    while (n_heap > 0) {
        top = h[0];
        h[0] = h[--n_heap];
        sift_down(h, n_heap, 0);
        sc->steps++;
        if (!pair_at(m, s, top.at, &now) || now.id != top.id) continue; /* stale */

        struct symbol *l = &s[top.at], *r = &s[l->next];
        l->id = top.id;
        r->id = -1;
        l->next = r->next;
        if (l->next >= 0) s[l->next].prev = top.at;
        if (pair_at(m, s, l->prev, &now)) heap_push(h, &n_heap, now);
        if (pair_at(m, s, top.at, &now)) heap_push(h, &n_heap, now);
    }
    for (int i = 0; i >= 0; i = s[i].next) ids[left++] = s[i].id;
    return left;
}
