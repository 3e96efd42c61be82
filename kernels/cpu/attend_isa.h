/* attend_isa.h - attention of a block of query rows, keys taken ATTEND_KEYS at a time with a running maximum and sum
 *                [Dao et al. 2022, arXiv:2205.14135, algorithm 1].
 *
 * Rows of a block are (query, head) pairs that read the same key/value head, so a packed block of keys serves them all.
 * Keys are numbered through both spans and blocks begin at multiples of ATTEND_KEYS, so where the first span ends does not
 * show in a result. A masked key has weight exactly 0, which changes no sum: a row's bits do not depend on later keys. */
#ifndef JOMED_KERNELS_CPU_ATTEND_ISA_H
#define JOMED_KERNELS_CPU_ATTEND_ISA_H

#include "kernels/cpu/gemm_isa.h"
#include "kernels/cpu/rows_isa.h"

/* Row j of the keys or values of both spans. */
static const float *span_row(const attend_args *a, int j, bool value)
{
    const kv_span *s = &a->span[0];
    if (j >= s->n) { j -= s->n; s = &a->span[1]; }
    return (const float *)(value ? s->v : s->k) + (size_t)j * s->row_stride;
}

/* keys[d][j] of keys j0 .. j0 + n - 1; columns up to a whole vector are zero. */
static void pack_keys(const attend_block *b, int j0, int n)
{
    const attend_args *a = b->a;
    const int    dim = a->head_dim;
    const size_t off = (size_t)b->kv_head * dim;
    for (int g = 0; g < n; g += VL) {
        int j = j0 + g, m = n - g < VL ? n - g : VL, d = 0;
        float *keys = b->keys + g;
        bool   one_span = j >= a->span[0].n || j + m <= a->span[0].n;
        if (one_span) {
            size_t row_bytes = (size_t)a->span[j >= a->span[0].n].row_stride * sizeof(float);
            const float *first = span_row(a, j, false) + off;
            for (; d + VL <= dim; d += VL) {
                vi r[VL];
                v_load_rows(r, first + d, row_bytes, m);
                v_transpose(r);
                UNROLL for (int i = 0; i < VL; i++) v_store_u32(keys + (size_t)(d + i) * ATTEND_KEYS, r[i]);
            }
        }
        for (int i = 0; i < VL && d < dim; i++) {
            const float *row = i < m ? span_row(a, j + i, false) + off : NULL;
            for (int e = d; e < dim; e++) keys[(size_t)e * ATTEND_KEYS + i] = row ? row[e] : 0;
        }
    }
}

static void pack_values(const attend_block *b, int j0, int n, int padded)
{
    const int dim = b->a->head_dim;
    for (int j = 0; j < n; j++) {
        float *dst = b->values + (size_t)j * padded;
        memcpy(dst, span_row(b->a, j0 + j, true) + (size_t)b->kv_head * dim, (size_t)dim * sizeof(float));
        for (int d = dim; d < padded; d++) dst[d] = 0;
    }
}

/* How many keys, from key 0 on, query i may see at all (the nodes of a tree are then masked one by one). Never falls with i. */
static int keys_in_sight(const attend_args *a, int i)
{
    int all = a->span[0].n + a->span[1].n;
    if (a->mask == ATTEND_ALL || (a->mask == ATTEND_TREE && i >= a->n_q - a->n_tree)) return all;
    return all - a->n_q + i + 1;
}

/* Add biases and masks to scores s[0 .. n - 1] of query i against keys j0...; what lies behind the sight is not looked at. */
static void mask_row(const attend_args *a, float *s, int i, int head, int j0, int n)
{
    if (a->alibi)
        for (int j = 0; j < n; j++) s[j] -= a->alibi[head] * fabsf((float)(i - (j0 + j)));
    if (a->mask != ATTEND_TREE) return;
    int node = i - (a->n_q - a->n_tree), tree = a->span[0].n + a->span[1].n - a->n_tree;
    if (node < 0) return;
    for (int j = tree > j0 ? tree - j0 : 0; j < n; j++)
        if (!a->visible[(size_t)node * a->n_tree + (j0 + j - tree)]) s[j] = -INFINITY;
}

/* Scores s [n_padded] of one row to weights exp(s - max); behind n they become 0. Updates the row's maximum and sum and returns
 * the factor for what was summed before. */
static float soften_row(float *s, int n, int n_padded, float *max, float *sum)
{
    vf m = v_all(-INFINITY);
    for (int j = n; j < n_padded; j++) s[j] = -INFINITY;
    for (int j = 0; j < n_padded; j += VL) m = v_max(v_load(s + j), m);
    float top = v_largest(m);
    if (top <= *max) top = *max;
    if (top == -INFINITY) { /* nothing visible yet */
        for (int j = 0; j < n_padded; j++) s[j] = 0;
        return 1;
    }
    vf shift = v_all(top), total = v_zero();
    for (int j = 0; j < n_padded; j += VL) {
        vf e = v_exp(v_load(s + j) - shift);
        v_store(s + j, e);
        total = total + e;
    }
    float was[VL], factor = 1;
    if (top != *max) {
        v_store(was, v_exp(v_all(*max - top))); /* 0 for the first block: exp(-inf) */
        factor = was[0];
    }
    *sum = *sum * factor + v_sum(total);
    *max = top;
    return factor;
}

/* One group of mr <= MR rows against a block of n keys. */
static void attend_tile(const attend_block *b, int r0, int mr, int j0, int n, int padded, float *max, float *sum)
{
    const attend_args *a = b->a;
    const int group = a->n_heads / a->n_kv_heads, dim = a->head_dim, n_padded = (n + VL - 1) / VL * VL;
    float     s[MR][ATTEND_KEYS];
    for (int j = 0; j < n_padded; j += NR) {
        int nv = (n_padded - j < NR ? n_padded - j : NR) / VL;
        tile_f32[mr - 1][nv - 1](&s[0][j], ATTEND_KEYS, b->q + (size_t)r0 * dim, dim, (const uint32_t *)b->keys + j,
                                 ATTEND_KEYS, dim, false, true, (ahead){0});
    }
    for (int r = 0; r < mr; r++) {
        int i = b->i0 + (r0 + r) / group, seen = keys_in_sight(a, i) - j0;
        int m = seen < n ? (seen > 0 ? seen : 0) : n;
        mask_row(a, s[r], i, b->kv_head * group + (r0 + r) % group, j0, m);
        float factor = soften_row(s[r], m, n_padded, &max[r], &sum[r]);
        if (factor != 1) {
            float *o = b->out + (size_t)(r0 + r) * padded;
            for (int d = 0; d < padded; d += VL) v_store(o + d, v_load(o + d) * v_all(factor));
        }
    }
    const int vectors = padded / VL, parts = (vectors + NV - 1) / NV; /* 5 vectors are 3 and 2, not 4 and 1 */
    for (int p = 0, d = 0; p < parts; p++) {
        int nv = vectors / parts + (p < vectors % parts);
        tile_f32[mr - 1][nv - 1](b->out + (size_t)r0 * padded + d, padded, s, ATTEND_KEYS,
                                 (const uint32_t *)b->values + d, padded, n, false, false, (ahead){0});
        d += nv * VL;
    }
}

static void scale_row(float *y, const float *x, int n, float f)
{
    int i = 0;
    for (; i + VL <= n; i += VL) v_store(y + i, v_load(x + i) * v_all(f));
    for (; i < n; i++) y[i] = x[i] * f;
}

static void attend_part(const attend_block *b)
{
    const attend_args *a = b->a;
    const int group = a->n_heads / a->n_kv_heads, dim = a->head_dim, padded = (dim + VL - 1) / VL * VL;
    const int R = b->n_i * group, n_tiles = (R + MR - 1) / MR, last = keys_in_sight(a, b->i0 + b->n_i - 1);
    float     max[ATTEND_ROWS], sum[ATTEND_ROWS];

    for (int r = 0; r < R; r++) {
        const float *q = (const float *)a->q + (size_t)(b->i0 + r / group) * a->q_stride +
                         (size_t)(b->kv_head * group + r % group) * dim;
        scale_row(b->q + (size_t)r * dim, q, dim, a->scale);
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(b->out, 0, (size_t)R * padded * sizeof(float));

    for (int j0 = 0; j0 < last; j0 += ATTEND_KEYS) {
        int n = last - j0 < ATTEND_KEYS ? last - j0 : ATTEND_KEYS;
        pack_keys(b, j0, n);
        pack_values(b, j0, n, padded);
        for (int k = 0, r = 0; k < n_tiles; k++) {
            int mr = R / n_tiles + (k < R % n_tiles), seen = keys_in_sight(a, b->i0 + (r + mr - 1) / group) - j0;
            if (seen > 0) attend_tile(b, r, mr, j0, seen < n ? seen : n, padded, max + r, sum + r);
            r += mr;
        }
    }
    for (int r = 0; r < R; r++) {
        float *y = (float *)a->out + (size_t)(b->i0 + r / group) * a->out_stride + (size_t)(b->kv_head * group + r % group) * dim;
        float  f = sum[r] > 0 ? 1 / sum[r] : 0;
        scale_row(y, b->out + (size_t)r * padded, dim, f);
    }
}

#endif
