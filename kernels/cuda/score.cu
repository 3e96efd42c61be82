/* score.cu - the head over the vocabulary: logits = x w^T, and from them the log-sum-exp of a row and the logits of
 * wanted tokens, without [R,V] logits in memory. (A step of decoding wants them all: mixture.cu goes on from there.)
 * Reference: ref_linear(), ref_lse().  Test: tests/cuda/test_score.c.
 *
 * A block makes the logits of a few rows for COLUMNS tokens in shared memory and leaves behind, a row, their largest
 * and the sum of exp(logit - largest), and of the wanted (row, token) pairs those that fall into it. A second kernel
 * joins the blocks' pairs of numbers. What is read is w, once for up to 64 rows: 1.09 GB for Qwen2-VL-7B, against 0.6
 * MB of logits a row.
 *
 * Same bits: a logit is one chain over ascending k (tile.cuh) in either size of tile; a row of a tile is summed by 8
 * lanes, each over every 8th token, whatever the tile; tiles are joined in one order that depends on V alone. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/tile.cuh"

#include <math.h>

enum {
    COLUMNS = 128,
    LANES = 8,
    THREADS = 128,
    PITCH = COLUMNS + 4 /* f32 between the rows of logits in shared memory */
};
enum { BK = 64 /* elements of k in a stage */, FMA_ROWS = 16, FMA_K = 32 };

struct scoring {
    const void    *x, *w;
    int            ldx, ldw, R, V, K;
    float         *all;        /* [R,V]: the logits themselves; NULL when scoring */
    float         *max, *sum;  /* [tiles, R] */
    const int32_t *row, *token;
    float         *logit, *lse; /* [n] */
    int            n;
};

/* --------------------------------------------------------------------------------------------------- a tile's end */
/* Largest and sum of one row of logits, n of COLUMNS in use, by the 8 lanes that share it. */
static __device__ void reduce_row(const scoring &s, const float *l, int n, int r, int lane)
{
    float max = -INFINITY, sum = 0;
    for (int c = lane; c < n; c += LANES) max = fmaxf(max, l[c]);
    for (int step = LANES / 2; step > 0; step /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, step));
    float shift = max == -INFINITY ? 0 : max;
    for (int c = lane; c < n; c += LANES) sum += expf(l[c] - shift);
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane != 0 || r >= s.R) return;
    s.max[(size_t)blockIdx.y * s.R + r] = max;
    s.sum[(size_t)blockIdx.y * s.R + r] = sum;
}

/* logits [ROWS, PITCH] of rows r0.. and tokens v0.. are in shared memory: reduce and pick, or write them out. */
template <int ROWS> static __device__ void finish(const scoring &s, const float *logits, int r0, int v0)
{
    int n = min(COLUMNS, s.V - v0);
    if (s.all) {
        for (int c = threadIdx.x; c < ROWS * COLUMNS; c += THREADS) {
            int r = c / COLUMNS, v = c % COLUMNS;
            if (r0 + r < s.R && v < n) s.all[(size_t)(r0 + r) * s.V + v0 + v] = logits[r * PITCH + v];
        }
        return;
    }
    for (int r = threadIdx.x / LANES; r < ROWS; r += THREADS / LANES)
        reduce_row(s, logits + r * PITCH, n, r0 + r, threadIdx.x % LANES);
    for (int p = threadIdx.x; p < s.n; p += THREADS) {
        int r = s.row[p] - r0, v = s.token[p] - v0;
        if (r >= 0 && r < ROWS && v >= 0 && v < n) s.logit[p] = logits[r * PITCH + v];
    }
}

/* One warp joins the tiles of one row: logits' largest is exact, sums are taken by every 32nd tile. */
static __global__ void __launch_bounds__(32) join_kernel(scoring s, int tiles)
{
    int   r = blockIdx.x, lane = threadIdx.x;
    float max = -INFINITY, sum = 0;
    for (int t = lane; t < tiles; t += 32) max = fmaxf(max, s.max[(size_t)t * s.R + r]);
    max = warp_max(max);
    float shift = max == -INFINITY ? 0 : max;
    for (int t = lane; t < tiles; t += 32) {
        float m = s.max[(size_t)t * s.R + r];
        sum = fmaf(s.sum[(size_t)t * s.R + r], expf((m == -INFINITY ? 0 : m) - shift), sum);
    }
    float lse = shift + logf(warp_sum(sum));
    for (int p = lane; p < s.n; p += 32)
        if (s.row[p] == r) s.lse[p] = lse;
}

/* ------------------------------------------------------------------------------------------------------- tensor
 * cores grid: (ceil(R / BM), ceil(V / COLUMNS)): the blocks that share a tile of w run together. BM 16 is for the
 * rows of one request, 64 for packed ones. STAGES - 1 tiles of BK deep are under way: at 16 rows 54 KB a block, which
 * is what memory needs. */
template <int BM, int WM, int WN, int STAGES>
static __global__ void __launch_bounds__(THREADS, 2) head_kernel(scoring s)
{
    constexpr int STAGE = (BM + COLUMNS) * BK;
    static_assert(BM / WM * (COLUMNS / WN) * 32 == THREADS, "a warp each");
    static_assert(STAGES * STAGE * sizeof(bf16) >= BM * PITCH * sizeof(float), "logits take the tiles' place");
    DYNAMIC_SHARED(bf16, shared);
    const bf16 *x = static_cast<const bf16 *>(s.x), *w = static_cast<const bf16 *>(s.w);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m0 = warp / (COLUMNS / WN) * WM,
        n0 = warp % (COLUMNS / WN) * WN;
    int   r0 = blockIdx.x * BM, v0 = blockIdx.y * COLUMNS, tiles = (s.K + BK - 1) / BK;
    float acc[WM / 16][WN / 8][4] = {};

    for (int i = 0; i < STAGES - 1; i++) {
        if (i < tiles) {
            load_tile<BM, BK, THREADS>(shared + i * STAGE, x, s.ldx, r0, s.R, i * BK, s.K);
            load_tile<COLUMNS, BK, THREADS>(shared + i * STAGE + BM * BK, w, s.ldw, v0, s.V, i * BK, s.K);
        }
        cp_async_commit(); /* also when empty: a wait counts groups */
    }
    for (int i = 0; i < tiles; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* tile i is there for all, and nobody reads the one before it any more */
        int         next = i + STAGES - 1;
        const bf16 *now = shared + i % STAGES * STAGE;
        bf16       *then = shared + next % STAGES * STAGE;
        if (next < tiles) {
            load_tile<BM, BK, THREADS>(then, x, s.ldx, r0, s.R, next * BK, s.K);
            load_tile<COLUMNS, BK, THREADS>(then + BM * BK, w, s.ldw, v0, s.V, next * BK, s.K);
        }
        cp_async_commit();
        multiply<BK, WM, WN>(acc, now, now + BM * BK, m0, n0, lane);
    }
    cp_async_wait<0>();
    __syncthreads();
    float *logits = reinterpret_cast<float *>(shared);
#pragma unroll
    for (int m = 0; m < WM / 16; m++)
#pragma unroll
        for (int n = 0; n < WN / 8; n++)
            for (int e = 0; e < 4; e++)
                logits[(m0 + 16 * m + lane / 4 + e / 2 * 8) * PITCH + n0 + 8 * n + lane % 4 * 2 + e % 2] =
                    acc[m][n][e];
    __syncthreads();
    finish<BM>(s, logits, r0, v0);
}

/* --------------------------------------------------------------------------------------------------------------- f32
 * Weights in f32: of an f32 table, and a vocabulary of one token in any. A thread owns a token and all rows of the
 * tile; one chain of fmaf over ascending k. */
template <class X> static __global__ void __launch_bounds__(THREADS) head_f32_kernel(scoring s)
{
    DYNAMIC_SHARED(float, x);                                    /* [FMA_ROWS, FMA_K] */
    /* [COLUMNS, FMA_K + 1]: columns fall into 32 banks */
    float       *w = x + FMA_ROWS * FMA_K;
    float       *logits = w + COLUMNS * (FMA_K + 1);
    const X     *from_x = static_cast<const X *>(s.x);
    const float *from_w = static_cast<const float *>(s.w);
    int   r0 = blockIdx.x * FMA_ROWS, v0 = blockIdx.y * COLUMNS, v = threadIdx.x;
    float acc[FMA_ROWS] = {};
    for (int k0 = 0; k0 < s.K; k0 += FMA_K) {
        int depth = min(FMA_K, s.K - k0);
        for (int c = threadIdx.x; c < FMA_ROWS * FMA_K; c += THREADS) {
            int r = c / FMA_K, k = c % FMA_K;
            x[c] = r0 + r < s.R && k < depth ? widen(from_x[(size_t)(r0 + r) * s.ldx + k0 + k]) : 0;
        }
        for (int c = threadIdx.x; c < COLUMNS * FMA_K; c += THREADS) {
            int n = c / FMA_K, k = c % FMA_K;
            w[n * (FMA_K + 1) + k] = v0 + n < s.V && k < depth ? from_w[(size_t)(v0 + n) * s.ldw + k0 + k] : 0;
        }
        __syncthreads();
        for (int k = 0; k < depth; k++)
#pragma unroll
            for (int r = 0; r < FMA_ROWS; r++) acc[r] = fmaf(x[r * FMA_K + k], w[v * (FMA_K + 1) + k], acc[r]);
        __syncthreads();
    }
    for (int r = 0; r < FMA_ROWS; r++) logits[r * PITCH + v] = acc[r];
    __syncthreads();
    finish<FMA_ROWS>(s, logits, r0, v0);
}

enum { FMA_BYTES = (FMA_ROWS * FMA_K + COLUMNS * (FMA_K + 1) + FMA_ROWS * PITCH) * (int)sizeof(float) };

/* -------------------------------------------------------------------------------------------------------- launch */
typedef void (*head)(scoring);
struct plan { head run; int rows, shared_bytes; };
static plan few_plan() { return {head_kernel<16, 16, 32, 4>, 16, 4 * (16 + COLUMNS) * BK * (int)sizeof(bf16)}; }
static plan many_plan() { return {head_kernel<64, 32, 64, 3>, 64, 3 * (64 + COLUMNS) * BK * (int)sizeof(bf16)}; }

/* More than 48 KB of shared memory have to be asked for. */
bool cuda_score_open(cuda *g)
{
    for (const plan &p : {few_plan(), many_plan()})
        if (!cu_ok(&g->k, cudaFuncSetAttribute(p.run, cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared_bytes),
                   "head of the vocabulary"))
            return false;
    return true;
}

/* All tiles of s. x may have to be laid out for cp.async first, in scratch. */
static bool run_head(cuda *g, scoring *s, const act *x, const weight *w)
{
    s->x = x;
    s->w = w->data;
    s->K = s->ldx = (int)w->cols;
    s->V = (int)w->rows;
    s->ldw = cuda_pitch(w);
    plan p = w->type != DTYPE_BF16
                 ? plan{g->f32 ? head_f32_kernel<float> : head_f32_kernel<bf16>, FMA_ROWS, FMA_BYTES}
             : s->R <= 16 ? few_plan()
                          : many_plan();
    if (w->type == DTYPE_BF16) s->x = cuda_pack_rows(g, (const bf16 *)x, &s->ldx, s->R, s->K);
    if (!s->x) return false;
    LAUNCH(p.run, dim3(blocks_of(s->R, p.rows), blocks_of(s->V, COLUMNS)), dim3(THREADS), p.shared_bytes, g->stream,
           *s);
    return cu_launched(&g->k, "head of the vocabulary");
}

float *cuda_all_logits(cuda *g, const act *x, int R, const weight *w)
{
    scoring s = {};
    s.R = R;
    s.all = (float *)cuda_take(g, (size_t)R * (size_t)w->rows * sizeof *s.all);
    return s.all && run_head(g, &s, x, w) ? s.all : NULL;
}

void cuda_logits(kernels *k, float *out, const act *x, int R, const weight *w)
{
    cuda *g = cuda_of(k);
    if (!g || R == 0 || w->rows == 0) return;
    size_t       mark = k->mark(k);
    const float *all = cuda_all_logits(g, x, R, w);
    if (all && cuda_fetch(g, out, all, (size_t)R * (size_t)w->rows * sizeof *all)) k->flops += product_flops(R, w);
    k->back(k, mark);
}

void cuda_score(kernels *k, float *logit, float *lse, const act *x, int R, const weight *w, const int32_t *row,
                const int32_t *token, int n)
{
    cuda *g = cuda_of(k);
    if (!g || n == 0 || R == 0) return;
    size_t  mark = k->mark(k), bytes = (size_t)n * sizeof(float);
    int     tiles = blocks_of(w->rows, COLUMNS);
    scoring s = {};
    s.R = R;
    s.n = n;
    s.max = (float *)cuda_take(g, (size_t)tiles * R * sizeof(float));
    s.sum = (float *)cuda_take(g, (size_t)tiles * R * sizeof(float));
    s.logit = (float *)cuda_take(g, bytes);
    s.lse = (float *)cuda_take(g, bytes);
    s.row = (const int32_t *)cuda_stage(g, row, (size_t)n * sizeof *row);
    s.token = (const int32_t *)cuda_stage(g, token, (size_t)n * sizeof *token);
    if (k->failed.code == ERR_NONE && run_head(g, &s, x, w)) {
        LAUNCH(join_kernel, dim3(R), dim3(32), 0, g->stream, s, tiles);
        if (cu_launched(k, "log-sum-exp") && cuda_fetch(g, logit, s.logit, bytes) && cuda_fetch(g, lse, s.lse, bytes))
            k->flops += product_flops(R, w);
    }
    k->back(k, mark);
}
