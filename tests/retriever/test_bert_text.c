#include "tests/check.h"

#include "base/text.h"
#include "retriever/bert_text.h"

static uint64_t fnv(uint64_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h;
}

/* FNV-1a over what "AC<U+0301>C" becomes under the rules, in UTF-8 and a zero behind, for every code point C
 * but U+0000. */
static uint64_t hash_of_rules(bert_rules r, uint32_t except)
{
    err      e = {0};
    arena   *a = arena_new(0);
    uint64_t h = 0xcbf29ce484222325u;
    for (uint32_t cp = 1; cp < 0x110000; cp++) {
        char     c[5] = {0}, said[32], got[64];
        int32_t *out;
        size_t   n, bytes = 0;
        if ((cp >= 0xd800 && cp < 0xe000) || cp == except) continue;
        utf8_put(c, cp);
        snprintf(said, sizeof said, "A%s\xcc\x81%s", c, c);
        OK(bert_normalize(&r, said, strlen(said), &out, &n, a, &e), e);
        for (size_t i = 0; i < n; i++) bytes += (size_t)utf8_put(got + bytes, (uint32_t)out[i]);
        h = fnv(fnv(h, got, bytes), "", 1);
        arena_reset(a);
    }
    arena_free(a);
    return h;
}

/* What normalizers.BertNormalizer of the tokenizers library 0.23.1 gives. U+11938 came with Unicode 13:
 * utf8proc takes it apart and that library's older tables do not; no vocabulary has it, or its parts. */
static void every_code_point_is_normalised_as_by_the_library(void **s)
{
    (void)s;
    assert_true(hash_of_rules((bert_rules){true, true, true, true}, 0x11938) == 0x2d50610892feebabu);
    assert_true(hash_of_rules((bert_rules){false, false, false, true}, 0) == 0x7b50cf753b727141u);
}

/* W, P or . for how BertPreTokenizer of the same library cuts "aCb". */
static void every_code_point_is_cut_as_by_the_library(void **s)
{
    (void)s;
    uint64_t h = 0xcbf29ce484222325u;
    for (int32_t cp = 1; cp < 0x110000; cp++) {
        if (cp >= 0xd800 && cp < 0xe000) continue;
        h = fnv(h, bert_is_space(cp) ? "W" : bert_is_punctuation(cp) ? "P" : ".", 1);
    }
    assert_true(h == 0xec4c4884fb727b38u);
}

static void check(bert_rules r, const char *said, size_t n, const char *want)
{
    err      e = {0};
    arena   *a = arena_new(0);
    int32_t *out;
    size_t   len, bytes = 0;
    char     got[128];
    OK(bert_normalize(&r, said, n, &out, &len, a, &e), e);
    for (size_t i = 0; i < len; i++) bytes += (size_t)utf8_put(got + bytes, (uint32_t)out[i]);
    got[bytes] = 0;
    assert_string_equal(got, want);
    arena_free(a);
}

static void each_rule_does_its_own_thing(void **s)
{
    (void)s;
    const bert_rules all = {true, true, true, true}, none = {0};
    check(all, "", 0, "");
    check(none, "\xc3\x89\t\xe4\xb8\xad\x07", 7, "\xc3\x89\t\xe4\xb8\xad\x07");
    check((bert_rules){.clean = true}, "a\0\x07\tb\xef\xbf\xbd\xc2\xa0\xc2\x85" "c\xe2\x80\x8b", 16, "a b c");
    check((bert_rules){.cjk = true}, "a\xe4\xb8\xad\xe6\x96\x87", 7, "a \xe4\xb8\xad  \xe6\x96\x87 ");
    check((bert_rules){.strip_accents = true}, "\xc3\x89" "e\xcc\x81\xcc\x96", 7, "Ee");
    /* no final sigma */
    check((bert_rules){.lower = true}, "\xc3\x89\xc4\xb0\xce\xa3", 6, "\xc3\xa9i\xcc\x87\xcf\x83");
    check(all, "\xc4\xb0\xe1\xba\x9e", 5, "i\xc3\x9f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_is_normalised_as_by_the_library),
        cmocka_unit_test(every_code_point_is_cut_as_by_the_library),
        cmocka_unit_test(each_rule_does_its_own_thing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
