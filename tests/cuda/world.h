/* world.h - a small reader on the CUDA table and a request to it, for the tests of what happens around the passes. */
#ifndef JOMED_TESTS_CUDA_WORLD_H
#define JOMED_TESTS_CUDA_WORLD_H

#include "tests/cuda/gpu.h"
#include "tests/reader/golden.h"

enum { K = 2, A = 2, N_PASSAGES = 6, SIDE = 28, CACHE = 4 << 20 };

typedef struct {
    kernels       *k;
    reader        *r;
    arena         *a;
    kernels_options on;
    reader_options o;
    image          img[1 + N_PASSAGES]; /* the query's, then the passages' */
    reader_passage z[N_PASSAGES];
    reader_query   q;                   /* of the first K passages */
} world;

/* Passage id's picture. */
static inline bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    (void)a, (void)e;
    *out = ((world *)ctx)->img[1 + id];
    return true;
}

static inline bool device_open(world *w, err *e)
{
    return kernels_open(&w->k, &w->on, e) && reader_open(&w->r, FIXTURE("qwen2vl-tiny"), &w->o, w->k, e);
}

static inline void device_close(world *w)
{
    reader_close(w->r);
    if (w->k) w->k->close(w->k);
    w->r = NULL;
    w->k = NULL;
}

/* Skips where there is no GPU. */
static inline world *open_world(size_t cache_bytes, size_t cache_host_bytes)
{
    static const char *const answers[A] = {"Yes", "No"};
    err    e = {0};
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->a = arena_new(0);
    w->on = (kernels_options){.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = (size_t)16 << 20};
    w->o = (reader_options){.cache_bytes = cache_bytes, .cache_host_bytes = cache_host_bytes};
    if (!device_open(w, &e) && e.code == ERR_USAGE) {
        arena_free(w->a);
        free(w);
        SKIP("%s", e.text);
    }
    OK(w->r != NULL, e);
    for (int i = 0; i <= N_PASSAGES; i++) {
        w->img[i] = (image){.width = SIDE, .height = SIDE, .rgb = ARENA_NEW(w->a, uint8_t, 3 * SIDE * SIDE, &e)};
        for (int j = 0; j < 3 * SIDE * SIDE; j++) w->img[i].rgb[j] = (uint8_t)(j * (7 + i) + (j >> 7) * 31);
    }
    for (int i = 0; i < N_PASSAGES; i++) w->z[i] = (reader_passage){i, "a finding"};
    w->q = (reader_query){.img = &w->img[0],
                          .question = "Is it?",
                          .answers = answers,
                          .A = A,
                          .z = w->z,
                          .K = K,
                          .load = load,
                          .load_ctx = w};
    return w;
}

static inline void close_world(world *w)
{
    device_close(w);
    arena_free(w->a);
    free(w);
}

#endif
