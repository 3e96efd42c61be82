/* fuzz_tokenizer.c - bytes that begin with '{' as a tokenizer.json, to both loaders; any others as a text, to
 * the tokenizers of the tiny checkpoints. A file is refused with its name or makes a tokenizer that works; a
 * text that is UTF-8 comes back from its ids. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/unicode.h"
#include "reader/bpe.h"
#include "retriever/wordpiece.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

enum { ARENA_BYTES = 64 << 20 };

static void check_ids(const int32_t *ids, int n, int n_vocab)
{
    for (int i = 0; i < n; i++) MUST(ids[i] >= 0 && ids[i] < n_vocab);
}

/* --- A tokenizer.json ----------------------------------------------------------------------------------- */

static const char SAID[] = "The e\xcc\x81 <|im_end|> isn't  [SEP] 12\n \xe4\xb8\xad\xf0\x9f\x98\x80";

static void check_file_error(const err *e)
{
    MUST(e->code == ERR_FILE || e->code == ERR_MEMORY);
    MUST(strncmp(e->text, "fuzz: ", 6) == 0 || strncmp(e->text, "tokenizer: ", 11) == 0);
}

static void try_bpe(const char *json, size_t n, arena *a)
{
    err      e = {0};
    bpe     *b;
    int32_t *ids;
    int      n_ids;
    char    *back;
    size_t   len;
    if (!bpe_open_memory(&b, json, n, "fuzz", &e)) {
        check_file_error(&e);
        return;
    }
    for (int special = 0; special < 2; special++) {
        if (!bpe_encode(b, SAID, strlen(SAID), special, special, &ids, &n_ids, a, &e)) {
            MUST(e.code == ERR_MEMORY || (e.problem && strcmp(e.problem, "text-too-complex") == 0));
            break;
        }
        check_ids(ids, n_ids, bpe_vocab(b));
        /* a template may name an id without bytes */
        MUST(bpe_decode(b, ids, n_ids, &back, &len, a, &e) || e.code == ERR_BUG);
    }
    bpe_close(b);
}

static void try_wordpiece(const char *json, size_t n, arena *a)
{
    err        e = {0};
    wordpiece *w;
    int32_t   *ids;
    int        n_ids;
    if (!wordpiece_open_memory(&w, json, n, "fuzz", &e)) {
        check_file_error(&e);
        return;
    }
    MUST(wordpiece_encode(w, SAID, strlen(SAID), true, 16, &ids, &n_ids, a, &e));
    MUST(n_ids <= 16);
    check_ids(ids, n_ids, wordpiece_vocab(w));
    wordpiece_close(w);
}

/* --- A text --------------------------------------------------------------------------------------------- */

/* special or not, a tokenizer without a normal form gives the text back; with NFC, its NFC. */
static void text_to_bpe(const bpe *b, bool nfc, const char *s, size_t n, arena *a)
{
    for (int special = 0; special < 2; special++) {
        err         e = {0};
        int32_t    *ids;
        int         n_ids;
        char       *back;
        const char *want = s;
        size_t      len, n_want = n;
        if (!bpe_encode(b, s, n, special, false, &ids, &n_ids, a, &e)) {
            MUST(e.code == ERR_UNUSABLE && strcmp(e.problem, "text-not-utf8") == 0 && !utf8_valid(s, n));
            return;
        }
        check_ids(ids, n_ids, bpe_vocab(b));
        MUST(bpe_decode(b, ids, n_ids, &back, &len, a, &e));
        if (nfc && special) continue; /* each section between added tokens has its own */
        if (nfc) MUST(unicode_nfc(s, n, &want, &n_want, a, &e));
        MUST(len == n_want && memcmp(back, want, len) == 0);
    }
}

static void text_to_wordpiece(const wordpiece *w, const char *s, size_t n, arena *a)
{
    err      e = {0};
    int32_t *ids, *cut;
    int      n_ids, n_cut;
    if (!wordpiece_encode(w, s, n, true, 0, &ids, &n_ids, a, &e)) {
        MUST(e.code == ERR_UNUSABLE && !utf8_valid(s, n));
        return;
    }
    check_ids(ids, n_ids, wordpiece_vocab(w));
    MUST(wordpiece_encode(w, s, n, true, 7, &cut, &n_cut, a, &e));
    MUST(n_cut == (n_ids < 7 ? n_ids : 7) && memcmp(cut, ids, (size_t)(n_cut - 1) * sizeof *cut) == 0);
}

/* Under the fuzzer texts are short: its instruments make comparing in the heap of merges dear (at 4,000 letters
 * 49 inputs a second, at 1,000 236, and more of the code was reached). A replay takes them whole: it does not
 * call this. */
static size_t text_limit = SIZE_MAX;
int           LLVMFuzzerInitialize(int *argc, char ***argv);
int           LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    text_limit = 1000;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n > text_limit && data[0] != '{') return -1; /* not for the corpus */
    static bpe       *qwen, *tekken; /* opened once: they are read-only after that */
    static wordpiece *bert;
    const char       *s = (const char *)data;
    arena            *a = arena_new(ARENA_BYTES);
    err               e = {0};
    MUST(a);
    if (!qwen) {
        MUST(bpe_open(&qwen, "tests/fixtures/qwen2vl-tiny/tokenizer.json", &e));
        MUST(bpe_open(&tekken, "tests/fixtures/pixtral-tiny/tokenizer.json", &e));
        MUST(wordpiece_open(&bert, "tests/fixtures/jina-clip-tiny/tokenizer.json", &e));
    }
    if (n && s[0] == '{') {
        try_bpe(s, n, a);
        try_wordpiece(s, n, a);
    } else {
        text_to_bpe(qwen, true, s, n, a);
        text_to_bpe(tekken, false, s, n, a);
        text_to_wordpiece(bert, s, n, a);
    }
    arena_free(a);
    return 0;
}
