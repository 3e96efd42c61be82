/* test_preprocess.c - pixels made on the device are the reference's: the three models' preprocessing, value for
 * value, as f32 and as bf16; pictures larger than pinned memory; scratch that runs out. */
#include "tests/cuda/gpu.h"
#include "base/arena.h"
#include "imaging/preprocess.h"
#include "tests/pixels.h"

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

/* On the device they must be the reference's where it keeps f32, and their nearest bf16 where it keeps that. */
static void compare(const pixel_plan *p, arena *a)
{
    const size_t n = n_pixels(p);
    for (int precise = 0; precise < 2; precise++) {
        kernels *k = gpu_table(precise ? PRECISION_F32 : PRECISION_BF16);
        float   *want = malloc(n * sizeof *want), *got = pixels_of(k, p, a);
        ref_pixels(want, p);
        if (!precise) ref_round_bf16(want, want, n);
        for (size_t i = 0; i < n; i++)
            if (got[i] != want[i])
                fail_msg("%d x %d to %d x %d: value %zu of %zu is %.9g, should be %.9g", p->x.n_in, p->y.n_in,
                         p->x.n_out, p->y.n_out, i, n, (double)got[i], (double)want[i]);
        free(want);
    }
}

/* The shorter side to S, the middle cut out. */
static void jinas_are_the_references(void **state)
{
    (void)state;
    static const int sides[][2] = {{16, 16}, {31, 16}, {16, 25}, {40, 27}, {9, 5}, {50, 33}, {1, 1}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        jina_image_config c = {16, NORM};
        err        e = {0};
        image      img = noise(sides[i][0], sides[i][1], a);
        pixel_plan p;
        OK(jina_plan(&p, &img, &c, i % 2 ? 4 : 16, a, &e), e);
        compare(&p, a);
        arena_reset(a);
    }
    arena_free(a);
}

/* Patches in merge blocks, each frame twice; sides that stay, grow and shrink. */
static void qwen2vls_are_the_references(void **state)
{
    (void)state;
    static const int sides[][2] = {{24, 16}, {24, 17}, {31, 16}, {37, 51}, {90, 20}, {5, 6}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        qwen2vl_image_config c = {
            .patch = 4, .merge = 2, .temporal = 2, .min_pixels = 8 * 8, .max_pixels = 40 * 40, .norm = NORM};
        err        e = {0};
        image      img = noise(sides[i][0], sides[i][1], a);
        pixel_plan p;
        OK(qwen2vl_plan(&p, &img, &c, a, &e), e);
        compare(&p, a);
        arena_reset(a);
    }
    arena_free(a);
}

static void pixtrals_are_the_references(void **state)
{
    (void)state;
    static const int sides[][2] = {{16, 16}, {15, 33}, {70, 31}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        pixtral_image_config c = {.patch = 8, .longest_edge = 48, .norm = NORM};
        err        e = {0};
        image      img = noise(sides[i][0], sides[i][1], a);
        pixel_plan p;
        OK(pixtral_plan(&p, &img, &c, a, &e), e);
        compare(&p, a);
        arena_reset(a);
    }
    arena_free(a);
}

/* 9 MB, so several bands, the last a part of one; and in 6 MB of scratch. */
static void a_picture_larger_than_pinned_memory_and_scratch(void **state)
{
    (void)state;
    arena            *a = arena_new(0);
    err               e = {0};
    jina_image_config c = {16, NORM};
    image             img = noise(1500, 2000, a);
    pixel_plan        p;
    kernels          *k = NULL;
    float             want[3 * 16 * 16];
    OK(jina_plan(&p, &img, &c, 16, a, &e), e);
    compare(&p, a);
    OK(kernels_open(&k, &(kernels_options){.device = "cuda:0", .products = PRECISION_F32,
                                           .scratch_bytes = (size_t)6 << 20}, &e), e);
    ref_pixels(want, &p);
    assert_memory_equal(pixels_of(k, &p, a), want, sizeof want);
    k->close(k);
    arena_free(a);
}

static void scratch_that_runs_out_is_an_error(void **state)
{
    (void)state;
    arena            *a = arena_new(0);
    err               e = {0};
    jina_image_config c = {16, NORM};
    image             large = noise(1500, 2000, a), small = noise(20, 20, a);
    pixel_plan        p;
    kernels          *k = gpu_open(PRECISION_F32);
    act              *px = k->take(k, 3 * 16 * 16);
    float             want[3 * 16 * 16];
    size_t            mark = k->mark(k);
    while (k->failed.code == ERR_NONE) k->take(k, (size_t)1 << 18); /* a megabyte at a time */
    kernels_recover(k);
    OK(jina_plan(&p, &large, &c, 16, a, &e), e);
    k->pixels(k, px, &p);
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch memory is spent");
    kernels_recover(k);
    k->back(k, mark);
    e = (err){0};
    OK(jina_plan(&p, &small, &c, 16, a, &e), e);
    ref_pixels(want, &p);
    assert_memory_equal(pixels_of(k, &p, a), want, sizeof want);
    k->close(k);
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jinas_are_the_references),
        cmocka_unit_test(qwen2vls_are_the_references),
        cmocka_unit_test(pixtrals_are_the_references),
        cmocka_unit_test(a_picture_larger_than_pinned_memory_and_scratch),
        cmocka_unit_test(scratch_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests_name("cuda preprocess", tests, NULL, gpu_close_all);
}
