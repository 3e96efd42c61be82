/* rows.cu - operations row by row: norms, gated units, rotary positions, gather, sums, and the change of element
 * type.
 *
 * Reference: kernels/ref.  Test: tests/cuda/test_rows.c.  All are bound by memory: each element is read and written
 * once (norms read a row again, from cache), eight neighbours a thread and access. One block owns one row where a row
 * is shared (norms) or long (gated units); which thread sums which elements depends on D alone, so a row's bits do
 * not depend on T or on alignment. */
#include "kernels/cuda/cuda.h"

enum { NORM_THREADS = 128, NORM_WARPS = NORM_THREADS / 32, ROW_THREADS = 256, FLAT_THREADS = 256 };

/* The same accesses are 16 bytes wide in every row if the first row is aligned and rows are whole eights apart. */
static bool rows_aligned(const void *p, int64_t ld, size_t element)
{
    return aligned_16(p) && (uint64_t)ld * element % 16 == 0;
}

/* ---------------------------------------------------------------------------------------------------------- norms */
/* Sum over the block, the same in every thread: warps by shuffles, then warp 0, 1, 2, 3. part: one use a call. */
static __device__ __forceinline__ float block_sum(float v, float *part)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < NORM_WARPS; i++) sum += part[i];
    return sum;
}

/* y = (x - mean) / sqrt(var + eps) * gain + bias [Ba et al. 2016, eq. 3]; bias may be NULL. The variance takes its
 * own pass: E[x^2] - mean^2 cancels on the outlier channels of a vision transformer. grid: T */
template <class E> static __global__ void __launch_bounds__(NORM_THREADS)
layernorm_kernel(E *y, const E *x, int D, const float *gain, const float *bias, float eps, int aligned)
{
    DYNAMIC_SHARED(float, part); /* [2, NORM_WARPS] */
    x += (size_t)blockIdx.x * D;
    y += (size_t)blockIdx.x * D;
    float v[8], sum = 0, sq = 0;
    for (int i = threadIdx.x * 8; i < D; i += NORM_THREADS * 8) {
        load_8(v, x + i, D - i, aligned);
        for (int j = 0; j < 8; j++) sum += v[j];
    }
    float mean = block_sum(sum, part) / (float)D;
    for (int i = threadIdx.x * 8; i < D; i += NORM_THREADS * 8) {
        load_8(v, x + i, D - i, aligned);
        for (int j = 0; j < 8 && i + j < D; j++) sq = fmaf(v[j] - mean, v[j] - mean, sq);
    }
    float rstd = 1.0f / sqrtf(block_sum(sq, part + NORM_WARPS) / (float)D + eps);
    for (int i = threadIdx.x * 8; i < D; i += NORM_THREADS * 8) {
        float g[8], b[8] = {};
        load_8(v, x + i, D - i, aligned);
        load_8(g, gain + i, D - i, aligned);
        if (bias) load_8(b, bias + i, D - i, aligned);
        for (int j = 0; j < 8; j++) v[j] = fmaf((v[j] - mean) * rstd, g[j], b[j]);
        store_8(y + i, v, D - i, aligned);
    }
}

/* y = x / sqrt(mean(x^2) + eps) * gain [Zhang and Sennrich 2019, eq. 4]. grid: T */
template <class E> static __global__ void __launch_bounds__(NORM_THREADS)
rmsnorm_kernel(E *y, const E *x, int D, const float *gain, float eps, int aligned)
{
    DYNAMIC_SHARED(float, part); /* [NORM_WARPS] */
    x += (size_t)blockIdx.x * D;
    y += (size_t)blockIdx.x * D;
    float v[8], sq = 0;
    for (int i = threadIdx.x * 8; i < D; i += NORM_THREADS * 8) {
        load_8(v, x + i, D - i, aligned);
        for (int j = 0; j < 8; j++) sq = fmaf(v[j], v[j], sq);
    }
    float rms = 1.0f / sqrtf(block_sum(sq, part) / (float)D + eps);
    for (int i = threadIdx.x * 8; i < D; i += NORM_THREADS * 8) {
        float g[8];
        load_8(v, x + i, D - i, aligned);
        load_8(g, gain + i, D - i, aligned);
        for (int j = 0; j < 8; j++) v[j] = v[j] * rms * g[j];
        store_8(y + i, v, D - i, aligned);
    }
}

template <class E>
static void run_layernorm(cuda *g, act *y, const act *x, int T, int D, const weight *gain, const weight *bias,
                          float eps)
{
    auto kernel = layernorm_kernel<E>;
    int  aligned = rows_aligned(x, D, sizeof(E)) && rows_aligned(y, D, sizeof(E)) && aligned_16(gain->data) &&
                  (!bias || aligned_16(bias->data));
    LAUNCH(kernel, dim3(T), dim3(NORM_THREADS), 2 * NORM_WARPS * sizeof(float), g->stream, (E *)y, (const E *)x, D,
           (const float *)gain->data, bias ? (const float *)bias->data : NULL, eps, aligned);
    cu_launched(&g->k, "layernorm");
}

void cuda_layernorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, const weight *bias, float eps)
{
    cuda *g = cuda_of(k);
    if (!g || T == 0) return;
    if (g->f32) run_layernorm<float>(g, y, x, T, D, gain, bias, eps);
    else run_layernorm<bf16>(g, y, x, T, D, gain, bias, eps);
}

template <class E> static void run_rmsnorm(cuda *g, act *y, const act *x, int T, int D, const weight *gain, float eps)
{
    auto kernel = rmsnorm_kernel<E>;
    int  aligned =
        rows_aligned(x, D, sizeof(E)) && rows_aligned(y, D, sizeof(E)) && aligned_16(gain->data);
    LAUNCH(kernel, dim3(T), dim3(NORM_THREADS), NORM_WARPS * sizeof(float), g->stream, (E *)y, (const E *)x, D,
           (const float *)gain->data, eps, aligned);
    cu_launched(&g->k, "rmsnorm");
}

void cuda_rmsnorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, float eps)
{
    cuda *g = cuda_of(k);
    if (!g || T == 0) return;
    if (g->f32) run_rmsnorm<float>(g, y, x, T, D, gain, eps);
    else run_rmsnorm<bf16>(g, y, x, T, D, gain, eps);
}

/* ---------------------------------------------------------------------------------------------------- gated units */
template <unit U> static __device__ __forceinline__ void gate_8(float a[8], const float b[8])
{
    for (int j = 0; j < 8; j++) a[j] = unit_of(a[j], U) * b[j];
}

/* y[t, j] = unit(gate[t, j]) * up[t, j]. grid: T */
template <class E> static __global__ void __launch_bounds__(ROW_THREADS)
glu_kernel(E *y, const E *gate, const E *up, int ld, int F, unit u, int aligned)
{
    gate += (size_t)blockIdx.x * ld;
    up += (size_t)blockIdx.x * ld;
    y += (size_t)blockIdx.x * F;
    for (int i = threadIdx.x * 8; i < F; i += ROW_THREADS * 8) {
        float a[8], b[8];
        load_8(a, gate + i, F - i, aligned);
        load_8(b, up + i, F - i, aligned);
        switch (u) { /* once for the eight */
        case UNIT_NONE: gate_8<UNIT_NONE>(a, b); break;
        case UNIT_GELU: gate_8<UNIT_GELU>(a, b); break;
        case UNIT_QUICK_GELU: gate_8<UNIT_QUICK_GELU>(a, b); break;
        case UNIT_SILU: gate_8<UNIT_SILU>(a, b); break;
        }
        store_8(y + i, a, F - i, aligned);
    }
}

template <class E> static void run_glu(cuda *g, act *y, const act *gate, const act *up, int ld, int T, int F, unit u)
{
    auto kernel = glu_kernel<E>;
    int aligned =
        rows_aligned(gate, ld, sizeof(E)) && rows_aligned(up, ld, sizeof(E)) && rows_aligned(y, F, sizeof(E));
    LAUNCH(kernel, dim3(T), dim3(ROW_THREADS), 0, g->stream, (E *)y, (const E *)gate, (const E *)up, ld, F, u,
           aligned);
    cu_launched(&g->k, "glu");
}

void cuda_glu(kernels *k, act *y, const act *gate, const act *up, int ld, int T, int F, unit u)
{
    cuda *g = cuda_of(k);
    if (!g || T == 0 || F == 0) return;
    if (g->f32) run_glu<float>(g, y, gate, up, ld, T, F, u);
    else run_glu<bf16>(g, y, gate, up, ld, T, F, u);
}

/* ----------------------------------------------------------------------------------------------- rotary positions */
static __device__ __forceinline__ void turn(float &a, float &b, float c, float s)
{
    float turned = fmaf(a, c, -b * s);
    b = fmaf(b, c, a * s);
    a = turned;
}

/* Both layouts and every kind of position (2-D, M-RoPE, interleaved) come as tables of angles: [T, half]. A thread
 * turns eight pairs of a head: two runs of eight elements half apart, or sixteen neighbours when interleaved.
 * grid: T */
template <class E> static __global__ void __launch_bounds__(ROW_THREADS)
rope_kernel(E *x, int ld, int n_heads, int head_dim, const float *cos_, const float *sin_, int half, int interleaved,
            int aligned, int angles_aligned)
{
    int eights = (half + 7) / 8;
    x += (size_t)blockIdx.x * ld;
    cos_ += (size_t)blockIdx.x * half;
    sin_ += (size_t)blockIdx.x * half;
    for (int i = threadIdx.x; i < n_heads * eights; i += ROW_THREADS) {
        int   j = i % eights * 8, n = half - j < 8 ? half - j : 8;
        E    *p = x + (size_t)(i / eights) * head_dim + (interleaved ? 2 * j : j), *q = p + (interleaved ? 8 : half);
        int   n_lo = interleaved ? 2 * n : n, n_hi = interleaved ? 2 * n - 8 : n;
        float lo[8], hi[8], c[8], s[8];
        load_8(c, cos_ + j, n, angles_aligned);
        load_8(s, sin_ + j, n, angles_aligned);
        load_8(lo, p, n_lo, aligned);
        load_8(hi, q, n_hi, aligned);
        if (interleaved)
            for (int m = 0; m < 4; m++) {
                turn(lo[2 * m], lo[2 * m + 1], c[m], s[m]);
                turn(hi[2 * m], hi[2 * m + 1], c[m + 4], s[m + 4]);
            }
        else
            for (int m = 0; m < 8; m++) turn(lo[m], hi[m], c[m], s[m]);
        store_8(p, lo, n_lo, aligned);
        store_8(q, hi, n_hi, aligned);
    }
}

template <class E>
static void run_rope(cuda *g, act *x, int ld, int T, int n_heads, int head_dim, const float *cos_, const float *sin_,
                     int half, bool interleaved)
{
    auto kernel = rope_kernel<E>;
    int  aligned = rows_aligned(x, ld, sizeof(E)) && head_dim % 8 == 0 && (interleaved || half % 8 == 0);
    int  angles_aligned = aligned_16(cos_) && aligned_16(sin_) && half % 4 == 0;
    LAUNCH(kernel, dim3(T), dim3(ROW_THREADS), 0, g->stream, (E *)x, ld, n_heads, head_dim, cos_, sin_, half,
           (int)interleaved, aligned, angles_aligned);
    cu_launched(&g->k, "rope");
}

void cuda_rope(kernels *k, act *x, int ld, int T, int n_heads, int head_dim, const float *cos_, const float *sin_,
               int half, bool interleaved)
{
    cuda *g = cuda_of(k);
    if (!g || T == 0 || half == 0 || !cos_ || !sin_) return;
    if (g->f32) run_rope<float>(g, x, ld, T, n_heads, head_dim, cos_, sin_, half, interleaved);
    else run_rope<bf16>(g, x, ld, T, n_heads, head_dim, cos_, sin_, half, interleaved);
}

/* ---------------------------------------------------------------------------------- gather, add, copy, mean, pack */
/* y[t] = table[id[t]], D elements; with id NULL row t itself. grid: T */
template <class E, class W> static __global__ void __launch_bounds__(ROW_THREADS)
gather_kernel(E *y, int ldy, const W *table, int ld, const int32_t *id, int D, int aligned)
{
    const W *row = table + (size_t)(id ? id[blockIdx.x] : (int)blockIdx.x) * ld;
    y += (size_t)blockIdx.x * ldy;
    for (int i = threadIdx.x * 8; i < D; i += ROW_THREADS * 8) {
        float v[8];
        load_8(v, row + i, D - i, aligned);
        store_8(y + i, v, D - i, aligned);
    }
}

template <class E, class W>
static void run_gather(cuda *g, E *y, int ldy, const W *table, int ld, const int32_t *id, int T, int D)
{
    auto kernel = gather_kernel<E, W>;
    int  aligned = rows_aligned(y, ldy, sizeof(E)) && rows_aligned(table, ld, sizeof(W));
    LAUNCH(kernel, dim3(T), dim3(ROW_THREADS), 0, g->stream, y, ldy, table, ld, id, D, aligned);
    cu_launched(&g->k, "gather");
}

void cuda_gather(kernels *k, act *y, const weight *table, const int32_t *id, int T, int D)
{
    cuda *g = cuda_of(k);
    if (!g || T == 0 || D == 0) return;
    size_t         mark = k->mark(k);
    const int32_t *d_id = (const int32_t *)cuda_stage(g, id, (size_t)T * sizeof *id);
    if (!d_id) return;
    int ld = cuda_pitch(table);
    if (g->f32) run_gather(g, (float *)y, D, (const float *)table->data, ld, d_id, T, D);
    else if (table->type == DTYPE_F32) run_gather(g, (bf16 *)y, D, (const float *)table->data, ld, d_id, T, D);
    else run_gather(g, (bf16 *)y, D, (const bf16 *)table->data, ld, d_id, T, D);
    k->back(k, mark);
}

const bf16 *cuda_pack_rows(cuda *g, const bf16 *x, int *ld, int T, int D)
{
    if (*ld % 8 == 0 && aligned_16(x)) return x;
    int   pitch = (D + 7) / 8 * 8;
    bf16 *packed = (bf16 *)cuda_take(g, (size_t)T * (size_t)pitch * sizeof(bf16));
    if (!packed) return NULL;
    run_gather(g, packed, pitch, x, *ld, (const int32_t *)NULL, T, D);
    *ld = pitch;
    return packed;
}

/* y += x, n elements, eight a thread */
template <class E>
static __global__ void __launch_bounds__(FLAT_THREADS) add_kernel(E *y, const E *x, size_t n, int aligned)
{
    size_t i = ((size_t)blockIdx.x * FLAT_THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float a[8], b[8];
    int   left = n - i < 8 ? (int)(n - i) : 8;
    load_8(a, y + i, left, aligned);
    load_8(b, x + i, left, aligned);
    for (int j = 0; j < 8; j++) a[j] += b[j];
    store_8(y + i, a, left, aligned);
}

void cuda_add(kernels *k, act *y, const act *x, size_t n)
{
    cuda *g = cuda_of(k);
    if (!g || n == 0) return;
    int aligned = aligned_16(y) && aligned_16(x);
    dim3 grid(blocks_of((int64_t)n, FLAT_THREADS * 8));
    if (g->f32)
        LAUNCH(add_kernel<float>, grid, dim3(FLAT_THREADS), 0, g->stream, (float *)y, (const float *)x, n, aligned);
    else LAUNCH(add_kernel<bf16>, grid, dim3(FLAT_THREADS), 0, g->stream, (bf16 *)y, (const bf16 *)x, n, aligned);
    cu_launched(k, "add");
}

/* Many short copies: the keys and values of a step of decoding, a row each. They come with the launch. grid:
 * (ceil(longest / eight a thread), copies) */
enum { COPIES = 64 };
struct copy_list { act_copy c[COPIES]; };

template <class E> static __global__ void __launch_bounds__(FLAT_THREADS) copies_kernel(GRID_CONSTANT(copy_list, all))
{
    const act_copy &c = all.c[blockIdx.y];
    size_t          i = ((size_t)blockIdx.x * FLAT_THREADS + threadIdx.x) * 8;
    if (i >= c.n) return;
    const E *from = static_cast<const E *>(c.from) + i;
    E       *to = static_cast<E *>(c.to) + i;
    if (c.n - i >= 8 && ((uintptr_t)from | (uintptr_t)to) % 16 == 0) {
#pragma unroll
        for (int j = 0; j < (int)(8 * sizeof(E) / sizeof(uint4)); j++)
            reinterpret_cast<uint4 *>(to)[j] = reinterpret_cast<const uint4 *>(from)[j];
    } else
        for (size_t j = 0; j < 8 && i + j < c.n; j++) to[j] = from[j];
}

void cuda_copies(kernels *k, const act_copy *c, int n)
{
    cuda *g = cuda_of(k);
    for (int done = 0; g && done < n;) {
        copy_list all;
        size_t    longest = 0;
        int       m = 0;
        for (; done < n && m < COPIES; done++) {
            if (c[done].n == 0) continue;
            if (c[done].n > longest) longest = c[done].n;
            all.c[m++] = c[done];
        }
        if (m == 0) return;
        dim3 grid(blocks_of((int64_t)longest, FLAT_THREADS * 8), m);
        if (g->f32) LAUNCH(copies_kernel<float>, grid, dim3(FLAT_THREADS), 0, g->stream, all);
        else LAUNCH(copies_kernel<bf16>, grid, dim3(FLAT_THREADS), 0, g->stream, all);
        if (!cu_launched(k, "copies")) return;
    }
}

/* One thread a column, rows in order, so that the sum of a column has one order; neighbours read neighbours. grid:
 * ceil(D / 256) */
template <class E> static __global__ void __launch_bounds__(FLAT_THREADS) mean_kernel(E *y, const E *x, int T, int D)
{
    int i = blockIdx.x * FLAT_THREADS + threadIdx.x;
    if (i >= D) return;
    float sum = 0;
#pragma unroll 8
    for (int t = 0; t < T; t++) sum += widen(x[(size_t)t * D + i]);
    y[i] = narrow<E>(T > 0 ? sum / (float)T : 0.0f);
}

void cuda_mean_rows(kernels *k, act *y, const act *x, int T, int D)
{
    cuda *g = cuda_of(k);
    if (!g || D == 0) return;
    dim3 grid(blocks_of(D, FLAT_THREADS));
    if (g->f32)
        LAUNCH(mean_kernel<float>, grid, dim3(FLAT_THREADS), 0, g->stream, (float *)y, (const float *)x, T, D);
    else LAUNCH(mean_kernel<bf16>, grid, dim3(FLAT_THREADS), 0, g->stream, (bf16 *)y, (const bf16 *)x, T, D);
    cu_launched(k, "mean_rows");
}

/* -------------------------------------------------------------------------------------------------- element types */
template <class To, class From> static __global__ void __launch_bounds__(FLAT_THREADS)
convert_kernel(To *y, const From *x, size_t n, int aligned)
{
    size_t i = ((size_t)blockIdx.x * FLAT_THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8];
    int   left = n - i < 8 ? (int)(n - i) : 8;
    load_8(v, x + i, left, aligned);
    store_8(y + i, v, left, aligned);
}

template <class To, class From> static void run_convert(cuda *g, To *y, const From *x, size_t n)
{
    auto kernel = convert_kernel<To, From>;
    if (n == 0) return;
    LAUNCH(kernel, dim3(blocks_of((int64_t)n, FLAT_THREADS * 8)), dim3(FLAT_THREADS), 0, g->stream, y, x, n,
           (int)(aligned_16(y) && aligned_16(x)));
    cu_launched(&g->k, "conversion");
}

void cuda_round(cuda *g, bf16 *dst, const float *src, size_t n) { run_convert(g, dst, src, n); }
void cuda_widen(cuda *g, float *dst, const bf16 *src, size_t n) { run_convert(g, dst, src, n); }
