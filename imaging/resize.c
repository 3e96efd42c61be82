/* resize.c - Pillow's resize of 8-bit RGB, bit for bit: bicubic with antialiasing, and nearest.
 *
 * Bicubic is two passes over bytes, horizontal first. Each output sample is a weighted sum of the inputs under
 * a cubic (Keys 1981, a = -1/2) that is as wide as the step between output samples, but never narrower than one
 * input sample. Weights are made in double, normalised to sum 1, and rounded to 22 fractional bits; sums are
 * 32-bit integers, so they may be taken in any order (kernels/cpu/resample.c takes them). A pass whose side does
 * not change is left out. Pillow 12.2 and later do the vertical pass first where height > 100 width and the height
 * shrinks; 10.x, which the released code ran, never did, nor do we.
 * TRAP: the weights must be computed without fused multiply-add (-ffp-contract=off): one last bit moves a pixel. */
#include <math.h>
#include <string.h>

#include "imaging/resize.h"
#include "kernels/resample.h"

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
    const double one = 1 << RESAMPLE_BITS;
    return w < 0 ? (int32_t)(w * one - 0.5) : (int32_t)(w * one + 0.5);
}

/* Raw weights need a scratch row w. */
bool pixel_axis_make(pixel_axis *x, int n_in, int n_all, int first, int n_out, arena *a, err *e)
{
    const double scale = (double)n_in / n_all, filter = scale > 1 ? scale : 1, support = 2 * filter,
                 inverse = 1 / filter;
    const int    most = (int)ceil(support) * 2 + 1;
    *x = (pixel_axis){.n_in = n_in, .n_out = n_out};
    if (n_in == n_out && n_all == n_out) return true;
    x->stride = (most + STRIDE_STEP - 1) / STRIDE_STEP * STRIDE_STEP;
    const size_t total = (size_t)n_out * x->stride;
    double      *w = ARENA_NEW(a, double, most, e);
    x->lo = ARENA_NEW(a, int, n_out, e);
    x->n = ARENA_NEW(a, int, n_out, e);
    x->k = ARENA_NEW(a, int32_t, total, e);
    x->high = ARENA_NEW(a, int16_t, total, e);
    x->low = ARENA_NEW(a, int16_t, total, e);
    if (!w || !x->lo || !x->n || !x->k || !x->high || !x->low) return false;

    for (int i = 0; i < n_out; i++) {
        const double center = (first + i + 0.5) * scale;
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

/* ---- pictures ------------------------------------------------------------------------------------------------- */

static bool new_image(image *out, int width, int height, arena *a, err *e)
{
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return err_set(e, ERR_BUG, "resize: %d x %d is no size of an image", width, height);
    uint8_t *rgb = arena_take_n(a, (size_t)width * CHANNELS, (size_t)height, e);
    if (!rgb) return false;
    *out = (image){.width = width, .height = height, .rgb = rgb};
    return true;
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
    pixel_axis       x, y;
    uint8_t         *room = NULL;
    const bool ok = pixel_axis_make(&x, in->width, width, 0, width, a, e)
                    && pixel_axis_make(&y, in->height, height, 0, height, a, e)
                    && (room = arena_take_n(a, resample_room(&x, &y), 1, e)) != NULL;
    if (ok) resample(img.rgb, in->rgb, &x, &y, room);
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
