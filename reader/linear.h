/* linear.h - opening a checkpoint's tensors, and the linear layer that all of the reader's products go through, so that
 * a low-rank adapter has one place to be added. Internal to reader/. */
#ifndef JOMED_READER_LINEAR_H
#define JOMED_READER_LINEAR_H

#include "base/safetensors.h"
#include "kernels/kernels.h"

/* Where tensors come from, and the prefix that this file gives to the names of one half of the model
 * ("visual." or "model.visual.", "model." or "model.language_model."). Borrowed while a model opens. */
typedef struct { const safetensors *file; kernels *k; const char *prefix; } loader;

typedef struct { weight w, bias; bool has_bias; } linear;

/* The prefix p of the list (ends with NULL) for which the file has p + name; the first of the list if none has, so that
 * the error that follows names the published tensor. */
const char *loader_prefix(const safetensors *file, const char *const *prefixes, const char *name);

/* Tensor "prefix + formatted name", of exactly this shape. ERR_FILE names file and tensor. */
bool load_vector(const loader *l, weight *w, int64_t n, err *e, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
bool load_matrix(const loader *l, weight *w, int64_t rows, int64_t cols, err *e, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* NAME.weight [rows, cols] and, if wanted, NAME.bias [rows]. */
bool load_linear(const loader *l, linear *x, int64_t rows, int64_t cols, bool bias, err *e, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));
/* A tensor of any shape seen as a matrix; dims ends with -1. */
bool load_shaped(const loader *l, weight *w, const int64_t *dims, int64_t rows, int64_t cols, err *e, const char *name);

void linear_close(kernels *k, linear *x); /* a zeroed one is fine */

/* y[T, rows] = unit(x[T, cols] w^T + bias) (+ residual); rows of y (and of residual) ldy apart, rows of x close-packed. */
void linear_run(kernels *k, const linear *l, act *y, int ldy, const act *x, int T, unit u, const act *residual);

#endif
