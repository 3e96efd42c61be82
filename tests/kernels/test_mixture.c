/* test_mixture.c - fails when the mixture of next-token distributions, the pool of logits or the repetition
 * penalty is another function than the one written down. */
#include "tests/check.h"

#include "kernels/mixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixture_weighs_probabilities), cmocka_unit_test(rows_may_lie_apart),
        cmocka_unit_test(a_pool_weighs_logits),           cmocka_unit_test(the_two_differ),
        cmocka_unit_test(what_is_no_number_is_told),      cmocka_unit_test(a_penalty_takes_each_id_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
