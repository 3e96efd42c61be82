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

/* What one case came to. Plain values, no pointers; what does not go with its task is zero. */
typedef struct {
    task_kind   task;           /* a generated list of labels is TASK_LABELS as well */
    answer_kind type;           /* how the data set sorts the question */
    /* closed: answers are indices into the case's own closed set; -1: none */
    int      gold, answer;
    int      by_mode[2];        /* the fused answer in each score_mode; by_mode[the run's] == answer */
    int      by_head[N_HEADS];  /* of one head alone: p_R over its candidates only, fused again; -1: it found none */
    int      first;             /* of the first candidate */
    int      K, right;          /* candidates, and those whose own answer is right */
    int      head_K[N_HEADS], head_right[N_HEADS];
    /* closed and open */
    bool     exact;             /* answer and gold are equal when normalised */
    double   recall;            /* token recall of answer against gold */
    bool     yes_no;            /* the gold is yes or no */
    /* open */
    int      n_tokens;
    bool     cut_off;           /* no end token within max_new_tokens */
    /* labels, bit l of a set: label l. right counts the candidates whose set is the gold one */
    uint64_t gold_set, said_set;
    bool     generated;
    int      n_unparsed;        /* items of a generated list that are no label */
    /* all */
    bool     consistent;        /* all candidates have the same answer */
    int      n_cached;
    uint64_t flops;
    double   ms;
} case_result;

/* Fill *r from what diagnose() answered, of any task. a is scratch. */
bool case_result_of(case_result *r, const eval_case *c, const answer *ans, score_mode mode, float tau, arena *a,
                    err *e);

typedef struct report report;
bool report_new(report **out, err *e);
void report_free(report *r); /* NULL is fine */

/* Cases must be added in file order: sums and the order of the labels follow it, so the same results give the
 * same bits. names [n_names]: the closed set, or the labels, which are the same in all cases; none of an open
 * one. prob [n_names]: of each label; NULL: there are none. */
bool report_add(report *r, const case_result *c, const char *const *names, int n_names, const float *prob, err *e);
bool report_add_failed(report *r, int64_t i, const err *why, err *e);
void report_set_vision(report *r, vision_cache_stats v); /* of all workers */

int64_t report_failed(const report *r);
int64_t report_scored(const report *r); /* of all tasks */

/* What the run was, for the record. Strings are borrowed. */
typedef struct {
    const char *dataset, *kernels;
    const char *task;    /* its name; NULL: none */
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
