/* case.h - the parts of a case that several kinds of data set make in the same way. Internal to eval/. */
#ifndef JOMED_EVAL_CASE_H
#define JOMED_EVAL_CASE_H

#include "eval/dataset.h"

/* Each makes of c->gold_text what a task of its kind asks for; *found: the gold is in the closed set, or a list of
 * labels.
 *   closed  answers and gold. It equals one of them byte for byte, or else after answer_normalise() ("yes" for
 *           "Yes").
 *   vqa     the closed set if the data set does not call the question open and the gold is in it; else open.
 *           Of a question that is called closed and has another answer ("left", "MRI") nobody knows the set it was
 *           closed over: it is decoded, and counted with the closed ones.
 *   labels  labels and which of them are right, from their indices ("3, 7") */
bool case_closed(eval_case *c, const char *const *answers, int n_answers, bool *found, arena *a, err *e);
bool case_vqa(eval_case *c, const eval_task *t, arena *a, err *e);
bool case_labels(eval_case *c, const eval_task *t, bool *found, arena *a, err *e);

/* The bytes of the image file, below the folder that the caller named and nowhere else. file and where begin the
 * text of errors: ERR_INPUT image-outside, ERR_FILE image-missing. */
bool case_image(eval_case *c, const char *images, const char *rel, const char *file, const char *where, arena *a,
                err *e);

/* Of the picture's name: the same for the same, and 0 for NULL alone. */
uint64_t case_picture(const char *rel);

#endif
