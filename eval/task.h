/* task.h - what is asked about a data set, from a JSON file such as those in tasks/: the question, its answers or
 * labels, where a legend stands in the prompt, what the reader's pictures go through. docs/TASKS.md explains each
 * key and each file.
 *
 *   closed      one of the answers is right        question, answers; may have label_to_answer
 *   open        text of the reader's own           may have question, max_new_tokens
 *   multilabel  any of the labels are present      question, labels; may have answer_form, max_new_tokens
 *   vqa         closed or open by the question,    answers; may have max_new_tokens, language
 *               which each case brings
 *
 * Every kind may have name, note, legend, legend_place, image_policy. Without "kind" it is closed, so that
 * {"question": "...", "answers": [...], "label_to_answer": [...]} is a task file. A key that is unknown, or does not
 * go with the kind, is refused by name: a misspelt one must not be a default in silence.
 * Threads  read-only after open. */
#ifndef JOMED_EVAL_TASK_H
#define JOMED_EVAL_TASK_H

#include <jansson.h>
#include "base/arena.h"
#include "base/err.h"
#include "imaging/policy.h"

typedef enum { EVAL_CLOSED, EVAL_OPEN, EVAL_MULTILABEL, EVAL_VQA, N_EVAL_KINDS } eval_kind;
extern const char *const EVAL_KIND_NAME[N_EVAL_KINDS];

/* Where the legend stands. Always behind the query image, where it is read with the question: what stands before the
 * retrieved pair would make its prefix depend on the task. */
typedef enum { LEGEND_BEFORE_QUESTION, LEGEND_AFTER_QUESTION, N_LEGEND_PLACES } legend_place;

/* Strings and lists belong to the task. NULL, or 0: the file has none. */
typedef struct {
    char              *path;
    const char        *name;
    eval_kind          kind;
    const char        *question; /* NULL: each case has its own; else it stands for those of the cases */
    const char        *legend;
    legend_place       place;
    const char *const *answers;  /* vqa: the set of its closed questions */
    int                n_answers;
    const char *const *labels;
    int                n_labels;
    int               *label_to_answer; /* answers[label_to_answer[y]] is right for a case of label y */
    int                n_label_to_answer;
    bool               generated; /* multilabel: a generated list of indices instead of a probability per label */
    int                max_new_tokens;
    const char        *language;  /* of SLAKE's questions: those of another are no cases */
    bool               has_policy;
    image_policy       policy;
    json_t            *root;
} eval_task;

/* Give *out. ERR_FILE names the file, the key and what it must be. */
bool task_open(eval_task **out, const char *path, err *e);
void task_close(eval_task *t); /* NULL is fine */

/* The question as it goes to the reader: the task's own, else that of the case (which may be NULL only if the
 * task has one), with the legend. *out lives in a, or is borrowed from its argument or from t. */
bool task_question(const char **out, const eval_task *t, const char *own, arena *a, err *e);

#endif
