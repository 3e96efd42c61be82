/* report_impl.h - what a report has collected; internal to report.c and report_json.c. */
#ifndef JOMED_EVAL_REPORT_IMPL_H
#define JOMED_EVAL_REPORT_IMPL_H

#include "eval/report.h"

typedef struct { int64_t i; const char *problem; char text[sizeof ((err *)0)->text]; } failure;

struct report {
    case_result *cases; /* answers are label numbers here, of the whole run */
    int64_t      n, cap;
    failure     *failures;
    int64_t      n_failed, failed_cap;
    int64_t      n_of[3]; /* cases of each task_kind */
    vision_cache_stats vision;
    float       *prob;   /* [n_of[TASK_LABELS], n_labels]; NULL: generated lists have none */
    int64_t      prob_cap;
    char       **labels; /* in order of their first appearance: all closed sets, or the task's labels */
    int          n_labels, labels_cap;
    int32_t     *slots; /* open addressing over labels, -1 free */
    uint32_t     n_slots;
};

#endif
