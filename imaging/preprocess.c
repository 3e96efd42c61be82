/* preprocess.c - how RGB becomes the pixels that each model was trained on, bit for bit as the Python processors that
 * resize with Pillow (transformers' "slow" ones; jina's own). The torchvision ("fast") ones differ by up to two
 * levels. [../shared/specs/models.md 2.3, 2.4, 5.5; goldens in tests/fixtures/golden]
 *
 * A pixel has 256 values and 3 channels, so rescaling and normalising is a table of 768 floats. */
#include "imaging/preprocess.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "imaging/resize.h"

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

/* ---- plans ---------------------------------------------------------------------------------------------------- */

/* One f32 rounding per operation, as numpy does on float32 arrays. */
static bool make_levels(const float **out, const pixel_norm *norm, arena *a, err *e)
{
    float *level = ARENA_NEW(a, float, CHANNELS * LEVELS, e);
    if (!level) return false;
    *out = level;
    for (int c = 0; c < CHANNELS; c++)
        for (int v = 0; v < LEVELS; v++) {
            const float x = (float)v / 255.0f, d = x - norm->mean[c];
            *level++ = d / norm->std[c];
        }
    return true;
}

/* in resized to w x h, and all of it kept. */
static bool plan_whole(pixel_plan *p, const image *in, int w, int h, const pixel_norm *norm, arena *a, err *e)
{
    p->rgb = in->rgb;
    return pixel_axis_make(&p->x, in->width, w, 0, w, a, e) && pixel_axis_make(&p->y, in->height, h, 0, h, a, e)
           && make_levels(&p->level, norm, a, e);
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

bool jina_plan(pixel_plan *out, const image *in, const jina_image_config *c, int patch, arena *a, err *e)
{
    const int  S = c->size;
    const bool wide = in->width > in->height;
    const int  w = wide ? scaled(S, in->width, in->height) : S, h = wide ? S : scaled(S, in->height, in->width);
    pixel_plan p = {.rgb = in->rgb, .patch = patch, .merge = 1, .temporal = 1};
    if (!check_aspect(in->width, in->height, e) ||
        !pixel_axis_make(&p.x, in->width, w, centre(w, S), S, a, e) ||
        !pixel_axis_make(&p.y, in->height, h, centre(h, S), S, a, e) || !make_levels(&p.level, &c->norm, a, e))
        return false;
    *out = p;
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

bool qwen2vl_plan(pixel_plan *out, const image *in, const qwen2vl_image_config *c, arena *a, err *e)
{
    int        h, w;
    pixel_plan p = {.patch = c->patch, .merge = c->merge, .temporal = c->temporal};
    if (!qwen2vl_smart_resize(&h, &w, in->height, in->width, c, e) || !plan_whole(&p, in, w, h, &c->norm, a, e))
        return false;
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

bool pixtral_plan(pixel_plan *out, const image *in, const pixtral_image_config *c, arena *a, err *e)
{
    int        h, w;
    pixel_plan p = {.patch = c->patch, .merge = 1, .temporal = 1};
    if (!pixtral_resize(&h, &w, in->height, in->width, c, e) || !plan_whole(&p, in, w, h, &c->norm, a, e))
        return false;
    *out = p;
    return true;
}
