/* metrics.h - what an evaluation counts, on plain arrays: accuracy, macro-F1, exact match, token recall, and how far
 * to trust each (95 % intervals). Nothing here knows of models or files.
 * Threads  all functions are pure. */
#ifndef JOMED_EVAL_METRICS_H
#define JOMED_EVAL_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

typedef struct { double lo, hi; } interval; /* both NaN where there is nothing to count */

/* Wilson's score interval of a proportion, 95 % [Wilson 1927]. Unlike p +- 1.96 s.e. it stays inside [0, 1] and
 * has a width at 0 and at n right, which small medical test sets do reach. */
interval wilson(int64_t right, int64_t n);

/* Mean over labels of 2 tp / (predicted + actual), a label with neither counting as 0: scikit-learn's
 * f1_score(average="macro", zero_division=0). Labels are 0 .. n_labels - 1; an answer
 * of -1 is no label at all, so wrong.
 *   F1_SET      every label: the answer set. What the demo's goldens state, and the stricter of the two.
 *   F1_PRESENT  labels that occur in gold or answer: scikit-learn's default, and the released code's number.
 * pick: n indices into gold and answer (a resample); NULL: the sample itself. scratch [3 * n_labels]. NaN if n
 * == 0. */
typedef enum { F1_SET, F1_PRESENT } f1_labels;
double macro_f1(const int32_t *gold, const int32_t *answer, const int32_t *pick, int64_t n, int n_labels,
                f1_labels over, int64_t *scratch);

/* A small generator with a fixed sequence for a seed on every machine: splitmix64 [Steele et al. 2014]. */
uint64_t random_next(uint64_t *state);
uint32_t random_below(uint64_t *state, uint32_t n); /* 0 .. n - 1; biased by at most n / 2^64 */

/* Percentile bootstrap over cases, 95 % [Efron 1979]: the statistic of BOOTSTRAP_RESAMPLES samples of n cases
 * drawn with replacement, the 2.5th and 97.5th percentile of it. Cases are drawn whole, so what depends on
 * several candidates of one case is not taken for independent. The seed is fixed: the same results give the
 * same interval. ctx is passed through; pick is [n]. Samples whose statistic is NaN are left out; all of them:
 * NaN. n < 1: both NaN. ERR_MEMORY. */
enum { BOOTSTRAP_RESAMPLES = 2000 };
typedef double (*statistic)(void *ctx, const int32_t *pick, int64_t n);
bool bootstrap(interval *out, statistic f, void *ctx, int64_t n, arena *a, err *e);

int ascending(const void *a, const void *b); /* of doubles, for qsort() */
/* Value at q in [0, 1] of ascending v[n], linear between neighbours (numpy's default). NaN if n == 0. */
double quantile(const double *v, int64_t n, double q);

/* The normaliser of the released code's evaluation.py: lower case (each character by itself), ASCII punctuation
 * deleted, a / an / the deleted, white space collapsed. s is valid UTF-8; *out lives in a. */
bool answer_normalise(char **out, const char *s, arena *a, err *e);
/* Of two normalised strings: sum over words of min(count in answer, count in gold) / words in gold.
 * A gold without words is recalled by an answer without words only. */
double token_recall(const char *gold, const char *answer);

#endif
