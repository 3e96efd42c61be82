/* cpu.h - inside of the CPU's table, for the files of this folder and their tests. */
#ifndef JOMED_KERNELS_CPU_CPU_H
#define JOMED_KERNELS_CPU_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"

enum { CPU_MAX_THREADS = 256 };

/* What one worker computes in; nothing of it outlives an operation. */
typedef struct {
    gemm_space gemm;
    float     *q, *keys, *values, *out; /* attention: see attend_block */
    void      *memory;
} cpu_space;

typedef struct {
    kernels    k; /* first: a kernels * is a cpu * */
    const isa *isa;
    precision  products;
    pool      *pool;
    cpu_space *space; /* one a worker */
    uint8_t   *scratch;
    size_t     scratch_bytes, scratch_top;
    char       name[64];
} cpu;

/* As kernels_open; on: an instruction set (tests), NULL the best that this processor has. */
bool cpu_open(kernels **out, const kernels_options *o, const isa *on, err *e);
/* The instruction sets that this processor has, best last; returns how many. */
int cpu_isas(const isa *out[4]);

/* Operations begin with this: nothing more is done after a failure. */
static inline cpu *cpu_of(kernels *k) { return k->failed.code == ERR_NONE ? (cpu *)k : NULL; }

/* weight.c */
bool cpu_weight_open(kernels *k, weight *w, const tensor *t, int64_t rows, int64_t cols, err *e);
void cpu_weight_close(kernels *k, weight *w);
/* linear.c */
void cpu_linear(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                unit u, const act *residual);
void cpu_linears(kernels *k, const product_out *p, int n, const act *x, int ldx, int T);
void cpu_linear_low_rank(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w,
                         const weight *bias, const weight *a, const weight *b, unit u, const act *residual);
void cpu_logits(kernels *k, float *out, const act *x, int R, const weight *w);
void cpu_score(kernels *k, float *logit, float *lse, const act *x, int R, const weight *w, const int32_t *row,
               const int32_t *token, int n);
/* mixture.c */
void cpu_mixture(kernels *k, const mixture_args *m, const act *x, const weight *w);
/* attend.c */
void cpu_attend(kernels *k, const attend_args *a, int n);
/* resample.c */
void cpu_pixels(kernels *k, act *out, const pixel_plan *p);
/* rows.c */
void cpu_layernorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, const weight *bias, float eps);
void cpu_rmsnorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, float eps);
void cpu_glu(kernels *k, act *y, const act *gate, const act *up, int ld, int T, int F, unit u);
void cpu_rope(kernels *k, act *x, int ld, int T, int n_heads, int head_dim, const float *cos_, const float *sin_,
              int half, bool interleaved);
void cpu_gather(kernels *k, act *y, const weight *table, const int32_t *id, int T, int D);
void cpu_add(kernels *k, act *y, const act *x, size_t n);
void cpu_mean_rows(kernels *k, act *y, const act *x, int T, int D);

#endif
