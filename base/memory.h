/* memory.h - the allocator's own door, so that tests can make the n-th allocation fail.
 * All of our code (not the libraries) takes heap memory through these; mem_fail_after is for tests. */
#ifndef JOMED_BASE_MEMORY_H
#define JOMED_BASE_MEMORY_H

#include <stddef.h>

void *mem_alloc(size_t bytes);            /* malloc; NULL when out of memory */
void *mem_zalloc(size_t n, size_t size);  /* calloc */
void *mem_realloc(void *p, size_t bytes); /* realloc */
void *mem_aligned(size_t align, size_t bytes); /* aligned_alloc with the size rounded up; free() frees it */
char *mem_strdup(const char *s);
void  mem_free(void *p); /* free(), for libraries that take a pair of functions */

/* Fault injection: the n-th call from now (0 is the next) on any thread returns NULL, and only that one.
 * Negative: none fails. Returns how many calls were made since the last setting. */
long mem_fail_after(long n);

#endif
