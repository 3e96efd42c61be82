#include "tests/check.h"

#include "reader/bpe_merge.h"

/* Ids 0..25 are letters; the merges make runs of a's up to 16 and a few others. */
static void table(merge_table *m)
{
    err e = {0};
    OK(merge_table_init(m, 13, &e), e);
    merge_table_add(m, 0, 0, 3, 100);     /* a a   -> aa */
    merge_table_add(m, 100, 100, 5, 101); /* aa aa -> aaaa */
    merge_table_add(m, 101, 101, 9, 102);
    merge_table_add(m, 102, 102, 11, 103);
    merge_table_add(m, 0, 1, 1, 104);     /* a b */
    merge_table_add(m, 104, 104, 7, 105); /* ab ab */
    merge_table_add(m, 1, 2, 0, 106);     /* b c   the strongest */
    merge_table_add(m, 106, 3, 12, 111);  /* bc d: before a bc, though a b waited with less than both */
    merge_table_add(m, 0, 106, 13, 107);  /* a bc */
    merge_table_add(m, 104, 2, 4, 107);   /* ab c  the same piece the other way */
    merge_table_add(m, 100, 1, 6, 108);   /* aa b */
    merge_table_add(m, 107, 107, 8, 109);
    merge_table_add(m, 101, 0, 10, 110);  /* aaaa a */
}

/* The slow, obvious twin: scan for the lowest rank, the leftmost of equals; merge; again. */
static int merge_slowly(const merge_slot *list, int n_list, int32_t *ids, int n)
{
    for (;;) {
        int best = -1, at = -1;
        for (int i = 0; i + 1 < n; i++)
            for (int k = 0; k < n_list; k++)
                if (list[k].key == ((uint64_t)(uint32_t)ids[i] << 32 | (uint32_t)ids[i + 1])
                    && (best < 0 || list[k].rank < list[best].rank)) {
                    best = k;
                    at = i;
                }
        if (best < 0) return n;
        ids[at] = list[best].id;
        memmove(ids + at + 1, ids + at + 2, (size_t)(n - at - 2) * sizeof *ids);
        n--;
    }
}

static void merges_are_those_of_the_obvious_loop(void **s)
{
    (void)s;
    merge_table m;
    merge_slot  list[64];
    int         n_list = 0;
    uint32_t    seed = 7;
    err         e = {0};
    arena      *a = arena_new(0);
    bpe_scratch scratch = {0};
    table(&m);
    for (uint32_t i = 0; i <= m.mask; i++)
        if (m.slot[i].key != UINT64_MAX) list[n_list++] = m.slot[i];
    assert_int_equal(n_list, 13);
    for (int k = 0; k < 20000; k++) {
        int32_t x[48], y[48];
        int     n = k % 48, letters = 1 + k % 4;
        for (int i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            x[i] = y[i] = (int32_t)((seed >> 16) % (uint32_t)letters);
        }
        int got = bpe_merge(&m, x, n, &scratch, a, &e), want = merge_slowly(list, n_list, y, n);
        assert_int_equal(got, want);
        assert_memory_equal(x, y, (size_t)want * sizeof *x);
    }
    merge_table_free(&m);
    arena_free(a);
}

/* At most 3 n pairs are taken from the heap, for any text: no text makes it quadratic. */
static void steps_stay_below_three_a_byte(void **s)
{
    (void)s;
    static const char *const UNIT[] = {"a", "ab", "abc", "aab", "aaaab", "ba", "cba", "z"};
    merge_table m;
    arena      *a = arena_new(0);
    int32_t    *ids = malloc((1 << 18) * sizeof *ids);
    table(&m);
    for (size_t u = 0; u < sizeof UNIT / sizeof *UNIT; u++) {
        for (int n = 1; n <= 1 << 18; n *= 4) {
            err         e = {0};
            bpe_scratch scratch = {0};
            for (int i = 0; i < n; i++) ids[i] = UNIT[u][i % (int)strlen(UNIT[u])] - 'a';
            int left = bpe_merge(&m, ids, n, &scratch, a, &e);
            assert_true(left > 0 && left <= n);
            if (scratch.steps > 3 * (int64_t)n)
                fail_msg("%d times %s took %lld steps", n, UNIT[u], (long long)scratch.steps);
            if (u == 0 && n >= 16) assert_int_equal(left, n / 16);
            arena_reset(a);
        }
    }
    free(ids);
    merge_table_free(&m);
    arena_free(a);
}

static void a_pair_given_twice_has_the_later_rank(void **s)
{
    (void)s;
    err         e = {0};
    merge_table m;
    arena      *a = arena_new(0);
    bpe_scratch scratch = {0};
    OK(merge_table_init(&m, 3, &e), e);
    merge_table_add(&m, 0, 1, 0, 10);
    merge_table_add(&m, 1, 2, 1, 11);
    merge_table_add(&m, 0, 1, 2, 10);
    int32_t ids[] = {0, 1, 2};
    assert_int_equal(bpe_merge(&m, ids, 3, &scratch, a, &e), 2);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], 11);
    merge_table_free(&m);
    arena_free(a);
}

static void memory_that_runs_out_is_an_error(void **s)
{
    (void)s;
    err         e;
    merge_table m;
    arena      *a = arena_new(1024);
    bpe_scratch scratch = {0};
    int32_t     ids[1000] = {0};
    table(&m);
    FAILS(bpe_merge(&m, ids, 1000, &scratch, a, &e) >= 0, e, ERR_MEMORY, "1024 bytes");
    merge_table_free(&m);
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_the_obvious_loop),
        cmocka_unit_test(steps_stay_below_three_a_byte),
        cmocka_unit_test(a_pair_given_twice_has_the_later_rank),
        cmocka_unit_test(memory_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
