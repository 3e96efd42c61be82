/* test_rows.c - norms, gated units, rotary positions, gather, add and mean against the double reference. */
#include "tests/kernels/kern.h"

typedef struct { const isa *sets[4]; int n; } all_sets;
static all_sets every(void)
{
    all_sets a;
    a.n = cpu_isas(a.sets);
    return a;
}

/* D sums of squares in VL chains, the mean's error, three roundings after: in units of the row's largest
 * output. The mean is taken off values that may be far larger than what is left, so the bound is relative to
 * |x| * rstd too. */
static void check_norms(const isa *on, int threads, int T, int D, int kind)
{
    kernels *k = kern_open(on, PRECISION_F32, threads);
    size_t   n = (size_t)T * D;
    float   *x = random_floats(n, 21, kind == 1), *gain = random_floats((size_t)D, 22, false),
          *bias = random_floats((size_t)D, 23, false), *y = malloc((n + 1) * sizeof *y);
    double *want = malloc((n + 1) * sizeof *want), *bound = malloc((n + 1) * sizeof *bound);
    weight  g = vector_weight(gain, D), b = vector_weight(bias, D);
    if (kind == 2)
        for (size_t i = 0; i < n; i++) x[i] = 3.25f; /* constant rows: variance 0, only eps is left */
    const double eps = 1e-5;

    for (int rms = 0; rms < 2; rms++) {
        if (rms) ref_rmsnorm(want, x, T, D, gain, eps);
        else ref_layernorm(want, x, T, D, gain, bias, eps);
        for (int t = 0; t < T; t++) {
            double sq = 0, mean = 0, top = 0;
            for (int i = 0; i < D; i++) mean += x[t * D + i] / (double)D, top = fmax(top, fabs((double)x[t * D + i]));
            for (int i = 0; i < D; i++) sq += (x[t * D + i] - (rms ? 0 : mean)) * (x[t * D + i] - (rms ? 0 : mean));
            double rstd = 1 / sqrt(sq / D + eps);
            for (int i = 0; i < D; i++)
                bound[t * D + i] =
                    0x1p-24 * ((D / 2.0 + 8) * top * rstd * fabs((double)gain[i]) + 4 * fabs((double)bias[i]));
        }
        memcpy(y, x, n * sizeof *y); /* in place */
        if (rms) k->rmsnorm(k, y, y, T, D, &g, (float)eps);
        else k->layernorm(k, y, y, T, D, &g, &b, (float)eps);
        kern_ok(k);
        char what[100];
        snprintf(what, sizeof what, "%s %snorm T %d D %d kind %d", k->name, rms ? "rms" : "layer", T, D, kind);
        within(y, want, bound, n, what);
        for (int t = 0; t < T; t += 3) { /* a row alone has the same bits */
            float *one = malloc((size_t)D * sizeof *one);
            if (rms) k->rmsnorm(k, one, x + (size_t)t * D, 1, D, &g, (float)eps);
            else k->layernorm(k, one, x + (size_t)t * D, 1, D, &g, &b, (float)eps);
            assert_memory_equal(one, y + (size_t)t * D, (size_t)D * sizeof *one);
            free(one);
        }
    }
    free(x), free(gain), free(bias), free(y), free(want), free(bound);
    k->close(k);
}

static void norms_match_reference(void **state)
{
    (void)state;
    all_sets  s = every();
    const int widths[] = {1, 2, 15, 16, 17, 31, 64, 96, 1000, 1280};
    for (int i = 0; i < s.n; i++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int kind = 0; kind < 3; kind++) check_norms(s.sets[i], 1, 5, widths[w], kind);
    for (int i = 0; i < s.n; i++) check_norms(s.sets[i], 3, 67, 1280, 1); /* enough for several threads */
    check_norms(s.sets[0], 1, 0, 8, 0);
}

static void glu_matches_reference(void **state)
{
    (void)state;
    all_sets  s = every();
    const int widths[] = {1, 4, 15, 16, 33, 192, 1031};
    for (int i = 0; i < s.n; i++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int u = UNIT_NONE; u <= UNIT_SILU; u++) {
                int      F = widths[w], T = 67, ld = 2 * F + 1;
                float   *x = random_floats((size_t)T * ld, 31, true), *y = malloc((size_t)T * F * sizeof *y);
                double  *want = malloc((size_t)T * F * sizeof *want), *bound = malloc((size_t)T * F * sizeof *bound);
                kernels *k = kern_open(s.sets[i], PRECISION_F32, 2);
                ref_glu(want, x, x + F, ld, T, F, (unit)u);
                for (int t = 0; t < T; t++) /* the unit within 1e-6 of |gate|, one product */
                    for (int j = 0; j < F; j++)
                        bound[t * F + j] = 1.2e-6 * fabs((double)x[t * ld + j] * x[t * ld + F + j]) + 1e-30;
                k->glu(k, y, x, x + F, ld, T, F, (unit)u);
                kern_ok(k);
                within(y, want, bound, (size_t)T * F, k->name);
                free(x), free(y), free(want), free(bound);
                k->close(k);
            }
}

static void rope_matches_reference(void **state)
{
    (void)state;
    all_sets s = every();
    static const struct {
        int heads, dim, half;
    } sizes[] = {{1, 2, 1}, {3, 32, 16}, {2, 20, 7}, {12, 128, 64}, {4, 80, 40}};
    for (int i = 0; i < s.n; i++)
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++)
            for (int inter = 0; inter < 2; inter++) {
                int      H = sizes[z].heads, dim = sizes[z].dim, half = sizes[z].half, T = 67, ld = H * dim + 5;
                float *x = random_floats((size_t)T * ld, 41, true),
                      *angle = random_floats((size_t)T * half, 42, false);
                float   *c = malloc((size_t)T * half * sizeof *c), *sn = malloc((size_t)T * half * sizeof *sn);
                double *want = malloc((size_t)T * ld * sizeof *want),
                       *bound = malloc((size_t)T * ld * sizeof *bound);
                kernels *k = kern_open(s.sets[i], PRECISION_F32, 2);
                for (int j = 0; j < T * half; j++) c[j] = cosf(angle[j]), sn[j] = sinf(angle[j]);
                for (int j = 0; j < T * ld; j++) want[j] = x[j];
                ref_rope(want, x, ld, T, H, dim, c, sn, half, inter != 0);
                for (int t = 0; t < T; t++) { /* both of a pair contribute; the row's largest bounds every pair */
                    double top = 0;
                    for (int d = 0; d < ld; d++) top = fmax(top, fabs((double)x[t * ld + d]));
                    for (int j = 0; j < ld; j++) bound[t * ld + j] = 3 * 0x1p-24 * top;
                }
                k->rope(k, x, ld, T, H, dim, c, sn, half, inter != 0);
                kern_ok(k);
                within(x, want, bound, (size_t)T * ld, k->name);
                free(x), free(angle), free(c), free(sn), free(want), free(bound);
                k->close(k);
            }
}

static void gather_add_mean(void **state)
{
    (void)state;
    all_sets s = every();
    for (int i = 0; i < s.n; i++)
        for (int type = 0; type < 2; type++) {
            enum { V = 37, D = 53, T = 29 };
            kernels    *k = kern_open(s.sets[i], PRECISION_F32, 2);
            test_weight w = random_weight(V, D, type ? DTYPE_BF16 : DTYPE_F32, 51);
            int32_t     id[T];
            float       y[T * D], m[D];
            double      want[D], bound[D];
            for (int t = 0; t < T; t++) id[t] = (t * 17 + 36) % V;
            k->gather(k, y, &w.w, id, T, D);
            for (int t = 0; t < T; t++) assert_memory_equal(y + t * D, w.f32 + id[t] * D, D * sizeof *y);
            ref_mean_rows(want, y, T, D);
            for (int d = 0; d < D; d++) bound[d] = T * 0x1p-24 * 3 * 2;
            k->mean_rows(k, m, y, T, D);
            within(m, want, bound, D, "mean_rows");
            k->add(k, y, w.f32, D);
            for (int d = 0; d < D; d++) assert_float_equal(y[d], w.f32[id[0] * D + d] + w.f32[d], 0);
            assert_memory_equal(y + D, w.f32 + id[1] * D, D * sizeof *y); /* no further than n */
            kern_ok(k);
            assert_int_equal(k->flops, 0);
            random_weight_free(&w);
            k->close(k);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_match_reference), cmocka_unit_test(glu_matches_reference),
        cmocka_unit_test(rope_matches_reference), cmocka_unit_test(gather_add_mean),
    };
    return cmocka_run_group_tests_name("kernels rows", tests, NULL, NULL);
}
