/* preprocess.c - RGB to the pixels that each model was trained on, bit for bit as the Python processors that
 * resize with Pillow (transformers' "slow" ones; jina's own). The torchvision ("fast") ones differ by up to two
 * levels. [../shared/specs/models.md 2.3, 2.4, 5.5; goldens in tests/fixtures/golden]
 *
 * A pixel has 256 values and 3 channels, so rescaling and normalising is a table of 768 floats. */
#include "imaging/preprocess.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum {
    CHANNELS = 3,
    LEVELS = 256,
    MAX_ASPECT = 200,
    MAX_PATH_BYTES = 4096,
    MAX_S = 4096,
    MAX_EDGE = 1 << 15,
    MAX_PATCH = 64
};

static const char CONFIG[] = "preprocessor_config.json";

/* CLIP's statistics, which all three models share; the files state them. */
static const pixel_norm CLIP_NORM = {{0.48145466f, 0.4578275f, 0.40821073f}, {0.26862954f, 0.26130258f, 0.27577711f}};

/* One f32 rounding per operation, as numpy does on float32 arrays. */
static void norm_table(float table[CHANNELS][LEVELS], const pixel_norm *norm)
{
    for (int c = 0; c < CHANNELS; c++)
        for (int v = 0; v < LEVELS; v++) {
            const float x = (float)v / 255.0f, d = x - norm->mean[c];
            table[c][v] = d / norm->std[c];
        }
}

/* ---- configuration -------------------------------------------------------------------------------------------- */

static bool read_triple(const json_t *root, const char *key, float out[CHANNELS], const char *where, err *e)
{
    const json_t *v = json_path(root, key);
    if (!v) return true; /* keeps the default */
    if (!json_is_array(v) || json_array_size(v) != CHANNELS)
        return err_set(e, ERR_FILE, "%s: %s is not three numbers", where, key);
    for (int c = 0; c < CHANNELS; c++) {
        const json_t *x = json_array_get(v, (size_t)c);
        if (!json_is_number(x)) return err_set(e, ERR_FILE, "%s: %s is not three numbers", where, key);
        out[c] = (float)json_number_value(x);
    }
    return true;
}

static bool read_norm(const json_t *root, const char *mean, const char *std, pixel_norm *norm, const char *where,
                      err *e)
{
    *norm = CLIP_NORM;
    if (!read_triple(root, mean, norm->mean, where, e) || !read_triple(root, std, norm->std, where, e)) return false;
    for (int c = 0; c < CHANNELS; c++)
        if (!(norm->std[c] > 0) || !isfinite(norm->std[c]) || !isfinite(norm->mean[c]))
            return err_set(e, ERR_FILE, "%s: %s or %s is out of range", where, mean, std);
    return true;
}

/* A member that this code does one way only. */
static bool need_true(const json_t *root, const char *key, const char *where, err *e)
{
    bool v;
    if (!json_bool_or(root, key, true, &v, where, e)) return false;
    return v || err_set(e, ERR_FILE, "%s: %s is false, which is not supported", where, key);
}

static bool need_string(const json_t *root, const char *key, const char *want, const char *where, err *e)
{
    const char *v;
    if (!json_str_or(root, key, want, &v, where, e)) return false;
    return strcmp(v, want) == 0
           || err_set(e, ERR_FILE, "%s: %s is not \"%s\", which is not supported", where, key, want);
}

static bool read_int(const json_t *root, const char *key, int64_t def, int64_t most, int64_t *out,
                     const char *where, err *e)
{
    if (!json_int_or(root, key, def, out, where, e)) return false;
    return (*out >= 1 && *out <= most)
           || err_set(e, ERR_FILE, "%s: %s is %lld; 1 to %lld is possible", where, key, (long long)*out,
                      (long long)most);
}

static bool read_jina(jina_image_config *out, const json_t *root, const char *where, err *e)
{
    int64_t size;
    if (!read_int(root, "size", 224, MAX_S, &size, where, e)
        || !read_norm(root, "mean", "std", &out->norm, where, e)
        || !need_string(root, "interpolation", "bicubic", where, e)
        || !need_string(root, "resize_mode", "shortest", where, e))
        return false;
    out->size = (int)size;
    return true;
}

/* Newer files say size.shortest_edge and size.longest_edge for the same two pixel counts. */
static bool read_pixel_limit(const json_t *root, const char *key, const char *newer, int64_t def, int64_t *out,
                             const char *where, err *e)
{
    const bool  old = json_path(root, key) != NULL;
    return read_int(root, old ? key : newer, def, (int64_t)1 << 31, out, where, e);
}

/* Resize, rescale, normalise: what transformers' processors can leave out or do otherwise, and we cannot. */
static bool read_steps(const json_t *root, const char *where, err *e)
{
    int64_t resample;
    double  rescale;
    if (!need_true(root, "do_resize", where, e) || !need_true(root, "do_rescale", where, e) ||
        !need_true(root, "do_normalize", where, e) || !json_int_or(root, "resample", 3, &resample, where, e) ||
        !json_num_or(root, "rescale_factor", 1.0 / 255, &rescale, where, e))
        return false;
    if (resample != 3)
        return err_set(e, ERR_FILE, "%s: resample is %lld; only 3 (bicubic) is supported", where,
                       (long long)resample);
    if (fabs(rescale * 255 - 1) > 1e-9) return err_set(e, ERR_FILE, "%s: rescale_factor is not 1/255", where);
    return true;
}

static bool read_qwen2vl(qwen2vl_image_config *out, const json_t *root, const char *where, err *e)
{
    int64_t patch, merge, temporal;
    if (!read_int(root, "patch_size", 14, MAX_PATCH, &patch, where, e)
        || !read_int(root, "merge_size", 2, 8, &merge, where, e)
        || !read_int(root, "temporal_patch_size", 2, 8, &temporal, where, e)
        || !read_pixel_limit(root, "min_pixels", "size.shortest_edge", 56 * 56, &out->min_pixels, where, e)
        || !read_pixel_limit(root, "max_pixels", "size.longest_edge", 14 * 14 * 4 * 1280, &out->max_pixels, where,
                             e)
        || !read_norm(root, "image_mean", "image_std", &out->norm, where, e) || !read_steps(root, where, e))
        return false;
    if (out->min_pixels > out->max_pixels)
        return err_set(e, ERR_FILE, "%s: min_pixels is more than max_pixels", where);
    out->patch = (int)patch;
    out->merge = (int)merge;
    out->temporal = (int)temporal;
    return true;
}

/* A square patch: patch_size is a number, or {height, width}. */
static bool read_pixtral(pixtral_image_config *out, const json_t *root, const char *where, err *e)
{
    int64_t    patch, width, edge;
    const bool pair = json_is_object(json_path(root, "patch_size"));
    if (!read_int(root, pair ? "patch_size.height" : "patch_size", 16, MAX_PATCH, &patch, where, e) ||
        !read_int(root, pair ? "patch_size.width" : "patch_size", 16, MAX_PATCH, &width, where, e) ||
        !read_int(root, "size.longest_edge", 1024, MAX_EDGE, &edge, where, e) ||
        !read_norm(root, "image_mean", "image_std", &out->norm, where, e) || !read_steps(root, where, e))
        return false;
    if (patch != width) return err_set(e, ERR_FILE, "%s: patch_size.height and patch_size.width differ", where);
    out->patch = (int)patch;
    out->longest_edge = (int)edge;
    return true;
}

bool jina_image_config_open(jina_image_config *out, const char *dir, err *e)
{
    char              path[MAX_PATH_BYTES];
    json_t           *root;
    jina_image_config c = {0};
    if (!path_join(path, sizeof path, dir, CONFIG, e) || !json_open(&root, path, e)) return false;
    const bool ok = read_jina(&c, root, path, e);
    json_decref(root);
    if (ok) *out = c;
    return ok;
}

bool qwen2vl_image_config_open(qwen2vl_image_config *out, const char *dir, err *e)
{
    char                 path[MAX_PATH_BYTES];
    json_t              *root;
    qwen2vl_image_config c = {0};
    if (!path_join(path, sizeof path, dir, CONFIG, e) || !json_open(&root, path, e)) return false;
    const bool ok = read_qwen2vl(&c, root, path, e);
    json_decref(root);
    if (ok) *out = c;
    return ok;
}

bool pixtral_image_config_open(pixtral_image_config *out, const char *dir, err *e)
{
    char                 path[MAX_PATH_BYTES];
    json_t              *root;
    pixtral_image_config c = {0};
    if (!path_join(path, sizeof path, dir, CONFIG, e) || !json_open(&root, path, e)) return false;
    const bool ok = read_pixtral(&c, root, path, e);
    json_decref(root);
    if (ok) *out = c;
    return ok;
}

/* Qwen2-VL's processor refuses such shapes. jina's does not, but would enlarge a line of pixels to gigabytes. */
static bool check_aspect(int w, int h, err *e)
{
    if ((h > w ? h : w) <= (int64_t)MAX_ASPECT * (h > w ? w : h)) return true;
    return err_at(e, ERR_UNUSABLE, "image-aspect", "image",
                  "the image is %d x %d; one side may be %d times the other", w, h, MAX_ASPECT);
}

/* ---- jina-clip ------------------------------------------------------------------------------------------------ */

/* The longer side truncates: int(S * long / short), as torchvision computes it for a Pillow image. */
static int scaled(int size, int long_side, int short_side) { return (int)((int64_t)size * long_side / short_side); }

/* Python's round((n - S) / 2): halves go to even. */
static int centre(int n, int size)
{
    const int d = n - size, half = d / 2;
    return d % 2 ? half + half % 2 : half;
}

/* [H,W,3] u8 -> [3,H,W] f32 */
static void to_planes(float *px, const image *img, float table[CHANNELS][LEVELS])
{
    const size_t n = (size_t)img->width * img->height;
    for (int c = 0; c < CHANNELS; c++) {
        const uint8_t *from = img->rgb + c;
        float         *to = px + c * n;
        for (size_t i = 0; i < n; i++) to[i] = table[c][from[i * CHANNELS]];
    }
}

bool jina_pixels(float **px, image *cropped, const image *in, const jina_image_config *c, arena *a, err *e)
{
    const int  S = c->size;
    const bool wide = in->width > in->height;
    const int  w = wide ? scaled(S, in->width, in->height) : S, h = wide ? S : scaled(S, in->height, in->width);
    float      table[CHANNELS][LEVELS];
    image      fit, square;
    if (!check_aspect(in->width, in->height, e)) return false;
    float *out = arena_take_n(a, (size_t)CHANNELS * S, (size_t)S * sizeof *out, e);
    if (!out || !image_resize_bicubic(&fit, in, w, h, a, e)
        || !image_crop(&square, &fit, centre(w, S), centre(h, S), S, S, a, e))
        return false;
    norm_table(table, &c->norm);
    to_planes(out, &square, table);
    if (cropped) *cropped = square;
    *px = out;
    return true;
}

/* ---- Qwen2-VL ------------------------------------------------------------------------------------------------- */

/* Rounding is half to even (42 / 28 = 1.5 gives 2, 70 / 28 = 2.5 gives 2): nearbyint in the default mode is
 * Python's round. least: the least that rounding may give. */
static bool smart_size(int *new_h, int *new_w, int h, int w, double factor, double min_pixels, double max_pixels,
                       double least, err *e)
{
    const double area = (double)h * w;
    if (h < 1 || w < 1) return err_set(e, ERR_BUG, "smart_resize: %d x %d is no size of an image", w, h);
    if (!check_aspect(w, h, e)) return false;
    double H = fmax(least, nearbyint(h / factor) * factor), W = fmax(least, nearbyint(w / factor) * factor);
    if (H * W > max_pixels) {
        const double beta = sqrt(area / max_pixels);
        H = fmax(factor, floor(h / beta / factor) * factor);
        W = fmax(factor, floor(w / beta / factor) * factor);
    } else if (H * W < min_pixels) {
        const double beta = sqrt(min_pixels / area);
        H = ceil(h * beta / factor) * factor;
        W = ceil(w * beta / factor) * factor;
    }
    *new_h = (int)H;
    *new_w = (int)W;
    return true;
}

/* A side below patch * merge is enlarged like any other, as transformers 5 does; the 4.45 of the released code
 * refused it, but never saw one, because its prompt code enlarges to 28 first. */
bool qwen2vl_smart_resize(int *new_h, int *new_w, int h, int w, const qwen2vl_image_config *c, err *e)
{
    return smart_size(new_h, new_w, h, w, c->patch * c->merge, (double)c->min_pixels, (double)c->max_pixels, 0, e);
}

/* TRAP: here a side that rounds to 0 counts as one factor before the areas are compared: 1 x 200 becomes 28 x
 * 196, where the processor makes 28 x 812 of it. */
bool qwen_vl_utils_image(image *out, const image *in, arena *a, err *e)
{
    const double factor = 28, min_pixels = 4 * 28 * 28, max_pixels = 16384.0 * 28 * 28;
    int          h, w;
    return smart_size(&h, &w, in->height, in->width, factor, min_pixels, max_pixels, factor, e) &&
           image_resize_bicubic(out, in, w, h, a, e);
}

/* One patch: [channel, time, row, column]; a still picture repeats its frame in time. from: its first pixel. */
static void fill_patch(float *out, const uint8_t *from, size_t row_bytes, float table[CHANNELS][LEVELS], int patch,
                       int temporal)
{
    const size_t frame = (size_t)patch * patch;
    for (int c = 0; c < CHANNELS; c++) {
        float *first = out;
        for (int y = 0; y < patch; y++) {
            const uint8_t *p = from + y * row_bytes + c;
            for (int x = 0; x < patch; x++) *out++ = table[c][p[(size_t)x * CHANNELS]];
        }
        for (int t = 1; t < temporal; t++, out += frame) memcpy(out, first, frame * sizeof *out);
    }
}

/* Patches go merge block by merge block, so that the rows which the merger joins lie together:
 *     0 1 | 4 5
 *     2 3 | 6 7      for merge 2 */
bool qwen2vl_patches(patches *out, image *resized, const image *in, const qwen2vl_image_config *c, arena *a, err *e)
{
    int   h, w;
    image fit;
    float table[CHANNELS][LEVELS];
    if (!qwen2vl_smart_resize(&h, &w, in->height, in->width, c, e) || !image_resize_bicubic(&fit, in, w, h, a, e))
        return false;
    patches p = {.grid_h = h / c->patch, .grid_w = w / c->patch, .F = CHANNELS * c->temporal * c->patch * c->patch};
    p.P = p.grid_h * p.grid_w;
    p.px = arena_take_n(a, (size_t)p.P, (size_t)p.F * sizeof *p.px, e);
    if (!p.px) return false;
    norm_table(table, &c->norm);
    const size_t row_bytes = (size_t)w * CHANNELS;
    float       *to = p.px;
    for (int by = 0; by < p.grid_h; by += c->merge)
        for (int bx = 0; bx < p.grid_w; bx += c->merge)
            for (int y = by; y < by + c->merge; y++)
                for (int x = bx; x < bx + c->merge; x++, to += p.F)
                    fill_patch(to, fit.rgb + (size_t)y * c->patch * row_bytes + (size_t)x * c->patch * CHANNELS,
                               row_bytes, table, c->patch, c->temporal);
    if (resized) *resized = fit;
    *out = p;
    return true;
}

/* ---- Pixtral -------------------------------------------------------------------------------------------------- */

/* Rounding down, as transformers does since 4.46; 4.45, which the released code ran, rounded up. They differ only for
 * pictures longer than longest_edge, which that code never has: it shrinks to 256 before. */
bool pixtral_resize(int *new_h, int *new_w, int h, int w, const pixtral_image_config *c, err *e)
{
    if (h < 1 || w < 1) return err_set(e, ERR_BUG, "pixtral_resize: %d x %d is no size of an image", w, h);
    const double edge = c->longest_edge, ratio = fmax(h / edge, w / edge);
    const int    H = ratio > 1 ? (int)floor(h / ratio) : h, W = ratio > 1 ? (int)floor(w / ratio) : w;
    if (H < 1 || W < 1)
        return err_at(e, ERR_UNUSABLE, "image-aspect", "image",
                      "the image is %d x %d; with the longer side at %d nothing is left of the other", w, h,
                      c->longest_edge);
    *new_h = ((H - 1) / c->patch + 1) * c->patch;
    *new_w = ((W - 1) / c->patch + 1) * c->patch;
    return true;
}

bool pixtral_patches(patches *out, image *resized, const image *in, const pixtral_image_config *c, arena *a, err *e)
{
    int   h, w;
    image fit;
    float table[CHANNELS][LEVELS];
    if (!pixtral_resize(&h, &w, in->height, in->width, c, e) || !image_resize_bicubic(&fit, in, w, h, a, e))
        return false;
    patches p = {.grid_h = h / c->patch, .grid_w = w / c->patch, .F = CHANNELS * c->patch * c->patch};
    p.P = p.grid_h * p.grid_w;
    p.px = arena_take_n(a, (size_t)p.P, (size_t)p.F * sizeof *p.px, e);
    if (!p.px) return false;
    norm_table(table, &c->norm);
    const size_t row_bytes = (size_t)w * CHANNELS;
    float       *to = p.px;
    for (int y = 0; y < p.grid_h; y++)
        for (int x = 0; x < p.grid_w; x++, to += p.F)
            fill_patch(to, fit.rgb + (size_t)y * c->patch * row_bytes + (size_t)x * c->patch * CHANNELS, row_bytes,
                       table, c->patch, 1);
    if (resized) *resized = fit;
    *out = p;
    return true;
}
