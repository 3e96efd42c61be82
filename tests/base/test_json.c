/* test_json.c - members by dotted path, defaults, wrong types by name; files that are no JSON. */
#include "tests/base/temporary.h"
#include "base/json.h"

static void test_members(void **state)
{
    (void)state;
    json_t *o = json_loads(
        "{\"a\":{\"b\":{\"n\":7,\"x\":0.5,\"t\":true,\"s\":\"hi\",\"z\":null}},\"f\":2.5,\"big\":9007199254740993}",
        0, NULL);
    int64_t     i;
    double      d;
    bool        t;
    const char *s;
    err         e = {0};
    assert_non_null(o);
    OK(json_int(o, "a.b.n", &i, "c.json", &e), e);
    assert_int_equal(i, 7);
    OK(json_int(o, "big", &i, "c.json", &e), e);
    assert_true(i == 9007199254740993); /* above what a double holds */
    OK(json_num_or(o, "a.b.x", 1, &d, "c.json", &e), e);
    assert_true(d == 0.5);
    OK(json_num_or(o, "a.b.n", 1, &d, "c.json", &e), e); /* a whole number is a number */
    assert_true(d == 7);
    OK(json_bool_or(o, "a.b.t", false, &t, "c.json", &e), e);
    assert_true(t);
    OK(json_str_or(o, "a.b.s", "no", &s, "c.json", &e), e);
    assert_string_equal(s, "hi");

    /* absent, null and a path through something that is no object: the default */
    static const char *const none[] = {"q", "a.q", "a.b.z", "f.b", "a.b.s.t", "a..b"};
    for (size_t k = 0; k < sizeof none / sizeof *none; k++) {
        assert_null(json_path(o, none[k]));
        OK(json_int_or(o, none[k], -3, &i, "c.json", &e), e);
        OK(json_num_or(o, none[k], 1.5, &d, "c.json", &e), e);
        OK(json_bool_or(o, none[k], true, &t, "c.json", &e), e);
        OK(json_str_or(o, none[k], "def", &s, "c.json", &e), e);
        assert_true(i == -3 && d == 1.5 && t && strcmp(s, "def") == 0);
        FAILS(json_int(o, none[k], &i, "c.json", &e), e, ERR_FILE, "is missing");
        e = (err){0};
    }
    json_decref(o);
}

static void test_wrong_types_are_named(void **state)
{
    (void)state;
    json_t     *o = json_loads("{\"a\":{\"n\":\"7\",\"f\":1.0,\"l\":[]}}", 0, NULL);
    int64_t     i;
    double      d;
    bool        t;
    const char *s;
    err         e;
    FAILS(json_int(o, "a.n", &i, "c.json", &e), e, ERR_FILE, "c.json: a.n is not a whole number");
    FAILS(json_int(o, "a.f", &i, "c.json", &e), e, ERR_FILE, "c.json: a.f is not a whole number");
    FAILS(json_int_or(o, "a.n", 1, &i, "c.json", &e), e, ERR_FILE, "a.n is not a whole number");
    FAILS(json_num_or(o, "a.n", 1, &d, "c.json", &e), e, ERR_FILE, "a.n is not a number");
    FAILS(json_bool_or(o, "a.n", true, &t, "c.json", &e), e, ERR_FILE, "a.n is not true or false");
    FAILS(json_str_or(o, "a.l", "", &s, "c.json", &e), e, ERR_FILE, "a.l is not a string");
    FAILS(json_int(o, "b", &i, "c.json", &e), e, ERR_FILE, "c.json: b is missing");
    json_decref(o);
}

static void test_files(void **state)
{
    (void)state;
    const char *dir = temporary_dir();
    json_t     *v;
    err         e = {0};
    OK(json_open(&v, put_file(dir, "good.json", " {\"a\": [1, 2]}\n", 15), &e), e);
    assert_int_equal(json_array_size(json_path(v, "a")), 2);
    json_decref(v);
    static const struct { const char *text, *part;
    } bad[] = {
        {"", "bad.json: line"},
        {"{\"a\":1,\n\"a\":2}", "bad.json: line 2: duplicate"},
        {"{\"a\":1} x", "line 1: end of file expected"},
        {"[1,", "bad.json: line 1"},
        {"{\"a\":\"\xff\"}", "bad.json: line"},
        {"{\"a\":\"\\ud800\"}", "bad.json: line"},
        {"nul", "bad.json: line"},
        {"{\"a\":1e999}", "bad.json: line 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        FAILS(json_open(&v, put_file(dir, "bad.json", bad[i].text, strlen(bad[i].text)), &e), e, ERR_FILE,
              bad[i].part);
    char *deep = malloc(200001); /* a depth bomb */
    memset(deep, '[', 200000);
    FAILS(json_open(&v, put_file(dir, "bad.json", deep, 200000), &e), e, ERR_FILE,
          "bad.json: line 1: maximum parsing depth");
    free(deep);
    FAILS(json_open(&v, inside(dir, "absent.json"), &e), e, ERR_FILE, "absent.json: No such file");
    remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_members), cmocka_unit_test(test_wrong_types_are_named),
                                       cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
