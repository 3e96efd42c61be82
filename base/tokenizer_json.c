#include "base/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

const char *tokenizer_type(const json_t *o)
{
    const char *s = json_string_value(json_object_get(o, "type"));
    return s ? s : "(no type)";
}

bool tokenizer_is(const json_t *o, const char *type) { return strcmp(tokenizer_type(o), type) == 0; }

bool tokenizer_unknown(const json_t *o, const char *member, const char *known, const char *where, err *e)
{
    return err_set(e, ERR_FILE, "%s: %s is %.60s; known here: %s", where, member, tokenizer_type(o), known);
}

bool tokenizer_off(const json_t *o, const char *member, const char *name, const char *where, err *e)
{
    const json_t *v = json_object_get(o, name);
    bool off = !v || json_is_null(v) || json_is_false(v) ||
               (json_is_string(v) && json_string_length(v) == 0) ||
               (json_is_number(v) && json_number_value(v) == 0);
    return off || err_set(e, ERR_FILE, "%s: %s.%s is set, which is not supported here", where, member, name);
}

bool tokenizer_list(const json_t *o, const char *member, const char *where, err *e)
{
    const json_t *v = json_object_get(o, member);
    return !v || json_is_null(v) || json_is_array(v) ||
           err_set(e, ERR_FILE, "%s: %s is not a list", where, member);
}

bool tokenizer_id(const json_t *v, int32_t *out, const char *member, const char *where, err *e)
{
    json_int_t id = json_integer_value(v);
    *out = 0;
    if (!json_is_integer(v) || id < 0 || id >= TOKENIZER_MAX_IDS)
        return err_set(e, ERR_FILE, "%s: %s: an id is not a whole number from 0 to %d", where, member,
                       TOKENIZER_MAX_IDS - 1);
    *out = (int32_t)id;
    return true;
}

/* --- Added tokens --------------------------------------------------------------------------------------- */

static int by_content(const void *x, const void *y)
{
    return strcmp(((const added_token *)x)->content, ((const added_token *)y)->content);
}

static int by_id(const void *x, const void *y)
{
    int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
    return (a > b) - (a < b);
}

static bool read_one(added_tokens *t, const json_t *o, size_t i, bool strip_ok, const char *where, err *e)
{
    char        member[48];
    const char *content = json_string_value(json_object_get(o, "content"));
    added_token k = {0};
    snprintf(member, sizeof member, "added_tokens[%zu]", i);
    if (!tokenizer_off(o, member, "normalized", where, e) ||
        !tokenizer_off(o, member, "single_word", where, e))
        return false;
    if (!strip_ok &&
        (!tokenizer_off(o, member, "lstrip", where, e) || !tokenizer_off(o, member, "rstrip", where, e)))
        return false;
    if (!content || !*content)
        return err_set(e, ERR_FILE, "%s: %s.content is missing or empty", where, member);
    if (!tokenizer_id(json_object_get(o, "id"), &k.id, member, where, e)) return false;
    if (!json_bool_or(o, "special", false, &k.special, where, e)) return false;
    k.len = strlen(content);
    if (!(k.content = mem_strdup(content))) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    t->list[t->n++] = k;
    return true;
}

/* No content twice (the list is sorted), no id twice. */
static bool all_distinct(const added_tokens *t, const char *where, err *e)
{
    for (int i = 1; i < t->n; i++)
        if (strcmp(t->list[i - 1].content, t->list[i].content) == 0)
            return err_set(e, ERR_FILE, "%s: added_tokens: ids %d and %d have the same content", where,
                           (int)t->list[i - 1].id, (int)t->list[i].id);
    int32_t *ids = mem_alloc(((size_t)t->n + 1) * sizeof *ids);
    if (!ids) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    for (int i = 0; i < t->n; i++) ids[i] = t->list[i].id;
    qsort(ids, (size_t)t->n, sizeof *ids, by_id);
    bool ok = true;
    for (int i = 1; i < t->n; i++)
        if (ids[i - 1] == ids[i])
            ok = err_set(e, ERR_FILE, "%s: added_tokens: id %d is given twice", where, (int)ids[i]);
    free(ids);
    return ok;
}

bool added_tokens_read(added_tokens *t, const json_t *root, bool strip_ok, const char *where, err *e)
{
    const json_t *list = json_object_get(root, "added_tokens");
    size_t        n = json_array_size(list);
    *t = (added_tokens){0};
    if (!tokenizer_list(root, "added_tokens", where, e)) return false;
    if (n > TOKENIZER_MAX_IDS) return err_set(e, ERR_FILE, "%s: added_tokens is too long", where);
    if (!(t->list = mem_zalloc(n + 1, sizeof *t->list)))
        return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    for (size_t i = 0; i < n; i++)
        if (!read_one(t, json_array_get(list, i), i, strip_ok, where, e)) return false;
    qsort(t->list, (size_t)t->n, sizeof *t->list, by_content);
    return all_distinct(t, where, e);
}

void added_tokens_free(added_tokens *t)
{
    for (int i = 0; i < t->n; i++) free(t->list[i].content);
    free(t->list);
    *t = (added_tokens){0};
}

/* Where in list[lo, hi), whose contents agree in their first k bytes, byte k becomes at least c. */
static int lower_bound(const added_token *list, int lo, int hi, size_t k, int c)
{
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if ((uint8_t)list[mid].content[k] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

const added_token *added_tokens_prefix(const added_tokens *t, const char *s, size_t n)
{
    const added_token *best = NULL;
    int                lo = 0, hi = t->n;
    for (size_t k = 0; lo < hi; k++) {
        if (t->list[lo].len == k) best = &t->list[lo++]; /* sorts before those that it is a prefix of */
        if (k == n) break;
        int c = (uint8_t)s[k];
        lo = lower_bound(t->list, lo, hi, k, c);
        hi = lower_bound(t->list, lo, hi, k, c + 1);
    }
    return best;
}

const added_token *added_tokens_find(const added_tokens *t, const char *content)
{
    size_t             n = strlen(content);
    const added_token *k = n ? added_tokens_prefix(t, content, n) : NULL;
    return k && k->len == n ? k : NULL;
}

bool added_tokens_check(const added_tokens *t, const pieces *p, const char *where, err *e)
{
    for (int i = 0; i < t->n; i++) {
        const added_token *k = &t->list[i];
        const piece       *q = &p->piece[k->id];
        int32_t            other = pieces_find(p, k->content, k->len);
        if (q->len >= 0 && ((size_t)q->len != k->len || memcmp(p->pool + q->off, k->content, k->len) != 0))
            return err_set(e, ERR_FILE, "%s: added_tokens: id %d belongs to another piece in model.vocab",
                           where, (int)k->id);
        if (other >= 0 && other != k->id)
            return err_set(e, ERR_FILE, "%s: added_tokens: the token with id %d has id %d in model.vocab",
                           where, (int)k->id, (int)other);
    }
    return true;
}

bool tokenizer_count_ids(int *out, const json_t *vocab, const added_tokens *t, const char *where, err *e)
{
    const char *key;
    json_t     *v;
    int32_t     id, n = 0;
    json_object_foreach((json_t *)vocab, key, v)
    {
        if (!tokenizer_id(v, &id, "model.vocab", where, e)) return false;
        if (id >= n) n = id + 1;
    }
    for (int i = 0; i < t->n; i++)
        if (t->list[i].id >= n) n = t->list[i].id + 1;
    *out = n;
    return true;
}

/* --- Post-processor ------------------------------------------------------------------------------------- */

/* The ids of one special token of a template, put behind those in list. */
static bool template_ids(const json_t *o, const char *name, int32_t *list, int *n, int n_ids,
                         const char *where, err *e)
{
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(o, "special_tokens"), name ? name : ""), "ids");
    if (json_array_size(ids) == 0)
        return err_set(e, ERR_FILE, "%s: post_processor: a special token has no ids", where);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id;
        if (!tokenizer_id(json_array_get(ids, i), &id, "post_processor", where, e)) return false;
        if (id >= n_ids)
            return err_set(e, ERR_FILE, "%s: post_processor: id %d is not in the vocabulary", where, (int)id);
        if (*n == MAX_POST_TOKENS)
            return err_set(e, ERR_FILE, "%s: post_processor adds more than %d tokens", where,
                           MAX_POST_TOKENS);
        list[(*n)++] = id;
    }
    return true;
}

/* A template puts its tokens around what the ones before it made. */
static bool read_template(post_tokens *out, const json_t *o, int n_ids, const char *where, err *e)
{
    const json_t *single = json_object_get(o, "single");
    post_tokens   mine = {0};
    int           n_sequences = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *token = json_object_get(part, "SpecialToken"),
                     *sequence = json_object_get(part, "Sequence");
        const char   *name = json_string_value(json_object_get(token ? token : sequence, "id"));
        bool          ok = true;
        if (token) {
            ok = n_sequences ? template_ids(o, name, mine.tail, &mine.n_tail, n_ids, where, e)
                             : template_ids(o, name, mine.head, &mine.n_head, n_ids, where, e);
        } else if (name && strcmp(name, "A") == 0) {
            n_sequences++;
        } else {
            ok = err_set(e, ERR_FILE, "%s: post_processor.single[%zu] is no special token and not sequence A",
                         where, i);
        }
        if (!ok) return false;
    }
    if (n_sequences != 1)
        return err_set(e, ERR_FILE, "%s: post_processor.single has sequence A %d times", where, n_sequences);
    if (mine.n_head + out->n_head > MAX_POST_TOKENS || mine.n_tail + out->n_tail > MAX_POST_TOKENS)
        return err_set(e, ERR_FILE, "%s: post_processor adds more than %d tokens", where, MAX_POST_TOKENS);
    for (int i = 0; i < out->n_head; i++) mine.head[mine.n_head++] = out->head[i];
    for (int i = 0; i < mine.n_tail; i++) out->tail[out->n_tail++] = mine.tail[i];
    memcpy(out->head, mine.head, sizeof mine.head);
    out->n_head = mine.n_head;
    return true;
}

bool post_tokens_read(post_tokens *out, const json_t *root, int n_ids, const char *where, err *e)
{
    const json_t *o = json_object_get(root, "post_processor");
    *out = (post_tokens){0};
    if (!o || json_is_null(o)) return true;
    const json_t *list = tokenizer_is(o, "Sequence") ? json_object_get(o, "processors") : NULL;
    size_t        n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *part = list ? json_array_get(list, i) : o;
        if (tokenizer_is(part, "TemplateProcessing")) {
            if (!read_template(out, part, n_ids, where, e)) return false;
        } else if (!tokenizer_is(part, "ByteLevel")) { /* which only moves offsets */
            return tokenizer_unknown(part, "post_processor", "ByteLevel, TemplateProcessing, Sequence", where,
                                     e);
        }
    }
    return true;
}
