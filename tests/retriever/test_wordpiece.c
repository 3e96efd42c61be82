#include "tests/tokenizer_change.h"
#include "tests/vectors.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/safetensors.h"
#include "retriever/wordpiece.h"

#define TINY FIXTURE("jina-clip-tiny/tokenizer.json")

typedef struct { wordpiece *w; arena *a; const char *name; } run;

/* --- What the tokenizers library gave ------------------------------------------------------------------- */

static void check_vector(const json_t *v, size_t line, void *ctx)
{
    run        *r = ctx;
    err         e = {0};
    size_t      n;
    const char *said = member_text(v, "text", &n);
    int32_t    *ids, *cut;
    int         n_ids, n_cut;
    OK(wordpiece_encode(r->w, said, n, false, 0, &ids, &n_ids, r->a, &e), e);
    same_ids(json_object_get(v, "ids"), ids, n_ids, r->name, line);
    OK(wordpiece_encode(r->w, said, n, true, 0, &ids, &n_ids, r->a, &e), e);
    same_ids(json_object_get(v, "ids_special"), ids, n_ids, r->name, line);

    /* Cut at any length, it is the beginning of the whole with [SEP] at the end. */
    for (int max = 2; max <= n_ids + 1; max += 1 + max / 4) {
        OK(wordpiece_encode(r->w, said, n, true, max, &cut, &n_cut, r->a, &e), e);
        assert_int_equal(n_cut, max < n_ids ? max : n_ids);
        assert_memory_equal(cut, ids, (size_t)(n_cut - 1) * sizeof *ids);
        assert_int_equal(cut[n_cut - 1], ids[n_ids - 1]);
    }
    arena_reset(r->a);
}

static void check_vocabulary(const char *name, const char *tokenizer, const char *vectors, int n_ids)
{
    err e = {0};
    run r = {.name = name, .a = arena_new(0)};
    OK(wordpiece_open(&r.w, tokenizer, &e), e);
    assert_int_equal(wordpiece_vocab(r.w), n_ids);
    assert_int_equal(each_vector(vectors, check_vector, &r), 375);
    wordpiece_close(r.w);
    arena_free(r.a);
}

static void ids_of_bert_uncased_are_the_librarys(void **s)
{
    (void)s;
    const char *tokenizer = shared_path("fixtures/tokenizers/bert-uncased/tokenizer.json");
    if (!file_exists(tokenizer)) SKIP("%s is not here", tokenizer);
    check_vocabulary("bert-uncased", tokenizer, shared_path("fixtures/tokenizers/bert-uncased/vectors.jsonl"),
                     30522);
}

static void ids_of_the_tiny_tokenizer_are_the_librarys(void **s)
{
    (void)s;
    check_vocabulary("jina-clip-tiny", TINY, FIXTURE("tokenizers/jina-clip-tiny.jsonl"), 441);
}

/* llama.cpp's own vectors of bge, whose vocabulary is BERT's; its ids have no [CLS] and [SEP]. */
static void ids_of_bert_uncased_are_llama_cpps(void **s)
{
    (void)s;
    static const char cut[] = "\n__ggml_vocab_test__\n";
    const char       *tokenizer = shared_path("fixtures/tokenizers/bert-uncased/tokenizer.json");
    err               e = {0};
    run               r = {0};
    char             *in, *out;
    size_t            n_in, n_out;
    int               n = 0;
    if (!file_exists(tokenizer)) SKIP("%s is not here", tokenizer);
    r.a = arena_new(0);
    OK(wordpiece_open(&r.w, tokenizer, &e), e);
    OK(file_read(&in, &n_in, shared_path("fixtures/tokenizers/llama.cpp/bert-bge.gguf.inp"), 1 << 20, &e), e);
    OK(file_read(&out, &n_out, shared_path("fixtures/tokenizers/llama.cpp/bert-bge.gguf.out"), 1 << 20, &e),
       e);
    char *line = out;
    for (char *p = in, *end; p; p = end ? end + strlen(cut) : NULL, n++) {
        int32_t *ids;
        int      n_ids, k = 0;
        end = strstr(p, cut);
        OK(wordpiece_encode(r.w, p, end ? (size_t)(end - p) : strlen(p), false, 0, &ids, &n_ids, r.a, &e), e);
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
    wordpiece_close(r.w);
    arena_free(r.a);
}

/* The texts of the model's golden file and the ids that the model was run with, cut to 512. */
static void golden_texts_have_the_librarys_ids(void **s)
{
    (void)s;
    err          e = {0};
    wordpiece   *w;
    arena       *a = arena_new(0);
    safetensors *st;
    json_t      *root, *row;
    size_t       i;
    OK(wordpiece_open(&w, TINY, &e), e);
    OK(safetensors_open(&st, FIXTURE("golden/jina-clip-tiny.safetensors"), &e), e);
    OK(json_open(&root, FIXTURE("golden/jina-clip-tiny.json"), &e), e);
    assert_true(json_array_size(json_object_get(root, "texts")) >= 9);
    json_array_foreach(json_object_get(root, "texts"), i, row)
    {
        char        name[64];
        size_t      n;
        int32_t    *ids;
        int         n_ids;
        const char *said = member_text(row, "text", &n);
        snprintf(name, sizeof name, "text.%zu/input_ids", i);
        const tensor *t = safetensors_find(st, name);
        assert_non_null(t);
        OK(wordpiece_encode(w, said, n, true, 512, &ids, &n_ids, a, &e), e);
        assert_int_equal(n_ids, t->count);
        for (int k = 0; k < n_ids; k++) assert_int_equal(ids[k], ((const int64_t *)t->data)[k]);
    }
    json_decref(root);
    safetensors_close(st);
    wordpiece_close(w);
    arena_free(a);
}

/* --- Limits --------------------------------------------------------------------------------------------- */

static int count_unknown(const wordpiece *w, const char *said, size_t n, int *n_ids, arena *a)
{
    err      e = {0};
    int32_t *ids;
    int      unknown = 0;
    OK(wordpiece_encode(w, said, n, false, 0, &ids, n_ids, a, &e), e);
    for (int i = 0; i < *n_ids; i++) unknown += ids[i] == 1; /* [UNK] of the tiny vocabulary */
    return unknown;
}

/* A hundred characters are taken apart, a hundred and one are one unknown; characters, not bytes. */
static void a_word_over_the_limit_is_one_unknown(void **s)
{
    (void)s;
    err        e = {0};
    wordpiece *w;
    arena     *a = arena_new(0);
    char       said[400];
    int        n;
    OK(wordpiece_open(&w, TINY, &e), e);
    memset(said, 'x', sizeof said);
    assert_int_equal(count_unknown(w, said, 100, &n, a), 0);
    assert_int_equal(n, 100);
    assert_int_equal(count_unknown(w, said, 101, &n, a), 1);
    assert_int_equal(n, 1);
    said[50] = ' ';
    assert_int_equal(count_unknown(w, said, 151, &n, a), 0);
    assert_int_equal(count_unknown(w, said, 152, &n, a), 1);

    /* 101 bytes, 51 characters: within the limit */
    wordpiece *greek;
    char      *text = changed_tokenizer(TINY, "model.vocab.##\xce\xb2", "441");
    OK(wordpiece_open_memory(&greek, text, strlen(text), "T.json", &e), e);
    for (int i = 0; i < 50; i++) memcpy(said + 1 + 2 * i, "\xce\xb2", 2);
    assert_int_equal(count_unknown(greek, said, 101, &n, a), 0);
    assert_int_equal(n, 51);
    wordpiece_close(greek);
    free(text);

    /* One character that no piece has makes the whole word unknown, also behind pieces that are known. */
    assert_int_equal(count_unknown(w, "the\xd0\xb6 the", 9, &n, a), 1);
    assert_int_equal(n, 2);
    wordpiece_close(w);
    arena_free(a);
}

static void a_long_text_is_cut_and_stays_cheap(void **s)
{
    (void)s;
    enum { BYTES = 1 << 20 };
    static const char *const UNIT[] = {
        "a", "a ", "!", " ", "[SEP]", "[SEP", "\xe4\xb8\xad", "e\xcc\x81", "\xcc\x81\xcc\x96"};
    err        e = {0};
    wordpiece *w;
    char      *big = malloc(BYTES + 16);
    OK(wordpiece_open(&w, TINY, &e), e);
    for (size_t i = 0; i < sizeof UNIT / sizeof *UNIT; i++) {
        arena   *a = arena_new(0);
        size_t   n = 0;
        int32_t *ids;
        int      n_ids;
        while (n < BYTES) n += (size_t)sprintf(big + n, "%s", UNIT[i]);
        OK(wordpiece_encode(w, big, n, true, 256, &ids, &n_ids, a, &e), e);
        assert_true(n_ids >= 2 && n_ids <= 256);
        assert_int_equal(ids[0], 2);
        assert_int_equal(ids[n_ids - 1], 3);
        arena_free(a);
    }
    free(big);
    wordpiece_close(w);
}

static void bad_calls_are_refused(void **s)
{
    (void)s;
    err        e = {0};
    wordpiece *w;
    arena     *a = arena_new(0);
    int32_t   *ids;
    int        n;
    OK(wordpiece_open(&w, TINY, &e), e);
    FAILS(wordpiece_encode(w, "a\xff", 2, true, 0, &ids, &n, a, &e), e, ERR_UNUSABLE, "UTF-8");
    assert_string_equal(e.problem, "text-not-utf8");
    FAILS(wordpiece_encode(w, "a", 1, true, 1, &ids, &n, a, &e), e, ERR_BUG, "1 tokens leave no room");
    FAILS(wordpiece_encode(w, "a", 1, true, -3, &ids, &n, a, &e), e, ERR_BUG, "-3 tokens");
    FAILS(wordpiece_encode(w, "a", (size_t)(64 << 20) + 1, true, 0, &ids, &n, a, &e), e, ERR_TOO_LARGE,
          "67108864 bytes");
    OK(wordpiece_encode(w, "", 0, false, 0, &ids, &n, a, &e), e);
    assert_int_equal(n, 0);
    wordpiece_close(w);
    arena_free(a);
}

/* --- The file ------------------------------------------------------------------------------------------- */

typedef struct { const char *path, *value, *text; } change;

static const change BAD[] = {
    {"model", NULL, "model is missing"},
    {"model.type", "\"BPE\"", "model is BPE; known here: WordPiece"},
    {"model.vocab", NULL, "model.vocab is missing"},
    {"model.vocab.the", "\"x\"", "model.vocab: an id is not"},
    {"model.vocab.the", "2097152", "model.vocab: an id is not a whole number from 0 to 2097151"},
    {"model.vocab.the", "0", "model.vocab: id 0 is given twice"},
    {"model.unk_token", "\"<unk>\"", "model.vocab lacks model.unk_token"},
    {"model.max_input_chars_per_word", "0", "model.max_input_chars_per_word is not from 1 to 1000"},
    {"model.max_input_chars_per_word", "1001", "model.max_input_chars_per_word is not from 1"},
    {"normalizer", "null", "normalizer is (no type); known here: BertNormalizer"},
    {"normalizer.type", "\"NFC\"", "normalizer is NFC"},
    {"normalizer.lowercase", "7", "lowercase is not"},
    {"pre_tokenizer.type", "\"Whitespace\"", "pre_tokenizer is Whitespace; known here: BertPreTokenizer"},
    {"post_processor.type", "\"BertProcessing\"", "post_processor is BertProcessing"},
    {"added_tokens.1.normalized", "true", "added_tokens[1].normalized is set"},
    {"added_tokens.1.single_word", "true", "added_tokens[1].single_word is set"},
    {"added_tokens.1.id", "9", "added_tokens: id 9 belongs to another piece in model.vocab"},
};

static void each_wrong_thing_is_named(void **s)
{
    (void)s;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        err        e;
        wordpiece *w = NULL;
        char      *text = changed_tokenizer(TINY, BAD[i].path, BAD[i].value);
        FAILS(wordpiece_open_memory(&w, text, strlen(text), "T.json", &e), e, ERR_FILE, BAD[i].text);
        assert_memory_equal(e.text, "T.json: ", 8);
        assert_null(w);
        free(text);
    }
    err        e;
    wordpiece *w;
    FAILS(wordpiece_open(&w, FIXTURE("no-such-file.json"), &e), e, ERR_FILE,
          "no-such-file.json: No such file");
    FAILS(wordpiece_open_memory(&w, "{", 1, "T.json", &e), e, ERR_FILE, "T.json: line 1");
    wordpiece_close(NULL);
}

/* White space around an added token is nothing to this tokenizer, so a file that strips it gives the same
 * ids. */
static void stripping_around_an_added_token_changes_nothing(void **s)
{
    (void)s;
    err        e = {0};
    wordpiece *w;
    arena     *a = arena_new(0);
    int32_t   *ids;
    int        n;
    char      *text = changed_tokenizer(TINY, "added_tokens.4.lstrip", "true");
    OK(wordpiece_open_memory(&w, text, strlen(text), "T.json", &e), e);
    OK(wordpiece_encode(w, "the \t[MASK] the", 15, false, 0, &ids, &n, a, &e), e);
    assert_int_equal(n, 3);
    assert_int_equal(ids[1], 4);
    free(text);
    wordpiece_close(w);
    arena_free(a);
}

static void open_and_encode_survive_each_failed_allocation(void **s)
{
    (void)s;
    char      *text;
    size_t     n;
    err        e = {0};
    wordpiece *w = NULL;
    bool       ok = false;
    OK(file_read(&text, &n, TINY, 1 << 24, &e), e);
    for (long i = 0; !ok; i++) {
        e = (err){0};
        mem_fail_after(i);
        ok = wordpiece_open_memory(&w, text, n, "T.json", &e);
        mem_fail_after(-1);
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s", i, e.text);
        if (ok) assert_true(i >= 8);
    }
    ok = false;
    for (size_t limit = 64; !ok; limit += 64) {
        int32_t *ids;
        int      n_ids;
        e = (err){0};
        arena *a = arena_new(limit);
        ok = wordpiece_encode(w, "Na\xc3\xafve caf\xc3\xa9 [SEP] \xe4\xb8\xad", 22, true, 0, &ids, &n_ids, a,
                              &e);
        if (!ok && e.code != ERR_MEMORY) fail_msg("limit %zu: %s", limit, e.text);
        arena_free(a);
    }
    free(text);
    wordpiece_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_bert_uncased_are_the_librarys),
        cmocka_unit_test(ids_of_the_tiny_tokenizer_are_the_librarys),
        cmocka_unit_test(ids_of_bert_uncased_are_llama_cpps),
        cmocka_unit_test(golden_texts_have_the_librarys_ids),
        cmocka_unit_test(a_word_over_the_limit_is_one_unknown),
        cmocka_unit_test(a_long_text_is_cut_and_stays_cheap),
        cmocka_unit_test(bad_calls_are_refused),
        cmocka_unit_test(each_wrong_thing_is_named),
        cmocka_unit_test(stripping_around_an_added_token_changes_nothing),
        cmocka_unit_test(open_and_encode_survive_each_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
