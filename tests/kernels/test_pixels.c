/* test_pixels.c - a picture's pixels by the CPU's table are the reference's, value for value: sides that stay, grow,
 * shrink and are cut; weights of any sign; all layouts. Scratch that runs out is an error. */
#include "tests/kernels/kern.h"
#include "tests/pixels.h"

/* Any rising axis whose weights sum to one: unlike a resize's, with taps that jump. n_in == n_out: the side stays. */
static pixel_axis random_axis(int n_in, int n_out, uint32_t *s, arena *a)
{
    enum { TAPS = 11, STRIDE = 12 };
    err        e = {0};
    pixel_axis x = {.n_in = n_in, .n_out = n_out, .stride = STRIDE};
    if (n_in == n_out) return x;
    x.lo = ARENA_NEW(a, int, n_out, &e);
    x.n = ARENA_NEW(a, int, n_out, &e);
    x.k = ARENA_NEW(a, int32_t, n_out * STRIDE, &e);
    x.high = ARENA_NEW(a, int16_t, n_out * STRIDE, &e);
    x.low = ARENA_NEW(a, int16_t, n_out * STRIDE, &e);
    assert_true(x.lo && x.n && x.k && x.high && x.low);
    int end = 0;
    for (int i = 0; i < n_out; i++) {
        int32_t *k = x.k + i * STRIDE, sum = 0;
        int      lo = i * n_in / n_out, n = 1 + (int)(random_next(s) % TAPS);
        if (lo + n < end) n = end - lo; /* at most TAPS + 1, since lo does not fall */
        if (lo + n > n_in) n = n_in - lo;
        end = lo + n;
        for (int j = 1; j < n; j++) sum += k[j] = (int32_t)(random_next(s) % (1 << 20)) - (1 << 19);
        k[0] = (1 << 22) - sum;
        for (int j = 0; j < n; j++) {
            x.low[i * STRIDE + j] = (int16_t)(k[j] & 0xffff);
            x.high[i * STRIDE + j] = (int16_t)((k[j] - x.low[i * STRIDE + j]) / 65536);
        }
        x.lo[i] = lo;
        x.n[i] = n;
    }
    return x;
}

static pixel_plan random_plan(int in_w, int in_h, int patch, int merge, int temporal, int cols, int rows, arena *a)
{
    err      e = {0};
    uint32_t s = (uint32_t)(in_w * 4099 + in_h * 31 + patch) * 2654435761u + 1;
    uint8_t *rgb = ARENA_NEW(a, uint8_t, in_w * in_h * 3, &e);
    float   *level = ARENA_NEW(a, float, 3 * 256, &e);
    assert_true(rgb && level);
    for (int i = 0; i < in_w * in_h * 3; i++) rgb[i] = random_next(&s) % 5 ? (uint8_t)(random_next(&s) >> 24) : 255;
    for (int i = 0; i < 3 * 256; i++) level[i] = random_unit(&s);
    pixel_plan p = {.rgb = rgb, .level = level, .patch = patch, .merge = merge, .temporal = temporal};
    p.x = random_axis(in_w, cols * patch, &s, a);
    p.y = random_axis(in_h, rows * patch, &s, a);
    return p;
}

static void pixels_are_the_references(void **state)
{
    (void)state;
    /* width, height; patch, merge, temporal; columns, rows */
    static const int row[][7] = {
        {13, 9, 1, 1, 1, 1, 1},    {1, 1, 7, 1, 1, 1, 1},    {40, 30, 5, 1, 1, 8, 6},   {40, 31, 5, 1, 1, 8, 6},
        {41, 30, 5, 1, 1, 8, 6},   {97, 61, 14, 2, 2, 6, 4}, {61, 97, 14, 2, 2, 4, 8},  {33, 35, 16, 1, 1, 1, 3},
        {20, 300, 8, 2, 3, 4, 10}, {300, 20, 8, 3, 1, 9, 3}, {56, 28, 14, 2, 2, 4, 2},
    };
    kernels *k = kern_open(NULL, PRECISION_BF16, 1); /* whose activations are f32 too */
    arena   *a = arena_new(0);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++, arena_reset(a)) {
        const int *r = row[i];
        pixel_plan p = random_plan(r[0], r[1], r[2], r[3], r[4], r[5], r[6], a);
        float     *got = pixels_of(k, &p, a), *want = malloc(n_pixels(&p) * sizeof *want);
        ref_pixels(want, &p);
        for (size_t j = 0; j < n_pixels(&p); j++)
            if (got[j] != want[j])
                fail_msg("case %zu: value %zu is %.9g, should be %.9g", i, j, (double)got[j], (double)want[j]);
        free(want);
    }
    arena_free(a);
    k->close(k);
}

static void scratch_that_runs_out_is_an_error(void **state)
{
    (void)state;
    kernels *k = NULL;
    err      e = {0};
    arena   *a = arena_new(0);
    OK(cpu_open(&k, &(kernels_options){.threads = 1, .scratch_bytes = 1 << 16}, NULL, &e), e);
    pixel_plan large = random_plan(200, 200, 14, 1, 1, 12, 12, a), small = random_plan(40, 40, 14, 1, 1, 1, 1, a);
    float      out[3 * 14 * 14], want[3 * 14 * 14], kept = 7;
    k->pixels(k, &kept, &large); /* writes nothing */
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch memory is spent");
    assert_true(kept == 7);
    kernels_recover(k);
    k->pixels(k, out, &small);
    kern_ok(k);
    ref_pixels(want, &small);
    assert_memory_equal(out, want, sizeof want);
    arena_free(a);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pixels_are_the_references),
        cmocka_unit_test(scratch_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests_name("pixels", tests, NULL, NULL);
}
