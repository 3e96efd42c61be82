/* kernels.h - the table of operations that all model code calls. kernels/cpu and kernels/cuda each fill it.
 *
 * A `kernels` is one worker's device: its function table, its threads (CPU) or stream (GPU), and its scratch memory.
 * Weights are opened once through any of them and may then be read by all of the same device.
 *
 * Activations   `act *`: the device's own element type, act_bytes each (CPU: f32; CUDA: bf16, or f32 where products
 *               are). Model code never looks inside: put and get convert. Row-major, T rows of D unless said
 *               otherwise.
 * Errors        Operations return nothing: a launch can fail only by our own mistake or because the device is gone,
 *               and on a GPU that shows later anyway. The first failure is kept and every later operation does
 *               nothing; sync() reports it. So a forward pass reads straight down and checks once.
 * Same bits     A row of a result depends on that row of the input and on the weights alone (and on `decoding`): not
 *               on T, not on the number of threads, not on what else is in the batch. Every sum has one fixed order.
 * Scratch       take() is a stack: take, use, back() to the mark. NULL is ERR_MEMORY, kept as above.
 * FLOPs         flops counts 2 x multiply-adds of products and attention as really done (masked pairs not
 *               counted). */
#ifndef JOMED_KERNELS_KERNELS_H
#define JOMED_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/arena.h"
#include "base/err.h"
#include "base/safetensors.h"

typedef void act; /* device memory of activations */

/* A matrix [rows, cols] as PyTorch stores it ([out, in]), or a vector (rows == 1, always f32 on the device). */
typedef struct {
    const void *data;
    dtype       type;  /* of data on the device */
    int64_t     rows, cols;
    void       *owned; /* device memory to free; NULL when data lies in the mapped file */
    void       *plan;  /* GPU: how a library multiplies by it, the table's own (cublaslt.cu); or NULL */
} weight;

typedef enum { UNIT_NONE, UNIT_GELU /* exact erf */, UNIT_QUICK_GELU /* x sigmoid(1.702 x) */, UNIT_SILU } unit;

/* Keys and values of n tokens, rows of n_kv_heads * head_dim, row_stride elements apart. */
typedef struct { const act *k, *v; int n; int row_stride; } kv_span;

/* out[i] = softmax(scale q[i] K^T + bias) V over the keys that query i may see; f32 accumulation.
 * Keys are span[0] (a cached prefix, seen by all queries; n may be 0) followed by span[1].
 *   n_q queries are the last n_q keys of span[1] when causal or tree is asked for.
 *   ATTEND_ALL     every key (vision and text encoders)
 *   ATTEND_CAUSAL  query i sees span[1] keys 0 .. span[1].n - n_q + i
 *   ATTEND_TREE    the last n_tree keys of span[1] are nodes of a tree of answers: such a query sees all keys before
 *                  the tree and the nodes j with visible[i * n_tree + j] (itself included); queries before the tree
 *                  are causal. With n_q < n_tree the queries are the last nodes: the earlier ones are keys alone.
 *                  A node's keys count without gaps: on the CPU it has the bits of a causal query behind these
 *                  alone, so that other nodes do not show in it. (A table that only masks them agrees within
 *                  its rounding.)
 * Head h of the queries reads key/value head h / (n_heads / n_kv_heads).
 * alibi: NULL, or [n_heads] slopes (host): bias -slope * |i - j| (ATTEND_ALL with n_q == span[1].n only). */
typedef enum { ATTEND_ALL, ATTEND_CAUSAL, ATTEND_TREE } attend_mask;
typedef struct {
    int            n_heads, n_kv_heads, head_dim;
    float          scale;
    const act     *q;   /* [n_q, n_heads * head_dim], rows q_stride apart */
    int            q_stride, n_q;
    act           *out; /* [n_q, n_heads * head_dim], rows out_stride apart */
    int            out_stride;
    kv_span        span[2];
    attend_mask    mask;
    int            n_tree;
    const uint8_t *visible; /* host */
    const float   *alibi;   /* host */
} attend_args;

/* What comes next behind n answers under way ("beams"), which K branches read side by side: the mixture over the
 * branches of their next-token distributions, in double, branches in their order.
 *     p(v | beam b) = sum_k w[k] softmax(row of (k, b))[v]        row of (k, b): k * n + b
 * Only its likeliest tokens leave the device. All that is pointed to lies on the host. */
typedef struct {
    int             n, K, top; /* top: tokens wanted of each beam, 1 <= top <= V */
    const float    *w;         /* [K] */
    const uint64_t *seen;      /* [K * n] sets (mixture.h) of the ids that a row is penalised for; NULL: none */
    double          penalty;   /* what such a logit is divided by above 0, and multiplied by below */
    /* Results. p[b * top] is NaN where a logit behind beam b is NaN or +inf, or a whole row of them -inf: then
     * nothing else of that beam is told. */
    int32_t *token;     /* [n, top] likeliest first, equal ones by the lower id */
    double  *p;         /* [n, top] */
    double  *each;      /* [n, top, K] log p of that token in each branch by itself */
    int32_t *likeliest; /* [n, K] of each branch by itself: the lowest id of equals */
} mixture_args;

/* Vectors on a device that searches them itself, rounded to f16. */
typedef struct {
    void   *rows; /* device memory */
    int64_t n;
    int     dim;
    float   error; /* the longest of row - f16(row): a score is off by at most |z| times this, and by the
                      rounding of its sum */
} vector_set;

/* One side of a picture that is resized, and what is kept of it: sample i is the sum of the n[i] samples from lo[i]
 * times the weights k[i * stride ..], which have 22 fractional bits; rounded, and clipped to a byte. k NULL: the side
 * stays whole, nothing else is read. All lies on the host; imaging/resize.h makes it. */
typedef struct {
    int      n_in, n_out, stride; /* stride: a multiple of 4 */
    int     *lo, *n;              /* [n_out]; lo and lo + n never fall */
    int32_t *k;                   /* [n_out, stride]; zero past n[i] */
    int16_t *high, *low;          /* k = high * 2^16 + low, for the CPU's products of 16 bits */
} pixel_axis;
/* The samples of a side that are read: how many, from the first on. */
static inline int pixel_axis_first(const pixel_axis *s) { return s->k ? s->lo[0] : 0; }
static inline int pixel_axis_reads(const pixel_axis *s)
{
    return s->k ? s->lo[s->n_out - 1] + s->n[s->n_out - 1] - s->lo[0] : s->n_in;
}

/* A picture as a model takes it: resized, cut, normalised and laid out as patches [P, 3, temporal, patch, patch],
 * merge block by merge block:
 *     0 1 | 4 5
 *     2 3 | 6 7      for merge 2; merge 1 is raster order
 * The sides that are kept are multiples of patch * merge; a still picture repeats its frame in time. */
typedef struct {
    const uint8_t *rgb;   /* [y.n_in, x.n_in, 3] on the host */
    pixel_axis     x, y;
    const float   *level; /* [3, 256] on the host: what each channel's levels become */
    int            patch, merge, temporal;
} pixel_plan;

/* One of several products of the same rows: y[T, w.rows] = x w^T + bias; bias may be NULL; rows of y ldy apart. */
typedef struct { act *y; int ldy; const weight *w, *bias; } product_out;

/* Activations that go from one place of the device to another. */
typedef struct { act *to; const act *from; size_t n; } act_copy;

typedef struct kernels kernels;
struct kernels {
    const char *name;      /* "cpu avx512-bf16, 2 threads" */
    int         act_bytes; /* of one activation */
    int         gpu;       /* number of the GPU that it runs on; -1: the CPU */
    int         pass_tokens; /* rows that fill this device: a pass packed with as many reads each weight once
                                for all of them, and more rows would gain nothing */
    uint64_t    flops;
    bool        decoding; /* model code sets it around a step of decoding, whatever its rows, and only there: a device
                             may have other kernels for few rows, so a row has other bits in it than in a prefill */
    err         failed;
    kernels    *exact; /* the same device with f32 activations and weights, opened and closed with this table;
                          NULL: this one has them */

    /* memory */
    void *(*alloc)(kernels *k, size_t bytes); /* lives until free_; NULL: out of memory (not kept in failed) */
    void (*free_)(kernels *k, void *p);       /* waits for operations on it, of any stream and after failures too */
    act *(*take)(kernels *k, size_t n);       /* n activations of scratch, contents undefined */
    size_t (*mark)(kernels *k);
    void (*back)(kernels *k, size_t mark);
    void (*put)(kernels *k, act *dst, const float *src, size_t n); /* host f32 -> device */
    void (*get)(kernels *k, float *dst, const act *src, size_t n); /* device -> host f32; waits */
    void (*copy)(kernels *k, act *dst, const act *src, size_t n);  /* device -> device */
    /* n of them, none of which writes what another reads or writes. For many short ones, each of which would cost a
     * launch. What c points to is read before it returns. */
    void (*copies)(kernels *k, const act_copy *c, int n);
    /* Pinned host memory, which the device copies to and from by itself, and those copies, of device memory as it
     * is. They are done, and may be read, after sync(). These five are NULL where the device's memory is the host's
     * (CPU). */
    void *(*alloc_host)(kernels *k, size_t bytes); /* lives until free_host; NULL: no memory (not kept in failed) */
    void (*free_host)(kernels *k, void *p);
    void (*save)(kernels *k, void *host, const void *src, size_t bytes);
    void (*restore)(kernels *k, void *dst, const void *host, size_t bytes);
    size_t (*free_bytes)(kernels *k); /* of the device's memory, now; 0: it does not tell */
    /* Host numbers to where rope reads them: scratch, so valid until back(), and src must live as long. CPU:
     * src itself. */
    const float *(*upload)(kernels *k, const float *src, size_t n);
    /* out: p's pixels. Integers up to the levels, so every device has the same ones, rounded as put() rounds. What p
     * points to is read before it returns. */
    void (*pixels)(kernels *k, act *out, const pixel_plan *p);
    bool (*weight_open)(kernels *k, weight *w, const tensor *t, int64_t rows, int64_t cols, err *e);
    void (*weight_close)(kernels *k, weight *w);
    bool (*sync)(kernels *k, err *e);
    void (*close)(kernels *k);

    /* y[T, w.rows] = unit(x[T, w.cols] w^T + bias) (+ residual[T, w.rows]); bias, residual may be NULL; y may
     * be residual. ldx, ldy: elements between rows of x and of y (and of residual: ldy). */
    void (*linear)(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                   unit u, const act *residual);
    /* n products of the rows x [T, cols], to linear()'s bits; their y are apart from each other and from x. Where few
     * rows leave a device idle they share a launch. What p points to is read before it returns. */
    void (*linears)(kernels *k, const product_out *p, int n, const act *x, int ldx, int T);
    /* linear() with a low-rank branch: y = unit(x w^T + bias + (x a^T) b^T) (+ residual); a [r, w.cols], b
     * [w.rows, r] of w's type. [Hu et al. 2021, arXiv:2106.09685, eq. 3] */
    void (*linear_low_rank)(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w,
                            const weight *bias, const weight *a, const weight *b, unit u, const act *residual);
    /* y = (x - mean) / sqrt(var + eps) * gain + bias   [Ba et al. 2016, eq. 3]; y may be x */
    void (*layernorm)(kernels *k, act *y, const act *x, int T, int D, const weight *gain, const weight *bias,
                      float eps);
    /* y = x / sqrt(mean(x^2) + eps) * gain             [Zhang and Sennrich 2019, eq. 4]; y may be x */
    void (*rmsnorm)(kernels *k, act *y, const act *x, int T, int D, const weight *gain, float eps);
    /* y[t, j] = unit(gate[t, j]) * up[t, j], j < F; rows of gate and up ld elements apart, of y F; y may be
     * gate if ld == F */
    void (*glu)(kernels *k, act *y, const act *gate, const act *up, int ld, int T, int F, unit u);
    /* Rotate pairs of each head's first 2 * half dims by the angles of that row: (j, j + half), or (2j, 2j + 1)
     * when interleaved. cos_, sin_: [T, half] as upload() gives them, once a pass and not once a layer. x: rows
     * ld apart, heads head_dim apart; in place. */
    void (*rope)(kernels *k, act *x, int ld, int T, int n_heads, int head_dim, const float *cos_, const float *sin_,
                 int half, bool interleaved);
    /* n attentions that do not see each other: the sequences of a packed pass, in one launch. Their n_heads,
     * n_kv_heads, head_dim and scale are a[0]'s. What a points to on the host is read before it returns. */
    void (*attend)(kernels *k, const attend_args *a, int n);
    /* y[t] = table[id[t]]; ids on the host, checked by the caller */
    void (*gather)(kernels *k, act *y, const weight *table, const int32_t *id, int T, int D);
    void (*add)(kernels *k, act *y, const act *x, size_t n); /* y += x */
    void (*mean_rows)(kernels *k, act *y, const act *x, int T, int D);
    /* logits[R, w.rows] f32 on the host; waits. For what is decoded there: the reference's mode, tests. */
    void (*logits)(kernels *k, float *out, const act *x, int R, const weight *w);
    /* For each pair p: the raw logit of token[p] at row row[p] of x, and the log-sum-exp of that row over the
     * vocabulary (logp = logit - lse). Only [n] floats leave the device. x [R, w.cols]; out arrays on the host;
     * waits. */
    void (*score)(kernels *k, float *logit, float *lse, const act *x, int R, const weight *w, const int32_t *row,
                  const int32_t *token, int n);
    /* A step of decoding; x [K * n, w.cols]; waits. */
    void (*mixture)(kernels *k, const mixture_args *m, const act *x, const weight *w);

    /* Exact search by inner product. NULL where the index's own library is as fast (CPU).
     * vectors_open copies n rows of dim from the host. ERR_MEMORY, ERR_UNUSABLE: too many, too wide. */
    bool (*vectors_open)(kernels *k, vector_set *v, const float *rows, int64_t n, int dim, err *e);
    void (*vectors_close)(kernels *k, vector_set *v);
    /* The n best rows for z [dim], 1 <= n <= v->n, best first, equal scores by the lower id; on the host; waits. */
    void (*search)(kernels *k, const vector_set *v, const float *z, int64_t n, float *score, int64_t *id);
};

/* p + n activations. p may be NULL because scratch ran out: that failure is kept, later operations do nothing. */
static inline act *act_at(const kernels *k, const act *p, size_t n)
{
    return p ? (act *)((const char *)p + n * (size_t)k->act_bytes) : NULL;
}

typedef enum { PRECISION_F32, PRECISION_BF16 } precision; /* of products: see docs/DESIGN.md */

typedef struct {
    const char *device;        /* "auto": the first GPU that can be used, else the CPU; "cpu"; "cuda:N" */
    precision   products;      /* BF16: activations are rounded to bf16 before products with bf16 weights; on a
                                  GPU activations are bf16 throughout, and all matrices too. F32: f32
                                  throughout, bf16 weights widened */
    bool        own_products;  /* GPU: all by our own kernels, also where cuBLASLt is there */
    int         threads;       /* 0: one per core */
    size_t      scratch_bytes; /* CPU: address space reserved for scratch; pages are touched only when used. 0: 8 GiB.
                                  GPU: memory of the device, taken at once. 0: 2 GiB */
} kernels_options;

/* Gives *out, ended by out->close(out). ERR_USAGE: no such device. ERR_GPU: it, or its driver, cannot be used.
 * ERR_MEMORY. */
bool kernels_open(kernels **out, const kernels_options *o, err *e);

/* Where a model runs that must be exact: weights opened there are used there. */
static inline kernels *kernels_exact(kernels *k) { return k->exact ? k->exact : k; }
/* For the tables: can t be opened as [rows, cols]? */
bool weight_check(const tensor *t, int64_t rows, int64_t cols, err *e);
/* Would kernels_open() take a GPU for it? */
bool kernels_on_gpu(const char *device);

/* Keep the first failure (for the tables' own use and for model code that finds its own mistake). */
void kernels_fail(kernels *k, err_code code, const char *text);

/* After a request that failed: scratch that ran out is whole again once back() was called; a device that failed
 * stays so. */
static inline void kernels_recover(kernels *k)
{
    if (k->failed.code == ERR_MEMORY) memset(&k->failed, 0, sizeof k->failed); /* C and C++ alike */
}
/* What flops count: of a product of T rows with w, and of attention the (query, key) pairs of one head that are
 * not masked. */
static inline uint64_t product_flops(int T, const weight *w)
{
    return 2 * (uint64_t)T * (uint64_t)w->rows * (uint64_t)w->cols;
}
uint64_t attend_pairs(const attend_args *a);

#endif
