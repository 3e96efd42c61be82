/* test_banks.cc - conflicts of shared memory banks and uncoalesced accesses to device memory, as the emulation counts
 * them (traffic.cc): planted ones, which prove the counter; then every hot kernel at its natural widths, which prints
 * the table of docs/PERF.md. Counted are the accesses of the source as g++ compiles it: no GPU has been asked. */
#include "kernels/cuda/device.cuh"
#include "tests/simt/child.h"
#include "tests/simt/control.h"
extern "C" {
#include "kernels/kernels.h"
}

#ifdef __SANITIZE_ADDRESS__
enum { COUNTS = 0 }; /* the sanitizer's hooks are in place of ours */
#else
enum { COUNTS = 1 };
#endif

/* -------------------------------------------------------------------------------------------------------- planted */
static __global__ void reads_shared(float *y, int stride)
{
    __shared__ float s[32 * 33];
    for (int i = threadIdx.x; i < 32 * 33; i += 32) s[i] = 0;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x * stride];
}
template <class V> static __global__ void reads_vectors(float *y, int stride)
{
    DYNAMIC_SHARED(V, s);
    V zero = {};
    s[threadIdx.x] = zero;
    s[threadIdx.x + 32] = zero;
    __syncthreads();
    V v = s[threadIdx.x * stride];
    y[threadIdx.x] = v.x;
}
static __global__ void reads_device(float *y, const float *x, int stride)
{
    y[threadIdx.x] = x[threadIdx.x * stride];
}
static __global__ void reads_device_vectors(float *y, const float4 *x)
{
    float4 v = x[threadIdx.x];
    y[threadIdx.x] = v.w;
}
static __global__ void copies(const float *x, int pitch)
{
    DYNAMIC_SHARED(float, s);
    cp_async_16(s + threadIdx.x * pitch, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<0>();
}
static __global__ void loads_matrix(uint32_t *y, int pitch)
{
    DYNAMIC_SHARED(uint16_t, s);
    uint32_t r[4];
    for (int i = threadIdx.x; i < 32 * pitch; i += 32) s[i] = 0;
    __syncthreads();
    ldmatrix_x4(r, s + threadIdx.x * pitch);
    y[threadIdx.x] = r[0] + r[1] + r[2] + r[3];
}
/* Lanes that turn twice and lanes that turn once, then all the same place again: the last is one access. */
static __global__ void leaves_a_loop_early(float *y, const float *x)
{
    float sum = 0;
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i <= (int)threadIdx.x % 2; i++) sum += x[32 * i + threadIdx.x];
        sum = __shfl_xor_sync(0xffffffffu, sum, 1);
    }
    y[threadIdx.x] = sum;
}

static simt_traffic counted(const char *kernel)
{
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    return simt_counted(kernel);
}
/* What kernel, launched before, moved beyond what `least` says. */
static void expect(const char *what, simt_traffic t, uint64_t shared, uint64_t shared_least, uint64_t device,
                   uint64_t device_least)
{
    if (t.shared != shared || t.shared_least != shared_least || t.global != device || t.global_least != device_least)
        fail_msg("%s: shared %lu / %lu, device %lu / %lu", what, (unsigned long)t.shared,
                 (unsigned long)t.shared_least, (unsigned long)t.global, (unsigned long)t.global_least);
}

static void planted_conflicts_are_counted(void **)
{
    if (!COUNTS) skip();
    float *y, *x;
    assert_int_equal(cudaMalloc(&y, 4096 * sizeof *y), cudaSuccess);
    assert_int_equal(cudaMalloc(&x, 4096 * sizeof *x), cudaSuccess);
    assert_int_equal(cudaMemset(x, 0, 4096 * sizeof *x), cudaSuccess);
    const struct { const char *what; int stride; uint64_t wavefronts; } columns[] = {
        {"a row", 1, 1},         {"one word", 0, 1}, {"every second", 2, 2}, {"a column of 32", 32, 32},
        {"a padded column", 33, 1}, {"of 12", 12, 4}};
    for (const auto &c : columns) { /* 33 rows are cleared first */
        simt_count(1);
        LAUNCH(reads_shared, 1, 32, 0, 0, y, c.stride);
        expect(c.what, counted("reads_shared"), 33 + c.wavefronts, 33 + 1, 4, 4);
    }
    simt_count(1);
    LAUNCH((reads_vectors<float2>), 1, 32, 64 * sizeof(float2), 0, y, 1);
    LAUNCH((reads_vectors<float4>), 1, 32, 64 * sizeof(float4), 0, y, 1);
    expect("float2, halves", counted("(reads_vectors<float2>)"), 3 * 2, 3 * 2, 4, 4);
    expect("float4, quarters", counted("(reads_vectors<float4>)"), 3 * 4, 3 * 4, 4, 4);
    simt_count(1);
    LAUNCH((reads_vectors<float2>), 1, 32, 64 * sizeof(float2), 0, y, 2);
    LAUNCH((reads_vectors<float4>), 1, 32, 64 * sizeof(float4), 0, y, 2);
    expect("every second float2", counted("(reads_vectors<float2>)"), 2 * 2 + 4, 3 * 2, 4, 4);
    expect("every second float4", counted("(reads_vectors<float4>)"), 2 * 4 + 8, 3 * 4, 4, 4);

    simt_count(1);
    LAUNCH(reads_device, 1, 32, 0, 0, y, x, 1);
    expect("coalesced", counted("reads_device"), 0, 0, 4 + 4, 4 + 4);
    simt_count(1);
    LAUNCH(reads_device, 1, 32, 0, 0, y, x, 8);
    expect("a sector a lane", counted("reads_device"), 0, 0, 32 + 4, 4 + 4);
    simt_count(1);
    LAUNCH(reads_device, 1, 32, 0, 0, y, x + 1, 1);
    expect("across a sector's end", counted("reads_device"), 0, 0, 5 + 4, 4 + 4);
    simt_count(1);
    LAUNCH(reads_device_vectors, 1, 32, 0, 0, y, (const float4 *)x);
    expect("device float4", counted("reads_device_vectors"), 0, 0, 16 + 4, 16 + 4);
    simt_count(1);
    LAUNCH(leaves_a_loop_early, 1, 32, 0, 0, y, x);
    expect("loops of different lengths", counted("leaves_a_loop_early"), 0, 0, 2 * (4 + 4) + 4, 2 * (4 + 2) + 4);

    simt_count(1);
    LAUNCH(copies, 1, 32, 32 * 64, 0, x, 4);
    expect("cp.async", counted("copies"), 4, 4, 16, 16);
    simt_count(1);
    LAUNCH(copies, 1, 32, 32 * 64, 0, x, 16);
    expect("cp.async to every fourth chunk", counted("copies"), 4 * 4, 4, 16, 16);
    for (int padded = 0; padded < 2; padded++) { /* 2-byte stores of 32 rows: one wavefront each */
        int pitch = padded ? 72 : 64;
        simt_count(1);
        LAUNCH(loads_matrix, 1, 32, 32 * 72 * 2, 0, (uint32_t *)y, pitch);
        expect("ldmatrix", counted("loads_matrix"), (uint64_t)pitch + (padded ? 4 : 32), (uint64_t)pitch + 4, 4, 4);
    }
    simt_count(0);
    LAUNCH(reads_shared, 1, 32, 0, 0, y, 32);
    assert_int_equal(counted("reads_shared").global, 0); /* not asked */
    cudaFree(y), cudaFree(x);
}

/* ---------------------------------------------------------------------------------------------------- the kernels */
struct bench {
    kernels *k;
    float   *host;  /* numbers */
    act     *x, *y; /* N_ACTS each */
};
enum { N_HOST = 1 << 20, N_ACTS = 1 << 20 };

static weight matrix(bench *b, int64_t rows, int64_t cols)
{
    weight w = {};
    err    e = {};
    tensor t = {};
    t.name = "random", t.file = "test", t.type = DTYPE_F32, t.n_dims = rows == 1 ? 1 : 2;
    t.dim[0] = rows == 1 ? cols : rows, t.dim[1] = cols;
    t.count = rows * cols, t.bytes = (size_t)t.count * sizeof(float), t.data = b->host;
    assert_true(t.count <= N_HOST);
    if (!b->k->weight_open(b->k, &w, &t, rows, cols, &e)) fail_msg("%s", e.text);
    return w;
}

static void product(bench *b, int T, int N, int K, bool biased)
{
    weight w = matrix(b, N, K), bias = matrix(b, 1, N);
    simt_count(1);
    b->k->linear(b->k, b->y, N, b->x, K, T, &w, biased ? &bias : NULL, UNIT_NONE, biased ? b->y : NULL);
    assert_true(b->k->sync(b->k, &b->k->failed));
    b->k->weight_close(b->k, &w), b->k->weight_close(b->k, &bias);
}
static void attention(bench *b, int n_q, int prefix, int n, int heads, int kv_heads, int dim)
{
    attend_args a = {};
    int         kv = kv_heads * dim;
    a.n_heads = heads, a.n_kv_heads = kv_heads, a.head_dim = dim, a.scale = 0.1f;
    a.q = b->x, a.q_stride = heads * dim, a.n_q = n_q, a.out = b->y, a.out_stride = heads * dim;
    a.span[0] = {b->x, act_at(b->k, b->x, 64), prefix, kv};
    a.span[1] = {act_at(b->k, b->x, 128), act_at(b->k, b->x, 192), n, kv};
    a.mask = heads == kv_heads ? ATTEND_ALL : ATTEND_CAUSAL;
    simt_count(1);
    b->k->attend(b->k, &a, 1);
}
static void head(bench *b, int R, int V, int K)
{
    weight  w = matrix(b, V, K);
    int32_t row[64], token[64];
    float   logit[64], lse[64];
    for (int i = 0; i < R; i++) row[i] = i, token[i] = i;
    simt_count(1);
    b->k->score(b->k, logit, lse, b->x, R, &w, row, token, R);
    b->k->weight_close(b->k, &w);
}
static void norm(bench *b, int T, int D, bool rms)
{
    weight gain = matrix(b, 1, D);
    simt_count(1);
    if (rms) b->k->rmsnorm(b->k, b->y, b->x, T, D, &gain, 1e-6f);
    else b->k->layernorm(b->k, b->y, b->x, T, D, &gain, &gain, 1e-6f);
    assert_true(b->k->sync(b->k, &b->k->failed));
    b->k->weight_close(b->k, &gain);
}
static void rotate(bench *b, int T, int heads, int dim, bool interleaved)
{
    size_t       mark = b->k->mark(b->k);
    const float *angle = b->k->upload(b->k, b->host, (size_t)(T * dim));
    simt_count(1);
    b->k->rope(b->k, b->x, heads * dim, T, heads, dim, angle, angle, dim / 2, interleaved);
    b->k->back(b->k, mark);
}
static void gather(bench *b, int T, int D)
{
    weight  table = matrix(b, 64, D);
    int32_t id[64];
    for (int i = 0; i < T; i++) id[i] = 63 - i;
    simt_count(1);
    b->k->gather(b->k, b->y, &table, id, T, D);
    assert_true(b->k->sync(b->k, &b->k->failed));
    b->k->weight_close(b->k, &table);
}
static void search(bench *b, int64_t n, int dim)
{
    vector_set v;
    err        e = {};
    float      score[2];
    int64_t    id[2];
    assert_true(b->k->vectors_open(b->k, &v, b->host, n, dim, &e));
    simt_count(1);
    b->k->search(b->k, &v, b->host, 2, score, id);
    b->k->vectors_close(b->k, &v);
}

/* Known, and left:
 * EIGHT_F32     a lane has eight neighbours; as f32 these are two accesses of 16 bytes, lanes 32 apart. Each touches
 *               the sectors of both, and the second finds them in the first cache
 * CHUNKS_OF_80  160 bytes a row: where lanes that copy together go on in the next row, two may meet in a bank */
enum { EIGHT_F32 = 200, CHUNKS_OF_80 = 111 };

/* Hundredths, rounded up: a row that has no such accesses is 0. */
static int ratio(uint64_t is, uint64_t least) { return least ? (int)((100 * is + least - 1) / least) : 0; }

static int n_wrong;

/* shared, device: the ratio times 100 that is expected. */
static void row(bench *b, const char *what, const char *kernel, int shared, int device)
{
    if (!b->k->sync(b->k, &b->k->failed)) fail_msg("%s: %s", what, b->k->failed.text);
    simt_traffic t = simt_counted(kernel);
    int          s = ratio(t.shared, t.shared_least), d = ratio(t.global, t.global_least);
    printf("| %s | %lu / %lu | %lu / %lu |\n", what, (unsigned long)t.shared, (unsigned long)t.shared_least,
           (unsigned long)t.global, (unsigned long)t.global_least);
    if (t.global == 0) fail_msg("%s: nothing was counted", what);
    if (abs(s - shared) <= 2 && abs(d - device) <= 2) return; /* another g++ may keep more in registers, or less */
    print_error("%s: shared %d %%, device %d %% of the least; %d, %d were expected\n", what, s, d, shared, device);
    n_wrong++;
}

static void kernels_have_the_conflicts_that_are_known(void **)
{
    if (!COUNTS) skip();
    bench           b = {};
    err             e = {};
    kernels_options o = {};
    o.device = "cuda:0", o.products = PRECISION_BF16, o.own_products = true, o.scratch_bytes = (size_t)16 << 20;
    assert_true(kernels_open(&b.k, &o, &e));
    b.host = (float *)malloc(N_HOST * sizeof *b.host);
    for (int i = 0; i < N_HOST; i++) b.host[i] = (float)(i * 2654435761u >> 8) * 0x1p-23f - 1;
    b.x = b.k->alloc(b.k, N_ACTS * 2), b.y = b.k->alloc(b.k, N_ACTS * 2);
    b.k->put(b.k, b.x, b.host, N_ACTS), b.k->put(b.k, b.y, b.host, N_ACTS);

    kernels *bf16_table = b.k;
    act     *x = b.x, *y = b.y;
    b.k = kernels_exact(b.k); /* the retriever's, in f32: the same memory as half as many numbers */
    b.x = b.k->alloc(b.k, N_ACTS * 4), b.y = b.k->alloc(b.k, N_ACTS * 4);
    b.k->put(b.k, b.x, b.host, N_ACTS), b.k->put(b.k, b.y, b.host, N_ACTS);
    /* its end: a lane writes its four neighbours one by one */
    product(&b, 65, 128, 768, true), row(&b, "f32: product", "kernel", 106, 163);
    attention(&b, 65, 0, 65, 2, 2, 64), row(&b, "f32: attention, 64", "p.run", 100, 100);
    norm(&b, 4, 768, false), row(&b, "f32: LayerNorm, 768", "kernel", 100, EIGHT_F32);
    head(&b, 10, 256, 1024), row(&b, "f32: head", "p.run", 100, 100);
    b.k->free_(b.k, b.x), b.k->free_(b.k, b.y);
    b.k = bf16_table, b.x = x, b.y = y;

    /* what is over: the end of a tile, whose sums a lane reads from shared memory eight at a time */
    product(&b, 1, 256, 3584, false), row(&b, "product, 16 x 32, 1 row", "kernel", 100, 100);
    product(&b, 10, 256, 3584, true), row(&b, "product, 16 x 32, 10 rows, bias and residual", "kernel", 101, 101);
    product(&b, 64, 128, 3584, true), row(&b, "product, 64 x 32", "kernel", 101, 101);
    product(&b, 128, 64, 3584, true), row(&b, "product, 64 x 64", "kernel", 101, 101);
    product(&b, 256, 256, 640, true), row(&b, "product, 128 x 128, K 640", "kernel", 105, 107);
    attention(&b, 130, 160, 130, 7, 1, 128), row(&b, "attention, many rows, 128", "p.run", 100, 100);
    attention(&b, 324, 0, 324, 1, 1, 80), row(&b, "attention, many rows, 80", "p.run", CHUNKS_OF_80, 100);
    attention(&b, 130, 0, 130, 3, 1, 64), row(&b, "attention, many rows, 64", "p.run", 100, 100);
    attention(&b, 1, 511, 1, 7, 1, 128), row(&b, "attention, decode, 128", "p.run", 100, 101);
    attention(&b, 1, 511, 1, 7, 1, 64), row(&b, "attention, decode, 64", "p.run", 100, 101);
    head(&b, 10, 256, 3584), row(&b, "head, up to 16 rows", "p.run", 102, 101);
    head(&b, 64, 256, 1024), row(&b, "head, 64 rows, K 1024", "p.run", 107, 101);
    norm(&b, 4, 3584, true), row(&b, "RMSNorm, 3584", "kernel", 100, 140); /* the gain is f32 */
    norm(&b, 4, 1280, false), row(&b, "LayerNorm, 1280", "kernel", 100, 150);
    simt_count(1), b.k->glu(b.k, b.y, b.y, b.x, 18944, 4, 18944, UNIT_SILU);
    row(&b, "gate x up, 18944", "kernel", 0, 100);
    /* angles are f32; of neighbours a lane has 16 */
    rotate(&b, 4, 28, 128, false), row(&b, "rotation, halves, 28 heads of 128", "kernel", 0, 120);
    rotate(&b, 4, 16, 64, true), row(&b, "rotation, neighbours, 16 heads of 64", "kernel", 0, 200);
    gather(&b, 16, 3584), row(&b, "gather, 3584", "kernel", 0, 100);
    simt_count(1), b.k->add(b.k, b.y, b.x, 1 << 16), row(&b, "add", "add_kernel<bf16>", 0, 100);
    simt_count(1), b.k->mean_rows(b.k, b.y, b.x, 16, 768), row(&b, "mean of rows, 768", "mean_kernel<bf16>", 0, 100);
    simt_count(1), b.k->put(b.k, b.y, b.host, 1 << 16), row(&b, "f32 to bf16", "kernel", 0, 167);
    search(&b, 1300, 768), row(&b, "search, scan of 768", "scan_kernel", 147, 100); /* a lane has 8 of the query */
    row(&b, "search, refine", "refine_kernel", 120, 100);

    simt_count(0);
    b.k->free_(b.k, b.x), b.k->free_(b.k, b.y);
    b.k->close(b.k);
    free(b.host);
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const CMUnitTest tests[] = {cmocka_unit_test(planted_conflicts_are_counted),
                                cmocka_unit_test(kernels_have_the_conflicts_that_are_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
