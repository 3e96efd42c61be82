#include "tests/check.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/json.h"
#include "base/text.h"
#include "reader/split.h"

/* The pattern of a fixture's tokenizer.json; the root stays alive with it. */
static const char *pattern_of(const char *path, json_t **root)
{
    err e = {0};
    OK(json_open(root, path, &e), e);
    const json_t *list = json_path(*root, "pre_tokenizer.pretokenizers");
    const char   *p = json_string_value(json_path(json_array_get(list, 0), "pattern.Regex"));
    assert_non_null(p);
    return p;
}

/* --- All of Unicode ------------------------------------------------------------------------------------- */

static uint64_t fnv(uint64_t h, uint8_t byte) { return (h ^ byte) * 0x100000001b3u; }

/* FNV-1a over the byte lengths of the pieces that "xCx9CC C\nXCX" is cut into, and a 0, for every code point
 * C but U+0000. */
static uint64_t hash_of_cuts(const char *pattern)
{
    err      e = {0};
    split   *s;
    arena   *a = arena_new(0);
    uint64_t h = 0xcbf29ce484222325u;
    OK(split_open(&s, pattern, false, "pattern", &e), e);
    for (uint32_t cp = 1; cp < 0x110000; cp++) {
        char        c[5] = {0}, said[64];
        const char *subject;
        split_run  *run;
        size_t      from = 0, start, end;
        if (cp >= 0xd800 && cp < 0xe000) continue;
        utf8_put(c, cp);
        size_t n = (size_t)snprintf(said, sizeof said, "x%sx9%s%s %s\nX%sX", c, c, c, c, c);
        OK(split_begin(&run, a, &e), e);
        OK(split_subject(&subject, said, n, a, &e), e);
        for (; from < n; from = end) {
            OK(split_next(s, run, subject, n, from, &start, &end, &e), e);
            if (start > from) h = fnv(h, (uint8_t)(start - from));
            if (end > start) h = fnv(h, (uint8_t)(end - start));
        }
        h = fnv(h, 0);
        arena_reset(a);
    }
    split_close(s);
    arena_free(a);
    return h;
}

/* The hashes are those of pre_tokenizers.Split of the tokenizers library 0.23.1 (Oniguruma, Unicode 16). */
static void every_code_point_is_split_as_by_the_library(void **s)
{
    (void)s;
    json_t *root;
    uint64_t h = hash_of_cuts(pattern_of(FIXTURE("qwen2vl-tiny/tokenizer.json"), &root));
    json_decref(root);
    assert_true(h == 0x0a5ddfb99296ccb5u);
    h = hash_of_cuts(pattern_of(FIXTURE("pixtral-tiny/tokenizer.json"), &root));
    json_decref(root);
    assert_true(h == 0x9088b5fc02418bc1u);
}

static void stand_ins_keep_every_offset(void **s)
{
    (void)s;
    err         e = {0};
    arena      *a = arena_new(0);
    const char *out, plain[] = "a\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80";
    OK(split_subject(&out, plain, strlen(plain), a, &e), e);
    assert_ptr_equal(out, plain); /* nothing to replace: nothing copied */
    for (uint32_t cp = 0x80; cp < 0x110000; cp++) {
        char c[5] = {0};
        if (cp >= 0xd800 && cp < 0xe000) continue;
        int n = utf8_put(c, cp);
        OK(split_subject(&out, c, (size_t)n, a, &e), e);
        assert_true(utf8_valid(out, (size_t)n));
        const char *p = out;
        utf8_next(&p);
        assert_true(p == out + n);
        arena_reset(a);
    }
    arena_free(a);
}

/* --- Syntax --------------------------------------------------------------------------------------------- */

static void patterns_that_two_engines_read_differently_are_refused(void **s)
{
    (void)s;
    static const struct { const char *pattern, *text; } BAD[] = {
        {"a\\hb", "escape at offset 1"},       {"\\w+", "escape at offset 0"},
        {"\\bx", "escape"},                    {"x\\Z", "escape"},
        {"(a)\\1", "back reference at offset 3"}, {"[a[b]]", "'[' inside a class at offset 2"},
        {"[[:alpha:]]", "'[' inside a class"}, {"[a&&b]", "intersection of classes at offset 2"},
        {"[]a]", "']' as the first member"},   {"[^]a]", "']' as the first member"},
        {"^a", "line anchor at offset 0"},     {"a$", "line anchor at offset 1"},
        {"a{2}+", "'+' behind '}'"},           {"a{,3}", "'{,'"},
        {"(?m:a)", "group at offset 0"},       {"(?<name>a)", "group"},
        {"(?R)", "group"},                     {"(*UTF)a", "group"},
        {"\\p{L}+(?i)x", "group at offset 6"}, {"(a", "missing closing parenthesis at offset 2"},
        {"[a", "missing terminating ] for character class"}, {"a\\", "at end of pattern"},
        {"\\p{Nonsense}", "unknown property"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        err    e;
        split *p = NULL;
        FAILS(split_open(&p, BAD[i].pattern, false, "file: member", &e), e, ERR_FILE, BAD[i].text);
        assert_memory_equal(e.text, "file: member: ", 14);
        assert_null(p);
    }
}

static void patterns_in_use_are_taken(void **s)
{
    (void)s;
    static const char *const GOOD[] = {
        "\\p{L}+",
        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+",
        "\\p{N}{1,3}",
        "(?i:'s|'t)",
        "\\s+(?!\\S)",
        "[\\p{Lu}\\p{M}]*[\\p{Ll}]+",
        "(?<=a)b",
        "(?<!a)b",
        "(?>a+)b",
        "a++b",
        "x\\x41",
        "\\[\\]\\^\\$",
        "[\\[\\]]",
        "[a-z^$]",
        "\\p{Han}+|\\p{^L}",
        "\\d+|\\D",
        "[\\x{4e00}-\\x{9fff}]+",
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        err    e = {0};
        split *p;
        OK(split_open(&p, GOOD[i], false, "pattern", &e), e);
        split_close(p);
    }
    split_close(NULL);
}

static void a_plain_string_is_no_pattern(void **s)
{
    (void)s;
    err        e = {0};
    split     *p;
    split_run *run;
    arena     *a = arena_new(0);
    size_t     start, end;
    OK(split_open(&p, ".+$", true, "pattern", &e), e);
    OK(split_begin(&run, a, &e), e);
    OK(split_next(p, run, "xy.+$z", 6, 0, &start, &end, &e), e);
    assert_true(start == 2 && end == 5);
    OK(split_next(p, run, "xy.+$z", 6, 3, &start, &end, &e), e);
    assert_true(start == 6 && end == 6);
    split_close(p);
    arena_free(a);
}

/* --- Time ----------------------------------------------------------------------------------------------- */

static void a_text_that_explodes_is_refused_after_linear_steps(void **s)
{
    (void)s;
    err        e;
    split     *p;
    split_run *run;
    arena     *a = arena_new(0);
    size_t     start, end;
    char       said[201];
    memset(said, 'a', 200);
    said[200] = 0;
    e = (err){0};
    OK(split_open(&p, "(?:a|aa)+\\p{N}", false, "pattern", &e), e); /* 2^n ways to fail */
    OK(split_begin(&run, a, &e), e);
    /* JIT counts fewer of its steps; both give up, or this test would not end */
    FAILS(split_next(p, run, said, 200, 0, &start, &end, &e), e, ERR_UNUSABLE, "too many steps");
    assert_string_equal(e.problem, "text-too-complex");
    assert_null(strstr(e.text, "aaa"));
    split_close(p);
    arena_free(a);
}

/* A repeated group keeps a way back a turn, more than the JIT's stack holds: it is interpreted then. */
static void a_match_too_deep_for_the_jit_is_still_found(void **s)
{
    (void)s;
    enum { N = 50000 };
    err        e = {0};
    split     *p;
    split_run *run;
    arena     *a = arena_new(0);
    size_t     start, end;
    char      *said = malloc(2 * N + 1);
    for (int i = 0; i < N; i++) memcpy(said + 2 * i, i % 3 ? "ab" : "cd", 2);
    OK(split_open(&p, "(?:ab|cd|a)+", false, "pattern", &e), e);
    OK(split_begin(&run, a, &e), e);
    OK(split_next(p, run, said, 2 * N, 0, &start, &end, &e), e);
    assert_true(start == 0 && end == 2 * N);
    split_close(p);
    free(said);
    arena_free(a);
}

static int count_step(pcre2_callout_block *b, void *ctx) { (void)b; ++*(long *)ctx; return 0; }

/* Steps of PCRE2's matcher over all pieces of unit repeated to n bytes: its automatic callouts stand before
 * each item. */
static long steps_of(const char *pattern, const char *unit, size_t n)
{
    int                  code;
    PCRE2_SIZE           at, from = 0;
    long                 steps = 0;
    char                *said = malloc(n + 16);
    size_t               len = 0;
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_AUTO_CALLOUT, &code, &at, NULL);
    pcre2_match_data    *m = pcre2_match_data_create(1, NULL);
    pcre2_match_context *x = pcre2_match_context_create(NULL);
    assert_non_null(c);
    pcre2_set_callout(x, count_step, &steps);
    while (len < n) len += (size_t)sprintf(said + len, "%s", unit);
    while (from < len && pcre2_match(c, (PCRE2_SPTR)said, len, from, PCRE2_NO_UTF_CHECK, m, x) >= 0)
        from = pcre2_get_ovector_pointer(m)[1];
    pcre2_match_context_free(x);
    pcre2_match_data_free(m);
    pcre2_code_free(c);
    free(said);
    return steps;
}

/* Twice the text takes twice the steps (and not four times), for what is hardest on these patterns. */
static void steps_of_the_patterns_in_use_grow_with_the_text(void **s)
{
    (void)s;
    static const char *const UNIT[] = {
        " ", "a", "A", "aA", "Aa", "a ", " \n", "\n ", "1", "!", "! ", "'s", "'", "\xe4\xb8\xad",
        "\xe4\xb8\xad\x41", "A\xe4\xb8\xad", "\xcc\x81", "!\xcc\x81", "A\xcc\x81 ", "/\n", " /", "\r\n\t ",
    };
    static const char *const FILE_OF[] = {FIXTURE("qwen2vl-tiny/tokenizer.json"),
                                          FIXTURE("pixtral-tiny/tokenizer.json")};
    for (int k = 0; k < 2; k++) {
        json_t     *root;
        const char *pattern = pattern_of(FILE_OF[k], &root);
        for (size_t i = 0; i < sizeof UNIT / sizeof *UNIT; i++) {
            long once = steps_of(pattern, UNIT[i], 3000), twice = steps_of(pattern, UNIT[i], 6000);
            assert_true(once > 0);
            if (twice > 2.2 * once) fail_msg("pattern %d, text %zu: %ld steps, then %ld", k, i, once, twice);
            if (once > 3000 * 64)
                fail_msg("pattern %d, text %zu: %ld steps are over the limit a byte", k, i, once);
        }
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_is_split_as_by_the_library),
        cmocka_unit_test(stand_ins_keep_every_offset),
        cmocka_unit_test(patterns_that_two_engines_read_differently_are_refused),
        cmocka_unit_test(patterns_in_use_are_taken),
        cmocka_unit_test(a_plain_string_is_no_pattern),
        cmocka_unit_test(a_text_that_explodes_is_refused_after_linear_steps),
        cmocka_unit_test(a_match_too_deep_for_the_jit_is_still_found),
        cmocka_unit_test(steps_of_the_patterns_in_use_grow_with_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
