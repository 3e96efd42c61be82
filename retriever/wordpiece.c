/* wordpiece.c - BERT's tokenizer in the order of the tokenizers library:
 *   cut out added tokens -> bert_normalize -> words -> the longest piece first, from left to right [Wu et al.
 *   2016, arXiv:1609.08144, section 4.1] -> [CLS] and [SEP] around */
#include "retriever/wordpiece.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/tokenizer_json.h"
#include "retriever/bert_text.h"

enum { MAX_TEXT_BYTES = 64 << 20, MAX_WORD_CHARS = 1000 };

struct wordpiece {
    pieces       pieces;
    added_tokens added;
    post_tokens  post;
    bert_rules   rules;
    char        *prefix; /* of a piece that continues a word: "##" */
    size_t       prefix_len;
    uint64_t     prefix_hash;
    int32_t      unknown;
    int          max_word_chars;
};

/* --- Opening -------------------------------------------------------------------------------------------- */

static bool read_normalizer(bert_rules *r, const json_t *o, const char *where, err *e)
{
    if (!tokenizer_is(o, "BertNormalizer"))
        return tokenizer_unknown(o, "normalizer", "BertNormalizer", where, e);
    return json_bool_or(o, "clean_text", true, &r->clean, where, e)
        && json_bool_or(o, "handle_chinese_chars", true, &r->cjk, where, e)
        && json_bool_or(o, "lowercase", true, &r->lower, where, e)
        && json_bool_or(o, "strip_accents", r->lower, &r->strip_accents, where, e); /* null: as lowercase */
}

static bool read_vocab(wordpiece *w, const json_t *vocab, int n_ids, const char *where, err *e)
{
    const char *key;
    json_t     *v;
    size_t      pool = 0;
    json_object_foreach((json_t *)vocab, key, v) pool += strlen(key);
    if (!pieces_init(&w->pieces, n_ids, (int)json_object_size(vocab), pool, e)) return false;
    json_object_foreach((json_t *)vocab, key, v)
    {
        int32_t id;
        if (!tokenizer_id(v, &id, "model.vocab", where, e)) return false;
        if (!pieces_add(&w->pieces, id, key, strlen(key)))
            return err_set(e, ERR_FILE, "%s: model.vocab: id %d is given twice", where, (int)id);
    }
    return true;
}

static bool read_model(wordpiece *w, const json_t *model, int n_ids, const char *where, err *e)
{
    const char *unknown, *prefix;
    int64_t     max_chars;
    if (!json_str_or(model, "unk_token", "[UNK]", &unknown, where, e)) return false;
    if (!json_str_or(model, "continuing_subword_prefix", "##", &prefix, where, e)) return false;
    if (!json_int_or(model, "max_input_chars_per_word", 100, &max_chars, where, e)) return false;
    if (max_chars < 1 || max_chars > MAX_WORD_CHARS)
        return err_set(e, ERR_FILE, "%s: model.max_input_chars_per_word is not from 1 to %d", where,
                       MAX_WORD_CHARS);
    if (!read_vocab(w, json_object_get(model, "vocab"), n_ids, where, e)) return false;
    if ((w->unknown = pieces_find(&w->pieces, unknown, strlen(unknown))) < 0)
        return err_set(e, ERR_FILE, "%s: model.vocab lacks model.unk_token", where);
    if (!(w->prefix = mem_strdup(prefix))) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    w->prefix_len = strlen(prefix);
    w->prefix_hash = fnv_text(prefix);
    w->max_word_chars = (int)max_chars;
    return true;
}

static bool read_all(wordpiece *w, const json_t *root, const char *where, err *e)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *words = json_object_get(root, "pre_tokenizer");
    int           n_ids;
    if (!json_is_object(model)) return err_set(e, ERR_FILE, "%s: model is missing", where);
    if (!tokenizer_is(model, "WordPiece")) return tokenizer_unknown(model, "model", "WordPiece", where, e);
    if (!json_is_object(vocab)) return err_set(e, ERR_FILE, "%s: model.vocab is missing", where);
    if (!tokenizer_is(words, "BertPreTokenizer"))
        return tokenizer_unknown(words, "pre_tokenizer", "BertPreTokenizer", where, e);
    return read_normalizer(&w->rules, json_object_get(root, "normalizer"), where, e)
        && added_tokens_read(&w->added, root, true, where, e)
        && tokenizer_count_ids(&n_ids, vocab, &w->added, where, e)
        && read_model(w, model, n_ids, where, e)
        && added_tokens_check(&w->added, &w->pieces, where, e)
        && post_tokens_read(&w->post, root, n_ids, where, e);
}

static bool open_json(wordpiece **out, const json_t *root, const char *where, err *e)
{
    wordpiece *w = mem_zalloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    if (!read_all(w, root, where, e)) {
        wordpiece_close(w);
        return false;
    }
    *out = w;
    return true;
}

bool wordpiece_open(wordpiece **out, const char *path, err *e)
{
    json_t *root;
    if (!json_open(&root, path, e)) return false;
    bool ok = open_json(out, root, path, e);
    json_decref(root);
    return ok;
}

bool wordpiece_open_memory(wordpiece **out, const char *json, size_t n, const char *where, err *e)
{
    json_t *root;
    if (!json_parse(&root, json, n, where, e)) return false;
    bool ok = open_json(out, root, where, e);
    json_decref(root);
    return ok;
}

void wordpiece_close(wordpiece *w)
{
    if (!w) return;
    pieces_free(&w->pieces);
    added_tokens_free(&w->added);
    free(w->prefix);
    free(w);
}

int wordpiece_vocab(const wordpiece *w) { return w->pieces.n_ids; }

/* --- Encoding ------------------------------------------------------------------------------------------- */

/* One call of wordpiece_encode. */
typedef struct {
    const wordpiece *w;
    arena           *a;
    err             *e;
    int32_t         *ids;
    int              n, room, limit; /* limit: ids of the text itself */
} encoder;

static bool put(encoder *E, int32_t id)
{
    if (E->n == E->limit) return true; /* cut here */
    if (E->n == E->room) {
        int      room = 2 * E->room + 64;
        int32_t *ids = ARENA_NEW(E->a, int32_t, room, E->e);
        if (!ids) return false;
        if (E->n) memcpy(ids, E->ids, (size_t)E->n * sizeof *ids);
        E->ids = ids;
        E->room = room;
    }
    E->ids[E->n++] = id;
    return true;
}

/* The longest piece that s [n] begins with, and its bytes; -1: none. One pass: the hash of each prefix grows
 * from the last. */
static int32_t longest_piece(const wordpiece *w, const char *s, size_t n, bool inside, size_t *bytes)
{
    const char *prefix = inside ? w->prefix : "";
    size_t      n_prefix = inside ? w->prefix_len : 0;
    uint64_t    h = inside ? w->prefix_hash : FNV_START;
    int32_t     best = -1;
    for (size_t k = 0; k < n && n_prefix + k < (size_t)w->pieces.longest; k++) {
        h = fnv_byte(h, s[k]);
        if (k + 1 < n && ((uint8_t)s[k + 1] & 0xc0) == 0x80) continue; /* inside a character */
        int32_t id = pieces_find_hashed(&w->pieces, h, prefix, n_prefix, s, k + 1);
        if (id >= 0) {
            best = id;
            *bytes = k + 1;
        }
    }
    return best;
}

/* One word in UTF-8. A word that cannot be pieced together to its end is one [UNK], not its known beginning
 * and an [UNK]. */
static bool encode_word(encoder *E, const char *s, size_t n, int n_chars)
{
    int start = E->n;
    if (n_chars > E->w->max_word_chars) return put(E, E->w->unknown);
    for (size_t at = 0, bytes = 0; at < n; at += bytes) {
        int32_t id = longest_piece(E->w, s + at, n - at, at > 0, &bytes);
        if (id < 0) {
            E->n = start;
            return put(E, E->w->unknown);
        }
        if (!put(E, id)) return false;
    }
    return true;
}

static bool encode_section(encoder *E, const char *s, size_t n)
{
    int32_t *cp;
    size_t   m, bytes = 0;
    int      n_chars = 0;
    if (n == 0 || E->n == E->limit) return true;
    if (!bert_normalize(&E->w->rules, s, n, &cp, &m, E->a, E->e)) return false;
    char *word = ARENA_NEW(E->a, char, 4 * m + 1, E->e);
    if (!word) return false;
    for (size_t i = 0; i <= m && E->n < E->limit; i++) {
        bool space = i == m || bert_is_space(cp[i]), alone = !space && bert_is_punctuation(cp[i]);
        if ((space || alone) && n_chars > 0) {
            if (!encode_word(E, word, bytes, n_chars)) return false;
            bytes = 0;
            n_chars = 0;
        }
        if (space) continue;
        bytes += (size_t)utf8_put(word + bytes, (uint32_t)cp[i]);
        n_chars++;
        if (alone) {
            if (!encode_word(E, word, bytes, n_chars)) return false;
            bytes = 0;
            n_chars = 0;
        }
    }
    return true;
}

static bool encode_text(encoder *E, const char *s, size_t n)
{
    size_t section = 0;
    for (size_t i = 0; i < n;) {
        const added_token *t = added_tokens_prefix(&E->w->added, s + i, n - i);
        if (!t) {
            i++;
            continue;
        }
        if (!encode_section(E, s + section, i - section) || !put(E, t->id)) return false;
        i += t->len;
        section = i;
    }
    return encode_section(E, s + section, n - section);
}

bool wordpiece_encode(const wordpiece *w, const char *s, size_t n, bool special, int max_tokens,
                      int32_t **ids, int *n_ids, arena *a, err *e)
{
    encoder E = {.w = w, .a = a, .e = e, .limit = INT_MAX};
    int     n_head = special ? w->post.n_head : 0, n_tail = special ? w->post.n_tail : 0;
    if (n > MAX_TEXT_BYTES)
        return err_set(e, ERR_TOO_LARGE, "tokenizer: text of more than %d bytes", MAX_TEXT_BYTES);
    if (!utf8_valid(s, n))
        return err_at(e, ERR_UNUSABLE, "text-not-utf8", NULL, "tokenizer: text is not valid UTF-8");
    if (max_tokens < 0 || (max_tokens > 0 && max_tokens < n_head + n_tail))
        return err_set(e, ERR_BUG, "tokenizer: %d tokens leave no room for the special ones", max_tokens);

    for (int i = 0; i < n_head; i++)
        if (!put(&E, w->post.head[i])) return false;
    if (max_tokens > 0) E.limit = max_tokens - n_tail;
    if (!encode_text(&E, s, n)) return false;
    E.limit = INT_MAX;
    for (int i = 0; i < n_tail; i++)
        if (!put(&E, w->post.tail[i])) return false;
    *ids = E.ids;
    *n_ids = E.n;
    return true;
}
