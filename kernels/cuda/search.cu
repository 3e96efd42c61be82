/* search.cu - exact search by inner product: every row against one query, then the k best.
 * Reference: a double sum in index/.  Test: tests/cuda/test_search.c.
 *
 * Rows are kept as f16, `pitch` elements apart with zeros behind `dim`: reading them is all the work (2.1 M x 768:
 * 3.2 GB), and bf16 would leave three bits fewer. What f16 costs is known: vector_set.error bounds the length of row
 * - f16(row) over all rows, so no score is off by more than |z| times it. index.c fetches more than it needs, scores
 * again in double from its own f32 rows, and goes on until that bound says that nothing was missed.
 *
 * scan      score of each row -> a 32-bit key that sorts as the score does; counts of the keys' upper 12 bits
 * refine    counts of the next 12 bits among the keys that share the k-th best's upper bits; then of the last 8: k-th
 *           best key
 * gather    every key above it, in any order; how many keys of each chunk are equal to it
 * ties      the equal ones with the lowest ids, as many as are missing
 * The host sorts what it gets by (score, id). So the k best are exact also among equal scores, for any k, and only
 * integers are ever added by atomics: the same bits each time. The keys are 4 bytes a row: 0.3 % of what the scan
 * reads. */
#include "kernels/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>

extern "C" {
#include "base/memory.h"
}

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    ROWS = 8 /* of a warp at a time */,
    CHUNK = 4096 /* keys of a block in gather */
};
enum { BITS = 12, BINS = 1 << BITS, LAST_BITS = 8, PASSES = 3, BLOCKS_PER_SM = 4 };
enum { MAX_DIM = 4096 /* the query lies in shared memory */ };

/* What the passes leave for the next: counts of each pass's bins, and of the k-th best key what is known, bits from
 * the top. */
struct selection {
    uint32_t count[PASSES][BINS];
    uint32_t upper[PASSES]; /* the key's bits after that pass, those below 0 */
    uint32_t want[PASSES];  /* how many of the keys with these bits are still among the k best */
    uint32_t n_above;       /* gathered so far */
};
static __device__ __host__ constexpr int shift_of(int pass)
{
    return pass == 0 ? 32 - BITS : pass == 1 ? LAST_BITS : 0;
}

/* Sorts as unsigned numbers the way scores do. */
static __device__ uint32_t key_of(float score)
{
    uint32_t u = __float_as_uint(score);
    return u >> 31 ? ~u : u | 0x80000000u;
}
static float score_of(uint32_t key)
{
    uint32_t u = key >> 31 ? key & 0x7fffffffu : ~key;
    float    f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* -------------------------------------------------------------------------------------------------------- upload */
/* f32 rows [n,dim] to f16 rows `pitch` apart. One warp a row; *error: the largest length of what rounding took, as
 * bits. */
static __global__ void __launch_bounds__(THREADS)
    halve_kernel(__half *to, const float *from, int n, int dim, int pitch, uint32_t *error)
{
    int r = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (r >= n) return;
    float sum = 0;
    for (int i = lane; i < pitch; i += 32) {
        float  x = i < dim ? from[(size_t)r * dim + i] : 0;
        __half h = __float2half_rn(x);
        float  lost = x - __half2float(h);
        sum = fmaf(lost, lost, sum);
        to[(size_t)r * pitch + i] = h;
    }
    sum = warp_sum(sum);
    if (lane == 0) atomicMax(error, __float_as_uint(sqrtf(sum))); /* none is negative: bits sort as the numbers do */
}

/* -------------------------------------------------------------------------------------------------------- select */
/* Block-wide: the bin in which the want-th entry lies, counted from the last bin down, and how many it has to
 * give. */
static __device__ void pick(const uint32_t *count, int bins, uint32_t want, uint32_t *bin, uint32_t *left)
{
    __shared__ uint32_t part[THREADS], found[2];
    int per = bins / THREADS, t = threadIdx.x; /* per: 1 or 16, so that neighbouring lanes hold a part */
    for (int i = 0; i < per; i++) { /* part 0 has the largest keys */
        uint32_t sum = count[bins - 1 - i * THREADS - t];
        for (int step = per / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (t % per == 0) part[(i * THREADS + t) / per] = sum;
    }
    __syncthreads();
    if (t < 32) {
        const int own = THREADS / 32; /* parts of a lane */
        uint32_t sum_own = 0, before;
        for (int i = 0; i < own; i++) sum_own += part[t * own + i];
        before = sum_own;
        for (int step = 1; step < 32; step *= 2) {
            uint32_t other = __shfl_up_sync(0xffffffffu, before, step);
            if (t >= step) before += other;
        }
        before -= sum_own;
        if (before < want && want <= before + sum_own) { /* one lane */
            int i = t * own, b;
            for (; before + part[i] < want; i++) before += part[i];
            for (b = bins - 1 - i * per; before + count[b] < want; b--) before += count[b];
            found[0] = (uint32_t)b;
            found[1] = want - before;
        }
    }
    __syncthreads();
    *bin = found[0];
    *left = found[1];
    __syncthreads();
}

/* After pass `pass`: the k-th best key's bits down to that pass's, and how many with these bits are among the k best.
 * Every block finds the same; the first leaves it for the passes behind the next. */
static __device__ void settle(selection *s, int pass, uint32_t k, uint32_t *upper, uint32_t *want)
{
    uint32_t bin, left;
    pick(s->count[pass], pass == PASSES - 1 ? 1 << LAST_BITS : BINS, pass == 0 ? k : s->want[pass - 1], &bin, &left);
    *upper = (pass == 0 ? 0 : s->upper[pass - 1]) | bin << shift_of(pass);
    *want = left;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        s->upper[pass] = *upper;
        s->want[pass] = *want;
    }
}

/* Shared counts to the block-wide ones. */
static __device__ void add_counts(uint32_t *to, const uint32_t *bins, int n)
{
    __syncthreads();
    for (int b = threadIdx.x; b < n; b += THREADS)
        if (bins[b]) atomicAdd(&to[b], bins[b]);
}

/* z: [pitch], zeros behind dim. A warp takes ROWS rows at a time, so that as many 16-byte loads a lane are under
 * way. */
static __global__ void __launch_bounds__(THREADS, 2) scan_kernel(uint32_t *key, selection *s, const __half *rows,
                                                                 const float *z, int64_t n, int pitch)
{
    DYNAMIC_SHARED(float, query);
    __shared__ uint32_t bins[BINS];
    for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
    for (int i = threadIdx.x; i < pitch; i += THREADS) query[i] = z[i];
    __syncthreads();
    int     warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t step = (int64_t)gridDim.x * WARPS * ROWS;
    for (int64_t r0 = ((int64_t)blockIdx.x * WARPS + warp) * ROWS; r0 < n; r0 += step) {
        float sum[ROWS] = {};
        for (int at = lane * 8; at < pitch; at += 32 * 8) {
            uint4 part[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) /* the last rows may be read twice, never past the end */
                part[r] = *reinterpret_cast<const uint4 *>(rows + (size_t)(r0 + r < n ? r0 + r : n - 1) * pitch + at);
            float4 a = *reinterpret_cast<const float4 *>(query + at),
                   b = *reinterpret_cast<const float4 *>(query + at + 4);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                __half x[8];
                memcpy(x, &part[r], sizeof x);
                float first = fmaf(__half2float(x[0]), a.x, sum[r]);
                first = fmaf(__half2float(x[1]), a.y, first);
                first = fmaf(__half2float(x[2]), a.z, first);
                first = fmaf(__half2float(x[3]), a.w, first);
                first = fmaf(__half2float(x[4]), b.x, first);
                first = fmaf(__half2float(x[5]), b.y, first);
                first = fmaf(__half2float(x[6]), b.z, first);
                sum[r] = fmaf(__half2float(x[7]), b.w, first);
            }
        }
        uint32_t mine = 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float total = warp_sum(sum[r]);
            if (lane == r) mine = key_of(total + 0.0f); /* -0 and 0 are equal scores */
        }
        if (lane < ROWS && r0 + lane < n) {
            key[r0 + lane] = mine;
            atomicAdd(&bins[mine >> shift_of(0)], 1u);
        }
    }
    add_counts(s->count[0], bins, BINS);
}

static __global__ void __launch_bounds__(THREADS)
    refine_kernel(const uint32_t *key, selection *s, int64_t n, uint32_t k, int pass)
{
    __shared__ uint32_t bins[BINS];
    uint32_t upper, want;
    settle(s, pass - 1, k, &upper, &want);
    int above = shift_of(pass - 1), shift = shift_of(pass), size = pass == PASSES - 1 ? 1 << LAST_BITS : BINS;
    for (int b = threadIdx.x; b < size; b += THREADS) bins[b] = 0;
    __syncthreads();
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS)
        if (key[i] >> above == upper >> above) atomicAdd(&bins[key[i] >> shift & (uint32_t)(size - 1)], 1u);
    add_counts(s->count[pass], bins, size);
}

/* grid: ceil(n / CHUNK) */
static __global__ void __launch_bounds__(THREADS)
    gather_kernel(uint32_t *id, uint32_t *best, uint32_t *ties, const uint32_t *key, selection *s, int64_t n,
                  uint32_t k)
{
    __shared__ uint32_t equal;
    uint32_t last, want;
    settle(s, PASSES - 1, k, &last, &want);
    if (threadIdx.x == 0) equal = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNK; i += THREADS) {
        int64_t at = (int64_t)blockIdx.x * CHUNK + i;
        if (at >= n || key[at] < last) continue;
        if (key[at] == last) atomicAdd(&equal, 1u);
        else {
            uint32_t slot = atomicAdd(&s->n_above, 1u); /* below k - want: so many are above the k-th best */
            id[slot] = (uint32_t)at;
            best[slot] = key[at];
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) ties[blockIdx.x] = equal;
}

/* The same grid. A chunk's ties stand behind those of the chunks before it, in order of id. */
static __global__ void __launch_bounds__(THREADS)
    ties_kernel(uint32_t *id, uint32_t *best, const uint32_t *ties, const uint32_t *key, const selection *s,
                int64_t n, uint32_t k)
{
    __shared__ uint32_t before, warp_ties[WARPS];
    uint32_t last = s->upper[PASSES - 1], want = s->want[PASSES - 1], mine = 0, lane = threadIdx.x % 32,
             warp = threadIdx.x / 32;
    if (threadIdx.x == 0) before = 0;
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < blockIdx.x; c += THREADS) mine += ties[c];
    if (mine) atomicAdd(&before, mine);
    __syncthreads();
    uint32_t at = before;
    if (ties[blockIdx.x] == 0 || at >= want) return; /* the whole block */
    for (int i = threadIdx.x; i < CHUNK; i += THREADS) {
        int64_t  row = (int64_t)blockIdx.x * CHUNK + i;
        bool     tie = row < n && key[row] == last;
        uint32_t mask = __ballot_sync(0xffffffffu, tie);
        if (lane == 0) warp_ties[warp] = (uint32_t)__popc(mask);
        __syncthreads();
        uint32_t slot = at + (uint32_t)__popc(mask & ((1u << lane) - 1));
        for (uint32_t w = 0; w < WARPS; w++) {
            if (w < warp) slot += warp_ties[w];
            at += warp_ties[w];
        }
        if (tie && slot < want) {
            id[k - want + slot] = (uint32_t)row;
            best[k - want + slot] = last;
        }
        __syncthreads();
    }
}

/* -------------------------------------------------------------------------------------------------- from the host */
bool cuda_vectors_open(kernels *k, vector_set *v, const float *rows, int64_t n, int dim, err *e)
{
    enum { PIECE_BYTES = 4 << 20 };
    cuda    *g = cuda_of(k);
    uint32_t none = 0, error = 0;
    *v = vector_set{NULL, n, dim, 0};
    if (!g) return k->sync(k, e);
    if (n < 1 || n >= (int64_t)1 << 32 || dim < 1 || dim > MAX_DIM)
        return err_set(
            e, ERR_UNUSABLE,
            "search: %lld vectors of dimension %d; below 2^32 of at most %d can be searched on the device",
            (long long)n, dim, MAX_DIM);
    const size_t  pitch = (size_t)(dim + 7) / 8 * 8, bytes = (size_t)n * pitch * sizeof(__half);
    const int64_t piece = PIECE_BYTES / ((int64_t)dim * (int64_t)sizeof(float)) + 1;
    v->rows = k->alloc(k, bytes);
    if (!v->rows)
        return err_set(e, ERR_MEMORY,
                       "search: %zu MiB of device memory are not free for the vectors; faiss keeps them on "
                       "the host",
                       bytes >> 20);
    size_t    mark = k->mark(k);
    uint32_t *d_error = (uint32_t *)cuda_stage(g, &none, sizeof none);
    for (int64_t i = 0; d_error && i < n; i += piece) {
        size_t       inner = k->mark(k);
        int64_t      m = n - i < piece ? n - i : piece;
        const float *some = (const float *)cuda_stage(g, rows + i * dim, (size_t)(m * dim) * sizeof *rows);
        if (!some) break;
        LAUNCH(halve_kernel, dim3(blocks_of(m, WARPS)), dim3(THREADS), 0, g->stream,
               (__half *)v->rows + (size_t)i * pitch, some, (int)m, dim, (int)pitch, d_error);
        if (!cu_launched(k, "vectors")) break;
        k->back(k, inner);
    }
    if (k->failed.code == ERR_NONE) cuda_fetch(g, &error, d_error, sizeof error);
    k->back(k, mark);
    memcpy(&v->error, &error, sizeof error);
    v->error *= 1 + (float)(dim + 2) * 0x1p-23f; /* its own sum was rounded too */
    if (k->failed.code == ERR_NONE) return true;
    cuda_vectors_close(k, v);
    return k->sync(k, e);
}

void cuda_vectors_close(kernels *k, vector_set *v)
{
    if (v->rows) k->free_(k, v->rows);
    v->rows = NULL;
}

struct hit { float score; int64_t id; };

static int by_score(const void *a, const void *b)
{
    const hit *x = (const hit *)a, *y = (const hit *)b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* ids and keys [k] as the device found them, sorted into score and id. */
static bool sort_hits(kernels *k, const uint32_t *found, uint32_t n, float *score, int64_t *id)
{
    hit *h = (hit *)mem_alloc(n * sizeof *h);
    if (!h) {
        kernels_fail(k, ERR_MEMORY, "search: out of memory");
        return false;
    }
    for (uint32_t i = 0; i < n; i++) h[i] = hit{score_of(found[n + i]), found[i]};
    qsort(h, n, sizeof *h, by_score);
    for (uint32_t i = 0; i < n; i++) score[i] = h[i].score, id[i] = h[i].id;
    mem_free(h);
    return true;
}

/* The launches; found [2,k] on the device. */
static bool run_search(cuda *g, const vector_set *v, const float *z, uint32_t k, uint32_t *found)
{
    const int   pitch = (v->dim + 7) / 8 * 8, chunks = blocks_of(v->n, CHUNK), many = BLOCKS_PER_SM * g->n_sms;
    const int   scans = min(many, blocks_of(v->n, WARPS * ROWS)), refines = min(many, blocks_of(v->n, THREADS));
    uint32_t   *key = (uint32_t *)cuda_take(g, (size_t)v->n * sizeof *key);
    uint32_t   *ties = (uint32_t *)cuda_take(g, (size_t)chunks * sizeof *ties);
    selection  *s = (selection *)cuda_take(g, sizeof *s);
    float      *query = (float *)cuda_take(g, (size_t)pitch * sizeof *query);
    uint8_t    *room = cuda_room(g, (size_t)pitch * sizeof *query);
    if (!key || !ties || !s || !query || !room) return false;
    memset(room, 0, (size_t)pitch * sizeof *query);
    memcpy(room, z, (size_t)v->dim * sizeof *z);
    if (!cuda_send(g, query, room, (size_t)pitch * sizeof *query) ||
        !cu_ok(&g->k, cudaMemsetAsync(s, 0, sizeof *s, g->stream), "search"))
        return false;
    LAUNCH(scan_kernel, dim3(scans), dim3(THREADS), pitch * sizeof *query, g->stream, key, s,
           (const __half *)v->rows, query, v->n, pitch);
    for (int pass = 1; pass < PASSES; pass++)
        LAUNCH(refine_kernel, dim3(refines), dim3(THREADS), 0, g->stream, key, s, v->n, k, pass);
    LAUNCH(gather_kernel, dim3(chunks), dim3(THREADS), 0, g->stream, found, found + k, ties, key, s, v->n, k);
    LAUNCH(ties_kernel, dim3(chunks), dim3(THREADS), 0, g->stream, found, found + k, ties, key, s, v->n, k);
    return cu_launched(&g->k, "search");
}

void cuda_search(kernels *k, const vector_set *v, const float *z, int64_t n, float *score, int64_t *id)
{
    cuda *g = cuda_of(k);
    if (!g || n < 1) return;
    if (n > v->n) {
        kernels_fail(k, ERR_BUG, "search: more are wanted than there are");
        return;
    }
    size_t    mark = k->mark(k), bytes = 2 * (size_t)n * sizeof(uint32_t);
    uint32_t *found = (uint32_t *)cuda_take(g, bytes), *host = (uint32_t *)mem_alloc(bytes);
    if (!host) kernels_fail(k, ERR_MEMORY, "search: out of memory");
    if (found && host && run_search(g, v, z, (uint32_t)n, found) && cuda_fetch(g, host, found, bytes))
        sort_hits(k, host, (uint32_t)n, score, id);
    mem_free(host);
    k->back(k, mark);
}
