/* cuda.h - inside of the CUDA table, for the files of this folder (C++: nvcc, or g++ with tests/simt) and, in its
 * first lines, for kernels.c.
 *
 * Activations   bf16 when products are PRECISION_BF16, f32 when PRECISION_F32 (cuda->f32): every kernel that touches
 *               activations is a template over `float` and `bf16`. Sums are f32 in both.
 * Weights       on the device, owned by weight->owned. Vectors (rows == 1) f32. Matrices: bf16 table: bf16,
 *               whatever the file has (rounded once, at upload), rows cuda_pitch() elements apart, zeros
 *               between; f32 table: f32, dense.
 * Order         One stream a kernels. Scratch given back may be taken by the next operation at once: it runs behind.
 * Failure       cu_ok() keeps the first in k.failed; operations begin with cuda_of(), which is NULL after one. */
#ifndef JOMED_KERNELS_CUDA_CUDA_H
#define JOMED_KERNELS_CUDA_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/kernels.h"

/* The first GPU that these kernels can run on (compute capability 8.0 or later); -1: there is none, or no driver.
 * False: there is a driver but it cannot be used, and e says why. */
bool cuda_find(int *device, err *e);
/* As kernels_open, on device number `device`. ERR_USAGE: no such device. ERR_GPU, ERR_MEMORY: it cannot be used, and
 * why. */
bool cuda_open(kernels **out, const kernels_options *o, int device, err *e);
#ifdef __cplusplus
}

#include "kernels/cuda/device.cuh"

/* Pinned host memory in halves: while the device still copies from one, the other is filled. */
struct cuda_staging {
    uint8_t    *host; /* 2 * half_bytes, pinned */
    size_t      half_bytes, used; /* of the half in turn */
    int         turn;
    cudaEvent_t done[2]; /* recorded behind the last copy from that half */
};

struct lt_library;
struct cuda {
    kernels      k; /* first: a kernels * is a cuda * */
    int          n_sms;
    cudaStream_t stream;
    bool         f32;
    lt_library  *lt;      /* NULL: products are our own kernels' */
    bool         own_products;
    uint8_t     *scratch; /* device memory */
    size_t       scratch_bytes, scratch_top;
    cuda_staging staging;
    char         name[128];
};

/* Operations begin with this: nothing more is done after a failure. */
cuda *cuda_of(kernels *k);

/* True for cudaSuccess; else keeps ERR_GPU (ERR_MEMORY when that is what it was) with what and CUDA's own text. */
bool cu_ok(kernels *k, cudaError_t status, const char *what);
/* After a LAUNCH: was it taken? What goes wrong while it runs shows later. */
static inline bool cu_launched(kernels *k, const char *what) { return cu_ok(k, cudaGetLastError(), what); }

/* unit(v), as every product and gate on the device computes it: a few units in the last place from the formula. */
static __device__ __forceinline__ float unit_of(float v, unit u)
{
    switch (u) {
    case UNIT_GELU: return 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
    case UNIT_QUICK_GELU: return v / (1.0f + expf(-1.702f * v));
    case UNIT_SILU: return v / (1.0f + expf(-v));
    case UNIT_NONE: break;
    }
    return v;
}

/* bytes of scratch, aligned to 256, given back by k.back(). NULL: spent (kept). */
void *cuda_take(cuda *g, size_t bytes);
/* The host's bytes in scratch: copied before it returns, so the host's memory may change at once. NULL: spent
 * (kept). */
const void *cuda_stage(cuda *g, const void *host, size_t bytes);
/* The same to where the caller says. */
bool cuda_send_all(cuda *g, void *device, const void *host, size_t bytes);
/* bytes from the device to the host; waits. */
bool cuda_fetch(cuda *g, void *host, const void *device, size_t bytes);
/* Room of at most half_bytes in the pinned half whose turn it is, to be filled and sent. NULL: a failure (kept). */
uint8_t *cuda_room(cuda *g, size_t bytes);
bool     cuda_send(cuda *g, void *device, const void *pinned, size_t bytes);

/* Elements between the rows of a weight: bf16 rows begin at 16 bytes, as cp.async and ldmatrix want. */
static inline int cuda_pitch(const weight *w)
{
    return w->type == DTYPE_BF16 ? (int)((w->cols + 7) / 8 * 8) : (int)w->cols;
}
static inline bool aligned_16(const void *p) { return (uintptr_t)p % 16 == 0; }
static inline int  blocks_of(int64_t n, int per) { return (int)((n + per - 1) / per); }

/* cublaslt.cu: products by the library, as a weight's plan has them. The kinds are its epilogues. */
typedef enum { LT_PLAIN /* x w^T */, LT_ADDED /* + residual */, LT_SUMS /* x w^T in f32 */, LT_KINDS } lt_kind;
typedef struct {
    lt_kind     kind;
    int         T, N, K, ldw, ldx, ldy;
    const bf16 *w, *x, *residual; /* residual: rows ldy apart; may be y */
    void       *y;                /* bf16, or f32 for sums. All begin at 16 bytes, as do their rows */
} lt_product;
/* Finds the library; one that is not there or does not start leaves g->lt NULL. False: out of memory (kept). */
bool lt_open(cuda *g);
void lt_close(cuda *g);
const char *lt_name(const cuda *g); /* "cuBLASLt 13.1.0", "own products" */
/* Gives w->plan (heap) where the shape is one for the library: tries a new shape out, in scratch, and waits.
 * ERR_MEMORY, ERR_GPU. */
bool lt_weight_open(cuda *g, weight *w, err *e);
bool lt_takes(const weight *w, lt_kind kind);
/* A failure is kept: our own kernel in its place would give other bits. */
void lt_run(cuda *g, const weight *w, const lt_product *p);
/* weight.cu */
bool cuda_weight_open(kernels *k, weight *w, const tensor *t, int64_t rows, int64_t cols, err *e);
void cuda_weight_close(kernels *k, weight *w);
/* linear.cu */
bool cuda_linear_open(cuda *g); /* lets its kernels have the shared memory they want */
void cuda_linear(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                 unit u, const act *residual);
void cuda_linears(kernels *k, const product_out *p, int n, const act *x, int ldx, int T);
void cuda_linear_low_rank(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w,
                          const weight *bias, const weight *a, const weight *b, unit u, const act *residual);
/* preprocess.cu */
void cuda_pixels(kernels *k, act *out, const pixel_plan *p);
/* rows.cu */
void cuda_layernorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, const weight *bias,
                    float eps);
void cuda_rmsnorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, float eps);
void cuda_glu(kernels *k, act *y, const act *gate, const act *up, int ld, int T, int F, unit u);
void cuda_rope(kernels *k, act *x, int ld, int T, int n_heads, int head_dim, const float *cos_, const float *sin_,
               int half, bool interleaved);
void cuda_gather(kernels *k, act *y, const weight *table, const int32_t *id, int T, int D);
void cuda_add(kernels *k, act *y, const act *x, size_t n);
void cuda_copies(kernels *k, const act_copy *c, int n);
void cuda_mean_rows(kernels *k, act *y, const act *x, int T, int D);
/* On the device: n f32 to bf16 and back. */
void cuda_round(cuda *g, bf16 *dst, const float *src, size_t n);
void cuda_widen(cuda *g, float *dst, const bf16 *src, size_t n);
/* T rows of D elements as cp.async can read them: x itself, or where it is not aligned to 16 or *ld % 8 != 0 a
 * copy in scratch, whose rows are *ld apart then. NULL: spent (kept). */
const bf16 *cuda_pack_rows(cuda *g, const bf16 *x, int *ld, int T, int D);
/* attend.cu */
bool cuda_attend_open(cuda *g);
void cuda_attend(kernels *k, const attend_args *a, int n);
/* score.cu */
bool cuda_score_open(cuda *g);
void cuda_logits(kernels *k, float *out, const act *x, int R, const weight *w);
/* [R, w->rows] on the device, in scratch. NULL: a failure (kept). */
float *cuda_all_logits(cuda *g, const act *x, int R, const weight *w);
void cuda_score(kernels *k, float *logit, float *lse, const act *x, int R, const weight *w, const int32_t *row,
                const int32_t *token, int n);
/* mixture.cu */
void cuda_mixture(kernels *k, const mixture_args *m, const act *x, const weight *w);
/* search.cu */
bool cuda_vectors_open(kernels *k, vector_set *v, const float *rows, int64_t n, int dim, err *e);
void cuda_vectors_close(kernels *k, vector_set *v);
void cuda_search(kernels *k, const vector_set *v, const float *z, int64_t n, float *score, int64_t *id);

#endif
#endif
