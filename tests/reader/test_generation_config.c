/* test_generation_config.c - fails when an answer would end with other tokens than the checkpoint says, or not
 * start although the file is wrong. */
#include "tests/base/temporary.h"

#include "reader/generation_config.h"

enum { V = 100, FAMILY_END = 7 };

static bool of_text(generation_config *c, const char *json, err *e)
{
    const char *dir = temporary_dir();
    if (json) put_file(dir, "generation_config.json", json, strlen(json));
    bool ok = generation_config_open(c, dir, FAMILY_END, V, e);
    remove_dir(dir);
    return ok;
}

static void check(const char *json, const int32_t *end, int n_end, int32_t pad)
{
    err               e = {0};
    generation_config c;
    OK(of_text(&c, json, &e), e);
    assert_int_equal(c.n_end, n_end);
    for (int i = 0; i < n_end; i++) {
        assert_int_equal(c.end[i], end[i]);
        assert_true(generation_ends(&c, end[i]));
    }
    assert_int_equal(c.pad, pad);
    assert_false(generation_ends(&c, 50));
}

static void all_ends_are_known(void **state)
{
    (void)state;
    check(NULL, (const int32_t[]){7}, 1, 7);
    check("{}", (const int32_t[]){7}, 1, 7);
    check("{\"eos_token_id\": null, \"pad_token_id\": null}", (const int32_t[]){7}, 1, 7);
    check("{\"eos_token_id\": 2}", (const int32_t[]){2, 7}, 2, 2);
    check("{\"eos_token_id\": 7, \"pad_token_id\": 0}", (const int32_t[]){7}, 1, 0);
    check("{\"eos_token_id\": [7, 3, 3], \"pad_token_id\": 99, \"repetition_penalty\": 1.05}",
          (const int32_t[]){7, 3}, 2, 99);
    check("{\"eos_token_id\": []}", (const int32_t[]){7}, 1, 7);
    check("{\"eos_token_id\": [10,11,12,13,14,15,16,17,18,19,20,21,22,23,24]}",
          (const int32_t[]){10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 7}, 16, 10);
}

static void what_is_no_token_is_refused(void **state)
{
    (void)state;
    static const struct { const char *json, *part;
    } cases[] = {
        {"{\"eos_token_id\": \"<|im_end|>\"}", "eos_token_id is not a token id"},
        {"{\"eos_token_id\": [1, 2.5]}", "eos_token_id is not a token id"},
        {"{\"eos_token_id\": [[1]]}", "eos_token_id is not a token id"},
        {"{\"eos_token_id\": 100}", "eos_token_id is 100, the vocabulary has 100 tokens"},
        {"{\"eos_token_id\": -1}", "eos_token_id is -1"},
        {"{\"eos_token_id\": 1, \"pad_token_id\": 4294967297}", "pad_token_id is 4294967297"},
        {"{\"eos_token_id\": [10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25]}",
         "more than 15 values of eos_token_id"},
        {"{\"eos_token_id\": 1", "generation_config.json: line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err               e;
        generation_config c;
        FAILS(of_text(&c, cases[i].json, &e), e, ERR_FILE, cases[i].part);
        if (!strstr(e.text, "generation_config.json")) fail_msg("the file is not named: %s", e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_ends_are_known),
                                       cmocka_unit_test(what_is_no_token_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
