/* test_resize.c - resizing gives Pillow's bytes: hashes of specs/models.md 2.5 and of
 * tests/fixtures/variants/resize.json; the AVX2 loops give the plain loops' bytes; sizes that cannot be. */
#include "tests/imaging/fixture.h"
#include "base/json.h"
#include "kernels/resample.h"

typedef bool (*resizer)(image *, const image *, int, int, arena *, err *);

static void check_hash(resizer f, const char *what, int w, int h, int nw, int nh, uint64_t want)
{
    arena *a = arena_new(0);
    err    e = {0};
    image  in = synthetic(w, h, a), out;
    OK(f(&out, &in, nw, nh, a, &e), e);
    assert_int_equal(out.width, nw);
    assert_int_equal(out.height, nh);
    uint64_t got = fnv1a(out.rgb, (size_t)nw * nh * 3);
    if (got != want)
        fail_msg("%s %dx%d -> %dx%d: %016llx, Pillow gives %016llx", what, w, h, nw, nh, (unsigned long long)got,
                 (unsigned long long)want);
    arena_free(a);
}

static void test_hashes_of_the_specification(void **state)
{
    (void)state;
    static const struct { int w, h, nw, nh; uint64_t bicubic, nearest;
    } row[] = {
        {97, 61, 84, 56, 0x6d5e8c9ad5cb460a, 0xa0af72afd339a2a1},
        {61, 97, 56, 112, 0xe912f35dd8dfe72d, 0x14428209fb987f35},
        {200, 150, 196, 140, 0x2992fcb55081aaeb, 0x79300556043f9257},
        {300, 200, 224, 149, 0xd304c7fc2c5238bf, 0x92b433a1f6b3f5d8},
        {37, 29, 56, 56, 0x9d7f5b792104baf0, 0x23fb2a943e4b5b7a},
        {256, 171, 252, 168, 0xa422b050c145d568, 0x244e279c23d3f6f5},
        {33, 33, 224, 224, 0xebd20cb3e960e877, 0x49f106bef94df697},
        {512, 300, 256, 150, 0xe5120a7dbda6365e, 0xfd75e7b300af34a5},
        {640, 480, 644, 476, 0x432a22c3130f68fa, 0},
        {1000, 750, 1008, 756, 0x5a72de57ed6f4d6c, 0},
        {1600, 1200, 1024, 768, 0xb1dfa84594067504, 0},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        check_hash(image_resize_bicubic, "bicubic", row[i].w, row[i].h, row[i].nw, row[i].nh, row[i].bicubic);
        if (row[i].nearest)
            check_hash(image_resize_nearest, "nearest", row[i].w, row[i].h, row[i].nw, row[i].nh, row[i].nearest);
    }
}

static void test_hashes_at_odd_and_extreme_sizes(void **state)
{
    (void)state;
    json_t *root;
    err     e = {0};
    OK(json_open(&root, FIXTURE("variants/resize.json"), &e), e);
    const json_t *rows = json_path(root, "rows");
    assert_true(json_array_size(rows) >= 40);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *r = json_array_get(rows, i);
        int           v[4];
        for (size_t k = 0; k < 4; k++) v[k] = (int)json_integer_value(json_array_get(r, k));
        for (size_t k = 4; k < 6; k++)
            check_hash(k == 4 ? image_resize_bicubic : image_resize_nearest, k == 4 ? "bicubic" : "nearest", v[0],
                       v[1], v[2], v[3], strtoull(json_string_value(json_array_get(r, k)), NULL, 16));
    }
    json_decref(root);
}

static void test_same_size_is_a_copy_of_its_own(void **state)
{
    (void)state;
    arena *a = arena_new(0);
    err    e = {0};
    image  in = synthetic(7, 5, a), out[2];
    OK(image_resize_bicubic(&out[0], &in, 7, 5, a, &e), e);
    OK(image_resize_nearest(&out[1], &in, 7, 5, a, &e), e);
    for (int i = 0; i < 2; i++) {
        assert_ptr_not_equal(out[i].rgb, in.rgb);
        assert_memory_equal(out[i].rgb, in.rgb, 7 * 5 * 3);
    }
    arena_free(a);
}

/* A flat picture stays flat, black and white included: weights sum to one in fixed point, and clipping holds. */
static void test_flat_pictures_stay_flat(void **state)
{
    (void)state;
    static const int level[] = {0, 1, 127, 254, 255};
    arena           *a = arena_new(0);
    err              e = {0};
    for (int i = 0; i < 5; i++) {
        image in = synthetic(19, 23, a), out;
        memset(in.rgb, level[i], 19 * 23 * 3);
        OK(image_resize_bicubic(&out, &in, 33, 11, a, &e), e);
        for (int k = 0; k < 33 * 11 * 3; k++) assert_int_equal(out.rgb[k], level[i]);
    }
    arena_free(a);
}

static uint32_t next_random(uint32_t *s) { return *s = *s * 1664525u + 1013904223u, *s >> 8; }

#if defined(__x86_64__)
/* Weights of any sign whose sum stays inside 32 bits, every length around the register sizes, bytes at both
 * ends of the range. */
static void test_avx2_loops_equal_the_plain_ones(void **state)
{
    (void)state;
    if (!__builtin_cpu_supports("avx2")) SKIP("this processor has no AVX2");
    enum { N = 141, TAPS = 13, STRIDE = 16, OUT = 29 };
    uint32_t s = 7;
    uint8_t  in[TAPS][N + STRIDE * 3 + RESAMPLE_PAD], got[N + RESAMPLE_PAD], want[N + RESAMPLE_PAD];
    int32_t  k[OUT * STRIDE];
    int16_t  high[OUT * STRIDE], low[OUT * STRIDE];
    int      lo[OUT], n[OUT];
    for (int round = 0; round < 200; round++) {
        memset(k, 0, sizeof k);
        for (int y = 0; y < TAPS; y++)
            for (size_t x = 0; x < sizeof in[0]; x++)
                in[y][x] = round % 3 == 0 ? (next_random(&s) & 1 ? 255 : 0) : (uint8_t)next_random(&s);
        for (int i = 0; i < OUT; i++) {
            n[i] = 1 + (int)(next_random(&s) % TAPS);
            lo[i] = (int)(next_random(&s) % (N / 3 - n[i]));
            for (int j = 0; j < n[i]; j++)
                k[i * STRIDE + j] = (int32_t)(next_random(&s) % (2u << 18)) - (1 << 18) + (j == 0 ? 3 << 20 : 0);
        }
        for (int i = 0; i < OUT * STRIDE; i++) {
            low[i] = (int16_t)(k[i] & 0xffff);
            high[i] = (int16_t)((k[i] - low[i]) / 65536);
        }
        const pixel_axis axis = {.n_out = OUT, .stride = STRIDE, .lo = lo, .n = n, .k = k, .high = high, .low = low};
        enum { STEP = OUT * 3 + RESAMPLE_PAD };
        uint8_t got_rows[RESAMPLE_ROWS * STEP], want_rows[RESAMPLE_ROWS * STEP];
        RESAMPLE_PLAIN.rows(want_rows, STEP, in[0], sizeof in[0], &axis);
        RESAMPLE_AVX2.rows(got_rows, STEP, in[0], sizeof in[0], &axis);
        for (int y = 0; y < RESAMPLE_ROWS; y++)
            assert_memory_equal(got_rows + y * STEP, want_rows + y * STEP, OUT * 3);
        const int bytes = 1 + round % N, i = round % OUT * STRIDE, rows = n[round % OUT];
        RESAMPLE_PLAIN.column(want, in[0], sizeof in[0], bytes, rows, k + i, high + i, low + i);
        memset(got, 0xa5, sizeof got);
        RESAMPLE_AVX2.column(got, in[0], sizeof in[0], bytes, rows, k + i, high + i, low + i);
        assert_memory_equal(got, want, (size_t)bytes);
        assert_int_equal(got[bytes], 0xa5); /* nothing behind the row is written */
    }
}
#endif

static void test_sizes_that_cannot_be(void **state)
{
    (void)state;
    arena *a = arena_new(0);
    err    e = {0};
    image  in = synthetic(3, 3, a), out;
    FAILS(image_resize_bicubic(&out, &in, 0, 3, a, &e), e, ERR_BUG, "no size of an image");
    FAILS(image_resize_nearest(&out, &in, 3, -1, a, &e), e, ERR_BUG, "no size of an image");
    arena_free(a);
}

/* The request's limit is reached at each size: an error, no crash. */
static void test_without_memory(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t limit = 40000; limit < 4000000; limit += 20000) {
        arena *a = arena_new(limit);
        err    e = {0};
        image  out, in = {.width = 100, .height = 100, .rgb = arena_take(a, 30000, &e)};
        assert_non_null(in.rgb);
        bool bicubic = image_resize_bicubic(&out, &in, 200, 300, a, &e);
        assert_true(bicubic || e.code == ERR_MEMORY);
        err  f = {0};
        bool nearest = image_resize_nearest(&out, &in, 200, 300, a, &f);
        assert_true(nearest || f.code == ERR_MEMORY);
        failures += !bicubic + !nearest;
        arena_free(a);
    }
    assert_true(failures > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hashes_of_the_specification),
        cmocka_unit_test(test_hashes_at_odd_and_extreme_sizes),
        cmocka_unit_test(test_same_size_is_a_copy_of_its_own),
        cmocka_unit_test(test_flat_pictures_stay_flat),
#if defined(__x86_64__)
        cmocka_unit_test(test_avx2_loops_equal_the_plain_ones),
#endif
        cmocka_unit_test(test_sizes_that_cannot_be),
        cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
