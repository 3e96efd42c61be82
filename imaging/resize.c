/* resize.c - Pillow's resize of 8-bit RGB, bit for bit: bicubic with antialiasing, and nearest.
 *
 * Bicubic is two passes over bytes, horizontal first. Each output sample is a weighted sum of the inputs under
 * a cubic (Keys 1981, a = -1/2) that is as wide as the step between output samples, but never narrower than one
 * input sample. Weights are made in double, normalised to sum 1, and rounded to 22 fractional bits; sums are
 * 32-bit integers, so they may be taken in any order. A pass whose side does not change is left out. Pillow
 * 12.2 and later do the vertical pass first where height > 100 width and the height shrinks; 10.x, which the
 * released code ran, never did, nor do we. TRAP: the weights must be computed without fused multiply-add
 * (-ffp-contract=off): one last bit moves a pixel. */
#include <math.h>
#include <string.h>

#include "imaging/image.h"
#include "imaging/resize_rows.h"

enum { CHANNELS = 3, STRIDE_STEP = 4, MAX_SIDE = 1 << 20 };

/* ---- weights -------------------------------------------------------------------------------------------------- */

static double cubic(double x)
{
    const double a = -0.5;
    if (x < 0) x = -x;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static int32_t to_fixed(double w)
{
    const double one = 1 << RESIZE_BITS;
    return w < 0 ? (int32_t)(w * one - 0.5) : (int32_t)(w * one + 0.5);
}

/* Raw weights need a scratch row w. */
bool resize_axis_make(resize_axis *x, int n_in, int n_out, arena *a, err *e)
{
    const double scale = (double)n_in / n_out, filter = scale > 1 ? scale : 1, support = 2 * filter,
                 inverse = 1 / filter;
    const int    most = (int)ceil(support) * 2 + 1;
    *x = (resize_axis){.n_out = n_out, .stride = (most + STRIDE_STEP - 1) / STRIDE_STEP * STRIDE_STEP};
    const size_t total = (size_t)n_out * x->stride;
    double      *w = ARENA_NEW(a, double, most, e);
    x->lo = ARENA_NEW(a, int, n_out, e);
    x->n = ARENA_NEW(a, int, n_out, e);
    x->k = ARENA_NEW(a, int32_t, total, e);
    x->high = ARENA_NEW(a, int16_t, total, e);
    x->low = ARENA_NEW(a, int16_t, total, e);
    if (!w || !x->lo || !x->n || !x->k || !x->high || !x->low) return false;

    for (int i = 0; i < n_out; i++) {
        const double center = (i + 0.5) * scale;
        int          lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > n_in) hi = n_in;
        double sum = 0;
        for (int j = 0; j < hi - lo; j++) {
            w[j] = cubic((j + lo - center + 0.5) * inverse); /* in this order, as Pillow rounds it */
            sum += w[j];
        }
        x->lo[i] = lo;
        x->n[i] = hi - lo;
        for (int j = 0; j < hi - lo; j++) {
            const size_t  at = (size_t)i * x->stride + j;
            const int32_t k = to_fixed(sum != 0 ? w[j] / sum : w[j]);
            x->k[at] = k;
            x->low[at] = (int16_t)(k & 0xffff);
            x->high[at] = (int16_t)((k - x->low[at]) / 65536);
        }
    }
    return true;
}

/* ---- the loops, plain ----------------------------------------------------------------------------------------- */

static uint8_t clip8(int32_t sum)
{
    sum >>= RESIZE_BITS; /* arithmetic in gcc and clang */
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

static void row_plain(uint8_t *out, const uint8_t *in, const resize_axis *axis)
{
    for (int i = 0; i < axis->n_out; i++) {
        const uint8_t *p = in + (size_t)axis->lo[i] * CHANNELS;
        const int32_t *k = axis->k + (size_t)i * axis->stride;
        int32_t        r = 1 << (RESIZE_BITS - 1), g = r, b = r;
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

static void rows_plain(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride, const resize_axis *axis)
{
    for (int y = 0; y < RESIZE_ROWS_AT_ONCE; y++) row_plain(out + y * out_stride, in + y * in_stride, axis);
}

static void column_plain(uint8_t *out, const uint8_t *in, int64_t stride, int n, int n_rows, const int32_t *k,
                         const int16_t *high, const int16_t *low)
{
    (void)high;
    (void)low;
    for (int x = 0; x < n; x++) {
        int32_t sum = 1 << (RESIZE_BITS - 1);
        for (int j = 0; j < n_rows; j++) sum += in[j * stride + x] * k[j];
        out[x] = clip8(sum);
    }
}

const resize_rows RESIZE_ROWS_PLAIN = {rows_plain, column_plain};

static const resize_rows *fastest(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return &RESIZE_ROWS_AVX2;
#endif
    return &RESIZE_ROWS_PLAIN;
}

/* ---- passes --------------------------------------------------------------------------------------------------- */

static bool new_image(image *out, int width, int height, arena *a, err *e)
{
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return err_set(e, ERR_BUG, "resize: %d x %d is no size of an image", width, height);
    uint8_t *rgb = arena_take_n(a, (size_t)width * CHANNELS, (size_t)height, e);
    if (!rgb) return false;
    *out = (image){.width = width, .height = height, .rgb = rgb};
    return true;
}

/* Rows first .. first + out->height - 1 of in, each to out's width. They go through padded buffers, a few at a
 * time, so that the loops may read and write whole registers; in the last batch some of the rows are left over
 * from the one before. */
static bool horizontal(image *out, const image *in, int first, arena *a, err *e)
{
    const resize_rows *loops = fastest();
    const size_t       in_bytes = (size_t)in->width * CHANNELS, out_bytes = (size_t)out->width * CHANNELS;
    resize_axis        axis;
    if (!resize_axis_make(&axis, in->width, out->width, a, e)) return false;
    /* taps past the last are multiplied by zero, but read: up to stride pixels past the end */
    const size_t from_stride = in_bytes + (size_t)axis.stride * CHANNELS + RESIZE_PAD,
                 to_stride = out_bytes + RESIZE_PAD;
    uint8_t *from = arena_take_n(a, from_stride, RESIZE_ROWS_AT_ONCE, e),
            *to = arena_take_n(a, to_stride, RESIZE_ROWS_AT_ONCE, e);
    if (!from || !to) return false;
    for (int y = 0; y < out->height; y += RESIZE_ROWS_AT_ONCE) {
        const int n = out->height - y < RESIZE_ROWS_AT_ONCE ? out->height - y : RESIZE_ROWS_AT_ONCE;
        for (int i = 0; i < n; i++)
            memcpy(from + i * from_stride, in->rgb + (size_t)(first + y + i) * in_bytes, in_bytes);
        loops->rows(to, to_stride, from, from_stride, &axis);
        for (int i = 0; i < n; i++) memcpy(out->rgb + (size_t)(y + i) * out_bytes, to + i * to_stride, out_bytes);
    }
    return true;
}

/* in holds the rows from first on. */
static void vertical(image *out, const image *in, int first, const resize_axis *axis)
{
    const resize_rows *loops = fastest();
    const int64_t      bytes = (int64_t)in->width * CHANNELS;
    for (int y = 0; y < out->height; y++) {
        const size_t at = (size_t)y * axis->stride;
        loops->column(out->rgb + y * bytes, in->rgb + (axis->lo[y] - first) * bytes, bytes, (int)bytes, axis->n[y],
                      axis->k + at, axis->high + at, axis->low + at);
    }
}

static bool copy(image *out, const image *in, arena *a, err *e)
{
    image img;
    if (!new_image(&img, in->width, in->height, a, e)) return false;
    memcpy(img.rgb, in->rgb, (size_t)in->width * in->height * CHANNELS);
    *out = img;
    return true;
}

bool image_resize_bicubic(image *out, const image *in, int width, int height, arena *a, err *e)
{
    if (width == in->width && height == in->height) return copy(out, in, a, e);
    image img;
    if (!new_image(&img, width, height, a, e)) return false;

    const arena_mark scratch = arena_here(a);
    image            wide = *in;
    bool             ok = true;
    if (height == in->height) ok = horizontal(&img, in, 0, a, e);
    else {
        resize_axis axis;
        ok = resize_axis_make(&axis, in->height, height, a, e);
        int first = 0;
        if (ok && width != in->width) { /* only the rows that the vertical pass will read */
            first = axis.lo[0];
            const int last = axis.lo[height - 1] + axis.n[height - 1];
            ok = new_image(&wide, width, last - first, a, e) && horizontal(&wide, in, first, a, e);
        }
        if (ok) vertical(&img, &wide, first, &axis);
    }
    arena_back(a, scratch);
    if (ok) *out = img;
    return ok;
}

/* Pillow steps by adding, so the rounding errors add up as they do there. */
static bool nearest_steps(int **at, int n_in, int n_out, arena *a, err *e)
{
    const double step = (double)n_in / n_out;
    double       x = step * 0.5;
    int         *p = ARENA_NEW(a, int, n_out, e);
    if (!p) return false;
    for (int i = 0; i < n_out; i++, x += step) {
        p[i] = (int)x;
        if (p[i] >= n_in) p[i] = n_in - 1;
    }
    *at = p;
    return true;
}

bool image_resize_nearest(image *out, const image *in, int width, int height, arena *a, err *e)
{
    if (width == in->width && height == in->height) return copy(out, in, a, e);
    image img;
    if (!new_image(&img, width, height, a, e)) return false;
    const arena_mark scratch = arena_here(a);
    int             *column, *row;
    const bool ok = nearest_steps(&column, in->width, width, a, e) && nearest_steps(&row, in->height, height, a, e);
    if (ok) {
        uint8_t *to = img.rgb;
        for (int y = 0; y < height; y++) {
            const uint8_t *from = in->rgb + (size_t)row[y] * in->width * CHANNELS;
            for (int x = 0; x < width; x++, to += CHANNELS) memcpy(to, from + (size_t)column[x] * CHANNELS, CHANNELS);
        }
        *out = img;
    }
    arena_back(a, scratch);
    return ok;
}
