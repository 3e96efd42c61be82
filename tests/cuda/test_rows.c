/* test_rows.c - the GPU's norms, gated units, rotary positions, gather, add, copies and mean against the double reference, in
 * both element types; widths around a thread's eight elements and a block's pass, first elements that are not
 * aligned. */
#include "tests/cuda/gpu.h"

enum { OUTLIERS = 1, CONSTANT = 2 };

/* As tests/kernels/test_rows.c: D roundings of the sums relative to |x| * rstd, then the result's own rounding. */
static void check_norms(precision p, int T, int D, int kind, bool off)
{
    kernels *k = gpu_table(p);
    size_t   n = (size_t)T * D;
    float *x = random_floats(n, 21, kind == OUTLIERS), *gain = random_floats((size_t)D, 22, false),
          *bias = random_floats((size_t)D, 23, false), *y = malloc((n + 1) * sizeof *y),
          *one = malloc(((size_t)D + 1) * sizeof *one);
    double *want = malloc((n + 1) * sizeof *want), *bound = malloc((n + 1) * sizeof *bound);
    weight  g = gpu_vector(k, gain, D), b = gpu_vector(k, bias, D);
    if (kind == CONSTANT)
        for (size_t i = 0; i < n; i++) x[i] = 3.25f; /* variance 0, only eps is left */
    act *at, *dx = gpu_acts_off(k, x, n, &at), *in = k->alloc(k, (n + 1) * (size_t)k->act_bytes),
             *dy = off ? act_at(k, in, 1) : in;
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
                    0x1p-24 * ((D / 2.0 + 8) * top * rstd * fabs((double)gain[i]) + 4 * fabs((double)bias[i]))
                    + gpu_rounding(k, want[t * D + i]);
        }
        k->copy(k, dy, at, n); /* in place */
        if (rms) k->rmsnorm(k, dy, dy, T, D, &g, (float)eps);
        else k->layernorm(k, dy, dy, T, D, &g, &b, (float)eps);
        k->get(k, y, dy, n);
        kern_ok(k);
        char what[100];
        snprintf(what, sizeof what, "%s %snorm T %d D %d kind %d", k->name, rms ? "rms" : "layer", T, D, kind);
        within(y, want, bound, n, what);
        for (int t = 0; t < T; t += 3) { /* a row alone, from another address, has the same bits */
            if (rms) k->rmsnorm(k, dy, act_at(k, at, (size_t)t * D), 1, D, &g, (float)eps);
            else k->layernorm(k, dy, act_at(k, at, (size_t)t * D), 1, D, &g, &b, (float)eps);
            k->get(k, one, dy, (size_t)D);
            assert_memory_equal(one, y + (size_t)t * D, (size_t)D * sizeof *one);
        }
    }
    k->free_(k, dx), k->free_(k, in);
    k->weight_close(k, &g), k->weight_close(k, &b);
    free(x), free(gain), free(bias), free(y), free(one), free(want), free(bound);
}

static void norms_match_reference(void **state)
{
    (void)state;
    static const int widths[] = {1, 2, 7, 8, 9, 64, 1000, 1023, 1024, 1025, 1280, 3584};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int kind = 0; kind <= CONSTANT; kind++) {
            check_norms(PRECISION_BF16, 4, widths[w], kind, false);
            check_norms(PRECISION_F32, 4, widths[w], kind, (w & 1) != 0);
        }
    check_norms(PRECISION_BF16, 0, 8, 0, false);
    check_norms(PRECISION_BF16, 5, 1280, OUTLIERS, true);
}

/* LayerNorm's bias may be absent. */
static void layernorm_without_bias(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_F32);
    float    x[6] = {1, 2, 3, -1, 0, 1}, gain[3] = {1, 2, 3}, y[6];
    double   want[6], bound[6];
    weight   g = gpu_vector(k, gain, 3);
    act     *dx = gpu_acts(k, x, 6);
    ref_layernorm(want, x, 2, 3, gain, NULL, 1e-6);
    k->layernorm(k, dx, dx, 2, 3, &g, NULL, 1e-6f);
    k->get(k, y, dx, 6);
    kern_ok(k);
    for (int i = 0; i < 6; i++) bound[i] = 1e-6;
    within(y, want, bound, 6, "layernorm without bias");
    k->free_(k, dx);
    k->weight_close(k, &g);
}

static void glu_matches_reference(void **state)
{
    (void)state;
    static const int widths[] = {1, 7, 8, 9, 192, 1031, 2048};
    for (int p = 0; p < 2; p++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int u = UNIT_NONE; u <= UNIT_SILU; u++) {
                int      F = widths[w], T = 3, ld = 2 * F + (int)(w % 2);
                size_t   n = (size_t)T * ld, m = (size_t)T * F;
                kernels *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
                float   *x = random_floats(n, 31, true), *y = malloc(m * sizeof *y);
                double  *want = malloc(m * sizeof *want), *bound = malloc(m * sizeof *bound);
                act     *dx = gpu_acts(k, x, n), *dy = k->alloc(k, m * (size_t)k->act_bytes);
                ref_glu(want, x, x + F, ld, T, F, (unit)u);
                for (int t = 0; t < T; t++) /* the unit within 1e-6 of |gate|, one product, one rounding */
                    for (int j = 0; j < F; j++)
                        bound[t * F + j] = 1.2e-6 * fabs((double)x[t * ld + j] * x[t * ld + F + j]) + 1e-30
                                           + gpu_rounding(k, want[t * F + j]);
                k->glu(k, dy, dx, act_at(k, dx, (size_t)F), ld, T, F, (unit)u);
                k->get(k, y, dy, m);
                kern_ok(k);
                within(y, want, bound, m, k->name);
                k->free_(k, dx), k->free_(k, dy);
                free(x), free(y), free(want), free(bound);
            }
}

/* y may be gate where rows are not apart */
static void glu_in_place(void **state)
{
    (void)state;
    enum { T = 3, F = 40 };
    kernels *k = gpu_table(PRECISION_BF16);
    float   *x = random_floats(2 * T * F, 32, false), y[T * F];
    double   want[T * F], bound[T * F];
    act     *dx = gpu_acts(k, x, 2 * T * F);
    ref_glu(want, x, x + T * F, F, T, F, UNIT_SILU);
    for (int i = 0; i < T * F; i++) bound[i] = 1e-5 + gpu_rounding(k, want[i]);
    k->glu(k, dx, dx, act_at(k, dx, T * F), F, T, F, UNIT_SILU);
    k->get(k, y, dx, T * F);
    kern_ok(k);
    within(y, want, bound, T * F, "glu in place");
    k->free_(k, dx);
    free(x);
}

static void rope_matches_reference(void **state)
{
    (void)state;
    static const struct {
        int heads, dim, half, pad;
    } sizes[] = {{1, 2, 1, 0},    {3, 32, 16, 0}, {2, 20, 7, 5}, {12, 128, 64, 0},
                 {4, 80, 40, 16}, {2, 24, 12, 0}, {2, 64, 20, 1}};
    for (int p = 0; p < 2; p++)
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++)
            for (int inter = 0; inter < 2; inter++) {
                int H = sizes[z].heads, dim = sizes[z].dim, half = sizes[z].half, T = 5,
                    ld = H * dim + sizes[z].pad;
                size_t   n = (size_t)T * ld, m = (size_t)T * half;
                kernels *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
                float *x = random_floats(n, 41, true), *y = malloc(n * sizeof *y),
                      *angle = random_floats(m, 42, false);
                float   *c = malloc(m * sizeof *c), *sn = malloc(m * sizeof *sn);
                double  *want = malloc(n * sizeof *want), *bound = malloc(n * sizeof *bound);
                act     *dx = gpu_acts(k, x, n);
                for (size_t j = 0; j < m; j++) c[j] = cosf(angle[j]), sn[j] = sinf(angle[j]);
                for (size_t j = 0; j < n; j++) want[j] = x[j];
                ref_rope(want, x, ld, T, H, dim, c, sn, half, inter != 0);
                for (int t = 0; t < T; t++) { /* both of a pair contribute; the row's largest bounds every pair */
                    double top = 0;
                    for (int d = 0; d < ld; d++) top = fmax(top, fabs((double)x[t * ld + d]));
                    for (int j = 0; j < ld; j++)
                        bound[t * ld + j] = 3 * 0x1p-24 * top + gpu_rounding(k, want[t * ld + j]);
                }
                size_t       mark = k->mark(k);
                const float *dc = k->upload(k, c, m), *ds = k->upload(k, sn, m);
                k->rope(k, dx, ld, T, H, dim, dc, ds, half, inter != 0);
                k->get(k, y, dx, n);
                kern_ok(k);
                within(y, want, bound, n, k->name);
                k->back(k, mark);
                k->free_(k, dx);
                free(x), free(y), free(angle), free(c), free(sn), free(want), free(bound);
            }
}

static void gather_add_mean(void **state)
{
    (void)state;
    enum { V = 37, T = 29, MOST = 64 };
    static const int widths[] = {1, 53, 64}, types[] = {DTYPE_F32, DTYPE_BF16};
    for (int p = 0; p < 2; p++)
        for (int type = 0; type < 2; type++)
            for (int i = 0; i < 3; i++) {
                int         D = widths[i];
                kernels    *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
                test_weight w = random_weight(V, D, (dtype)types[type], 51);
                weight      dw = gpu_weight(k, &w);
                int32_t     id[T];
                float       y[T * MOST], m[MOST];
                double      want[MOST], bound[MOST];
                act        *dy = k->alloc(k, T * MOST * 4), *dm = k->alloc(k, MOST * 4);
                for (int t = 0; t < T; t++) id[t] = (t * 17 + 36) % V;
                k->gather(k, dy, &dw, id, T, D);
                id[0] = -1; /* read before gather returned: the host's ids are the caller's again */
                k->get(k, y, dy, (size_t)T * D);
                id[0] = 36;
                for (int t = 0; t < T; t++) assert_memory_equal(y + t * D, w.f32 + id[t] * D, (size_t)D * sizeof *y);

                ref_mean_rows(want, y, T, D);
                for (int d = 0; d < D; d++) bound[d] = T * 0x1p-24 * 3 * 2 + gpu_rounding(k, want[d]);
                k->mean_rows(k, dm, dy, T, D);
                k->get(k, m, dm, (size_t)D);
                within(m, want, bound, (size_t)D, "mean_rows");

                float sum[3 * MOST], first[MOST];
                memcpy(first, y, (size_t)D * sizeof *first);
                k->add(k, dy, act_at(k, dy, (size_t)D), (size_t)D); /* row 0 += row 1 */
                k->get(k, sum, dy, 2 * (size_t)D);
                kern_ok(k);
                for (int d = 0; d < D; d++) {
                    float s = first[d] + y[D + d];
                    assert_float_equal(sum[d], gpu_rounds(k) ? bf16_to_f32(bf16_from_f32(s)) : s, 0);
                }
                assert_memory_equal(sum + D, y + D, (size_t)D * sizeof *y); /* no further than n */
                assert_int_equal(k->flops, 0);
                k->free_(k, dy), k->free_(k, dm);
                k->weight_close(k, &dw);
                random_weight_free(&w);
            }
}

/* More elements than one block adds, and not whole eights of them. */
static void add_of_any_length(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 7, 8, 9, 2047, 2048, 2049, 5000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t   n = lengths[i];
        kernels *k = gpu_table(i % 2 ? PRECISION_F32 : PRECISION_BF16);
        float *a = random_floats(n + 1, 91, false), *b = random_floats(n + 1, 92, false),
              *y = malloc((n + 1) * sizeof *y);
        act     *da = gpu_acts(k, a, n + 1), *db = gpu_acts(k, b, n + 1);
        k->add(k, da, db, n);
        k->get(k, y, da, n + 1);
        kern_ok(k);
        for (size_t j = 0; j < n; j++)
            assert_float_equal(y[j], gpu_rounds(k) ? bf16_to_f32(bf16_from_f32(a[j] + b[j])) : a[j] + b[j], 0);
        assert_float_equal(y[n], a[n], 0);
        k->free_(k, da), k->free_(k, db);
        free(a), free(b), free(y);
    }
}

/* More copies than a launch takes, of lengths around a thread's eight and a block's 2,048, from and to any element; what
 * lies between them stays. */
static void many_copies_in_one_call(void **state)
{
    (void)state;
    enum { LENGTHS = 9, COPIES = 15 * LENGTHS };
    static const size_t length[LENGTHS] = {0, 1, 7, 8, 9, 16, 2047, 2048, 2049};
    for (int p = 0; p < 2; p++) {
        kernels *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
        act_copy c[COPIES];
        size_t   at[COPIES], n = 3;
        for (int i = 0; i < COPIES; i++) { /* five of each length from an aligned place to an aligned one */
            n = i % 3 ? n + 1 : (n + 7) / 8 * 8;
            at[i] = n;
            n += length[i / 3 % LENGTHS];
        }
        n += 5;
        float *x = random_floats(n, 51, false), *y = random_floats(n, 52, false), *got = malloc(n * sizeof *got);
        act   *from = gpu_acts(k, x, n), *to = gpu_acts(k, y, n);
        for (int i = 0; i < COPIES; i++) {
            size_t m = length[i / 3 % LENGTHS];
            c[i] = (act_copy){act_at(k, to, at[i]), act_at(k, from, at[i] + (i % 2 ? 2 : 0)), m};
            memcpy(y + at[i], x + at[i] + (i % 2 ? 2 : 0), m * sizeof *y);
        }
        k->copies(k, c, COPIES);
        k->copies(k, c, 0);
        k->copies(k, c, 1); /* of nothing */
        k->get(k, got, to, n);
        kern_ok(k);
        assert_memory_equal(got, y, n * sizeof *got);
        k->free_(k, from), k->free_(k, to);
        free(x), free(y), free(got);
    }
}

/* The mean of no rows is zeros, as on the CPU. */
static void mean_of_no_rows(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_BF16);
    float    x[3] = {1, 2, 3};
    act     *d = gpu_acts(k, x, 3);
    k->mean_rows(k, d, d, 0, 3);
    k->get(k, x, d, 3);
    kern_ok(k);
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 0);
    k->free_(k, d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_match_reference),  cmocka_unit_test(layernorm_without_bias),
        cmocka_unit_test(glu_matches_reference),  cmocka_unit_test(glu_in_place),
        cmocka_unit_test(rope_matches_reference), cmocka_unit_test(gather_add_mean),
        cmocka_unit_test(add_of_any_length),      cmocka_unit_test(many_copies_in_one_call),
        cmocka_unit_test(mean_of_no_rows),
    };
    return cmocka_run_group_tests_name("cuda rows", tests, NULL, gpu_close_all);
}
