/* test_text.c - growable text, UTF-8 by the table of RFC 3629, base64 by RFC 4648's vectors and strictness,
 * hexadecimal. */
#include "tests/check.h"
#include "base/memory.h"
#include "base/text.h"

static void test_growing(void **state)
{
    (void)state;
    text t = {0};
    for (int i = 0; i < 1000; i++) text_printf(&t, "%03d,", i);
    text_add(&t, "end");
    text_addn(&t, "xyz", 1);
    assert_false(t.failed);
    assert_int_equal(t.len, 4004);
    assert_memory_equal(t.s, "000,001,", 8);
    assert_string_equal(t.s + 3996, "999,endx");
    text_free(&t);
    assert_null(t.s);
}

static void test_failure_is_sticky(void **state)
{
    (void)state;
    text t = {0};
    text_add(&t, "kept");
    mem_fail_after(0);
    text_printf(&t, "%1000d", 1);
    mem_fail_after(-1);
    assert_true(t.failed);
    text_add(&t, "late");
    assert_string_equal(t.s, "kept"); /* nothing is added behind a hole */
    text_free(&t);
}

static void test_utf8_validity(void **state)
{
    (void)state;
    static const char *const good[] = {"",
                                       "a",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "h\xc3\xa9llo \xe4\xb8\xad \xf0\x9f\xa9\xba"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2\x41",
                                      "\xe0\x9f\xbf",
                                      "\xe0\xa0",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf0\x90\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xfe",
                                      "\xff",
                                      "ok\xe2\x82"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(utf8_valid(bad[i], strlen(bad[i])));
    assert_true(utf8_valid("a\0b", 3));
    assert_false(utf8_valid("\xc2\x80", 1)); /* cut by the length, not by the zero */
}

/* Every code point there and back. */
static void test_utf8_of_all_code_points(void **state)
{
    (void)state;
    for (uint32_t cp = 1; cp <= 0x10ffff; cp++) {
        if (cp >= 0xd800 && cp <= 0xdfff) continue;
        char        s[5] = {0};
        const char *p = s;
        int         n = utf8_put(s, cp);
        if (n != (cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4) || !utf8_valid(s, (size_t)n))
            fail_msg("U+%04X", cp);
        if (utf8_next(&p) != cp || p != s + n) fail_msg("U+%04X does not come back", cp);
    }
}

static void test_base64_vectors(void **state)
{
    (void)state; /* RFC 4648, section 10 */
    static const char *const row[][2] = {{"", ""},
                                         {"f", "Zg=="},
                                         {"fo", "Zm8="},
                                         {"foo", "Zm9v"},
                                         {"foob", "Zm9vYg=="},
                                         {"fooba", "Zm9vYmE="},
                                         {"foobar", "Zm9vYmFy"}};
    arena *a = arena_new(0);
    for (size_t i = 0; i < 7; i++) {
        char     out[16];
        uint8_t *back;
        size_t   n;
        err      e = {0};
        base64_encode(out, (const uint8_t *)row[i][0], i);
        assert_string_equal(out, row[i][1]);
        assert_int_equal(base64_encoded_bytes(i), strlen(out) + 1);
        OK(base64_decode(&back, &n, out, strlen(out), "image", a, &e), e);
        assert_int_equal(n, i);
        assert_memory_equal(back, row[i][0], i);
    }
    arena_free(a);
}

static void test_base64_of_every_byte_and_length(void **state)
{
    (void)state;
    uint8_t in[300];
    char    out[404];
    for (int i = 0; i < 300; i++) in[i] = (uint8_t)(i * 7 + i / 256);
    arena *a = arena_new(0);
    for (size_t len = 0; len <= 300; len++) {
        uint8_t *back;
        size_t   n;
        err      e = {0};
        base64_encode(out, in, len);
        OK(base64_decode(&back, &n, out, strlen(out), "image", a, &e), e);
        assert_int_equal(n, len);
        assert_memory_equal(back, in, len);
    }
    arena_free(a);
}

static void test_base64_is_strict(void **state)
{
    (void)state;
    static const struct { const char *s, *part; } row[] = {
        {"Zg=", "length 3 is not a multiple of 4"}, {"Zm9v\n", "length 5"},
        {"Zm 9v", "length 5"},                      {"Zm\n9", "not a base64 character at offset 2"},
        {"Zm-_", "at offset 2"},                    {"====", "at offset 0"},
        {"Z===", "at offset 1"},                    {"Zg==Zm9v", "at offset 2"},
        {"=m9v", "at offset 0"},                    {"Zm=v", "at offset 2"},
        {"Zh==", "bits behind the end"},            {"Zm9=", "bits behind the end"},
        {"Zm9\xff", "at offset 3"},
    };
    arena *a = arena_new(0);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        uint8_t *out;
        size_t   n;
        err      e;
        FAILS(base64_decode(&out, &n, row[i].s, strlen(row[i].s), "image", a, &e), e, ERR_INPUT, row[i].part);
        assert_string_equal(e.field, "image");
        assert_string_equal(e.problem, "base64-malformed");
    }
    arena_free(a);
}

static void test_hexadecimal(void **state)
{
    (void)state;
    const uint8_t in[] = {0, 1, 0x9a, 0xff};
    uint8_t       back[4];
    char          s[9];
    hex_encode(s, in, 4);
    assert_string_equal(s, "00019aff");
    assert_true(hex_decode(back, 4, "00019AfF"));
    assert_memory_equal(back, in, 4);
    static const char *const bad[] = {"", "0", "00019af", "00019aff0", "00019afg", " 0019aff", "00019af "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(hex_decode(back, 4, bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing),        cmocka_unit_test(test_failure_is_sticky),
        cmocka_unit_test(test_utf8_validity),  cmocka_unit_test(test_utf8_of_all_code_points),
        cmocka_unit_test(test_base64_vectors), cmocka_unit_test(test_base64_of_every_byte_and_length),
        cmocka_unit_test(test_base64_is_strict), cmocka_unit_test(test_hexadecimal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
