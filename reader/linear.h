/* linear.h - opening a checkpoint's tensors, and the linear layer that all of the reader's products go through:
 * the one place where a low-rank adapter is added. Internal to reader/. */
#ifndef JOMED_READER_LINEAR_H
#define JOMED_READER_LINEAR_H

#include "base/safetensors.h"
#include "kernels/kernels.h"
#include "reader/lora.h"

/* Where tensors come from, and the prefix that this file gives to the names of one half of the model
 * ("visual." or "model.visual.", "model." or "model.language_model."). Borrowed while a model opens. */
typedef struct {
    const safetensors *file;
    kernels           *k;
    const char        *prefix;
    const char *const *prefixes; /* every spelling, ends with NULL: an adapter may be of another age than its base */
    const lora_set    *adapters; /* NULL: none */
} loader;

/* s B (A x) of one adapter. rank 0: the adapter leaves this layer alone. */
typedef struct { weight a, b; void *own_a, *own_b; int rank; } low_rank;

typedef struct {
    weight    w, bias;
    bool      has_bias;
    low_rank *branch;     /* [n_branches], of adapter i + 1; NULL: no adapter changes this layer */
    int       n_branches;
    void     *merged;     /* the bytes of w with an adapter merged into it, where the device uses them in place */
} linear;

/* The prefix p of the list (ends with NULL) for which the file has p + name; the first of the list if none has,
 * so that the error that follows names the published tensor. */
const char *loader_prefix(const safetensors *file, const char *const *prefixes, const char *name);

/* Tensor "prefix + formatted name", of exactly this shape. ERR_FILE names file and tensor. */
bool load_vector(const loader *l, weight *w, int64_t n, err *e, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
bool load_matrix(const loader *l, weight *w, int64_t rows, int64_t cols, err *e, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* NAME.weight [rows, cols] and, if wanted, NAME.bias [rows]; with what the loader's adapters have for it.
 * ERR_FILE also when an adapter has another shape. */
bool load_linear(const loader *l, linear *x, int64_t rows, int64_t cols, bool bias, err *e, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));
/* A tensor of any shape seen as a matrix; dims ends with -1. */
bool load_shaped(const loader *l, weight *w, const int64_t *dims, int64_t rows, int64_t cols, err *e,
                 const char *name);

void linear_close(kernels *k, linear *x); /* a zeroed one is fine */

/* y[T, rows] = unit(x[T, cols] w^T + bias + s (x A^T) B^T) (+ residual); rows of y (and of residual) ldy apart,
 * rows of x close-packed. adapter: whose A and B, counted from 1; 0: none, and then the bits are those of a
 * reader without adapters. */
void linear_run(kernels *k, const linear *l, int adapter, act *y, int ldy, const act *x, int T, unit u,
                const act *residual);

/* Several layers of the same rows, without unit or residual: kernels->linears where no adapter changes them. */
typedef struct { const linear *l; act *y; int ldy; } linear_out;
void linears_run(kernels *k, const linear_out *o, int n, int adapter, const act *x, int T);

/* FLOPs of the adapter's branch for one row: 2 r (in + out). */
uint64_t linear_branch_flops(const linear *l, int adapter);

#endif
