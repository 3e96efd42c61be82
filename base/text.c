#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool reserve(text *t, size_t more)
{
    if (t->failed) return false;
    if (more > SIZE_MAX / 4 || t->len > SIZE_MAX / 4) return t->failed = true, false;
    size_t need = t->len + more + 1;
    if (need <= t->cap) return true;
    size_t cap = t->cap ? t->cap : 256;
    while (cap < need) cap *= 2;
    char *s = mem_realloc(t->s, cap);
    if (!s) return t->failed = true, false;
    t->s = s;
    t->cap = cap;
    return true;
}

void text_addn(text *t, const char *s, size_t n)
{
    if (!reserve(t, n)) return;
    if (n) memcpy(t->s + t->len, s, n); /* s may be NULL then */
    t->len += n;
    t->s[t->len] = 0;
}

void text_add(text *t, const char *s) { text_addn(t, s, strlen(s)); }

void text_printf(text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0) t->failed = true;
    else if (reserve(t, (size_t)n)) {
        vsnprintf(t->s + t->len, (size_t)n + 1, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void text_free(text *t)
{
    free(t->s);
    *t = (text){0};
}

/* Length of the UTF-8 sequence at s, 0 if it is not one. [RFC 3629, section 4] */
static size_t sequence(const unsigned char *s, size_t n)
{
    unsigned char c = s[0];
    size_t len = c < 0x80                 ? 1
                 : c >= 0xc2 && c <= 0xdf ? 2
                 : c >= 0xe0 && c <= 0xef ? 3
                 : c >= 0xf0 && c <= 0xf4 ? 4
                                          : 0;
    if (len == 0 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (c == 0xe0 && s[1] < 0xa0) return 0; /* overlong */
    if (c == 0xed && s[1] > 0x9f) return 0; /* surrogates */
    if (c == 0xf0 && s[1] < 0x90) return 0; /* overlong */
    if (c == 0xf4 && s[1] > 0x8f) return 0; /* above U+10FFFF */
    return len;
}

bool utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = sequence((const unsigned char *)s + i, n - i);
        if (len == 0) return false;
        i += len;
    }
    return true;
}

uint32_t utf8_next(const char **s)
{
    const unsigned char *p = (const unsigned char *)*s;
    uint32_t             c = p[0];
    int                  n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (n > 1) c &= 0xffu >> (n + 1);
    for (int i = 1; i < n; i++) c = c << 6 | (p[i] & 0x3f);
    *s += n;
    return c;
}

int utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) return out[0] = (char)cp, 1;
    if (cp < 0x800) return out[0] = (char)(0xc0 | cp >> 6), out[1] = (char)(0x80 | (cp & 0x3f)), 2;
    if (cp < 0x10000)
        return out[0] = (char)(0xe0 | cp >> 12), out[1] = (char)(0x80 | (cp >> 6 & 0x3f)),
               out[2] = (char)(0x80 | (cp & 0x3f)), 3;
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

static const char BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int base64_value(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_decode(uint8_t **out, size_t *n, const char *s, size_t len, const char *field, arena *a, err *e)
{
    static const char slug[] = "base64-malformed";
    int8_t            table[256];
    for (int c = 0; c < 256; c++) table[c] = (int8_t)base64_value((unsigned char)c);

    if (len % 4 != 0)
        return err_at(e, ERR_INPUT, slug, field,
                      "%s: base64 length %zu is not a multiple of 4 (is padding missing?)", field, len);
    size_t   pad = len ? (s[len - 1] == '=') + (s[len - 1] == '=' && s[len - 2] == '=') : 0;
    size_t   bytes = len / 4 * 3 - pad;
    uint8_t *o = arena_take(a, bytes + 3, e);
    if (!o) return false;
    for (size_t i = 0, j = 0; i < len; i += 4, j += 3) {
        bool     last = i + 4 == len;
        uint32_t v = 0;
        for (size_t c = 0; c < 4; c++) {
            int d = last && c >= 4 - pad ? 0 : table[(unsigned char)s[i + c]];
            if (d < 0)
                return err_at(e, ERR_INPUT, slug, field, "%s: not a base64 character at offset %zu", field, i + c);
            v = v << 6 | (uint32_t)d;
        }
        if (last && pad && (v & (pad == 1 ? 0xffu : 0xffffu)))
            return err_at(e, ERR_INPUT, slug, field, "%s: bits behind the end of the base64 data", field);
        o[j] = (uint8_t)(v >> 16);
        o[j + 1] = (uint8_t)(v >> 8);
        o[j + 2] = (uint8_t)v;
    }
    *out = o;
    *n = bytes;
    return true;
}

size_t base64_encoded_bytes(size_t n) { return (n + 2) / 3 * 4 + 1; }

void base64_encode(char *out, const uint8_t *in, size_t n)
{
    size_t j = 0;
    for (size_t i = 0; i < n; i += 3, j += 4) {
        size_t   left = n - i;
        uint32_t v = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
        out[j] = BASE64[v >> 18];
        out[j + 1] = BASE64[v >> 12 & 63];
        out[j + 2] = left > 1 ? BASE64[v >> 6 & 63] : '=';
        out[j + 3] = left > 2 ? BASE64[v & 63] : '=';
    }
    out[j] = 0;
}

void hex_encode(char *out, const uint8_t *in, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[in[i] >> 4];
        out[2 * i + 1] = digit[in[i] & 15];
    }
    out[2 * n] = 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool hex_decode(uint8_t *out, size_t n, const char *hex)
{
    for (size_t i = 0; i < n; i++) {
        int hi = hex_value(hex[2 * i]), lo = hi < 0 ? -1 : hex_value(hex[2 * i + 1]);
        if (lo < 0) return false;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return hex[2 * n] == 0;
}
