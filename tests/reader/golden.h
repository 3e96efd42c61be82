/* golden.h - the cases of golden/qwen2vl-*.{json,safetensors}, as pieces that the reader's inner functions take. */
#ifndef JOMED_TESTS_READER_GOLDEN_H
#define JOMED_TESTS_READER_GOLDEN_H

#include "tests/check.h"
#include "base/json.h"
#include "reader/pictures.h"
#include "reader/reader_internal.h"
#include "tests/pixels.h"

#ifndef TEST_DEVICE /* tests/cuda has the same cases on another one */
#define TEST_DEVICE "cpu"
#endif

static inline kernels *open_device(const char *device, precision p, int threads)
{
    err             e = {0};
    kernels        *k = NULL;
    kernels_options o = {.device = device, .products = p, .threads = threads};
    if (!kernels_open(&k, &o, &e) && e.code == ERR_USAGE) SKIP("%s", e.text);
    OK(k != NULL, e);
    return k;
}

static inline kernels *open_cpu(precision p, int threads) { return open_device("cpu", p, threads); }

static inline reader *open_reader(const char *dir, size_t cache_bytes, kernels *k)
{
    err            e = {0};
    reader        *r = NULL;
    reader_options o = {.cache_bytes = cache_bytes};
    OK(reader_open(&r, dir, &o, k, &e), e);
    return r;
}

/* With one adapter, "a"; adapter is what a pass then names: 0 where it is merged. */
static inline reader *open_reader_with(const char *dir, const char *adapter_dir, bool merge, kernels *k)
{
    err            e = {0};
    reader        *r = NULL;
    reader_adapter a = {"a", adapter_dir};
    reader_options o = {.cache_bytes = 1 << 20, .adapters = &a, .n_adapters = 1, .merge = merge};
    OK(reader_open(&r, dir, &o, k, &e), e);
    return r;
}

/* A tensor of a golden file: "CASE/NAME", widened to f32. */
static inline float *golden_floats(const safetensors *g, const char *name, size_t n, arena *a)
{
    err           e = {0};
    const tensor *t = safetensors_find(g, name);
    if (!t) fail_msg("%s is not in the golden file", name);
    if ((size_t)t->count != n) fail_msg("%s has %lld values, the test makes %zu", name, (long long)t->count, n);
    float *x = ARENA_NEW(a, float, n, &e);
    assert_non_null(x);
    dtype_widen(x, t->data, t->type, n);
    return x;
}

static inline const int64_t *golden_ints(const safetensors *g, const char *name, int64_t *n)
{
    const tensor *t = safetensors_find(g, name);
    if (!t || t->type != DTYPE_I64) fail_msg("%s is not in the golden file", name);
    if (n) *n = t->count;
    return t->data;
}

/* One case: its ids with the pictures' places, and the pictures' patches as the reference preprocessed them. */
typedef struct { prompt p; picture pic[4]; int n_pics; int vision_rows; const json_t *j; } golden_case;

static inline golden_case golden_open(const safetensors *g, const safetensors *pixels, const json_t *json,
                                      const char *name, int32_t image_id, arena *a)
{
    err         e = {0};
    golden_case c = {0};
    char        path[128];
    size_t      i;
    json_t     *row;
    json_array_foreach(json_object_get(json, "cases"), i, row)
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0) c.j = row;
    assert_non_null(c.j);

    int64_t n;
    snprintf(path, sizeof path, "%s/input_ids", name);
    const int64_t *ids = golden_ints(g, path, &n);
    c.p = (prompt){ARENA_NEW(a, int32_t, n, &e), (int)n, ARENA_NEW(a, image_span, 4, &e), 0};
    const json_t *files = json_object_get(c.j, "images");
    c.n_pics = (int)json_array_size(files);
    for (i = 0; i < (size_t)c.n_pics; i++) {
        snprintf(path, sizeof path, "%s/pixel_values", json_string_value(json_array_get(files, i)));
        const tensor *px = safetensors_find(pixels, path);
        assert_non_null(px);
        snprintf(path, sizeof path, "%s/image_grid_thw", name);
        const int64_t *grid = golden_ints(g, path, NULL) + 3 * i;
        int gh = (int)grid[1], gw = (int)grid[2];
        const float *values = golden_floats(pixels, px->name, (size_t)gh * gw * 3 * 2 * 14 * 14, a);
        pixel_plan   plan = plan_holding(values, gh, gw, 14, 2, 2, a);
        c.pic[i] = picture_from(&plan);
        c.vision_rows += gh * gw / 4;
    }
    for (int t = 0; t < c.p.n_ids; t++) {
        c.p.ids[t] = (int32_t)ids[t];
        if (c.p.ids[t] != image_id || (t && c.p.ids[t - 1] == image_id)) continue;
        const picture *pic = &c.pic[c.p.n_spans];
        c.p.span[c.p.n_spans++] = (image_span){t, pic->rows, pic->cols};
    }
    assert_int_equal(c.p.n_spans, c.n_pics);
    return c;
}

#endif
