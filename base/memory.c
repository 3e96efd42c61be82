#include "base/memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The two counters are the only mutable globals below server/: they belong to tests, and cost one relaxed load
 * when fault injection is off. */
static atomic_bool armed;
static atomic_long left, calls;

static bool refuse(void)
{
    if (!atomic_load_explicit(&armed, memory_order_relaxed)) return false;
    atomic_fetch_add(&calls, 1);
    return atomic_fetch_sub(&left, 1) == 0;
}

long mem_fail_after(long n)
{
    long before = atomic_exchange(&calls, 0);
    atomic_store(&left, n);
    atomic_store(&armed, n >= 0);
    return before;
}

void *mem_alloc(size_t bytes) { return refuse() ? NULL : malloc(bytes ? bytes : 1); }

void *mem_zalloc(size_t n, size_t size) { return refuse() ? NULL : calloc(n ? n : 1, size ? size : 1); }

void *mem_realloc(void *p, size_t bytes) { return refuse() ? NULL : realloc(p, bytes ? bytes : 1); }

void *mem_aligned(size_t align, size_t bytes)
{
    if (refuse() || bytes > SIZE_MAX - align) return NULL;
    size_t rounded = (bytes + align - 1) / align * align;
    return aligned_alloc(align, rounded ? rounded : align);
}

void mem_free(void *p) { free(p); }

char *mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char  *p = mem_alloc(n);
    return p ? memcpy(p, s, n) : NULL;
}
