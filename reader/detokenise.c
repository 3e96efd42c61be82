#include "reader/detokenise.h"

#include <string.h>

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */

static bool put(detokeniser *d, const void *s, size_t n, err *e)
{
    if (d->cap - d->len <= n) {
        size_t cap = 2 * (d->len + n) + 64;
        char  *text = arena_take(d->a, cap, e);
        if (!text) return false;
        if (d->len) memcpy(text, d->text, d->len);
        d->text = text;
        d->cap = cap;
    }
    memcpy(d->text + d->len, s, n);
    d->len += n;
    d->text[d->len] = 0;
    return true;
}

/* Bytes of a character that begins so; 0: no character does. */
static int character_bytes(uint8_t lead)
{
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* May c follow what is in part? The second byte alone tells overlong forms, surrogates and what lies above
 * U+10FFFF. */
static bool may_follow(const detokeniser *d, uint8_t c)
{
    uint8_t least = 0x80, most = 0xbf;
    if (d->n_part == 1) {
        if (d->part[0] == 0xe0) least = 0xa0;
        if (d->part[0] == 0xf0) least = 0x90;
        if (d->part[0] == 0xed) most = 0x9f;
        if (d->part[0] == 0xf4) most = 0x8f;
    }
    return c >= least && c <= most;
}

static bool put_byte(detokeniser *d, uint8_t c, err *e)
{
    if (d->n_part && !may_follow(d, c)) {
        d->n_part = 0;
        if (!put(d, REPLACEMENT, 3, e)) return false;
    }
    if (d->n_part == 0 && (c == 0 || character_bytes(c) == 0)) return put(d, REPLACEMENT, 3, e);
    d->part[d->n_part++] = c;
    if (d->n_part < character_bytes(d->part[0])) return true;
    size_t n = (size_t)d->n_part;
    d->n_part = 0;
    return put(d, d->part, n, e);
}

bool detokenise_begin(detokeniser *d, const bpe *b, size_t cap, arena *a, err *e)
{
    *d = (detokeniser){.b = b, .a = a, .cap = cap ? cap : 1};
    d->text = arena_take(a, d->cap, e);
    return d->text != NULL;
}

bool detokenise(detokeniser *d, int32_t id, const char **fresh, size_t *n_fresh, err *e)
{
    const char *s;
    size_t      n, from = d->len;
    bpe_text(d->b, id, &s, &n);
    for (size_t i = 0; i < n; i++)
        if (!put_byte(d, (uint8_t)s[i], e)) return false;
    *fresh = d->text + from;
    *n_fresh = d->len - from;
    return true;
}

bool detokenise_end(detokeniser *d, const char **fresh, size_t *n_fresh, err *e)
{
    size_t from = d->len;
    bool   cut = d->n_part > 0;
    d->n_part = 0;
    if (cut && !put(d, REPLACEMENT, 3, e)) return false;
    *fresh = d->text + from;
    *n_fresh = d->len - from;
    return true;
}
