/* test_attend_tree.c - a node of a tree must have the bits of a causal query behind the keys it sees, whatever
 * other nodes there are: else an answer's likelihood would depend on what else was asked. */
#include "tests/kernels/kern.h"

enum { HEADS = 6, KV = 2, DIM = 20, WIDTH = HEADS * DIM, KV_WIDTH = KV * DIM, MOST = 700 };

/* Keys in one span: `before` of them, then the tree's. parent[i] < i; -1: hangs from what stands before the tree. */
typedef struct { int prefix, before, n_tree, parent[300]; } tree_case;

typedef struct { float *q, *k, *v, *out; uint8_t *visible; } made;

static made make(const tree_case *c)
{
    int  all = c->prefix + c->before + c->n_tree;
    made m = {random_floats(MOST * WIDTH, 1, true), random_floats(MOST * KV_WIDTH, 2, true),
              random_floats(MOST * KV_WIDTH, 3, true), calloc(MOST * WIDTH, sizeof(float)),
              calloc((size_t)c->n_tree * (size_t)c->n_tree, 1)};
    assert_true(all <= MOST && m.out && m.visible);
    for (int i = 0; i < c->n_tree; i++)
        for (int j = i; j >= 0; j = c->parent[j]) m.visible[i * c->n_tree + j] = 1;
    return m;
}

static void made_free(made *m) { free(m->q), free(m->k), free(m->v), free(m->out), free(m->visible); }

static attend_args args_of(const tree_case *c, const made *m)
{
    attend_args a = {.n_heads = HEADS,
                     .n_kv_heads = KV,
                     .head_dim = DIM,
                     .scale = 0.25f,
                     .q = m->q,
                     .q_stride = WIDTH,
                     .n_q = c->before + c->n_tree,
                     .out = m->out,
                     .out_stride = WIDTH,
                     .mask = ATTEND_TREE,
                     .n_tree = c->n_tree,
                     .visible = m->visible};
    a.span[0] = (kv_span){m->k, m->v, c->prefix, KV_WIDTH};
    a.span[1] = (kv_span){m->k + (size_t)c->prefix * KV_WIDTH, m->v + (size_t)c->prefix * KV_WIDTH,
                          c->before + c->n_tree, KV_WIDTH};
    return a;
}

/* The keys and values that node i sees, in a span of their own, and its query behind them. */
static void alone(const tree_case *c, const made *m, kernels *k, int i, float *out)
{
    int    before = c->prefix + c->before, n = before;
    float *keys = malloc(MOST * KV_WIDTH * sizeof *keys), *values = malloc(MOST * KV_WIDTH * sizeof *values);
    memcpy(keys, m->k, (size_t)before * KV_WIDTH * sizeof *keys);
    memcpy(values, m->v, (size_t)before * KV_WIDTH * sizeof *values);
    for (int j = 0; j < c->n_tree; j++) {
        if (!m->visible[i * c->n_tree + j]) continue;
        memcpy(keys + (size_t)n * KV_WIDTH, m->k + (size_t)(before + j) * KV_WIDTH, KV_WIDTH * sizeof *keys);
        memcpy(values + (size_t)n++ * KV_WIDTH, m->v + (size_t)(before + j) * KV_WIDTH, KV_WIDTH * sizeof *values);
    }
    attend_args a = {.n_heads = HEADS,
                     .n_kv_heads = KV,
                     .head_dim = DIM,
                     .scale = 0.25f,
                     .q = m->q + (size_t)(c->before + i) * WIDTH,
                     .q_stride = WIDTH,
                     .n_q = 1,
                     .out = out,
                     .out_stride = WIDTH,
                     .mask = ATTEND_CAUSAL,
                     .span = {{0}, {keys, values, n, KV_WIDTH}}};
    k->attend(k, &a, 1);
    free(keys), free(values);
}

/* The tree by two threads, each node alone by one. */
static void same_as_alone(const tree_case *c, const isa *set)
{
    made        m = make(c);
    kernels    *k = kern_open(set, PRECISION_F32, 2), *one = kern_open(set, PRECISION_F32, 1);
    attend_args a = args_of(c, &m);
    float       want[WIDTH], causal[MOST * WIDTH / 2], lasts[300 * WIDTH];
    k->attend(k, &a, 1);
    for (int i = 0; i < c->n_tree; i++) {
        alone(c, &m, one, i, want);
        if (memcmp(want, m.out + (size_t)(c->before + i) * WIDTH, sizeof want) != 0)
            fail_msg("%s: %d keys cached, %d before a tree of %d: node %d is not what it is alone", k->name,
                     c->prefix, c->before, c->n_tree, i);
    }
    for (int n_q = 1; n_q <= c->n_tree; n_q += c->n_tree / 2) { /* the last nodes alone, as the last layer asks */
        attend_args last = a;
        int         first = c->before + c->n_tree - n_q;
        last.q = m.q + (size_t)first * WIDTH;
        last.n_q = n_q;
        last.out = lasts;
        k->attend(k, &last, 1);
        assert_memory_equal(lasts, m.out + (size_t)first * WIDTH, (size_t)n_q * WIDTH * sizeof *lasts);
    }
    a.mask = ATTEND_CAUSAL; /* queries before the tree do not know of it */
    a.n_q = c->before;
    a.span[1].n = c->before;
    a.out = causal;
    assert_true(c->before * WIDTH <= (int)(sizeof causal / sizeof *causal));
    one->attend(one, &a, 1);
    assert_memory_equal(causal, m.out, (size_t)c->before * WIDTH * sizeof *causal);
    kern_ok(k);
    kern_ok(one);
    k->close(k);
    one->close(one);
    made_free(&m);
}

static void in_every_instruction_set(const tree_case *c)
{
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    for (int s = 0; s < n_sets; s++) same_as_alone(c, sets[s]);
}

/* The keys before the tree end around the end of a block, in either span. */
static void a_node_has_its_bits_at_every_place_of_the_tree(void **state)
{
    (void)state;
    static const int at[][2] = {{0, 1},    {0, 127}, {0, 128},   {0, 129}, {100, 27},
                                {100, 28}, {128, 3}, {130, 126}, {255, 2}, {5, 9}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        tree_case c = {at[i][0], at[i][1], 11, {-1, 0, -1, 1, 1, 2, 0, 5, 5, 7, -1}};
        in_every_instruction_set(&c);
    }
}

/* Labels: branches of their own from the root, each of several tokens, two answers at its end. */
static void branches_do_not_show_in_each_other(void **state)
{
    (void)state;
    tree_case c = {.prefix = 60, .before = 45, .n_tree = 14 * 9};
    for (int l = 0; l < 14; l++)
        for (int t = 0; t < 9; t++) c.parent[l * 9 + t] = t == 0 ? -1 : l * 9 + t - 1;
    in_every_instruction_set(&c);
}

/* A path longer than a block, among others, so that a node's own keys fill several. */
static void a_path_longer_than_a_block_goes_on_in_the_next(void **state)
{
    (void)state;
    tree_case c = {.prefix = 3, .before = 120, .n_tree = 300};
    for (int i = 0; i < 300; i++) /* every fifth is a leaf at the root, which the chain leaves out */
        c.parent[i] = i % 5 == 4 || i == 0 ? -1 : i % 5 == 0 ? i - 2 : i - 1;
    in_every_instruction_set(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_has_its_bits_at_every_place_of_the_tree),
        cmocka_unit_test(branches_do_not_show_in_each_other),
        cmocka_unit_test(a_path_longer_than_a_block_goes_on_in_the_next),
    };
    return cmocka_run_group_tests_name("kernels attend tree", tests, NULL, NULL);
}
