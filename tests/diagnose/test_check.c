/* test_check.c - fails when a request that cannot be answered is let through, or blames the wrong field. */
#include "tests/check.h"

#include "diagnose/diagnose.h"

static diagnose_request good(void)
{
    static const uint8_t     bytes[] = {1};
    static const char *const answers[] = {"Yes", "No"};
    return (diagnose_request){
        .image = bytes, .image_bytes = 1, .question = "Is it?", .answers = answers, .n_answers = 2, .k = 2};
}

static void refused(const diagnose_request *q, err_code code, const char *problem, const char *field)
{
    err e = {0};
    assert_false(diagnose_check(q, &e));
    assert_int_equal(e.code, code);
    assert_string_equal(e.problem, problem);
    assert_string_equal(e.field, field);
    assert_non_null(strstr(e.text, field));
}

static void a_good_request_passes(void **state)
{
    (void)state;
    diagnose_request q = good();
    err              e = {0};
    OK(diagnose_check(&q, &e), e);
    q.k = MAX_K;
    OK(diagnose_check(&q, &e), e);
}

static void image_question_and_k_are_checked(void **state)
{
    (void)state;
    diagnose_request q = good();
    q.image = NULL;
    refused(&q, ERR_INPUT, "field-missing", "image");
    q = good();
    q.image_bytes = 0;
    refused(&q, ERR_INPUT, "field-missing", "image");
    q = good();
    q.question = NULL;
    refused(&q, ERR_INPUT, "field-missing", "question");
    q.question = " \n\t";
    refused(&q, ERR_INPUT, "field-missing", "question");
    q.question = "caf\xe9";
    refused(&q, ERR_UNUSABLE, "text-not-utf8", "question");
    q = good();
    char *longer = calloc(1, MAX_QUESTION_BYTES + 2);
    memset(longer, 'a', MAX_QUESTION_BYTES + 1);
    q.question = longer;
    refused(&q, ERR_UNUSABLE, "question-too-long", "question");
    longer[MAX_QUESTION_BYTES] = 0;
    err e = {0};
    OK(diagnose_check(&q, &e), e);
    free(longer);
    for (int k = -1; k <= MAX_K + 1; k += MAX_K + 2) {
        q = good();
        q.k = k;
        refused(&q, ERR_UNUSABLE, "k-out-of-range", "k");
    }
    q.k = 0;
    refused(&q, ERR_UNUSABLE, "k-out-of-range", "k");
}

static void answers_are_checked(void **state)
{
    (void)state;
    static char        text[MAX_ANSWERS + 1][16], huge[10001];
    const char        *list[MAX_ANSWERS + 1] = {"Yes", "No", "Maybe"};
    diagnose_request   q = good();
    q.answers = list;
    q.n_answers = 0;
    refused(&q, ERR_UNUSABLE, "answers-too-few", "answers");
    q.n_answers = 1;
    refused(&q, ERR_UNUSABLE, "answers-too-few", "answers");
    q.n_answers = 3;
    list[1] = "";
    refused(&q, ERR_UNUSABLE, "answer-empty", "answers");
    list[1] = "  ";
    refused(&q, ERR_UNUSABLE, "answer-empty", "answers");
    list[1] = "Yes";
    refused(&q, ERR_UNUSABLE, "answer-duplicate", "answers");
    list[1] = "\xff";
    refused(&q, ERR_UNUSABLE, "text-not-utf8", "answers");
    memset(huge, 'x', 10000);
    list[1] = huge;
    refused(&q, ERR_UNUSABLE, "answer-too-long", "answers");
    for (int i = 0; i <= MAX_ANSWERS; i++) {
        snprintf(text[i], sizeof text[i], "%d", i);
        list[i] = text[i];
    }
    err e = {0};
    q.n_answers = MAX_ANSWERS;
    OK(diagnose_check(&q, &e), e);
    q.n_answers = MAX_ANSWERS + 1;
    refused(&q, ERR_UNUSABLE, "answers-too-many", "answers");
}

/* A request that has neither answers nor labels. */
static void open_options_are_checked(void **state)
{
    (void)state;
    static const struct { open_options o; const char *field;
    } bad[] = {
        {{.max_new_tokens = -1}, "max_new_tokens"},
        {{.max_new_tokens = MAX_NEW_TOKENS + 1}, "max_new_tokens"},
        {{.beams = -1}, "beams"},
        {{.beams = MAX_BEAMS + 1}, "beams"},
        {{.repetition_penalty = 0.5}, "repetition_penalty"},
        {{.repetition_penalty = -1}, "repetition_penalty"},
        {{.repetition_penalty = MAX_REPETITION_PENALTY + 0.01}, "repetition_penalty"},
        {{.repetition_penalty = NAN}, "repetition_penalty"},
    };
    err              e = {0};
    diagnose_request q = good();
    q.answers = NULL;
    q.n_answers = 0;
    assert_int_equal(diagnose_task(&q), TASK_OPEN);
    OK(diagnose_check(&q, &e), e);
    q.open = (open_options){
        .max_new_tokens = MAX_NEW_TOKENS, .beams = MAX_BEAMS, .repetition_penalty = MAX_REPETITION_PENALTY};
    OK(diagnose_check(&q, &e), e);
    q.mode = MODE_REFERENCE;
    refused(&q, ERR_UNUSABLE, "field-conflict", "beams");
    q.open = (open_options){.max_new_tokens = 1, .beams = 1, .repetition_penalty = 1};
    OK(diagnose_check(&q, &e), e);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        q.open = bad[i].o;
        refused(&q, ERR_UNUSABLE, "field-out-of-range", bad[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_request_passes),
        cmocka_unit_test(image_question_and_k_are_checked),
        cmocka_unit_test(answers_are_checked),
        cmocka_unit_test(open_options_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
