/* test_score.c - the head over the vocabulary: logits, log-sum-exp, and that neither rows nor threads show in
 * the bits. */
#include "tests/kernels/kern.h"

typedef struct { int R, V, D; dtype type; } score_case;

static void check_score(const isa *on, precision p, int threads, const score_case *c)
{
    kernels    *k = kern_open(on, p, threads);
    test_weight w = random_weight(c->V, c->D, c->type, 61);
    float      *x = random_floats((size_t)c->R * c->D, 62, true), *xr = malloc((size_t)c->R * c->D * sizeof *xr);
    double     *want = malloc((size_t)c->R * c->V * sizeof *want), *size = malloc((size_t)c->R * c->V * sizeof *size);
    enum { N = 150 };
    int32_t row[N], token[N];
    float logit[N], lse[N], *all = malloc((size_t)c->R * c->V * sizeof *all),
                            *one = malloc((size_t)c->V * sizeof *one);

    if (p == PRECISION_BF16 && c->type == DTYPE_BF16) ref_round_bf16(xr, x, (size_t)c->R * c->D);
    else memcpy(xr, x, (size_t)c->R * c->D * sizeof *xr);
    ref_linear(want, size, xr, c->D, c->R, w.f32, c->V, c->D, NULL, UNIT_NONE, NULL, 0);
    for (int i = 0; i < N; i++) row[i] = i * 7 % c->R, token[i] = i == 0 ? 0 : i == 1 ? c->V - 1 : i * 1237 % c->V;
    k->score(k, logit, lse, x, c->R, &w.w, row, token, N);
    kern_ok(k);
    assert_int_equal(k->flops, 2 * (uint64_t)c->R * (uint64_t)c->V * (uint64_t)c->D);
    k->logits(k, all, x, c->R, &w.w);
    for (int i = 0; i < N; i++) {
        size_t at = (size_t)row[i] * c->V + token[i];
        double top = 0, lse_want = ref_lse(want + (size_t)row[i] * c->V, c->V);
        for (int v = 0; v < c->V; v++) top = fmax(top, size[(size_t)row[i] * c->V + v]);
        /* a logit's bound as in test_linear; the sum of V exponentials adds V / 2 roundings in the worst case,
         * in log */
        assert_true(fabs(logit[i] - want[at]) <= size[at] * (c->D + 2) * 0x1p-24 * 1.2 + 1e-37);
        double bound = top * (c->D + 2) * 0x1p-24 * 1.2 + (c->V / 2.0 + 8) * 0x1p-24 + fabs(lse_want) * 0x1p-23;
        if (!(fabs(lse[i] - lse_want) <= bound))
            fail_msg("%s R %d V %d: log-sum-exp %.9g, should be %.9g", k->name, c->R, c->V, (double)lse[i], lse_want);
        assert_memory_equal(&logit[i], &all[at], sizeof *all); /* score and logits are the same product */
    }
    int32_t last = c->R - 1, zero = 0, t0 = token[1]; /* the last row alone: the same bits */
    float   logit1, lse1, logit2, lse2;
    k->score(k, &logit1, &lse1, x, c->R, &w.w, &last, &t0, 1);
    kernels *k1 = kern_open(on, p, 1);
    k1->score(k1, &logit2, &lse2, x + (size_t)last * c->D, 1, &w.w, &zero, &t0, 1);
    assert_memory_equal(&logit1, &logit2, 4);
    assert_memory_equal(&lse1, &lse2, 4);
    k1->logits(k1, one, x + (size_t)last * c->D, 1, &w.w);
    assert_memory_equal(one, all + (size_t)last * c->V, (size_t)c->V * sizeof *one);
    k1->close(k1);
    k->close(k);
    free(x), free(xr), free(want), free(size), free(all), free(one);
    random_weight_free(&w);
}

static void score_matches_reference(void **state)
{
    (void)state;
    static const score_case cases[] = {{1, 1, 1, DTYPE_F32},       {1, 511, 17, DTYPE_BF16},
                                       {3, 512, 16, DTYPE_F32},    {2, 513, 33, DTYPE_BF16},
                                       {67, 1469, 30, DTYPE_BF16}, {130, 640, 31, DTYPE_F32}};
    const isa *sets[4];
    int        n = cpu_isas(sets);
    for (int s = 0; s < n; s++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int threads = 1; threads <= 3; threads++) {
                check_score(sets[s], PRECISION_F32, threads, &cases[i]);
                check_score(sets[s], PRECISION_BF16, threads, &cases[i]);
            }
}

/* No [R,V] logits: scoring 64 rows of a large vocabulary must fit in scratch that could not hold them. */
static void score_needs_no_memory_for_all_logits(void **state)
{
    (void)state;
    enum { R = 64, V = 20000, D = 8 };
    kernels    *k = NULL;
    err         e = {0};
    test_weight w = random_weight(V, D, DTYPE_BF16, 63);
    float      *x = random_floats(R * D, 64, false), logit[R], lse[R];
    int32_t     row[R], token[R];
    for (int i = 0; i < R; i++) row[i] = i, token[i] = V - 1 - i;
    OK(kernels_open(&k, &(kernels_options){.device = "cpu", .threads = 2, .scratch_bytes = 1 << 20}, &e), e);
    k->score(k, logit, lse, x, R, &w.w, row, token, R);
    kern_ok(k);
    free(x);
    random_weight_free(&w);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(score_matches_reference),
        cmocka_unit_test(score_needs_no_memory_for_all_logits),
    };
    return cmocka_run_group_tests_name("kernels score", tests, NULL, NULL);
}
