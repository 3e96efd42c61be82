#include "tests/vectors.h"

#include <pthread.h>

#include "base/file.h"
#include "base/json.h"
#include "reader/bpe.h"

typedef struct { bpe *b; arena *a; const char *name; } run;

/* --- What the tokenizers library gave ------------------------------------------------------------------- */

static void check_vector(const json_t *v, size_t line, void *ctx)
{
    run        *r = ctx;
    err         e = {0};
    size_t      n, n_want, n_got;
    const char *said = member_text(v, "text", &n), *want = member_text(v, "decoded", &n_want);
    int32_t    *ids;
    int         n_ids;
    char       *got;
    OK(bpe_encode(r->b, said, n, true, false, &ids, &n_ids, r->a, &e), e);
    same_ids(json_object_get(v, "ids"), ids, n_ids, r->name, line);
    OK(bpe_decode(r->b, ids, n_ids, &got, &n_got, r->a, &e), e);
    if (n_got != n_want || memcmp(got, want, n_want) != 0)
        fail_msg("%s: line %zu: decoded text differs", r->name, line);
    if (json_object_get(v, "ids_special")) {
        OK(bpe_encode(r->b, said, n, true, true, &ids, &n_ids, r->a, &e), e);
        same_ids(json_object_get(v, "ids_special"), ids, n_ids, r->name, line);
    }
    arena_reset(r->a);
}

static void check_vocabulary(const char *name, const char *tokenizer, const char *vectors, size_t n_vectors,
                             int n_ids)
{
    err e = {0};
    run r = {.name = name, .a = arena_new(0)};
    OK(bpe_open(&r.b, tokenizer, &e), e);
    assert_int_equal(bpe_vocab(r.b), n_ids);
    assert_int_equal(each_vector(vectors, check_vector, &r), n_vectors);
    bpe_close(r.b);
    arena_free(r.a);
}

static void check_real(const char *name, size_t n_vectors, int n_ids)
{
    char tokenizer[128], vectors[128];
    snprintf(tokenizer, sizeof tokenizer, "fixtures/tokenizers/%s/tokenizer.json", name);
    snprintf(vectors, sizeof vectors, "fixtures/tokenizers/%s/vectors.jsonl", name);
    if (!file_exists(shared_path(tokenizer))) SKIP("%s is not here", tokenizer);
    check_vocabulary(name, shared_path(tokenizer), shared_path(vectors), n_vectors, n_ids);
}

static void ids_of_qwen2_are_the_librarys(void **s) { (void)s; check_real("qwen2", 385, 151657); }
static void ids_of_tekken_are_the_librarys(void **s) { (void)s; check_real("tekken", 379, 131072); }
static void ids_of_the_tiny_tokenizers_are_the_librarys(void **s)
{
    (void)s;
    check_vocabulary("qwen2vl-tiny", FIXTURE("qwen2vl-tiny/tokenizer.json"),
                     FIXTURE("tokenizers/qwen2vl-tiny.jsonl"), 385, 640);
    check_vocabulary("pixtral-tiny", FIXTURE("pixtral-tiny/tokenizer.json"),
                     FIXTURE("tokenizers/pixtral-tiny.jsonl"), 379, 760);
}

/* The texts of llama.cpp's own test of the published Qwen2 tokenizer; ids are one line a text. */
static void ids_of_qwen2_are_llama_cpps(void **s)
{
    (void)s;
    static const char cut[] = "\n__ggml_vocab_test__\n";
    const char       *tokenizer = shared_path("fixtures/tokenizers/qwen2/tokenizer.json");
    err               e = {0};
    run               r = {.a = arena_new(0)};
    char             *in, *out;
    size_t            n_in, n_out;
    int               n = 0;
    if (!file_exists(tokenizer)) SKIP("%s is not here", tokenizer);
    OK(bpe_open(&r.b, tokenizer, &e), e);
    OK(file_read(&in, &n_in, shared_path("fixtures/tokenizers/llama.cpp/qwen2.gguf.inp"), 1 << 20, &e), e);
    OK(file_read(&out, &n_out, shared_path("fixtures/tokenizers/llama.cpp/qwen2.gguf.out"), 1 << 20, &e), e);
    char *line = out;
    for (char *p = in, *end; p; p = end ? end + strlen(cut) : NULL, n++) {
        int32_t *ids;
        int      n_ids, k = 0;
        end = strstr(p, cut);
        OK(bpe_encode(r.b, p, end ? (size_t)(end - p) : strlen(p), true, false, &ids, &n_ids, r.a, &e), e);
        for (; *line && *line != '\n'; k++) {
            long want = strtol(line, &line, 10);
            if (k >= n_ids || ids[k] != want) fail_msg("text %d: token %d is not %ld", n, k, want);
            while (*line == ' ') line++;
        }
        assert_int_equal(k, n_ids);
        line += *line == '\n';
    }
    assert_int_equal(n, 47);
    free(in);
    free(out);
    bpe_close(r.b);
    arena_free(r.a);
}

/* --- Changed tokenizers --------------------------------------------------------------------------------- */

static json_t *tiny_json(void)
{
    err     e = {0};
    json_t *root;
    OK(json_open(&root, FIXTURE("qwen2vl-tiny/tokenizer.json"), &e), e);
    return root;
}

static bpe *open_root(json_t *root)
{
    err   e = {0};
    bpe  *b;
    char *text = json_dumps(root, JSON_COMPACT);
    OK(bpe_open_memory(&b, text, strlen(text), "changed", &e), e);
    free(text);
    json_decref(root);
    return b;
}

static void check_variant(const json_t *row, size_t line, void *ctx)
{
    json_t     *root = tiny_json(), *change = json_object_get(row, "change"), *v;
    const char *key;
    size_t      i;
    json_object_foreach(change, key, v)
    {
        if (strcmp(key, "model") == 0) json_object_update(json_object_get(root, key), v);
        else json_object_set(root, key, v);
    }
    run r = {open_root(root), ctx, json_string_value(json_object_get(row, "name"))};
    assert_true(json_array_size(json_object_get(row, "vectors")) == 6);
    json_array_foreach(json_object_get(row, "vectors"), i, v)
    {
        err         e = {0};
        size_t      n;
        const char *said = member_text(v, "text", &n);
        int32_t    *ids;
        int         n_ids;
        OK(bpe_encode(r.b, said, n, true, true, &ids, &n_ids, r.a, &e), e);
        same_ids(json_object_get(v, "ids"), ids, n_ids, r.name, line);
    }
    bpe_close(r.b);
    arena_reset(ctx);
}

static void other_normalizers_splits_and_templates_do_what_the_file_says(void **s)
{
    (void)s;
    arena *a = arena_new(0);
    assert_int_equal(each_vector(FIXTURE("tokenizers/bpe_variants.jsonl"), check_variant, a), 12);
    arena_free(a);
}

static void add_token(json_t *root, int id, const char *content)
{
    json_array_append_new(json_object_get(root, "added_tokens"),
                          json_pack("{s:i, s:s, s:b}", "id", id, "content", content, "special", 1));
}

static void check_ids(const bpe *b, const char *said, bool special, const int32_t *want, int n_want)
{
    err      e = {0};
    arena   *a = arena_new(0);
    int32_t *ids;
    int      n;
    OK(bpe_encode(b, said, strlen(said), special, false, &ids, &n, a, &e), e);
    assert_int_equal(n, n_want);
    for (int i = 0; i < n; i++) assert_int_equal(ids[i], want[i]);
    arena_free(a);
}

/* Ids are the library's for the same file. */
static void the_longest_added_token_is_taken(void **s)
{
    (void)s;
    json_t *root = tiny_json();
    add_token(root, 640, "<|im");
    add_token(root, 641, "<|im_end|><|im_end|>");
    bpe *b = open_root(root);
    check_ids(b, "<|im_end|><|im_end|><|im_end|><|im_en", true, (int32_t[]){641, 628, 640, 62, 268}, 5);
    check_ids(b, "<|im<|im_start|><|im_end|", true, (int32_t[]){640, 627, 640, 62, 408, 91}, 6);
    assert_int_equal(bpe_special(b, "<|im"), 640);
    assert_int_equal(bpe_special(b, "<|im_end|>"), 628);
    assert_int_equal(bpe_special(b, "<|im_"), -1);
    assert_int_equal(bpe_special(b, "the"), -1);
    assert_int_equal(bpe_special(b, ""), -1);
    bpe_close(b);
}

/* --- Users' text ---------------------------------------------------------------------------------------- */

static void users_text_never_becomes_a_special_token(void **s)
{
    (void)s;
    static const struct { const char *file; int first, last; } MODEL[] = {
        {FIXTURE("qwen2vl-tiny/tokenizer.json"), 626, 639}, {FIXTURE("pixtral-tiny/tokenizer.json"), 0, 19}};
    for (int k = 0; k < 2; k++) {
        err    e = {0};
        arena *a = arena_new(0);
        bpe   *b;
        OK(bpe_open(&b, MODEL[k].file, &e), e);
        for (int id = MODEL[k].first; id <= MODEL[k].last; id++) {
            int32_t *ids;
            int      n;
            char    *name, *back;
            size_t   len;
            OK(bpe_decode(b, (int32_t[]){id}, 1, &name, &len, a, &e), e);
            check_ids(b, name, true, (int32_t[]){id}, 1);
            OK(bpe_encode(b, name, len, false, false, &ids, &n, a, &e), e);
            assert_true(n > 1);
            for (int i = 0; i < n; i++) assert_false(ids[i] >= MODEL[k].first && ids[i] <= MODEL[k].last);
            OK(bpe_decode(b, ids, n, &back, &len, a, &e), e);
            assert_string_equal(back, name);
        }
        bpe_close(b);
        arena_free(a);
    }
}

/* With ignore_merges a whole piece of the vocabulary is taken as it is; a special token is one, if the split
 * leaves it whole. */
static void a_special_token_that_is_one_piece_stays_text(void **s)
{
    (void)s;
    json_t *root = tiny_json(), *model = json_object_get(root, "model");
    json_object_set_new(model, "ignore_merges", json_true());
    json_object_set_new(json_object_get(model, "vocab"), "STOP", json_integer(640));
    add_token(root, 640, "STOP");
    bpe *b = open_root(root);
    check_ids(b, "STOP", true, (int32_t[]){640}, 1);
    check_ids(b, "STOP", false, (int32_t[]){50, 51, 46, 47}, 4);
    bpe_close(b);
}

static void bytes_that_are_not_utf8_are_refused(void **s)
{
    (void)s;
    static const char *const BAD[] = {"\xff",       "a\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "ok \xe2\x82"};
    err      e = {0};
    arena   *a = arena_new(0);
    bpe     *b;
    int32_t *ids;
    int      n;
    OK(bpe_open(&b, FIXTURE("qwen2vl-tiny/tokenizer.json"), &e), e);
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        FAILS(bpe_encode(b, BAD[i], strlen(BAD[i]), i & 1, false, &ids, &n, a, &e), e, ERR_UNUSABLE, "UTF-8");
        assert_string_equal(e.problem, "text-not-utf8");
        assert_null(strstr(e.text, BAD[i])); /* nothing of the text in the message */
    }
    FAILS(bpe_encode(b, "x", (size_t)(64 << 20) + 1, true, false, &ids, &n, a, &e), e, ERR_TOO_LARGE,
          "67108864 bytes");
    bpe_close(b);
    arena_free(a);
}

static void decode_gives_every_byte_back_and_refuses_ids_without_one(void **s)
{
    (void)s;
    err    e = {0};
    arena *a = arena_new(0);
    bpe   *b;
    bool   seen[256] = {false};
    char  *back;
    size_t len;
    OK(bpe_open(&b, FIXTURE("qwen2vl-tiny/tokenizer.json"), &e), e);
    for (int32_t id = 0; id < 256; id++) {
        OK(bpe_decode(b, &id, 1, &back, &len, a, &e), e);
        assert_int_equal(len, 1);
        seen[(uint8_t)back[0]] = true;
    }
    for (int i = 0; i < 256; i++) assert_true(seen[i]);
    OK(bpe_decode(b, NULL, 0, &back, &len, a, &e), e);
    assert_int_equal(len, 0);
    FAILS(bpe_decode(b, (int32_t[]){640}, 1, &back, &len, a, &e), e, ERR_BUG, "id 640 is outside");
    FAILS(bpe_decode(b, (int32_t[]){-1}, 1, &back, &len, a, &e), e, ERR_BUG, "id -1 is outside");
    bpe_close(b);

    json_t *root = tiny_json();
    add_token(root, 700, "far");
    b = open_root(root);
    assert_int_equal(bpe_vocab(b), 701);
    FAILS(bpe_decode(b, (int32_t[]){699}, 1, &back, &len, a, &e), e, ERR_BUG, "id 699 is not in use");
    bpe_close(b);
    arena_free(a);
}

/* --- Size, threads -------------------------------------------------------------------------------------- */

/* A long run of whatever is hardest on the split and on the merges comes back whole. That this takes linear
 * time is counted in test_split.c and test_bpe_merge.c. */
static void long_runs_of_anything_come_back(void **s)
{
    (void)s;
    static const char *const UNIT[] = {" ",
                                       "a",
                                       "A",
                                       "aA",
                                       "a ",
                                       " \n",
                                       "1",
                                       "!",
                                       "'s",
                                       "\xe4\xb8\xad",
                                       "\xcc\x81\xcc\x96",
                                       "<|im_start|>",
                                       "<|im_start",
                                       "\xf0\x9f\x98\x80",
                                       "\xe1\xa0\x8e"};
    enum { BYTES = 1 << 18 };
    static const char *const FILE_OF[] = {FIXTURE("qwen2vl-tiny/tokenizer.json"),
                                          FIXTURE("pixtral-tiny/tokenizer.json")};
    char *big = malloc(BYTES + 16);
    for (int k = 0; k < 2; k++) {
        err  e = {0};
        bpe *b;
        OK(bpe_open(&b, FILE_OF[k], &e), e);
        for (size_t i = 0; i < sizeof UNIT / sizeof *UNIT; i++) {
            size_t   n = 0, len;
            arena   *a = arena_new(0);
            int32_t *ids;
            int      n_ids;
            char    *back;
            while (n < BYTES) n += (size_t)sprintf(big + n, "%s", UNIT[i]);
            OK(bpe_encode(b, big, n, true, false, &ids, &n_ids, a, &e), e);
            OK(bpe_decode(b, ids, n_ids, &back, &len, a, &e), e);
            /* NFC puts the marks in another order */
            if (strstr(UNIT[i], "\xcc\x81") && k == 0) assert_int_equal(len, n);
            else assert_true(len == n && memcmp(back, big, n) == 0);
            arena_free(a);
        }
        bpe_close(b);
    }
    free(big);
}

static void *encode_often(void *ctx)
{
    const bpe *b = ctx;
    arena     *a = arena_new(0);
    long       sum = 0;
    for (int i = 0; i < 300; i++) {
        err      e = {0};
        int32_t *ids;
        int      n;
        char     said[64];
        snprintf(said, sizeof said, "Case %d: e\xcc\x81t\xc3\xa9  <|im_end|> isn't  %d mm", i, i * i);
        if (!bpe_encode(b, said, strlen(said), true, true, &ids, &n, a, &e)) { sum = -1; break; }
        for (int t = 0; t < n; t++) sum = sum * 31 % 1000003 + ids[t];
        arena_reset(a);
    }
    arena_free(a);
    return (void *)(intptr_t)sum;
}

static void threads_share_a_tokenizer(void **s)
{
    (void)s;
    enum { N = 4 };
    err       e = {0};
    bpe      *b;
    pthread_t t[N];
    void     *got[N];
    OK(bpe_open(&b, FIXTURE("qwen2vl-tiny/tokenizer.json"), &e), e);
    long want = (long)(intptr_t)encode_often(b);
    assert_true(want > 0);
    for (int i = 0; i < N; i++) assert_int_equal(pthread_create(&t[i], NULL, encode_often, b), 0);
    for (int i = 0; i < N; i++) pthread_join(t[i], &got[i]);
    for (int i = 0; i < N; i++) assert_int_equal((long)(intptr_t)got[i], want);
    bpe_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_qwen2_are_the_librarys),
        cmocka_unit_test(ids_of_tekken_are_the_librarys),
        cmocka_unit_test(ids_of_the_tiny_tokenizers_are_the_librarys),
        cmocka_unit_test(ids_of_qwen2_are_llama_cpps),
        cmocka_unit_test(other_normalizers_splits_and_templates_do_what_the_file_says),
        cmocka_unit_test(the_longest_added_token_is_taken),
        cmocka_unit_test(users_text_never_becomes_a_special_token),
        cmocka_unit_test(a_special_token_that_is_one_piece_stays_text),
        cmocka_unit_test(bytes_that_are_not_utf8_are_refused),
        cmocka_unit_test(decode_gives_every_byte_back_and_refuses_ids_without_one),
        cmocka_unit_test(long_runs_of_anything_come_back),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
