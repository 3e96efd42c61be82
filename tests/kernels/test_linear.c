/* test_linear.c - products against the double reference on every instruction set, and their promise of same bits. */
#include "tests/kernels/kern.h"

/* Rounding of a sum of K products in f32 in any order: K + 3 roundings (bias, unit, residual) of 2^-24, relative to the sum of
 * the absolute terms, at most; and the activation functions' own error. bf16 products round denormals away: 1e-37. */
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
    ref_linear(want, size, xr, ldx, c->T, w.f32, c->N, c->K, c->bias ? bias : NULL, c->u, c->residual ? res : NULL, ldy);
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
        {0, 7, 9, DTYPE_F32, UNIT_NONE, true, false, false, 0}, {3, 0, 9, DTYPE_F32, UNIT_NONE, true, false, false, 0},
        {3, 5, 0, DTYPE_F32, UNIT_NONE, true, true, false, 0}, {1, 1, 1, DTYPE_F32, UNIT_NONE, false, false, false, 0},
        {1, 1, 1, DTYPE_BF16, UNIT_GELU, true, true, false, 0}, {2, 3, 2, DTYPE_BF16, UNIT_SILU, true, false, false, 1},
        {5, 15, 15, DTYPE_BF16, UNIT_QUICK_GELU, true, true, true, 3}, {6, 16, 16, DTYPE_F32, UNIT_GELU, true, true, true, 0},
        {7, 17, 17, DTYPE_BF16, UNIT_NONE, true, true, true, 1}, {12, 63, 31, DTYPE_F32, UNIT_NONE, false, true, false, 2},
        {13, 64, 33, DTYPE_BF16, UNIT_SILU, true, false, false, 0}, {14, 65, 127, DTYPE_BF16, UNIT_NONE, false, false, false, 5},
        {19, 129, 130, DTYPE_BF16, UNIT_NONE, true, true, true, 0}, {67, 200, 577, DTYPE_BF16, UNIT_GELU, true, true, true, 0},
        {67, 72, 1001, DTYPE_F32, UNIT_NONE, true, false, false, 0},
        /* more rows than GEMM_ROWS, and K beyond a block of the panel on every instruction set */
        {391, 66, 70, DTYPE_BF16, UNIT_NONE, true, true, true, 1}, {14, 9, 9001, DTYPE_BF16, UNIT_NONE, true, true, false, 0},
        {13, 5, 9001, DTYPE_F32, UNIT_NONE, true, true, false, 1}, {1, 130, 300, DTYPE_BF16, UNIT_NONE, true, false, false, 0},
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
                float      *x = random_floats((size_t)MOST * K, 7, true), *alone = malloc((size_t)MOST * N * sizeof *alone);
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
                            fail_msg("%s: N %d K %d: rows of a batch of %d differ from the rows alone", k->name, N, K, T);
                    }
                    kern_ok(k);
                    k->close(k);
                }
                k1->close(k1);
                free(x), free(alone), free(y);
                random_weight_free(&w);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_matches_reference),
        cmocka_unit_test(row_bits_do_not_depend_on_batch),
    };
    return cmocka_run_group_tests_name("kernels linear", tests, NULL, NULL);
}
