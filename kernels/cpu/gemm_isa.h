/* gemm_isa.h - products y = x w^T with w as PyTorch stores it: rows of K, one an output.
 *
 * NR rows of w are transposed into a panel, 32 bits at a time (a float, or two neighbouring bf16), so that a
 * vector holds the same k of VL outputs. A tile of up to MR rows of x by NR outputs then stays in registers
 * while k runs:
 *
 *          panel [k][NR]           one step: load NR/VL vectors of the panel, and for each of MR rows of x
 *        n0 n1 .. n63              broadcast x[t][k] and multiply-add it into that row's NR/VL sums
 *     k0  .  .     .
 *     k1  .  .     .               The weights stay bf16 in the mapped file: a panel lives only as long as the
 *     ..                           rows of x that it is used on, in this core's L2 cache.
 *
 * Same bits: every output is one chain of multiply-adds in the order of k. Sums that are stored between two
 * blocks of K and loaded again are the same numbers, so neither T, nor the tile a row falls in, nor the block
 * sizes show in a result. */
#ifndef JOMED_KERNELS_CPU_GEMM_ISA_H
#define JOMED_KERNELS_CPU_GEMM_ISA_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/vecmath.h"

/* Registers: MR * NV sums, NV of the panel, one broadcast. 32 registers on AVX-512, 16 below.
 * STREAM_ROWS sums beside a block of VL registers, for few rows. */
#if defined __AVX512F__
enum { MR = 6, NV = 4, STREAM_ROWS = 8 };
#elif defined __AVX2__
enum { MR = 6, NV = 2, STREAM_ROWS = 4 };
#else
enum { MR = 4, NV = 2, STREAM_ROWS = 4 };
#endif
enum { NR = NV * VL };

/* What a tile asks for while it computes: lines of the weights that are packed next. One line is 16 elements of
 * a row, so each 16 steps of k ask for one line of each of these rows. */
typedef struct { const uint8_t *w; size_t row_bytes; int rows; } ahead;
enum { LINE = 16 };

/* c[mr, nv * VL] (+)= x[mr, n] panel[n, nv * VL]; n counts 32-bit elements, odd_k: the last pair's odd half is
 * not there. first: start from zero, else from what c holds. mr, nv and kind are constants, a variant each. */
VARIANT void tile(float *c, int ldc, const void *x, int ldx, const uint32_t *panel, int ldp, int n, bool odd_k,
                  bool first, ahead next, const int mr, const int nv, const product kind)
{
    vf sum[MR][NV];
    const float *xf = x;
    const int    x_elements = kind == PRODUCT_F32_BF16 ? 2 * n - odd_k : n;
    in_bounds(panel, n ? (size_t)((n - 1) * ldp + nv * VL) * sizeof *panel : 0);
    for (int r = 0; r < mr; r++) {
        in_bounds(xf + (size_t)r * ldx, (size_t)x_elements * sizeof *xf);
        in_bounds(c + (size_t)r * ldc, (size_t)(nv * VL) * sizeof *c);
    }
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int v = 0; v < nv; v++) sum[r][v] = first ? v_zero() : v_load(c + (size_t)r * ldc + v * VL);

    for (int k0 = 0; k0 < n; k0 += LINE) {
        int k1 = n - k0 < LINE ? n : k0 + LINE;
        for (int j = 0; j < next.rows; j++)
            _mm_prefetch((const char *)next.w + (size_t)j * next.row_bytes + (size_t)k0 * 4, _MM_HINT_T1);
        if (kind == PRODUCT_F32) {
            for (int k = k0; k < k1; k++, panel += ldp) {
                vf w[NV];
                UNROLL for (int v = 0; v < nv; v++) w[v] = v_load((const float *)panel + v * VL);
                UNROLL for (int r = 0; r < mr; r++) {
                    vf b = v_all(xf[(size_t)r * ldx + k]);
                    UNROLL for (int v = 0; v < nv; v++) sum[r][v] = v_fma(b, w[v], sum[r][v]);
                }
            }
        } else if (kind == PRODUCT_F32_BF16) {
            for (int k = k0; k < k1; k++, panel += ldp) {
                vf w[NV];
                UNROLL for (int v = 0; v < nv; v++) w[v] = v_even_bf16(v_load_u32(panel + v * VL));
                UNROLL for (int r = 0; r < mr; r++) {
                    vf b = v_all(xf[(size_t)r * ldx + 2 * k]);
                    UNROLL for (int v = 0; v < nv; v++) sum[r][v] = v_fma(b, w[v], sum[r][v]);
                }
                if (odd_k && k == n - 1) break;
                UNROLL for (int v = 0; v < nv; v++) w[v] = v_odd_bf16(v_load_u32(panel + v * VL));
                UNROLL for (int r = 0; r < mr; r++) {
                    vf b = v_all(xf[(size_t)r * ldx + 2 * k + 1]);
                    UNROLL for (int v = 0; v < nv; v++) sum[r][v] = v_fma(b, w[v], sum[r][v]);
                }
            }
        }
#ifdef __AVX512BF16__
        else {
            const uint32_t *xp = x;
            for (int k = k0; k < k1; k++, panel += ldp) {
                vi w[NV];
                UNROLL for (int v = 0; v < nv; v++) w[v] = v_load_u32(panel + v * VL);
                UNROLL for (int r = 0; r < mr; r++) {
                    vi b = v_all_u32(xp[(size_t)r * ldx + k]);
                    UNROLL for (int v = 0; v < nv; v++) sum[r][v] = v_dot(sum[r][v], b, w[v]);
                }
            }
        }
#endif
    }
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int v = 0; v < nv; v++) v_store(c + (size_t)r * ldc + v * VL, sum[r][v]);
}

typedef void (*tile_fn)(float *c, int ldc, const void *x, int ldx, const uint32_t *panel, int ldp, int n, bool odd_k,
                        bool first, ahead next);
#define TILE(name, mr, nv, kind) \
    static void name##_##mr##x##nv(float *c, int ldc, const void *x, int ldx, const uint32_t *panel, int ldp, int n, \
                                   bool odd_k, bool first, ahead next) \
    { \
        tile(c, ldc, x, ldx, panel, ldp, n, odd_k, first, next, mr, nv, kind); \
    }
#if defined __AVX512F__
#define TILE_ROWS(name, mr, kind) TILE(name, mr, 1, kind) TILE(name, mr, 2, kind) TILE(name, mr, 3, kind) TILE(name, mr, 4, kind)
#define TILE_ROW(name, mr) {name##_##mr##x1, name##_##mr##x2, name##_##mr##x3, name##_##mr##x4}
#else
#define TILE_ROWS(name, mr, kind) TILE(name, mr, 1, kind) TILE(name, mr, 2, kind)
#define TILE_ROW(name, mr) {name##_##mr##x1, name##_##mr##x2}
#endif
#if defined __AVX2__
#define TILES(name, kind) \
    TILE_ROWS(name, 1, kind) TILE_ROWS(name, 2, kind) TILE_ROWS(name, 3, kind) TILE_ROWS(name, 4, kind) \
    TILE_ROWS(name, 5, kind) TILE_ROWS(name, 6, kind) \
    static const tile_fn name[MR][NV] = {TILE_ROW(name, 1), TILE_ROW(name, 2), TILE_ROW(name, 3), TILE_ROW(name, 4), \
                                         TILE_ROW(name, 5), TILE_ROW(name, 6)};
#else
#define TILES(name, kind) \
    TILE_ROWS(name, 1, kind) TILE_ROWS(name, 2, kind) TILE_ROWS(name, 3, kind) TILE_ROWS(name, 4, kind) \
    static const tile_fn name[MR][NV] = {TILE_ROW(name, 1), TILE_ROW(name, 2), TILE_ROW(name, 3), TILE_ROW(name, 4)};
#endif
TILES(tile_f32, PRODUCT_F32)
TILES(tile_f32_bf16, PRODUCT_F32_BF16)
#ifdef __AVX512BF16__
TILES(tile_bf16, PRODUCT_BF16)
#endif

/* panel[k][NR] of 32-bit elements k0 .. k0 + n - 1 of rows n0 .. n0 + rows - 1; the other columns, up to a
 * whole vector, are zero. row_bytes: of a row of w; its last element may be half (an odd number of bf16). */
static void pack_panel(uint32_t *panel, const uint8_t *w, size_t row_bytes, int rows, int k0, int n)
{
    for (int g = 0; g < rows; g += VL, panel += VL) {
        int m = rows - g < VL ? rows - g : VL, k = 0;
        const uint8_t *p = w + (size_t)g * row_bytes + (size_t)k0 * 4;
        size_t left = row_bytes - (size_t)k0 * 4; /* bytes of a row from k0 on */
        for (; k + VL <= n && (size_t)(k + VL) * 4 <= left; k += VL) {
            vi r[VL];
            v_load_rows(r, p + (size_t)k * 4, row_bytes, m);
            v_transpose(r);
            UNROLL for (int i = 0; i < VL; i++) v_store_u32(panel + (size_t)(k + i) * NR, r[i]);
        }
        for (; k < n; k++) { /* fewer than VL elements are left, perhaps with half of one */
            size_t bytes = left - (size_t)k * 4 < 4 ? left - (size_t)k * 4 : 4;
            for (int i = 0; i < VL; i++) {
                uint32_t v = 0;
                if (i < m) memcpy(&v, p + (size_t)i * row_bytes + (size_t)k * 4, bytes);
                panel[(size_t)k * NR + i] = v;
            }
        }
    }
}

/* y = unit(c + bias) + residual of one tile of rows t.. and outputs n0 .. n0 + n - 1. */
static void finish_tile(const gemm *g, const float *c, int t, int mr, int n0, int n)
{
    for (int r = 0; r < mr; r++, c += NR) {
        float *y = g->y + (size_t)(t + r) * g->ldy + n0;
        const float *res = g->residual ? g->residual + (size_t)(t + r) * g->ldy + n0 : NULL;
        for (int j = 0; j < n; j += VL) {
            int m = n - j;
            vf v = v_load(c + j);
            if (m >= VL) {
                if (g->bias) v = v + v_load(g->bias + n0 + j);
                v = v_unit(v, g->unit);
                if (res) v = v + v_load(res + j);
                v_store(y + j, v);
            } else {
                if (g->bias) v = v + v_load_n(g->bias + n0 + j, m);
                v = v_unit(v, g->unit);
                if (res) v = v + v_load_n(res + j, m);
                v_store_n(y + j, v, m);
            }
        }
    }
}

/* How far ahead of its use a line of w is asked for when w is read once: one core of an EPYC Turin guest then draws
 * 26 GB/s, without it 19, sixteen rows at a time. */
enum { AHEAD_BYTES = 512 };

/* c[mr, VL] = x w^T for mr rows of x from row t on and outputs n .. n + cols - 1 (cols <= VL), in the first n32
 * 32-bit elements of K (a multiple of VL). No panel: each block of w is transposed in registers and used at
 * once. For few rows, where the time is that of reading w. The sums are the tile's, in the same order. */
VARIANT void stream(const gemm *g, float *c, int t, int n, int cols, int n32, const int mr, const product kind)
{
    const size_t   row_bytes = (size_t)g->K * (kind == PRODUCT_F32 ? 4 : 2);
    const uint8_t *w = (const uint8_t *)g->w + (size_t)n * row_bytes;
    const float   *x = (const float *)g->x + (size_t)t * g->ldx;
    vf             sum[STREAM_ROWS];
    const int      x_elements = kind == PRODUCT_F32_BF16 ? 2 * n32 : n32;
    for (int i = 0; i < cols; i++) in_bounds(w + (size_t)i * row_bytes, (size_t)n32 * sizeof(uint32_t));
    for (int r = 0; r < mr; r++) {
        in_bounds(x + (size_t)r * g->ldx, (size_t)x_elements * sizeof *x);
        in_bounds(c + (size_t)r * NR, VL * sizeof *c);
    }
    UNROLL for (int r = 0; r < mr; r++) sum[r] = v_zero();

    for (int k = 0; k < n32; k += VL) {
        vi     b[VL];
        size_t at = (size_t)k * 4, soon = at + AHEAD_BYTES;
        if (soon >= row_bytes) soon += (VL - 1) * row_bytes; /* the VL rows after these, from their start */
        UNROLL for (int i = 0; i < VL; i++) _mm_prefetch((const char *)w + (size_t)i * row_bytes + soon, _MM_HINT_T0);
        v_load_rows(b, w + at, row_bytes, cols);
        v_transpose(b);
        UNROLL for (int i = 0; i < VL; i++) {
            if (kind == PRODUCT_F32) {
                UNROLL for (int r = 0; r < mr; r++)
                    sum[r] = v_fma(v_all(x[(size_t)r * g->ldx + k + i]), v_as_f32(b[i]), sum[r]);
            } else if (kind == PRODUCT_F32_BF16) {
                vf even = v_even_bf16(b[i]), odd = v_odd_bf16(b[i]);
                UNROLL for (int r = 0; r < mr; r++)
                    sum[r] = v_fma(v_all(x[(size_t)r * g->ldx + 2 * (k + i)]), even, sum[r]);
                UNROLL for (int r = 0; r < mr; r++)
                    sum[r] = v_fma(v_all(x[(size_t)r * g->ldx + 2 * (k + i) + 1]), odd, sum[r]);
            }
#ifdef __AVX512BF16__
            else {
                const uint32_t *xp = g->x;
                UNROLL for (int r = 0; r < mr; r++)
                    sum[r] = v_dot(sum[r], v_all_u32(xp[(size_t)(t + r) * g->ldx + k + i]), b[i]);
            }
#endif
        }
    }
    UNROLL for (int r = 0; r < mr; r++) v_store(c + (size_t)r * NR, sum[r]);
}

typedef void (*stream_fn)(const gemm *g, float *c, int t, int n, int cols, int n32);
#define STREAM(name, mr, kind) \
    static void name##_##mr(const gemm *g, float *c, int t, int n, int cols, int n32) \
    { \
        stream(g, c, t, n, cols, n32, mr, kind); \
    }
#if defined __AVX512F__
#define STREAMS(name, kind)                                                                                        \
    STREAM(name, 1, kind)                                                                                          \
    STREAM(name, 2, kind) STREAM(name, 3, kind) STREAM(name, 4, kind) STREAM(name, 5, kind) STREAM(name, 6, kind)  \
        STREAM(name, 7, kind) STREAM(name, 8, kind) static const stream_fn name[STREAM_ROWS] = {                   \
            name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8};
#else
#define STREAMS(name, kind) \
    STREAM(name, 1, kind) STREAM(name, 2, kind) STREAM(name, 3, kind) STREAM(name, 4, kind) \
    static const stream_fn name[STREAM_ROWS] = {name##_1, name##_2, name##_3, name##_4};
#endif
STREAMS(stream_f32, PRODUCT_F32)
STREAMS(stream_f32_bf16, PRODUCT_F32_BF16)
#ifdef __AVX512BF16__
STREAMS(stream_bf16, PRODUCT_BF16)
#endif

/* What a product's kind decides. */
typedef struct {
    size_t         row_bytes; /* of w */
    int            n32;       /* 32-bit elements of a row of w, the last of which may be half */
    int            x_step;    /* 32-bit elements of x for one of w */
    bool           odd;       /* the last element is half */
    const tile_fn (*tiles)[NV];
    const stream_fn *streams;
} plan;

static plan plan_of(const gemm *g)
{
    bool pairs = g->kind != PRODUCT_F32;
    plan p = {.row_bytes = (size_t)g->K * (pairs ? 2 : 4),
              .n32 = pairs ? (g->K + 1) / 2 : g->K,
              .odd = pairs && g->K % 2 != 0,
              .x_step = g->kind == PRODUCT_F32_BF16 ? 2 : 1,
              .tiles = pairs ? tile_f32_bf16 : tile_f32,
              .streams = pairs ? stream_f32_bf16 : stream_f32};
#ifdef __AVX512BF16__
    if (g->kind == PRODUCT_BF16) {
        p.tiles = tile_bf16;
        p.streams = stream_bf16;
    }
#endif
    return p;
}

/* x from row t and 32-bit element k of w's rows on */
INLINE const uint32_t *x_at(const gemm *g, const plan *p, int t, int k)
{
    return (const uint32_t *)g->x + (size_t)t * g->ldx + (size_t)k * p->x_step;
}

/* Sums of T rows from t0 on by cols outputs from n on (of those up to n1), K in blocks: from zero where first
 * is set, else on top of what s.sums holds; y is made of them where last is set. */
static void walk_k(const gemm *g, const plan *p, int t0, int T, int n, int cols, int n1, bool first, bool last,
                   gemm_space s)
{
    const int most = GEMM_PANEL_BYTES / 4 / NR, n_blocks = (p->n32 + most - 1) / most, n_tiles = (T + MR - 1) / MR;
    const int block = (p->n32 + n_blocks - 1) / n_blocks; /* even blocks: their cost beside a tile's is fixed */
    const int rows_ahead = (NR + n_tiles - 1) / n_tiles; /* each tile asks for its share of the next block */
    const int nv = (cols + VL - 1) / VL;
    for (int k = 0; k < p->n32; k += block) {
        int            kn = p->n32 - k < block ? p->n32 - k : block;
        bool           end = k + kn == p->n32;
        const uint8_t *w = (const uint8_t *)g->w + (size_t)n * p->row_bytes;
        const uint8_t *next = end ? w + NR * p->row_bytes : w + (size_t)(k + kn) * 4;
        int            next_rows = end ? n1 - n - NR : cols;
        pack_panel(s.panel, w, p->row_bytes, cols, k, kn);
        for (int i = 0, t = 0; i < n_tiles; i++) {
            int    mr = T / n_tiles + (i < T % n_tiles), j = i * rows_ahead; /* even tiles: none has one lonely row */
            float *c = s.sums + (size_t)t * NR;
            ahead a = {next + (size_t)j * p->row_bytes, p->row_bytes,
                       next_rows - j < rows_ahead ? next_rows - j : rows_ahead};
            p->tiles[mr - 1][nv - 1](c, NR, x_at(g, p, t0 + t, k), g->ldx, s.panel, NR, kn, p->odd && end,
                                     first && k == 0, a);
            if (last && end) finish_tile(g, c, t0 + t, mr, n, cols);
            t += mr;
        }
    }
}

/* The low-rank branch as a product of its own that goes on where the other's K ended. */
static gemm branch_of(const gemm *g)
{
    gemm b = *g;
    b.x = g->low;
    b.ldx = g->ld_low;
    b.w = g->b;
    b.K = g->R;
    return b;
}

/* T <= STREAM_ROWS rows from t on. What of K does not fill a vector goes through a small panel. */
static void gemm_few(const gemm *g, const plan *p, int t, int T, int n0, int n1, gemm_space s)
{
    const ahead none = {0};
    const gemm  low = branch_of(g);
    const plan  low_plan = plan_of(&low);
    int         whole = g->K * (g->kind == PRODUCT_F32 ? 4 : 2) / (4 * VL) * VL, rest = p->n32 - whole;
    for (int n = n0; n < n1; n += VL) {
        int cols = n1 - n < VL ? n1 - n : VL;
        p->streams[T - 1](g, s.sums, t, n, cols, whole);
        if (rest) {
            pack_panel(s.panel, (const uint8_t *)g->w + (size_t)n * p->row_bytes, p->row_bytes, cols, whole, rest);
            for (int r = 0; r < T; r += MR)
                p->tiles[(T - r < MR ? T - r : MR) - 1][0](s.sums + (size_t)r * NR, NR, x_at(g, p, t + r, whole),
                                                           g->ldx, s.panel, NR, rest, p->odd, false, none);
        }
        if (g->low) walk_k(&low, &low_plan, t, T, n, cols, n1, false, true, s);
        else finish_tile(g, s.sums, t, T, n, cols);
    }
}

/* T <= GEMM_ROWS rows from t0 on: a panel of NR outputs after the other. */
static void gemm_many(const gemm *g, const plan *p, int t0, int T, int n0, int n1, gemm_space s)
{
    const gemm low = branch_of(g);
    const plan low_plan = plan_of(&low);
    for (int n = n0; n < n1; n += NR) {
        int cols = n1 - n < NR ? n1 - n : NR;
        walk_k(g, p, t0, T, n, cols, n1, true, !g->low, s);
        if (g->low) walk_k(&low, &low_plan, t0, T, n, cols, n1, false, true, s);
    }
}

/* Rows t0 .. t1 - 1 of y, outputs n0 .. n1 - 1. */
static void gemm_part(const gemm *g, int t0, int t1, int n0, int n1, gemm_space s)
{
    plan p = plan_of(g);
    if (t1 - t0 <= STREAM_ROWS || g->K == 0) { /* K == 0: bias and residual alone */
        for (int t = t0; t < t1; t += STREAM_ROWS)
            gemm_few(g, &p, t, t1 - t < STREAM_ROWS ? t1 - t : STREAM_ROWS, n0, n1, s);
        return;
    }
    for (int t = t0; t < t1; t += GEMM_ROWS) gemm_many(g, &p, t, t1 - t < GEMM_ROWS ? t1 - t : GEMM_ROWS, n0, n1, s);
}

static void round_row_part(uint32_t *pairs, const float *x, int K)
{
    uint8_t *p = (uint8_t *)pairs;
    int      k = 0;
#ifdef __AVX512BF16__
    for (; k + VL <= K; k += VL) {
        __m256bh b = _mm512_cvtneps_pbh(v_load(x + k)); /* to nearest even, denormals to zero */
        memcpy(p + 2 * k, &b, sizeof b);
    }
#endif
    for (; k < K + K % 2; k++) {
        uint16_t b = k < K ? bf16_from_f32(x[k]) : 0;
        memcpy(p + 2 * k, &b, sizeof b);
    }
}

#endif
