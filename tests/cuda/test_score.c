/* test_score.c - the GPU's head over the vocabulary: logits, log-sum-exp, and that neither the rows beside a row nor
 * the size of tile that serves it show in its bits. */
#include "tests/cuda/gpu.h"
#include "base/memory.h"

typedef struct { int R, V, D; dtype type; } score_case;

enum { PAIRS = 150 };

/* A logit's D products are exact in f32 and summed in f32; tensor cores cut where f32 arithmetic rounds: 2^-23 a
 * step. */
static double logit_bound(double size, int D) { return size * (D + 2) * 0x1p-23 * 1.2 + 1e-37; }

static void compare(precision p, const score_case *c)
{
    kernels    *k = gpu_open(p);
    size_t      n = (size_t)c->R * (size_t)c->V;
    test_weight w = random_weight(c->V, c->D, c->type, 61);
    float      *x = random_floats((size_t)c->R * (size_t)c->D, 62, true);
    float      *all = malloc(n * sizeof *all), *one = malloc((size_t)c->V * sizeof *one);
    act        *dx = gpu_acts(k, x, (size_t)c->R * (size_t)c->D);
    weight      dw = gpu_weight(k, &w);
    double     *want = malloc(n * sizeof *want), *size = malloc(n * sizeof *size);
    int32_t     row[PAIRS], token[PAIRS];
    float       logit[PAIRS], lse[PAIRS];

    ref_linear(want, size, x, c->D, c->R, w.f32, c->V, c->D, NULL, UNIT_NONE, NULL, 0);
    for (int i = 0; i < PAIRS; i++)
        row[i] = i * 7 % c->R, token[i] = i == 0 ? 0 : i == 1 ? c->V - 1 : i * 1237 % c->V;
    k->score(k, logit, lse, dx, c->R, &dw, row, token, PAIRS);
    kern_ok(k);
    assert_int_equal(k->flops, 2 * (uint64_t)c->R * (uint64_t)c->V * (uint64_t)c->D);
    k->logits(k, all, dx, c->R, &dw);
    kern_ok(k);
    for (size_t i = 0; i < n; i++) size[i] = logit_bound(size[i], c->D);
    within(all, want, size, n, "logits");
    for (int i = 0; i < PAIRS; i++) {
        size_t at = (size_t)row[i] * (size_t)c->V;
        double top = 0, lse_want = ref_lse(want + at, c->V);
        for (int v = 0; v < c->V; v++) top = fmax(top, size[at + (size_t)v]);
        /* score and logits are the same product */
        assert_memory_equal(&logit[i], &all[at + (size_t)token[i]], sizeof *all);
        /* exponentials and the sum of V of them, in units of log; V / 2 roundings at the worst */
        double bound = top + (c->V / 2.0 + 16) * 0x1p-24 + fabs(lse_want) * 0x1p-23;
        if (!(fabs(lse[i] - lse_want) <= bound))
            fail_msg("%s R %d V %d: log-sum-exp %.9g, should be %.9g", k->name, c->R, c->V, (double)lse[i], lse_want);
    }
    /* the last row alone, through the small tile: the same bits */
    int32_t last = row[PAIRS - 1], zero = 0;
    float   logit1, lse1;
    act    *alone = act_at(k, dx, (size_t)last * (size_t)c->D);
    k->score(k, &logit1, &lse1, alone, 1, &dw, &zero, &token[PAIRS - 1], 1);
    k->logits(k, one, alone, 1, &dw);
    kern_ok(k);
    assert_memory_equal(&logit1, &logit[PAIRS - 1], sizeof logit1);
    assert_memory_equal(&lse1, &lse[PAIRS - 1], sizeof lse1);
    assert_memory_equal(one, all + (size_t)last * (size_t)c->V, (size_t)c->V * sizeof *one);
    k->free_(k, dx);
    k->weight_close(k, &dw);
    k->close(k);
    free(x), free(want), free(size), free(all), free(one);
    random_weight_free(&w);
}

/* Tiles are 16 or 64 rows by 128 tokens, 64 deep. */
static void score_matches_reference(void **state)
{
    (void)state;
    static const score_case cases[] = {
        {1, 1, 1, DTYPE_F32},       {1, 127, 17, DTYPE_BF16},  {3, 128, 16, DTYPE_F32},
        {15, 129, 33, DTYPE_BF16},  {16, 300, 64, DTYPE_BF16}, {17, 257, 65, DTYPE_BF16},
        {65, 140, 128, DTYPE_BF16}, {2, 4200, 8, DTYPE_BF16},  {64, 130, 200, DTYPE_BF16}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        compare(PRECISION_BF16, &cases[i]);
        compare(PRECISION_F32, &cases[i]);
    }
}

/* Logits in the thousands: the sum of exponentials must neither overflow nor lose the largest. */
static void large_logits_do_not_overflow(void **state)
{
    (void)state;
    enum { V = 200, D = 64 };
    kernels    *k = gpu_open(PRECISION_BF16);
    test_weight w = random_weight(V, D, DTYPE_BF16, 7);
    float       x[D], all[V], logit, lse;
    int32_t     zero = 0, best = 0;
    for (int i = 0; i < D; i++) x[i] = w.f32[(size_t)137 * D + (size_t)i] * 100;
    act   *dx = gpu_acts(k, x, D);
    weight dw = gpu_weight(k, &w);
    k->logits(k, all, dx, 1, &dw);
    kern_ok(k);
    for (int v = 0; v < V; v++)
        if (all[v] > all[best]) best = v;
    assert_int_equal(best, 137);
    assert_true(all[best] > 1000);
    k->score(k, &logit, &lse, dx, 1, &dw, &zero, &best, 1);
    kern_ok(k);
    assert_true(lse == logit); /* the others weigh less than 2^-24 together */
    k->free_(k, dx);
    k->weight_close(k, &dw);
    k->close(k);
    random_weight_free(&w);
}

/* No [R,V] logits: scoring 64 rows of a large vocabulary must fit in scratch that could not hold them. */
static void score_needs_no_memory_for_all_logits(void **state)
{
    (void)state;
    enum { R = 64, V = 20000, D = 8 };
    kernels *k = NULL;
    err      e = {0};
    kernels_options o = {.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = 1 << 20};
    if (!kernels_open(&k, &o, &e)) SKIP("%s", e.text);
    test_weight w = random_weight(V, D, DTYPE_BF16, 63);
    float      *x = random_floats(R * D, 64, false), logit[R], lse[R];
    int32_t     row[R], token[R];
    act        *dx = gpu_acts(k, x, R * D);
    weight      dw = gpu_weight(k, &w);
    for (int i = 0; i < R; i++) row[i] = i, token[i] = V - 1 - i;
    k->score(k, logit, lse, dx, R, &dw, row, token, R);
    kern_ok(k);
    for (int i = 0; i < R; i++) assert_true(lse[i] > logit[i]);
    /* the logits themselves do not fit, which must be an error and nothing else */
    float *all = malloc((size_t)R * V * sizeof *all);
    k->logits(k, all, dx, R, &dw);
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch memory is spent");
    free(all), free(x);
    k->free_(k, dx);
    k->weight_close(k, &dw);
    k->close(k);
    random_weight_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(score_matches_reference),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(score_needs_no_memory_for_all_logits),
    };
    return cmocka_run_group_tests_name("cuda score", tests, NULL, NULL);
}
