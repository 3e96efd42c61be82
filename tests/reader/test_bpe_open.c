#include "tests/tokenizer_change.h"

#include "base/file.h"
#include "base/memory.h"
#include "reader/bpe.h"

#define QWEN FIXTURE("qwen2vl-tiny/tokenizer.json")
#define TEKKEN FIXTURE("pixtral-tiny/tokenizer.json")
#define STEP(k, rest) "pre_tokenizer.pretokenizers." k rest

typedef struct { const char *file, *path, *value, *text; } change;

/* Each wrong thing, and what the error says; all begin with the file's name. */
static const change BAD[] = {
    {QWEN, "model", NULL, "model is missing"},
    {QWEN, "model.type", "\"Unigram\"", "model is Unigram; known here: BPE"},
    {QWEN, "model.type", NULL, "model is (no type)"},
    {QWEN, "model.vocab", NULL, "model.vocab is missing"},
    {QWEN, "model.vocab", "[]", "model.vocab is missing"},
    {QWEN, "model.merges", NULL, "model.merges is missing"},
    {QWEN, "model.dropout", "0.1", "model.dropout is set"},
    {QWEN, "model.continuing_subword_prefix", "\"##\"", "model.continuing_subword_prefix is set"},
    {QWEN, "model.end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix is set"},
    {QWEN, "model.byte_fallback", "true", "model.byte_fallback is set"},
    {QWEN, "model.ignore_merges", "\"yes\"", "ignore_merges is not"},
    {QWEN, "model.vocab.er", "-1", "model.vocab: an id is not a whole number from 0 to 2097151"},
    {QWEN, "model.vocab.er", "2097152", "model.vocab: an id is not a whole number"},
    {QWEN, "model.vocab.er", "1.5", "model.vocab: an id is not a whole number"},
    {QWEN, "model.vocab.er", "\"7\"", "model.vocab: an id is not a whole number"},
    {QWEN, "model.vocab.er", "0", "model.vocab: id 0 is given twice"},
    {QWEN, "model.vocab.", "640", "model.vocab: the piece with id 640 is empty"},
    {QWEN, "model.vocab.\xe4\xb8\xad", "640",
     "model.vocab: the piece with id 640 is not spelled in the byte alphabet"},
    {QWEN, "model.vocab.a", NULL, "model.vocab has no piece for byte 0x61"},
    {QWEN, "model.vocab.\xc4\x80", NULL, "model.vocab has no piece for byte 0x00"},
    {QWEN, "model.vocab.er", NULL, "joins or makes a piece that model.vocab lacks"},
    {QWEN, "model.merges.3", "\"the\"", "model.merges[3] is not a pair of pieces"},
    {QWEN, "model.merges.3", "\" the\"", "model.merges[3] is not a pair"},
    {QWEN, "model.merges.3", "\"the \"", "model.merges[3] is not a pair"},
    {QWEN, "model.merges.3", "[\"t\"]", "model.merges[3] is not a pair"},
    {QWEN, "model.merges.3", "[\"t\", 5]", "model.merges[3] is not a pair"},
    {QWEN, "model.merges.3", "7", "model.merges[3] is not a pair"},
    {QWEN, "model.merges.5", "\"q zzz\"", "model.merges[5] joins or makes"},
    {QWEN, "model.merges.5", "\"q q\"", "model.merges[5] joins or makes"},
    {QWEN, "model.merges.5", "\"t h e\"", "model.merges[5] joins or makes"}, /* a raw space is in no piece */
    {QWEN, "model.merges.5",
     "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\"",
     "model.merges[5] joins"},
    {QWEN, "added_tokens", "{}", "added_tokens is not a list"},
    {QWEN, "added_tokens.2.content", NULL, "added_tokens[2].content is missing or empty"},
    {QWEN, "added_tokens.2.content", "\"\"", "added_tokens[2].content is missing or empty"},
    {QWEN, "added_tokens.2", "5", "added_tokens[2].content is missing"},
    {QWEN, "added_tokens.2.id", "\"x\"", "added_tokens[2]: an id is not"},
    {QWEN, "added_tokens.2.id", "3000000", "added_tokens[2]: an id is not"},
    {QWEN, "added_tokens.2.id", "627", "added_tokens: id 627 is given twice"},
    {QWEN, "added_tokens.2.id", "5", "added_tokens: id 5 belongs to another piece"},
    {QWEN, "added_tokens.2.content", "\"er\"",
     "added_tokens: the token with id 628 has id 261 in model.vocab"},
    {QWEN, "added_tokens.2.content", "\"<|im_start|>\"",
     "added_tokens: ids 627 and 628 have the same content"},
    {QWEN, "added_tokens.2.special", "3", "special is not"},
    {QWEN, "added_tokens.2.normalized", "true", "added_tokens[2].normalized is set"},
    {QWEN, "added_tokens.2.lstrip", "true", "added_tokens[2].lstrip is set"},
    {QWEN, "added_tokens.2.rstrip", "true", "added_tokens[2].rstrip is set"},
    {QWEN, "added_tokens.2.single_word", "true", "added_tokens[2].single_word is set"},
    {QWEN, "normalizer.type", "\"NFKC\"", "normalizer is NFKC; known here: NFC"},
    {QWEN, "normalizer", "{\"type\": \"Sequence\", \"normalizers\": 3}", "normalizers is not a list"},
    {QWEN, "normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Lowercase\"}]}",
     "normalizer.normalizers is Lowercase"},
    {QWEN, "pre_tokenizer", "null", "pre_tokenizer is (no type)"},
    {QWEN, "pre_tokenizer.type", "\"Whitespace\"", "pre_tokenizer is Whitespace; known here"},
    {QWEN, STEP("1", ""), NULL, "pre_tokenizer has no ByteLevel"},
    {QWEN, STEP("2", ""), "{\"type\": \"Split\"}", "pre_tokenizer has Split behind ByteLevel"},
    {QWEN, STEP("0", ".type"), "\"Digits\"", "pre_tokenizer is Digits"},
    {QWEN, STEP("0", ".behavior"), "\"MergedWithNext\"",
     "behavior is MergedWithNext; known here: Isolated, Removed"},
    {QWEN, STEP("0", ".pattern"), "{}", "pattern.Regex is missing"},
    {QWEN, STEP("0", ".pattern.Regex"), "7", "pattern.Regex is missing"},
    {QWEN, STEP("0", ".pattern.Regex"), "\"(ab\"",
     "pre_tokenizer Split: pattern: missing closing parenthesis at offset 3"},
    {QWEN, STEP("0", ".pattern.Regex"), "\"\\\\w+\"",
     "pre_tokenizer Split: pattern: escape at offset 0: not supported"},
    {QWEN, STEP("0", ".invert"), "1", "invert is not"},
    {QWEN, STEP("1", ".use_regex"), "\"no\"", "use_regex is not"},
    {QWEN, "decoder.type", "\"WordPiece\"", "decoder is WordPiece; known here: ByteLevel"},
    {QWEN, "post_processor.type", "\"RobertaProcessing\"", "post_processor is RobertaProcessing; known here"},
    {TEKKEN, "post_processor.single", "[]", "post_processor.single has sequence A 0 times"},
    {TEKKEN, "post_processor.single.2", "{\"Sequence\": {\"id\": \"A\"}}", "sequence A 2 times"},
    {TEKKEN, "post_processor.single.1", "{\"Sequence\": {\"id\": \"B\"}}",
     "post_processor.single[1] is no special token"},
    {TEKKEN, "post_processor.single.0", "5", "post_processor.single[0] is no special token"},
    {TEKKEN, "post_processor.single.0.SpecialToken.id", "\"<t>\"",
     "post_processor: a special token has no ids"},
    {TEKKEN, "post_processor.special_tokens.<s>.ids", "[]", "post_processor: a special token has no ids"},
    {TEKKEN, "post_processor.special_tokens.<s>.ids", "[760]",
     "post_processor: id 760 is not in the vocabulary"},
    {TEKKEN, "post_processor.special_tokens.<s>.ids", "[-1]", "post_processor: an id is not"},
    {TEKKEN, "post_processor.special_tokens.<s>.ids", "[1,1,1,1,1,1,1,1,1]",
     "post_processor adds more than 8 tokens"},
};

static void each_wrong_thing_is_named(void **s)
{
    (void)s;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        err   e;
        bpe  *b = NULL;
        char *text = changed_tokenizer(BAD[i].file, BAD[i].path, BAD[i].value);
        FAILS(bpe_open_memory(&b, text, strlen(text), "T.json", &e), e, ERR_FILE, BAD[i].text);
        assert_memory_equal(e.text, "T.json: ", 8);
        assert_null(b);
        free(text);
    }
}

/* What is left out has its default. */
static void what_may_be_left_out_may(void **s)
{
    (void)s;
    static const change GOOD[] = {
        {QWEN, "version", NULL, ""},
        {QWEN, "truncation", NULL, ""},
        {QWEN, "normalizer", NULL, ""},
        {QWEN, "post_processor", "null", ""},
        {QWEN, "model.ignore_merges", NULL, ""},
        {QWEN, "model.dropout", "0", ""},
        {QWEN, "model.unk_token", NULL, ""},
        {QWEN, "added_tokens", NULL, ""},
        {QWEN, "model.merges", "[]", ""},
        {QWEN, STEP("0", ".invert"), NULL, ""},
        {QWEN, "added_tokens.2.special", NULL, ""},
        {TEKKEN, "model.byte_fallback", NULL, ""},
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        err   e = {0};
        bpe  *b;
        char *text = changed_tokenizer(GOOD[i].file, GOOD[i].path, GOOD[i].value);
        OK(bpe_open_memory(&b, text, strlen(text), "T.json", &e), e);
        bpe_close(b);
        free(text);
    }
    bpe_close(NULL);
}

static void a_file_that_is_not_json_is_refused(void **s)
{
    (void)s;
    err  e;
    bpe *b;
    FAILS(bpe_open(&b, FIXTURE("no-such-file.json"), &e), e, ERR_FILE, "no-such-file.json: No such file");
    FAILS(bpe_open(&b, FIXTURE("qwen2vl-tiny/merges.txt"), &e), e, ERR_FILE, "merges.txt: line 1");
    FAILS(bpe_open_memory(&b, "", 0, "T.json", &e), e, ERR_FILE, "T.json: line 1");
    FAILS(bpe_open_memory(&b, "[]", 2, "T.json", &e), e, ERR_FILE, "T.json: model is missing");
    FAILS(bpe_open_memory(&b, "{\"model\": {}, \"model\": {}}", 26, "T.json", &e), e, ERR_FILE, "duplicate");
}

/* Every allocation of open fails once; each time an error, and nothing is left (the sanitizers look). */
static void open_survives_each_failed_allocation(void **s)
{
    (void)s;
    char  *text;
    size_t n;
    err    e = {0};
    bool   ok = false;
    OK(file_read(&text, &n, QWEN, 1 << 24, &e), e);
    for (long i = 0; !ok; i++) {
        bpe *b = NULL;
        e = (err){0};
        mem_fail_after(i);
        ok = bpe_open_memory(&b, text, n, "T.json", &e);
        mem_fail_after(-1);
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s", i, e.text);
        if (ok) assert_true(i >= 10); /* so many are ours at least: the loop did try them */
        bpe_close(b);
    }
    free(text);
}

static void encode_survives_each_failed_allocation(void **s)
{
    (void)s;
    err  e = {0};
    bpe *b;
    bool ok = false;
    OK(bpe_open(&b, QWEN, &e), e);
    static const char said[] = "e\xcc\x81 <|im_end|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \xe1\xa0\x8e";
    for (long i = 0; !ok; i++) {
        int32_t *ids;
        int      n;
        e = (err){0};
        mem_fail_after(i);
        arena *a = arena_new(0);
        ok = a && bpe_encode(b, said, strlen(said), true, true, &ids, &n, a, &e);
        mem_fail_after(-1);
        if (!ok && a && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s", i, e.text);
        arena_free(a);
    }
    /* An arena with too little room at any limit: an error, never a wrong answer. */
    ok = false;
    for (size_t limit = 64; !ok; limit += 64) {
        int32_t *ids;
        int      n;
        e = (err){0};
        arena *a = arena_new(limit);
        ok = bpe_encode(b, said, strlen(said), true, true, &ids, &n, a, &e);
        if (!ok && e.code != ERR_MEMORY) fail_msg("limit %zu: %s", limit, e.text);
        arena_free(a);
    }
    bpe_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_wrong_thing_is_named),
        cmocka_unit_test(what_may_be_left_out_may),
        cmocka_unit_test(a_file_that_is_not_json_is_refused),
        cmocka_unit_test(open_survives_each_failed_allocation),
        cmocka_unit_test(encode_survives_each_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
