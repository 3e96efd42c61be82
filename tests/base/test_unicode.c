#include "tests/check.h"

#include "base/text.h"
#include "base/unicode.h"

static void check(const char *said, const char *want)
{
    err         e = {0};
    arena      *a = arena_new(0);
    const char *out;
    size_t      n;
    OK(unicode_nfc(said, strlen(said), &out, &n, a, &e), e);
    if (n != strlen(want) || memcmp(out, want, n) != 0)
        fail_msg("NFC of \"%s\" is \"%.*s\", wanted \"%s\"", said, (int)n, out, want);
    arena_free(a);
}

/* Hand-checked against chapter 3.11 of the Unicode standard and its examples. */
static void composition_is_canonical(void **s)
{
    (void)s;
    check("", "");
    check("plain \xc3\xa9", "plain \xc3\xa9");
    check("e\xcc\x81", "\xc3\xa9");                               /* e + acute */
    /* the lower mark does not block the acute ... */
    check("a\xcc\x81\xcc\x96", "\xc3\xa1\xcc\x96");
    check("a\xcc\x96\xcc\x81", "\xc3\xa1\xcc\x96");
    check("a\xcc\x88\xcc\x81", "\xc3\xa4\xcc\x81");               /* ... but a mark of the same class does */
    check("d\xcc\x87\xcc\xa3", "\xe1\xb8\x8d\xcc\x87");           /* d + dot above + dot below */
    check("\xe1\xb8\x8b\xcc\xa3", "\xe1\xb8\x8d\xcc\x87");        /* composed the other way before */
    check("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"); /* Hangul */
    check("\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81");            /* LV + T */
    check("\xe2\x84\xab", "\xc3\x85");                            /* Angstrom sign */
    check("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc");            /* composition exclusion */
    check("\xf0\x9d\x85\x9e", "\xf0\x9d\x85\x97\xf0\x9d\x85\xa5"); /* the same beyond the BMP */
    check("\xef\xac\x81", "\xef\xac\x81");                        /* a ligature is only compatible: stays */
    check("\xcc\x81x", "\xcc\x81x");                              /* a mark with nothing before it */
}

static uint64_t fnv(uint64_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h * 0x100000001b3u; /* and a zero byte */
}

/* FNV-1a over the NFC of each code point but U+0000, with a zero behind each: what normalizers.NFC of the
 * tokenizers library 0.23.1 gives. And of "aC<U+0301><U+0316>C<U+0327>" for blocks whose marks that library's
 * older tables know. */
static void nfc_is_the_librarys_for_every_code_point(void **s)
{
    (void)s;
    static const uint32_t BLOCK[][2] = {
        {1, 0x7fc}, {0x1e00, 0x1fff}, {0x3000, 0x30ff}, {0xac00, 0xd7a3}, {0xf900, 0xfaff}};
    err         e = {0};
    arena      *a = arena_new(0);
    uint64_t    one = 0xcbf29ce484222325u, many = one;
    const char *out;
    size_t      n;
    int         block = 0;
    for (uint32_t cp = 1; cp < 0x110000; cp++) {
        char c[5] = {0}, said[32];
        if (cp >= 0xd800 && cp < 0xe000) continue;
        utf8_put(c, cp);
        OK(unicode_nfc(c, strlen(c), &out, &n, a, &e), e);
        one = fnv(one, out, n);
        while (block < 5 && cp > BLOCK[block][1]) block++;
        if (block < 5 && cp >= BLOCK[block][0]) {
            snprintf(said, sizeof said, "a%s\xcc\x81\xcc\x96%s\xcc\xa7", c, c);
            OK(unicode_nfc(said, strlen(said), &out, &n, a, &e), e);
            many = fnv(many, out, n);
        }
        arena_reset(a);
    }
    assert_true(one == 0x41b4d9c101584cf9u);
    assert_true(many == 0xedafae18e400baa0u);
    arena_free(a);
}

/* Half a million marks that stand in the wrong order: a sort by neighbours, such as utf8proc's, would swap
 * 6e10 times. */
static void a_long_run_of_marks_is_ordered(void **s)
{
    (void)s;
    enum { N = 250000 };
    err      e = {0};
    arena   *a = arena_new(0);
    int32_t *cp = malloc((2 * N + 1) * sizeof *cp), *out;
    size_t   n;
    cp[0] = 'a';
    for (int i = 0; i < N; i++) {
        cp[1 + i] = 0x0301;     /* class 230 */
        cp[1 + N + i] = 0x0316; /* class 220 */
    }
    cp[2 * N] = 0x0317; /* 220 too: stays the last of its class */
    OK(unicode_nfd(cp, 2 * N + 1, &out, &n, a, &e), e);
    assert_int_equal(n, 2 * N + 1);
    assert_int_equal(out[0], 'a');
    for (int i = 1; i < N; i++) assert_int_equal(out[i], 0x0316);
    assert_int_equal(out[N], 0x0317);
    for (int i = N + 1; i <= 2 * N; i++) assert_int_equal(out[i], 0x0301);
    free(cp);
    arena_free(a);
}

static void memory_that_runs_out_is_an_error(void **s)
{
    (void)s;
    static const char said[] =
        "a\xcc\x81\xcc\x96 and so on, so that more than one piece of memory is needed \xcc\x81\xcc\x96";
    bool ok = false;
    for (size_t limit = 64; !ok; limit += 64) {
        err         e = {0};
        arena      *a = arena_new(limit);
        const char *out;
        size_t      n;
        ok = unicode_nfc(said, strlen(said), &out, &n, a, &e);
        if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        if (ok) assert_true(limit > 256);
        arena_free(a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(composition_is_canonical),
        cmocka_unit_test(nfc_is_the_librarys_for_every_code_point),
        cmocka_unit_test(a_long_run_of_marks_is_ordered),
        cmocka_unit_test(memory_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
