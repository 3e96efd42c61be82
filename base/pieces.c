#include "base/pieces.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"

bool pieces_init(pieces *p, int n_ids, int n, size_t pool_bytes, err *e)
{
    uint32_t size = 16;
    while (size < 2u * (uint32_t)n) size *= 2;
    *p = (pieces){.n_ids = n_ids, .mask = size - 1};
    p->pool = mem_alloc(pool_bytes + 1);
    p->piece = mem_alloc(((size_t)n_ids + 1) * sizeof *p->piece);
    p->slot = mem_alloc((size_t)size * sizeof *p->slot);
    if (!p->pool || !p->piece || !p->slot) {
        pieces_free(p);
        return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    }
    for (int i = 0; i < n_ids; i++) p->piece[i] = (piece){0, -1};
    for (uint32_t i = 0; i < size; i++) p->slot[i] = (piece_slot){0, -1};
    return true;
}

void pieces_free(pieces *p)
{
    free(p->pool);
    free(p->piece);
    free(p->slot);
    *p = (pieces){0};
}

static uint32_t fold(uint64_t h) { return (uint32_t)(h ^ h >> 32); } /* FNV-1a mixes upwards */

/* The slot that holds prefix + s, or the empty one where it would go. */
static piece_slot *slot_of(const pieces *p, uint32_t h, const char *prefix, size_t n_prefix, const char *s,
                           size_t n)
{
    for (uint32_t i = h;; i++) {
        piece_slot *slot = &p->slot[i & p->mask];
        if (slot->id < 0) return slot;
        if (slot->hash != h) continue;
        const piece *q = &p->piece[slot->id];
        const char  *bytes = p->pool + q->off;
        if ((size_t)q->len == n_prefix + n && memcmp(bytes, prefix, n_prefix) == 0 &&
            memcmp(bytes + n_prefix, s, n) == 0)
            return slot;
    }
}

static uint64_t hash_of(const char *s, size_t n)
{
    uint64_t h = FNV_START;
    for (size_t i = 0; i < n; i++) h = fnv_byte(h, s[i]);
    return h;
}

bool pieces_add(pieces *p, int32_t id, const char *s, size_t n)
{
    uint32_t    h = fold(hash_of(s, n));
    piece_slot *slot = slot_of(p, h, "", 0, s, n);
    if (slot->id >= 0 || p->piece[id].len >= 0) return false;
    p->piece[id] = (piece){(uint32_t)p->pool_bytes, (int32_t)n};
    memcpy(p->pool + p->pool_bytes, s, n);
    p->pool_bytes += n;
    if ((int)n > p->longest) p->longest = (int)n;
    *slot = (piece_slot){h, id};
    return true;
}

int32_t pieces_find(const pieces *p, const char *s, size_t n)
{
    return slot_of(p, fold(hash_of(s, n)), "", 0, s, n)->id;
}

int32_t pieces_find_hashed(const pieces *p, uint64_t h, const char *prefix, size_t n_prefix, const char *s,
                           size_t n)
{
    return slot_of(p, fold(h), prefix, n_prefix, s, n)->id;
}
