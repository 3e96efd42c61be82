/* test_attend.c - attention against the double reference: spans, masks, trees, ALiBi, groups, and same bits. */
#include "tests/kernels/kern.h"

typedef struct {
    int         n_heads, n_kv_heads, dim, n_q, prefix, n; /* n keys in span[1] */
    attend_mask mask;
    int         n_tree;
    bool        alibi;
    int         pad;
} attend_case;

/* A case's memory; every row of q, k and v depends on its own number only, so cases of other lengths share rows. */
typedef struct { attend_args a; float *q, *k, *v, *out, slopes[16]; uint8_t *visible; } made;

static float *rows_of(int n, int width, int stride, uint32_t seed, bool outliers)
{
    float *p = calloc((size_t)n * stride + 1, sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < n; i++) {
        float *r = random_floats((size_t)width, seed + (uint32_t)i * 17, outliers);
        memcpy(p + (size_t)i * stride, r, (size_t)width * sizeof *r);
        free(r);
    }
    return p;
}

static made make_case(const attend_case *c, bool outliers)
{
    int    qs = c->n_heads * c->dim + c->pad, ks = c->n_kv_heads * c->dim + c->pad, all = c->prefix + c->n;
    made m = {.q = rows_of(c->n_q, c->n_heads * c->dim, qs, 11, outliers),
              .k = rows_of(all, c->n_kv_heads * c->dim, ks, 12, outliers),
              .v = rows_of(all, c->n_kv_heads * c->dim, ks, 13, outliers),
              .out = calloc((size_t)c->n_q * qs + 1, sizeof(float))};
    size_t nodes = (size_t)c->n_tree * c->n_tree;
    m.visible = calloc(nodes + 1, 1);
    for (int i = 0; i < c->n_tree; i++) /* node i's parent is (i - 1) / 2; it sees its ancestors and itself */
        for (int j = i;; j = (j - 1) / 2) {
            m.visible[(size_t)i * c->n_tree + j] = 1;
            if (j == 0) break;
        }
    if (c->n_tree > 2) m.visible[(size_t)(c->n_tree - 1) * c->n_tree] = 0; /* the root need not be seen by all */
    for (int h = 0; h < 16; h++) m.slopes[h] = exp2f(-0.5f * (float)(h + 1));
    m.a = (attend_args){.n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->dim,
                        .scale = 1 / sqrtf((float)c->dim), .q = m.q, .q_stride = qs, .n_q = c->n_q, .out = m.out,
                        .out_stride = qs, .mask = c->mask, .n_tree = c->n_tree, .visible = m.visible};
    m.a.span[0] = (kv_span){m.k, m.v, c->prefix, ks};
    m.a.span[1] = (kv_span){m.k + (size_t)c->prefix * ks, m.v + (size_t)c->prefix * ks, c->n, ks};
    return m;
}

static void made_free(made *m) { free(m->q), free(m->k), free(m->v), free(m->out), free(m->visible); }

/* Errors: a score's dim roundings move a weight by their absolute size; the weighted sum over n keys adds its own. In
 * units of the largest |v|: 2^-24 * (2 * |largest score| + dim + 2 n^(1/2) ... ), taken in full. */
static double bound_of(const attend_args *a, const made *m)
{
    int    n = a->span[0].n + a->span[1].n;
    double qk = 0, v = 0;
    size_t width = (size_t)a->n_kv_heads * a->head_dim;
    for (int j = 0; j < n; j++)
        for (size_t d = 0; d < width; d++) {
            double x = fabs((double)m->v[(size_t)j * a->span[1].row_stride + d]);
            v = x > v ? x : v;
        }
    for (int i = 0; i < a->n_q; i++)
        for (int h = 0; h < a->n_heads; h++)
            for (int j = 0; j < n; j++) {
                double s = 0;
                for (int d = 0; d < a->head_dim; d++)
                    s += fabs((double)m->q[(size_t)i * a->q_stride + h * a->head_dim + d]
                              * m->k[(size_t)j * a->span[1].row_stride
                                     + h / (a->n_heads / a->n_kv_heads) * a->head_dim + d]);
                if (s * a->scale > qk) qk = s * a->scale;
            }
    if (a->alibi) qk += n;
    return v * 0x1p-24 * (2 * qk * (a->head_dim + 2) + n + 16);
}

static const attend_case CASES[] = {
    {1, 1, 1, 1, 0, 1, ATTEND_ALL, 0, false, 0},        {2, 2, 16, 5, 0, 5, ATTEND_ALL, 0, false, 0},
    {4, 2, 32, 17, 0, 17, ATTEND_CAUSAL, 0, false, 3},  {6, 6, 16, 26, 0, 26, ATTEND_ALL, 0, true, 0},
    {3, 1, 20, 7, 0, 9, ATTEND_ALL, 0, false, 1},       {12, 2, 128, 16, 0, 16, ATTEND_CAUSAL, 0, false, 0},
    {12, 2, 128, 1, 130, 1, ATTEND_CAUSAL, 0, false, 0}, {4, 4, 80, 127, 0, 127, ATTEND_ALL, 0, false, 0},
    {2, 2, 80, 129, 0, 129, ATTEND_ALL, 0, false, 5},   {6, 2, 64, 33, 127, 40, ATTEND_CAUSAL, 0, false, 0},
    {6, 2, 64, 20, 128, 20, ATTEND_CAUSAL, 0, false, 0}, {4, 2, 32, 11, 100, 30, ATTEND_TREE, 7, false, 0},
    {4, 2, 32, 7, 125, 7, ATTEND_TREE, 7, false, 2},    {4, 1, 17, 9, 3, 12, ATTEND_TREE, 3, false, 0},
    {2, 1, 256, 3, 0, 3, ATTEND_CAUSAL, 0, false, 0},   {2, 2, 8, 300, 0, 300, ATTEND_CAUSAL, 0, false, 0},
    {4, 2, 32, 3, 100, 40, ATTEND_TREE, 11, false, 0},  {4, 1, 16, 1, 0, 150, ATTEND_TREE, 140, false, 1},
    {8, 8, 12, 50, 0, 50, ATTEND_ALL, 0, true, 1},      {5, 5, 16, 0, 4, 4, ATTEND_ALL, 0, false, 0},
};

static void compare_all(bool outliers)
{
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const attend_case *c = &CASES[i];
        made    m = make_case(c, outliers);
        size_t  width = (size_t)c->n_heads * c->dim, n = (size_t)c->n_q * width;
        double *want = malloc((n + 1) * sizeof *want), *bound = malloc((n + 1) * sizeof *bound);
        float  *got = malloc((n + 1) * sizeof *got);
        if (c->alibi) m.a.alibi = m.slopes;
        ref_attend(want, &m.a);
        double b = bound_of(&m.a, &m);
        for (size_t j = 0; j < n; j++) bound[j] = b;
        for (int s = 0; s < n_sets; s++)
            for (int threads = 1; threads <= 2; threads++) {
                kernels *k = kern_open(sets[s], PRECISION_F32, threads);
                k->attend(k, &m.a, 1);
                kern_ok(k);
                for (int t = 0; t < c->n_q; t++)
                    memcpy(got + (size_t)t * width, m.out + (size_t)t * m.a.out_stride, width * sizeof *got);
                char what[100];
                snprintf(what, sizeof what, "%s case %zu", k->name, i);
                within(got, want, bound, n, what);
                k->close(k);
            }
        made_free(&m);
        free(want), free(bound), free(got);
    }
}

static void attention_matches_reference(void **state)
{
    (void)state;
    compare_all(false);
}

/* Scores in the hundreds: one key has all the weight, the others' weights are 0 in f32. */
static void attention_survives_outliers(void **state)
{
    (void)state;
    compare_all(true);
}

/* The same query against the same keys gives the same bits: with fewer queries beside it, with later keys there
 * or not, with the keys split between a cached prefix and the rest at any place, by any number of threads. */
static void attention_row_bits(void **state)
{
    (void)state;
    enum { N = 150 };
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    for (int s = 0; s < n_sets; s++) {
        attend_case whole = {.n_heads = 6, .n_kv_heads = 2, .dim = 20, .n_q = N, .n = N, .mask = ATTEND_CAUSAL};
        made        m = make_case(&whole, true);
        size_t      row = (size_t)m.a.out_stride;
        kernels    *k1 = kern_open(sets[s], PRECISION_F32, 1);
        k1->attend(k1, &m.a, 1);
        float *want = malloc(N * row * sizeof *want), *out = malloc(N * row * sizeof *out);
        memcpy(want, m.out, N * row * sizeof *want);
        for (int threads = 1; threads <= 3; threads++) {
            kernels *k = kern_open(sets[s], PRECISION_F32, threads);
            for (int prefix = 0; prefix < N; prefix += 13)
                for (int n_q = 1; prefix + n_q <= N; n_q += 31) {
                    attend_args a = m.a;
                    a.span[0].n = prefix;
                    a.span[1] = (kv_span){(const float *)m.k + (size_t)prefix * a.span[0].row_stride,
                                          (const float *)m.v + (size_t)prefix * a.span[0].row_stride, n_q,
                                          a.span[0].row_stride};
                    a.q = m.q + (size_t)prefix * row;
                    a.n_q = n_q;
                    a.out = out;
                    k->attend(k, &a, 1);
                    if (memcmp(out, want + (size_t)prefix * row, (size_t)n_q * row * sizeof *out) != 0)
                        fail_msg("%s: %d queries behind a prefix of %d differ from the same in one span", k->name,
                                 n_q, prefix);
                }
            kern_ok(k);
            k->close(k);
        }
        k1->close(k1);
        made_free(&m);
        free(want), free(out);
    }
}

/* The sequences of a packed pass, more of them than are shared out at a time, some without a query: each as if
 * alone. */
static void sequences_together_have_their_bits(void **state)
{
    (void)state;
    enum { N = 70 };
    static const attend_case kinds[] = {
        {6, 2, 20, 9, 0, 9, ATTEND_CAUSAL, 0, false, 0},   {6, 2, 20, 0, 5, 5, ATTEND_CAUSAL, 0, false, 0},
        {6, 2, 20, 150, 0, 150, ATTEND_ALL, 0, false, 0},  {6, 2, 20, 11, 130, 30, ATTEND_TREE, 7, false, 2},
        {6, 2, 20, 1, 200, 1, ATTEND_CAUSAL, 0, false, 3}};
    for (int threads = 1; threads <= 3; threads++) {
        kernels    *k = kern_open(NULL, PRECISION_F32, threads);
        made        m[N];
        attend_args a[N];
        float      *want[N];
        for (int i = 0; i < N; i++) {
            m[i] = make_case(&kinds[i % 5], true);
            a[i] = m[i].a;
            size_t n = (size_t)a[i].n_q * (size_t)a[i].out_stride;
            want[i] = calloc(n + 1, sizeof(float));
            a[i].out = want[i];
            k->attend(k, &a[i], 1);
            a[i].out = m[i].out;
        }
        uint64_t alone = k->flops;
        k->attend(k, a, N);
        kern_ok(k);
        assert_int_equal(k->flops, 2 * alone);
        for (int i = 0; i < N; i++) {
            assert_memory_equal(m[i].out, want[i], (size_t)a[i].n_q * (size_t)a[i].out_stride * sizeof(float));
            free(want[i]);
            made_free(&m[i]);
        }
        k->attend(k, NULL, 0);
        kern_ok(k);
        k->close(k);
    }
}

/* Whole queries attend to all; a chain of answers is a tree too and must give what causal attention gives. */
static void chain_tree_equals_causal(void **state)
{
    (void)state;
    attend_case c = {
        .n_heads = 4, .n_kv_heads = 2, .dim = 32, .n_q = 9, .prefix = 121, .n = 12, .mask = ATTEND_CAUSAL};
    made        m = make_case(&c, true);
    size_t      n = (size_t)c.n_q * (size_t)m.a.out_stride;
    kernels    *k = kern_open(NULL, PRECISION_F32, 2);
    k->attend(k, &m.a, 1);
    uint64_t flops = k->flops;
    float   *causal = malloc(n * sizeof *causal);
    memcpy(causal, m.out, n * sizeof *causal);
    uint8_t chain[5 * 5] = {0};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j <= i; j++) chain[i * 5 + j] = 1;
    m.a.mask = ATTEND_TREE;
    m.a.n_tree = 5;
    m.a.visible = chain;
    k->attend(k, &m.a, 1);
    kern_ok(k);
    assert_memory_equal(causal, m.out, n * sizeof *causal);
    assert_int_equal(k->flops, 2 * flops);
    free(causal);
    made_free(&m);
    k->close(k);
}

static void flops_count_visible_pairs(void **state)
{
    (void)state;
    kernels *k = kern_open(NULL, PRECISION_F32, 1);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const attend_case *c = &CASES[i];
        made     m = make_case(c, false);
        uint64_t pairs = 0;
        int      all = c->prefix + c->n, first = all - c->n_q, tree = all - c->n_tree;
        for (int q = 0; q < c->n_q; q++)
            for (int j = 0; j < all; j++)
                pairs += c->mask == ATTEND_ALL
                         || (c->mask == ATTEND_TREE && first + q >= tree
                                 ? j < tree || m.visible[(first + q - tree) * c->n_tree + j - tree]
                                 : j <= first + q);
        k->flops = 0;
        k->attend(k, &m.a, 1);
        kern_ok(k);
        assert_int_equal(k->flops, 4 * pairs * (uint64_t)c->n_heads * (uint64_t)c->dim);
        made_free(&m);
    }
    k->close(k);
}

static void too_wide_a_head_is_refused(void **state)
{
    (void)state;
    kernels *k = kern_open(NULL, PRECISION_F32, 1);
    float    x[257] = {0};
    err      e;
    k->attend(k,
              &(attend_args){.n_heads = 1,
                             .n_kv_heads = 1,
                             .head_dim = 257,
                             .q = x,
                             .q_stride = 257,
                             .n_q = 1,
                             .out = x,
                             .out_stride = 257,
                             .span = {{0}, {x, x, 1, 257}}},
              1);
    FAILS(k->sync(k, &e), e, ERR_BUG, "256 dimensions");
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_reference), cmocka_unit_test(attention_survives_outliers),
        cmocka_unit_test(attention_row_bits),
        cmocka_unit_test(sequences_together_have_their_bits),
        cmocka_unit_test(chain_tree_equals_causal),    cmocka_unit_test(flops_count_visible_pairs),
        cmocka_unit_test(too_wide_a_head_is_refused),
    };
    return cmocka_run_group_tests_name("kernels attend", tests, NULL, NULL);
}
