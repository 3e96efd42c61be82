/* pixels.h - a plan's pixels, as a table makes them, and a plan of pixels that are given. */
#ifndef JOMED_TESTS_PIXELS_H
#define JOMED_TESTS_PIXELS_H

#include "tests/check.h"
#include "kernels/kernels.h"

static inline size_t n_pixels(const pixel_plan *p)
{
    return (size_t)3 * (size_t)p->temporal * (size_t)p->x.n_out * (size_t)p->y.n_out;
}

/* [P, 3 * temporal * patch^2] in a. */
static inline float *pixels_of(kernels *k, const pixel_plan *p, arena *a)
{
    err    e = {0};
    size_t n = n_pixels(p), mark = k->mark(k);
    float *out = ARENA_NEW(a, float, n, &e);
    assert_non_null(out);
    act *px = k->take(k, n);
    k->pixels(k, px, p);
    k->get(k, out, px, n);
    OK(k->sync(k, &e), e);
    k->back(k, mark);
    return out;
}

/* The plan whose pixels are px [rows * cols, 3 * temporal * patch^2], these very numbers: a picture of rows * cols
 * patches that stays as it is. At most 256 different numbers a channel, as all pixels of pictures have. */
static inline pixel_plan plan_holding(const float *px, int rows, int cols, int patch, int merge, int temporal,
                                      arena *a)
{
    err        e = {0};
    int        W = cols * patch, H = rows * patch, n_levels[3] = {0}, area = patch * patch;
    uint8_t   *rgb = ARENA_NEW(a, uint8_t, W * H * 3, &e);
    float     *level = ARENA_NEW(a, float, 3 * 256, &e);
    pixel_plan p = {.rgb = rgb, .x = {.n_in = W, .n_out = W}, .y = {.n_in = H, .n_out = H}, .level = level,
                    .patch = patch, .merge = merge, .temporal = temporal};
    assert_true(rgb && level);
    for (int i = 0; i < rows * cols * 3 * temporal * area; i++) {
        int n = i / area / temporal / 3, c = i / area / temporal % 3, block = n / (merge * merge);
        int m = n % (merge * merge), v = 0;
        int row = block / (cols / merge) * merge + m / merge, col = block % (cols / merge) * merge + m % merge;
        while (v < n_levels[c] && level[c * 256 + v] != px[i]) v++;
        assert_true(v < 256);
        if (v == n_levels[c]) level[c * 256 + n_levels[c]++] = px[i];
        rgb[((row * patch + i % area / patch) * W + col * patch + i % patch) * 3 + c] = (uint8_t)v;
    }
    return p;
}

#endif
