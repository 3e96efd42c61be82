/* gemm_isa.h - products y = x w^T with w as PyTorch stores it: rows of K, one an output.
 *
 * NR rows of w are transposed into a panel, 32 bits at a time (a float, or two neighbouring bf16), so that a vector holds
 * the same k of VL outputs. A tile of up to MR rows of x by NR outputs then stays in registers while k runs:
 *
 *          panel [k][NR]           one step: load NR/VL vectors of the panel, and for each of MR rows of x
 *        n0 n1 .. n63              broadcast x[t][k] and multiply-add it into that row's NR/VL sums
 *     k0  .  .     .
 *     k1  .  .     .               The weights stay bf16 in the mapped file: a panel lives only as long as the
 *     ..                           rows of x that it is used on, in this core's L2 cache.
 *
 * Same bits: every output is one chain of multiply-adds in the order of k. Sums that are stored between two blocks of K and
 * loaded again are the same numbers, so neither T, nor the tile a row falls in, nor the block sizes show in a result. */
#ifndef JOMED_KERNELS_CPU_GEMM_ISA_H
#define JOMED_KERNELS_CPU_GEMM_ISA_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/vecmath.h"

/* Registers: MR * NV sums, NV of the panel, one broadcast. 32 registers on AVX-512, 16 below. */
#if defined __AVX512F__
enum { MR = 6, NV = 4 };
#elif defined __AVX2__
enum { MR = 6, NV = 2 };
#else
enum { MR = 4, NV = 2 };
#endif
enum { NR = NV * VL };

/* c[mr, nv * VL] (+)= x[mr, n] panel[n, nv * VL]; n counts 32-bit elements, odd_k: the last pair's odd half is not there.
 * first: start from zero, else from what c holds. mr, nv and kind are constants where this is inlined. */
INLINE void tile(float *c, int ldc, const void *x, int ldx, const uint32_t *panel, int ldp, int n, bool odd_k, bool first,
                 const int mr, const int nv, const product kind)
{
    vf sum[MR][NV];
    const float *xf = x;
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int v = 0; v < nv; v++) sum[r][v] = first ? v_zero() : v_load(c + (size_t)r * ldc + v * VL);

    if (kind == PRODUCT_F32) {
        for (int k = 0; k < n; k++, panel += ldp) {
            vf w[NV];
            UNROLL for (int v = 0; v < nv; v++) w[v] = v_load((const float *)panel + v * VL);
            UNROLL for (int r = 0; r < mr; r++) {
                vf b = v_all(xf[(size_t)r * ldx + k]);
                UNROLL for (int v = 0; v < nv; v++) sum[r][v] = v_fma(b, w[v], sum[r][v]);
            }
        }
    } else if (kind == PRODUCT_F32_BF16) {
        for (int k = 0; k < n; k++, panel += ldp) {
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
        for (int k = 0; k < n; k++, panel += ldp) {
            vi w[NV];
            UNROLL for (int v = 0; v < nv; v++) w[v] = v_load_u32(panel + v * VL);
            UNROLL for (int r = 0; r < mr; r++) {
                vi b = _mm512_set1_epi32((int)xp[(size_t)r * ldx + k]);
                UNROLL for (int v = 0; v < nv; v++) sum[r][v] = v_dot(sum[r][v], b, w[v]);
            }
        }
    }
#endif
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int v = 0; v < nv; v++) v_store(c + (size_t)r * ldc + v * VL, sum[r][v]);
}

typedef void (*tile_fn)(float *c, int ldc, const void *x, int ldx, const uint32_t *panel, int ldp, int n, bool odd_k,
                        bool first);
#define TILE(name, mr, nv, kind) \
    static void name##_##mr##x##nv(float *c, int ldc, const void *x, int ldx, const uint32_t *panel, int ldp, int n, \
                                   bool odd_k, bool first) \
    { \
        tile(c, ldc, x, ldx, panel, ldp, n, odd_k, first, mr, nv, kind); \
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

/* panel[k][NR] of 32-bit elements k0 .. k0 + n - 1 of rows n0 .. n0 + rows - 1; the other columns, up to a whole vector, are
 * zero. row_bytes: of a row of w; its last element may be half (an odd number of bf16). */
static void pack_panel(uint32_t *panel, const uint8_t *w, size_t row_bytes, int rows, int k0, int n)
{
    for (int g = 0; g < rows; g += VL, panel += VL) {
        int m = rows - g < VL ? rows - g : VL, k = 0;
        const uint8_t *p = w + (size_t)g * row_bytes + (size_t)k0 * 4;
        size_t left = row_bytes - (size_t)k0 * 4; /* bytes of a row from k0 on */
        for (; k + VL <= n && (size_t)(k + VL) * 4 <= left; k += VL) {
            vi r[VL];
            UNROLL for (int i = 0; i < VL; i++)
                r[i] = i < m ? v_load_u32(p + (size_t)i * row_bytes + (size_t)k * 4) : v_zero_u32();
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

/* Rows t0 .. t1 - 1 of y, outputs n0 .. n1 - 1. */
static void gemm_part(const gemm *g, int t0, int t1, int n0, int n1, gemm_space s)
{
    const bool   pairs = g->kind != PRODUCT_F32;
    const size_t row_bytes = (size_t)g->K * (pairs ? 2 : 4);
    const int    n32 = pairs ? (g->K + 1) / 2 : g->K; /* 32-bit elements of a row of w */
    const int    x_step = g->kind == PRODUCT_F32_BF16 ? 2 : 1; /* elements of x for one of w */
    const tile_fn (*tiles)[NV] = g->kind == PRODUCT_F32 ? tile_f32 : tile_f32_bf16;
#ifdef __AVX512BF16__
    if (g->kind == PRODUCT_BF16) tiles = tile_bf16;
#endif
    /* With few rows a panel is used once or twice: keep it in the L1 cache. */
    int block = t1 - t0 <= 2 * MR ? 64 : GEMM_PANEL_BYTES / 4 / NR;
    if (block > n32) block = n32;

    for (int ta = t0; ta < t1; ta += GEMM_ROWS) {
        int T = t1 - ta < GEMM_ROWS ? t1 - ta : GEMM_ROWS, n_tiles = (T + MR - 1) / MR;
        for (int n = n0; n < n1; n += NR) {
            int cols = n1 - n < NR ? n1 - n : NR, nv = (cols + VL - 1) / VL;
            for (int k = 0; k == 0 || k < n32; k += block) { /* K == 0 leaves bias and residual */
                int  kn = n32 - k < block ? n32 - k : block;
                bool last = k + kn >= n32, odd = last && pairs && g->K % 2 != 0;
                pack_panel(s.panel, (const uint8_t *)g->w + (size_t)n * row_bytes, row_bytes, cols, k, kn);
                for (int i = 0, t = 0; i < n_tiles; i++) {
                    int mr = T / n_tiles + (i < T % n_tiles); /* even tiles: none has one lonely row */
                    float *c = s.sums + (size_t)t * NR;
                    const uint8_t *x = (const uint8_t *)g->x + ((size_t)(ta + t) * g->ldx + (size_t)k * x_step) * 4;
                    tiles[mr - 1][nv - 1](c, NR, x, g->ldx, s.panel, NR, kn, odd, k == 0);
                    if (last) finish_tile(g, c, ta + t, mr, n, cols);
                    t += mr;
                }
                if (block == 0) break;
            }
        }
    }
}

static void round_row_part(uint32_t *pairs, const float *x, int K)
{
    uint16_t *p = (uint16_t *)pairs;
    int k = 0;
#ifdef __AVX512BF16__
    for (; k + VL <= K; k += VL) {
        __m256bh b = _mm512_cvtneps_pbh(v_load(x + k)); /* to nearest even, denormals to zero */
        memcpy(p + k, &b, sizeof b);
    }
#endif
    for (; k < K; k++) p[k] = bf16_from_f32(x[k]);
    if (K % 2) p[K] = 0;
}

#endif
