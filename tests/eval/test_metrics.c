/* test_metrics.c - numbers that a paper would print. Compared with scikit-learn, SciPy and NumPy
 * (tests/oracle/metrics.py made the tables) and with values worked out by hand. */
#include "tests/check.h"
#include "eval/metrics.h"

#define NEAR(got, want, tol) do { \
        double g_ = (got), w_ = (want); \
        if (!(fabs(g_ - w_) <= (tol))) fail_msg("%s: %.15g, wanted %.15g", #got, g_, w_); \
    } while (0)

/* The pairs that tests/oracle/metrics.py draws: gold at random, the answer equal to it or again at random. */
static void draw(uint64_t seed, int n, int used, int32_t *gold, int32_t *answer)
{
    uint64_t r = seed;
    for (int i = 0; i < n; i++) {
        gold[i] = (int32_t)random_below(&r, (uint32_t)used);
        answer[i] = random_below(&r, 3) ? gold[i] : (int32_t)random_below(&r, (uint32_t)used);
    }
}

static void random_sequence_changed(void **state)
{
    (void)state;
    static const uint64_t first[] = {0x910a2dec89025cc1, 0xbeeb8da1658eec67, 0xf893a2eefb32555e};
    static const uint32_t then[] = {4, 4, 7, 8, 5, 2, 7, 4};
    uint64_t r = 1;
    for (int i = 0; i < 3; i++) assert_int_equal(random_next(&r), first[i]);
    for (int i = 0; i < 8; i++) assert_int_equal(random_below(&r, 10), then[i]);
    for (int i = 0; i < 100; i++) assert_int_equal(random_below(&r, 1), 0);
}

typedef struct { int32_t *gold, *answer; int n_labels; f1_labels over; int64_t *scratch; } f1_context;
static double f1_statistic(void *ctx, const int32_t *pick, int64_t n)
{
    f1_context *c = ctx;
    return macro_f1(c->gold, c->answer, pick, n, c->n_labels, c->over, c->scratch);
}

static void macro_f1_differs_from_scikit_learn(void **state)
{
    (void)state;
    static const struct {
        int seed, n, labels, used;
        double accuracy, set, present;
        interval set_ci, present_ci;
    } t[] = {
        {1,
         1,
         2,
         2,
         1.000000000000,
         0.500000000000,
         1.000000000000,
         {0.500000000000, 0.500000000000},
         {1.000000000000, 1.000000000000}},
        {2,
         2,
         2,
         2,
         1.000000000000,
         0.500000000000,
         1.000000000000,
         {0.500000000000, 0.500000000000},
         {1.000000000000, 1.000000000000}},
        {3,
         63,
         2,
         2,
         0.857142857143,
         0.856564634455,
         0.856564634455,
         {0.761664564943, 0.936105476673},
         {0.761664564943, 0.936105476673}},
        {4,
         64,
         5,
         5,
         0.687500000000,
         0.677952564864,
         0.677952564864,
         {0.548585209676, 0.786656024531},
         {0.548585209676, 0.786656024531}},
        {5,
         65,
         5,
         3,
         0.830769230769,
         0.496000000000,
         0.826666666667,
         {0.434961274360, 0.548021925701},
         {0.724935457266, 0.913369876168}},
        {6,
         257,
         7,
         7,
         0.715953307393,
         0.713069548364,
         0.713069548364,
         {0.656830492142, 0.766686763380},
         {0.656830492142, 0.766686763380}},
        {7,
         12,
         9,
         4,
         0.750000000000,
         0.333333333333,
         0.750000000000,
         {0.171717171717, 0.418470418470},
         {0.403846153846, 1.000000000000}},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        int32_t  gold[300], answer[300];
        int64_t  scratch[3 * 9], right = 0;
        err      e = {0};
        interval ci;
        arena   *a = arena_new(0);
        draw((uint64_t)t[i].seed, t[i].n, t[i].used, gold, answer);
        for (int j = 0; j < t[i].n; j++) right += gold[j] == answer[j];
        NEAR((double)right / t[i].n, t[i].accuracy, 1e-12);
        f1_context c = {gold, answer, t[i].labels, F1_SET, scratch};
        NEAR(f1_statistic(&c, NULL, t[i].n), t[i].set, 1e-12);
        OK(bootstrap(&ci, f1_statistic, &c, t[i].n, a, &e), e);
        NEAR(ci.lo, t[i].set_ci.lo, 1e-12);
        NEAR(ci.hi, t[i].set_ci.hi, 1e-12);
        c.over = F1_PRESENT;
        NEAR(f1_statistic(&c, NULL, t[i].n), t[i].present, 1e-12);
        OK(bootstrap(&ci, f1_statistic, &c, t[i].n, a, &e), e);
        NEAR(ci.lo, t[i].present_ci.lo, 1e-12);
        NEAR(ci.hi, t[i].present_ci.hi, 1e-12);
        arena_free(a);
    }
}

/* Gold 0 0 1 2, answers 0 1 1 none. Label 0: 2*1/(1+2) = 2/3. Label 1: 2*1/(2+1) = 2/3. Label 2: 0/(0+1) = 0.
 * Label 3: 0/0 = 0. */
static void macro_f1_differs_from_hand_count(void **state)
{
    (void)state;
    static const int32_t gold[] = {0, 0, 1, 2}, answer[] = {0, 1, 1, -1}, twice[] = {0, 0}, last[] = {3, 3, 3};
    int64_t scratch[12];
    NEAR(macro_f1(gold, answer, NULL, 4, 4, F1_SET, scratch), 4.0 / 3 / 4, 1e-15);
    NEAR(macro_f1(gold, answer, NULL, 4, 4, F1_PRESENT, scratch), 4.0 / 3 / 3, 1e-15);
    NEAR(macro_f1(gold, answer, twice, 2, 4, F1_PRESENT, scratch), 1, 0); /* only label 0 was drawn */
    NEAR(macro_f1(gold, answer, last, 3, 4, F1_PRESENT, scratch), 0, 0);
    assert_true(isnan(macro_f1(gold, answer, NULL, 0, 4, F1_SET, scratch)));
    assert_true(isnan(macro_f1(gold, answer, NULL, 0, 0, F1_PRESENT, scratch)));
}

static void wilson_differs_from_scipy(void **state)
{
    (void)state;
    static const struct { int64_t right, n; double lo, hi; } t[] = {
        {0, 1, 0.000000000000000, 0.793450685622763},         {1, 1, 0.206549314377237, 1.000000000000000},
        {0, 30, 0.000000000000000, 0.113513393173969},        {30, 30, 0.886486606826031, 1.000000000000000},
        {1, 2, 0.094531205734231, 0.905468794265769},         {55, 78, 0.596242057603573, 0.794757815335014},
        {136, 156, 0.810267095261751, 0.915452007002735},     {498, 524, 0.928290864932604, 0.965917030473234},
        {999999, 1000000, 0.999994335088196, 0.999999823475423},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        interval w = wilson(t[i].right, t[i].n);
        NEAR(w.lo, t[i].lo, 1e-14);
        NEAR(w.hi, t[i].hi, 1e-14);
        assert_true(w.lo >= 0 && w.hi <= 1);
    }
    assert_true(isnan(wilson(0, 0).lo) && isnan(wilson(0, 0).hi));
}

static void quantile_differs_from_numpy(void **state)
{
    (void)state;
    static const double v[] = {1, 2, 4, 8}, q[] = {0, .025, .5, .95, 1}, want[] = {1, 1.075, 3, 7.4, 8};
    for (int i = 0; i < 5; i++) NEAR(quantile(v, 4, q[i]), want[i], 1e-14);
    NEAR(quantile(v, 1, .95), 1, 0);
    assert_true(isnan(quantile(v, 0, .5)));
}

static double always_nan(void *ctx, const int32_t *pick, int64_t n) { (void)ctx, (void)pick, (void)n; return NAN; }
static double first_if_odd(void *ctx, const int32_t *pick, int64_t n)
{
    (void)ctx, (void)n;
    return pick[0] % 2 ? pick[0] : NAN;
}

static void bootstrap_of_nothing_gives_a_number(void **state)
{
    (void)state;
    err      e = {0};
    interval ci = {1, 2};
    arena   *a = arena_new(0), *small = arena_new(64);
    OK(bootstrap(&ci, always_nan, NULL, 0, a, &e), e);
    assert_true(isnan(ci.lo) && isnan(ci.hi));
    OK(bootstrap(&ci, always_nan, NULL, 5, a, &e), e);
    assert_true(isnan(ci.lo) && isnan(ci.hi));
    OK(bootstrap(&ci, first_if_odd, NULL, 4, a, &e), e); /* draws 1 and 3 about as often */
    NEAR(ci.lo, 1, 0);
    NEAR(ci.hi, 3, 0);
    FAILS(bootstrap(&ci, first_if_odd, NULL, 1000, small, &e), e, ERR_MEMORY, "");
    arena_free(a);
    arena_free(small);
}

static void normaliser_differs_from_released_code(void **state)
{
    (void)state;
    static const struct { const char *in, *out; } t[] = {
        {"Yes", "yes"}, {"yes.", "yes"}, {"  The  Left lung ", "left lung"}, {"an A the", ""}, {"x-ray", "xray"},
        {"T1/T2 (axial)", "t1t2 axial"}, {"a\tb\u00a0c\u3000d", "b c d"}, {"\u00c9PANCHEMENT", "\u00e9panchement"},
        {"anatomy the theory", "anatomy theory"}, {"", ""}, {"!?", ""}, {"a", ""}, {"the a x", "x"},
        {"STRASSE \u1e9e", "strasse \u00df"}, {"No;the end", "nothe end"}, {"x ", "x"}, {" ", ""}, {"?x", "x"},
    };
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        err   e = {0};
        char *out;
        OK(answer_normalise(&out, t[i].in, a, &e), e);
        assert_string_equal(out, t[i].out);
    }
    /* U+023A is two bytes and its lower case U+2C65 three: room for all of them. */
    char  in[2001] = "", *out;
    err   e = {0};
    for (int i = 0; i < 1000; i++) strcat(in, "\u023a");
    OK(answer_normalise(&out, in, a, &e), e);
    assert_int_equal(strlen(out), 3000);
    arena_free(a);
}

static void token_recall_miscounts(void **state)
{
    (void)state;
    static const struct { const char *gold, *answer; double want;
    } t[] = {
        {"yes", "yes", 1},
        {"left lower lobe", "lower lobe of left lung", 1},
        {"a b b c", "b c c", 2.0 / 4},
        {"b b c", "b c c", 2.0 / 3},
        {"", "", 1},
        {"", "x", 0},
        {"x", "", 0},
        {"very very big", "very big", 2.0 / 3},
        {"lungs", "lung", 0},
        {"lung", "lungs", 0},
        {"b b b", "b b", 2.0 / 3},
        {"one", "two", 0},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) NEAR(token_recall(t[i].gold, t[i].answer), t[i].want, 1e-15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_sequence_changed),          cmocka_unit_test(macro_f1_differs_from_scikit_learn),
        cmocka_unit_test(macro_f1_differs_from_hand_count), cmocka_unit_test(wilson_differs_from_scipy),
        cmocka_unit_test(quantile_differs_from_numpy),      cmocka_unit_test(bootstrap_of_nothing_gives_a_number),
        cmocka_unit_test(normaliser_differs_from_released_code), cmocka_unit_test(token_recall_miscounts),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
