/* arena.c - a chain of blocks, each twice as large as the last; a reset keeps the blocks.
 * After a reset that needed several blocks they are merged into one of the high-water size on the next first take,
 * so that a steady load settles on one block and no malloc. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { ALIGN = 64, FIRST_BLOCK = 64 * 1024 };

typedef struct block {
    struct block *next;
    size_t        size, used; /* of data */
    unsigned char *data;      /* ALIGN-aligned */
} block;

struct arena {
    block *first, *current;
    size_t limit, total, high; /* total: bytes taken since the last reset */
};

arena *arena_new(size_t limit_bytes)
{
    arena *a = mem_zalloc(1, sizeof *a);
    if (a) a->limit = limit_bytes;
    return a;
}

static void free_blocks(block *b)
{
    while (b) {
        block *next = b->next;
        free(b->data);
        free(b);
        b = next;
    }
}

void arena_free(arena *a)
{
    if (!a) return;
    free_blocks(a->first);
    free(a);
}

void arena_reset(arena *a)
{
    if (a->first && a->first->next) { /* several blocks: start over with one that holds everything */
        free_blocks(a->first);
        a->first = NULL;
    }
    if (a->first) a->first->used = 0;
    a->current = a->first;
    a->total = 0;
}

static block *new_block(size_t size)
{
    block *b = mem_zalloc(1, sizeof *b);
    if (!b) return NULL;
    b->data = mem_aligned(ALIGN, size);
    if (!b->data) {
        free(b);
        return NULL;
    }
    b->size = size;
    return b;
}

/* A block with room for bytes behind current, reused if the chain has one. */
static bool grow(arena *a, size_t bytes)
{
    while (a->current && a->current->next) {
        a->current = a->current->next;
        a->current->used = 0;
        if (a->current->size >= bytes) return true;
    }
    size_t size = a->current ? a->current->size * 2 : (a->high > FIRST_BLOCK ? a->high : FIRST_BLOCK);
    if (size < bytes) size = bytes;
    block *b = new_block(size);
    if (!b && size > bytes) b = new_block(bytes);
    if (!b) return false;
    if (a->current) a->current->next = b;
    else a->first = b;
    a->current = b;
    return true;
}

void *arena_take(arena *a, size_t bytes, err *e)
{
    if (bytes > SIZE_MAX / 2) {
        err_set(e, ERR_MEMORY, "out of memory: a piece of %zu bytes was asked for", bytes);
        return NULL;
    }
    size_t n = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (n == 0) n = ALIGN;
    if (a->limit && n > a->limit - (a->total < a->limit ? a->total : a->limit)) {
        err_set(e, ERR_MEMORY, "out of memory: a request may use %zu bytes", a->limit);
        return NULL;
    }
    if ((!a->current || a->current->size - a->current->used < n) && !grow(a, n)) {
        err_set(e, ERR_MEMORY, "out of memory");
        return NULL;
    }
    void *p = a->current->data + a->current->used;
    a->current->used += n;
    a->total += n;
    if (a->total > a->high) a->high = a->total;
    return memset(p, 0, n);
}

void *arena_take_n(arena *a, size_t n, size_t size, err *e)
{
    if (size && n > SIZE_MAX / 2 / size) {
        err_set(e, ERR_MEMORY, "out of memory: %zu pieces of %zu bytes were asked for", n, size);
        return NULL;
    }
    return arena_take(a, n * size, e);
}

char *arena_strndup(arena *a, const char *s, size_t n, err *e)
{
    char *p = arena_take(a, n + 1, e);
    if (p) memcpy(p, s, n); /* the zero is there: taken memory is zeroed */
    return p;
}

char *arena_strdup(arena *a, const char *s, err *e) { return arena_strndup(a, s, strlen(s), e); }

char *arena_printf(arena *a, err *e, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int   n = vsnprintf(NULL, 0, fmt, ap);
    char *p = n < 0 ? NULL : arena_take(a, (size_t)n + 1, e);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, again);
    if (n < 0) err_set(e, ERR_BUG, "format failed");
    va_end(again);
    va_end(ap);
    return p;
}

arena_mark arena_here(const arena *a)
{
    return (arena_mark){a->current, a->current ? a->current->used : 0, a->total};
}

void arena_back(arena *a, arena_mark m)
{
    a->current = m.block ? m.block : a->first;
    if (a->current) a->current->used = m.used;
    a->total = m.total;
}

size_t arena_high_water(const arena *a) { return a->high; }
