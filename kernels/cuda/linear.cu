/* linear.cu - products with weights: y = unit(x w^T + bias + low b^T) + residual.
 *
 * bf16 on tensor cores. One kernel template in four shapes of tile, which the number of rows picks:
 *
 *     narrow  16 x  32, 256 deep   T <= 16: decoding. Weights are read once; up to 3 x 24 KB a block under way
 *     few     64 x  32, 128 deep   T <= 64: the branches of many candidates
 *     medium  64 x  64,  64 deep   where wide tiles would leave multiprocessors idle
 *     wide   128 x 128,  64 deep   prefill and vision
 *
 * Same bits whatever T: in every shape an output is one chain of mma.sync.m16n8k16 from k = 0 upwards, accumulated in
 * f32 in one register, with x as the first operand. Shapes differ only in which outputs share a block. Hence no split
 * of K; decoding has N / 8 chains side by side instead, each with 256 elements of k in a stage, so that a barrier is
 * paid once in 16 steps. What lies past K is zeros, and adding 0 * 0 changes nothing.
 *
 * Products of the same few rows share a launch in a step of decoding (linears): a block is of one of them.
 *
 * Large products are cuBLASLt's where it is there (cublaslt.cu); what it cannot finish as we do goes on from its sums
 * here.
 *
 * Tiles and fragments are in tile.cuh; cp.async fills STAGES - 1 tiles ahead.
 *
 * f32: plain multiply-adds, one chain of fmaf a sum, on the same two sources. The retriever runs so (docs/DESIGN.md,
 * section 5), and it serves the vectors (rows == 1), which are f32 in a bf16 table too. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/tile.cuh"

#include <limits.h>

/* What one launch multiplies. The branch (low, b) of depth R goes on where x w^T ended; R = 0: none. start: x w^T as
 * the library made it, then K is 0. */
template <class X, class W> struct product {
    const X     *x, *low;
    const W     *w, *b;
    int          ldx, ld_low, ldw, ldb, K, R, T, N;
    const float *start;    /* [T,N], or NULL */
    const float *bias;     /* [N] or NULL */
    const X     *residual; /* rows ldy apart, or NULL; may be y */
    X           *y;
    int          ldy;
    unit         u;
};

/* --------------------------------------------------------------------------------------------- bf16, tensor cores */
typedef product<bf16, bf16> tensor_product;

/* Tile i of the walk over k: first through x and w, then through low and b. */
template <int BM, int BN, int BK, int THREADS>
static __device__ __forceinline__ void load_stage(bf16 *stage, const tensor_product &p, int i, int tiles_x, int t0,
                                                  int n0)
{
    bool branch = i >= tiles_x;
    int  k0 = (branch ? i - tiles_x : i) * BK, depth = branch ? p.R : p.K;
    load_tile<BM, BK, THREADS>(stage, branch ? p.low : p.x, branch ? p.ld_low : p.ldx, t0, p.T, k0, depth);
    load_tile<BN, BK, THREADS>(stage + BM * BK, branch ? p.b : p.w, branch ? p.ldb : p.ldw, n0, p.N, k0, depth);
}

/* The end of a tile: the accumulators go through shared memory, so that a thread has eight neighbours of a row to
 * finish, read and write at once, and the unit's code is there once and not once an accumulator. sums: rows PITCH
 * apart. */
template <int BM, int BN, int THREADS, int PITCH>
static __device__ __forceinline__ void finish(const tensor_product &p, const float *sums, int t_base, int n_base,
                                              bool aligned)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < BM * BN / 8; i += THREADS) {
        int t = t_base + i / (BN / 8), n = n_base + i % (BN / 8) * 8, left = p.N - n;
        if (t >= p.T || left <= 0) continue;
        float  v[8], r[8], b[8];
        size_t at = (size_t)t * p.ldy + n;
        load_8(v, sums + i / (BN / 8) * PITCH + i % (BN / 8) * 8, 8, true);
        if (p.start) { /* N % 8 == 0 then */
            load_8(r, p.start + (size_t)t * p.N + n, 8, true);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] += r[j];
        }
        if (p.bias) load_8(b, p.bias + n, left, aligned);
        if (p.residual) load_8(r, p.residual + at, left, aligned);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float sum = p.bias ? v[j] + b[j] : v[j];
            v[j] = p.residual ? unit_of(sum, p.u) + r[j] : unit_of(sum, p.u);
        }
        store_8(p.y + at, v, left, aligned);
    }
}

/* The shapes of a tile: BM x BN outputs a block, WM x WN a warp, BK deep, STAGES of it in shared memory. BLOCKS: a
 * multiprocessor's, which bounds the registers. Each wants more than the 48 KB of shared memory that a kernel gets
 * unasked, and at most the 99 KB of sm_86 and sm_89. */
template <int BM_, int BN_, int BK_, int WM_, int WN_, int STAGES_, int BLOCKS_> struct shape {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, WM = WM_, WN = WN_, STAGES = STAGES_, BLOCKS = BLOCKS_;
    static constexpr int THREADS = BM / WM * (BN / WN) * 32, STAGE = (BM + BN) * BK;
    static constexpr int SHARED = STAGES * STAGE * (int)sizeof(bf16);
    static_assert(SHARED <= 99 * 1024, "more shared memory than sm_86 has");
    static_assert(BM * (BN + 8) * (int)sizeof(float) <= SHARED, "the sums of a tile go where its operands were");
};
typedef shape<16, 32, 256, 16, 8, 4, 2>   narrow_shape;
typedef shape<64, 32, 128, 16, 32, 4, 2>  few_shape;
typedef shape<64, 64, 64, 32, 32, 4, 3>   medium_shape;
typedef shape<128, 128, 64, 64, 32, 3, 2> wide_shape;

/* One block's outputs: BM rows from t_base on by BN columns from n_base on. */
template <class S>
static __device__ __forceinline__ void tensor_tile(const tensor_product &p, int aligned, int t_base, int n_base)
{
    constexpr int BM = S::BM, BN = S::BN, BK = S::BK, WM = S::WM, WN = S::WN;
    constexpr int STAGES = S::STAGES, THREADS = S::THREADS, STAGE = S::STAGE;
    DYNAMIC_SHARED(bf16, shared);
    int   lane = threadIdx.x % 32, warp = threadIdx.x / 32, m0 = warp / (BN / WN) * WM, n0 = warp % (BN / WN) * WN;
    int   tiles_x = (p.K + BK - 1) / BK, tiles = tiles_x + (p.R + BK - 1) / BK;
    float acc[WM / 16][WN / 8][4] = {};

    for (int i = 0; i < STAGES - 1; i++) {
        if (i < tiles) load_stage<BM, BN, BK, THREADS>(shared + i * STAGE, p, i, tiles_x, t_base, n_base);
        cp_async_commit(); /* also when empty: a wait counts groups */
    }
    for (int i = 0, slot = 0, free_slot = STAGES - 1; i < tiles; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* tile i is there for all, and nobody reads the slot of tile i - 1 any more */
        if (i + STAGES - 1 < tiles)
            load_stage<BM, BN, BK, THREADS>(shared + free_slot * STAGE, p, i + STAGES - 1, tiles_x, t_base, n_base);
        cp_async_commit();
        const bf16 *x = shared + slot * STAGE;
        multiply<BK, WM, WN>(acc, x, x + BM * BK, m0, n0, lane);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        free_slot = free_slot + 1 == STAGES ? 0 : free_slot + 1;
    }

    constexpr int PITCH = BN + 8; /* so that a warp's rows fall into different banks */
    float        *sums = reinterpret_cast<float *>(shared);
    cp_async_wait<0>();
    __syncthreads(); /* the last tile has been read */
#pragma unroll
    for (int m = 0; m < WM / 16; m++)
#pragma unroll
        for (int n = 0; n < WN / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float *at = sums + (m0 + m * 16 + half * 8 + lane / 4) * PITCH + n0 + n * 8 + lane % 4 * 2;
                *reinterpret_cast<float2 *>(at) = make_float2(acc[m][n][2 * half], acc[m][n][2 * half + 1]);
            }
    __syncthreads();
    finish<BM, BN, THREADS, PITCH>(p, sums, t_base, n_base, aligned);
}

/* grid: (ceil(T / BM), ceil(N / BN)), so that blocks that run together share tiles of w. */
template <class S> static __global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
tensor_kernel(const tensor_product p, int aligned)
{
    tensor_tile<S>(p, aligned, blockIdx.x * S::BM, blockIdx.y * S::BN);
}

/* Up to GROUP products of the same rows. One with few outputs (keys, values: 512) has not the blocks to draw what the
 * memory gives. grid: (ceil(T / BM), the sum of their ceil(N / BN)) */
enum { GROUP = 3 };
struct tensor_group { tensor_product p[GROUP]; int aligned[GROUP], begin[GROUP]; /* first block; INT_MAX: none */ };

template <class S> static __global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
group_kernel(GRID_CONSTANT(tensor_group, all))
{
    const int block = blockIdx.y, i = (block >= all.begin[1]) + (block >= all.begin[2]);
    tensor_tile<S>(all.p[i], all.aligned[i], blockIdx.x * S::BM, (block - all.begin[i]) * S::BN);
}

static bool rows_at_16(const tensor_product &p)
{
    return p.ldy % 8 == 0 && aligned_16(p.y) && aligned_16(p.residual);
}

static int ends_at_16(const tensor_product &p) { return rows_at_16(p) && aligned_16(p.bias); }

template <class S> static void launch(cuda *g, const tensor_product &p)
{
    auto kernel = tensor_kernel<S>;
    dim3 grid(blocks_of(p.T, S::BM), blocks_of(p.N, S::BN));
    LAUNCH(kernel, grid, dim3(S::THREADS), S::SHARED, g->stream, p, ends_at_16(p));
    cu_launched(&g->k, "linear");
}

template <class S> static void launch_group(cuda *g, const tensor_product *p, int n)
{
    auto         kernel = group_kernel<S>;
    tensor_group all = {};
    int          blocks = 0;
    for (int i = 0; i < GROUP; i++) {
        all.begin[i] = i < n ? blocks : INT_MAX;
        if (i >= n) continue;
        all.p[i] = p[i];
        all.aligned[i] = ends_at_16(p[i]);
        blocks += blocks_of(p[i].N, S::BN);
    }
    LAUNCH(kernel, dim3(blocks_of(p->T, S::BM), blocks), dim3(S::THREADS), S::SHARED, g->stream, all);
    cu_launched(&g->k, "linear");
}

template <class S, class F> static bool allow_shared(kernels *k, F *kernel)
{
    return cu_ok(k, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED), "linear");
}

bool cuda_linear_open(cuda *g)
{
    kernels *k = &g->k;
    return allow_shared<narrow_shape>(k, tensor_kernel<narrow_shape>)
        && allow_shared<few_shape>(k, tensor_kernel<few_shape>)
        && allow_shared<medium_shape>(k, tensor_kernel<medium_shape>)
        && allow_shared<wide_shape>(k, tensor_kernel<wide_shape>)
        && allow_shared<narrow_shape>(k, group_kernel<narrow_shape>)
        && allow_shared<few_shape>(k, group_kernel<few_shape>);
}

/* By the library what a weight's plan gives it: by its epilogue, never by T. Where y lies is as much the place's:
 * rows that are not aligned are so in every batch. True: nothing is left to do; else p is what is. */
static bool run_library(cuda *g, tensor_product *p, const weight *w)
{
    bool       bare = !p->bias && p->u == UNIT_NONE && p->R == 0;
    lt_product q = {};
    q.kind = !bare ? LT_SUMS : p->residual ? LT_ADDED : LT_PLAIN;
    if (!lt_takes(w, q.kind) || (bare && !rows_at_16(*p))) return false;
    q.T = p->T, q.N = p->N, q.K = p->K;
    q.w = p->w, q.ldw = p->ldw, q.x = p->x, q.ldx = p->ldx;
    q.residual = p->residual, q.y = p->y, q.ldy = p->ldy;
    if (!bare) {
        q.y = cuda_take(g, (size_t)p->T * (size_t)p->N * sizeof(float)), q.ldy = p->N;
        p->start = (const float *)q.y, p->K = 0;
        if (!q.y) return true;
    }
    lt_run(g, w, &q);
    return bare || g->k.failed.code != ERR_NONE;
}

static void run_tensor(cuda *g, tensor_product p, const weight *w)
{
    p.x = cuda_pack_rows(g, p.x, &p.ldx, p.T, p.K);
    if (!p.x || (!g->own_products && !g->k.decoding && run_library(g, &p, w))) return;
    int64_t wide = (int64_t)blocks_of(p.T, wide_shape::BM) * blocks_of(p.N, wide_shape::BN);
    if (p.T <= narrow_shape::BM) launch<narrow_shape>(g, p);
    else if (p.T <= few_shape::BM) launch<few_shape>(g, p);
    else if (wide < g->n_sms) launch<medium_shape>(g, p);
    else launch<wide_shape>(g, p);
}

/* ------------------------------------------------------------------------------------------- f32, multiply-adds
 * 64 x 64 outputs a block, 4 x 4 a thread; x and w tiles 16 deep, turned so that k is the slow index. */
enum { FMA_TILE = 64, FMA_DEPTH = 16, FMA_THREADS = 256 };

typedef float fma_row[FMA_TILE + 4];

/* Four neighbours, those from n on 0. */
static __device__ __forceinline__ void load_4(float v[4], const float *p, int n, bool aligned)
{
    if (aligned && n >= 4) {
        float4 a = *reinterpret_cast<const float4 *>(p);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    } else
        for (int i = 0; i < 4; i++) v[i] = i < n ? p[i] : 0.0f;
}
static __device__ __forceinline__ void load_4(float v[4], const bf16 *p, int n, bool)
{
    for (int i = 0; i < 4; i++) v[i] = i < n ? widen(p[i]) : 0.0f;
}

template <class E>
static __device__ __forceinline__ void load_turned(fma_row *tile, const E *from, int ld, int row0, int n_rows, int k0,
                                                   int depth)
{
    int   row = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
    bool  aligned = ld % 4 == 0 && (uintptr_t)from % 16 == 0;
    float v[4];
    load_4(v, from + (size_t)(row0 + row) * ld + k0 + k, row0 + row < n_rows ? depth - k0 - k : 0, aligned);
    for (int i = 0; i < 4; i++) tile[k + i][row] = v[i];
}

template <class X, class W>
static __device__ __forceinline__ void put_one(const product<X, W> &p, int t, int n, float sum)
{
    if (t >= p.T || n >= p.N) return;
    size_t at = (size_t)t * p.ldy + n;
    float  v = unit_of(p.bias ? sum + p.bias[n] : sum, p.u);
    p.y[at] = narrow<X>(p.residual ? v + widen(p.residual[at]) : v);
}

/* grid: (ceil(T / 64), ceil(N / 64)) */
template <class X, class W> static __global__ void __launch_bounds__(FMA_THREADS) fma_kernel(const product<X, W> p)
{
    DYNAMIC_SHARED(fma_row, xs); /* [FMA_DEPTH] */
    fma_row *ws = xs + FMA_DEPTH;
    int t0 = blockIdx.x * FMA_TILE, n0 = blockIdx.y * FMA_TILE, ty = threadIdx.x / 16 * 4,
        tx = threadIdx.x % 16 * 4;
    float acc[4][4] = {};
    for (int part = 0; part < 2; part++) { /* x w^T, then low b^T */
        int depth = part ? p.R : p.K;
        for (int k0 = 0; k0 < depth; k0 += FMA_DEPTH) {
            load_turned(xs, part ? p.low : p.x, part ? p.ld_low : p.ldx, t0, p.T, k0, depth);
            load_turned(ws, part ? p.b : p.w, part ? p.ldb : p.ldw, n0, p.N, k0, depth);
            __syncthreads();
#pragma unroll
            for (int k = 0; k < FMA_DEPTH; k++) {
                float4 a = *reinterpret_cast<const float4 *>(&xs[k][ty]),
                       b = *reinterpret_cast<const float4 *>(&ws[k][tx]);
                float  av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
            }
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) put_one(p, t0 + ty + i, n0 + tx + j, acc[i][j]);
}

/* ------------------------------------------------------------------------------------------------------ the table */
/* A low-rank branch: x a^T is there already, [T, R] rows ld apart; b NULL: none. */
typedef struct { const act *x; int ld; const weight *b; } branch_of;

template <class X, class W>
static product<X, W> product_of(act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                                branch_of low, unit u, const act *residual)
{
    product<X, W> p = {};
    p.x = (const X *)x, p.ldx = ldx, p.T = T;
    p.w = (const W *)w->data, p.ldw = cuda_pitch(w), p.N = (int)w->rows, p.K = (int)w->cols;
    if (low.b) {
        p.low = (const X *)low.x, p.ld_low = low.ld;
        p.b = (const W *)low.b->data, p.ldb = cuda_pitch(low.b), p.R = (int)low.b->cols;
    }
    p.bias = bias ? (const float *)bias->data : NULL;
    p.residual = (const X *)residual, p.y = (X *)y, p.ldy = ldy, p.u = u;
    return p;
}

template <class X> static void run_fma(cuda *g, const product<X, float> &p)
{
    auto kernel = fma_kernel<X, float>;
    LAUNCH(kernel, dim3(blocks_of(p.T, FMA_TILE), blocks_of(p.N, FMA_TILE)), dim3(FMA_THREADS),
           2 * FMA_DEPTH * sizeof(fma_row), g->stream, p);
    cu_launched(&g->k, "linear");
}

static void run(cuda *g, act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                branch_of low, unit u, const act *residual)
{
    if (T == 0 || w->rows == 0) return;
    size_t mark = g->k.mark(&g->k);
    if (g->f32) run_fma(g, product_of<float, float>(y, ldy, x, ldx, T, w, bias, low, u, residual));
    else if (w->type == DTYPE_F32) run_fma(g, product_of<bf16, float>(y, ldy, x, ldx, T, w, bias, low, u, residual));
    else run_tensor(g, product_of<bf16, bf16>(y, ldy, x, ldx, T, w, bias, low, u, residual), w);
    g->k.back(&g->k, mark);
    g->k.flops += product_flops(T, w);
}

void cuda_linear(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                 unit u, const act *residual)
{
    cuda *g = cuda_of(k);
    if (g) run(g, y, ldy, x, ldx, T, w, bias, branch_of{}, u, residual);
}

/* What is the library's at any T stays its own. */
static bool may_share(const cuda *g, const product_out *p, int n, int T)
{
    bool ok = !g->f32 && n > 1 && n <= GROUP && T <= few_shape::BM && (g->own_products || g->k.decoding);
    for (int i = 0; i < n; i++) ok = ok && p[i].w->type == DTYPE_BF16 && p[i].w->rows > 0;
    return ok;
}

void cuda_linears(kernels *k, const product_out *p, int n, const act *x, int ldx, int T)
{
    cuda *g = cuda_of(k);
    if (!g || T == 0) return;
    if (!may_share(g, p, n, T)) {
        for (int i = 0; i < n; i++) cuda_linear(k, p[i].y, p[i].ldy, x, ldx, T, p[i].w, p[i].bias, UNIT_NONE, NULL);
        return;
    }
    size_t         mark = k->mark(k);
    tensor_product all[GROUP];
    const bf16    *rows = cuda_pack_rows(g, (const bf16 *)x, &ldx, T, (int)p->w->cols);
    for (int i = 0; i < n; i++)
        all[i] = product_of<bf16, bf16>(p[i].y, p[i].ldy, rows, ldx, T, p[i].w, p[i].bias, branch_of{}, UNIT_NONE,
                                        NULL);
    if (rows && T <= narrow_shape::BM) launch_group<narrow_shape>(g, all, n);
    else if (rows) launch_group<few_shape>(g, all, n);
    k->back(k, mark);
    for (int i = 0; rows && i < n; i++) k->flops += product_flops(T, p[i].w);
}

/* x a^T is kept as activations are, as the CPU's bf16 products round it; rows padded so that cp.async can read
 * them. */
void cuda_linear_low_rank(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w,
                          const weight *bias, const weight *a, const weight *b, unit u, const act *residual)
{
    cuda *g = cuda_of(k);
    if (!g) return;
    size_t mark = k->mark(k);
    int    pitch = ((int)a->rows + 7) / 8 * 8;
    act   *low = k->take(k, (size_t)T * (size_t)pitch);
    if (low) {
        run(g, low, pitch, x, ldx, T, a, NULL, branch_of{}, UNIT_NONE, NULL);
        run(g, y, ldy, x, ldx, T, w, bias, branch_of{low, pitch, b}, u, residual);
        k->flops += product_flops(T, b);
    }
    k->back(k, mark);
}
