/* preprocess.cu - a picture to a model's pixels: Pillow's bicubic resize, cut, normalised, laid out as planes or
 * patches. Reference: imaging/resize.c and preprocess.c.  Test: tests/cuda/test_preprocess.c.
 *
 * The same integers as on the host, in any order: weights of 22 fractional bits, 32-bit sums, bytes between the
 * horizontal pass and the vertical one. So pixels are the host's exactly, and normalised values too, since they come
 * from a table of 3 x 256 that the host makes; a bf16 table rounds them. Only what is kept of the picture is
 * computed. A thread makes one byte, then one value; neighbours read neighbours. 512 x 512: 0.8 MB in, 2.4 MB out. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, CHANNELS = 3, FIXED_BITS = 22 };

/* A pixel_axis on the device. k NULL: the side stays. */
struct axis { const int32_t *lo, *n, *k; int stride; };

/* One value of a side that is resampled: n taps, `step` bytes apart. */
static __device__ uint8_t resample(const uint8_t *from, size_t step, const int32_t *k, int n)
{
    int sum = 1 << (FIXED_BITS - 1);
    for (int j = 0; j < n; j++) sum += from[j * step] * k[j];
    sum >>= FIXED_BITS; /* arithmetic */
    return (uint8_t)min(max(sum, 0), 255);
}

/* Columns left .. left + width of the first `rows` rows: out [rows, width, 3]. */
static __global__ void __launch_bounds__(THREADS)
    columns_kernel(uint8_t *out, const uint8_t *in, int in_width, axis x, int left, int width, int64_t rows)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / (CHANNELS * width);
    if (row >= rows) return;
    int c = (int)(i % CHANNELS), at = left + (int)(i / CHANNELS % width);
    const uint8_t *from = in + ((size_t)row * in_width + x.lo[at]) * CHANNELS + c;
    out[i] = resample(from, CHANNELS, x.k + (size_t)at * x.stride, x.n[at]);
}

/* What a layout needs to place value i of one frame. */
struct layout { int width, height, patch, merge, temporal; };

/* Value i in the order of the output (its first frame): channel, row and column of the kept picture, and where it
 * goes. */
static __device__ size_t place(const layout &l, int64_t i, int *c, int *y, int *x)
{
    if (l.patch == 0) { /* planes */
        *x = (int)(i % l.width);
        *y = (int)(i / l.width % l.height);
        *c = (int)(i / l.width / l.height);
        return (size_t)i;
    }
    int     area = l.patch * l.patch, inside = (int)(i % area), m, column, row;
    int64_t n = i / area / CHANNELS, block = n / (l.merge * l.merge); /* patches go merge block by merge block */
    int     across = l.width / l.patch / l.merge;
    m = (int)(n % (l.merge * l.merge));
    row = (int)(block / across) * l.merge + m / l.merge;
    column = (int)(block % across) * l.merge + m % l.merge;
    *c = (int)(i / area % CHANNELS);
    *y = row * l.patch + inside / l.patch;
    *x = column * l.patch + inside % l.patch;
    return ((size_t)n * CHANNELS + *c) * l.temporal * area + inside;
}

/* in: rows from `first` on, in_width pixels each; the kept picture begins at its column `left`, at row `top` of the
 * resized one. */
template <class E>
static __global__ void __launch_bounds__(THREADS)
    pixels_kernel(E *out, const uint8_t *in, int in_width, int left, int first, axis y, int top, const float *level,
                  layout l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int     c, row, column;
    if (i >= (int64_t)CHANNELS * l.width * l.height) return;
    size_t         to = place(l, i, &c, &row, &column), bytes = (size_t)in_width * CHANNELS;
    int            at = top + row;
    const uint8_t *from = in + (size_t)(left + column) * CHANNELS + c;
    uint8_t v =
        y.k ? resample(from + (size_t)(y.lo[at] - first) * bytes, bytes, y.k + (size_t)at * y.stride, y.n[at])
            : from[(size_t)(at - first) * bytes];
    E              value = narrow<E>(level[c * 256 + v]);
    /* a still picture repeats its frame */
    for (int t = 0; t < l.temporal; t++) out[to + (size_t)t * l.patch * l.patch] = value;
}

/* -------------------------------------------------------------------------------------------------------- launch */
static bool stage_axis(cuda *g, axis *x, const pixel_axis *a)
{
    *x = axis{NULL, NULL, NULL, a->stride};
    if (a->n_in == a->n_out) return true;
    x->lo = (const int32_t *)cuda_stage(g, a->lo, (size_t)a->n_out * sizeof *a->lo);
    x->n = (const int32_t *)cuda_stage(g, a->n, (size_t)a->n_out * sizeof *a->n);
    x->k = (const int32_t *)cuda_stage(g, a->k, (size_t)a->n_out * (size_t)a->stride * sizeof *a->k);
    return x->lo && x->n && x->k;
}

static bool run_pixels(cuda *g, act *out, const pixel_plan *p)
{
    const bool rows_stay = p->y.n_in == p->y.n_out;
    /* rows of the picture that are read */
    const int  first = rows_stay ? p->top : p->y.lo[p->top], end = p->top + p->height - 1;
    const int  last = rows_stay ? end : p->y.lo[end] + p->y.n[end] - 1;
    const size_t row_bytes = (size_t)p->x.n_in * CHANNELS;
    const layout l = {p->width, p->height, p->patch, p->merge, p->patch ? p->temporal : 1};
    const int    values = blocks_of((int64_t)CHANNELS * p->width * p->height, THREADS);
    axis         x, y;
    int64_t      rows = last - first + 1;
    const float   *level = (const float *)cuda_stage(g, p->level, CHANNELS * 256 * sizeof *p->level);
    const uint8_t *in = (const uint8_t *)cuda_stage(g, p->rgb + (size_t)first * row_bytes, (size_t)rows * row_bytes);
    if (!level || !in || !stage_axis(g, &x, &p->x) || !stage_axis(g, &y, &p->y)) return false;
    int width = p->x.n_in, left = p->left;
    if (x.k) {
        uint8_t *narrowed = (uint8_t *)cuda_take(g, (size_t)rows * p->width * CHANNELS);
        if (!narrowed) return false;
        LAUNCH(columns_kernel, dim3(blocks_of(rows * p->width * CHANNELS, THREADS)), dim3(THREADS), 0, g->stream,
               narrowed, in, width, x, left, p->width, rows);
        if (!cu_launched(&g->k, "resize")) return false;
        in = narrowed;
        width = p->width;
        left = 0;
    }
    if (g->f32) {
        LAUNCH(pixels_kernel<float>, dim3(values), dim3(THREADS), 0, g->stream, (float *)out, in, width, left,
               first, y, p->top, level, l);
    } else {
        LAUNCH(pixels_kernel<bf16>, dim3(values), dim3(THREADS), 0, g->stream, (bf16 *)out, in, width, left, first,
               y, p->top, level, l);
    }
    return cu_launched(&g->k, "pixels");
}

void cuda_pixels(kernels *k, act *out, const pixel_plan *p)
{
    cuda *g = cuda_of(k);
    if (!g || p->width < 1 || p->height < 1) return;
    size_t mark = k->mark(k);
    run_pixels(g, out, p);
    k->back(k, mark);
}
