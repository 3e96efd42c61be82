/* test_weigh.c - the union of both heads and p_R, by hand-computed values. */
#include "tests/check.h"

#include "retriever/retriever.h"

static hits make_hits(int n, int64_t *id, float *score) { return (hits){.n = n, .id = id, .score = score}; }

/* Unite two lists; NULL score lists are filled by 1 - rank / 10. */
static int unite(candidate **out, int n_image, const int64_t *from_image, int n_text, const int64_t *from_text,
                 arena *a)
{
    static int64_t id[N_HEADS][64];
    static float   score[N_HEADS][64];
    int            K;
    err            e = {0};
    for (int i = 0; i < n_image; i++) id[0][i] = from_image[i], score[0][i] = 1.0f - (float)i / 10;
    for (int i = 0; i < n_text; i++) id[1][i] = from_text[i], score[1][i] = 0.5f - (float)i / 10;
    hits found[N_HEADS] = {make_hits(n_image, id[0], score[0]), make_hits(n_text, id[1], score[1])};
    OK(retriever_unite(found, out, &K, a, &e), e);
    return K;
}

static void union_keeps_the_image_heads_order_and_adds_only_what_is_new(void **state)
{
    arena     *a = *state;
    candidate *c;
    int        K = unite(&c, 3, (int64_t[]){7, 2, 9}, 3, (int64_t[]){2, 5, 7}, a);
    assert_int_equal(K, 4);
    const int64_t  id[] = {7, 2, 9, 5};
    const unsigned heads[] = {3, 3, 1, 2};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(c[i].id, id[i]);
        assert_int_equal(c[i].heads, heads[i]);
    }
    assert_true(c[0].score[HEAD_IMAGE] == 1.0f && c[0].score[HEAD_TEXT] == 0.3f);
    assert_true(c[1].score[HEAD_IMAGE] == 0.9f && c[1].score[HEAD_TEXT] == 0.5f);
    assert_true(c[3].score[HEAD_IMAGE] == 0.0f && c[3].score[HEAD_TEXT] == 0.4f);
}

static void short_and_empty_lists_unite(void **state)
{
    arena     *a = *state;
    candidate *c;
    assert_int_equal(unite(&c, 0, NULL, 0, NULL, a), 0);
    assert_int_equal(unite(&c, 1, (int64_t[]){4}, 0, NULL, a), 1);
    assert_int_equal(unite(&c, 0, NULL, 2, (int64_t[]){4, 3}, a), 2);
    assert_int_equal(c[0].id, 4);
    assert_int_equal(c[0].heads, 1 << HEAD_TEXT);
    assert_int_equal(unite(&c, 2, (int64_t[]){4, 3}, 2, (int64_t[]){3, 4}, a), 2);
    assert_int_equal(c[1].id, 3);
}

static double sum_of(const candidate *c, int K)
{
    double s = 0;
    for (int i = 0; i < K; i++) s += c[i].weight;
    return s;
}

static void near(float got, double want)
{
    if (!(fabs(got - want) <= 1e-6)) fail_msg("weight %.8f, wanted %.8f", got, want);
}

/* specs/jomed.md 2.2: (0.95, 0.93), (0.25, 0.24) gives (0.254, 0.249, 0.254, 0.244). */
static void weights_are_those_of_the_released_code(void **state)
{
    (void)state;
    candidate c[4] = {{.heads = 1, .score = {0.95f, 0}}, {.heads = 1, .score = {0.93f, 0}},
                      {.heads = 2, .score = {0, 0.25f}}, {.heads = 2, .score = {0, 0.24f}}};
    retriever_weigh(c, 4, 1);
    const double e[4] = {1, 0.93 / 0.95, 1, 0.24 / 0.25};
    double       sum = 0;
    for (int i = 0; i < 4; i++) sum += exp(e[i]);
    for (int i = 0; i < 4; i++) near(c[i].weight, exp(e[i]) / sum);
    const double rounded[4] = {0.254, 0.249, 0.254, 0.244};
    for (int i = 0; i < 4; i++) assert_true(fabs(c[i].weight - rounded[i]) < 0.0005);
    near((float)sum_of(c, 4), 1);
}

static void a_candidate_of_both_heads_gets_the_sum_of_its_two_entries(void **state)
{
    (void)state;
    candidate apart[4] = {{.id = 1, .heads = 1, .score = {0.9f, 0}}, {.id = 2, .heads = 1, .score = {0.6f, 0}},
                          {.id = 2, .heads = 2, .score = {0, 0.3f}}, {.id = 3, .heads = 2, .score = {0, 0.1f}}};
    candidate one[3] = {{.id = 1, .heads = 1, .score = {0.9f, 0}}, {.id = 2, .heads = 3, .score = {0.6f, 0.3f}},
                        {.id = 3, .heads = 2, .score = {0, 0.1f}}};
    retriever_weigh(apart, 4, 1);
    retriever_weigh(one, 3, 1);
    near(one[0].weight, apart[0].weight);
    near(one[1].weight, (double)apart[1].weight + apart[2].weight);
    near(one[2].weight, apart[3].weight);
}

static void a_low_temperature_sharpens_and_a_high_one_flattens(void **state)
{
    (void)state;
    candidate c[2] = {{.heads = 1, .score = {0.8f, 0}}, {.heads = 1, .score = {0.4f, 0}}};
    retriever_weigh(c, 2, 0.1f);
    near(c[0].weight, 1 / (1 + exp(-0.5 / (double)0.1f)));
    retriever_weigh(c, 2, 10);
    near(c[0].weight, 1 / (1 + exp(-0.05)));
    retriever_weigh(c, 2, 1e-30f); /* no overflow, no NaN: all weight to the best */
    assert_true(c[0].weight == 1 && c[1].weight == 0);
    retriever_weigh(c, 2, 1e30f);
    near(c[0].weight, 0.5);
}

static void a_head_without_a_positive_score_keeps_its_order(void **state)
{
    (void)state;
    candidate c[3] = {
        {.heads = 1, .score = {-0.1f, 0}}, {.heads = 1, .score = {-0.4f, 0}}, {.heads = 2, .score = {0, 0.5f}}};
    retriever_weigh(c, 3, 1);
    double sum = 1 + exp(-0.3) + 1; /* shifted: 1 and 0.7; the other head's best is 1 */
    near(c[0].weight, 1 / sum);
    near(c[1].weight, exp(-0.3) / sum);
    near(c[2].weight, 1 / sum);

    candidate zero[2] = {{.heads = 1, .score = {0, 0}}, {.heads = 1, .score = {-0.2f, 0}}};
    retriever_weigh(zero, 2, 1);
    near(zero[0].weight, 1 / (1 + exp(-0.2)));

    candidate tiny[2] = {{.heads = 1, .score = {1e-38f, 0}}, {.heads = 1, .score = {-0.5f, 0}}};
    retriever_weigh(tiny, 2, 1);
    near(tiny[0].weight, 1);
    near(tiny[1].weight, 0);
}

static void one_candidate_has_all_the_weight(void **state)
{
    (void)state;
    candidate c[1] = {{.heads = 3, .score = {0.2f, -0.3f}}};
    retriever_weigh(c, 1, 1);
    near(c[0].weight, 1);
    retriever_weigh(c, 0, 1); /* nothing to weigh is fine */
    near(c[0].weight, 1);
}

static void out_of_memory_is_an_error(void **state)
{
    (void)state;
    err        e = {0};
    int64_t    id[1] = {1};
    float      score[1] = {1};
    hits       found[N_HEADS] = {make_hits(1, id, score), make_hits(1, id, score)};
    candidate *c;
    int        K;
    arena     *a = arena_new(1024), *none = arena_new(1);
    FAILS(retriever_unite(found, &c, &K, none, &e), e, ERR_MEMORY, "a request may use 1 bytes");
    e = (err){0};
    OK(retriever_unite(found, &c, &K, a, &e), e);
    assert_int_equal(K, 1);
    arena_free(none);
    arena_free(a);
}

static int make_arena(void **state) { return (*state = arena_new(0)) ? 0 : -1; }
static int free_arena(void **state)
{
    arena_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(union_keeps_the_image_heads_order_and_adds_only_what_is_new),
        cmocka_unit_test(short_and_empty_lists_unite),
        cmocka_unit_test(weights_are_those_of_the_released_code),
        cmocka_unit_test(a_candidate_of_both_heads_gets_the_sum_of_its_two_entries),
        cmocka_unit_test(a_low_temperature_sharpens_and_a_high_one_flattens),
        cmocka_unit_test(a_head_without_a_positive_score_keeps_its_order),
        cmocka_unit_test(one_candidate_has_all_the_weight),
        cmocka_unit_test(out_of_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_arena, free_arena);
}
