/* attend.cu - attention: out = softmax(scale q K^T + bias) V, keys taken KEYS at a time with a running maximum and
 * sum, so that no [n_q, n_keys] scores are in memory  [Dao 2023, arXiv:2307.08691, algorithm 1].
 * Reference: ref_attend().  Test: tests/cuda/test_attend.c.
 *
 * Rows      A row is a (query, head) pair; the rows of a block read the same key/value head, so that a tile of keys
 *           in shared memory serves every head of the group: row r is query r / group, head r % group of the group.
 * Kernels   attend_wide    ROWS_WIDE rows, each warp 32 of them against every key of the tile       prefill, encoders
 *           attend_narrow  16 rows, the four warps share them: scores by keys, output by columns    decode
 *           attend_any     plain multiply-adds in f32, any head size up to 256, f32 or bf16, any stride
 * Same bits The first two do the same arithmetic for a row, so it does not matter which of them ran: scores are
 *           summed over the head in steps of 16 from 0; tiles of keys begin at multiples of KEYS counted
 *           through both spans; the maximum is exact; output and sum of weights are summed over keys in steps
 *           of 16. So neither the number of queries, the place among them, the other sequences of a launch nor
 *           where the first span ends shows in a result. Keys are never split between blocks: with K candidates
 *           side by side there are blocks enough, and sums would need a second order. attend_any is chosen by
 *           head size, type and strides, which are the model's and not the request's.
 * Masks     A masked key has weight exactly 0, which changes no sum. An output of -0 could become +0 by it, so all
 *           are made +0.
 * Weights   rounded to bf16 for the product with V, and their sum is of the rounded ones: a product with a column of
 *           ones. */
#include "kernels/cuda/cuda.h"

#include <math.h>

extern "C" {
#include "base/memory.h"
}

enum { KEYS = 64, GROUPS = KEYS / 16, WARPS = 4, THREADS = 32 * WARPS, ROWS_WIDE = 128, ROWS_NARROW = 16,
       P_PITCH = KEYS + 8 /* bf16 between rows of weights in shared memory */ };
static __device__ const uint32_t ONES[2] = {0x3f803f80u, 0x3f803f80u}; /* 16 keys of a column of ones */
enum { ANY_ROWS = 16, ANY_PER_WARP = ANY_ROWS / WARPS, ANY_KEYS = 32, MAX_DIM = 256 };

/* One attend_args on the device. Its tree and slopes lie in the same staged memory, *_at words of 4 bytes from its
 * start. */
struct sequence {
    const void *q, *k[2], *v[2];
    void       *out;
    int         q_stride, out_stride, k_stride[2];
    int         n_q, n_first /* keys of span[0] */, n_keys /* of both */;
    int         mask, n_tree, tree_words, visible_at; /* bits [n_tree, tree_words] */
    int         slopes_at;                            /* -1: no bias. [n_heads] f32: slope / scale */
    int         first_block;                          /* of this sequence, for each key/value head */
    const uint32_t *words;                            /* of the block's copy: where *_at count from */
};

/* Shared memory begins with the sequence of the block. (All of it is dynamic: g++ cannot place static objects of a
 * template where the emulation finds them.) */
enum { SEQUENCE_BYTES = 128, ROWS_BYTES = 128 + ROWS_WIDE * (int)sizeof(int) };
static_assert(sizeof(sequence) <= SEQUENCE_BYTES, "and what follows is aligned to 128");

struct heads { int n_sequences, n_blocks, group, dim; float scale_log2 /* scale * log2(e) */; };

/* All that a launch attends to: its sequences, one behind the other, then their trees and slopes. What fits comes with
 * the launch, as a kernel's parameters do: a copy of its own would cost as much as a launch, in every layer. */
enum { INSIDE = 2048 };
struct work { heads h; const sequence *staged; /* NULL: inside */ uint8_t inside alignas(16)[INSIDE]; };

/* The sequence that a block works on, to shared memory; returns the block's number in it. The last blocks go first:
 * under a causal mask they have most keys, and a long block that starts last would leave the device idle behind
 * it. */
static __device__ int find_sequence(sequence *s, const work &todo)
{
    const heads    &h = todo.h;
    const sequence *all = todo.staged ? todo.staged : reinterpret_cast<const sequence *>(todo.inside);
    int             block = h.n_blocks - 1 - (int)blockIdx.x, own = 0;
    for (int i = 1; i < h.n_sequences; i += THREADS) { /* all at once: a search by halves would wait at every step */
        int other = i + (int)threadIdx.x;
        own += __syncthreads_count(other < h.n_sequences && all[other].first_block <= block);
    }
    if (threadIdx.x == 0) {
        *s = all[own];
        s->words = reinterpret_cast<const uint32_t *>(all);
    }
    __syncthreads();
    return block - s->first_block;
}

/* How many keys, from key 0 on, query i may see at all (the nodes of a tree are then masked one by one). Never falls
 * with i. */
static __device__ int keys_in_sight(const sequence &s, int i)
{
    if (s.mask == ATTEND_ALL || (s.mask == ATTEND_TREE && i >= s.n_q - s.n_tree)) return s.n_keys;
    return s.n_keys - s.n_q + i + 1;
}

/* Bit j - j0 is set if query i sees key j; 64 keys from j0 on. */
static __device__ uint64_t keys_seen(const sequence &s, int i, int j0)
{
    const int      n = keys_in_sight(s, i) - j0, node = i - (s.n_q - s.n_tree), tree = s.n_keys - s.n_tree - j0;
    const uint64_t sight = n >= 64 ? ~(uint64_t)0 : n <= 0 ? 0 : ((uint64_t)1 << n) - 1;
    if (s.mask != ATTEND_TREE || node < 0 || tree >= 64) return sight;
    const uint32_t *bits = s.words + s.visible_at + node * s.tree_words;
    uint64_t        seen = tree > 0 ? ((uint64_t)1 << tree) - 1 : 0; /* what stands before the tree */
    for (int w = tree < 0 ? -tree / 32 : 0; w < s.tree_words && tree + 32 * w < 64; w++) {
        int at = tree + 32 * w; /* of the word's first bit */
        seen |= at < 0 ? (uint64_t)bits[w] >> -at : (uint64_t)bits[w] << at;
    }
    return sight & seen;
}

/* Keys before this one are seen by every row from query i on. */
static __device__ int first_masked(const sequence &s, int i)
{
    int sight = keys_in_sight(s, i);
    return s.mask == ATTEND_TREE ? min(sight, s.n_keys - s.n_tree) : sight;
}

/* What comes off a score before it is scaled, where there are slopes: slope / scale * |i - j|
 * [Press et al. 2022, arXiv:2108.12409]. */
static __device__ float slope_of(const sequence &s, int head)
{
    return reinterpret_cast<const float *>(s.words)[s.slopes_at + head];
}
static __device__ float with_bias(float score, float slope, int i, int j)
{
    return fmaf(-slope, (float)abs(i - j), score);
}

/* Row j of the keys or values of both spans. */
template <class E>
static __device__ const E *span_row(const sequence &s, const void *const rows[2], int j)
{
    int second = j >= s.n_first;
    return static_cast<const E *>(rows[second]) + (size_t)(second ? j - s.n_first : j) * s.k_stride[second];
}

/* ------------------------------------------------------------------------------------- tiles for the tensor cores */

/* Rows in shared memory lie DIM + 8 elements apart: the eight rows that ldmatrix reads at once then fall into
 * different banks. */
template <int DIM> struct tile { enum { PITCH = DIM + 8, CHUNKS = DIM / 8, ELEMENTS = KEYS * PITCH }; };

/* The 16-byte chunks of a thread in a tile: they lie THREADS apart, counted along the rows. The next is found
 * without a division. */
template <int DIM> struct walk {
    enum { PITCH = tile<DIM>::PITCH, CHUNKS = tile<DIM>::CHUNKS, ROWS = THREADS / CHUNKS, REST = THREADS % CHUNKS };
    int row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS;
    __device__ __forceinline__ int  at() const { return row * PITCH + chunk * 8; } /* in shared memory */
    __device__ __forceinline__ bool wraps() const { return REST != 0 && chunk >= CHUNKS - REST; }
    __device__ __forceinline__ void step()
    {
        bool wrap = wraps();
        row += ROWS + wrap;
        chunk += wrap ? REST - CHUNKS : (int)REST;
    }
};

/* KEYS rows from key j0 on, DIM elements from `column` on; rows past the last key are zeros, for which nothing is
 * read. Those of one span, then those of the other: nearly every tile lies in one. */
template <int DIM>
static __device__ __forceinline__ void load_keys(bf16 *to, const sequence &s, const void *const rows[2], int column,
                                                 int j0)
{
    typedef walk<DIM> w;
    static_assert(KEYS * w::CHUNKS % THREADS == 0, "as many chunks a thread");
    const int n = s.n_keys - j0, border = s.n_first < s.n_keys ? min(max(s.n_first - j0, 0), (int)KEYS) : (int)KEYS;
#pragma unroll 1
    for (int second = border == 0; second < (border == KEYS ? 1 : 2); second++) {
        const int   stride = s.k_stride[second], first = second ? j0 - s.n_first : j0;
        const int   low = second ? border : 0, high = second ? (int)KEYS : border;
        const bf16 *from = static_cast<const bf16 *>(rows[second]) + (int64_t)first * stride + column;
        w           at;
        from += at.row * stride + at.chunk * 8;
#pragma unroll
        for (int i = 0; i < KEYS * w::CHUNKS / THREADS; i++, at.step()) {
            if ((unsigned)(at.row - low) < (unsigned)(high - low))
                cp_async_16(to + at.at(), from, at.row < n ? 16 : 0);
            from += (w::ROWS + at.wraps()) * stride + (at.wraps() ? w::REST - w::CHUNKS : (int)w::REST) * 8;
        }
    }
}

/* n rows of queries from row r0 on; those past the last query are zeros. */
template <int DIM, int N>
static __device__ __forceinline__ void load_queries(bf16 *to, const sequence &s, int group, int kv_head, int r0)
{
    typedef walk<DIM> w;
    static_assert(N * w::CHUNKS % THREADS == 0, "as many chunks a thread");
    const int    n_q = s.n_q, per_step = w::ROWS / group, rest = w::ROWS % group;
    const size_t stride = (size_t)s.q_stride;
    const bf16  *q = static_cast<const bf16 *>(s.q) + (size_t)kv_head * group * DIM;
    w   at;
    int i = (r0 + at.row) / group, h = (r0 + at.row) % group;
#pragma unroll 4
    for (int c = 0; c < N * w::CHUNKS / THREADS; c++) {
        bool real = i < n_q;
        cp_async_16(to + at.at(), real ? q + (size_t)i * stride + h * DIM + at.chunk * 8 : q, real ? 16 : 0);
        h += rest + at.wraps();
        i += per_step;
        if (h >= group) h -= group, i++;
        at.step();
    }
}

/* Fragments: of A, 16 rows by 16 elements of the head; of B, 16 keys by 16 elements (two products' worth); of B
 * again, 16 keys by 16 columns of V, transposed on the way. */
template <int PITCH> static __device__ void load_a(uint32_t a[4], const bf16 *q, int row, int d)
{
    int lane = threadIdx.x % 32;
    ldmatrix_x4(a, q + (row + lane % 16) * PITCH + d + lane / 16 * 8);
}
template <int DIM> static __device__ void load_k(uint32_t b[4], const bf16 *k, int key, int d)
{
    int lane = threadIdx.x % 32;
    ldmatrix_x4(b, k + (key + lane % 8 + lane / 16 * 8) * tile<DIM>::PITCH + d + lane / 8 % 2 * 8);
}
template <int DIM> static __device__ void load_v(uint32_t b[4], const bf16 *v, int key, int d)
{
    int lane = threadIdx.x % 32;
    ldmatrix_x4_trans(b, v + (key + lane % 8 + lane / 8 % 2 * 8) * tile<DIM>::PITCH + d + lane / 16 * 8);
}

/* The largest of the four lanes that share a row. */
static __device__ float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

/* Weights are 2^(score * scale_log2 - shift). With a shift of -infinity nothing has been seen yet. */
struct running { float shift, used, factor; };

static __device__ running next_shift(float shift, float top, float scale_log2)
{
    running r;
    r.shift = fmaxf(shift, top * scale_log2);
    r.used = r.shift == -INFINITY ? 0 : r.shift;
    r.factor = exp2f(shift - r.used); /* of what was summed before: 1 where the maximum stays, 0 at first */
    return r;
}

/* Two neighbouring scores of a row to weights, as an operand. A row's largest is 1; what is below 2^-126 is 0. */
static __device__ uint32_t soften(const float score[2], const running &r, float scale_log2)
{
    return pack_two(exp2_fast(fmaf(score[0], scale_log2, -r.used)), exp2_fast(fmaf(score[1], scale_log2, -r.used)));
}

/* Where this lane's part of row r goes: elements 2 (lane % 4) and the next of every eight. */
template <int DIM> static __device__ bf16 *out_row(const sequence &s, const heads &h, int kv_head, int r)
{
    return static_cast<bf16 *>(s.out) + (size_t)(r / h.group) * s.out_stride
           + (kv_head * h.group + r % h.group) * DIM + threadIdx.x % 4 * 2;
}
static __device__ void put_two(bf16 *y, const float sum[2], float f)
{
    *reinterpret_cast<uint32_t *>(y) = pack_two(sum[0] * f + 0.0f, sum[1] * f + 0.0f);
}

/* Scores of 16 keys, one half of the rows: query i. j: the lane's first of these keys. */
static __device__ __forceinline__ void bias_scores(float c[2][4], int half, float slope, int i, int j)
{
    for (int e = 0; e < 4; e++) {
        float &x = c[e / 2][2 * half + e % 2];
        x = with_bias(x, slope, i, j + e / 2 * 8 + e % 2);
    }
}
/* seen: from that key on. */
static __device__ __forceinline__ void mask_scores(float c[2][4], int half, uint32_t seen)
{
    for (int e = 0; e < 4; e++) {
        float &x = c[e / 2][2 * half + e % 2];
        x = seen & 1u << (e / 2 * 8 + e % 2) ? x : -INFINITY;
    }
}

/* ----------------------------------------------------------------------------------------------- many rows
 * 32 rows a warp, so that a fragment of keys or values read from shared memory feeds two products: with 16 the reads,
 * not the tensor cores, would set the pace. Keys and values have one tile of memory each: while scores are made the
 * values arrive, while the output is summed the next keys do. Bounds: 2 blocks of 128 threads leave 255 registers a
 * thread. */
template <int DIM>
static __global__ void __launch_bounds__(THREADS, 2) attend_wide(GRID_CONSTANT(work, todo))
{
    const heads &h = todo.h;
    enum { M = 2, PITCH = tile<DIM>::PITCH, D8 = DIM / 8 };
    DYNAMIC_SHARED(uint8_t, shared);
    sequence &s = *reinterpret_cast<sequence *>(shared);
    int  *query_of = reinterpret_cast<int *>(shared + SEQUENCE_BYTES); /* of a row: there are no registers left */
    int  *clear = query_of + ROWS_WIDE; /* keys before it are seen by every row */
    bf16 *q = reinterpret_cast<bf16 *>(shared + SEQUENCE_BYTES + ROWS_BYTES), *keys = q + ROWS_WIDE * PITCH;
    bf16 *values = keys + tile<DIM>::ELEMENTS;
    const int r0 = find_sequence(&s, todo) * ROWS_WIDE, kv_head = blockIdx.y, column = kv_head * DIM;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * 16 * M;
    const int last = keys_in_sight(s, min((r0 + ROWS_WIDE - 1) / h.group, s.n_q - 1));

    float o[M][D8][4] = {}, sum[M][4] = {}, shift[M][2];
    for (int m = 0; m < M; m++) shift[m][0] = shift[m][1] = -INFINITY;

    for (int r = threadIdx.x; r < ROWS_WIDE; r += THREADS) query_of[r] = (r0 + r) / h.group;
    if (threadIdx.x == 0) *clear = s.slopes_at >= 0 ? 0 : first_masked(s, r0 / h.group);
    load_queries<DIM, ROWS_WIDE>(q, s, h.group, kv_head, r0);
    if (last > 0) load_keys<DIM>(keys, s, s.k, column, 0);
    cp_async_commit();
    for (int j0 = 0; j0 < last; j0 += KEYS) {
        cp_async_wait<0>();
        __syncthreads(); /* these keys are there, the values before them are done with */
        load_keys<DIM>(values, s, s.v, column, j0);
        cp_async_commit();

        float p[M][GROUPS][2][4] = {}; /* [16 keys, 8 of them]: scores */
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t a[M][4], b[4];
            for (int m = 0; m < M; m++) load_a<PITCH>(a[m], q, own + 16 * m, d);
            for (int g = 0; g < GROUPS; g++) {
                load_k<DIM>(b, keys, 16 * g, d);
                for (int m = 0; m < M; m++) {
                    mma_m16n8k16_bf16(p[m][g][0], a[m], b, p[m][g][0]);
                    mma_m16n8k16_bf16(p[m][g][1], a[m], b + 2, p[m][g][1]);
                }
            }
        }
        __syncthreads(); /* all are done with these keys */
        if (j0 + KEYS < last) load_keys<DIM>(keys, s, s.k, column, j0 + KEYS);
        cp_async_commit();

        uint32_t weights[M][GROUPS][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            float factor[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (j0 + KEYS > *clear) {
                    const int      row = own + 16 * m + lane / 4 + 8 * half, i = query_of[row];
                    const int      own_key = lane % 4 * 2;
                    const uint64_t seen = keys_seen(s, min(i, s.n_q - 1), j0) >> own_key;
                    if (s.slopes_at >= 0) {
                        const float slope = slope_of(s, kv_head * h.group + r0 + row - i * h.group);
                        for (int g = 0; g < GROUPS; g++)
                            bias_scores(p[m][g], half, slope, i, j0 + 16 * g + own_key);
                    }
#pragma unroll
                    for (int g = 0; g < GROUPS; g++) mask_scores(p[m][g], half, (uint32_t)(seen >> 16 * g));
                }
                float top = -INFINITY;
                for (int g = 0; g < GROUPS; g++)
                    for (int e = 0; e < 4; e++) top = fmaxf(top, p[m][g][e / 2][2 * half + e % 2]);
                running r = next_shift(shift[m][half], quad_max(top), h.scale_log2);
                for (int g = 0; g < GROUPS; g++)
                    for (int n = 0; n < 2; n++)
                        weights[m][g][2 * n + half] = soften(p[m][g][n] + 2 * half, r, h.scale_log2);
                shift[m][half] = r.shift;
                factor[half] = r.factor;
            }
            /* times 1 changes nothing: leave it out */
            if (__any_sync(0xffffffffu, factor[0] != 1 || factor[1] != 1)) {
                for (int e = 0; e < 4; e++) sum[m][e] *= factor[e / 2];
                for (int d = 0; d < D8; d++)
                    for (int e = 0; e < 4; e++) o[m][d][e] *= factor[e / 2];
            }
        }

        cp_async_wait<1>();
        __syncthreads(); /* the values are there */
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            for (int m = 0; m < M; m++) mma_m16n8k16_bf16(sum[m], weights[m][g], ONES, sum[m]);
#pragma unroll
            for (int d = 0; d < D8; d += 2) {
                uint32_t b[4];
                load_v<DIM>(b, values, 16 * g, 8 * d);
                for (int m = 0; m < M; m++) {
                    mma_m16n8k16_bf16(o[m][d], weights[m][g], b, o[m][d]);
                    mma_m16n8k16_bf16(o[m][d + 1], weights[m][g], b + 2, o[m][d + 1]);
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads(); /* without a key it is the first: all queries have come, and query_of is there */

    /* Out by way of the warp's own queries, so that a row is written 16 bytes at a time. */
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            bf16 *y = q + (own + 16 * m + lane / 4 + 8 * half) * PITCH + lane % 4 * 2;
            float total = sum[m][2 * half], f = total > 0 ? 1.0f / total : 0;
            for (int d = 0; d < D8; d++) put_two(y + 8 * d, o[m][d] + 2 * half, f);
        }
    __syncwarp();
    for (int c = lane; c < 16 * M * D8; c += 32) {
        const int row = own + c / D8, i = query_of[row], head = kv_head * h.group + r0 + row - i * h.group;
        if (i >= s.n_q) break;
        *reinterpret_cast<uint4 *>(static_cast<bf16 *>(s.out) + (size_t)i * s.out_stride + head * DIM + c % D8 * 8) =
            *reinterpret_cast<const uint4 *>(q + row * PITCH + c % D8 * 8);
    }
}

/* ----------------------------------------------------------------------------------------------- few rows
 * Decode: 16 rows hold all heads of a group for one or two queries, and reading keys and values is all the work. Warp
 * w makes the scores of the tile's group w of 16 keys and the columns 16 (w + 4 c) of the output, from weights that
 * all have left in shared memory. Two tiles of keys and values are under way. */
template <int DIM> /* 3 blocks: what the tiles of head size 128 leave room for */
static __global__ void __launch_bounds__(THREADS, 3) attend_narrow(GRID_CONSTANT(work, todo))
{
    const heads &h = todo.h;
    enum { PITCH = tile<DIM>::PITCH, ELEMENTS = tile<DIM>::ELEMENTS, C = DIM / (16 * WARPS) };
    DYNAMIC_SHARED(uint8_t, shared);
    sequence &s = *reinterpret_cast<sequence *>(shared);
    float    *top = reinterpret_cast<float *>(shared + SEQUENCE_BYTES); /* [WARPS, ROWS_NARROW] */
    uint32_t *weights = reinterpret_cast<uint32_t *>(top + WARPS * ROWS_NARROW); /* [ROWS_NARROW, P_PITCH] bf16 */
    bf16     *q = reinterpret_cast<bf16 *>(weights) + ROWS_NARROW * P_PITCH;
    bf16     *stage = q + ROWS_NARROW * PITCH; /* [2] of keys, then values */
    const int r0 = find_sequence(&s, todo) * ROWS_NARROW, kv_head = blockIdx.y, column = kv_head * DIM;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4;
    const int last = keys_in_sight(s, min((r0 + ROWS_NARROW - 1) / h.group, s.n_q - 1));
    const int clear = s.slopes_at >= 0 ? 0 : first_masked(s, r0 / h.group);

    float o[2 * C][4] = {}, sum[4] = {}, shift[2] = {-INFINITY, -INFINITY}, factor[2];
    load_queries<DIM, ROWS_NARROW>(q, s, h.group, kv_head, r0);
    if (last > 0) {
        load_keys<DIM>(stage, s, s.k, column, 0);
        load_keys<DIM>(stage + ELEMENTS, s, s.v, column, 0);
    }
    cp_async_commit();
    for (int j0 = 0, turn = 0; j0 < last; j0 += KEYS, turn ^= 1) {
        const bf16 *keys = stage + 2 * turn * ELEMENTS, *values = keys + ELEMENTS;
        cp_async_wait<0>();
        __syncthreads(); /* this tile is there, the one before is done with */
        if (j0 + KEYS < last) {
            load_keys<DIM>(stage + 2 * (turn ^ 1) * ELEMENTS, s, s.k, column, j0 + KEYS);
            load_keys<DIM>(stage + (2 * (turn ^ 1) + 1) * ELEMENTS, s, s.v, column, j0 + KEYS);
        }
        cp_async_commit();

        float p[2][4] = {};
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t a[4], b[4];
            load_a<PITCH>(a, q, 0, d);
            load_k<DIM>(b, keys, 16 * warp, d);
            mma_m16n8k16_bf16(p[0], a, b, p[0]);
            mma_m16n8k16_bf16(p[1], a, b + 2, p[1]);
        }
        for (int half = 0; half < 2; half++) {
            const int r = r0 + row + 8 * half;
            if (j0 + KEYS > clear) {
                const int own_key = 16 * warp + lane % 4 * 2;
                if (s.slopes_at >= 0)
                    bias_scores(p, half, slope_of(s, kv_head * h.group + r % h.group), r / h.group,
                                j0 + own_key);
                mask_scores(p, half, (uint32_t)(keys_seen(s, min(r / h.group, s.n_q - 1), j0) >> own_key));
            }
            float most = fmaxf(fmaxf(p[0][2 * half], p[0][2 * half + 1]), fmaxf(p[1][2 * half], p[1][2 * half + 1]));
            most = quad_max(most);
            if (lane % 4 == 0) top[warp * ROWS_NARROW + row + 8 * half] = most;
        }
        __syncthreads();
        for (int half = 0; half < 2; half++) {
            float most = -INFINITY;
            for (int w = 0; w < WARPS; w++) most = fmaxf(most, top[w * ROWS_NARROW + row + 8 * half]);
            running r = next_shift(shift[half], most, h.scale_log2);
            shift[half] = r.shift;
            factor[half] = r.factor;
            for (int n = 0; n < 2; n++)
                weights[((row + 8 * half) * P_PITCH + 16 * warp + 8 * n) / 2 + lane % 4] =
                    soften(p[n] + 2 * half, r, h.scale_log2);
        }
        for (int e = 0; e < 4; e++) sum[e] *= factor[e / 2];
        for (int c = 0; c < 2 * C; c++)
            for (int e = 0; e < 4; e++) o[c][e] *= factor[e / 2];
        __syncthreads();
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            uint32_t a[4], b[4];
            load_a<P_PITCH>(a, reinterpret_cast<const bf16 *>(weights), 0, 16 * g);
            mma_m16n8k16_bf16(sum, a, ONES, sum);
            for (int c = 0; c < C; c++) {
                load_v<DIM>(b, values, 16 * g, 16 * (warp + WARPS * c));
                mma_m16n8k16_bf16(o[2 * c], a, b, o[2 * c]);
                mma_m16n8k16_bf16(o[2 * c + 1], a, b + 2, o[2 * c + 1]);
            }
        }
    }
    cp_async_wait<0>();

    for (int half = 0; half < 2; half++) {
        int   r = r0 + row + 8 * half, i = r / h.group;
        float total = sum[2 * half], f = total > 0 ? 1.0f / total : 0;
        if (i >= s.n_q) continue;
        for (int c = 0; c < 2 * C; c++)
            put_two(out_row<DIM>(s, h, kv_head, r) + 16 * (warp + WARPS * (c / 2)) + 8 * (c % 2), o[c] + 2 * half, f);
    }
}

/* ----------------------------------------------------------------------------------------------- any size
 * Four rows a warp. Scores: a lane owns a key of the tile; output: a lane owns every 32nd element of the head. All in
 * f32. */
template <class E>
static __global__ void __launch_bounds__(THREADS, 4) attend_any(GRID_CONSTANT(work, todo))
{
    const heads &h = todo.h;
    enum { OWN = MAX_DIM / 32 };
    DYNAMIC_SHARED(uint8_t, shared);
    sequence &s = *reinterpret_cast<sequence *>(shared);
    const int padded = (h.dim + 3) / 4 * 4, k_pitch = padded + 1; /* odd: 32 keys fall into 32 banks */
    float *q = reinterpret_cast<float *>(shared + SEQUENCE_BYTES), *keys = q + ANY_ROWS * padded;
    float *values = keys + ANY_KEYS * k_pitch, *weights = values + ANY_KEYS * padded;
    const int r0 = find_sequence(&s, todo) * ANY_ROWS, kv_head = blockIdx.y, column = kv_head * h.dim;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * ANY_PER_WARP;
    const int last = keys_in_sight(s, min((r0 + ANY_ROWS - 1) / h.group, s.n_q - 1));

    for (int c = threadIdx.x; c < ANY_ROWS * padded; c += THREADS) {
        int r = r0 + c / padded, d = c % padded, i = r / h.group;
        const E *from = static_cast<const E *>(s.q) + (kv_head * h.group + r % h.group) * h.dim;
        q[c] = i < s.n_q && d < h.dim ? widen(from[(size_t)i * s.q_stride + d]) : 0;
    }
    float o[ANY_PER_WARP][OWN] = {}, sum[ANY_PER_WARP], shift[ANY_PER_WARP];
    for (int n = 0; n < ANY_PER_WARP; n++) sum[n] = 0, shift[n] = -INFINITY;

    for (int j0 = 0; j0 < last; j0 += ANY_KEYS) {
        __syncthreads();
        for (int c = threadIdx.x; c < ANY_KEYS * padded; c += THREADS) {
            int row = c / padded, d = c % padded;
            bool real = j0 + row < s.n_keys && d < h.dim;
            keys[row * k_pitch + d] = real ? widen(span_row<E>(s, s.k, j0 + row)[column + d]) : 0;
            values[row * padded + d] = real ? widen(span_row<E>(s, s.v, j0 + row)[column + d]) : 0;
        }
        __syncthreads();
        float score[ANY_PER_WARP] = {};
        for (int d = 0; d < padded; d += 4) {
            const float *k = keys + lane * k_pitch + d;
            for (int n = 0; n < ANY_PER_WARP; n++) {
                float4 x = *reinterpret_cast<const float4 *>(q + (own + n) * padded + d);
                score[n] = fmaf(x.w, k[3], fmaf(x.z, k[2], fmaf(x.y, k[1], fmaf(x.x, k[0], score[n]))));
            }
        }
        for (int n = 0; n < ANY_PER_WARP; n++) {
            int   r = r0 + own + n, i = min(r / h.group, s.n_q - 1), j = j0 + lane;
            float x = score[n];
            if (s.slopes_at >= 0) x = with_bias(x, slope_of(s, kv_head * h.group + r % h.group), i, j);
            if (!(keys_seen(s, i, j0) >> lane & 1)) x = -INFINITY;
            running a = next_shift(shift[n], warp_max(x), h.scale_log2);
            float p = exp2f(fmaf(x, h.scale_log2, -a.used));
            sum[n] = fmaf(sum[n], a.factor, warp_sum(p));
            shift[n] = a.shift;
            weights[(own + n) * ANY_KEYS + lane] = p;
            for (int e = 0; e < OWN; e++) o[n][e] *= a.factor;
        }
        __syncwarp();
        for (int j = 0; j < ANY_KEYS; j++)
#pragma unroll
            for (int e = 0; e < OWN; e++) {
                if (lane + 32 * e >= h.dim) break;
                float v = values[j * padded + lane + 32 * e];
                for (int n = 0; n < ANY_PER_WARP; n++) o[n][e] = fmaf(weights[(own + n) * ANY_KEYS + j], v, o[n][e]);
            }
    }
    for (int n = 0; n < ANY_PER_WARP; n++) {
        int   r = r0 + own + n, i = r / h.group;
        float f = sum[n] > 0 ? 1.0f / sum[n] : 0;
        if (i >= s.n_q) continue;
        E *y = static_cast<E *>(s.out) + (size_t)i * s.out_stride + (kv_head * h.group + r % h.group) * h.dim;
        for (int e = 0; e < OWN; e++)
            if (lane + 32 * e < h.dim) y[lane + 32 * e] = narrow<E>(o[n][e] * f + 0.0f);
    }
}

/* --------------------------------------------------------------------------------------------------- launch */
typedef decltype(&attend_any<float>) attend_kernel;
struct plan { attend_kernel run; int rows; size_t shared_bytes; };

template <int DIM> static plan wide_plan()
{
    size_t elements = (size_t)ROWS_WIDE * tile<DIM>::PITCH + 2 * tile<DIM>::ELEMENTS;
    return {attend_wide<DIM>, ROWS_WIDE, SEQUENCE_BYTES + ROWS_BYTES + elements * sizeof(bf16)};
}
template <int DIM> static plan narrow_plan()
{
    size_t elements = (size_t)ROWS_NARROW * (P_PITCH + tile<DIM>::PITCH) + 4 * tile<DIM>::ELEMENTS;
    return {attend_narrow<DIM>, ROWS_NARROW,
            SEQUENCE_BYTES + WARPS * ROWS_NARROW * sizeof(float) + elements * sizeof(bf16)};
}

static plan any_plan(bool f32, int dim)
{
    size_t padded = (size_t)(dim + 3) / 4 * 4;
    size_t floats = ANY_ROWS * padded + ANY_KEYS * (padded + 1) + ANY_KEYS * padded + ANY_ROWS * ANY_KEYS;
    return {f32 ? attend_any<float> : attend_any<bf16>, ANY_ROWS, SEQUENCE_BYTES + floats * sizeof(float)};
}

/* More than 48 KB of shared memory have to be asked for. */
bool cuda_attend_open(cuda *g)
{
    const plan all[] = {wide_plan<64>(), wide_plan<80>(), wide_plan<128>(), narrow_plan<64>(), narrow_plan<128>(),
                        any_plan(true, MAX_DIM), any_plan(false, MAX_DIM)};
    for (const plan &p : all)
        if (!cu_ok(&g->k,
                   cudaFuncSetAttribute(p.run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)p.shared_bytes),
                   "attention"))
            return false;
    return true;
}

/* 16 bytes at a time can be read at every row of every head. */
static bool is_aligned(const attend_args *a)
{
    bool ok = aligned_16(a->q) && a->q_stride % 8 == 0 && aligned_16(a->out) && a->out_stride % 8 == 0;
    for (int i = 0; i < 2; i++)
        ok = ok && (a->span[i].n == 0 ||
                    (aligned_16(a->span[i].k) && aligned_16(a->span[i].v) && a->span[i].row_stride % 8 == 0));
    return ok;
}

static plan choose(const cuda *g, const attend_args *a, int n)
{
    const int dim = a->head_dim, group = a->n_heads / a->n_kv_heads;
    bool      tiles = !g->f32, narrow = true;
    for (int i = 0; i < n; i++) {
        tiles = tiles && (a[i].n_q == 0 || is_aligned(&a[i]));
        narrow = narrow && (int64_t)a[i].n_q * group <= ROWS_NARROW;
    }
    if (tiles && dim == 64) return narrow ? narrow_plan<64>() : wide_plan<64>();
    if (tiles && dim == 80) return wide_plan<80>();
    if (tiles && dim == 128) return narrow ? narrow_plan<128>() : wide_plan<128>();
    return any_plan(g->f32, dim);
}

static int tree_words(const attend_args *a) { return a->mask == ATTEND_TREE ? (a->n_tree + 31) / 32 : 0; }

/* Words of 4 bytes that a sequence's tree and slopes take. */
static size_t extra_words(const attend_args *a)
{
    return (size_t)tree_words(a) * a->n_tree + (a->alibi ? (size_t)a->n_heads : 0);
}

/* Describe a at s, its tree and slopes at words + *at; *block: the first that is not taken. */
static void describe(sequence *s, const attend_args *a, int rows_per_block, uint32_t *words, size_t *at, int *block)
{
    *s = {a->q, {a->span[0].k, a->span[1].k}, {a->span[0].v, a->span[1].v}, a->out, a->q_stride, a->out_stride,
          {a->span[0].row_stride, a->span[1].row_stride}, a->n_q, a->span[0].n, a->span[0].n + a->span[1].n,
          a->mask, a->mask == ATTEND_TREE ? a->n_tree : 0, tree_words(a), (int)*at, -1, *block, NULL};
    for (int i = 0; i < s->n_tree; i++, *at += (size_t)s->tree_words)
        for (int j = 0; j < s->n_tree; j++)
            if (a->visible[(size_t)i * s->n_tree + j]) words[*at + (size_t)j / 32] |= 1u << (j % 32);
    if (a->alibi) {
        s->slopes_at = (int)*at;
        for (int h = 0; h < a->n_heads; h++) {
            float slope = a->alibi[h] / a->scale; /* scores are scaled after it */
            memcpy(words + (*at)++, &slope, sizeof slope);
        }
    }
    *block += blocks_of((int64_t)a->n_q * (a->n_heads / a->n_kv_heads), rows_per_block);
}

/* All sequences in one piece: inside, or by way of host memory in scratch. */
static bool lay_out(cuda *g, work *w, const attend_args *a, int n, int rows_per_block)
{
    size_t extra = 0, head = (size_t)w->h.n_sequences * sizeof(sequence), at = head / sizeof(uint32_t);
    for (int i = 0; i < n; i++) extra += extra_words(&a[i]) * sizeof(uint32_t);
    bool     fits = head + extra <= INSIDE;
    uint8_t *host = fits ? w->inside : (uint8_t *)mem_zalloc(1, head + extra);
    if (!host) {
        kernels_fail(&g->k, ERR_MEMORY, "kernels: out of memory for an attention's description");
        return false;
    }
    sequence *s = (sequence *)host;
    for (int i = 0; i < n; i++)
        if (a[i].n_q > 0) describe(s++, &a[i], rows_per_block, (uint32_t *)host, &at, &w->h.n_blocks);
    if (fits) return true;
    w->staged = (const sequence *)cuda_stage(g, host, head + extra);
    mem_free(host);
    return w->staged != NULL;
}

void cuda_attend(kernels *k, const attend_args *a, int n)
{
    cuda *g = cuda_of(k);
    work w = {};
    uint64_t flops = 0;
    for (int i = 0; g && i < n; i++) {
        if (a[i].n_q == 0) continue;
        w.h.n_sequences++;
        flops += 4 * attend_pairs(&a[i]) * (uint64_t)a[i].n_heads * (uint64_t)a[i].head_dim;
    }
    if (w.h.n_sequences == 0) return;
    if (a->n_kv_heads < 1 || a->n_heads % a->n_kv_heads != 0 || a->head_dim > MAX_DIM) {
        kernels_fail(k, ERR_BUG,
                     "kernels: attention of more than 256 dimensions a head, or heads that do not divide");
        return;
    }
    plan p = choose(g, a, n);
    w.h.group = a->n_heads / a->n_kv_heads;
    w.h.dim = a->head_dim;
    w.h.scale_log2 = a->scale * 1.44269504088896340736f;
    size_t mark = k->mark(k);
    if (lay_out(g, &w, a, n, p.rows)) {
        LAUNCH(p.run, dim3(w.h.n_blocks, a->n_kv_heads), dim3(THREADS), p.shared_bytes, g->stream, w);
        if (cu_launched(k, "attention")) k->flops += flops;
    }
    k->back(k, mark);
}
