/* dataset.h - cases to evaluate: an image, a question, the closed set of answers and the right one.
 * Two kinds of file:
 *   JSONL    one object a line: image_path (below --images), question, answer, and for closed questions answers;
 *            optional study and patient (keys that the retrieval then leaves out). Other members are ignored: such
 *            files carry the fields of the tools that made them. A line without answers is an open question.
 *   MedMNIST an .npz archive, one split of it, and a task file:
 *            {"question": "...", "answers": [...], "label_to_answer": [...]}
 * A case is read when it is asked for, so a set may be larger than memory, and one bad case is one error.
 * Threads  one data set, one thread at a time. */
#ifndef JOMED_EVAL_DATASET_H
#define JOMED_EVAL_DATASET_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

typedef struct dataset dataset;

/* Strings and bytes live in the arena that the case was read into. */
typedef struct {
    const uint8_t     *image; /* PNG or JPEG, as a request would carry it */
    size_t             image_bytes;
    const char        *question;
    const char *const *answers; /* NULL: an open question */
    int                n_answers;
    int                gold;      /* answers[gold] is right */
    const char        *gold_text; /* as the file has it; NULL until it is known */
    const char        *study, *patient;
} eval_case;

/* Give *out. ERR_FILE names the file and what is wrong with it as a whole: missing, empty, no such split, task of another
 * shape. images: the folder that image_path starts from. */
bool dataset_open_jsonl(dataset **out, const char *path, const char *images, err *e);
bool dataset_open_medmnist(dataset **out, const char *path, const char *split, const char *task, err *e);
void dataset_close(dataset *d); /* NULL is fine */

int64_t     dataset_count(const dataset *d);
const char *dataset_name(const dataset *d); /* its path, and the split */

/* Read case i into a; quickest in order (a step back in a large archive starts it over). Errors are of that case alone
 * and say where it stands (file:line, or split/item), never what it says: ERR_INPUT line-malformed, ERR_INPUT
 * gold-not-an-answer, ERR_FILE image-missing.
 * answer equals one of answers byte for byte, or else after answer_normalise() ("yes" for "Yes"). */
bool dataset_case(dataset *d, int64_t i, eval_case *out, arena *a, err *e);

#endif
