/* test_memory.c - exactly the n-th allocation fails, whichever door it came through, and calls are counted. */
#include "tests/check.h"
#include "base/memory.h"

static void *take(int way)
{
    switch (way) {
    case 0: return mem_alloc(10);
    case 1: return mem_zalloc(3, 5);
    case 2: return mem_realloc(NULL, 7);
    case 3: return mem_aligned(64, 65);
    default: return mem_strdup("text");
    }
}

static void test_the_nth_fails_and_no_other(void **state)
{
    (void)state;
    for (int n = 0; n < 10; n++) {
        mem_fail_after(n);
        for (int i = 0; i < 10; i++) {
            void *p = take(i % 5);
            if (i == n) assert_null(p);
            else assert_non_null(p);
            mem_free(p);
        }
        assert_int_equal(mem_fail_after(-1), 10);
    }
    void *p = mem_alloc(1);
    assert_non_null(p);
    mem_free(p);
}

static void test_a_failed_realloc_keeps_the_block(void **state)
{
    (void)state;
    char *p = mem_alloc(4), *q;
    memcpy(p, "abc", 4);
    mem_fail_after(0);
    q = mem_realloc(p, 1000);
    mem_fail_after(-1);
    assert_null(q);
    assert_string_equal(p, "abc");
    mem_free(p);
}

static void test_zero_bytes_and_too_many(void **state)
{
    (void)state;
    void *p[4] = {mem_alloc(0), mem_zalloc(0, 8), mem_aligned(64, 0), mem_realloc(NULL, 0)};
    for (int i = 0; i < 4; i++) {
        assert_non_null(p[i]); /* NULL always means out of memory */
        mem_free(p[i]);
    }
    assert_null(mem_aligned(64, SIZE_MAX - 8));
    uint8_t *q = mem_zalloc(100, 3);
    for (int i = 0; i < 300; i++) assert_int_equal(q[i], 0);
    mem_free(q);
    q = mem_aligned(64, 1);
    assert_int_equal((uintptr_t)q % 64, 0);
    mem_free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_nth_fails_and_no_other),
                                       cmocka_unit_test(test_a_failed_realloc_keeps_the_block),
                                       cmocka_unit_test(test_zero_bytes_and_too_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
