/* demo_world.h - the demonstration's reader on a device, beside the demonstration's cases: what tests of its
 * scores open. */
#ifndef JOMED_TESTS_READER_DEMO_WORLD_H
#define JOMED_TESTS_READER_DEMO_WORLD_H

#include "tests/reader/demo.h"

typedef struct { kernels *k; reader *r; demo *d; arena *a; } world;

static inline world open_world_on(const char *device, precision p, size_t cache, int threads)
{
    world w = {.k = open_device(device, p, threads), .d = demo_open(), .a = arena_new(0)};
    w.r = open_reader(DEMO("reader"), cache, w.k);
    return w;
}

static inline world open_world(size_t cache, int threads)
{
    return open_world_on("cpu", PRECISION_F32, cache, threads);
}

static inline void close_world(world *w)
{
    arena_free(w->a);
    reader_close(w->r);
    w->k->close(w->k);
    demo_close(w->d);
}

static inline reader_scores score(world *w, const reader_query *q)
{
    err           e = {0};
    reader_scores s;
    OK(reader_score(w->r, w->k, q, w->a, &s, &e), e);
    return s;
}

#endif
