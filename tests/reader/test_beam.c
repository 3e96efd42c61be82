/* test_beam.c - fails when the search goes another way than beam.h says: its order, its ties, where it stops,
 * what it keeps. */
#include "tests/check.h"

#include "kernels/mixture.h"
#include "reader/beam.h"

enum { V = 4, END = 3, TOP = 8 };
static const generation_config ENDS = {.end = {END}, .n_end = 1, .pad = END};

/* Distributions of a made-up reader, by the last token (V: none yet). */
typedef struct { double p[V + 1][V]; } table;

/* One candidate, which is the whole mixture: each[0] must equal logp. */
static void search(beam_search *s, const table *t, int B, int most, arena *a)
{
    err     e = {0};
    int32_t token[TOP * V], likeliest[TOP];
    double  p[TOP * V], each[TOP * V];
    OK(beam_begin(s, 1, B, V, most, &ENDS, a, &e), e);
    assert_int_equal(s->top, B == 1 ? 2 : V);
    for (int i = 0; i < most && !beam_over(s); i++) {
        for (int b = 0; b < s->n; b++) {
            int at = b * s->top;
            likeliest_tokens(token + at, p + at, s->top, t->p[s->run[b].node < 0 ? V : s->token[s->run[b].node]], V);
            for (int j = at; j < at + s->top; j++) each[j] = log(p[j]);
            likeliest[b] = token[at];
            beam_extend(s, b, token + at, p + at);
        }
        beam_step(s, each, likeliest);
    }
}

static void check(const beam_search *s, const int32_t *want, int n_want, double p, bool ended, bool agrees)
{
    err         e = {0};
    bool        got_end;
    int32_t    *ids;
    int         n;
    arena      *a = arena_new(0);
    const beam *b = beam_best(s, &got_end);
    OK(beam_tokens(s, b, &ids, &n, a, &e), e);
    assert_int_equal(n, n_want);
    for (int i = 0; i < n; i++) assert_int_equal(ids[i], want[i]);
    assert_int_equal(got_end, ended);
    assert_int_equal(b->agrees[0], agrees);
    if (!(fabs(b->logp - log(p)) < 1e-6)) fail_msg("log p is %.7f, wanted %.7f", b->logp, log(p));
    if (!(fabs(b->each[0] - log(p)) < 1e-5))
        fail_msg("the candidate's log p is %.7f, wanted %.7f", b->each[0], log(p));
    arena_free(a);
}

/* The likeliest first token leads to a less likely answer. */
static const table GARDEN_PATH = {{
    [V] = {0.5, 0.4, 0.0625, 0.0375},
    [0] = {0.25, 0.25, 0.25, 0.25},
    [1] = {0.03125, 0.03125, 0.03125, 0.90625},
    [2] = {0.125, 0.125, 0.25, 0.5},
}};

static void one_beam_is_greedy(void **state)
{
    (void)state;
    arena      *a = arena_new(0);
    beam_search s;
    search(&s, &GARDEN_PATH, 1, 5, a);
    /* the lowest id of equals */
    check(&s, (const int32_t[]){0, 0, 0, 0, 0}, 5, 0.5 * 0.25 * 0.25 * 0.25 * 0.25, false, true);
    arena_free(a);
}

static void two_beams_find_the_likelier_answer(void **state)
{
    (void)state;
    arena      *a = arena_new(0);
    beam_search s;
    search(&s, &GARDEN_PATH, 2, 5, a);
    check(&s, (const int32_t[]){1}, 1, 0.4 * 0.90625, true, false);
    assert_int_equal(s.n_nodes, 4); /* it stopped there: 0.125 is less already */
    arena_free(a);
}

/* An end that is not among the first B extensions does not count, however likely it is beside nothing. */
static void an_unlikely_end_does_not_count(void **state)
{
    (void)state;
    static const table t = {{[V] = {0.4, 0.3, 0.2, 0.1},
                             [0] = {0.9, 0.05, 0.025, 0.025},
                             [1] = {0.9, 0.05, 0.025, 0.025},
                             [2] = {0.9, 0.05, 0.025, 0.025}}};
    arena      *a = arena_new(0);
    beam_search s;
    search(&s, &t, 2, 3, a);
    check(&s, (const int32_t[]){0, 0, 0}, 3, 0.4 * 0.9 * 0.9, false, true);
    search(&s, &t, 8, 1, a);
    check(&s, (const int32_t[]){0}, 1, 0.4, false, true); /* now it does, and is less likely than what goes on */
    assert_true(s.has_done);
    arena_free(a);
}

static void an_end_at_once_is_an_empty_answer(void **state)
{
    (void)state;
    static const table t = {
        {[V] = {0.25, 0.125, 0.125, 0.5}, [0] = {1, 0, 0, 0}, [1] = {1, 0, 0, 0}, [2] = {1, 0, 0, 0}}};
    arena      *a = arena_new(0);
    beam_search s;
    for (int B = 1; B <= 3; B++) {
        search(&s, &t, B, 4, a);
        check(&s, NULL, 0, 0.5, true, true);
    }
    arena_free(a);
}

/* Equal sums: what extends the better beam first, then the lower id. More beams than there are extensions. */
static void ties_have_an_order(void **state)
{
    (void)state;
    static const table t = {{[V] = {0.3, 0.3, 0.3, 0.1}, [0] = {0.3, 0.3, 0.3, 0.1}, [1] = {0.3, 0.3, 0.3, 0.1},
                             [2] = {0.3, 0.3, 0.3, 0.1}}};
    arena      *a = arena_new(0);
    beam_search s;
    search(&s, &t, 8, 2, a);
    assert_int_equal(s.n, 8);
    for (int b = 0; b < 8; b++) {
        assert_int_equal(s.token[s.run[b].node], b % 3);
        assert_int_equal(s.token[s.parent[s.run[b].node]], b / 3);
    }
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_beam_is_greedy),
        cmocka_unit_test(two_beams_find_the_likelier_answer),
        cmocka_unit_test(an_unlikely_end_does_not_count),
        cmocka_unit_test(an_end_at_once_is_an_empty_answer),
        cmocka_unit_test(ties_have_an_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
