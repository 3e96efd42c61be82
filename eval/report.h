/* report.h - from the results of the cases to the numbers of a paper's table, as JSON for programs and as text.
 * All comes from one pass: what each candidate said is kept, so heads alone, the other fusion, the inconsistent cases
 * and the oracle need no second run of the reader. [Mazor and Hope, arXiv 2508.17394, sections on inconsistent
 * retrieval predictions and on the oracle; definitions in ../shared/specs/jomed.md section 7]
 * Threads  one report, one thread at a time. */
#ifndef JOMED_EVAL_REPORT_H
#define JOMED_EVAL_REPORT_H

#include <jansson.h>
#include <stdio.h>
#include "diagnose/json.h"
#include "eval/dataset.h"

/* What one case came to. Answers are indices into the case's own closed set; -1: none. Plain values, no pointers. */
typedef struct {
    int      gold, answer;
    int      by_mode[2];        /* the fused answer in each score_mode; by_mode[the run's] == answer */
    int      by_head[N_HEADS];  /* of one head alone: p_R over its candidates only, fused again; -1: it found none */
    int      first;             /* of the first candidate */
    int      K, right;          /* candidates, and those whose own answer is right */
    int      head_K[N_HEADS], head_right[N_HEADS];
    bool     consistent;        /* all candidates have the same answer */
    bool     exact;             /* answer and gold are equal when normalised */
    double   recall;            /* token recall of answer against gold */
    int      n_cached;
    uint64_t flops;
    double   ms;
} case_result;

/* Fill *r from what diagnose() answered. a is scratch. */
bool case_result_of(case_result *r, const eval_case *c, const answer *ans, score_mode mode, float tau, arena *a, err *e);

typedef struct report report;
bool report_new(report **out, err *e);
void report_free(report *r); /* NULL is fine */

/* Cases must be added in file order: sums and the order of the labels follow it, so the same results give the same bits. */
bool report_add(report *r, const case_result *c, const char *const *answers, int n_answers, err *e);
bool report_add_failed(report *r, int64_t i, const err *why, err *e);
void report_add_open(report *r); /* an open question: not scored, but counted */

int64_t report_failed(const report *r);
int64_t report_scored(const report *r);

/* What the run was, for the record. Strings are borrowed. */
typedef struct {
    const char *dataset, *kernels;
    int         k, workers;
    score_mode  mode;
    float       tau;
    double      seconds;
    int64_t     n_cases; /* asked for; fewer were run if interrupted */
    bool        interrupted;
} report_run;

/* Give *out: the summary object; members in docs/jomed.1. A number that is not defined (no such case) is null.
 * en may be NULL: no provenance then. ERR_MEMORY. */
bool report_json(json_t **out, const report *r, const report_run *run, const engine *en, err *e);
/* A table for people, from the same object. */
bool report_print(FILE *to, const json_t *summary, err *e);

#endif
