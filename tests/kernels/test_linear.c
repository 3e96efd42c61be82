/* test_linear.c - products against the double reference on every instruction set, and their promise of same bits. */
#include "tests/kernels/kern.h"

#include <sys/wait.h>
#include <unistd.h>

/* Rounding of a sum of K products in f32 in any order: K + 3 roundings (bias, unit, residual) of 2^-24,
 * relative to the sum of the absolute terms, at most; and the activation functions' own error. bf16 products
 * round denormals away: 1e-37. */
static double bound_of(double size, int K, unit u)
{
    return size * (K + 3) * 0x1p-24 * 1.2 + (u == UNIT_NONE ? 0 : size * 1e-6) + 1e-37;
}

typedef struct { int T, N, K; dtype type; unit u; bool bias, residual, in_place; int pad; } linear_case;

static void compare(const isa *on, precision p, int threads, const linear_case *c)
{
    kernels    *k = kern_open(on, p, threads);
    int         ldx = c->K + c->pad, ldy = c->N + c->pad;
    float      *x = random_floats((size_t)c->T * ldx, 1, true), *bias = random_floats((size_t)c->N, 2, false);
    float      *res = random_floats((size_t)c->T * ldy, 3, true), *y = random_floats((size_t)c->T * ldy, 4, false);
    test_weight w = random_weight(c->N, c->K, c->type, 5);
    weight      b = vector_weight(bias, c->N);
    size_t      n = (size_t)c->T * (size_t)c->N;
    double     *want = malloc((n + 1) * sizeof *want), *size = malloc((n + 1) * sizeof *size);
    float      *xr = random_floats((size_t)c->T * ldx, 1, true), *got = malloc((n + 1) * sizeof *got);
    bool        rounds = p == PRECISION_BF16 && c->type == DTYPE_BF16;

    if (rounds) ref_round_bf16(xr, x, (size_t)c->T * ldx);
    ref_linear(want, size, xr, ldx, c->T, w.f32, c->N, c->K, c->bias ? bias : NULL, c->u, c->residual ? res : NULL,
               ldy);
    for (size_t i = 0; i < n; i++) size[i] = bound_of(size[i], c->K, c->u);
    if (c->in_place) memcpy(y, res, (size_t)c->T * ldy * sizeof *y);
    float before = c->T > 1 && c->pad ? y[c->N] : 0;
    k->linear(k, y, ldy, x, ldx, c->T, &w.w, c->bias ? &b : NULL, c->u, !c->residual ? NULL : c->in_place ? y : res);
    kern_ok(k);
    if (c->T > 1 && c->pad) assert_float_equal(y[c->N], before, 0); /* what lies between rows is not written */
    for (int t = 0; t < c->T; t++) memcpy(got + (size_t)t * c->N, y + (size_t)t * ldy, (size_t)c->N * sizeof *got);
    char what[120];
    snprintf(what, sizeof what, "%s T %d N %d K %d %s unit %d", k->name, c->T, c->N, c->K, dtype_name(c->type), c->u);
    within(got, want, size, n, what);
    assert_int_equal(k->flops, 2 * (uint64_t)c->T * (uint64_t)c->N * (uint64_t)c->K);
    free(x), free(bias), free(res), free(y), free(want), free(size), free(xr), free(got);
    random_weight_free(&w);
    k->close(k);
}

static void linear_matches_reference(void **state)
{
    (void)state;
    static const linear_case cases[] = {
        {0, 7, 9, DTYPE_F32, UNIT_NONE, true, false, false, 0},
        {3, 0, 9, DTYPE_F32, UNIT_NONE, true, false, false, 0},
        {3, 5, 0, DTYPE_F32, UNIT_NONE, true, true, false, 0},
        {1, 1, 1, DTYPE_F32, UNIT_NONE, false, false, false, 0},
        {1, 1, 1, DTYPE_BF16, UNIT_GELU, true, true, false, 0},
        {2, 3, 2, DTYPE_BF16, UNIT_SILU, true, false, false, 1},
        {5, 15, 15, DTYPE_BF16, UNIT_QUICK_GELU, true, true, true, 3},
        {6, 16, 16, DTYPE_F32, UNIT_GELU, true, true, true, 0},
        {7, 17, 17, DTYPE_BF16, UNIT_NONE, true, true, true, 1},
        {12, 63, 31, DTYPE_F32, UNIT_NONE, false, true, false, 2},
        {13, 64, 33, DTYPE_BF16, UNIT_SILU, true, false, false, 0},
        {14, 65, 127, DTYPE_BF16, UNIT_NONE, false, false, false, 5},
        {19, 129, 130, DTYPE_BF16, UNIT_NONE, true, true, true, 0},
        {67, 200, 577, DTYPE_BF16, UNIT_GELU, true, true, true, 0},
        {67, 72, 1001, DTYPE_F32, UNIT_NONE, true, false, false, 0},
        /* more rows than GEMM_ROWS, and K beyond a block of the panel on every instruction set */
        {391, 66, 70, DTYPE_BF16, UNIT_NONE, true, true, true, 1},
        {14, 9, 9001, DTYPE_BF16, UNIT_NONE, true, true, false, 0},
        {13, 5, 9001, DTYPE_F32, UNIT_NONE, true, true, false, 1},
        {1, 130, 300, DTYPE_BF16, UNIT_NONE, true, false, false, 0},
    };
    const isa *sets[4];
    int        n = cpu_isas(sets);
    for (int s = 0; s < n; s++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int threads = 1; threads <= 3; threads += 2) {
                compare(sets[s], PRECISION_F32, threads, &cases[i]);
                compare(sets[s], PRECISION_BF16, threads, &cases[i]);
            }
}

/* Row r of a batch, wherever it is and however many there are, has the bits that it has alone. */
static void row_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    enum { MOST = 67 };
    static const struct { int N, K; dtype type; } sizes[] = {
        {70, 131, DTYPE_BF16}, {64, 96, DTYPE_F32}, {33, 9001, DTYPE_BF16}, {130, 2100, DTYPE_F32}};
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    for (int s = 0; s < n_sets; s++)
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++)
            for (int p = 0; p < 2; p++) {
                int         N = sizes[z].N, K = sizes[z].K;
                float *x = random_floats((size_t)MOST * K, 7, true),
                      *alone = malloc((size_t)MOST * N * sizeof *alone);
                float      *y = malloc((size_t)MOST * N * sizeof *y);
                test_weight w = random_weight(N, K, sizes[z].type, 8);
                kernels    *k1 = kern_open(sets[s], p ? PRECISION_BF16 : PRECISION_F32, 1);
                for (int t = 0; t < MOST; t++)
                    k1->linear(k1, alone + (size_t)t * N, N, x + (size_t)t * K, K, 1, &w.w, NULL, UNIT_NONE, NULL);
                for (int threads = 1; threads <= 3; threads++) {
                    kernels *k = kern_open(sets[s], p ? PRECISION_BF16 : PRECISION_F32, threads);
                    for (int T = 1; T <= MOST; T = K > 1000 ? 3 * T + 1 : T + 1) {
                        int from = MOST - T; /* so that the position changes too */
                        k->linear(k, y, N, x + (size_t)from * K, K, T, &w.w, NULL, UNIT_NONE, NULL);
                        if (memcmp(y, alone + (size_t)from * N, (size_t)T * N * sizeof *y) != 0)
                            fail_msg("%s: N %d K %d: rows of a batch of %d differ from the rows alone", k->name, N,
                                     K, T);
                    }
                    kern_ok(k);
                    k->close(k);
                }
                k1->close(k1);
                free(x), free(alone), free(y);
                random_weight_free(&w);
            }
}

typedef struct { int T, N, K, R; dtype type; unit u; bool residual; } low_rank_case;

/* The branch's two sums are rounded like the product's own; where products are bf16, x A^T is rounded to bf16
 * in between. A unit's slope is at most 1.13. Then: a row alone has the bits that it has in the batch. */
static void compare_low_rank(const isa *on, precision p, int threads, const low_rank_case *c)
{
    kernels    *k = kern_open(on, p, threads);
    int         T = c->T, N = c->N, K = c->K, R = c->R;
    size_t      n = (size_t)T * (size_t)N, m = (size_t)T * (size_t)R;
    float      *x = random_floats((size_t)T * K, 61, true), *xr = random_floats((size_t)T * K, 61, true);
    float *bias = random_floats((size_t)N, 62, false), *res = random_floats(n, 63, true),
          *y = malloc((n + 1) * sizeof *y);
    float      *one = malloc(((size_t)N + 1) * sizeof *one);
    double     *want = malloc((n + 1) * sizeof *want), *bound = malloc((n + 1) * sizeof *bound);
    double     *low = malloc((m + 1) * sizeof *low), *low_size = malloc((m + 1) * sizeof *low_size);
    test_weight w = random_weight(N, K, c->type, 64), a = random_weight(R, K, c->type, 65),
                b = random_weight(N, R, c->type, 66);
    weight      bias_w = vector_weight(bias, N), av = a.w;
    bool        rounds = p == PRECISION_BF16 && c->type == DTYPE_BF16;
    if (R == 1) av = vector_weight(a.f32, K); /* as weight_open() makes it, and then x is not rounded for it */
    ref_linear(low, low_size, x, K, T, a.f32, R, K, NULL, UNIT_NONE, NULL, 0);
    if (rounds) ref_round_bf16(xr, x, (size_t)T * K);
    if (rounds && R > 1) ref_linear(low, low_size, xr, K, T, a.f32, R, K, NULL, UNIT_NONE, NULL, 0);
    ref_linear(want, bound, xr, K, T, w.f32, N, K, bias, UNIT_NONE, NULL, 0);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < N; i++) {
            double *at = &want[(size_t)t * N + i], size = bound[(size_t)t * N + i], between = 0;
            for (int r = 0; r < R; r++) {
                double v = (double)b.f32[(size_t)i * R + r];
                *at += low[(size_t)t * R + r] * v;
                size += low_size[(size_t)t * R + r] * fabs(v);
                between += fabs(low[(size_t)t * R + r] * v) * (rounds ? 0x1p-8 : 0);
            }
            *at = ref_unit(*at, c->u) + (c->residual ? (double)res[(size_t)t * N + i] : 0);
            bound[(size_t)t * N + i] = 1.13 * (bound_of(size, K + R, c->u) + between) + fabs(*at) * 0x1p-24;
        }
    memcpy(y, res, n * sizeof *y);
    k->linear_low_rank(k, y, N, x, K, T, &w.w, &bias_w, &av, &b.w, c->u, c->residual ? y : NULL);
    kern_ok(k);
    char what[120];
    snprintf(what, sizeof what, "%s low rank T %d N %d K %d R %d %s unit %d", k->name, T, N, K, R,
             dtype_name(c->type), c->u);
    within(y, want, bound, n, what);
    assert_int_equal(k->flops, 2 * ((uint64_t)T * N * K + (uint64_t)T * R * (N + K)));
    for (int t = 0; t < T; t += 7) {
        memcpy(one, res + (size_t)t * N, (size_t)N * sizeof *one);
        k->linear_low_rank(k, one, N, x + (size_t)t * K, K, 1, &w.w, &bias_w, &av, &b.w, c->u,
                           c->residual ? one : NULL);
        if (memcmp(one, y + (size_t)t * N, (size_t)N * sizeof *one) != 0)
            fail_msg("%s: row %d alone has other bits", what, t);
    }
    free(x), free(xr), free(bias), free(res), free(y), free(one), free(want), free(bound), free(low), free(low_size);
    random_weight_free(&w), random_weight_free(&a), random_weight_free(&b);
    k->close(k);
}

static void low_rank_branch_matches_reference(void **state)
{
    (void)state;
    static const low_rank_case cases[] = {
        {0, 7, 9, 2, DTYPE_F32, UNIT_NONE, false},      {1, 1, 1, 1, DTYPE_F32, UNIT_NONE, true},
        {3, 5, 9, 1, DTYPE_BF16, UNIT_NONE, true},      {8, 17, 33, 7, DTYPE_BF16, UNIT_QUICK_GELU, true},
        {9, 64, 96, 8, DTYPE_BF16, UNIT_GELU, false},   {13, 65, 130, 16, DTYPE_F32, UNIT_SILU, true},
        {391, 66, 70, 4, DTYPE_BF16, UNIT_NONE, true},  {14, 130, 300, 65, DTYPE_F32, UNIT_NONE, false},
        {15, 33, 9001, 8, DTYPE_BF16, UNIT_NONE, true}, {9, 20, 50, 2200, DTYPE_BF16, UNIT_NONE, false},
        {9, 20, 50, 4100, DTYPE_F32, UNIT_NONE, true},
    };
    const isa *sets[4];
    int        n = cpu_isas(sets);
    for (int s = 0; s < n; s++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int threads = 1; threads <= 3; threads += 2) {
                compare_low_rank(sets[s], PRECISION_F32, threads, &cases[i]);
                compare_low_rank(sets[s], PRECISION_BF16, threads, &cases[i]);
            }
}

/* Products of the same rows, together and one by one: the same bits, and what they count; widths that leave some
 * threads idle, of two types, more than are run together. */
static void products_of_the_same_rows_keep_their_bits(void **state)
{
    (void)state;
    enum { MOST = 4, K = 130, MAX_N = 400 };
    static const struct { int n, N[MOST], T; bool mixed; } cases[] = {
        {1, {7}, 3, false},           {2, {400, 33}, 1, false},    {3, {130, 32, 33}, 10, false},
        {3, {8, 0, 64}, 40, false},   {3, {320, 64, 64}, 1, true}, {4, {16, 8, 240, 40}, 33, true},
        {3, {40, 24, 8}, 0, false},
    };
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    for (int s = 0; s < n_sets; s++)
        for (int c = 0; c < (int)(sizeof cases / sizeof *cases); c++)
            for (int v = 0; v < 4; v++) {
                kernels    *k = kern_open(sets[s], v % 2 ? PRECISION_BF16 : PRECISION_F32, v < 2 ? 1 : 3);
                int         T = cases[c].T, n = cases[c].n;
                float      *x = random_floats((size_t)T * K, 1, true), *bias = random_floats(MAX_N, 2, false);
                float      *one = random_floats((size_t)T * MAX_N, 3, false), *y[MOST];
                weight      b[MOST];
                test_weight w[MOST];
                product_out out[MOST];
                for (int i = 0; i < n; i++) {
                    int N = cases[c].N[i];
                    w[i] = random_weight(N, K, cases[c].mixed && i == 1 ? DTYPE_F32 : DTYPE_BF16, 5 + (uint32_t)i);
                    b[i] = vector_weight(bias, N);
                    y[i] = random_floats((size_t)T * N, 4, false);
                    out[i] = (product_out){y[i], N, &w[i].w, i ? &b[i] : NULL};
                }
                k->linears(k, out, n, x, K, T);
                uint64_t flops = k->flops;
                k->flops = 0;
                for (int i = 0; i < n; i++) {
                    int N = cases[c].N[i];
                    k->linear(k, one, N, x, K, T, &w[i].w, out[i].bias, UNIT_NONE, NULL);
                    assert_memory_equal(y[i], one, (size_t)T * (size_t)N * sizeof *one);
                    free(y[i]);
                    random_weight_free(&w[i]);
                }
                kern_ok(k);
                assert_int_equal(flops, k->flops);
                free(x), free(bias), free(one);
                k->close(k);
            }
}

#ifdef __SANITIZE_ADDRESS__
/* The innermost loops are not looked into (kernels/cpu/vec.h): what they are told to read and write must be. */
static int status_of_product(const isa *on, precision p, int T, dtype type, bool short_x)
{
    enum { N = 40, K = 64 };
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        kernels    *k = kern_open(on, p, 1);
        test_weight w = random_weight(N, K, type, 5);
        float      *x = random_floats((size_t)T * K - short_x, 1, false), *y = random_floats((size_t)T * N, 2, false);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        k->linear(k, y, N, x, K, T, &w.w, NULL, UNIT_NONE, NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void reading_past_the_end_is_found(void **state)
{
    (void)state;
    static const int rows[] = {1, 3, 40}; /* streams and tiles */
    const isa       *sets[4];
    int              n = cpu_isas(sets);
    for (int s = 0; s < n; s++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (int type = 0; type < 2; type++) {
                dtype     t = type ? DTYPE_BF16 : DTYPE_F32;
                precision p = type ? PRECISION_BF16 : PRECISION_F32;
                assert_int_equal(status_of_product(sets[s], p, rows[i], t, false), 0);
                assert_int_equal(status_of_product(sets[s], p, rows[i], t, true), 99); /* ASAN_OPTIONS exitcode */
            }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_matches_reference),
        cmocka_unit_test(row_bits_do_not_depend_on_batch),
        cmocka_unit_test(low_rank_branch_matches_reference),
        cmocka_unit_test(products_of_the_same_rows_keep_their_bits),
#ifdef __SANITIZE_ADDRESS__
        cmocka_unit_test(reading_past_the_end_is_found),
#endif
    };
    return cmocka_run_group_tests_name("kernels linear", tests, NULL, NULL);
}
