/* mixture.cu - a step of decoding: from the logits behind n beams of K branches each to the likeliest tokens of their
 * mixtures.
 * Reference: mixture_of_logits() in kernels/mixture.c.  Test: tests/cuda/test_mixture.c.  Bench: bench_gpu, "step".
 *
 * The head leaves [K * n, V] logits in scratch (score.cu): 6 MB for ten rows of Qwen2-VL-7B, beside 1.09 GB of
 * weights.
 * chunks    penalises the logits where they lie; of CHUNK tokens of a row the largest, its place, the sum of
 *           exp(logit - largest)
 * join      a row's chunks: log-sum-exp, likeliest token, and what each of its exponentials weighs in the mixture
 * mix       the mixture of CHUNK tokens of a beam, and its likeliest
 * choose    a beam's chunks: its likeliest tokens, and what each branch thinks of them
 * Then one copy of what the caller wants, and one wait.
 *
 * All in double from the logits on, as on the CPU: a probability is within V + 8 roundings of the reference's. Same
 * bits: chunks are cut by V alone, a chunk's sum is one chain a lane and one tree, chunks are joined in one order,
 * and branches are added in theirs. Equal logits in all branches are equal probabilities, which go by the lower
 * id. */
#include "kernels/cuda/cuda.h"

#include <limits.h>
#include <math.h>

extern "C" {
#include "base/memory.h"
#include "kernels/mixture.h"
}

enum { THREADS = 256, WARPS = THREADS / 32, OWN = 4 /* tokens of a thread */, CHUNK = OWN * THREADS };

/* A token and its probability. */
struct entry { double p; int32_t id; };
struct part { double sum; float max; int32_t at; };
struct row { double lse, share; float max; };

struct mixing {
    int             n, K, top, V, chunks, words;
    float          *logit; /* [K * n, V] */
    const uint64_t *seen;  /* [K * n, words]; NULL: no penalty */
    float           penalty;
    const float    *w;     /* [K] */
    part           *parts; /* [K * n, chunks] */
    row            *rows;  /* [K * n] */
    entry          *some;  /* [n, chunks, top]: of a chunk, likeliest first; p < 0: it has no more */
    int            *used;  /* [n, chunks] of these, in choose */
    double         *p, *each; /* the results, as mixture_args has them */
    int32_t        *token, *likeliest;
};

static __device__ bool before(const entry &x, const entry &y) { return x.p > y.p || (x.p == y.p && x.id < y.id); }

/* The largest over the lanes of a warp and its place, the lowest of equals, in every lane. */
static __device__ void warp_first(float *max, int32_t *at)
{
    for (int step = 16; step > 0; step /= 2) {
        float   other = __shfl_xor_sync(0xffffffffu, *max, step);
        int32_t there = __shfl_xor_sync(0xffffffffu, *at, step);
        if (other > *max || (other == *max && there < *at)) *max = other, *at = there;
    }
}

/* ------------------------------------------------------------------------------------------------------ of a row */
/* grid: (K * n, ceil(chunks / WARPS)); a warp a chunk. A NaN is never the largest, but makes the sum one; so does an
 * infinity that is. */
static __global__ void __launch_bounds__(THREADS) chunks_kernel(mixing m)
{
    int r = blockIdx.x, c = blockIdx.y * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (c >= m.chunks) return; /* whole warps */
    int             v0 = c * CHUNK, v1 = min(v0 + CHUNK, m.V);
    float          *l = m.logit + (size_t)r * m.V, max = -INFINITY;
    int32_t         at = INT_MAX;
    const uint64_t *seen = m.seen ? m.seen + (size_t)r * m.words : NULL;
    for (int v = v0 + lane; v < v1; v += 32) {
        float x = l[v];
        if (seen && (seen[v / 64] >> v % 64 & 1)) l[v] = x = x < 0 ? x * m.penalty : x / m.penalty;
        if (x > max) max = x, at = v;
    }
    warp_first(&max, &at);
    double sum = 0, shift = max == -INFINITY ? 0 : max;
    for (int v = v0 + lane; v < v1; v += 32) sum += exp(l[v] - shift);
    sum = warp_sum(sum);
    if (lane == 0) m.parts[(size_t)r * m.chunks + c] = part{sum, max, at};
}

/* grid: K * n; one warp. A row of nothing but -inf has no sum: exp(-inf - -inf). */
static __global__ void __launch_bounds__(32) join_kernel(mixing m)
{
    int         r = blockIdx.x, lane = threadIdx.x, k = r / m.n, b = r % m.n;
    const part *parts = m.parts + (size_t)r * m.chunks;
    float       max = -INFINITY;
    int32_t     at = INT_MAX;
    double      sum = 0;
    for (int c = lane; c < m.chunks; c += 32)
        if (parts[c].max > max) max = parts[c].max, at = parts[c].at;
    warp_first(&max, &at);
    for (int c = lane; c < m.chunks; c += 32) sum += parts[c].sum * exp((double)parts[c].max - max);
    sum = warp_sum(sum);
    if (lane != 0) return;
    m.rows[r] = row{max + log(sum), m.w[k] / sum, max};
    m.likeliest[(size_t)b * m.K + k] = at;
}

/* ----------------------------------------------------------------------------------------------------- of a beam */
/* The first of all threads' entries, in every thread. Rooms take turns, so that one barrier each is enough. */
static __device__ entry first_of_block(entry e, entry (*room)[WARPS], int turn)
{
    for (int step = 16; step > 0; step /= 2) {
        entry other = {__shfl_xor_sync(0xffffffffu, e.p, step), __shfl_xor_sync(0xffffffffu, e.id, step)};
        if (before(other, e)) e = other;
    }
    entry *all = room[turn % 2];
    if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = e;
    __syncthreads();
    e = all[0];
    for (int w = 1; w < WARPS; w++)
        if (before(all[w], e)) e = all[w];
    return e;
}

/* grid: (chunks, n). A thread owns every THREADS-th token, and those of them that are not taken yet. */
static __global__ void __launch_bounds__(THREADS) mix_kernel(mixing m)
{
    __shared__ entry room[2][WARPS];
    int    c = blockIdx.x, b = blockIdx.y, v0 = c * CHUNK + threadIdx.x;
    double p[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        int    v = v0 + i * THREADS;
        double sum = 0;
        for (int k = 0; k < m.K && v < m.V; k++) {
            size_t     r = (size_t)k * m.n + b;
            const row &of = m.rows[r];
            sum += of.share * exp((double)m.logit[r * m.V + v] - of.max);
        }
        p[i] = v < m.V && sum >= 0 ? sum : -1; /* a NaN is the row's, and choose tells */
    }
    entry *some = m.some + ((size_t)b * m.chunks + c) * m.top;
    for (int turn = 0; turn < m.top; turn++) {
        entry mine = {-1, INT_MAX};
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (p[i] > mine.p) mine = entry{p[i], v0 + i * THREADS};
        entry first = first_of_block(mine, room, turn);
        if (threadIdx.x == 0) some[turn] = first;
        if (first.p < 0) return; /* all threads */
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (first.id == v0 + i * THREADS) p[i] = -1;
    }
}

/* grid: n. A thread owns every THREADS-th chunk's list; whose first entry was taken goes on to its next. */
static __global__ void __launch_bounds__(THREADS) choose_kernel(mixing m)
{
    __shared__ entry room[2][WARPS];
    const int        b = blockIdx.x;
    const entry     *some = m.some + (size_t)b * m.chunks * m.top;
    int             *used = m.used + (size_t)b * m.chunks;
    for (int k = 0; k < m.K; k++)
        if (!(fabs(m.rows[(size_t)k * m.n + b].lse) < INFINITY)) { /* all threads */
            if (threadIdx.x == 0) m.p[(size_t)b * m.top] = NAN;
            return;
        }
    for (int c = threadIdx.x; c < m.chunks; c += THREADS) used[c] = 0;
    entry first = {-1, INT_MAX}, mine = {-1, INT_MAX};
    int   from = -1;
    for (int turn = 0; turn < m.top; turn++) {
        if (mine.id == first.id) { /* the first turn, or mine was taken */
            if (from >= 0) used[from]++;
            mine = {-1, INT_MAX};
            for (int c = threadIdx.x; c < m.chunks; c += THREADS) {
                entry e = some[(size_t)c * m.top + used[c]]; /* fewer are used than turns are over */
                if (before(e, mine)) mine = e, from = c;
            }
        }
        first = first_of_block(mine, room, turn);
        if (threadIdx.x != 0) continue;
        m.token[(size_t)b * m.top + turn] = first.id;
        m.p[(size_t)b * m.top + turn] = first.p;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < m.top * m.K; i += THREADS) {
        size_t at = (size_t)b * m.top + i / m.K, r = (size_t)(i % m.K) * m.n + b;
        m.each[at * m.K + i % m.K] = m.logit[r * m.V + m.token[at]] - m.rows[r].lse;
    }
}

/* -------------------------------------------------------------------------------------------------------- launch */
static bool run_mixture(cuda *g, const mixing &m)
{
    const int rows = m.K * m.n;
    LAUNCH(chunks_kernel, dim3(rows, blocks_of(m.chunks, WARPS)), dim3(THREADS), 0, g->stream, m);
    LAUNCH(join_kernel, dim3(rows), dim3(32), 0, g->stream, m);
    LAUNCH(mix_kernel, dim3(m.chunks, m.n), dim3(THREADS), 0, g->stream, m);
    LAUNCH(choose_kernel, dim3(m.n), dim3(THREADS), 0, g->stream, m);
    return cu_launched(&g->k, "mixture");
}

/* The results lie in one piece: doubles first. */
static size_t results_bytes(const mixture_args *a)
{
    size_t n = (size_t)a->n, of_beam = n * (size_t)a->top, K = (size_t)a->K;
    return of_beam * (1 + K) * sizeof(double) + (of_beam + n * K) * sizeof(int32_t);
}

static void place_results(mixing *m, void *at)
{
    size_t of_beam = (size_t)m->n * m->top;
    m->p = (double *)at;
    m->each = m->p + of_beam;
    m->token = (int32_t *)(m->each + of_beam * m->K);
    m->likeliest = m->token + of_beam;
}

static bool fetch_results(cuda *g, const mixture_args *a, mixing m)
{
    size_t n = (size_t)a->n, of_beam = n * (size_t)a->top, K = (size_t)a->K, bytes = results_bytes(a);
    void  *all = mem_alloc(bytes);
    bool   ok = all && cuda_fetch(g, all, m.p, bytes);
    if (!all) kernels_fail(&g->k, ERR_MEMORY, "mixture: out of memory");
    if (ok) {
        place_results(&m, all);
        memcpy(a->p, m.p, of_beam * sizeof *a->p);
        memcpy(a->each, m.each, of_beam * K * sizeof *a->each);
        memcpy(a->token, m.token, of_beam * sizeof *a->token);
        memcpy(a->likeliest, m.likeliest, n * K * sizeof *a->likeliest);
    }
    mem_free(all);
    return ok;
}

void cuda_mixture(kernels *k, const mixture_args *a, const act *x, const weight *w)
{
    cuda *g = cuda_of(k);
    if (!g) return;
    size_t mark = k->mark(k), rows = (size_t)a->K * (size_t)a->n, chunks = (size_t)blocks_of(w->rows, CHUNK);
    mixing m = {};
    m.n = a->n;
    m.K = a->K;
    m.top = a->top;
    m.V = (int)w->rows;
    m.chunks = (int)chunks;
    m.words = (int)id_set_words(m.V);
    m.penalty = (float)a->penalty;
    m.w = (const float *)cuda_stage(g, a->w, (size_t)a->K * sizeof *a->w);
    if (a->seen) m.seen = (const uint64_t *)cuda_stage(g, a->seen, rows * (size_t)m.words * sizeof *a->seen);
    m.parts = (part *)cuda_take(g, rows * chunks * sizeof *m.parts);
    m.rows = (row *)cuda_take(g, rows * sizeof *m.rows);
    m.some = (entry *)cuda_take(g, (size_t)a->n * chunks * (size_t)a->top * sizeof *m.some);
    m.used = (int *)cuda_take(g, (size_t)a->n * chunks * sizeof *m.used);
    void *results = cuda_take(g, results_bytes(a));
    if (k->failed.code == ERR_NONE) {
        place_results(&m, results);
        m.logit = cuda_all_logits(g, x, (int)rows, w);
    }
    if (m.logit && run_mixture(g, m) && fetch_results(g, a, m)) k->flops += product_flops((int)rows, w);
    k->back(k, mark);
}
