/* arena.h - memory of one request: taken in pieces, given back all at once.
 * Threads  one arena, one thread at a time.
 * Blocks are kept across resets up to the high-water mark, so a steady load stops asking malloc. */
#ifndef JOMED_BASE_ARENA_H
#define JOMED_BASE_ARENA_H

#include <stddef.h>
#include "base/err.h"

typedef struct arena arena;

/* limit_bytes bounds all that can be taken between two resets; 0 means no bound. NULL: out of memory. */
arena *arena_new(size_t limit_bytes);
void   arena_free(arena *a); /* NULL is fine */
void   arena_reset(arena *a);

/* bytes aligned to 64, zeroed. NULL and e (ERR_MEMORY) when memory or the limit is spent. */
void *arena_take(arena *a, size_t bytes, err *e);
/* n * size with the product checked. */
void *arena_take_n(arena *a, size_t n, size_t size, err *e);
char *arena_strdup(arena *a, const char *s, err *e);
char *arena_strndup(arena *a, const char *s, size_t n, err *e);
char *arena_printf(arena *a, err *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A mark is a position to go back to: what was taken since is given back. */
typedef struct { void *block; size_t used; size_t total; } arena_mark;
arena_mark arena_here(const arena *a);
void       arena_back(arena *a, arena_mark m);

size_t arena_high_water(const arena *a); /* most bytes ever in use, for the start-up report */

#define ARENA_NEW(a, T, n, e) ((T *)arena_take_n((a), (size_t)(n), sizeof(T), (e)))

#endif
