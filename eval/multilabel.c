/* multilabel.c - see multilabel.h. Probabilities are sorted once per label; a resample of the bootstrap is a
 * weight per case (how often it was drawn), so that its curve is one walk down the sorted list. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "eval/multilabel.h"

typedef struct { float prob; int32_t i; } ranked;

/* A sample: all cases once, or a resample. */
typedef struct {
    const multilabel_cases *c;
    ranked  *rank;   /* [L,n] by falling probability; NULL without probabilities */
    int32_t *weight; /* [n] */
    int      label;  /* that the statistic is about */
} sample;

static int falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->prob != y->prob) return x->prob < y->prob ? 1 : -1;
    return (x->i > y->i) - (x->i < y->i);
}

static bool sample_take(sample *s, const multilabel_cases *c, arena *a, err *e)
{
    size_t n = (size_t)c->n, L = (size_t)c->L;
    *s = (sample){.c = c, .weight = ARENA_NEW(a, int32_t, n + 1, e)};
    if (!s->weight || !c->prob) return s->weight != NULL;
    if (!(s->rank = arena_take_n(a, n * L + 1, sizeof *s->rank, e))) return false;
    for (size_t l = 0; l < L; l++) {
        for (size_t i = 0; i < n; i++) s->rank[l * n + i] = (ranked){c->prob[i * L + l], (int32_t)i};
        qsort(s->rank + l * n, n, sizeof *s->rank, falling);
    }
    return true;
}

static void weigh(sample *s, const int32_t *pick, int64_t n)
{
    for (int64_t i = 0; i < s->c->n; i++) s->weight[i] = !pick;
    for (int64_t j = 0; pick && j < n; j++) s->weight[pick[j]]++;
}

/* ---- one label, of the sample as weighed ---- */

typedef double (*of_label)(const sample *s, int l);

static double f1_of(const sample *s, int l)
{
    int64_t both = 0, any = 0;
    for (int64_t i = 0; i < s->c->n; i++) {
        size_t at = (size_t)i * (size_t)s->c->L + (size_t)l;
        both += s->weight[i] * (s->c->gold[at] & s->c->said[at]);
        any += s->weight[i] * (s->c->gold[at] + s->c->said[at]);
    }
    return any ? 2 * (double)both / (double)any : NAN;
}

static bool has(const sample *s, int l, int32_t i) { return s->c->gold[(size_t)i * (size_t)s->c->L + (size_t)l]; }

static void count_classes(const sample *s, int l, int64_t *with, int64_t *without)
{
    *with = *without = 0;
    for (int64_t i = 0; i < s->c->n; i++) *(has(s, l, (int32_t)i) ? with : without) += s->weight[i];
}

/* Cases of the next probability on the list, from *at on: how many have the label, how many lack it. */
static bool next_threshold(const sample *s, int l, int64_t *at, int64_t *with, int64_t *without)
{
    const ranked *r = s->rank + (size_t)l * (size_t)s->c->n;
    int64_t       start = *at, n = s->c->n;
    *with = *without = 0;
    for (; *at < n && r[*at].prob == r[start].prob; ++*at)
        *(has(s, l, r[*at].i) ? with : without) += s->weight[r[*at].i];
    return *at > start;
}

static double auroc_of(const sample *s, int l)
{
    int64_t P, N, with, without, twice = 0, above = 0; /* pairs in the right order, doubled: a tie counts one */
    count_classes(s, l, &P, &N);
    if (!P || !N) return NAN;
    for (int64_t at = 0; next_threshold(s, l, &at, &with, &without); above += without)
        twice += with * (2 * (N - above - without) + without);
    return (double)twice / (2.0 * (double)P * (double)N);
}

static double average_precision_of(const sample *s, int l)
{
    int64_t P, N, with, without, found = 0, taken = 0;
    double  sum = 0;
    count_classes(s, l, &P, &N);
    if (!P || !N) return NAN;
    for (int64_t at = 0; next_threshold(s, l, &at, &with, &without);) {
        found += with;
        taken += with + without;
        if (with) sum += (double)with / (double)P * ((double)found / (double)taken);
    }
    return sum;
}

/* ---- the statistics that are resampled ---- */

typedef struct { sample *s; of_label f; bool undefined_is_zero; } mean_of;

static double mean_over_labels(void *ctx, const int32_t *pick, int64_t n)
{
    const mean_of *m = ctx;
    double         sum = 0;
    int            counted = 0;
    weigh(m->s, pick, n);
    for (int l = 0; l < m->s->c->L; l++) {
        double x = m->f(m->s, l);
        if (!isnan(x)) sum += x;
        counted += !isnan(x) || m->undefined_is_zero;
    }
    return counted ? sum / counted : NAN;
}

static double of_one_label(void *ctx, const int32_t *pick, int64_t n)
{
    const mean_of *m = ctx;
    weigh(m->s, pick, n);
    return m->f(m->s, m->s->label);
}

/* Value and interval; an undefined value has no interval, though some resample may have had one. */
static bool measure(estimate *out, statistic f, mean_of *m, arena *a, err *e)
{
    *out = (estimate){NAN, {NAN, NAN}};
    if (m->s->c->n < 1) return true;
    out->value = f(m, NULL, m->s->c->n);
    return isnan(out->value) || bootstrap(&out->ci, f, m, m->s->c->n, a, e);
}

static bool measure_label(label_scores *out, sample *s, int l, arena *a, err *e)
{
    const multilabel_cases *c = s->c;
    mean_of   f1 = {s, f1_of, false}, auroc = {s, auroc_of, false}, ap = {s, average_precision_of, false};
    estimate  none = {NAN, {NAN, NAN}};
    *out = (label_scores){.auroc = none, .average_precision = none};
    for (int64_t i = 0; i < c->n; i++) {
        out->n_gold += c->gold[(size_t)i * (size_t)c->L + (size_t)l];
        out->n_said += c->said[(size_t)i * (size_t)c->L + (size_t)l];
    }
    s->label = l;
    return measure(&out->f1, of_one_label, &f1, a, e)
        && (!s->rank || (measure(&out->auroc, of_one_label, &auroc, a, e)
                         && measure(&out->average_precision, of_one_label, &ap, a, e)));
}

bool multilabel_score(multilabel_scores *out, const multilabel_cases *c, arena *a, err *e)
{
    sample            s;
    multilabel_scores y = {.auroc = {NAN, {NAN, NAN}}, .average_precision = {NAN, {NAN, NAN}}};
    if (c->n > INT32_MAX) return err_set(e, ERR_TOO_LARGE, "multi-label metrics: more than %d cases", INT32_MAX);
    if (!(y.label = ARENA_NEW(a, label_scores, c->L, e)) || !sample_take(&s, c, a, e)) return false;

    for (int64_t i = 0; i < c->n; i++) {
        size_t at = (size_t)i * (size_t)c->L;
        y.right += memcmp(c->gold + at, c->said + at, (size_t)c->L) == 0;
    }
    y.subset_accuracy = (estimate){c->n > 0 ? (double)y.right / (double)c->n : NAN, wilson(y.right, c->n)};
    for (int l = 0; l < c->L; l++) {
        if (!measure_label(&y.label[l], &s, l, a, e)) return false;
        y.n_undefined += y.label[l].n_gold == 0 || y.label[l].n_gold == c->n;
    }
    mean_of f1 = {&s, f1_of, true}, present = {&s, f1_of, false};
    mean_of auroc = {&s, auroc_of, false}, ap = {&s, average_precision_of, false};
    bool    ok = measure(&y.macro_f1, mean_over_labels, &f1, a, e)
              && measure(&y.macro_f1_present, mean_over_labels, &present, a, e)
              && (!s.rank || (measure(&y.auroc, mean_over_labels, &auroc, a, e)
                              && measure(&y.average_precision, mean_over_labels, &ap, a, e)));
    if (!ok) return false;
    *out = y;
    return true;
}

/* ---- the generated list ---- */

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The index that [s, end) spells; -1: none below L. */
static int index_of(const char *s, const char *end, int L)
{
    int v = 0;
    if (s == end || (*s == '0' && end - s > 1)) return -1;
    for (; s < end; s++) {
        if (*s < '0' || *s > '9') return -1;
        v = 10 * v + (*s - '0');
        if (v >= L) return -1;
    }
    return v;
}

int label_list_parse(uint8_t *set, int L, const char *text)
{
    int unparsed = 0;
    memset(set, 0, (size_t)L);
    while (is_blank(*text)) text++;
    if (!*text) return 0;
    for (bool more = true; more;) {
        const char *end = text + strcspn(text, ","), *stop = end;
        while (text < stop && is_blank(*text)) text++;
        while (stop > text && is_blank(stop[-1])) stop--;
        int i = index_of(text, stop, L);
        if (i >= 0) set[i] = 1;
        else unparsed++;
        more = *end == ',';
        text = end + 1;
    }
    return unparsed;
}
