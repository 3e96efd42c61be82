/* bpe_open.c - tokenizer.json to the tables that bpe.c runs. Each part is checked as it is read; a kind or a switch that
 * bpe.c does not know is refused by its name, because a tokenizer that is nearly right gives answers that look right.
 * The members truncation and padding are left alone: the transformers library sets both per call, whatever the file says. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "reader/bpe_impl.h"

/* What ByteLevel splits by where use_regex is set: GPT-2's pattern, a constant of the format. */
static const char BYTE_LEVEL_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static const char *type_of(const json_t *o)
{
    const char *s = json_string_value(json_object_get(o, "type"));
    return s ? s : "(no type)";
}

static bool is_type(const json_t *o, const char *name) { return strcmp(type_of(o), name) == 0; }

static bool unknown(const json_t *o, const char *member, const char *known, const char *where, err *e)
{
    return err_set(e, ERR_FILE, "%s: %s is %.60s; known here: %s", where, member, type_of(o), known);
}

/* A switch that must be off (absent, null, false, 0 or an empty string). */
static bool must_be_off(const json_t *o, const char *member, const char *name, const char *where, err *e)
{
    const json_t *v = json_object_get(o, name);
    bool          off = !v || json_is_null(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0)
               || (json_is_number(v) && json_number_value(v) == 0);
    return off || err_set(e, ERR_FILE, "%s: %s.%s is set, which is not supported here", where, member, name);
}

/* A list that may be left out; any other type is a mistake in the file. */
static bool list_or_none(const json_t *o, const char *name, const char *where, err *e)
{
    const json_t *v = json_object_get(o, name);
    return !v || json_is_null(v) || json_is_array(v) || err_set(e, ERR_FILE, "%s: %s is not a list", where, name);
}

static bool id_of(const json_t *v, int32_t *out, const char *where, const char *what, err *e)
{
    json_int_t id = json_integer_value(v);
    if (!json_is_integer(v) || id < 0 || id >= BPE_MAX_IDS)
        return err_set(e, ERR_FILE, "%s: %s: an id is not a whole number from 0 to %d", where, what, BPE_MAX_IDS - 1);
    *out = (int32_t)id;
    return true;
}

/* --- Vocabulary and merges --------------------------------------------------------------------------------------- */

/* GPT-2's spelling of bytes [Radford et al. 2019]: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up.
 * byte_of[code point]; -1: not in the alphabet. */
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

/* The bytes that s spells into out, which has room for strlen(s). SIZE_MAX: a character outside the alphabet. */
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

static const added_token *added_of_content(const bpe *b, const char *content)
{
    int id = bpe_special(b, content);
    return id < 0 ? NULL : &b->added[b->added_by_id[id]];
}

/* pool: scratch as long as the longest key. */
static bool read_vocab(bpe *b, const json_t *vocab, const int16_t byte_of[ALPHABET], char *buf, const char *where, err *e)
{
    const char *key;
    json_t     *v;
    json_object_foreach((json_t *)vocab, key, v)
    {
        int32_t id = 0;
        if (!id_of(v, &id, where, "model.vocab", e)) return false;
        const added_token *t = added_of_content(b, key);
        if (t && t->id != id)
            return err_set(e, ERR_FILE, "%s: added_tokens gives id %d to a piece that has id %d in model.vocab", where,
                           (int)t->id, (int)id);
        size_t n = spelled(byte_of, key, strlen(key), buf);
        if (n == SIZE_MAX && t) continue; /* its text is that of the added token */
        if (n == SIZE_MAX || n == 0)
            return err_set(e, ERR_FILE, "%s: model.vocab: the piece with id %d is %s", where, (int)id,
                           n ? "not spelled in the byte alphabet" : "empty");
        if (!bpe_tables_add(&b->tables, id, buf, n)) return err_set(e, ERR_FILE, "%s: model.vocab: id %d is given twice", where, (int)id);
    }
    for (int i = 0; i < 256; i++)
        if (b->tables.byte_id[i] < 0) return err_set(e, ERR_FILE, "%s: model.vocab has no piece for byte 0x%02x", where, i);
    return true;
}

/* The two halves of merge i, as "a b" or ["a", "b"]. */
static bool merge_halves(const json_t *m, size_t i, const char *half[2], size_t n[2], const char *where, err *e)
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
    if (n[0] == 0 || n[1] == 0) return err_set(e, ERR_FILE, "%s: model.merges[%zu] is not a pair of pieces", where, i);
    return true;
}

static bool read_merges(bpe *b, const json_t *merges, const int16_t byte_of[ALPHABET], char *buf, size_t buf_bytes,
                        const char *where, err *e)
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
            id[0] = bpe_tables_find(&b->tables, buf, bytes[0]);
            id[1] = bpe_tables_find(&b->tables, buf + bytes[0], bytes[1]);
            id[2] = bpe_tables_find(&b->tables, buf, bytes[0] + bytes[1]);
            known = id[0] >= 0 && id[1] >= 0 && id[2] >= 0;
        }
        if (!known) return err_set(e, ERR_FILE, "%s: model.merges[%zu] joins or makes a piece that model.vocab lacks", where, i);
        bpe_tables_add_merge(&b->tables, id[0], id[1], (int32_t)i, id[2]);
    }
    return true;
}

static bool read_model(bpe *b, const json_t *model, int n_ids, const char *where, err *e)
{
    static const char *const OFF[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"};
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    int16_t       byte_of[ALPHABET];
    size_t        longest = 0, pool = 0;
    const char   *key;
    json_t       *v;

    for (size_t i = 0; i < sizeof OFF / sizeof *OFF; i++)
        if (!must_be_off(model, "model", OFF[i], where, e)) return false;
    if (!json_bool_or(model, "ignore_merges", false, &b->ignore_merges, where, e)) return false;
    if (json_array_size(merges) > BPE_MAX_MERGES) return err_set(e, ERR_FILE, "%s: model.merges is too long", where);

    json_object_foreach((json_t *)vocab, key, v)
    {
        size_t n = strlen(key);
        pool += n;
        if (n > longest) longest = n;
    }
    if (!bpe_tables_init(&b->tables, n_ids, (int)json_object_size(vocab), pool, (int)json_array_size(merges), e)) return false;
    char *buf = mem_alloc(longest + 1);
    if (!buf) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    byte_alphabet(byte_of);
    bool ok = read_vocab(b, vocab, byte_of, buf, where, e) && read_merges(b, merges, byte_of, buf, longest, where, e);
    free(buf);
    return ok;
}

/* --- Added tokens ------------------------------------------------------------------------------------------------ */

static int by_content(const void *x, const void *y)
{
    return strcmp(((const added_token *)x)->content, ((const added_token *)y)->content);
}

static bool read_added(bpe *b, const json_t *list, const char *where, err *e)
{
    static const char *const OFF[] = {"normalized", "lstrip", "rstrip", "single_word"};
    size_t  i, n = json_array_size(list);
    json_t *o;
    if (n > BPE_MAX_IDS) return err_set(e, ERR_FILE, "%s: added_tokens is too long", where);
    if (!(b->added = mem_zalloc(n + 1, sizeof *b->added))) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    json_array_foreach((json_t *)list, i, o)
    {
        char        member[40];
        const char *content = json_string_value(json_object_get(o, "content"));
        snprintf(member, sizeof member, "added_tokens[%zu]", i);
        for (size_t k = 0; k < sizeof OFF / sizeof *OFF; k++)
            if (!must_be_off(o, member, OFF[k], where, e)) return false;
        if (!content || !*content) return err_set(e, ERR_FILE, "%s: %s.content is missing or empty", where, member);

        added_token *t = &b->added[b->n_added];
        if (!id_of(json_object_get(o, "id"), &t->id, where, member, e)) return false;
        if (!json_bool_or(o, "special", false, &t->special, where, e)) return false;
        if (!(t->content = mem_strdup(content))) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
        t->len = strlen(content);
        b->n_added++;
    }
    qsort(b->added, (size_t)b->n_added, sizeof *b->added, by_content);
    for (int k = 1; k < b->n_added; k++)
        if (strcmp(b->added[k - 1].content, b->added[k].content) == 0)
            return err_set(e, ERR_FILE, "%s: added_tokens: ids %d and %d have the same content", where, (int)b->added[k - 1].id,
                           (int)b->added[k].id);
    return true;
}

/* Index added tokens by id, once the number of ids is known. */
static bool index_added(bpe *b, int n_ids, const char *where, err *e)
{
    if (!(b->added_by_id = mem_alloc(((size_t)n_ids + 1) * sizeof *b->added_by_id)))
        return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    for (int i = 0; i < n_ids; i++) b->added_by_id[i] = -1;
    for (int k = 0; k < b->n_added; k++) {
        int32_t *slot = &b->added_by_id[b->added[k].id];
        if (*slot >= 0) return err_set(e, ERR_FILE, "%s: added_tokens: id %d is given twice", where, (int)b->added[k].id);
        *slot = k;
    }
    return true;
}

/* An added token may repeat a piece of the vocabulary, but only that very piece. */
static bool check_added(const bpe *b, const char *where, err *e)
{
    for (int k = 0; k < b->n_added; k++) {
        const added_token *t = &b->added[k];
        const piece       *p = &b->tables.piece[t->id];
        if (p->len >= 0 && ((size_t)p->len != t->len || memcmp(b->tables.pool + p->off, t->content, t->len) != 0))
            return err_set(e, ERR_FILE, "%s: added_tokens: id %d belongs to another piece in model.vocab", where, (int)t->id);
    }
    return true;
}

/* --- Normalizer, pre-tokenizer, post-processor, decoder ---------------------------------------------------------- */

static bool read_normalizer(bpe *b, const json_t *o, const char *where, err *e)
{
    if (!o || json_is_null(o)) return true;
    if (is_type(o, "NFC")) return b->nfc = true;
    if (!is_type(o, "Sequence")) return unknown(o, "normalizer", "NFC", where, e);
    const json_t *list = json_object_get(o, "normalizers");
    json_t       *part;
    size_t        i;
    if (!list_or_none(o, "normalizers", where, e)) return false;
    json_array_foreach((json_t *)list, i, part)
    {
        if (!is_type(part, "NFC")) return unknown(part, "normalizer.normalizers", "NFC", where, e);
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
    if (!json_is_string(pattern)) return err_set(e, ERR_FILE, "%s: pre_tokenizer Split: pattern.Regex is missing", where);
    if (!json_str_or(o, "behavior", "", &behavior, where, e) || !json_bool_or(o, "invert", false, &invert, where, e)) return false;
    if (strcmp(behavior, "Isolated") == 0) {
        st.keep_match = st.keep_gap = true;
    } else if (strcmp(behavior, "Removed") == 0) {
        st.keep_match = invert; /* inverted, the matches are what is wanted and the rest separates */
        st.keep_gap = !invert;
    } else {
        return err_set(e, ERR_FILE, "%s: pre_tokenizer Split: behavior is %.40s; known here: Isolated, Removed", where, behavior);
    }
    snprintf(member, sizeof member, "%s: pre_tokenizer Split: pattern", where);
    return split_open(&st.pattern, json_string_value(pattern), !regex, member, e) && add_stage(b, st, where, e);
}

static bool read_byte_level(bpe *b, const json_t *o, const char *where, err *e)
{
    char      member[400];
    bool      space, regex;
    bpe_stage st = {.keep_match = true, .keep_gap = true};
    if (!json_bool_or(o, "add_prefix_space", true, &space, where, e) || !json_bool_or(o, "use_regex", true, &regex, where, e))
        return false;
    if (space && !add_stage(b, (bpe_stage){0}, where, e)) return false;
    if (!regex) return true;
    snprintf(member, sizeof member, "%s: pre_tokenizer ByteLevel", where);
    return split_open(&st.pattern, BYTE_LEVEL_PATTERN, false, member, e) && add_stage(b, st, where, e);
}

static bool read_pre_tokenizer(bpe *b, const json_t *o, const char *where, err *e)
{
    const json_t *list = is_type(o, "Sequence") ? json_object_get(o, "pretokenizers") : NULL;
    size_t        n = list ? json_array_size(list) : 1;
    bool          bytes = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *part = list ? json_array_get(list, i) : o;
        if (bytes) return err_set(e, ERR_FILE, "%s: pre_tokenizer has %.60s behind ByteLevel", where, type_of(part));
        if (is_type(part, "Split")) {
            if (!read_split(b, part, where, e)) return false;
        } else if (is_type(part, "ByteLevel")) {
            if (!read_byte_level(b, part, where, e)) return false;
            bytes = true;
        } else {
            return unknown(part, "pre_tokenizer", "Split, ByteLevel, Sequence", where, e);
        }
    }
    return bytes || err_set(e, ERR_FILE, "%s: pre_tokenizer has no ByteLevel", where);
}

/* The ids of one special token of a template, put behind those in list. */
static bool template_ids(const bpe *b, const json_t *o, const char *name, int32_t *list, int *n, const char *where, err *e)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(o, "special_tokens"), name ? name : ""), "ids");
    json_t       *v;
    size_t        i;
    if (json_array_size(ids) == 0) return err_set(e, ERR_FILE, "%s: post_processor: a special token has no ids", where);
    json_array_foreach((json_t *)ids, i, v)
    {
        int32_t id = 0;
        if (!id_of(v, &id, where, "post_processor", e)) return false;
        if (id >= b->tables.n_ids || (b->tables.piece[id].len < 0 && b->added_by_id[id] < 0))
            return err_set(e, ERR_FILE, "%s: post_processor: id %d is not in the vocabulary", where, (int)id);
        if (*n == BPE_MAX_POST) return err_set(e, ERR_FILE, "%s: post_processor adds more than %d tokens", where, BPE_MAX_POST);
        list[(*n)++] = id;
    }
    return true;
}

/* A template puts its tokens around what the ones before it made. */
static bool read_template(bpe *b, const json_t *o, const char *where, err *e)
{
    const json_t *single = json_object_get(o, "single");
    int32_t       head[BPE_MAX_POST];
    int           n_head = 0, n_sequences = 0;
    json_t       *part;
    size_t        i;
    json_array_foreach((json_t *)single, i, part)
    {
        const json_t *token = json_object_get(part, "SpecialToken"), *sequence = json_object_get(part, "Sequence");
        const char   *name = json_string_value(json_object_get(token ? token : sequence, "id"));
        if (sequence && name && strcmp(name, "A") == 0) {
            n_sequences++;
        } else if (!token) {
            return err_set(e, ERR_FILE, "%s: post_processor.single[%zu] is neither a special token nor sequence A", where, i);
        } else if (!(n_sequences ? template_ids(b, o, name, b->tail, &b->n_tail, where, e)
                                 : template_ids(b, o, name, head, &n_head, where, e))) {
            return false;
        }
    }
    if (n_sequences != 1) return err_set(e, ERR_FILE, "%s: post_processor.single has sequence A %d times", where, n_sequences);
    if (n_head + b->n_head > BPE_MAX_POST)
        return err_set(e, ERR_FILE, "%s: post_processor adds more than %d tokens", where, BPE_MAX_POST);
    memmove(b->head + n_head, b->head, (size_t)b->n_head * sizeof *head);
    memcpy(b->head, head, (size_t)n_head * sizeof *head);
    b->n_head += n_head;
    return true;
}

static bool read_post_processor(bpe *b, const json_t *o, const char *where, err *e)
{
    if (!o || json_is_null(o)) return true;
    const json_t *list = is_type(o, "Sequence") ? json_object_get(o, "processors") : NULL;
    size_t        n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *part = list ? json_array_get(list, i) : o;
        if (is_type(part, "TemplateProcessing")) {
            if (!read_template(b, part, where, e)) return false;
        } else if (!is_type(part, "ByteLevel")) { /* which only moves offsets */
            return unknown(part, "post_processor", "ByteLevel, TemplateProcessing, Sequence", where, e);
        }
    }
    return true;
}

/* --- Opening ----------------------------------------------------------------------------------------------------- */

/* Largest id + 1 over vocabulary and added tokens. */
static bool count_ids(const bpe *b, const json_t *vocab, int *out, const char *where, err *e)
{
    const char *key;
    json_t     *v;
    int32_t     id = 0, n = 0;
    json_object_foreach((json_t *)vocab, key, v)
    {
        if (!id_of(v, &id, where, "model.vocab", e)) return false;
        if (id >= n) n = id + 1;
    }
    for (int i = 0; i < b->n_added; i++)
        if (b->added[i].id >= n) n = b->added[i].id + 1;
    *out = n;
    return true;
}

static bool read_all(bpe *b, const json_t *root, const char *where, err *e)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *decoder = json_object_get(root, "decoder");
    int           n_ids;
    if (!json_is_object(model)) return err_set(e, ERR_FILE, "%s: model is missing", where);
    if (!is_type(model, "BPE")) return unknown(model, "model", "BPE", where, e);
    if (!json_is_object(vocab)) return err_set(e, ERR_FILE, "%s: model.vocab is missing", where);
    if (!json_is_array(json_object_get(model, "merges"))) return err_set(e, ERR_FILE, "%s: model.merges is missing", where);
    if (!is_type(decoder, "ByteLevel")) return unknown(decoder, "decoder", "ByteLevel", where, e);

    return list_or_none(root, "added_tokens", where, e)
        && read_added(b, json_object_get(root, "added_tokens"), where, e)
        && count_ids(b, vocab, &n_ids, where, e)
        && index_added(b, n_ids, where, e)
        && read_model(b, model, n_ids, where, e)
        && check_added(b, where, e)
        && read_normalizer(b, json_object_get(root, "normalizer"), where, e)
        && read_pre_tokenizer(b, json_object_get(root, "pre_tokenizer"), where, e)
        && read_post_processor(b, json_object_get(root, "post_processor"), where, e);
}

static bool open_json(bpe **out, json_t *root, const char *where, err *e)
{
    bool ok = false;
    bpe *b = mem_zalloc(1, sizeof *b);
    if (!b) err_set(e, ERR_MEMORY, "%s: out of memory", where);
    else if (read_all(b, root, where, e)) {
        *out = b;
        b = NULL;
        ok = true;
    }
    bpe_close(b);
    return ok;
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
    json_error_t je;
    json_t      *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &je);
    if (!root) return err_set(e, ERR_FILE, "%s: line %d: %s", where, je.line, je.text);
    bool ok = open_json(out, root, where, e);
    json_decref(root);
    return ok;
}

void bpe_close(bpe *b)
{
    if (!b) return;
    for (int i = 0; i < b->n_stages; i++) split_close(b->stage[i].pattern);
    for (int i = 0; i < b->n_added; i++) free(b->added[i].content);
    free(b->added);
    free(b->added_by_id);
    bpe_tables_free(&b->tables);
    free(b);
}
