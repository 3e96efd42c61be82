/* bpe_open.c - tokenizer.json to the tables that bpe.c runs. Each part is checked as it is read; a kind or a
 * switch that bpe.c does not know is refused by its name, because a tokenizer that is nearly right gives
 * answers that look right. The members truncation and padding are left alone: the transformers library sets
 * both per call, whatever the file says. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/tokenizer_json.h"
#include "reader/bpe_impl.h"

/* What ByteLevel splits by where use_regex is set: GPT-2's pattern, a constant of the format. */
static const char BYTE_LEVEL_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* --- Vocabulary and merges ------------------------------------------------------------------------------ */

/* GPT-2's spelling of bytes [Radford et al. 2019]: printable Latin-1 stands for itself, the other 68 bytes
 * for U+0100 and up. byte_of[code point]; -1: not in the alphabet. */
enum { ALPHABET = 256 + 68 };

static void byte_alphabet(int16_t byte_of[ALPHABET])
{
    int next = 256;
    for (int i = 0; i < ALPHABET; i++) byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool itself = (b > 32 && b < 127) || (b > 160 && b != 173);
        byte_of[itself ? b : next++] = (int16_t)b;
    }
}

/* The bytes that s [n] spells, into out [n]. SIZE_MAX: a character is outside the alphabet. */
static size_t spelled(const int16_t byte_of[ALPHABET], const char *s, size_t n, char *out)
{
    size_t m = 0;
    for (const char *p = s; p < s + n;) {
        uint32_t cp = utf8_next(&p);
        if (cp >= ALPHABET || byte_of[cp] < 0) return SIZE_MAX;
        out[m++] = (char)byte_of[cp];
    }
    return m;
}

/* buf: scratch as long as the longest key. */
static bool read_vocab(bpe *b, const json_t *vocab, const int16_t byte_of[ALPHABET], char *buf,
                       const char *where, err *e)
{
    const char *key;
    json_t     *v;
    json_object_foreach((json_t *)vocab, key, v)
    {
        int32_t id;
        if (!tokenizer_id(v, &id, "model.vocab", where, e)) return false;
        const added_token *t = added_tokens_find(&b->added, key);
        size_t             n = spelled(byte_of, key, strlen(key), buf);
        if (n == SIZE_MAX && t && t->id == id) continue; /* an added token, only ever cut out as a whole */
        if (n == SIZE_MAX || n == 0)
            return err_set(e, ERR_FILE, "%s: model.vocab: the piece with id %d is %s", where, (int)id,
                           n ? "not spelled in the byte alphabet" : "empty");
        if (!pieces_add(&b->pieces, id, buf, n))
            return err_set(e, ERR_FILE, "%s: model.vocab: id %d is given twice", where, (int)id);
    }
    for (int i = 0; i < 256; i++)
        if ((b->byte_id[i] = pieces_find(&b->pieces, (char[]){(char)i}, 1)) < 0)
            return err_set(e, ERR_FILE, "%s: model.vocab has no piece for byte 0x%02x", where, i);
    return true;
}

/* The two halves of merge i, as "a b" or ["a", "b"]. */
static bool merge_halves(const json_t *m, size_t i, const char *half[2], size_t n[2], const char *where,
                         err *e)
{
    if (json_is_array(m) && json_array_size(m) == 2) {
        for (int k = 0; k < 2; k++) {
            half[k] = json_string_value(json_array_get(m, (size_t)k));
            n[k] = half[k] ? strlen(half[k]) : 0;
        }
    } else if (json_is_string(m)) {
        const char *s = json_string_value(m), *space = strchr(s, ' ');
        half[0] = s;
        n[0] = space ? (size_t)(space - s) : 0;
        half[1] = space ? space + 1 : s;
        n[1] = strlen(half[1]);
    } else {
        n[0] = 0;
    }
    if (n[0] == 0 || n[1] == 0)
        return err_set(e, ERR_FILE, "%s: model.merges[%zu] is not a pair of pieces", where, i);
    return true;
}

static bool read_merges(bpe *b, const json_t *merges, const int16_t byte_of[ALPHABET], char *buf,
                        size_t buf_bytes, const char *where, err *e)
{
    json_t *m;
    size_t  i;
    json_array_foreach((json_t *)merges, i, m)
    {
        const char *half[2];
        size_t      n[2], bytes[2];
        int32_t     id[3];
        if (!merge_halves(m, i, half, n, where, e)) return false;
        bool fits = n[0] <= buf_bytes && n[1] <= buf_bytes - n[0];
        bytes[0] = fits ? spelled(byte_of, half[0], n[0], buf) : SIZE_MAX;
        bytes[1] = bytes[0] != SIZE_MAX ? spelled(byte_of, half[1], n[1], buf + bytes[0]) : SIZE_MAX;
        bool known = bytes[1] != SIZE_MAX; /* longer than any piece is unknown too */
        if (known) {
            id[0] = pieces_find(&b->pieces, buf, bytes[0]);
            id[1] = pieces_find(&b->pieces, buf + bytes[0], bytes[1]);
            id[2] = pieces_find(&b->pieces, buf, bytes[0] + bytes[1]);
            known = id[0] >= 0 && id[1] >= 0 && id[2] >= 0;
        }
        if (!known)
            return err_set(e, ERR_FILE, "%s: model.merges[%zu] joins or makes a piece that model.vocab lacks",
                           where, i);
        merge_table_add(&b->merges, id[0], id[1], (int32_t)i, id[2]);
    }
    return true;
}

static bool read_model(bpe *b, const json_t *model, int n_ids, const char *where, err *e)
{
    static const char *const OFF[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix",
                                      "byte_fallback"};
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    int16_t       byte_of[ALPHABET];
    size_t        longest = 0, pool = 0;
    const char   *key;
    json_t       *v;

    for (size_t i = 0; i < sizeof OFF / sizeof *OFF; i++)
        if (!tokenizer_off(model, "model", OFF[i], where, e)) return false;
    if (!json_bool_or(model, "ignore_merges", false, &b->ignore_merges, where, e)) return false;
    if (json_array_size(merges) > BPE_MAX_MERGES)
        return err_set(e, ERR_FILE, "%s: model.merges is too long", where);

    json_object_foreach((json_t *)vocab, key, v)
    {
        size_t n = strlen(key);
        pool += n;
        if (n > longest) longest = n;
    }
    if (!pieces_init(&b->pieces, n_ids, (int)json_object_size(vocab), pool, e)) return false;
    if (!merge_table_init(&b->merges, (int)json_array_size(merges), e)) return false;
    char *buf = mem_alloc(longest + 1);
    if (!buf) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    byte_alphabet(byte_of);
    bool ok = read_vocab(b, vocab, byte_of, buf, where, e) &&
              read_merges(b, merges, byte_of, buf, longest, where, e);
    free(buf);
    return ok;
}

/* --- Normalizer and pre-tokenizer ----------------------------------------------------------------------- */

static bool read_normalizer(bpe *b, const json_t *o, const char *where, err *e)
{
    if (!o || json_is_null(o)) return true;
    if (tokenizer_is(o, "NFC")) return b->nfc = true;
    if (!tokenizer_is(o, "Sequence")) return tokenizer_unknown(o, "normalizer", "NFC", where, e);
    const json_t *list = json_object_get(o, "normalizers");
    json_t       *part;
    size_t        i;
    if (!tokenizer_list(o, "normalizers", where, e)) return false;
    json_array_foreach((json_t *)list, i, part)
    {
        if (!tokenizer_is(part, "NFC"))
            return tokenizer_unknown(part, "normalizer.normalizers", "NFC", where, e);
        b->nfc = true;
    }
    return true;
}

static bool add_stage(bpe *b, bpe_stage st, const char *where, err *e)
{
    if (b->n_stages == BPE_MAX_STAGES) {
        split_close(st.pattern);
        return err_set(e, ERR_FILE, "%s: pre_tokenizer has more than %d steps", where, BPE_MAX_STAGES);
    }
    b->stage[b->n_stages++] = st;
    return true;
}

static bool read_split(bpe *b, const json_t *o, const char *where, err *e)
{
    char          member[400];
    bool          invert;
    bpe_stage     st = {0};
    const json_t *regex = json_path(o, "pattern.Regex"), *literal = json_path(o, "pattern.String");
    const json_t *pattern = regex ? regex : literal;
    const char   *behavior;
    if (!json_is_string(pattern))
        return err_set(e, ERR_FILE, "%s: pre_tokenizer Split: pattern.Regex is missing", where);
    if (!json_str_or(o, "behavior", "", &behavior, where, e) ||
        !json_bool_or(o, "invert", false, &invert, where, e))
        return false;
    if (strcmp(behavior, "Isolated") == 0) {
        st.keep_match = st.keep_gap = true;
    } else if (strcmp(behavior, "Removed") == 0) {
        st.keep_match = invert; /* inverted, the matches are what is wanted and the rest separates */
        st.keep_gap = !invert;
    } else {
        return err_set(e, ERR_FILE,
                       "%s: pre_tokenizer Split: behavior is %.40s; known here: Isolated, Removed", where,
                       behavior);
    }
    snprintf(member, sizeof member, "%s: pre_tokenizer Split: pattern", where);
    return split_open(&st.pattern, json_string_value(pattern), !regex, member, e) &&
           add_stage(b, st, where, e);
}

static bool read_byte_level(bpe *b, const json_t *o, const char *where, err *e)
{
    char      member[400];
    bool      space, regex;
    bpe_stage st = {.keep_match = true, .keep_gap = true};
    if (!json_bool_or(o, "add_prefix_space", true, &space, where, e) ||
        !json_bool_or(o, "use_regex", true, &regex, where, e))
        return false;
    if (space && !add_stage(b, (bpe_stage){0}, where, e)) return false;
    if (!regex) return true;
    snprintf(member, sizeof member, "%s: pre_tokenizer ByteLevel", where);
    return split_open(&st.pattern, BYTE_LEVEL_PATTERN, false, member, e) && add_stage(b, st, where, e);
}

static bool read_pre_tokenizer(bpe *b, const json_t *o, const char *where, err *e)
{
    const json_t *list = tokenizer_is(o, "Sequence") ? json_object_get(o, "pretokenizers") : NULL;
    size_t        n = list ? json_array_size(list) : 1;
    bool          bytes = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *part = list ? json_array_get(list, i) : o;
        if (bytes)
            return err_set(e, ERR_FILE, "%s: pre_tokenizer has %.60s behind ByteLevel", where,
                           tokenizer_type(part));
        if (tokenizer_is(part, "Split")) {
            if (!read_split(b, part, where, e)) return false;
        } else if (tokenizer_is(part, "ByteLevel")) {
            if (!read_byte_level(b, part, where, e)) return false;
            bytes = true;
        } else {
            return tokenizer_unknown(part, "pre_tokenizer", "Split, ByteLevel, Sequence", where, e);
        }
    }
    return bytes || err_set(e, ERR_FILE, "%s: pre_tokenizer has no ByteLevel", where);
}

/* --- Opening -------------------------------------------------------------------------------------------- */

/* Index added tokens by id, once the number of ids is known. */
static bool index_added(bpe *b, int n_ids, const char *where, err *e)
{
    if (!(b->added_by_id = mem_alloc(((size_t)n_ids + 1) * sizeof *b->added_by_id)))
        return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    for (int i = 0; i < n_ids; i++) b->added_by_id[i] = -1;
    for (int k = 0; k < b->added.n; k++) b->added_by_id[b->added.list[k].id] = k;
    return true;
}

static bool read_all(bpe *b, const json_t *root, const char *where, err *e)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *decoder = json_object_get(root, "decoder");
    int           n_ids;
    if (!json_is_object(model)) return err_set(e, ERR_FILE, "%s: model is missing", where);
    if (!tokenizer_is(model, "BPE")) return tokenizer_unknown(model, "model", "BPE", where, e);
    if (!json_is_object(vocab)) return err_set(e, ERR_FILE, "%s: model.vocab is missing", where);
    if (!json_is_array(json_object_get(model, "merges")))
        return err_set(e, ERR_FILE, "%s: model.merges is missing", where);
    if (!tokenizer_is(decoder, "ByteLevel"))
        return tokenizer_unknown(decoder, "decoder", "ByteLevel", where, e);

    return added_tokens_read(&b->added, root, false, where, e)
        && tokenizer_count_ids(&n_ids, vocab, &b->added, where, e)
        && index_added(b, n_ids, where, e)
        && read_model(b, model, n_ids, where, e)
        && added_tokens_check(&b->added, &b->pieces, where, e)
        && read_normalizer(b, json_object_get(root, "normalizer"), where, e)
        && read_pre_tokenizer(b, json_object_get(root, "pre_tokenizer"), where, e)
        && post_tokens_read(&b->post, root, n_ids, where, e);
}

static bool open_json(bpe **out, const json_t *root, const char *where, err *e)
{
    bpe *b = mem_zalloc(1, sizeof *b);
    if (!b) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    if (!read_all(b, root, where, e)) {
        bpe_close(b);
        return false;
    }
    *out = b;
    return true;
}

bool bpe_open(bpe **out, const char *path, err *e)
{
    json_t *root;
    if (!json_open(&root, path, e)) return false;
    bool ok = open_json(out, root, path, e);
    json_decref(root);
    return ok;
}

bool bpe_open_memory(bpe **out, const char *json, size_t n, const char *where, err *e)
{
    json_t *root;
    if (!json_parse(&root, json, n, where, e)) return false;
    bool ok = open_json(out, root, where, e);
    json_decref(root);
    return ok;
}

void bpe_close(bpe *b)
{
    if (!b) return;
    for (int i = 0; i < b->n_stages; i++) split_close(b->stage[i].pattern);
    added_tokens_free(&b->added);
    free(b->added_by_id);
    pieces_free(&b->pieces);
    merge_table_free(&b->merges);
    free(b);
}
