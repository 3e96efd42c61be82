/* test_detokenise.c - fails when streamed text is cut inside a character, or is another text than all ids at
 * once have. */
#include "tests/check.h"

#include "base/text.h"
#include "reader/detokenise.h"

typedef struct { bpe *b; arena *a; detokeniser d; char got[512]; size_t n; } stream;

static void begin(stream *s)
{
    err e = {0};
    *s = (stream){.a = arena_new(0)};
    OK(bpe_open(&s->b, FIXTURE("qwen2vl-tiny/tokenizer.json"), &e), e);
    OK(detokenise_begin(&s->d, s->b, 0, s->a, &e), e);
}

static void stop(stream *s)
{
    arena_free(s->a);
    bpe_close(s->b);
}

static void keep(stream *s, const char *fresh, size_t n)
{
    assert_true(utf8_valid(fresh, n) && !memchr(fresh, 0, n));
    assert_true(s->n + n < sizeof s->got);
    if (n) memcpy(s->got + s->n, fresh, n);
    s->got[s->n += n] = 0;
    assert_string_equal(s->got, s->d.text);
}

static void feed(stream *s, int32_t id, size_t want)
{
    err         e = {0};
    const char *fresh;
    size_t      n;
    OK(detokenise(&s->d, id, &fresh, &n, &e), e);
    if (n != want) fail_msg("id %d put out %zu bytes, wanted %zu", (int)id, n, want);
    keep(s, fresh, n);
}

static void end(stream *s, const char *want)
{
    err         e = {0};
    const char *fresh;
    size_t      n;
    OK(detokenise_end(&s->d, &fresh, &n, &e), e);
    keep(s, fresh, n);
    assert_string_equal(s->got, want);
}

/* The id that stands for one byte. */
static int32_t of_byte(const stream *s, unsigned char c)
{
    for (int id = 0; id < bpe_vocab(s->b); id++) {
        const char *t;
        size_t      n;
        bpe_text(s->b, id, &t, &n);
        if (n == 1 && (unsigned char)*t == c) return id;
    }
    fail_msg("no id for byte %02x", c);
    return -1;
}

static void a_character_comes_whole(void **state)
{
    (void)state;
    stream s;
    begin(&s);
    feed(&s, of_byte(&s, 'J'), 1);
    feed(&s, of_byte(&s, 0xe4), 0);
    feed(&s, of_byte(&s, 0xbd), 0);
    feed(&s, of_byte(&s, 0xa0), 3);
    feed(&s, of_byte(&s, 0xf0), 0);
    feed(&s, of_byte(&s, 0x9f), 0);
    feed(&s, of_byte(&s, 0xa9), 0);
    feed(&s, of_byte(&s, 0xba), 4);
    end(&s, "J\xe4\xbd\xa0\xf0\x9f\xa9\xba");
    stop(&s);
}

/* As Python's bytes.decode("utf-8", "replace") has it. */
static void bytes_that_are_no_character_are_replaced(void **state)
{
    (void)state;
    static const struct { const char *bytes; size_t n; const char *text; } cases[] = {
        {"\x80", 1, "\xef\xbf\xbd"},                                             /* a continuation alone */
        {"\xe4\xbd", 2, "\xef\xbf\xbd"},                                         /* cut off by the end */
        {"\xe4\xbd" "A", 3, "\xef\xbf\xbd" "A"},                                 /* cut off by another character */
        {"\xe4\xe4\xbd\xa0", 4, "\xef\xbf\xbd\xe4\xbd\xa0"},                     /* by a new lead */
        {"\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd"},                             /* overlong */
        {"\xe0\x80\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},             /* overlong */
        {"\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},             /* a surrogate */
        {"\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* above U+10FFFF */
        {"\xf0\x9f\xa9", 3, "\xef\xbf\xbd"},
        {"\xf0\x8f\xbf\xbf", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xff", 1, "\xef\xbf\xbd"},
        {"a\0b", 3, "a\xef\xbf\xbd" "b"},                                        /* ours: no NUL in a text */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err         e = {0};
        const char *fresh;
        size_t      n;
        stream      s;
        begin(&s);
        for (size_t j = 0; j < cases[i].n; j++) {
            OK(detokenise(&s.d, of_byte(&s, (unsigned char)cases[i].bytes[j]), &fresh, &n, &e), e);
            keep(&s, fresh, n);
        }
        end(&s, cases[i].text);
        stop(&s);
    }
}

/* A special token, or a row that pads the embedding, between the bytes of a character does not cut it. */
static void special_tokens_and_unused_ids_are_no_text(void **state)
{
    (void)state;
    stream s;
    begin(&s);
    feed(&s, of_byte(&s, 0xc3), 0);
    feed(&s, bpe_special(s.b, "<|image_pad|>"), 0);
    feed(&s, bpe_special(s.b, "<|im_end|>"), 0);
    feed(&s, bpe_vocab(s.b) + 3, 0);
    feed(&s, -1, 0);
    feed(&s, of_byte(&s, 0xa4), 2);
    end(&s, "\xc3\xa4");
    stop(&s);
}

/* Text of many ids, over the first guess of its length, equals what all of them at once decode to. */
static void pieces_make_the_whole(void **state)
{
    (void)state;
    static const char said[] =
        "Kein Befund: 12 mm, \xe2\x89\xa5 3 Herde. \xe8\x82\xba\xe7\x82\x8e? \xd0\x9d\xd0\xb5\xd1\x82.\n\n"
        "The lung fields are clear; no effusion, no pneumothorax, the heart is not enlarged.";
    err      e = {0};
    stream   s;
    int32_t *ids;
    int      n;
    begin(&s);
    OK(bpe_encode(s.b, said, strlen(said), false, false, &ids, &n, s.a, &e), e);
    for (int i = 0; i < n; i++) {
        const char *fresh;
        size_t      n_fresh;
        OK(detokenise(&s.d, ids[i], &fresh, &n_fresh, &e), e);
        keep(&s, fresh, n_fresh);
    }
    end(&s, said);
    stop(&s);
}

static void a_spent_arena_is_an_error(void **state)
{
    (void)state;
    err         e = {0};
    stream      s;
    const char *fresh;
    size_t      n;
    bool        ok = true;
    begin(&s);
    arena      *small = arena_new(4096);
    detokeniser d;
    OK(detokenise_begin(&d, s.b, 1, small, &e), e);
    for (int i = 0, x = of_byte(&s, 'x'); ok && i < 1 << 16; i++) ok = detokenise(&d, x, &fresh, &n, &e);
    assert_false(ok);
    assert_int_equal(e.code, ERR_MEMORY);
    arena_free(small);
    stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_character_comes_whole),
        cmocka_unit_test(bytes_that_are_no_character_are_replaced),
        cmocka_unit_test(special_tokens_and_unused_ids_are_no_text),
        cmocka_unit_test(pieces_make_the_whole),
        cmocka_unit_test(a_spent_arena_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
