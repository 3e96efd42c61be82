/* test_report.c - the numbers of a summary, from results worked out by hand; no model is opened. */
#include "tests/check.h"
#include <jansson.h>
#include "base/memory.h"
#include "eval/report.h"

static const char *const YES_NO[] = {"Yes", "No"};

#define NEAR(got, want, tol) do { \
        double g_ = (got), w_ = (want); \
        if (!(fabs(g_ - w_) <= (tol))) fail_msg("%s: %.15g, wanted %.15g", #got, g_, w_); \
    } while (0)

/* ---- one case ---- */

/* A candidate that says Yes with probability p, and its raw logits. */
static evidence says(int64_t id, unsigned heads, float s_image, float s_text, float p_r, float p, float *logp,
                     float *logit)
{
    logp[0] = logf(p);
    logp[1] = logf(1 - p);
    return (evidence){.c = {.id = id, .heads = heads, .score = {s_image, s_text}, .weight = p_r},
                      .logp = logp,
                      .logit = logit,
                      .answer = p >= .5f ? 0 : 1};
}

/* Passage 5 is found by both heads, 7 by the image head, 9 by the text head. Scores over each head's largest:
 * image 1, 1/2; text 1, 1/2. So p_R = (2e, e^.5, e^.5) / (2e + 2 e^.5) = .62246, .18877, .18877, and of a head
 * alone .62246, .37754.
 *   all    Yes: .62246 * .6 + .18877 * .2 + .18877 * .9 = .581   image Yes: .62246 * .6 + .37754 * .2 = .449
 *   text   Yes: .62246 * .6 + .37754 * .9 = .713
 *   logits Yes .325, No 1.888, so the reference mode says No */
static void heads_and_modes_are_fused_wrongly(void **state)
{
    (void)state;
    float    logp[3][2], logit[3][2] = {{.4f, 0}, {0, 10}, {.4f, 0}}, prob[2] = {.581f, .419f};
    evidence z[] = {says(5, 3, .9f, .2f, .62246f, .6f, logp[0], logit[0]),
                    says(7, 1, .45f, 0, .18877f, .2f, logp[1], logit[1]),
                    says(9, 2, 0, .1f, .18877f, .9f, logp[2], logit[2])};
    answer ans = {.A = 2,
                  .K = 3,
                  .prob = prob,
                  .answer = 0,
                  .z = z,
                  .consistent = false,
                  .n_cached = 1,
                  .flops = 77,
                  .total_ms = 2.5};
    eval_case c = {.answers = YES_NO, .n_answers = 2, .gold = 0, .gold_text = "yes."};
    arena    *a = arena_new(0);
    for (int swap = 0; swap < 2; swap++) { /* the order of candidates must not matter but for "first" */
        case_result r;
        err         e = {0};
        OK(case_result_of(&r, &c, &ans, MODE_PAPER, 1, a, &e), e);
        assert_int_equal(r.answer, 0);
        assert_int_equal(r.by_mode[MODE_PAPER], 0);
        assert_int_equal(r.by_mode[MODE_REFERENCE], 1);
        assert_int_equal(r.by_head[HEAD_IMAGE], 1);
        assert_int_equal(r.by_head[HEAD_TEXT], 0);
        assert_int_equal(r.first, swap ? 1 : 0);
        assert_int_equal(r.K, 3);
        assert_int_equal(r.right, 2);
        assert_int_equal(r.head_K[HEAD_IMAGE], 2);
        assert_int_equal(r.head_right[HEAD_IMAGE], 1);
        assert_int_equal(r.head_K[HEAD_TEXT], 2);
        assert_int_equal(r.head_right[HEAD_TEXT], 2);
        assert_false(r.consistent);
        assert_true(r.exact);
        NEAR(r.recall, 1, 0);
        assert_int_equal(r.n_cached, 1);
        assert_int_equal(r.flops, 77);
        evidence t = z[0];
        z[0] = z[1];
        z[1] = t;
    }
    arena_free(a);
}

static void head_without_candidates_has_an_answer(void **state)
{
    (void)state;
    float       logp[2], logit[2] = {1, 0}, prob[2] = {.7f, .3f};
    evidence    z = says(3, 1u << HEAD_TEXT, 0, .5f, 1, .7f, logp, logit);
    answer      ans = {.A = 2, .K = 1, .prob = prob, .z = &z, .consistent = true};
    eval_case   c = {.answers = YES_NO, .n_answers = 2, .gold = 1, .gold_text = "No"};
    arena      *a = arena_new(0);
    case_result r;
    err         e = {0};
    OK(case_result_of(&r, &c, &ans, MODE_REFERENCE, .5f, a, &e), e);
    assert_int_equal(r.by_head[HEAD_IMAGE], -1);
    assert_int_equal(r.head_K[HEAD_IMAGE], 0);
    assert_int_equal(r.by_head[HEAD_TEXT], 0);
    assert_false(r.exact);
    NEAR(r.recall, 0, 0);
    arena_free(a);
}

/* ---- the summary ---- */

static case_result result(int gold, int said, int by_image, int right, bool consistent)
{
    return (case_result){.gold = gold,
                         .answer = said,
                         .by_mode = {said, 1 - said},
                         .by_head = {by_image, said},
                         .first = said,
                         .K = 4,
                         .right = right,
                         .head_K = {2, 2},
                         .head_right = {right > 2 ? 2 : right, right > 2 ? right - 2 : 0},
                         .consistent = consistent,
                         .exact = gold == said,
                         .recall = gold == said,
                         .n_cached = 3,
                         .flops = 1000,
                         .ms = said ? 4 : 2};
}

static const report_run RUN = {.dataset = "set",
                               .kernels = "cpu",
                               .k = 2,
                               .workers = 1,
                               .mode = MODE_PAPER,
                               .tau = 1,
                               .seconds = 2,
                               .n_cases = 7};

static case_result text(answer_kind type, bool yes_no, bool exact, double recall)
{
    return (case_result){.task = TASK_OPEN,
                         .type = type,
                         .yes_no = yes_no,
                         .exact = exact,
                         .recall = recall,
                         .K = 4,
                         .n_cached = 3,
                         .consistent = exact,
                         .n_tokens = 3,
                         .cut_off = !exact,
                         .flops = 1000,
                         .ms = 9};
}

/* Gold Yes Yes No No, answers Yes No No No; one more failed, one is open. */
static report *four_cases(void)
{
    report *r = NULL;
    err     e = {0}, why = {0};
    OK(report_new(&r, &e), e);
    const case_result c[] = {result(0, 0, 0, 4, true), result(0, 1, -1, 1, false), result(1, 1, 1, 3, false),
                             result(1, 1, 0, 4, true)};
    for (int i = 0; i < 4; i++) OK(report_add(r, &c[i], YES_NO, 2, NULL, &e), e);
    err_at(&why, ERR_UNUSABLE, "image-undecodable", "image", "cut short");
    OK(report_add_failed(r, 4, &why, &e), e);
    const case_result open = text(ANSWER_UNTYPED, false, false, .5);
    OK(report_add(r, &open, NULL, 0, NULL, &e), e);
    return r;
}

static double at(const json_t *o, const char *a, const char *b)
{
    const json_t *v = json_object_get(o, a);
    if (b) v = json_object_get(v, b);
    if (!json_is_number(v)) fail_msg("%s %s: not a number", a, b ? b : "");
    return json_number_value(v);
}

static void summary_differs_from_hand_count(void **state)
{
    (void)state;
    report *r = four_cases();
    json_t *o = NULL;
    err     e = {0};
    OK(report_json(&o, r, &RUN, NULL, &e), e);
    NEAR(at(o, "n", NULL), 4, 0);
    NEAR(at(o, "n_failed", NULL), 1, 0);
    NEAR(at(o, "n_open", NULL), 1, 0);
    NEAR(at(o, "accuracy", NULL), 3. / 4, 0);
    NEAR(at(o, "macro_f1", NULL), (2. / 3 + 4. / 5) / 2, 1e-15); /* Yes: 2*1/(1+2). No: 2*2/(3+2) */
    NEAR(at(o, "exact_match", NULL), 3. / 4, 0);
    NEAR(at(o, "token_recall", NULL), 3. / 4, 0);
    NEAR(at(o, "inconsistent", NULL), 1. / 2, 0);
    NEAR(at(o, "oracle", NULL), 1, 0);
    NEAR(at(o, "candidate_accuracy", NULL), 12. / 16, 0);
    NEAR(at(o, "inconsistent_cases", "n"), 2, 0);
    NEAR(at(o, "inconsistent_cases", "accuracy"), 1. / 2, 0);
    NEAR(at(o, "inconsistent_cases", "macro_f1"), (0 + 2. / 3) / 2, 1e-15);
    const json_t *by_image = json_object_get(json_object_get(o, "heads"), "image"),
                 *modes = json_object_get(o, "modes");
    NEAR(at(by_image, "accuracy", NULL), 2. / 4, 0); /* case 1 has no answer of the image head: wrong */
    NEAR(at(by_image, "candidate_accuracy", NULL), (2 + 1 + 2 + 2) / 8., 0);
    NEAR(at(modes, "paper", "accuracy"), 3. / 4, 0);
    NEAR(at(modes, "reference", "accuracy"), 1. / 4, 0);
    NEAR(at(o, "flops", NULL), 5000, 0);
    NEAR(at(o, "cache_hit_rate", NULL), 3. / 4, 0);
    NEAR(at(o, "ms_per_case", "median"), 4, 0);
    NEAR(at(o, "cases_per_second", NULL), 5. / 2, 0);
    NEAR(at(o, "decoded", "n"), 1, 0);
    NEAR(at(o, "decoded", "token_recall"), .5, 0);
    NEAR(at(o, "query_pictures", "reused"), 0, 0);
    assert_null(json_object_get(o, "by_answer_type")); /* the set does not sort its questions */
    const json_t *ci = json_object_get(o, "accuracy_ci"), *rows = json_object_get(o, "confusion");
    NEAR(json_real_value(json_array_get(ci, 0)), 0.300641842582402, 1e-12); /* Wilson, 3 of 4 */
    NEAR(json_real_value(json_array_get(ci, 1)), 0.954412739190300, 1e-12);
    static const int want[2][2] = {{1, 1}, {0, 2}};
    for (size_t g = 0; g < 2; g++)
        for (size_t p = 0; p < 2; p++)
            assert_int_equal(json_integer_value(json_array_get(json_array_get(rows, g), p)), want[g][p]);
    const json_t *f = json_array_get(json_object_get(o, "failures"), 0);
    assert_int_equal(json_integer_value(json_object_get(f, "case")), 4);
    assert_string_equal(json_string_value(json_object_get(f, "problem")), "image-undecodable");
    assert_string_equal(json_string_value(json_object_get(o, "notice")), RESEARCH_USE);
    json_decref(o);
    report_free(r);
}

/* The same answer in another place of another case's set is one label; unused answers count in the set. */
static void labels_are_taken_by_position(void **state)
{
    (void)state;
    static const char *const no_yes[] = {"No", "Yes"}, *const grades[] = {"0", "1", "2"};
    report *r = NULL;
    json_t *o = NULL;
    err     e = {0};
    OK(report_new(&r, &e), e);
    case_result c = result(0, 0, 0, 4, true); /* Yes, Yes */
    OK(report_add(r, &c, YES_NO, 2, NULL, &e), e);
    c = result(1, 1, 1, 4, true); /* Yes, Yes */
    OK(report_add(r, &c, no_yes, 2, NULL, &e), e);
    c = result(1, 1, 1, 4, true); /* "1", "1" */
    OK(report_add(r, &c, grades, 3, NULL, &e), e);
    OK(report_json(&o, r, &RUN, NULL, &e), e);
    assert_int_equal(json_array_size(json_object_get(o, "labels")), 5);
    assert_string_equal(json_string_value(json_array_get(json_object_get(o, "labels"), 2)), "0");
    NEAR(at(o, "macro_f1", NULL), 2. / 5, 1e-15); /* Yes and 1 of Yes No 0 1 2 */
    NEAR(at(o, "macro_f1_present", NULL), 1, 0);
    json_decref(o);
    report_free(r);
}

/* Two closed cases over a set and three decoded ones: groups by what the data set calls them and by the right
 * answer. */
static void questions_are_grouped_wrongly(void **state)
{
    (void)state;
    report     *r = NULL;
    json_t     *o = NULL;
    err         e = {0};
    case_result c[] = {result(0, 0, 0, 4, true), result(0, 1, 0, 1, false), text(ANSWER_CLOSED, false, true, 1),
                       text(ANSWER_OPEN, false, false, .25), text(ANSWER_OPEN, true, false, 0)};
    OK(report_new(&r, &e), e);
    c[0].type = c[1].type = ANSWER_CLOSED;
    c[0].yes_no = c[1].yes_no = true;
    for (int i = 0; i < 5; i++) OK(report_add(r, &c[i], YES_NO, i < 2 ? 2 : 0, NULL, &e), e);
    report_set_vision(r, (vision_cache_stats){2, 3});
    OK(report_json(&o, r, &RUN, NULL, &e), e);
    NEAR(at(o, "n", NULL), 2, 0);
    NEAR(at(o, "n_open", NULL), 3, 0);
    NEAR(at(o, "accuracy", NULL), .5, 0);
    const json_t *type = json_object_get(o, "by_answer_type"), *gold = json_object_get(o, "by_gold"),
                 *decoded = json_object_get(o, "decoded");
    NEAR(at(type, "closed", "n"), 3, 0);
    NEAR(at(type, "closed", "exact_match"), 2. / 3, 1e-15);
    NEAR(at(type, "closed", "token_recall"), 2. / 3, 1e-15);
    NEAR(at(type, "open", "n"), 2, 0);
    NEAR(at(type, "open", "exact_match"), 0, 0);
    NEAR(at(type, "open", "token_recall"), .125, 0);
    NEAR(at(gold, "yes_no", "n"), 3, 0);
    NEAR(at(gold, "yes_no", "exact_match"), 1. / 3, 1e-15);
    NEAR(at(gold, "other", "n"), 2, 0);
    NEAR(at(gold, "other", "token_recall"), 1.25 / 2, 0);
    NEAR(at(decoded, "n", NULL), 3, 0);
    NEAR(at(decoded, "exact_match", NULL), 1. / 3, 1e-15);
    NEAR(at(decoded, "cut_off", NULL), 2. / 3, 1e-15);
    NEAR(at(decoded, "inconsistent", NULL), 2. / 3, 1e-15);
    NEAR(at(decoded, "tokens_per_answer", NULL), 3, 0);
    NEAR(at(o, "query_pictures", "encoded"), 2, 0);
    NEAR(at(o, "query_pictures", "reused"), 3, 0);
    const json_t *ci = json_object_get(json_object_get(type, "open"), "exact_match_ci"); /* Wilson, 0 of 2 */
    NEAR(json_number_value(json_array_get(ci, 0)), 0, 0);
    NEAR(json_real_value(json_array_get(ci, 1)), 0.657619772493831, 1e-12);
    json_decref(o);
    report_free(r);
}

static case_result set(uint64_t gold, uint64_t said, bool generated)
{
    return (case_result){.task = TASK_LABELS,
                         .gold_set = gold,
                         .said_set = said,
                         .generated = generated,
                         .K = 2,
                         .right = gold == said,
                         .consistent = gold == said,
                         .n_unparsed = said == 0};
}

/* Sets {a} {b} {} of a b c, said {a} {a,b} {}: two right of three. F1: a 2*1/(1+2), b 2*1/(1+1), c none, so 0. */
static void sets_of_labels_are_counted_wrongly(void **state)
{
    (void)state;
    static const char *const abc[] = {"a", "b", "c"};
    static const float prob[3][3] = {{.9f, .1f, .2f}, {.8f, .7f, .1f}, {.2f, .2f, .1f}};
    for (int generated = 0; generated < 2; generated++) {
        report     *r = NULL;
        json_t     *o = NULL;
        err         e = {0};
        case_result c[] = {set(1, 1, generated), set(2, 3, generated), set(0, 0, generated)};
        OK(report_new(&r, &e), e);
        for (int i = 0; i < 3; i++) OK(report_add(r, &c[i], abc, 3, generated ? NULL : prob[i], &e), e);
        OK(report_json(&o, r, &RUN, NULL, &e), e);
        NEAR(at(o, "n", NULL), 0, 0);
        NEAR(at(o, "n_multilabel", NULL), 3, 0);
        const json_t *m = json_object_get(o, "multilabel"), *a = json_array_get(json_object_get(m, "labels"), 0);
        NEAR(at(m, "subset_accuracy", NULL), 2. / 3, 1e-15);
        NEAR(at(m, "macro_f1", NULL), (2. / 3 + 1 + 0) / 3, 1e-15);
        NEAR(at(m, "macro_f1_present", NULL), (2. / 3 + 1) / 2, 1e-15);
        NEAR(at(m, "inconsistent", NULL), 1. / 3, 1e-15);
        NEAR(at(m, "n_undefined", NULL), 1, 0);
        assert_string_equal(json_string_value(json_object_get(a, "label")), "a");
        NEAR(at(a, "n_gold", NULL), 1, 0);
        NEAR(at(a, "n_said", NULL), 2, 0);
        NEAR(at(a, "f1", NULL), 2. / 3, 1e-15);
        if (generated) {
            assert_true(json_is_null(json_object_get(m, "auroc")));
            assert_string_equal(json_string_value(json_object_get(m, "answer_form")), "generated");
            NEAR(at(m, "unparsed", NULL), 1. / 3, 1e-15);
        } else {
            NEAR(at(m, "auroc", NULL), 1, 1e-15); /* a: .9 before .8 and .2; b: .7 before .1 and .2 */
            NEAR(at(m, "oracle", NULL), 2. / 3, 1e-15);
        }
        assert_null(json_object_get(o, "confusion"));
        char  *s = NULL;
        size_t n;
        FILE  *f = open_memstream(&s, &n);
        OK(report_print(f, o, &e), e);
        fclose(f);
        if (!strstr(s, "3 cases scored") || !strstr(s, "subset accuracy") || !strstr(s, "  c\n")
            || strstr(s, "image head alone"))
            fail_msg("%s", s);
        free(s);
        json_decref(o);
        report_free(r);
    }
}

static void empty_report_has_numbers(void **state)
{
    (void)state;
    static const char *const undefined[] = {"accuracy",     "macro_f1",       "token_recall",  "oracle",
                                            "inconsistent", "cache_hit_rate", "flops_per_case"};
    report *r = NULL;
    json_t *o = NULL;
    err     e = {0};
    OK(report_new(&r, &e), e);
    OK(report_json(&o, r, &RUN, NULL, &e), e);
    for (size_t i = 0; i < sizeof undefined / sizeof *undefined; i++)
        if (!json_is_null(json_object_get(o, undefined[i]))) fail_msg("%s is not null", undefined[i]);
    assert_int_equal(json_integer_value(json_object_get(o, "n")), 0);
    json_decref(o);
    report_free(r);
}

/* More labels than the first table of hashes has room for, each found again. */
static void many_labels_are_confused(void **state)
{
    (void)state;
    report *r = NULL;
    json_t *o = NULL;
    err     e = {0};
    OK(report_new(&r, &e), e);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 500; i++) {
            char        right[24], wrong[24];
            case_result c = result(0, pass, 0, 4, true);
            snprintf(right, sizeof right, "label %d", i);
            snprintf(wrong, sizeof wrong, "other %d", i);
            const char *const both[] = {right, wrong};
            OK(report_add(r, &c, both, 2, NULL, &e), e);
        }
    OK(report_json(&o, r, &RUN, NULL, &e), e);
    assert_null(json_object_get(o, "confusion"));
    NEAR(at(o, "accuracy", NULL), .5, 0);
    NEAR(at(o, "macro_f1", NULL), (500 * (2. / 3) + 0) / 1000, 1e-12); /* right ones: 2*1/(1+2); wrong ones: 0 */
    json_decref(o);
    report_free(r);
}

static void table_hides_failures_or_notice(void **state)
{
    (void)state;
    static const char *const wanted[] = {"5 cases scored",
                                         "4 of them over a closed set and 1 decoded",
                                         "1 FAILED",
                                         "INTERRUPTED: there are 7",
                                         " 75.0 %",
                                         "decoded answers, 1",
                                         "cut off at max_new_tokens",
                                         "case 4: image-undecodable: cut short",
                                         "on these 2 cases",
                                         "95 % interval"};
    report *r = four_cases();
    json_t *o = NULL;
    err     e = {0};
    char   *s = NULL;
    size_t  n;
    FILE   *f = open_memstream(&s, &n);
    report_run run = RUN;
    run.interrupted = true;
    OK(report_json(&o, r, &run, NULL, &e), e);
    OK(report_print(f, o, &e), e);
    fclose(f);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(s, wanted[i])) fail_msg("'%s' is not in:\n%s", wanted[i], s);
    assert_non_null(strstr(s, RESEARCH_USE));
    free(s);
    json_decref(o);
    report_free(r);

    FILE *full = fopen("/dev/full", "w");
    json_t *empty = json_object();
    if (full) {
        FAILS(report_print(full, empty, &e), e, ERR_FILE, "could not be written");
        fclose(full);
    }
    json_decref(empty);
}

/* Every allocation of ours fails in turn: an error each time, and what was added before is still there. */
static void out_of_memory_is_not_an_error(void **state)
{
    (void)state;
    bool done = false;
    for (long n = 0; !done; n++) {
        report     *r = NULL;
        err         e = {0};
        json_t     *o = NULL;
        case_result c = result(0, 0, 0, 4, true);
        mem_fail_after(n);
        bool ok = report_new(&r, &e) && report_add(r, &c, YES_NO, 2, NULL, &e) && report_json(&o, r, &RUN, NULL, &e);
        mem_fail_after(-1);
        if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        done = ok;
        json_decref(o);
        report_free(r);
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_and_modes_are_fused_wrongly), cmocka_unit_test(head_without_candidates_has_an_answer),
        cmocka_unit_test(summary_differs_from_hand_count),      cmocka_unit_test(labels_are_taken_by_position),
        cmocka_unit_test(questions_are_grouped_wrongly),        cmocka_unit_test(sets_of_labels_are_counted_wrongly),
        cmocka_unit_test(empty_report_has_numbers),             cmocka_unit_test(many_labels_are_confused),
        cmocka_unit_test(table_hides_failures_or_notice),       cmocka_unit_test(out_of_memory_is_not_an_error),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
