/* metrics.c - see metrics.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/text.h"
#include "eval/metrics.h"

/* The 97.5th percentile of the normal distribution. */
static const double Z = 1.959963984540054;

interval wilson(int64_t right, int64_t n)
{
    if (n <= 0) return (interval){NAN, NAN};
    double p = (double)right / (double)n, z2 = Z * Z / (double)n;
    double mid = (p + z2 / 2) / (1 + z2);
    double half = Z * sqrt(p * (1 - p) / (double)n + z2 / (4 * (double)n)) / (1 + z2);
    /* At the ends the two terms are equal, but not to the last bit. */
    return (interval){right == 0 ? 0 : mid - half, right == n ? 1 : mid + half};
}

double macro_f1(const int32_t *gold, const int32_t *answer, const int32_t *pick, int64_t n, int n_labels,
                f1_labels over, int64_t *scratch)
{
    int64_t *both = scratch, *said = scratch + n_labels, *was = scratch + 2 * (size_t)n_labels;
    memset(scratch, 0, 3 * (size_t)n_labels * sizeof *scratch);
    for (int64_t j = 0; j < n; j++) {
        int64_t i = pick ? pick[j] : j;
        was[gold[i]]++;
        if (answer[i] < 0) continue;
        said[answer[i]]++;
        both[gold[i]] += gold[i] == answer[i];
    }
    double sum = 0;
    int    counted = 0;
    for (int l = 0; l < n_labels; l++) {
        int64_t seen = said[l] + was[l];
        if (seen) sum += 2 * (double)both[l] / (double)seen;
        counted += seen > 0 || over == F1_SET;
    }
    return n > 0 && counted ? sum / counted : NAN;
}

uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The high half of a product instead of a remainder: no division, and the bias is out of sight [Lemire 2019]. */
uint32_t random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((unsigned __int128)random_next(state) * n >> 64);
}

int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double quantile(const double *v, int64_t n, double q)
{
    if (n <= 0) return NAN;
    double  at = q * (double)(n - 1);
    int64_t i = (int64_t)at;
    return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

bool bootstrap(interval *out, statistic f, void *ctx, int64_t n, arena *a, err *e)
{
    *out = (interval){NAN, NAN};
    if (n < 1) return true;
    if (n > INT32_MAX) return err_set(e, ERR_TOO_LARGE, "bootstrap: more than %d cases", INT32_MAX);
    arena_mark start = arena_here(a);
    int32_t   *pick = ARENA_NEW(a, int32_t, n, e);
    double    *v = ARENA_NEW(a, double, BOOTSTRAP_RESAMPLES, e);
    if (!pick || !v) return false;

    uint64_t random = 2508;
    int64_t  defined = 0;
    for (int b = 0; b < BOOTSTRAP_RESAMPLES; b++) {
        for (int64_t i = 0; i < n; i++) pick[i] = (int32_t)random_below(&random, (uint32_t)n);
        double x = f(ctx, pick, n);
        if (!isnan(x)) v[defined++] = x;
    }
    qsort(v, (size_t)defined, sizeof *v, ascending);
    *out = (interval){quantile(v, defined, 0.025), quantile(v, defined, 0.975)};
    arena_back(a, start);
    return true;
}

static bool is_punctuation(uint32_t c) /* Python's string.punctuation */
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

/* What Python's str.split() splits at. */
static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_article(const char *word, size_t n)
{
    return (n == 1 && word[0] == 'a') || (n == 2 && !memcmp(word, "an", 2)) || (n == 3 && !memcmp(word, "the", 3));
}

bool answer_normalise(char **out, const char *s, arena *a, err *e)
{
    /* Lower case may take more bytes than upper case (U+0130, U+023A), never more than twice as many. */
    char *to = arena_take_n(a, 2 * strlen(s) + 2, 1, e);
    if (!to) return false;
    size_t n = 0, word = 0; /* word: where the one being written begins */
    for (bool more = true; more;) {
        uint32_t c = *s ? utf8_next(&s) : ' ';
        more = *s || !is_space(c);
        if (is_punctuation(c)) continue;
        if (!is_space(c)) {
            n += (size_t)utf8_put(to + n, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
            continue;
        }
        if (is_article(to + word, n - word)) n = word;
        if (n > word) to[n++] = ' ';
        word = n;
    }
    if (n) n--; /* the space behind the last word */
    to[n] = 0;
    *out = to;
    return true;
}

typedef struct { const char *s; size_t n; } word;

static word next_word(const char **s)
{
    word w = {*s, strcspn(*s, " ")};
    *s += w.n + (w.s[w.n] == ' ');
    return w;
}

static int64_t count_word(const char *s, word w)
{
    int64_t n = 0;
    while (*s) {
        word o = next_word(&s);
        n += o.n == w.n && !memcmp(o.s, w.s, w.n);
    }
    return n;
}

/* Quadratic in the words of an answer, which are few: an answer has at most MAX_ANSWER_BYTES. */
double token_recall(const char *gold, const char *answer)
{
    if (!*gold) return *answer ? 0 : 1;
    int64_t words = 0, found = 0;
    for (const char *s = gold; *s;) {
        const char *before = s;
        word        w = next_word(&s);
        words++;
        /* The j-th occurrence in gold is found if answer has at least j of them. */
        int64_t nth = 1;
        for (const char *t = gold; t < before;) {
            word o = next_word(&t);
            nth += o.n == w.n && !memcmp(o.s, w.s, w.n);
        }
        found += count_word(answer, w) >= nth;
    }
    return (double)found / (double)words;
}
