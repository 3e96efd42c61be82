#include "reader/bpe_merge.h"

#include <stdlib.h>

#include "base/memory.h"

#define NO_PAIR UINT64_MAX

/* --- The table ------------------------------------------------------------------------------------------ */

bool merge_table_init(merge_table *m, int n_merges, err *e)
{
    uint32_t size = 16;
    while (size < 2u * (uint32_t)n_merges) size *= 2;
    m->mask = size - 1;
    if (!(m->slot = mem_alloc((size_t)size * sizeof *m->slot)))
        return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    for (uint32_t i = 0; i < size; i++) m->slot[i].key = NO_PAIR;
    return true;
}

void merge_table_free(merge_table *m)
{
    free(m->slot);
    *m = (merge_table){0};
}

static uint64_t key_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

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

/* --- The merge loop ----------------------------------------------------------------------------------------
 * Symbols are a doubly linked list over the positions; pairs that can merge wait in a heap, lowest rank
 * first, equal ranks left to right. A merge makes the left symbol longer and takes the right one out, so what
 * waits may go stale: an entry counts if the two symbols there now still have its rank (a rank belongs to one
 * pair of ids). */

struct symbol { int32_t id, prev, next; }; /* id -1: merged into its left neighbour; prev, next -1: none */

/* The heap is 4-ary, and an entry is rank << 32 | position: entries compare as numbers, and the children
 * of a node share a cache line: 1 MB of one letter took less than half the time of a binary heap of 12-byte
 * entries. */
enum { ARITY = 4 };

static void sift_down(uint64_t *h, int n, int i)
{
    uint64_t x = h[i];
    for (int child; (child = ARITY * i + 1) < n;) {
        int end = child + ARITY < n ? child + ARITY : n, least = child;
        while (++child < end)
            if (h[child] < h[least]) least = child;
        if (h[least] >= x) break;
        h[i] = h[least];
        i = least;
    }
    h[i] = x;
}

static void heap_push(uint64_t *h, int *n, uint64_t x)
{
    int i = (*n)++;
    for (int up; i > 0 && x < h[up = (i - 1) / ARITY]; i = up) h[i] = h[up];
    h[i] = x;
}

/* The merge of the symbol at i with the one that follows; NULL: none. */
static const merge_slot *pair_at(const merge_table *m, const struct symbol *s, int i)
{
    if (i < 0 || s[i].id < 0 || s[i].next < 0) return NULL;
    const merge_slot *slot = find(m, s[i].id, s[s[i].next].id);
    return slot->key == NO_PAIR ? NULL : slot;
}

static uint64_t entry(const merge_slot *slot, int at)
{
    return (uint64_t)(uint32_t)slot->rank << 32 | (uint32_t)at;
}

static bool scratch_room(bpe_scratch *sc, int n, arena *a, err *e)
{
    if (sc->room >= n) return true;
    int room = n < 256 ? 256 : n + n / 2;
    sc->symbol = ARENA_NEW(a, struct symbol, room, e);
    /* n - 1 at first, one more a merge */
    sc->heap = sc->symbol ? ARENA_NEW(a, uint64_t, 2 * (size_t)room, e) : NULL;
    sc->room = sc->heap ? room : 0;
    return sc->heap != NULL;
}

int bpe_merge(const merge_table *m, int32_t *ids, int n, bpe_scratch *sc, arena *a, err *e)
{
    if (n < 2) return n;
    if (!scratch_room(sc, n, a, e)) return -1;
    struct symbol    *s = sc->symbol;
    uint64_t         *h = sc->heap;
    const merge_slot *slot;
    int               n_heap = 0, left = 0;

    for (int i = 0; i < n; i++) s[i] = (struct symbol){ids[i], i - 1, i + 1 < n ? i + 1 : -1};
    for (int i = 0; i + 1 < n; i++)
        if ((slot = pair_at(m, s, i))) h[n_heap++] = entry(slot, i);
    for (int i = n_heap / ARITY + 1; i-- > 0;)
        if (i < n_heap) sift_down(h, n_heap, i);

    while (n_heap > 0) {
        uint64_t top = h[0];
        int      at = (int)(uint32_t)top;
        h[0] = h[--n_heap];
        if (n_heap > 0) sift_down(h, n_heap, 0);
        sc->steps++;
        if (!(slot = pair_at(m, s, at)) || entry(slot, at) != top) continue; /* stale */

        struct symbol *l = &s[at], *r = &s[l->next];
        l->id = slot->id;
        r->id = -1;
        l->next = r->next;
        if (l->next >= 0) s[l->next].prev = at;
        if ((slot = pair_at(m, s, l->prev))) heap_push(h, &n_heap, entry(slot, l->prev));
        if ((slot = pair_at(m, s, at))) heap_push(h, &n_heap, entry(slot, at));
    }
    for (int i = 0; i >= 0; i = s[i].next) ids[left++] = s[i].id;
    return left;
}
