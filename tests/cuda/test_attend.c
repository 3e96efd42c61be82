/* test_attend.c - the GPU's attention against the double reference: every kernel of attend.cu, spans, masks, trees,
 * ALiBi, groups, strides; packed launches; and that a query's bits depend on its own keys alone. */
#include "tests/cuda/gpu.h"
#include "base/memory.h"

typedef struct {
    int         n_heads, n_kv_heads, dim, n_q, prefix, n; /* n keys in span[1] */
    attend_mask mask;
    int         n_tree;
    bool        alibi;
    int         pad; /* elements between rows beyond their width */
} attend_case;

/* A case twice: host numbers, as the device rounds them, for the reference, and device memory for the kernels. Every
 * row depends on its own number only, so that cases of other lengths share rows. */
typedef struct {
    attend_args host, device;
    float      *q, *k, *v, slopes[16];
    uint8_t    *visible;
    act        *d_q, *d_k, *d_v, *d_out;
    size_t      out_len;
} made;

static float *rows_of(int n, int width, int stride, uint32_t seed, bool outliers)
{
    float *p = calloc((size_t)n * (size_t)stride + 1, sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < n; i++) {
        float *r = random_floats((size_t)width, seed + (uint32_t)i * 17, outliers);
        memcpy(p + (size_t)i * (size_t)stride, r, (size_t)width * sizeof *r);
        free(r);
    }
    return p;
}

static void see_ancestors(uint8_t *visible, int n)
{
    for (int i = 0; i < n; i++) /* node i's parent is (i - 1) / 2; it sees its ancestors and itself */
        for (int j = i;; j = (j - 1) / 2) {
            visible[(size_t)i * (size_t)n + (size_t)j] = 1;
            if (j == 0) break;
        }
    if (n > 2) visible[(size_t)(n - 1) * (size_t)n] = 0; /* the root need not be seen by all */
}

static made make_case(kernels *k, const attend_case *c, bool outliers)
{
    int qw = c->n_heads * c->dim, kw = c->n_kv_heads * c->dim, qs = qw + c->pad, ks = kw + c->pad,
        all = c->prefix + c->n;
    made m = {.q = rows_of(c->n_q, qw, qs, 11, outliers),
              .k = rows_of(all, kw, ks, 12, outliers),
              .v = rows_of(all, kw, ks, 13, outliers),
              .visible = calloc((size_t)c->n_tree * (size_t)c->n_tree + 1, 1),
              .out_len = (size_t)c->n_q * (size_t)qs};
    assert_non_null(m.visible);
    see_ancestors(m.visible, c->n_tree);
    for (int h = 0; h < 16; h++) m.slopes[h] = exp2f(-0.5f * (float)(h + 1));
    float *zero = calloc(m.out_len + 1, sizeof *zero);
    assert_non_null(zero);
    m.d_q = gpu_acts(k, m.q, m.out_len);
    m.d_k = gpu_acts(k, m.k, (size_t)all * (size_t)ks);
    m.d_v = gpu_acts(k, m.v, (size_t)all * (size_t)ks);
    m.d_out = gpu_acts(k, zero, m.out_len);
    free(zero);
    m.host = (attend_args){.n_heads = c->n_heads,
                           .n_kv_heads = c->n_kv_heads,
                           .head_dim = c->dim,
                           .scale = 1 / sqrtf((float)c->dim),
                           .q = m.q,
                           .q_stride = qs,
                           .n_q = c->n_q,
                           .out_stride = qs,
                           .mask = c->mask,
                           .n_tree = c->n_tree,
                           .visible = m.visible};
    m.host.span[0] = (kv_span){m.k, m.v, c->prefix, ks};
    m.host.span[1] = (kv_span){m.k + (size_t)c->prefix * (size_t)ks, m.v + (size_t)c->prefix * (size_t)ks, c->n, ks};
    m.device = m.host;
    m.device.q = m.d_q;
    m.device.out = m.d_out;
    m.device.span[0].k = m.d_k, m.device.span[0].v = m.d_v;
    m.device.span[1].k = act_at(k, m.d_k, (size_t)c->prefix * (size_t)ks);
    m.device.span[1].v = act_at(k, m.d_v, (size_t)c->prefix * (size_t)ks);
    return m;
}

/* TRAP: slopes lie in the case itself, so its address must have settled. */
static void lend_slopes(made *m) { m->host.alibi = m->device.alibi = m->slopes; }

static void made_free(kernels *k, made *m)
{
    free(m->q), free(m->k), free(m->v), free(m->visible);
    k->free_(k, m->d_q), k->free_(k, m->d_k), k->free_(k, m->d_v), k->free_(k, m->d_out);
}

/* The device's output, rows without what lies between them. */
static void fetch_rows(kernels *k, const made *m, float *got)
{
    size_t width = (size_t)m->host.n_heads * (size_t)m->host.head_dim, stride = (size_t)m->host.out_stride;
    float *all = malloc((m->out_len + 1) * sizeof *all);
    assert_non_null(all);
    k->get(k, all, m->d_out, m->out_len);
    kern_ok(k);
    for (int i = 0; i < m->host.n_q; i++)
        memcpy(got + (size_t)i * width, all + (size_t)i * stride, width * sizeof *got);
    free(all);
}

/* The largest sum of |q||k| over a head, times scale: the size of a score's rounding. */
static double score_size(const attend_args *a)
{
    int    all = a->span[0].n + a->span[1].n, group = a->n_heads / a->n_kv_heads;
    double most = 0;
    for (int i = 0; i < a->n_q; i++)
        for (int h = 0; h < a->n_heads; h++)
            for (int j = 0; j < all; j++) {
                double       s = 0;
                const float *q =
                    (const float *)a->q + (size_t)i * (size_t)a->q_stride + (size_t)h * (size_t)a->head_dim;
                const float *key = (const float *)a->span[0].k + (size_t)j * (size_t)a->span[0].row_stride +
                                   (size_t)(h / group) * (size_t)a->head_dim;
                for (int d = 0; d < a->head_dim; d++) s += fabs((double)q[d] * key[d]);
                if (s * a->scale > most) most = s * a->scale;
            }
    return most + (a->alibi ? all : 0);
}

/* Errors, with size = sum of weight * |v| / sum of weights of that element: roundings of a score move a weight by
 * their absolute size; the sum over keys adds its own (tensor cores cut where f32 arithmetic rounds: 2^-23); weights
 * rounded to bf16 add 2^-8 of size, the output rounded to bf16 2^-8 of itself. */
static void bounds_of(double *bound, const double *want, const made *m, bool bf16)
{
    attend_args a = m->host;
    int    all = a.span[0].n + a.span[1].n;
    size_t n = (size_t)a.n_q * (size_t)a.n_heads * (size_t)a.head_dim,
           stored = (size_t)all * (size_t)a.span[0].row_stride;
    float *v = malloc((stored + 1) * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < stored; i++) v[i] = fabsf(m->v[i]);
    a.span[0].v = v;
    a.span[1].v = v + (size_t)a.span[0].n * (size_t)a.span[0].row_stride;
    ref_attend(bound, &a);
    double each = 0x1p-23 * (2 * score_size(&m->host) * (a.head_dim + 2) + all + 16) + (bf16 ? 0x1p-8 : 0);
    for (size_t i = 0; i < n; i++) bound[i] = bound[i] * each * 1.01 + (bf16 ? fabs(want[i]) * 0x1p-8 : 0) + 1e-37;
    free(v);
}

static const attend_case CASES[] = {
    /* attend_any: sizes that no tensor core kernel has, rows at odd places */
    {1, 1, 1, 1, 0, 1, ATTEND_ALL, 0, false, 0},         {2, 2, 16, 5, 0, 5, ATTEND_ALL, 0, false, 0},
    {4, 2, 32, 17, 0, 17, ATTEND_CAUSAL, 0, false, 3},   {6, 6, 16, 26, 0, 26, ATTEND_ALL, 0, true, 0},
    {3, 1, 20, 7, 0, 33, ATTEND_ALL, 0, false, 1},       {4, 2, 32, 11, 100, 30, ATTEND_TREE, 7, false, 0},
    {4, 1, 17, 9, 3, 12, ATTEND_TREE, 3, false, 0},      {2, 1, 256, 3, 30, 3, ATTEND_CAUSAL, 0, false, 0},
    {5, 5, 16, 0, 4, 4, ATTEND_ALL, 0, false, 0},        {2, 2, 64, 5, 0, 5, ATTEND_ALL, 0, false, 3},
    {1, 1, 96, 4, 4, 0, ATTEND_ALL, 0, false, 0},
    /* attend_narrow: 1, 15, 16 rows; keys one below and above a tile; a prefix that ends inside one */
    {12, 2, 128, 1, 130, 1, ATTEND_CAUSAL, 0, false, 0}, {7, 1, 128, 2, 0, 2, ATTEND_CAUSAL, 0, false, 0},
    {4, 4, 64, 16, 47, 16, ATTEND_CAUSAL, 0, false, 8},  {2, 2, 64, 15, 0, 63, ATTEND_ALL, 0, false, 0},
    {2, 2, 128, 16, 0, 65, ATTEND_ALL, 0, false, 0},     {6, 2, 64, 5, 61, 9, ATTEND_TREE, 5, false, 0},
    {2, 1, 64, 7, 0, 7, ATTEND_ALL, 0, true, 0},
    /* attend_wide: rows one below and above a block, keys likewise, groups, trees of more than 32 nodes */
    {4, 4, 80, 127, 0, 127, ATTEND_ALL, 0, false, 0},    {1, 1, 80, 129, 0, 129, ATTEND_ALL, 0, false, 8},
    {2, 2, 64, 64, 0, 64, ATTEND_CAUSAL, 0, false, 0},   {6, 2, 64, 43, 127, 45, ATTEND_CAUSAL, 0, false, 0},
    {3, 3, 64, 40, 0, 40, ATTEND_ALL, 0, true, 0},       {7, 1, 128, 19, 128, 20, ATTEND_CAUSAL, 0, false, 0},
    {6, 1, 128, 45, 70, 50, ATTEND_TREE, 37, false, 0},  {2, 1, 64, 40, 0, 40, ATTEND_TREE, 40, false, 0},
    /* fewer queries than nodes: the queries are the last of them */
    {4, 2, 32, 3, 61, 12, ATTEND_TREE, 9, false, 0},     {4, 2, 64, 3, 61, 12, ATTEND_TREE, 9, false, 0},
    {2, 1, 64, 4, 3, 9, ATTEND_TREE, 8, false, 0},       {6, 1, 128, 20, 30, 50, ATTEND_TREE, 37, false, 0},
    {2, 2, 80, 1, 3, 1, ATTEND_CAUSAL, 0, false, 0},     {1, 1, 128, 200, 0, 200, ATTEND_CAUSAL, 0, false, 0},
    {1, 1, 64, 70, 70, 0, ATTEND_ALL, 0, false, 0},
};

static void compare_all(precision p, bool outliers)
{
    kernels *k = gpu_open(p);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const attend_case *c = &CASES[i];
        made    m = make_case(k, c, outliers);
        size_t  n = (size_t)c->n_q * (size_t)c->n_heads * (size_t)c->dim;
        double *want = malloc((n + 1) * sizeof *want), *bound = malloc((n + 1) * sizeof *bound);
        float  *got = malloc((n + 1) * sizeof *got);
        char    what[64];
        if (c->alibi) lend_slopes(&m);
        ref_attend(want, &m.host);
        bounds_of(bound, want, &m, p == PRECISION_BF16);
        k->attend(k, &m.device, 1);
        fetch_rows(k, &m, got);
        snprintf(what, sizeof what, "case %zu", i);
        within(got, want, bound, n, what);
        free(want), free(bound), free(got);
        made_free(k, &m);
    }
    k->close(k);
}

static void attention_matches_reference(void **state)
{
    (void)state;
    compare_all(PRECISION_BF16, false);
}

static void attention_in_f32_matches_reference(void **state)
{
    (void)state;
    compare_all(PRECISION_F32, false);
}

/* Scores in the hundreds: one key has all the weight, the others' weights are 0 in f32. */
static void attention_survives_outliers(void **state)
{
    (void)state;
    compare_all(PRECISION_BF16, true);
    compare_all(PRECISION_F32, true);
}

/* Constant rows: all weights are equal, so the output is the values' mean; with equal values, exactly they. */
static void equal_keys_share_the_weight(void **state)
{
    (void)state;
    kernels    *k = gpu_open(PRECISION_BF16);
    attend_case c = {.n_heads = 2, .n_kv_heads = 1, .dim = 64, .n_q = 40, .n = 128, .mask = ATTEND_ALL};
    made        m = make_case(k, &c, false);
    size_t      n = 128 * 64, out = 40 * 128;
    float      *one = malloc(n * sizeof *one), *got = malloc(out * sizeof *got);
    for (size_t i = 0; i < n; i++) one[i] = 1.5f;
    k->put(k, m.d_k, one, n);
    k->put(k, m.d_v, one, n);
    k->attend(k, &m.device, 1);
    fetch_rows(k, &m, got);
    for (size_t i = 0; i < out; i++) assert_true(got[i] == 1.5f);
    free(one), free(got);
    made_free(k, &m);
    k->close(k);
}

/* The same query against the same keys gives the same bits: with fewer queries beside it (then another kernel runs),
 * with later keys there or not, with the keys split between a cached prefix and the rest at any place. */
static void check_row_bits(int dim, int group)
{
    enum { N = 150 };
    kernels    *k = gpu_open(PRECISION_BF16);
    attend_case whole = {.n_heads = group, .n_kv_heads = 1, .dim = dim, .n_q = N, .n = N, .mask = ATTEND_CAUSAL};
    made        m = make_case(k, &whole, true);
    size_t      row = (size_t)m.host.out_stride, ks = (size_t)m.host.span[1].row_stride;
    float      *want = malloc(N * row * sizeof *want), *got = malloc(N * row * sizeof *got);
    k->attend(k, &m.device, 1);
    fetch_rows(k, &m, want);
    static const int prefixes[] = {0, 1, 63, 64, 65, 127, 149}, counts[] = {1, 2, 16, 43, 85};
    for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts && prefixes[p] + counts[i] <= N; i++) {
            size_t      prefix = (size_t)prefixes[p], n_q = (size_t)counts[i];
            attend_args a = m.device;
            a.span[0] = (kv_span){m.d_k, m.d_v, (int)prefix, (int)ks};
            a.span[1] = (kv_span){act_at(k, m.d_k, prefix * ks), act_at(k, m.d_v, prefix * ks), (int)n_q, (int)ks};
            a.q = act_at(k, m.d_q, prefix * row);
            a.n_q = (int)n_q;
            k->attend(k, &a, 1);
            k->get(k, got, m.d_out, n_q * row);
            kern_ok(k);
            if (memcmp(got, want + prefix * row, n_q * row * sizeof *got) != 0)
                fail_msg("head size %d: %zu queries behind a prefix of %zu differ from the same in one span", dim,
                         n_q, prefix);
        }
    made_free(k, &m);
    free(want), free(got);
    k->close(k);
}

static void a_rows_bits_do_not_depend_on_the_others(void **state)
{
    (void)state;
    check_row_bits(64, 3);
    check_row_bits(80, 1);
    check_row_bits(128, 7);
    check_row_bits(20, 2);
}

/* One launch for many sequences: the bits of each alone, also where the kernel would have been another one alone. */
static void packed_sequences_keep_their_bits(void **state)
{
    (void)state;
    static const attend_case parts[] = {
        {6, 2, 64, 1, 70, 1, ATTEND_CAUSAL, 0, false, 0},  {6, 2, 64, 0, 5, 0, ATTEND_CAUSAL, 0, false, 0},
        {6, 2, 64, 45, 0, 45, ATTEND_CAUSAL, 0, false, 0}, {6, 2, 64, 20, 30, 20, ATTEND_TREE, 7, false, 0},
        {6, 2, 64, 9, 64, 9, ATTEND_TREE, 9, false, 0},    {6, 2, 64, 5, 0, 5, ATTEND_ALL, 0, true, 0}};
    enum { N = sizeof parts / sizeof *parts };
    kernels    *k = gpu_open(PRECISION_BF16);
    made        m[N];
    attend_args a[N];
    float      *alone[N], got[45 * 6 * 64];
    for (int i = 0; i < N; i++) {
        m[i] = make_case(k, &parts[i], true);
        if (parts[i].alibi) lend_slopes(&m[i]);
        a[i] = m[i].device;
        alone[i] = malloc((m[i].out_len + 1) * sizeof(float));
        k->attend(k, &a[i], 1);
        fetch_rows(k, &m[i], alone[i]);
        float *zero = calloc(m[i].out_len + 1, sizeof *zero);
        k->put(k, m[i].d_out, zero, m[i].out_len);
        kern_ok(k);
        free(zero);
    }
    k->attend(k, a, N);
    for (int i = 0; i < N; i++) {
        fetch_rows(k, &m[i], got);
        assert_memory_equal(got, alone[i], m[i].out_len * sizeof *got);
    }
    for (int i = 0; i < N; i++) made_free(k, &m[i]), free(alone[i]);
    k->attend(k, NULL, 0); /* none at all */
    kern_ok(k);
    k->close(k);
}

/* More sequences than a block has threads to look for its own: each query by itself, as all in one. */
static void many_sequences_find_their_blocks(void **state)
{
    (void)state;
    enum { N = 300, WIDTH = 2 * 64 };
    const attend_case c = {2, 2, 64, N, 0, 5, ATTEND_ALL, 0, false, 0};
    kernels          *k = gpu_open(PRECISION_BF16);
    made              m = make_case(k, &c, true);
    attend_args      *a = calloc(N, sizeof *a);
    float *one = malloc(N * WIDTH * sizeof *one), *each = calloc(N * WIDTH, sizeof *each);
    assert_true(a && one && each);
    k->attend(k, &m.device, 1);
    fetch_rows(k, &m, one);
    for (int i = 0; i < N; i++) {
        a[i] = m.device;
        a[i].n_q = 1;
        a[i].q = act_at(k, m.d_q, (size_t)i * WIDTH);
        a[i].out = act_at(k, m.d_out, (size_t)i * WIDTH);
    }
    for (int n = N; n > 0; n = n == N ? 19 : n - 1) { /* as many as come with the launch, and more */
        memset(each, 0, N * WIDTH * sizeof *each);
        k->put(k, m.d_out, each, N * WIDTH);
        k->attend(k, a, n);
        fetch_rows(k, &m, each);
        assert_memory_equal(each, one, (size_t)n * WIDTH * sizeof *one);
    }
    free(a), free(one), free(each);
    made_free(k, &m);
    k->close(k);
}

/* A chain of answers is a tree too and must give what causal attention gives; and the pairs that are not masked are
 * counted. */
static void a_chain_as_a_tree_equals_causal(void **state)
{
    (void)state;
    attend_case c = {
        .n_heads = 4, .n_kv_heads = 2, .dim = 64, .n_q = 9, .prefix = 121, .n = 12, .mask = ATTEND_CAUSAL};
    kernels    *k = gpu_open(PRECISION_BF16);
    made        m = make_case(k, &c, true);
    float      *causal = malloc(m.out_len * sizeof *causal), *tree = malloc(m.out_len * sizeof *tree);
    uint8_t     chain[5 * 5] = {0};
    k->attend(k, &m.device, 1);
    fetch_rows(k, &m, causal);
    uint64_t flops = k->flops, pairs = 0;
    for (int i = 0; i < 9; i++) pairs += (uint64_t)(121 + 12 - 9 + i + 1);
    assert_int_equal(flops, 4 * pairs * 4 * 64);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j <= i; j++) chain[i * 5 + j] = 1;
    m.device.mask = ATTEND_TREE;
    m.device.n_tree = 5;
    m.device.visible = chain;
    k->attend(k, &m.device, 1);
    fetch_rows(k, &m, tree);
    assert_memory_equal(causal, tree, m.out_len * sizeof *causal);
    assert_int_equal(k->flops, 2 * flops);
    free(causal), free(tree);
    made_free(k, &m);
    k->close(k);
}

static void what_cannot_be_done_is_said(void **state)
{
    (void)state;
    err         e = {0};
    kernels    *k = gpu_open(PRECISION_BF16);
    attend_case c = {.n_heads = 1, .n_kv_heads = 1, .dim = 257, .n_q = 1, .n = 1};
    made        m = make_case(k, &c, false);
    k->attend(k, &m.device, 1);
    FAILS(k->sync(k, &e), e, ERR_BUG, "256 dimensions");
    made_free(k, &m);
    k->close(k);

    k = gpu_open(PRECISION_BF16);
    c.dim = 64;
    m = make_case(k, &c, false);
    attend_args many[32]; /* more than come with the launch */
    for (int i = 0; i < 32; i++) many[i] = m.device;
    mem_fail_after(0);
    k->attend(k, many, 32);
    mem_fail_after(-1);
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "attention's description");
    made_free(k, &m);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_reference),
        cmocka_unit_test(attention_in_f32_matches_reference),
        cmocka_unit_test(attention_survives_outliers),
        cmocka_unit_test(equal_keys_share_the_weight),
        cmocka_unit_test(a_rows_bits_do_not_depend_on_the_others),
        cmocka_unit_test(packed_sequences_keep_their_bits), cmocka_unit_test(many_sequences_find_their_blocks),
        cmocka_unit_test(a_chain_as_a_tree_equals_causal),
        cmocka_unit_test(what_cannot_be_done_is_said),
    };
    return cmocka_run_group_tests_name("cuda attend", tests, NULL, NULL);
}
