/* attend_isa.h - attention of a block of query rows, keys taken ATTEND_KEYS at a time with a running maximum and sum
 *                [Dao et al. 2022, arXiv:2205.14135, algorithm 1].
 *
 * Rows of a block are (query, head) pairs that read the same key/value head, so a packed block of keys serves them
 * all. Keys are numbered through both spans and blocks begin at multiples of ATTEND_KEYS, so where the first span
 * ends does not show in a result. A masked key has weight exactly 0, which changes no sum: a row's bits do not
 * depend on later keys.
 *
 * A node of a tree counts only the keys it sees, without gaps: what stands before the tree, then the nodes of its
 * path. It walks the whole blocks before the tree together with the others, and the rest by itself,
 *
 *     all queries     [ block ][ block ][ rest of the keys before the tree | tree ]
 *     node 7          [ block ][ block ][ rest | 2 5 7 ]
 *
 * so that it has the bits of a causal query behind those keys, whatever other nodes there are. */
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

/* Value j as the block's i-th. */
static void pack_value(const attend_block *b, int i, int j, int padded)
{
    const int dim = b->a->head_dim;
    float    *dst = b->values + (size_t)i * padded;
    memcpy(dst, span_row(b->a, j, true) + (size_t)b->kv_head * dim, (size_t)dim * sizeof(float));
    for (int d = dim; d < padded; d++) dst[d] = 0;
}

static void pack_values(const attend_block *b, int j0, int n, int padded)
{
    for (int i = 0; i < n; i++) pack_value(b, i, j0 + i, padded);
}

/* Query i's number among the nodes of the tree; < 0: it stands before the tree, or there is none. */
static int node_of(const attend_args *a, int i) { return a->mask == ATTEND_TREE ? i - (a->n_q - a->n_tree) : -1; }

/* How many keys, from key 0 on, query i takes from blocks that it shares with others. Never falls with i but from
 * the last query before the tree to the first node. */
static int keys_in_sight(const attend_args *a, int i)
{
    int all = a->span[0].n + a->span[1].n;
    if (a->mask == ATTEND_ALL) return all;
    if (node_of(a, i) >= 0) return (all - a->n_tree) / ATTEND_KEYS * ATTEND_KEYS;
    return all - a->n_q + i + 1;
}

/* The most that any of queries i .. last takes. */
static int most_in_sight(const attend_args *a, int i, int last)
{
    int seen = keys_in_sight(a, last);
    if (node_of(a, last) < 0 || node_of(a, i) >= 0) return seen;
    int before = keys_in_sight(a, a->n_q - a->n_tree - 1);
    return before > seen ? before : seen;
}

/* Bias of scores s[0 .. n - 1] of query i against keys j0 ... */
static void bias_row(const attend_args *a, float *s, int i, int head, int j0, int n)
{
    if (!a->alibi) return;
    for (int j = 0; j < n; j++) s[j] -= a->alibi[head] * fabsf((float)(i - (j0 + j)));
}

/* Scores s [n_padded] of one row to weights exp(s - max); behind n they become 0. Updates the row's maximum and
 * sum and returns the factor for what was summed before. */
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

/* One group of mr <= MR rows against the block of n keys that is packed, which begins at key j0. own: a node's
 * own, of which it sees every one. */
static void attend_tile(const attend_block *b, int r0, int mr, int j0, int n, bool own, int padded, float *max,
                        float *sum)
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
        int i = b->i0 + (r0 + r) / group, seen = own ? n : keys_in_sight(a, i) - j0;
        int m = seen < n ? (seen > 0 ? seen : 0) : n;
        bias_row(a, s[r], i, b->kv_head * group + (r0 + r) % group, j0, m);
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

/* Query i, a node: from where the shared blocks end, its own keys one behind the other. packed: what stands before
 * the tree is packed already, by another node. Returns whether it still is. */
static bool attend_node(const attend_block *b, int i, bool packed, int padded, float *max, float *sum)
{
    const attend_args *a = b->a;
    const int     group = a->n_heads / a->n_kv_heads, dim = a->head_dim, r0 = (i - b->i0) * group;
    const int     all = a->span[0].n + a->span[1].n, tree = all - a->n_tree, from = keys_in_sight(a, i);
    const uint8_t *visible = a->visible + (size_t)node_of(a, i) * a->n_tree;
    int n = tree - from, j = tree, blocks = 0;
    if (!packed) {
        pack_keys(b, from, n);
        pack_values(b, from, n, padded);
    }
    for (;; n = 0, blocks++) {
        for (; n < ATTEND_KEYS && j < all; j++) {
            if (!visible[j - tree]) continue;
            const float *row = span_row(a, j, false) + (size_t)b->kv_head * dim;
            for (int d = 0; d < dim; d++) b->keys[(size_t)d * ATTEND_KEYS + n] = row[d];
            pack_value(b, n++, j, padded);
        }
        if (n == 0) break;
        for (int c = n; c % VL; c++)
            for (int d = 0; d < dim; d++) b->keys[(size_t)d * ATTEND_KEYS + c] = 0;
        for (int r = 0; r < group; r += MR)
            attend_tile(b, r0 + r, group - r < MR ? group - r : MR, 0, n, true, padded, max + r0 + r, sum + r0 + r);
    }
    return blocks <= 1;
}

static void attend_part(const attend_block *b)
{
    const attend_args *a = b->a;
    const int group = a->n_heads / a->n_kv_heads, dim = a->head_dim, padded = (dim + VL - 1) / VL * VL;
    const int R = b->n_i * group, n_tiles = (R + MR - 1) / MR, last = most_in_sight(a, b->i0, b->i0 + b->n_i - 1);
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
            int mr = R / n_tiles + (k < R % n_tiles);
            int seen = most_in_sight(a, b->i0 + r / group, b->i0 + (r + mr - 1) / group) - j0;
            if (seen > 0) attend_tile(b, r, mr, j0, seen < n ? seen : n, false, padded, max + r, sum + r);
            r += mr;
        }
    }
    /* The last query before the tree, if it is among these, had the keys packed last that nodes go on behind. */
    bool packed = node_of(a, b->i0) < 0;
    for (int i = b->i0; i < b->i0 + b->n_i; i++)
        if (node_of(a, i) >= 0) packed = attend_node(b, i, packed, padded, max, sum);
    for (int r = 0; r < R; r++) {
        float *y = (float *)a->out + (size_t)(b->i0 + r / group) * a->out_stride
                   + (size_t)(b->kv_head * group + r % group) * dim;
        float  f = sum[r] > 0 ? 1 / sum[r] : 0;
        scale_row(y, b->out + (size_t)r * padded, dim, f);
    }
}

#endif
