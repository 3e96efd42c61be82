/* test_search.c - exact search on the GPU: the order, ties by the lower id, any number of results, and the error that
 * is promised. */
#include "tests/cuda/gpu.h"
#include "base/memory.h"

/* Unit rows; every 7th is the one 5 before it once more, so that scores are shared. */
static float *unit_rows(int64_t n, int dim, uint32_t seed)
{
    float *p = random_floats((size_t)(n * dim), seed, false);
    for (int64_t i = 0; i < n; i++) {
        float *row = p + i * dim;
        double sq = 0;
        if (i % 7 == 6) memcpy(row, row - 5 * dim, (size_t)dim * sizeof *row);
        for (int d = 0; d < dim; d++) sq += (double)row[d] * row[d];
        for (int d = 0; d < dim && i % 7 != 6; d++) row[d] = (float)(row[d] / sqrt(sq));
    }
    return p;
}

static double inner_product(const float *a, const float *b, int dim)
{
    double s = 0;
    for (int d = 0; d < dim; d++) s += (double)a[d] * b[d];
    return s;
}

/* The k best of n: sorted, no id twice, scores within the promised error, and nobody left out who is surely
 * better. */
static void check_best(kernels *k, const vector_set *v, const float *rows, const float *z, int64_t want)
{
    float   *score = malloc((size_t)want * sizeof *score);
    int64_t *id = malloc((size_t)want * sizeof *id);
    bool    *found = calloc((size_t)v->n, sizeof *found);
    double   slack = sqrt(inner_product(z, z, v->dim)) * (v->error + 1.01 * (v->dim + 2) * 0x1p-23);
    k->search(k, v, z, want, score, id);
    kern_ok(k);
    for (int64_t i = 0; i < want; i++) {
        assert_in_range(id[i], 0, v->n - 1);
        assert_false(found[id[i]]);
        found[id[i]] = true;
        assert_true(fabs(score[i] - inner_product(rows + id[i] * v->dim, z, v->dim)) <= slack);
        if (i > 0 && !(score[i] < score[i - 1] || (score[i] == score[i - 1] && id[i] > id[i - 1])))
            fail_msg("%lld of %lld: not in order of score and id", (long long)i, (long long)want);
    }
    for (int64_t i = 0; i < v->n; i++) {
        double s = inner_product(rows + i * v->dim, z, v->dim);
        if (!found[i] && s > score[want - 1] + slack)
            fail_msg("row %lld of %lld is better and was left out", (long long)i, (long long)v->n);
    }
    /* an equal row with a higher id never without the one with the lower */
    for (int64_t i = 6; i < v->n; i += 7) assert_true(!found[i] || found[i - 5]);
    free(score), free(id), free(found);
}

/* A warp scans 8 rows at a time, a block of gathering 4,096; elements are read 8 by 8. */
static void search_finds_the_best(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        int dim;
    } sizes[] = {{1, 1}, {7, 8}, {8, 9}, {65, 31}, {500, 64}, {4095, 16}, {4097, 24}, {9000, 7}};
    kernels *k = gpu_open(PRECISION_BF16);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t    n = sizes[i].n;
        int        dim = sizes[i].dim;
        float     *rows = unit_rows(n, dim, 3), *z = unit_rows(1, dim, 99);
        vector_set v;
        err        e = {0};
        OK(k->vectors_open(k, &v, rows, n, dim, &e), e);
        assert_true(dim == 1 ? v.error == 0 : v.error > 0 && v.error < 0x1p-11);
        const int64_t wanted[] = {1, 2, 18, 66, 300, n - 1, n};
        for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++)
            if (wanted[w] >= 1 && wanted[w] <= n) check_best(k, &v, rows, z, wanted[w]);
        k->vectors_close(k, &v);
        free(rows), free(z);
    }
    k->close(k);
}

/* All rows equal: the ids from 0 on, across chunks, whatever the order in which blocks came to them. */
static void equal_scores_go_by_the_lower_id(void **state)
{
    (void)state;
    enum { N = 5000, DIM = 8 };
    kernels   *k = gpu_open(PRECISION_BF16);
    float     *rows = calloc(N * DIM, sizeof *rows), z[DIM] = {0.5f, 0.5f}, score[4200];
    int64_t    id[4200];
    vector_set v;
    err        e = {0};
    for (int i = 0; i < N; i++) rows[i * DIM] = i == 4500 ? 1.0f : i == 4600 ? -1.0f : 0.25f;
    OK(k->vectors_open(k, &v, rows, N, DIM, &e), e);
    assert_true(v.error == 0); /* all are f16 as they are */
    static const int wanted[] = {1, 2, 300, 4097, 4200};
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++) {
        k->search(k, &v, z, wanted[w], score, id);
        kern_ok(k);
        assert_int_equal(id[0], 4500);
        for (int i = 1; i < wanted[w]; i++) {
            assert_int_equal(id[i], i - 1);
            assert_true(score[i] == 0.125f);
        }
    }
    k->vectors_close(k, &v);
    free(rows);
    k->close(k);
}

/* 0 and -0 are the same score; negative scores are in order; the worst is the last of all. */
static void zeros_and_negative_scores_are_in_order(void **state)
{
    (void)state;
    enum { N = 6 };
    kernels   *k = gpu_open(PRECISION_F32);
    float      rows[N] = {-0.0f, 0.0f, -0.5f, -0.25f, 0.5f, -0.0f}, z = 1, score[N];
    int64_t    id[N];
    static const int64_t order[N] = {4, 0, 1, 5, 3, 2};
    vector_set v;
    err        e = {0};
    OK(k->vectors_open(k, &v, rows, N, 1, &e), e);
    for (int n = 1; n <= N; n++) {
        k->search(k, &v, &z, n, score, id);
        kern_ok(k);
        for (int i = 0; i < n; i++) assert_int_equal(id[i], order[i]);
    }
    assert_true(score[5] == -0.5f);
    k->vectors_close(k, &v);
    k->close(k);
}

static void what_cannot_be_done_is_said(void **state)
{
    (void)state;
    float      rows[8] = {1}, score[2];
    int64_t    id[2];
    vector_set v;
    err        e = {0};
    kernels   *k = gpu_open(PRECISION_BF16);
    FAILS(k->vectors_open(k, &v, rows, 0, 8, &e), e, ERR_UNUSABLE, "0 vectors");
    FAILS(k->vectors_open(k, &v, rows, 1, 4097, &e), e, ERR_UNUSABLE, "at most 4096");
    FAILS(k->vectors_open(k, &v, rows, 1, 0, &e), e, ERR_UNUSABLE, "of dimension 0");
    e = (err){0};
    OK(k->vectors_open(k, &v, rows, 1, 8, &e), e);
    k->search(k, &v, rows, 2, score, id);
    FAILS(k->sync(k, &e), e, ERR_BUG, "more are wanted than there are");
    k->vectors_close(k, &v);
    k->close(k);

    for (long n = 0; n < 2; n++) { /* each allocation of a search */
        k = gpu_open(PRECISION_BF16);
        e = (err){0};
        OK(k->vectors_open(k, &v, rows, 1, 8, &e), e);
        mem_fail_after(n);
        k->search(k, &v, rows, 1, score, id);
        mem_fail_after(-1);
        FAILS(k->sync(k, &e), e, ERR_MEMORY, "out of memory");
        k->vectors_close(k, &v);
        k->close(k);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search_finds_the_best),
        cmocka_unit_test(equal_scores_go_by_the_lower_id),
        cmocka_unit_test(zeros_and_negative_scores_are_in_order),
        cmocka_unit_test(what_cannot_be_done_is_said),
    };
    return cmocka_run_group_tests_name("cuda search", tests, NULL, NULL);
}
