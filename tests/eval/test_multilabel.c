/* test_multilabel.c - numbers of a multi-label task that a paper would print. Compared with scikit-learn and
 * definitions written out in Python (tests/oracle/multilabel.py made the table), and with values worked out by
 * hand. */
#include "tests/check.h"
#include "eval/multilabel.h"

enum { MOST = 1024 };

/* NaN equals NaN here. */
static void near(const char *what, double got, double want, double tol)
{
    if (isnan(got) != isnan(want) || fabs(got - want) > tol) fail_msg("%s: %.15g, wanted %.15g", what, got, want);
}

typedef struct { uint8_t gold[MOST], said[MOST]; float prob[MOST]; multilabel_cases c; } drawn;

/* What tests/oracle/multilabel.py draws. */
static void draw(drawn *d, uint64_t seed, int n, int L, uint32_t steps, uint32_t rate)
{
    uint64_t r = seed;
    assert_true(n * L <= MOST);
    for (int i = 0; i < n * L; i++) {
        d->gold[i] = random_below(&r, 100) < rate * (uint32_t)(i % L + 1);
        uint32_t low = random_below(&r, steps), more = random_below(&r, steps);
        d->prob[i] = (float)(low + d->gold[i] * more) / 64;
        d->said[i] = d->prob[i] > 0.5f;
    }
    d->c = (multilabel_cases){n, L, d->gold, d->said, d->prob};
}

static void metrics_differ_from_scikit_learn(void **state)
{
    (void)state;
    static const struct { int seed, n, L, steps, rate; int right, undefined; estimate want[7]; } t[] = {
        {1, 1, 1, 20, 50, 1, 1,
         {{0.000000000000, {0.000000000000, 0.000000000000}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}}}},
        {2, 2, 2, 30, 40, 0, 2,
         {{0.000000000000, {0.000000000000, 0.000000000000}},
          {0.000000000000, {0.000000000000, 0.000000000000}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}}}},
        {3, 40, 3, 40, 20, 16, 0,
         {{0.631701310818, {0.485868055556, 0.735359927597}},
          {0.631701310818, {0.485868055556, 0.735359927597}},
          {0.815723766833, {0.719833000412, 0.898365577942}},
          {0.796145577367, {0.678999412352, 0.893151183309}},
          {0.526315789474, {0.210263157895, 0.761904761905}},
          {0.784946236559, {0.588602776534, 0.954555692056}},
          {0.677569344236, {0.392207303165, 0.909774436090}}}},
        {4, 65, 5, 8, 25, 0, 2,
         {{0.000000000000, {0.000000000000, 0.000000000000}},
          {0.000000000000, {0.000000000000, 0.000000000000}},
          {0.806233396073, {0.736925410873, 0.874185517616}},
          {0.820715049186, {0.747313101315, 0.885162815637}},
          {0.000000000000, {0.000000000000, 0.000000000000}},
          {0.852536997886, {0.738519897959, 0.948521759963}},
          {0.800426375426, {0.653861982437, 0.915986566462}}}},
        {5, 101, 4, 64, 1, 7, 0,
         {{0.084303917967, {0.037304134534, 0.134515195748}},
          {0.084303917967, {0.037304134534, 0.134515195748}},
          {0.841127121733, {0.611826638657, 0.988541666667}},
          {0.671522556391, {0.316200551383, 0.928093434343}},
          {0.040816326531, {0.000000000000, 0.130434782609}},
          {1.000000000000, {1.000000000000, 1.000000000000}},
          {1.000000000000, {1.000000000000, 1.000000000000}}}},
        {6, 12, 7, 3, 30, 0, 5,
         {{0.000000000000, {0.000000000000, 0.000000000000}},
          {0.000000000000, {0.000000000000, 0.000000000000}},
          {0.803125000000, {0.609520089286, 0.957142857143}},
          {0.709343434343, {0.430555555556, 0.948072240260}},
          {0.000000000000, {0.000000000000, 0.000000000000}},
          {0.700000000000, {0.375000000000, 1.000000000000}},
          {0.668686868687, {0.222222222222, 1.000000000000}}}},
        {7, 30, 2, 20, 0, 30, 2,
         {{0.000000000000, {0.000000000000, 0.000000000000}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}},
          {NAN, {NAN, NAN}}}},
    };
    static const char *const name[] = {
        "macro f1",        "macro f1 present",           "auroc", "average precision", "label 0's f1",
        "label 0's auroc", "label 0's average precision"};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        static drawn      d;
        err               e = {0};
        multilabel_scores s;
        arena            *a = arena_new(0);
        draw(&d, (uint64_t)t[i].seed, t[i].n, t[i].L, (uint32_t)t[i].steps, (uint32_t)t[i].rate);
        OK(multilabel_score(&s, &d.c, a, &e), e);
        assert_int_equal(s.right, t[i].right);
        assert_int_equal(s.n_undefined, t[i].undefined);
        near("subset accuracy", s.subset_accuracy.value, (double)t[i].right / t[i].n, 1e-15);
        near("its interval", s.subset_accuracy.ci.lo, wilson(t[i].right, t[i].n).lo, 0);
        const estimate *got[] = {
            &s.macro_f1,       &s.macro_f1_present,          &s.auroc, &s.average_precision, &s.label[0].f1,
            &s.label[0].auroc, &s.label[0].average_precision};
        for (int k = 0; k < 7; k++) {
            char what[80];
            snprintf(what, sizeof what, "case %zu: %s", i, name[k]);
            near(what, got[k]->value, t[i].want[k].value, 1e-12);
            near(what, got[k]->ci.lo, t[i].want[k].ci.lo, 1e-12);
            near(what, got[k]->ci.hi, t[i].want[k].ci.hi, 1e-12);
        }
        arena_free(a);
    }
}

/* Probabilities 0.9+ 0.8- 0.8+ 0.3- 0.3-: three pairs with + above, one tie, none below... by hand:
 * pairs (+,-): 0.9 beats all three; 0.8 ties one, beats two: 3 + 0.5 + 2 = 5.5 of 6. Steps: recall 1/2 at
 * precision 1, then 1/2 more at 2/3. Label 1 is nowhere: undefined, its F1 too. Said: label 0 for the first
 * three. */
static void curves_differ_from_hand_count(void **state)
{
    (void)state;
    static const uint8_t gold[] = {1, 0, 0, 0, 1, 0, 0, 0, 0, 0}, said[] = {1, 0, 1, 0, 1, 0, 0, 0, 0, 0};
    static const float   prob[] = {.9f, .1f, .8f, .2f, .8f, .3f, .3f, .4f, .3f, .5f};
    err               e = {0};
    multilabel_scores s;
    arena            *a = arena_new(0);
    multilabel_cases  c = {5, 2, gold, said, prob};
    OK(multilabel_score(&s, &c, a, &e), e);
    near("auroc", s.label[0].auroc.value, 5.5 / 6, 1e-15);
    near("average precision", s.label[0].average_precision.value, 0.5 + 0.5 * 2 / 3, 1e-15);
    near("f1", s.label[0].f1.value, 2.0 * 2 / (2 + 3), 1e-15);
    near("mean auroc", s.auroc.value, 5.5 / 6, 1e-15);
    near("mean average precision", s.average_precision.value, 0.5 + 0.5 * 2 / 3, 1e-15);
    near("macro f1", s.macro_f1.value, 0.8 / 2, 1e-15);
    near("macro f1 present", s.macro_f1_present.value, 0.8, 1e-15);
    near("no f1", s.label[1].f1.value, NAN, 0);
    near("no auroc", s.label[1].auroc.value, NAN, 0);
    near("no interval", s.label[1].auroc.ci.lo, NAN, 0);
    near("no average precision", s.label[1].average_precision.value, NAN, 0);
    assert_int_equal(s.n_undefined, 1);
    assert_int_equal(s.right, 4);
    assert_int_equal(s.label[0].n_gold, 2);
    assert_int_equal(s.label[0].n_said, 3);
    assert_int_equal(s.label[1].n_gold + s.label[1].n_said, 0);
    arena_free(a);
}

/* A label that all cases have is as undefined as one that none has; a constant probability is chance. */
static void one_class_or_no_information_gives_a_number_that_means_something(void **state)
{
    (void)state;
    static const uint8_t gold[] = {1, 1, 1, 0, 1, 1}, said[] = {1, 0, 1, 0, 1, 0};
    static const float   prob[] = {.5f, .25f, .75f, .25f, .5f, .25f};
    err               e = {0};
    multilabel_scores s;
    arena            *a = arena_new(0);
    multilabel_cases  c = {3, 2, gold, said, prob};
    OK(multilabel_score(&s, &c, a, &e), e);
    near("all have it", s.label[0].auroc.value, NAN, 0);
    near("all have it", s.label[0].average_precision.value, NAN, 0);
    near("f1 needs no second class", s.label[0].f1.value, 1, 0);
    near("constant", s.label[1].auroc.value, 0.5, 0);
    near("prevalence", s.label[1].average_precision.value, 2.0 / 3, 1e-15);
    assert_int_equal(s.n_undefined, 1);
    arena_free(a);
}

static void sets_without_probabilities_or_without_cases_are_scored_as_far_as_they_go(void **state)
{
    (void)state;
    static drawn      d;
    err               e = {0};
    multilabel_scores with, without;
    arena            *a = arena_new(0);
    draw(&d, 9, 33, 3, 40, 20);
    OK(multilabel_score(&with, &d.c, a, &e), e);
    d.c.prob = NULL;
    OK(multilabel_score(&without, &d.c, a, &e), e);
    assert_int_equal(with.right, without.right);
    assert_int_equal(with.n_undefined, without.n_undefined);
    near("f1", without.macro_f1.value, with.macro_f1.value, 0);
    near("f1's interval", without.macro_f1.ci.hi, with.macro_f1.ci.hi, 0);
    near("auroc", without.auroc.value, NAN, 0);
    near("label's average precision", without.label[2].average_precision.value, NAN, 0);
    d.c.n = 0;
    OK(multilabel_score(&without, &d.c, a, &e), e);
    near("of nothing", without.subset_accuracy.value, NAN, 0);
    near("of nothing", without.macro_f1.value, NAN, 0);
    near("of nothing", without.subset_accuracy.ci.lo, NAN, 0);
    assert_int_equal(without.n_undefined, 3);
    arena_free(a);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
    static drawn      d;
    err               e;
    multilabel_scores s;
    draw(&d, 9, 33, 3, 40, 20);
    int refused = 0;
    for (size_t limit = 64; limit <= 1 << 20; limit *= 2) { /* whatever is the first that does not fit */
        arena *a = arena_new(limit);
        e = (err){0};
        if (multilabel_score(&s, &d.c, a, &e)) {
            assert_int_equal(e.code, ERR_NONE);
        } else {
            assert_int_equal(e.code, ERR_MEMORY);
            refused++;
        }
        arena_free(a);
    }
    assert_in_range(refused, 5, 13);
}

static void generated_lists_are_read_as_something_else(void **state)
{
    (void)state;
    static const struct { const char *text; int L; const char *set; int unparsed; } t[] = {
        {"3, 7", 15, "000100010000000", 0}, {"14", 15, "000000000000001", 0}, {"15", 15, "000000000000000", 1},
        {"0,1,2", 3, "111", 0},             {" 2 ,\t0\n", 3, "101", 0},       {"1, 1,1", 3, "010", 0},
        {"", 3, "000", 0},                  {"  \n", 3, "000", 0},            {",", 3, "000", 2},
        {"1,", 3, "010", 1},                {"1,,2", 3, "011", 1},            {"1;2", 3, "000", 1},
        {"1 2", 3, "000", 1},               {"-1", 3, "000", 1},              {"+1", 3, "000", 1},
        {"1.", 3, "000", 1},                {"01", 3, "000", 1},              {"00", 3, "000", 1},
        {"none", 3, "000", 1},              {"0, no finding", 3, "100", 1},   {"99999999999999999999", 3, "000", 1},
        {"2147483648", 3, "000", 1},        {"\xef\xbc\x91", 3, "000", 1},    {"\xc2\xa0""1", 3, "000", 1},
        {"0", 1, "1", 0},                   {"1", 1, "0", 1},                 {"Answer: 1, 2", 3, "001", 1},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        uint8_t set[16];
        memset(set, 7, sizeof set);
        int unparsed = label_list_parse(set, t[i].L, t[i].text);
        if (unparsed != t[i].unparsed) fail_msg("'%s': %d unparsed, wanted %d", t[i].text, unparsed, t[i].unparsed);
        for (int l = 0; l < t[i].L; l++)
            if (set[l] != t[i].set[l] - '0') fail_msg("'%s': label %d is %d", t[i].text, l, set[l]);
        assert_int_equal(set[t[i].L], 7); /* and no further */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_differ_from_scikit_learn),
        cmocka_unit_test(curves_differ_from_hand_count),
        cmocka_unit_test(one_class_or_no_information_gives_a_number_that_means_something),
        cmocka_unit_test(sets_without_probabilities_or_without_cases_are_scored_as_far_as_they_go),
        cmocka_unit_test(no_memory_is_an_error),
        cmocka_unit_test(generated_lists_are_read_as_something_else),
    };
    return cmocka_run_group_tests_name("multilabel", tests, NULL, NULL);
}
