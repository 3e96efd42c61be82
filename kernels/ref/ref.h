/* ref.h - the operations of kernels.h once more, as their formulas read: one loop a sum, in double, on plain arrays.
 * The tests compare every device with these. Nothing else uses them. */
#ifndef JOMED_KERNELS_REF_REF_H
#define JOMED_KERNELS_REF_REF_H

#include "kernels/kernels.h"

/* size[i], if not NULL, gets the sum of the absolute values of what was added for y[i]: the scale of its
 * rounding error. */
void ref_linear(double *y, double *size, const float *x, int ldx, int T, const float *w, int N, int K,
                const float *bias, unit u, const float *residual, int ldr);
double ref_unit(double x, unit u);
void ref_layernorm(double *y, const float *x, int T, int D, const float *gain, const float *bias, double eps);
void ref_rmsnorm(double *y, const float *x, int T, int D, const float *gain, double eps);
void ref_glu(double *y, const float *gate, const float *up, int ld, int T, int F, unit u);
void ref_rope(double *y, const float *x, int ld, int T, int n_heads, int head_dim, const float *cos_,
              const float *sin_, int half, bool interleaved);
void ref_attend(double *out, const attend_args *a); /* a's acts are f32; out [n_q, n_heads * head_dim]; a->out
                                                       is not used */
void ref_mean_rows(double *y, const float *x, int T, int D);
void ref_pixels(float *out, const pixel_plan *p); /* f32 itself: a value is one of p->level's */
double ref_lse(const double *logits, int V);

/* float round-tripped through bf16, as PRECISION_BF16 does to activations */
void ref_round_bf16(float *y, const float *x, size_t n);

#endif
