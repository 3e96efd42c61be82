/* test_arena.c - pieces are aligned, zeroed and apart; limits hold; marks give back; a steady load stops asking
 * malloc. */
#include "tests/check.h"
#include "base/arena.h"
#include "base/memory.h"

static void test_pieces(void **state)
{
    (void)state;
    static const size_t size[] = {0, 1, 63, 64, 65, 1000, 65536, 70000, 3};
    arena              *a = arena_new(0);
    uint8_t            *p[9];
    err                 e = {0};
    for (int round = 0; round < 3; round++, arena_reset(a)) {
        for (int i = 0; i < 9; i++) {
            p[i] = arena_take(a, size[i], &e);
            assert_non_null(p[i]);
            assert_int_equal((uintptr_t)p[i] % 64, 0);
            for (size_t k = 0; k < size[i]; k++) assert_int_equal(p[i][k], 0);
            memset(p[i], i + 1, size[i]);
        }
        for (int i = 0; i < 9; i++) /* none lies in another */
            for (size_t k = 0; k < size[i]; k++) assert_int_equal(p[i][k], i + 1);
    }
    arena_free(a);
    arena_free(NULL);
}

static void test_limit(void **state)
{
    (void)state;
    arena *a = arena_new(256);
    err    e = {0};
    assert_non_null(arena_take(a, 192, &e));
    assert_non_null(arena_take(a, 64, &e));
    FAILS(arena_take(a, 1, &e) != NULL, e, ERR_MEMORY, "may use 256 bytes");
    arena_reset(a);
    e = (err){0};
    assert_non_null(arena_take(a, 256, &e));
    arena_reset(a);
    FAILS(arena_take(a, 257, &e) != NULL, e, ERR_MEMORY, "may use 256 bytes");
    arena_free(a);
}

static void test_sizes_that_overflow(void **state)
{
    (void)state;
    arena *a = arena_new(0);
    err    e = {0};
    FAILS(arena_take(a, SIZE_MAX, &e) != NULL, e, ERR_MEMORY, "out of memory");
    FAILS(arena_take_n(a, SIZE_MAX / 2, 3, &e) != NULL, e, ERR_MEMORY, "out of memory");
    FAILS(arena_take_n(a, (size_t)1 << 33, (size_t)1 << 33, &e) != NULL, e, ERR_MEMORY, "out of memory");
    e = (err){0};
    assert_non_null(arena_take_n(a, 0, 8, &e));
    assert_non_null(arena_take_n(a, 8, 0, &e));
    arena_free(a);
}

static void test_marks(void **state)
{
    (void)state;
    arena     *a = arena_new(1 << 20);
    err        e = {0};
    arena_mark empty = arena_here(a);
    uint8_t   *first = arena_take(a, 100, &e);
    memset(first, 7, 100);
    arena_mark m = arena_here(a);
    for (int i = 0; i < 50; i++) { /* 50 x 600,000 bytes would be far over the limit */
        uint8_t *p = arena_take(a, 600000, &e);
        assert_non_null(p);
        assert_int_equal(p[0] | p[599999], 0);
        memset(p, 9, 600000);
        arena_back(a, m);
    }
    for (int i = 0; i < 100; i++) assert_int_equal(first[i], 7);
    arena_back(a, empty);
    assert_non_null(arena_take(a, 1 << 20, &e)); /* the whole limit is free again */
    arena_free(a);
}

static void test_steady_load_stops_asking(void **state)
{
    (void)state;
    arena *a = arena_new(0);
    err    e = {0};
    for (int round = 0; round < 6; round++) {
        mem_fail_after(1000000);
        for (int i = 0; i < 40; i++) assert_non_null(arena_take(a, 10000 + 1000 * (size_t)i, &e));
        long calls = mem_fail_after(-1);
        arena_reset(a);
        if (round >= 2) assert_int_equal(calls, 0);
    }
    assert_true(arena_high_water(a) >= 40 * 10000 && arena_high_water(a) < 40 * 50000 + 40 * 64);
    arena_free(a);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    mem_fail_after(0);
    assert_null(arena_new(0));
    mem_fail_after(-1);
    for (long n = 0; n < 2; n++) { /* the block's head, then its data */
        arena *a = arena_new(0);
        err    e = {0};
        mem_fail_after(n);
        void *p = arena_take(a, 1 << 20, &e);
        mem_fail_after(-1);
        assert_null(p);
        assert_int_equal(e.code, ERR_MEMORY);
        e = (err){0};
        assert_non_null(arena_take(a, 1 << 20, &e)); /* still usable */
        arena_free(a);
    }
}

static void test_strings(void **state)
{
    (void)state;
    arena *a = arena_new(0);
    err    e = {0};
    assert_string_equal(arena_strdup(a, "", &e), "");
    assert_string_equal(arena_strndup(a, "abcdef", 3, &e), "abc");
    assert_string_equal(arena_printf(a, &e, "%s-%03d", "x", 7), "x-007");
    char *p = arena_printf(a, &e, "%5000d", 1);
    assert_int_equal(strlen(p), 5000);
    arena_free(a);
    a = arena_new(64);
    FAILS(arena_printf(a, &e, "%100d", 1) != NULL, e, ERR_MEMORY, "64 bytes");
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_sizes_that_overflow),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_steady_load_stops_asking),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
