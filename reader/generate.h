/* generate.h - greedy decoding of one prompt on the decoder alone, step by step: the plain twin of
 * open_answer.c for tests, and what a step costs for bench/. Internal to reader/. */
#ifndef JOMED_READER_GENERATE_H
#define JOMED_READER_GENERATE_H

#include "reader/decoder.h"

typedef struct {
    const prompt  *p;
    const act     *vision; /* tokens of its pictures; NULL without */
    const int32_t *pos;    /* [3, p->n_ids] */
    int            cursor; /* of the first new token */
    int            adapter; /* counted from 1; 0: none */
    int            max_new;
    int32_t        stop;   /* an id that ends it and is not put out; -1: none */
    float         *logits; /* [max_new, V] of each step, on the host; NULL: not wanted */
} generate_args;

/* The likeliest token at each step (the lowest id of equals); ids [max_new] the caller's. */
bool generate_greedy(const decoder *d, kernels *k, const generate_args *g, int32_t *ids, int *n_ids, arena *a,
                     err *e);

#endif
