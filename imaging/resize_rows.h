/* resize_rows.h - the two inner loops of bicubic resizing, each twice: plain C, and AVX2 chosen at run time.
 * Both add the same integers modulo 2^32, so they agree to the bit (tests/imaging/test_resize.c).
 *
 * A weight is a fixed-point number of 22 fractional bits, k. The AVX2 loops multiply 16 bits at a time: k is
 * also kept as high * 2^16 + low, both signed 16-bit. */
#ifndef JOMED_IMAGING_RESIZE_ROWS_H
#define JOMED_IMAGING_RESIZE_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"

/* One axis: output i is the sum of taps n[i] input samples from lo[i], weights k[i * stride ..]. Weights past
 * n[i] are zero up to stride, a multiple of 4. */
typedef struct {
    int      n_out, stride;
    int     *lo, *n;     /* [n_out] */
    int32_t *k;          /* [n_out, stride] */
    int16_t *high, *low; /* the same, split */
} resize_axis;

/* The weights of an axis that goes from n_in to n_out samples; all lives in a. */
bool resize_axis_make(resize_axis *x, int n_in, int n_out, arena *a, err *e);

enum {
    RESIZE_BITS = 22,
    RESIZE_ROWS_AT_ONCE = 4, /* so that a weight is loaded once for four rows */
    RESIZE_PAD = 16          /* bytes that the row loops may read and write past the end of a row */
};

typedef struct {
    /* RESIZE_ROWS_AT_ONCE rows: out [axis->n_out * 3] each, from in; rows lie out_stride and in_stride bytes
     * apart and have RESIZE_PAD bytes behind them. */
    void (*rows)(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride, const resize_axis *axis);
    /* One output row of n bytes: the weighted sum of n_rows input rows, stride bytes apart. */
    void (*column)(uint8_t *out, const uint8_t *in, int64_t stride, int n, int n_rows, const int32_t *k,
                   const int16_t *high, const int16_t *low);
} resize_rows;

extern const resize_rows RESIZE_ROWS_PLAIN;
#if defined(__x86_64__)
extern const resize_rows RESIZE_ROWS_AVX2;
#endif

#endif
