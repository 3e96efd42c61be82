/* weights.h - the tensors of one tower on the device, always as f32: the two best candidates can differ by 1e-4 in
 * score, which bf16 products would shuffle. An F32 file is used where it is mapped; F16 and BF16 are widened once.
 * Internal to retriever/. */
#ifndef JOMED_RETRIEVER_WEIGHTS_H
#define JOMED_RETRIEVER_WEIGHTS_H

#include "base/safetensors.h"
#include "kernels/kernels.h"

struct opened_weight;
typedef struct {
    kernels              *k;    /* borrowed until weights_close() */
    const safetensors    *file; /* the same */
    struct opened_weight *open; /* all that was opened, to end it */
    int                   n, cap;
} weights;

/* The tensor of that (formatted) name; dims ends with -1, a dim of 0 takes any size. ERR_FILE names file and
 * tensor. */
bool weights_find(weights *ws, const tensor **out, const int64_t *dims, err *e, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Rows first .. first + rows - 1 of t seen as a matrix of cols columns, lent to *out until weights_close(). */
bool weights_open_rows(weights *ws, weight *out, const tensor *t, int64_t first, int64_t rows, int64_t cols, err *e);

/* Find and widen into host memory that the caller has, as many as dims say (no 0 among them). Counts as read. */
bool weights_host(weights *ws, float *out, const int64_t *dims, err *e, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Find and open: a vector [n], or a matrix [rows, cols]. */
bool weights_vector(weights *ws, weight *out, int64_t n, err *e, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
bool weights_matrix(weights *ws, weight *out, int64_t rows, int64_t cols, err *e, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

/* Every tensor of the file whose name begins with prefix must have been opened, or be one that ignore() takes:
 * an unread tensor (a layer scale, say) would change the result. ERR_FILE names it. */
bool weights_all_read(const weights *ws, const char *prefix, bool (*ignore)(const char *name), err *e);

void weights_close(weights *ws); /* a zeroed one is fine */

#endif
