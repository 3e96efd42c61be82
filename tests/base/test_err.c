/* test_err.c - the first error wins, long texts are cut, every code has a name of its own. */
#include "tests/check.h"

static void test_first_error_wins(void **state)
{
    (void)state;
    err e = {0};
    assert_false(err_at(&e, ERR_INPUT, "slug", "image", "number %d", 7));
    assert_false(err_set(&e, ERR_BUG, "a later one"));
    assert_int_equal(e.code, ERR_INPUT);
    assert_string_equal(e.problem, "slug");
    assert_string_equal(e.field, "image");
    assert_string_equal(e.text, "number 7");
}

static void test_plain_error_names_no_field(void **state)
{
    (void)state;
    err e = {0};
    assert_false(err_set(&e, ERR_FILE, "x"));
    assert_null(e.problem);
    assert_null(e.field);
}

static void test_long_text_is_cut(void **state)
{
    (void)state;
    err  e = {0};
    char s[1000];
    memset(s, 'x', sizeof s);
    s[999] = 0;
    err_set(&e, ERR_FILE, "%s", s);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

static void test_names_of_codes(void **state)
{
    (void)state;
    for (int i = ERR_NONE; i <= ERR_BUG; i++) {
        assert_non_null(err_code_name((err_code)i));
        for (int j = 0; j < i; j++) assert_string_not_equal(err_code_name((err_code)i), err_code_name((err_code)j));
    }
    assert_string_equal(err_code_name(ERR_TOO_LARGE), "too-large");
    assert_string_equal(err_code_name((err_code)99), "unknown");
    assert_string_equal(err_code_name((err_code)-1), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_error_wins), cmocka_unit_test(test_plain_error_names_no_field),
        cmocka_unit_test(test_long_text_is_cut), cmocka_unit_test(test_names_of_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
