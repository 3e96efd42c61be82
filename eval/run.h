/* run.h - all cases of a data set through diagnose(), several at a time, their results in file order.
 * There is no second path: a case is the request that the server would make of it.
 *
 *   worker 0: case 0 ---+--- case 2 ---- case 4     A worker takes the next case, answers it and puts the result in
 *   worker 1: case 1 ---------- case 3 ---- ...     the case's slot. The calling thread empties slots in order into
 *   caller  :           0  1    2       3           the report and the predictions file. Same bits for any number
 *                                                   of workers: cases share nothing but caches, which are exact.
 *
 * Questions about one picture (dataset_picture) are taken together, by one worker and one after the other,
 * wherever they stand in the file: the picture's vision tokens are then computed once, and its candidates'
 * prefixes are still in the cache. Results that are ahead of the file's order wait for their turn, about a
 * kilobyte each. */
#ifndef JOMED_EVAL_RUN_H
#define JOMED_EVAL_RUN_H

#include "diagnose/diagnose.h"
#include "eval/dataset.h"
#include "eval/report.h"

typedef struct {
    const engine   *en;
    dataset        *set;
    kernels *const *kern;        /* [workers] */
    int             workers;
    int64_t         n_cases;     /* the first n_cases of the set */
    int             k;           /* per head */
    score_mode      mode;
    bool            exclude_self;
    int             predictions; /* file descriptor; -1: none */
    /* Called by the calling thread a few times a second and at the end, with how many were answered; false: start no
     * further case. NULL: never */
    bool (*progress)(void *ctx, int64_t done, int64_t n_cases);
    void  *progress_ctx;
} run_plan;

/* Run them. *done: cases in the report and the file; after progress() said stop fewer than n_cases, namely those
 * that were answered by then. A case that fails is a line of the report, not an error of the run; the run fails
 * for lack of memory of its own, a predictions file that cannot be written (ERR_FILE), or a device that is lost
 * (ERR_GPU). */
bool run_cases(const run_plan *p, report *to, int64_t *done, err *e);

#endif
