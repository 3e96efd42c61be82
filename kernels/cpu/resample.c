/* resample.c - a picture to a model's pixels on the CPU: two passes over bytes, then a table of levels laid out as
 * patches. Twin: ref_pixels().  Tests: tests/kernels/test_pixels.c, tests/imaging/test_resize.c. */
#include "kernels/resample.h"

#include <string.h>

#include "kernels/cpu/cpu.h"

enum { CHANNELS = 3 };

/* ---- the loops, plain ----------------------------------------------------------------------------------------- */

static uint8_t clip8(int32_t sum)
{
    sum >>= RESAMPLE_BITS; /* arithmetic in gcc and clang */
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

static void row_plain(uint8_t *out, const uint8_t *in, const pixel_axis *axis)
{
    for (int i = 0; i < axis->n_out; i++) {
        const uint8_t *p = in + (size_t)axis->lo[i] * CHANNELS;
        const int32_t *k = axis->k + (size_t)i * axis->stride;
        int32_t        r = 1 << (RESAMPLE_BITS - 1), g = r, b = r;
        for (int j = 0; j < axis->n[i]; j++, p += CHANNELS) {
            r += p[0] * k[j];
            g += p[1] * k[j];
            b += p[2] * k[j];
        }
        *out++ = clip8(r);
        *out++ = clip8(g);
        *out++ = clip8(b);
    }
}

static void rows_plain(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride, const pixel_axis *axis)
{
    for (int y = 0; y < RESAMPLE_ROWS; y++) row_plain(out + y * out_stride, in + y * in_stride, axis);
}

static void column_plain(uint8_t *out, const uint8_t *in, int64_t stride, int n, int n_rows, const int32_t *k,
                         const int16_t *high, const int16_t *low)
{
    (void)high;
    (void)low;
    for (int x = 0; x < n; x++) {
        int32_t sum = 1 << (RESAMPLE_BITS - 1);
        for (int j = 0; j < n_rows; j++) sum += in[j * stride + x] * k[j];
        out[x] = clip8(sum);
    }
}

const resample_loops RESAMPLE_PLAIN = {rows_plain, column_plain};

static const resample_loops *fastest(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return &RESAMPLE_AVX2;
#endif
    return &RESAMPLE_PLAIN;
}

/* ---- passes --------------------------------------------------------------------------------------------------- */

/* Taps past the last are multiplied by zero, but read: up to stride pixels past the end of a row. */
static size_t padded_in(const pixel_axis *x) { return ((size_t)x->n_in + x->stride) * CHANNELS + RESAMPLE_PAD; }
static size_t padded_out(const pixel_axis *x) { return (size_t)x->n_out * CHANNELS + RESAMPLE_PAD; }

size_t resample_room(const pixel_axis *x, const pixel_axis *y)
{
    const size_t between = x->k && y->k ? (size_t)pixel_axis_reads(y) * x->n_out * CHANNELS : 0;
    return between + (x->k ? RESAMPLE_ROWS * (padded_in(x) + padded_out(x)) : 0);
}

/* `rows` rows of in, each to x->n_out pixels. They go through padded buffers, a few at a time, so that the loops may
 * read and write whole registers; in the last batch some of the rows are left over from the one before. */
static void horizontal(uint8_t *out, const uint8_t *in, int rows, const pixel_axis *x, uint8_t *room)
{
    const resample_loops *loops = fastest();
    const size_t          in_bytes = (size_t)x->n_in * CHANNELS, out_bytes = (size_t)x->n_out * CHANNELS;
    uint8_t              *from = room, *to = room + RESAMPLE_ROWS * padded_in(x);
    for (int y = 0; y < rows; y += RESAMPLE_ROWS) {
        const int n = rows - y < RESAMPLE_ROWS ? rows - y : RESAMPLE_ROWS;
        for (int i = 0; i < n; i++) memcpy(from + i * padded_in(x), in + (size_t)(y + i) * in_bytes, in_bytes);
        loops->rows(to, padded_out(x), from, padded_in(x), x);
        for (int i = 0; i < n; i++) memcpy(out + (size_t)(y + i) * out_bytes, to + i * padded_out(x), out_bytes);
    }
}

/* in holds the rows from the first on that are read, `bytes` each. */
static void vertical(uint8_t *out, const uint8_t *in, int64_t bytes, const pixel_axis *y)
{
    const resample_loops *loops = fastest();
    for (int i = 0; i < y->n_out; i++) {
        const size_t at = (size_t)i * y->stride;
        loops->column(out + i * bytes, in + (y->lo[i] - y->lo[0]) * bytes, bytes, (int)bytes, y->n[i], y->k + at,
                      y->high + at, y->low + at);
    }
}

void resample(uint8_t *out, const uint8_t *rgb, const pixel_axis *x, const pixel_axis *y, uint8_t *room)
{
    const uint8_t *in = rgb + (size_t)pixel_axis_first(y) * x->n_in * CHANNELS;
    const size_t   bytes = (size_t)pixel_axis_reads(y) * x->n_out * CHANNELS;
    if (!x->k && !y->k) memcpy(out, in, bytes);
    else if (!y->k) horizontal(out, in, pixel_axis_reads(y), x, room);
    else {
        if (x->k) horizontal(room, in, pixel_axis_reads(y), x, room + bytes);
        vertical(out, x->k ? room : in, (int64_t)x->n_out * CHANNELS, y);
    }
}

/* ---- pixels --------------------------------------------------------------------------------------------------- */

/* One patch: [channel, time, row, column]; a still picture repeats its frame in time. from: its first pixel. */
static void fill_patch(float *out, const uint8_t *from, size_t row_bytes, const pixel_plan *p)
{
    const size_t frame = (size_t)p->patch * p->patch;
    for (int c = 0; c < CHANNELS; c++) {
        const float *level = p->level + 256 * c;
        float       *first = out;
        for (int y = 0; y < p->patch; y++) {
            const uint8_t *at = from + y * row_bytes + c;
            for (int x = 0; x < p->patch; x++) *out++ = level[at[(size_t)x * CHANNELS]];
        }
        for (int t = 1; t < p->temporal; t++, out += frame) memcpy(out, first, frame * sizeof *out);
    }
}

static void fill_patches(float *out, const uint8_t *rgb, const pixel_plan *p)
{
    const int    rows = p->y.n_out / p->patch, cols = p->x.n_out / p->patch;
    const size_t row_bytes = (size_t)p->x.n_out * CHANNELS;
    const size_t F = (size_t)CHANNELS * p->temporal * p->patch * p->patch;
    for (int by = 0; by < rows; by += p->merge)
        for (int bx = 0; bx < cols; bx += p->merge)
            for (int y = by; y < by + p->merge; y++)
                for (int x = bx; x < bx + p->merge; x++, out += F)
                    fill_patch(out, rgb + (size_t)y * p->patch * row_bytes + (size_t)x * p->patch * CHANNELS,
                               row_bytes, p);
}

static uint8_t *take_bytes(kernels *k, size_t n) { return k->take(k, (n + sizeof(float) - 1) / sizeof(float)); }

void cpu_pixels(kernels *k, act *out, const pixel_plan *p)
{
    if (!cpu_of(k)) return;
    const size_t mark = k->mark(k);
    uint8_t     *rgb = take_bytes(k, (size_t)p->x.n_out * p->y.n_out * CHANNELS);
    uint8_t     *room = take_bytes(k, resample_room(&p->x, &p->y));
    if (rgb && room) {
        resample(rgb, p->rgb, &p->x, &p->y, room);
        fill_patches(out, rgb, p);
    }
    k->back(k, mark);
}
