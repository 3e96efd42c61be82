/* medmnist.h - one split of a MedMNIST archive as cases; the MedMNIST kind of dataset.h, which has the contract.
 * Threads  one thread at a time. */
#ifndef JOMED_EVAL_MEDMNIST_H
#define JOMED_EVAL_MEDMNIST_H

#include "eval/dataset.h"

typedef struct medmnist medmnist;
/* Keeps the task. */
bool    medmnist_open(medmnist **out, const char *path, const char *split, const eval_task *task, err *e);
void    medmnist_close(medmnist *m); /* NULL is fine */
int64_t medmnist_count(const medmnist *m);
/* The image as a PNG; it is what a client would send, and decodes to the same pixels. */
bool    medmnist_case(medmnist *m, int64_t i, eval_case *out, arena *a, err *e);

#endif
