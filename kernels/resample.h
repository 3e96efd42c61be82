/* resample.h - Pillow's bicubic resize of RGB on the host, through the axes of kernels.h: the CPU's table makes
 * pixels with it, and imaging/ resizes with it.
 *
 * Its two inner loops are there twice: plain C, and AVX2 chosen at run time. Both add the same integers modulo 2^32,
 * so they agree to the bit (tests/imaging/test_resize.c). The AVX2 loops multiply 16 bits at a time, by an axis's
 * high and low. */
#ifndef JOMED_KERNELS_RESAMPLE_H
#define JOMED_KERNELS_RESAMPLE_H

#include "kernels/kernels.h"

/* rgb [y->n_in, x->n_in, 3] to out [y->n_out, x->n_out, 3]: horizontal first, only the rows that the vertical pass
 * reads, bytes between the two. room: resample_room() bytes to work in. */
size_t resample_room(const pixel_axis *x, const pixel_axis *y);
void   resample(uint8_t *out, const uint8_t *rgb, const pixel_axis *x, const pixel_axis *y, uint8_t *room);

enum {
    RESAMPLE_BITS = 22, /* of a weight, behind the point */
    RESAMPLE_ROWS = 4,  /* at once, so that a weight is loaded once for four rows */
    RESAMPLE_PAD = 16   /* bytes that the row loops may read and write past the end of a row */
};

typedef struct {
    /* RESAMPLE_ROWS rows: out [axis->n_out * 3] each, from in; rows lie out_stride and in_stride bytes
     * apart and have RESAMPLE_PAD bytes behind them. */
    void (*rows)(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride, const pixel_axis *axis);
    /* One output row of n bytes: the weighted sum of n_rows input rows, stride bytes apart. */
    void (*column)(uint8_t *out, const uint8_t *in, int64_t stride, int n, int n_rows, const int32_t *k,
                   const int16_t *high, const int16_t *low);
} resample_loops;

extern const resample_loops RESAMPLE_PLAIN;
#if defined(__x86_64__)
extern const resample_loops RESAMPLE_AVX2;
#endif

#endif
