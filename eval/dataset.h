/* dataset.h - cases to evaluate: an image, a question, what can be answered and what is right. Three kinds of file:
 *   JSONL     one object a line: image_path (below --images), question, answer, and for closed questions answers;
 *             optional study and patient (keys that the retrieval then leaves out), answer_type (OPEN or CLOSED).
 *             Other members are ignored: such files carry the fields of the tools that made them. A line without
 *             answers is an open question. With a task file, that says what is asked.
 *   MedMNIST  an .npz archive, one split of it, and a closed task with label_to_answer
 *   VQA       VQA-RAD's or SLAKE's own JSON, see vqa.h
 * A case is read when it is asked for, so a set may be larger than memory, and one bad case is one error.
 * Threads  one data set, one thread at a time. */
#ifndef JOMED_EVAL_DATASET_H
#define JOMED_EVAL_DATASET_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "eval/task.h"

typedef struct dataset dataset;

/* How the data set itself sorts a question. */
typedef enum { ANSWER_UNTYPED, ANSWER_CLOSED, ANSWER_OPEN } answer_kind;

/* Strings and bytes live in the arena that the case was read into. */
typedef struct {
    const uint8_t     *image; /* PNG or JPEG, as a request would carry it */
    size_t             image_bytes;
    const char        *question;
    const char *const *answers;   /* NULL and no labels: an open question */
    int                n_answers;
    int                gold;      /* answers[gold] is right */
    const char        *gold_text; /* as the file has it; NULL until it is known */
    const char *const *labels;    /* any of which are right: those with present[l] */
    int                n_labels;
    const uint8_t     *present;   /* [n_labels] */
    bool               generated; /* which labels: a generated list of their indices, "3, 7" */
    int                max_new_tokens; /* of what is decoded; 0: the default */
    answer_kind        type;
    const char        *study, *patient;
} eval_case;

/* Give *out. ERR_FILE names the file and what is wrong with it as a whole: missing, empty, no such split, a task
 * that it cannot be asked. images: the folder that the pictures' paths start from. The task is kept, and may be
 * NULL (JSONL: each line says all; VQA: kind vqa, yes and no being the closed set). */
bool dataset_open_jsonl(dataset **out, const char *path, const char *images, const eval_task *task, err *e);
bool dataset_open_medmnist(dataset **out, const char *path, const char *split, const eval_task *task, err *e);
bool dataset_open_vqa(dataset **out, const char *path, const char *images, const eval_task *task, err *e);
void dataset_close(dataset *d); /* NULL is fine */

int64_t     dataset_count(const dataset *d);
const char *dataset_name(const dataset *d); /* its path, and the split */

/* The same number for cases of one picture, which are best answered one after the other; 0: it has no name to
 * tell by. */
uint64_t dataset_picture(const dataset *d, int64_t i);

/* Read case i into a; quickest in order (a step back in a large archive starts it over). Errors are of that case
 * alone and say where it stands (file:line, file[record] or split/item), never what it says: ERR_INPUT
 * line-malformed, record-malformed, image-outside, gold-not-an-answer, ERR_FILE image-missing. */
bool dataset_case(dataset *d, int64_t i, eval_case *out, arena *a, err *e);

#endif
