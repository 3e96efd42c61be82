/* vqa.h - VQA-RAD's and SLAKE's own JSON files as cases; those kinds of dataset.h, which has the contract.
 *   VQA-RAD  [{"image_name": "synpic54610.jpg", "question": "..", "answer": "Yes", "answer_type": "CLOSED"}, ..]
 *   SLAKE    [{"img_name": "xmlab1/source.jpg", "question": "..", "answer": "MRI", "answer_type": "OPEN",
 *              "q_lang": "en"}, ..]
 * The first record tells which it is. Other members are ignored. Quirks of the published files that are taken as
 * meant: an answer that is a number (VQA-RAD has 8), blanks around an answer_type (it has 2).
 * Threads  one thread at a time. */
#ifndef JOMED_EVAL_VQA_H
#define JOMED_EVAL_VQA_H

#include "eval/dataset.h"

typedef struct vqa vqa;
/* Keeps its arguments. Records of another language than the task's are no cases. */
bool     vqa_open(vqa **out, const char *path, const char *images, const eval_task *task, err *e);
void     vqa_close(vqa *v); /* NULL is fine */
int64_t  vqa_count(const vqa *v);
bool     vqa_case(const vqa *v, int64_t i, eval_case *out, arena *a, err *e);
uint64_t vqa_picture(const vqa *v, int64_t i);

#endif
