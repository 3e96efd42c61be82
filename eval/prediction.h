/* prediction.h - one line of a predictions file: what a case came to, for scripts and for comparing two runs.
 *   {"case": 0, "gold": "Yes", "answer": "No", "probs": [..], "consistent": true, "candidates": [{"id": 5,
 *   "heads": ["image"],
 *    "scores": [..], "weight": 0.25, "logp": [..]}]}
 * scores goes with heads; logp and probs go with the case's answers. A decoded answer has log_likelihood and
 * tokens, and each candidate its log_likelihood and whether it agrees. Of labels, gold and answer are lists of
 * names, and probs, also each candidate's, go with the task's labels; a generated list has text and unparsed
 * instead. A case that failed has "error" instead of an answer. Line i is case i, but for a run that was
 * interrupted, which leaves out what was not answered. Numbers have the 9 digits that give back a float exactly. */
#ifndef JOMED_EVAL_PREDICTION_H
#define JOMED_EVAL_PREDICTION_H

#include "diagnose/diagnose.h"
#include "eval/dataset.h"
#include "eval/report.h"

/* Each gives *line, ended by a newline (free()). ERR_MEMORY. r: what the report makes of ans. */
bool prediction_of(char **line, int64_t i, const eval_case *c, const answer *ans, const case_result *r, err *e);
bool prediction_failed(char **line, int64_t i, const char *gold /* NULL: not known */, const err *why, err *e);

/* All of line at once, so that a run that is killed leaves whole lines. ERR_FILE. */
bool prediction_write(int fd, const char *line, err *e);

#endif
