#include "base/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "base/text.h"

enum {
    N_CLASSES = 256, /* combining classes are 0..254 */
    MAX_PARTS = 8    /* code points that one becomes; the longest canonical decomposition has four */
};

static int combining_class(int32_t cp) { return utf8proc_get_property(cp)->combining_class; }

/* Sort the marks of run [n] by class, stably: a counting sort, so a run of any length takes linear time. */
static void order_run(int32_t *run, size_t n, int32_t *tmp)
{
    size_t start[N_CLASSES + 1] = {0};
    for (size_t i = 0; i < n; i++) start[combining_class(run[i]) + 1]++;
    for (int c = 0; c < N_CLASSES; c++) start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++) tmp[start[combining_class(run[i])]++] = run[i];
    memcpy(run, tmp, n * sizeof *run);
}

/* Canonical ordering [Unicode, section 3.11, D109]: marks between two starters stand by class. */
static bool order_marks(int32_t *cp, size_t n, arena *a, err *e)
{
    int32_t *tmp = NULL;
    for (size_t i = 0; i < n;) {
        size_t first = i;
        bool   sorted = true;
        for (int last = 0, c; i < n && (c = combining_class(cp[i])) != 0; last = c, i++)
            sorted = sorted && c >= last;
        if (!sorted) {
            if (!tmp && !(tmp = ARENA_NEW(a, int32_t, n, e))) return false;
            order_run(cp + first, i - first, tmp);
        }
        if (i == first) i++; /* a starter */
    }
    return true;
}

/* Decomposition of one code point. Returns how many it becomes: at most MAX_PARTS. */
static size_t decompose(int32_t cp, int32_t out[MAX_PARTS])
{
    int              bound = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(cp, out, MAX_PARTS, UTF8PROC_DECOMPOSE, &bound);
    return n > 0 && n <= MAX_PARTS ? (size_t)n : 0;
}

bool unicode_nfd(const int32_t *cp, size_t n, int32_t **out, size_t *len, arena *a, err *e)
{
    size_t m = 0, at = 0;
    int32_t part[MAX_PARTS];
    for (size_t i = 0; i < n; i++) m += cp[i] < 0x80 ? 1 : decompose(cp[i], part);
    int32_t *d = ARENA_NEW(a, int32_t, m, e);
    if (!d) return false;
    for (size_t i = 0; i < n; i++) {
        size_t k = 1;
        if (cp[i] < 0x80) part[0] = cp[i];
        else k = decompose(cp[i], part);
        memcpy(d + at, part, k * sizeof *d);
        at += k;
    }
    *out = d;
    *len = m;
    return order_marks(d, m, a, e);
}

/* True when every code point lies below U+0300, the first mark: nothing composes, so such text is NFC. */
static bool is_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)s[i] >= 0xcc) return false; /* 0xcc begins U+0300 */
    return true;
}

bool unicode_nfc(const char *s, size_t n, const char **out, size_t *len, arena *a, err *e)
{
    *out = s;
    *len = n;
    if (is_plain(s, n)) return true;

    int32_t *cp = ARENA_NEW(a, int32_t, n, e), *d;
    size_t   n_cp = 0, m;
    if (!cp) return false;
    for (const char *p = s; p < s + n;) cp[n_cp++] = (int32_t)utf8_next(&p);
    if (!unicode_nfd(cp, n_cp, &d, &m, a, e)) return false;
    m = (size_t)utf8proc_normalize_utf32(d, (utf8proc_ssize_t)m, UTF8PROC_STABLE | UTF8PROC_COMPOSE);

    char *o = ARENA_NEW(a, char, 4 * m + 1, e);
    if (!o) return false;
    *out = o;
    for (size_t i = 0; i < m; i++) o += utf8_put(o, (uint32_t)d[i]);
    *len = (size_t)(o - *out);
    return true;
}
