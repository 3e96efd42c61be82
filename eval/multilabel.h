/* multilabel.h - what an evaluation counts where a case may have any number of L labels, on plain arrays. Per
 * label: F1, area under the ROC curve, average precision; over all: subset accuracy and the means.
 * Each with a 95 % interval.
 *
 *   subset accuracy     share of cases whose set is exactly right
 *   F1                  2 tp / (said + gold); neither said nor gold: undefined
 *   AUROC               chance that a case with the label has the higher probability than one without, a tie
 *                       counting half [Hanley and McNeil 1982]
 *   average precision   sum over thresholds of (recall gained) * precision, equal probabilities being one
 *                       threshold: steps, no interpolation, as scikit-learn has it
 *
 * AUROC and average precision need cases with the label and cases without: a label that lacks either is undefined
 * (NaN), left out of the mean, and counted.
 * Threads  all functions are pure. */
#ifndef JOMED_EVAL_MULTILABEL_H
#define JOMED_EVAL_MULTILABEL_H

#include "eval/metrics.h"

typedef struct {
    int64_t        n; /* cases */
    int            L;
    const uint8_t *gold; /* [n,L] 1: the case has the label */
    const uint8_t *said; /* [n,L] 1: the answer has it */
    const float   *prob; /* [n,L] p(label|q), no NaN; NULL: only sets are known (a generated list) */
} multilabel_cases;

typedef struct { double value; interval ci; } estimate; /* NaN, all three: undefined */

typedef struct {
    int64_t  n_gold, n_said;
    estimate f1, auroc, average_precision;
} label_scores;

typedef struct {
    int64_t       right;             /* cases whose set is exactly right */
    estimate      subset_accuracy;   /* interval: Wilson's */
    estimate      macro_f1;          /* over all labels, undefined ones counting 0: scikit-learn's zero_division=0 */
    estimate      macro_f1_present;  /* over those that are defined */
    estimate      auroc, average_precision; /* means over the labels where they are defined; NaN without prob */
    int           n_undefined;       /* labels that lack cases with or cases without */
    label_scores *label;             /* [L] */
} multilabel_scores;

/* All of it; *out lives in a. The other intervals are bootstrap()'s: cases are drawn whole, and a resample in
 * which a label is undefined leaves it out. n < 1: everything is NaN. ERR_MEMORY. */
bool multilabel_score(multilabel_scores *out, const multilabel_cases *c, arena *a, err *e);

/* The generated form of the paper, a comma-separated list of class indices: "3, 7". set [L] is written: which of
 * 0 .. L - 1 are in it, however often. An item is digits without a leading zero, white space around it aside; a
 * text without any is the empty set. Returns how many items are something else or out of range: they add nothing to
 * the set. */
int label_list_parse(uint8_t *set, int L, const char *text);

#endif
