/* test_linear.c - the GPU's products against the double reference: every shape of tile and its edges, both element
 * types, low-rank branches; and a row's bits, which may not depend on the tile that serves it. */
#include "tests/cuda/gpu.h"

/* As tests/kernels/test_linear.c: K + 3 roundings of a float32 sum, the unit's own error, then the result is
 * rounded. */
static double bound_of(double size, int K, unit u)
{
    return size * (K + 3) * 0x1p-24 * 1.2 + (u == UNIT_NONE ? 0 : size * 1e-6) + 1e-37;
}

typedef struct { int T, N, K; dtype type; unit u; bool bias, residual, in_place; int pad; } linear_case;

static void compare(precision p, const linear_case *c)
{
    kernels    *k = gpu_table(p);
    int         T = c->T, N = c->N, K = c->K, ldx = K + c->pad, ldy = N + c->pad;
    size_t      n = (size_t)T * (size_t)N, ny = (size_t)T * (size_t)ldy;
    float      *x = random_floats((size_t)T * ldx, 1, true), *bias = random_floats((size_t)N, 2, false);
    float *res = random_floats(ny, 3, true), *y = random_floats(ny, 4, false),
          *got = malloc((ny + 1) * sizeof *got);
    test_weight w = random_weight(N, K, c->type, 5);
    double     *want = malloc((n + 1) * sizeof *want), *size = malloc((n + 1) * sizeof *size);
    act *dx = gpu_acts(k, x, (size_t)T * ldx), *dres = gpu_acts(k, res, ny),
        *dy = gpu_acts(k, c->in_place ? res : y, ny);
    weight      dw = gpu_weight(k, &w), db = gpu_vector(k, bias, N);

    ref_linear(want, size, x, ldx, T, w.f32, N, K, c->bias ? bias : NULL, c->u, c->residual ? res : NULL, ldy);
    k->linear(k, dy, ldy, dx, ldx, T, &dw, c->bias ? &db : NULL, c->u, !c->residual ? NULL : c->in_place ? dy : dres);
    k->get(k, got, dy, ny);
    kern_ok(k);
    char what[120];
    snprintf(what, sizeof what, "%s T %d N %d K %d %s unit %d", k->name, T, N, K, dtype_name(c->type), c->u);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < ldy; i++) {
            float v = got[(size_t)t * ldy + i];
            if (i >= N) { /* what lies between rows is not written */
                if (v != (c->in_place ? res : y)[(size_t)t * ldy + i]) fail_msg("%s: wrote past row %d", what, t);
                continue;
            }
            size_t at = (size_t)t * N + i;
            size[at] = bound_of(size[at], K, c->u) + gpu_rounding(k, want[at]);
            within(&v, &want[at], &size[at], 1, what);
        }
    assert_int_equal(k->flops, 2 * (uint64_t)T * (uint64_t)N * (uint64_t)K);
    free(x), free(bias), free(res), free(y), free(want), free(size), free(got);
    k->free_(k, dx), k->free_(k, dres), k->free_(k, dy);
    k->weight_close(k, &dw), k->weight_close(k, &db);
    random_weight_free(&w);
}

/* Tiles are 16 x 32 up to 16 rows, 64 x 32 up to 64, 64 x 64 and 128 x 128 above; 64, 128 and 256 deep. */
static void linear_matches_reference(void **state)
{
    (void)state;
    static const linear_case cases[] = {
        {0, 7, 9, DTYPE_BF16, UNIT_NONE, true, false, false, 0},
        {3, 0, 9, DTYPE_BF16, UNIT_NONE, true, false, false, 0},
        {3, 5, 0, DTYPE_BF16, UNIT_NONE, true, true, false, 0},
        {1, 1, 1, DTYPE_BF16, UNIT_GELU, true, true, false, 0},
        {1, 2, 1, DTYPE_F32, UNIT_NONE, false, false, false, 0},
        {2, 3, 7, DTYPE_BF16, UNIT_SILU, true, false, false, 1},
        {15, 31, 8, DTYPE_BF16, UNIT_QUICK_GELU, true, true, true, 3},
        {16, 32, 16, DTYPE_BF16, UNIT_GELU, true, true, true, 0},
        {16, 33, 255, DTYPE_F32, UNIT_NONE, true, true, true, 1},
        {16, 64, 256, DTYPE_BF16, UNIT_NONE, false, true, false, 8},
        {5, 64, 257, DTYPE_BF16, UNIT_NONE, true, false, false, 2},
        {17, 63, 31, DTYPE_BF16, UNIT_NONE, false, true, false, 2},
        {63, 64, 127, DTYPE_BF16, UNIT_SILU, true, false, false, 0},
        {64, 65, 128, DTYPE_BF16, UNIT_NONE, true, true, true, 6},
        {65, 129, 130, DTYPE_BF16, UNIT_NONE, true, true, true, 0},
        {127, 72, 63, DTYPE_F32, UNIT_GELU, true, true, true, 0},
        {129, 66, 65, DTYPE_BF16, UNIT_NONE, true, false, false, 1},
        {14, 9, 3001, DTYPE_BF16, UNIT_NONE, true, true, false, 0},
        {391, 200, 72, DTYPE_BF16, UNIT_QUICK_GELU, true, true, true, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        compare(PRECISION_BF16, &cases[i]);
        compare(PRECISION_F32, &cases[i]);
    }
}

/* Tiles of 128 x 128 are taken where there is one for every multiprocessor: a GPU has up to 148, the emulation 4. */
#ifdef JOMED_SIMT
enum { WIDE_T = 131, WIDE_N = 139 };
#else
enum { WIDE_T = 1537, WIDE_N = 1419 };
#endif

static void wide_tiles_match_reference(void **state)
{
    (void)state;
    compare(PRECISION_BF16, &(linear_case){WIDE_T, WIDE_N, 70, DTYPE_BF16, UNIT_NONE, true, true, true, 0});
    compare(PRECISION_BF16, &(linear_case){WIDE_T, WIDE_N - 3, 192, DTYPE_BF16, UNIT_SILU, true, false, false, 8});
}

/* Rows of a batch of any size, at any place in it, have the bits that they have alone: every T up to just past a
 * tile's edge, and one that takes the widest tiles. */
static void row_bits_do_not_depend_on_batch(void **state)
{
    (void)state;
    static const int Ts[] = {1, 2, 15, 16, 17, 63, 64, 65, 128, 129, WIDE_T};
    enum { MOST = WIDE_T + 60, N = WIDE_N, K = 90 };
    for (int p = 0; p < 2; p++) {
        kernels    *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
        int         n = p ? N : 70, most = p ? MOST : 129;
        float      *x = random_floats((size_t)most * K, 71, true), *bias = random_floats((size_t)n, 73, false);
        float      *all = malloc((size_t)most * n * sizeof *all), *some = malloc((size_t)most * n * sizeof *some);
        test_weight w = random_weight(n, K, DTYPE_BF16, 72);
        act        *dx = gpu_acts(k, x, (size_t)most * K), *dy = k->alloc(k, (size_t)most * n * (size_t)k->act_bytes);
        weight      dw = gpu_weight(k, &w), db = gpu_vector(k, bias, n);
        k->linear(k, dy, n, dx, K, most, &dw, &db, UNIT_QUICK_GELU, NULL);
        k->get(k, all, dy, (size_t)most * n);
        for (size_t i = 0; i < sizeof Ts / sizeof *Ts; i++) {
            int T = Ts[i], from = Ts[i] < most / 2 ? most / 2 - T / 2 : 0;
            if (T > most) continue;
            k->linear(k, dy, n, act_at(k, dx, (size_t)from * K), K, T, &dw, &db, UNIT_QUICK_GELU, NULL);
            k->get(k, some, dy, (size_t)T * n);
            kern_ok(k);
            if (memcmp(some, all + (size_t)from * n, (size_t)T * n * sizeof *some) != 0)
                fail_msg("%s: rows of a batch of %d differ from the same rows in one of %d", k->name, T, most);
        }
        k->free_(k, dx), k->free_(k, dy);
        k->weight_close(k, &dw), k->weight_close(k, &db);
        free(x), free(bias), free(all), free(some);
        random_weight_free(&w);
    }
}

typedef struct { int T, N, K, R; unit u; bool residual; } low_rank_case;

/* The branch's two sums are rounded like the product's own, and x A^T to an activation in between. A unit's slope is
 * at most 1.13. Then: a row alone has the bits that it has in the batch. */
static void compare_low_rank(precision p, const low_rank_case *c)
{
    kernels    *k = gpu_table(p);
    int         T = c->T, N = c->N, K = c->K, R = c->R;
    size_t      n = (size_t)T * (size_t)N, m = (size_t)T * (size_t)R;
    float      *x = random_floats((size_t)T * K, 61, true), *bias = random_floats((size_t)N, 62, false);
    float *res = random_floats(n, 63, true), *y = malloc((n + 1) * sizeof *y),
          *one = malloc(((size_t)N + 1) * sizeof *one);
    double     *want = malloc((n + 1) * sizeof *want), *bound = malloc((n + 1) * sizeof *bound);
    double     *low = malloc((m + 1) * sizeof *low), *low_size = malloc((m + 1) * sizeof *low_size);
    test_weight w = random_weight(N, K, DTYPE_BF16, 64), a = random_weight(R, K, DTYPE_BF16, 65),
                b = random_weight(N, R, DTYPE_BF16, 66);
    act        *dx = gpu_acts(k, x, (size_t)T * K), *dres = gpu_acts(k, res, n), *dy = gpu_acts(k, res, n);
    weight dw = gpu_weight(k, &w), da = gpu_weight(k, &a), db = gpu_weight(k, &b), dbias = gpu_vector(k, bias, N);
    double      half = gpu_rounds(k) ? 0x1p-8 : 0x1p-24;

    ref_linear(low, low_size, x, K, T, a.f32, R, K, NULL, UNIT_NONE, NULL, 0);
    ref_linear(want, bound, x, K, T, w.f32, N, K, bias, UNIT_NONE, NULL, 0);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < N; i++) {
            double *at = &want[(size_t)t * N + i], size = bound[(size_t)t * N + i], between = 0;
            for (int r = 0; r < R; r++) {
                double v = (double)b.f32[(size_t)i * R + r];
                *at += low[(size_t)t * R + r] * v;
                size += low_size[(size_t)t * R + r] * fabs(v);
                between += fabs(low[(size_t)t * R + r] * v) * half;
            }
            *at = ref_unit(*at, c->u) + (c->residual ? (double)res[(size_t)t * N + i] : 0);
            bound[(size_t)t * N + i] = 1.13 * (bound_of(size, K + R, c->u) + between) + gpu_rounding(k, *at);
        }
    k->linear_low_rank(k, dy, N, dx, K, T, &dw, &dbias, &da, &db, c->u, c->residual ? dy : NULL);
    k->get(k, y, dy, n);
    kern_ok(k);
    char what[120];
    snprintf(what, sizeof what, "%s low rank T %d N %d K %d R %d unit %d", k->name, T, N, K, R, c->u);
    within(y, want, bound, n, what);
    assert_int_equal(k->flops, 2 * ((uint64_t)T * N * K + (uint64_t)T * R * (N + K)));
    for (int t = 0; t < T; t += 7) {
        act *to = act_at(k, dy, (size_t)t * N);
        k->copy(k, to, act_at(k, dres, (size_t)t * N), (size_t)N);
        k->linear_low_rank(k, to, N, act_at(k, dx, (size_t)t * K), K, 1, &dw, &dbias, &da, &db, c->u,
                           c->residual ? to : NULL);
        k->get(k, one, to, (size_t)N);
        if (memcmp(one, y + (size_t)t * N, (size_t)N * sizeof *one) != 0)
            fail_msg("%s: row %d alone has other bits", what, t);
    }
    free(x), free(bias), free(res), free(y), free(one), free(want), free(bound), free(low), free(low_size);
    k->free_(k, dx), k->free_(k, dres), k->free_(k, dy);
    k->weight_close(k, &dw), k->weight_close(k, &da), k->weight_close(k, &db), k->weight_close(k, &dbias);
    random_weight_free(&w), random_weight_free(&a), random_weight_free(&b);
}

static void low_rank_branch_matches_reference(void **state)
{
    (void)state;
    static const low_rank_case cases[] = {
        {0, 7, 9, 2, UNIT_NONE, false},    {1, 2, 1, 1, UNIT_NONE, true},      {3, 5, 9, 1, UNIT_NONE, true},
        {8, 17, 33, 7, UNIT_QUICK_GELU, true}, {9, 64, 96, 8, UNIT_GELU, false}, {13, 65, 130, 16, UNIT_SILU, true},
        {70, 66, 70, 4, UNIT_NONE, true},  {14, 130, 300, 65, UNIT_NONE, false}, {9, 20, 50, 700, UNIT_NONE, true},
        {2, 1, 40, 3, UNIT_NONE, true}, /* one row: w and b are vectors, f32 in either table */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        compare_low_rank(PRECISION_BF16, &cases[i]);
        compare_low_rank(PRECISION_F32, &cases[i]);
    }
}

/* Products of the same rows, together and one by one: the same bits, in a step of decoding and out of it; widths around
 * the blocks' borders, y where its rows are not aligned, more of them than a launch takes. */
static void products_of_the_same_rows_keep_their_bits(void **state)
{
    (void)state;
    enum { MOST = 4, K = 200, MAX_N = 130 };
    static const struct { int n, N[MOST], T; } cases[] = {
        {1, {7}, 3},           {2, {40, 33}, 1},    {3, {130, 32, 33}, 10}, {3, {8, 1, 64}, 16},
        {3, {32, 32, 96}, 17}, {2, {130, 31}, 64},  {3, {40, 8, 8}, 65},    {4, {16, 8, 24, 40}, 5},
        {3, {40, 0, 8}, 5},    {3, {40, 24, 8}, 0},
    };
    for (int c = 0; c < (int)(sizeof cases / sizeof *cases); c++)
        for (int p = 0; p < 4; p++) {
            kernels    *k = gpu_table(p % 2 ? PRECISION_BF16 : PRECISION_F32);
            int         T = cases[c].T, n = cases[c].n;
            size_t      len = (size_t)T * MAX_N + 1;
            float      *x = random_floats((size_t)T * K, 91, true), *bias = random_floats(MAX_N, 92, false);
            float      *one = malloc(len * sizeof *one), *all = malloc(len * sizeof *all);
            act        *at, *dx = gpu_acts_off(k, x, (size_t)T * K, &at);
            act        *dy[MOST], *dz = k->alloc(k, len * (size_t)k->act_bytes);
            test_weight w[MOST];
            weight      dw[MOST], db[MOST];
            product_out out[MOST];
            uint64_t    flops = 0;
            for (int i = 0; i < n; i++) {
                int N = cases[c].N[i];
                w[i] = random_weight(N, K, DTYPE_BF16, 93 + (uint32_t)i);
                dw[i] = gpu_weight(k, &w[i]);
                db[i] = gpu_vector(k, bias, N ? N : 1);
                dy[i] = k->alloc(k, len * (size_t)k->act_bytes);
                out[i] = (product_out){act_at(k, dy[i], (size_t)(i == 1)), N, &dw[i], i ? &db[i] : NULL};
                flops += 2 * (uint64_t)T * (uint64_t)N * K;
            }
            k->decoding = p >= 2;
            k->flops = 0;
            k->linears(k, out, n, c % 2 ? at : dx, K, T);
            assert_int_equal(k->flops, flops);
            for (int i = 0; i < n; i++) {
                int    N = cases[c].N[i];
                size_t m = (size_t)T * (size_t)N;
                k->linear(k, act_at(k, dz, (size_t)(i == 1)), N, c % 2 ? at : dx, K, T, &dw[i], out[i].bias, UNIT_NONE,
                          NULL);
                k->get(k, one, act_at(k, dz, (size_t)(i == 1)), m);
                k->get(k, all, out[i].y, m);
                kern_ok(k);
                assert_memory_equal(all, one, m * sizeof *one);
                k->free_(k, dy[i]);
                k->weight_close(k, &dw[i]), k->weight_close(k, &db[i]);
                random_weight_free(&w[i]);
            }
            k->decoding = false;
            k->free_(k, dx), k->free_(k, dz);
            free(x), free(bias), free(one), free(all);
        }
}

/* x and y that begin at an odd element, as windows of wider rows do. */
static void windows_of_rows_need_no_alignment(void **state)
{
    (void)state;
    enum { T = 70, N = 40, K = 64, LD = 3 * K };
    for (int p = 0; p < 2; p++) {
        kernels    *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
        float      *x = random_floats((size_t)T * LD, 81, true), *y = malloc((size_t)T * LD * sizeof *y);
        test_weight w = random_weight(N, K, DTYPE_BF16, 82);
        act *at, *dx = gpu_acts_off(k, x, (size_t)T * LD, &at),
                 *dy = k->alloc(k, (size_t)T * LD * (size_t)k->act_bytes);
        weight      dw = gpu_weight(k, &w);
        double     *want = malloc((size_t)T * N * sizeof *want), *size = malloc((size_t)T * N * sizeof *size);
        ref_linear(want, size, x + K, LD, T, w.f32, N, K, NULL, UNIT_NONE, NULL, 0);
        k->linear(k, act_at(k, dy, 1), LD, act_at(k, at, K), LD, T, &dw, NULL, UNIT_NONE, NULL);
        k->get(k, y, act_at(k, dy, 1), (size_t)(T - 1) * LD + N);
        kern_ok(k);
        for (int t = 0; t < T; t++) {
            for (int i = 0; i < N; i++)
                size[t * N + i] = bound_of(size[t * N + i], K, UNIT_NONE) + gpu_rounding(k, want[t * N + i]);
            within(y + (size_t)t * LD, want + t * N, size + t * N, N, k->name);
        }
        k->free_(k, dx), k->free_(k, dy);
        k->weight_close(k, &dw);
        free(x), free(y), free(want), free(size);
        random_weight_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_matches_reference),          cmocka_unit_test(wide_tiles_match_reference),
        cmocka_unit_test(row_bits_do_not_depend_on_batch),   cmocka_unit_test(low_rank_branch_matches_reference),
        cmocka_unit_test(products_of_the_same_rows_keep_their_bits),
        cmocka_unit_test(windows_of_rows_need_no_alignment),
    };
    return cmocka_run_group_tests_name("cuda linear", tests, NULL, gpu_close_all);
}
