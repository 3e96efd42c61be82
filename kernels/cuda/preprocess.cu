/* preprocess.cu - a picture to a model's pixels: Pillow's bicubic resize, cut, normalised, laid out as patches.
 * Reference: ref_pixels().  Test: tests/cuda/test_preprocess.c.
 *
 * The same integers as on the host, in any order: weights of 22 fractional bits, 32-bit sums, bytes between the
 * horizontal pass and the vertical one. So pixels are the host's exactly, and normalised values too, since they come
 * from a table of 3 x 256 that the host makes; a bf16 table rounds them. Only what is kept of the picture is
 * computed. A thread makes one byte, then one value; neighbours read neighbours. 512 x 512: 0.8 MB in, 2.4 MB out.
 * The picture comes up in bands of rows, each narrowed before the next is there: scratch does not grow with it. */
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

/* `rows` rows to the width that is kept: out [rows, width, 3]. */
static __global__ void __launch_bounds__(THREADS)
    columns_kernel(uint8_t *out, const uint8_t *in, int in_width, axis x, int width, int rows)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / (CHANNELS * width);
    if (row >= rows) return;
    int c = (int)(i % CHANNELS), at = (int)(i / CHANNELS % width);
    const uint8_t *from = in + ((size_t)row * in_width + x.lo[at]) * CHANNELS + c;
    out[i] = resample(from, CHANNELS, x.k + (size_t)at * x.stride, x.n[at]);
}

/* What a layout needs to place value i of one frame. */
struct layout { int width, height, patch, merge, temporal; };

/* Value i in the order of the output (its first frame): channel, row and column of the picture, and where it goes. */
static __device__ size_t place(const layout &l, int64_t i, int *c, int *y, int *x)
{
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

/* in [rows, width, 3]: those that the picture's rows are made of, the first of them y.lo[0]. */
template <class E>
static __global__ void __launch_bounds__(THREADS)
    pixels_kernel(E *out, const uint8_t *in, axis y, const float *level, layout l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int     c, row, column;
    if (i >= (int64_t)CHANNELS * l.width * l.height) return;
    size_t         to = place(l, i, &c, &row, &column), bytes = (size_t)l.width * CHANNELS;
    const uint8_t *from = in + (size_t)column * CHANNELS + c;
    uint8_t        v = y.k ? resample(from + (size_t)(y.lo[row] - y.lo[0]) * bytes, bytes,
                                      y.k + (size_t)row * y.stride, y.n[row])
                           : from[(size_t)row * bytes];
    E              value = narrow<E>(level[c * 256 + v]);
    /* a still picture repeats its frame */
    for (int t = 0; t < l.temporal; t++) out[to + (size_t)t * l.patch * l.patch] = value;
}

/* -------------------------------------------------------------------------------------------------------- launch */
static bool stage_axis(cuda *g, axis *x, const pixel_axis *a)
{
    *x = axis{NULL, NULL, NULL, a->stride};
    if (!a->k) return true;
    x->lo = (const int32_t *)cuda_stage(g, a->lo, (size_t)a->n_out * sizeof *a->lo);
    x->n = (const int32_t *)cuda_stage(g, a->n, (size_t)a->n_out * sizeof *a->n);
    x->k = (const int32_t *)cuda_stage(g, a->k, (size_t)a->n_out * (size_t)a->stride * sizeof *a->k);
    return x->lo && x->n && x->k;
}

/* Rows of the picture at the width that is kept, in scratch. A band is about what a half of the pinned memory takes;
 * it lies where the band before it lay: the stream has read that by then. */
static const uint8_t *narrowed(cuda *g, const pixel_plan *p, int first, int rows)
{
    const size_t   bytes = (size_t)p->x.n_in * CHANNELS;
    const uint8_t *from = p->rgb + (size_t)first * bytes;
    const int      width = p->x.n_out;
    if (!p->x.k) return (const uint8_t *)cuda_stage(g, from, (size_t)rows * bytes);
    axis     x;
    int      n, most = (int)(g->staging.half_bytes / bytes) + 1; /* 1: also of a row that is longer */
    if (most > rows) most = rows;
    uint8_t *out = (uint8_t *)cuda_take(g, (size_t)rows * width * CHANNELS);
    uint8_t *band = (uint8_t *)cuda_take(g, (size_t)most * bytes);
    if (!out || !band || !stage_axis(g, &x, &p->x)) return NULL;
    for (int at = 0; at < rows; at += n) {
        n = rows - at < most ? rows - at : most;
        if (!cuda_send_all(g, band, from + (size_t)at * bytes, (size_t)n * bytes)) return NULL;
        LAUNCH(columns_kernel, dim3(blocks_of((int64_t)n * width * CHANNELS, THREADS)), dim3(THREADS), 0, g->stream,
               out + (size_t)at * width * CHANNELS, band, p->x.n_in, x, width, n);
        if (!cu_launched(&g->k, "resize")) return NULL;
    }
    return out;
}

static bool run_pixels(cuda *g, act *out, const pixel_plan *p)
{
    const pixel_axis *v = &p->y;
    const layout      l = {p->x.n_out, v->n_out, p->patch, p->merge, p->temporal};
    const int         values = blocks_of((int64_t)CHANNELS * l.width * l.height, THREADS);
    const float      *level = (const float *)cuda_stage(g, p->level, CHANNELS * 256 * sizeof *p->level);
    const uint8_t    *in = narrowed(g, p, pixel_axis_first(v), pixel_axis_reads(v));
    axis              y;
    if (!level || !in || !stage_axis(g, &y, v)) return false;
    if (g->f32) {
        LAUNCH(pixels_kernel<float>, dim3(values), dim3(THREADS), 0, g->stream, (float *)out, in, y, level, l);
    } else {
        LAUNCH(pixels_kernel<bf16>, dim3(values), dim3(THREADS), 0, g->stream, (bf16 *)out, in, y, level, l);
    }
    return cu_launched(&g->k, "pixels");
}

void cuda_pixels(kernels *k, act *out, const pixel_plan *p)
{
    cuda *g = cuda_of(k);
    if (!g) return;
    size_t mark = k->mark(k);
    run_pixels(g, out, p);
    k->back(k, mark);
}
