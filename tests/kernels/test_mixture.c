/* test_mixture.c - fails when the mixture of next-token distributions, its likeliest tokens, the pool of logits or
 * the repetition penalty is another function than the one written down, or the CPU's table another than that. */
#include "tests/kernels/mixture_step.h"

enum { K = 2, V = 4 };
/* softmax of each: 1/4, 1/4, 1/4, 1/4 and 1/8, 1/2, 1/8, 1/4 */
static const float ROWS[K * V] = {7, 7, 7, 7, -1, 0.386294361f, -1, -0.306852819f};
static const float W[K] = {0.25f, 0.75f};

static void near(double got, double want, const char *what)
{
    if (!(fabs(got - want) <= 1e-7)) fail_msg("%s is %.9f, wanted %.9f", what, got, want);
}

static void a_mixture_weighs_probabilities(void **state)
{
    (void)state;
    const double want[V] = {0.25 * 0.25 + 0.75 * 0.125, 0.25 * 0.25 + 0.75 * 0.5, 0.25 * 0.25 + 0.75 * 0.125, 0.25};
    double       p[V], part[V];
    row_facts    facts[K];
    assert_true(mix_probabilities(p, facts, ROWS, V, W, K, V, part));
    for (int v = 0; v < V; v++) near(p[v], want[v], "p");
    near(facts[0].lse, 7 + log(4), "log-sum-exp of the first row");
    near(ROWS[V + 1] - facts[1].lse, log(0.5), "log p of the second row");
    assert_int_equal(facts[0].likeliest, 0); /* the first of equals */
    assert_int_equal(facts[1].likeliest, 1);
}

/* Rows of several beams lie between each other's. */
static void rows_may_lie_apart(void **state)
{
    (void)state;
    float     apart[3 * V] = {0};
    double    p[V], q[V], part[V];
    row_facts facts[K];
    memcpy(apart, ROWS, V * sizeof *apart);
    memcpy(apart + 2 * V, ROWS + V, V * sizeof *apart);
    for (int v = 0; v < V; v++) apart[V + v] = NAN; /* not to be looked at */
    assert_true(mix_probabilities(p, facts, apart, 2 * V, W, K, V, part));
    assert_true(mix_probabilities(q, facts, ROWS, V, W, K, V, part));
    assert_memory_equal(p, q, sizeof p);
}

static void a_pool_weighs_logits(void **state)
{
    (void)state;
    double    pooled[V], part[V];
    row_facts of_pool, facts[K];
    assert_true(pool_logits(pooled, &of_pool, facts, ROWS, V, W, K, V, part));
    double sum = 0;
    for (int v = 0; v < V; v++) {
        near(pooled[v], 0.25 * 7 + 0.75 * (double)ROWS[V + v], "pooled logit");
        sum += exp(pooled[v]);
    }
    near(of_pool.lse, log(sum), "log-sum-exp of the pool");
    assert_int_equal(of_pool.likeliest, 1);
    assert_int_equal(facts[1].likeliest, 1);
    near(facts[0].lse, 7 + log(4), "log-sum-exp of the first row");
}

/* One row that is sure of itself decides a pool, and is one voice in a mixture. */
static void the_two_differ(void **state)
{
    (void)state;
    const float rows[3 * 2] = {1, 0, 1, 0, 0, 30}, w[3] = {0.375f, 0.375f, 0.25f};
    double      p[2], pooled[2], part[2];
    row_facts   of_pool, facts[3];
    assert_true(mix_probabilities(p, facts, rows, 2, w, 3, 2, part));
    assert_true(pool_logits(pooled, &of_pool, facts, rows, 2, w, 3, 2, part));
    assert_true(p[0] > p[1]);
    assert_int_equal(of_pool.likeliest, 1);
}

static void what_is_no_number_is_told(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++)
        for (int at = 0; at < K * V; at += 3) {
            float     rows[K * V];
            double    p[V], part[V];
            row_facts facts[K], of_pool;
            memcpy(rows, ROWS, sizeof rows);
            rows[at] = bad[i];
            assert_false(mix_probabilities(p, facts, rows, V, W, K, V, part));
            assert_false(pool_logits(p, &of_pool, facts, rows, V, W, K, V, part));
        }
}

/* Towards less likely on either side of 0; once for an id that occurs often; nothing for others. */
static void a_penalty_takes_each_id_once(void **state)
{
    (void)state;
    enum { MANY = 130 };
    float         logit[MANY], want[MANY];
    uint64_t      set[3] = {0};
    const int32_t prompt[] = {0, 1, 0, 2, 64}, emitted[] = {1, 129, 0};
    assert_int_equal(id_set_words(MANY), 3);
    assert_int_equal(id_set_words(128), 2);
    for (int v = 0; v < MANY; v++) want[v] = logit[v] = v % 2 ? -2 : 2;
    logit[2] = 0;
    id_set_add(set, prompt, 5);
    id_set_add(set, emitted, 3);
    penalise(logit, set, MANY, 4);
    want[0] = want[64] = 0.5f;
    want[1] = want[129] = -8;
    want[2] = 0;
    assert_memory_equal(logit, want, sizeof want);
}

static const double *sorted; /* what ids are compared by */
static int by_probability(const void *x, const void *y)
{
    int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
    return sorted[a] != sorted[b] ? (sorted[a] < sorted[b] ? 1 : -1) : a - b;
}

/* Few different values, so that most are equal to others. */
static void the_likeliest_are_the_first_of_a_sort(void **state)
{
    (void)state;
    enum { MANY = 300 };
    double   p[MANY], best[MANY];
    int32_t  want[MANY], token[MANY];
    uint32_t seed = 5;
    for (int32_t v = 0; v < MANY; v++) {
        p[v] = random_next(&seed) % 40 / 64.0;
        want[v] = v;
    }
    sorted = p;
    qsort(want, MANY, sizeof *want, by_probability);
    static const int tops[] = {1, 2, 17, MANY - 1, MANY};
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++) {
        likeliest_tokens(token, best, tops[i], p, MANY);
        assert_memory_equal(token, want, (size_t)tops[i] * sizeof *token);
        for (int j = 0; j < tops[i]; j++) assert_true(best[j] == p[want[j]]);
    }
}

/* Two beams of two branches: the first beam's rows are those above, the second's a penalty changes. */
static void a_step_tells_what_each_branch_thinks(void **state)
{
    (void)state;
    enum { N = 2, TOP = 3 };
    const float    ln2 = 0.693147181f;
    float          logit[K * N * V];
    const uint64_t seen[K * N] = {0, 1 << 2, 0, 1 << 0 | 1 << 3}; /* rows: (0, 0), (0, 1), (1, 0), (1, 1) */
    const float    first[V] = {0, ln2, 4 * ln2, 0}, second[V] = {-ln2, ln2, ln2, 2 * ln2};
    const int32_t  want[N * TOP] = {1, 3, 0, 2, 1, 3}, own[N * K] = {0, 1, 2, 1};
    double         p[V], part[V];
    row_facts      facts[K];
    step_case      c = {N, K, V, TOP, true, STEP_PLAIN};
    mixture_args   m = step_args(&c, W, seen);
    m.penalty = 2;
    memcpy(logit, ROWS, sizeof first);
    memcpy(logit + V, first, sizeof first);           /* becomes 1 2 4 1 over 8 */
    memcpy(logit + 2 * V, ROWS + V, sizeof first);
    memcpy(logit + 3 * V, second, sizeof second);     /* becomes 1/4 2 2 2 over 6.25 */
    mixture_of_logits(&m, logit, V, facts, p, part);
    assert_memory_equal(m.token, want, sizeof want);
    const double of_0[V] = {1 / 8.0, 2 / 8.0, 4 / 8.0, 1 / 8.0};
    const double of_1[V] = {0.25 / 6.25, 2 / 6.25, 2 / 6.25, 2 / 6.25};
    for (int i = 0; i < TOP; i++) {
        near(m.p[i], i == 0 ? 0.4375 : i == 1 ? 0.25 : 0.15625, "p of the first beam");
        near(m.each[i * K], log(0.25), "log p of its first branch");
    }
    near(m.each[1], log(0.5), "log p of its second branch");
    for (int i = 0; i < TOP; i++) {
        int32_t v = m.token[TOP + i];
        near(m.p[TOP + i], 0.25 * of_0[v] + 0.75 * of_1[v], "p of the second beam");
        near(m.each[(TOP + i) * K], log(of_0[v]), "log p of its first branch");
        near(m.each[(TOP + i) * K + 1], log(of_1[v]), "log p of its second branch");
    }
    assert_memory_equal(m.likeliest, own, sizeof own);
    step_free(&m);
}

static void the_tables_steps_have_the_bits_of_their_logits(void **state)
{
    (void)state;
    const isa *sets[4];
    int        n = cpu_isas(sets);
    for (int s = 0; s < n; s++)
        for (int i = 0; i < 4; i++) {
            kernels *k = kern_open(sets[s], i % 2 ? PRECISION_BF16 : PRECISION_F32, 1 + i);
            for (int c = 0; c < N_STEP_CASES; c++) check_step(k, &STEP_CASES[c], 0);
            k->close(k);
        }
}

static void scratch_that_runs_out_is_an_error(void **state)
{
    (void)state;
    kernels *k = NULL;
    err      e = {0};
    OK(kernels_open(&k, &(kernels_options){.device = "cpu", .threads = 1, .scratch_bytes = 1 << 20}, &e), e);
    check_small_scratch(k, 0);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixture_weighs_probabilities), cmocka_unit_test(rows_may_lie_apart),
        cmocka_unit_test(a_pool_weighs_logits),           cmocka_unit_test(the_two_differ),
        cmocka_unit_test(what_is_no_number_is_told),      cmocka_unit_test(a_penalty_takes_each_id_once),
        cmocka_unit_test(the_likeliest_are_the_first_of_a_sort),
        cmocka_unit_test(a_step_tells_what_each_branch_thinks),
        cmocka_unit_test(the_tables_steps_have_the_bits_of_their_logits),
        cmocka_unit_test(scratch_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
