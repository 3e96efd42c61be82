/* bpe.c - text to ids and back, in the order of the tokenizers library:
 *   cut out added tokens -> NFC of the rest -> pre-tokenizer's pieces -> bytes -> merges -> post-processor
 * TRAP: added tokens go first, so neither NFC nor a merge ever reaches across one. */
#include "reader/bpe_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/unicode.h"

enum { MAX_TEXT_BYTES = 64 << 20 }; /* positions and counts fit an int whatever NFC does to the length */

/* One call of bpe_encode. */
typedef struct {
    const bpe  *b;
    arena      *a;
    err        *e;
    split_run  *run;
    bpe_scratch scratch;
    int32_t    *ids;
    int         n, room;
} encoder;

static bool ids_room(encoder *E, size_t more)
{
    if ((size_t)(E->room - E->n) >= more) return true;
    if (more > INT_MAX / 4 || E->n > INT_MAX / 4)
        return err_set(E->e, ERR_TOO_LARGE, "tokenizer: text too long");
    int      room = 2 * E->n + (int)more + 64;
    int32_t *ids = ARENA_NEW(E->a, int32_t, room, E->e);
    if (!ids) return false;
    if (E->n) memcpy(ids, E->ids, (size_t)E->n * sizeof *ids);
    E->ids = ids;
    E->room = room;
    return true;
}

static bool put_ids(encoder *E, const int32_t *ids, int n)
{
    if (!ids_room(E, (size_t)n)) return false;
    for (int i = 0; i < n; i++) E->ids[E->n++] = ids[i];
    return true;
}

/* --- One piece, one section ----------------------------------------------------------------------------- */

static bool encode_piece(encoder *E, const char *s, size_t n)
{
    const bpe *b = E->b;
    if (!ids_room(E, n)) return false;
    int32_t *ids = E->ids + E->n;
    if (b->ignore_merges) {
        /* TRAP: the vocabulary may spell special tokens; text must not become one by being a whole piece. */
        int32_t id = pieces_find(&b->pieces, s, n);
        int     k = id >= 0 ? b->added_by_id[id] : -1;
        if (id >= 0 && (k < 0 || !b->added.list[k].special)) {
            ids[0] = id;
            E->n++;
            return true;
        }
    }
    for (size_t i = 0; i < n; i++) ids[i] = b->byte_id[(uint8_t)s[i]];
    int left = bpe_merge(&b->merges, ids, (int)n, &E->scratch, E->a, E->e);
    if (left < 0) return false;
    E->n += left;
    return true;
}

static bool run_stage(encoder *E, int i, const char *s, const char *subject, size_t n);

/* s with a space in front, and its subject. */
static bool space_stage(encoder *E, int i, const char *s, const char *subject, size_t n)
{
    if (s[0] == ' ') return run_stage(E, i + 1, s, subject, n);
    char *t = ARENA_NEW(E->a, char, n + 1, E->e), *u = t;
    if (!t) return false;
    t[0] = ' ';
    memcpy(t + 1, s, n);
    if (subject != s) {
        if (!(u = ARENA_NEW(E->a, char, n + 1, E->e))) return false;
        u[0] = ' ';
        memcpy(u + 1, subject, n);
    }
    return run_stage(E, i + 1, t, u, n + 1);
}

/* Cut s at the matches: what lies between two is a piece, each match is one; the stage says which stay. */
static bool split_stage(encoder *E, int i, const char *s, const char *subject, size_t n)
{
    const bpe_stage *st = &E->b->stage[i];
    size_t           gap = 0, from = 0, start, end;
    while (from <= n) {
        if (!split_next(st->pattern, E->run, subject, n, from, &start, &end, E->e)) return false;
        if (st->keep_gap && !run_stage(E, i + 1, s + gap, subject + gap, start - gap)) return false;
        if (st->keep_match && !run_stage(E, i + 1, s + start, subject + start, end - start)) return false;
        if (start == n) break;
        gap = from = end;
        if (end == start) /* an empty match only cuts: go on behind the next character */
            do from++; while (from < n && ((uint8_t)s[from] & 0xc0) == 0x80);
    }
    return true;
}

/* subject: what patterns see in place of s, byte for byte at the same offsets (split_subject). */
static bool run_stage(encoder *E, int i, const char *s, const char *subject, size_t n)
{
    if (n == 0) return true;
    if (i == E->b->n_stages) return encode_piece(E, s, n);
    return E->b->stage[i].pattern ? split_stage(E, i, s, subject, n) : space_stage(E, i, s, subject, n);
}

/* Text between added tokens. */
static bool encode_section(encoder *E, const char *s, size_t n)
{
    const char *t = s, *subject;
    size_t      len = n;
    if (n == 0) return true;
    return (!E->b->nfc || unicode_nfc(s, n, &t, &len, E->a, E->e)) &&
           split_subject(&subject, t, len, E->a, E->e) && run_stage(E, 0, t, subject, len);
}

/* --- Added tokens --------------------------------------------------------------------------------------- */

static bool encode_with_added(encoder *E, const char *s, size_t n)
{
    size_t section = 0;
    for (size_t i = 0; i < n;) {
        const added_token *t = added_tokens_prefix(&E->b->added, s + i, n - i);
        if (!t) { i++; continue; }
        if (!encode_section(E, s + section, i - section) || !put_ids(E, &t->id, 1)) return false;
        i += t->len;
        section = i;
    }
    return encode_section(E, s + section, n - section);
}

int bpe_special(const bpe *b, const char *content)
{
    const added_token *t = added_tokens_find(&b->added, content);
    return t ? t->id : -1;
}

/* --- The two directions --------------------------------------------------------------------------------- */

bool bpe_encode(const bpe *b, const char *s, size_t n, bool special, bool post, int32_t **ids, int *n_ids,
                arena *a, err *e)
{
    if (n > MAX_TEXT_BYTES)
        return err_set(e, ERR_TOO_LARGE, "tokenizer: text of more than %d bytes", MAX_TEXT_BYTES);
    if (!utf8_valid(s, n))
        return err_at(e, ERR_UNUSABLE, "text-not-utf8", NULL, "tokenizer: text is not valid UTF-8");

    encoder E = {.b = b, .a = a, .e = e};
    if (!split_begin(&E.run, a, e) || !ids_room(&E, n / 3)) return false; /* a first guess: 3 bytes a token */
    if (post && !put_ids(&E, b->post.head, b->post.n_head)) return false;
    if (!(special ? encode_with_added(&E, s, n) : encode_section(&E, s, n))) return false;
    if (post && !put_ids(&E, b->post.tail, b->post.n_tail)) return false;
    *ids = E.ids;
    *n_ids = E.n;
    return true;
}

/* Bytes of one id; an id that the file does not have (rows that pad the embedding) is an error. */
static bool id_bytes(const bpe *b, int32_t id, const char **s, size_t *n, err *e)
{
    if (id < 0 || id >= b->pieces.n_ids)
        return err_set(e, ERR_BUG, "tokenizer: id %d is outside the vocabulary", (int)id);
    int k = b->added_by_id[id];
    const piece *p = &b->pieces.piece[id];
    if (k < 0 && p->len < 0) return err_set(e, ERR_BUG, "tokenizer: id %d is not in use", (int)id);
    *s = k >= 0 ? b->added.list[k].content : b->pieces.pool + p->off;
    *n = k >= 0 ? b->added.list[k].len : (size_t)p->len;
    return true;
}

bool bpe_decode(const bpe *b, const int32_t *ids, int n, char **s, size_t *len, arena *a, err *e)
{
    const char *part;
    size_t      n_part, total = 0;
    for (int i = 0; i < n; i++) {
        if (!id_bytes(b, ids[i], &part, &n_part, e)) return false;
        total += n_part;
    }
    char *out = arena_take(a, total + 1, e), *o = out;
    if (!out) return false;
    for (int i = 0; i < n; i++) {
        if (!id_bytes(b, ids[i], &part, &n_part, e)) return false;
        memcpy(o, part, n_part);
        o += n_part;
    }
    *s = out;
    *len = total;
    return true;
}

void bpe_text(const bpe *b, int32_t id, const char **s, size_t *n)
{
    err none = {0};
    int k = id >= 0 && id < b->pieces.n_ids ? b->added_by_id[id] : -1;
    *n = 0;
    if ((k < 0 || !b->added.list[k].special) && !id_bytes(b, id, s, n, &none)) *n = 0;
}

int bpe_vocab(const bpe *b) { return b->pieces.n_ids; }
