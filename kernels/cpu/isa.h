/* isa.h - what each instruction set provides: the single-threaded inner parts of the operations.
 * The files *_isa.h hold the code, written once on vec.h; isa_base.c, isa_avx2.c, isa_avx512.c and isa_avx512bf16.c
 * compile it. The callers (linear.c, attend.c, rows.c) split the work over threads and own all memory. */
#ifndef JOMED_KERNELS_CPU_ISA_H
#define JOMED_KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>
#include "kernels/kernels.h"

/* How a product reads its operands. */
typedef enum {
    PRODUCT_F32,       /* x f32, w f32 */
    PRODUCT_F32_BF16,  /* x f32, w bf16 widened exactly */
    PRODUCT_BF16       /* x rounded to bf16 pairs (see gemm.x), w bf16; only where isa.dot */
} product;

/* y[T,N] = unit(x[T,K] w[N,K]^T + low[T,R] b[N,R]^T + bias) + residual, all on the host. */
typedef struct {
    product      kind;
    int          T, N, K;
    const void  *x;       /* f32, or for PRODUCT_BF16 pairs of bf16, ldx pairs a row, an odd K padded with zero */
    int          ldx;
    const void  *w;       /* [N,K] dense; any alignment */
    const void  *low, *b; /* a low-rank branch, as x and w are; low NULL: none */
    int          R, ld_low;
    const float *bias;    /* [N] or NULL */
    const float *residual; /* rows ldy apart, or NULL; may be y */
    unit         unit;
    float       *y;
    int          ldy;
} gemm;

enum {
    GEMM_PANEL_BYTES = 256 * 1024, /* packed weights of one worker: with the next ones, a half of a 1 MB L2 cache */
    GEMM_ROWS        = 384,        /* rows of x whose sums are kept while K is walked in blocks */
    GEMM_MAX_NR      = 64,
    ATTEND_ROWS      = 96,         /* query rows (queries x heads that share keys) of one task */
    ATTEND_KEYS      = 128,        /* keys of one block: sums over keys are grouped by this, counted from key 0 */
    ATTEND_MAX_DIM   = 256
};

/* One worker's memory for products, taken when the device opens. */
typedef struct { uint32_t *panel; float *sums; } gemm_space;

/* A block of query rows against all keys. Rows are (query, head of the group), heads fastest. */
typedef struct {
    const attend_args *a;
    int                kv_head, i0, n_i; /* queries i0 .. i0 + n_i - 1 */
    float             *q;       /* [ATTEND_ROWS, head_dim] */
    float             *keys;    /* [head_dim, ATTEND_KEYS] of a block */
    float             *values;  /* [ATTEND_KEYS, dim_padded] of a block */
    float             *out;     /* [ATTEND_ROWS, dim_padded] running sums */
} attend_block;

typedef struct {
    const char *name;
    int         nr;  /* columns of a panel: the unit by which N is split */
    bool        dot; /* has bf16 products */
    void (*gemm)(const gemm *g, int t0, int t1, int n0, int n1, gemm_space s);
    void (*round_row)(uint32_t *pairs, const float *x, int K); /* f32 to pairs of bf16 */
    void (*attend)(const attend_block *b);
    void (*layernorm)(float *y, const float *x, int T, int D, const float *gain, const float *bias, float eps);
    void (*rmsnorm)(float *y, const float *x, int T, int D, const float *gain, float eps);
    void (*glu)(float *y, const float *gate, const float *up, int ld, int T, int F, unit u);
    void (*rope)(float *x, int ld, int T, int n_heads, int head_dim, const float *c, const float *s, int half,
                 bool interleaved);
    void (*add)(float *y, const float *x, size_t n);
    /* max and sum exp(x - max) of n logits */
    void (*max_sum)(const float *x, int n, float *max, float *sum);
    void (*exp_n)(float *y, const float *x, int n);             /* for tests of the error bounds */
    void (*unit_n)(float *y, const float *x, int n, unit u);
} isa;

extern const isa isa_base;
#if defined __x86_64__
extern const isa isa_avx2, isa_avx512, isa_avx512bf16;
#endif

#endif
