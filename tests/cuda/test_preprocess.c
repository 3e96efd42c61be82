/* test_preprocess.c - pixels made on the device are the host's: the three models' preprocessing, value for value, as
 * f32 and as bf16. */
#include "tests/cuda/gpu.h"
#include "base/arena.h"
#include "imaging/preprocess.h"
#include "imaging/resize_rows.h"
#include "kernels/cuda/cuda.h"

static const pixel_norm NORM = {{0.48145466f, 0.4578275f, 0.40821073f}, {0.26862954f, 0.26130258f, 0.27577711f}};

static image noise(int width, int height, arena *a)
{
    err      e = {0};
    uint32_t s = (uint32_t)(width * 1000 + height) * 2654435761u + 1;
    image    img = {.width = width, .height = height, .rgb = ARENA_NEW(a, uint8_t, width * height * 3, &e)};
    assert_non_null(img.rgb);
    for (int i = 0; i < width * height * 3; i++) /* with whole whites, where bicubic overshoots */
        img.rgb[i] = random_next(&s) % 5 ? (uint8_t)(random_next(&s) >> 24) : 255;
    return img;
}

static pixel_axis axis_of(int n_in, int n_out, arena *a)
{
    err         e = {0};
    resize_axis x;
    if (n_in == n_out) return (pixel_axis){.n_in = n_in, .n_out = n_out};
    OK(resize_axis_make(&x, n_in, n_out, a, &e), e);
    return (pixel_axis){n_in, n_out, x.stride, x.lo, x.n, x.k};
}

/* out on the device must be want [n] where the device keeps f32, and its nearest bf16 where it keeps that. */
static void compare(const image *img, int width, int height, int left, int top, int kept_w, int kept_h, int patch,
                    int merge, int temporal, const float *want, size_t n, arena *a)
{
    float level[3 * 256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) {
            const float x = (float)v / 255.0f, d = x - NORM.mean[c]; /* one rounding each, as preprocess.c */
            level[c * 256 + v] = d / NORM.std[c];
        }
    pixel_plan p = {.rgb = img->rgb,
                    .x = axis_of(img->width, width, a),
                    .y = axis_of(img->height, height, a),
                    .left = left,
                    .top = top,
                    .width = kept_w,
                    .height = kept_h,
                    .level = level,
                    .patch = patch,
                    .merge = merge,
                    .temporal = temporal};
    for (int precise = 0; precise < 2; precise++) {
        kernels *k = gpu_open(precise ? PRECISION_F32 : PRECISION_BF16);
        float   *right = malloc(n * sizeof *right), *got = malloc(n * sizeof *got);
        for (size_t i = 0; i < n; i++) got[i] = NAN;
        act *out = gpu_acts(k, got, n);
        memcpy(right, want, n * sizeof *right);
        if (!precise) ref_round_bf16(right, want, n);
        cuda_pixels(k, out, &p);
        k->get(k, got, out, n);
        kern_ok(k);
        for (size_t i = 0; i < n; i++)
            if (got[i] != right[i])
                fail_msg("%d x %d to %d x %d: value %zu of %zu is %.9g, should be %.9g", img->width, img->height,
                         width, height, i, n, (double)got[i], (double)right[i]);
        k->free_(k, out);
        k->close(k);
        free(right), free(got);
    }
}

/* The shorter side to S, the middle cut out. */
static void planes_are_the_hosts(void **state)
{
    (void)state;
    static const int sides[][2] = {{16, 16}, {31, 16}, {16, 25}, {40, 27}, {9, 5}, {50, 33}, {1, 1}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        jina_image_config c = {16, NORM};
        err    e = {0};
        image  img = noise(sides[i][0], sides[i][1], a);
        bool   wide = img.width > img.height;
        int    w = wide ? 16 * img.width / img.height : 16, h = wide ? 16 : 16 * img.height / img.width;
        int    left = (w - 16) / 2, top = (h - 16) / 2; /* halves go to even */
        float *px;
        OK(jina_pixels(&px, NULL, &img, &c, a, &e), e);
        left += (w - 16) % 2 && left % 2, top += (h - 16) % 2 && top % 2;
        compare(&img, w, h, left, top, 16, 16, 0, 0, 0, px, 3 * 16 * 16, a);
        arena_reset(a);
    }
    arena_free(a);
}

/* Patches in merge blocks, each frame twice; sides that stay, grow and shrink. */
static void merged_patches_are_the_hosts(void **state)
{
    (void)state;
    static const int sides[][2] = {{24, 16}, {24, 17}, {31, 16}, {37, 51}, {90, 20}, {5, 6}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        qwen2vl_image_config c = {
            .patch = 4, .merge = 2, .temporal = 2, .min_pixels = 8 * 8, .max_pixels = 40 * 40, .norm = NORM};
        err     e = {0};
        image   img = noise(sides[i][0], sides[i][1], a), fit;
        patches p;
        OK(qwen2vl_patches(&p, &fit, &img, &c, a, &e), e);
        compare(&img, fit.width, fit.height, 0, 0, fit.width, fit.height, 4, 2, 2, p.px, (size_t)p.P * (size_t)p.F,
                a);
        arena_reset(a);
    }
    arena_free(a);
}

static void patches_in_raster_order_are_the_hosts(void **state)
{
    (void)state;
    static const int sides[][2] = {{16, 16}, {15, 33}, {70, 31}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        pixtral_image_config c = {.patch = 8, .longest_edge = 48, .norm = NORM};
        err     e = {0};
        image   img = noise(sides[i][0], sides[i][1], a), fit;
        patches p;
        OK(pixtral_patches(&p, &fit, &img, &c, a, &e), e);
        compare(&img, fit.width, fit.height, 0, 0, fit.width, fit.height, 8, 1, 1, p.px, (size_t)p.P * (size_t)p.F,
                a);
        arena_reset(a);
    }
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planes_are_the_hosts),
        cmocka_unit_test(merged_patches_are_the_hosts),
        cmocka_unit_test(patches_in_raster_order_are_the_hosts),
    };
    return cmocka_run_group_tests_name("cuda preprocess", tests, NULL, NULL);
}
