/* bench_gpu.c - every operation of a device by itself, at the sizes of Qwen2-VL-7B: time, TFLOP/s and GB/s,
 * each also as a share of the ceiling measured in the same run: of products a large one by cuBLAS, of memory a
 * copy.
 *     bench_gpu [--device cuda:0] [--repeats 20] [--tiny]
 *
 * A line is the median of the repeats; a repeat is as many calls as take some 10 ms, one behind the other, so
 * that launches are hidden as in a forward pass. FLOPs are those that the operation counts. Bytes are what it
 * must read and write at least. Operands come in turn from more memory than any cache holds. A product has a second
 * line, by our own kernel: the first is cuBLASLt's where the device's name has it and it took the shape. A step of
 * decoding has only the second. --tiny: sizes that an emulated device can do, to see that it runs; its numbers mean
 * nothing. Whole cases: bench/bench_reader.c; both together: bench/gpu.sh, `make bench-gpu`. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/kernels.h"

enum { MAX_REPEATS = 200, MAX_WEIGHTS = 64 };

typedef struct {
    kernels *k;
    bool     tiny, own; /* own: products as in a step of decoding, which is by our own kernels */
    int      repeats;
    act     *pool; /* operands are taken from it in turn */
    size_t   pool_n, at;
    double   copy_bytes_s, product_flops_s; /* the ceilings; 0: not measured yet */
    weight   w[MAX_WEIGHTS]; /* of the products under way, in turn */
    int      n_w, turn;
    weight   vector, angles; /* [1,3584] and [1,host_n / 4], f32 */
    float   *host; /* random numbers */
    size_t   host_n;
} bench;

/* One operation at one size. What the letters mean is its own; bytes: at least, of one call. */
typedef struct { int T, N, K, heads, kv_heads, dim, n_seq; } shape;
typedef struct {
    const char *name;
    void (*run)(bench *b, const shape *s);
    double (*bytes)(const bench *b, const shape *s);
    shape s;
    bool  weights; /* wants matrices [N,K] */
} operation;

/* ---- operands ---- */

static act *operand(bench *b, size_t n)
{
    if (n > b->pool_n) return NULL;
    if (b->at + n > b->pool_n) b->at = 0;
    act *p = act_at(b->k, b->pool, b->at);
    b->at += (n + 127) / 128 * 128;
    return p;
}

static const weight *next_weight(bench *b) { return &b->w[b->turn++ % b->n_w]; }

static void close_weights(bench *b)
{
    while (b->n_w > 0) b->k->weight_close(b->k, &b->w[--b->n_w]);
}

/* Matrices [N,K] of random bf16, together larger than a cache of 128 MB. */
static bool open_weights(bench *b, int64_t N, int64_t K, err *e)
{
    size_t    n = (size_t)(N * K), bytes = 2 * n;
    int       wanted = b->tiny ? 2 : (int)(((size_t)256 << 20) / bytes) + 2;
    uint16_t *data = mem_zalloc(n, sizeof *data);
    if (!data) return err_set(e, ERR_MEMORY, "out of memory for a matrix");
    for (size_t i = 0; i < n; i++) data[i] = bf16_from_f32(0.05f * b->host[i % b->host_n]);
    tensor t = {.name = "random",
                .file = "bench",
                .type = DTYPE_BF16,
                .n_dims = 2,
                .dim = {N, K},
                .count = N * K,
                .bytes = bytes,
                .data = data};
    bool   ok = true;
    close_weights(b);
    while (ok && b->n_w < (wanted < MAX_WEIGHTS ? wanted : MAX_WEIGHTS)) {
        ok = b->k->weight_open(b->k, &b->w[b->n_w], &t, N, K, e);
        b->n_w += ok;
    }
    free(data);
    return ok;
}

/* ---- operations ---- */

static double act_bytes(const bench *b, double n) { return n * b->k->act_bytes; }

static void run_copy(bench *b, const shape *s)
{
    size_t n = (size_t)s->T * (size_t)s->K;
    act   *x = operand(b, n), *y = operand(b, n);
    b->k->copy(b->k, y, x, n);
}
/* The keys and values of a step of decoding to their T candidates, a row of K each. */
static void run_copies(bench *b, const shape *s)
{
    act_copy c[64];
    int      n = 2 * s->T;
    size_t   K = (size_t)s->K;
    act     *x = operand(b, (size_t)n * K), *y = operand(b, (size_t)n * K);
    for (int i = 0; i < n; i++) c[i] = (act_copy){act_at(b->k, y, (size_t)i * K), act_at(b->k, x, (size_t)i * K), K};
    b->k->copies(b->k, c, n);
}
static double copies_bytes(const bench *b, const shape *s) { return act_bytes(b, 4.0 * s->T * s->K); }
static double read_and_write(const bench *b, const shape *s) { return act_bytes(b, 2.0 * s->T * s->K); }

static void run_linear(bench *b, const shape *s)
{
    act *x = operand(b, (size_t)s->T * (size_t)s->K), *y = operand(b, (size_t)s->T * (size_t)s->N);
    b->k->decoding = b->own;
    b->k->linear(b->k, y, s->N, x, s->K, s->T, next_weight(b), NULL, UNIT_NONE, NULL);
    b->k->decoding = false;
}
static void run_biased(bench *b, const shape *s)
{
    act *x = operand(b, (size_t)s->T * (size_t)s->K), *y = operand(b, (size_t)s->T * (size_t)s->N);
    b->k->decoding = b->own;
    b->k->linear(b->k, y, s->N, x, s->K, s->T, next_weight(b), &b->vector, UNIT_NONE, y);
    b->k->decoding = false;
}
static double linear_bytes(const bench *b, const shape *s)
{
    return act_bytes(b, (double)s->T * s->K + (double)s->T * s->N + (double)s->N * s->K);
}

static void run_rmsnorm(bench *b, const shape *s)
{
    size_t n = (size_t)s->T * (size_t)s->K;
    act   *x = operand(b, n), *y = operand(b, n);
    b->k->rmsnorm(b->k, y, x, s->T, s->K, &b->vector, 1e-6f);
}
static void run_layernorm(bench *b, const shape *s)
{
    size_t n = (size_t)s->T * (size_t)s->K;
    act   *x = operand(b, n), *y = operand(b, n);
    b->k->layernorm(b->k, y, x, s->T, s->K, &b->vector, &b->vector, 1e-6f);
}

static void run_glu(bench *b, const shape *s)
{
    size_t n = (size_t)s->T * (size_t)s->K;
    act   *gate = operand(b, n), *up = operand(b, n);
    b->k->glu(b->k, gate, gate, up, s->K, s->T, s->K, UNIT_SILU);
}
static void run_add(bench *b, const shape *s)
{
    size_t n = (size_t)s->T * (size_t)s->K;
    act   *x = operand(b, n), *y = operand(b, n);
    b->k->add(b->k, y, x, n);
}
static double three_operands(const bench *b, const shape *s) { return act_bytes(b, 3.0 * s->T * s->K); }

static void run_rope(bench *b, const shape *s)
{
    const float *angle = b->angles.data; /* on the device already, as for all layers but the first */
    act         *x = operand(b, (size_t)s->T * (size_t)(s->heads * s->dim));
    b->k->rope(b->k, x, s->heads * s->dim, s->T, s->heads, s->dim, angle, angle, s->dim / 2, false);
}
static double rope_bytes(const bench *b, const shape *s)
{
    return act_bytes(b, 2.0 * s->T * s->heads * s->dim) + 4.0 * s->T * s->dim;
}

static void run_gather(bench *b, const shape *s)
{
    int32_t *id = mem_zalloc((size_t)s->T, sizeof *id);
    for (int i = 0; id && i < s->T; i++) id[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)s->N);
    if (id) b->k->gather(b->k, operand(b, (size_t)s->T * (size_t)s->K), next_weight(b), id, s->T, s->K);
    free(id);
}

/* n_seq sequences of T queries over T + K keys, of which K are a prefix; K 0 and equal heads: a picture, every
 * key seen. */
static void run_attend(bench *b, const shape *s)
{
    attend_args a[64];
    int         Q = s->heads * s->dim, KV = s->kv_heads * s->dim;
    for (int i = 0; i < s->n_seq; i++) {
        act *k0 = operand(b, (size_t)s->K * (size_t)KV), *v0 = operand(b, (size_t)s->K * (size_t)KV);
        act *k1 = operand(b, (size_t)s->T * (size_t)KV), *v1 = operand(b, (size_t)s->T * (size_t)KV);
        act *q = operand(b, (size_t)s->T * (size_t)Q), *out = operand(b, (size_t)s->T * (size_t)Q);
        a[i] = (attend_args){.n_heads = s->heads,
                             .n_kv_heads = s->kv_heads,
                             .head_dim = s->dim,
                             .scale = 1 / sqrtf((float)s->dim),
                             .q = q,
                             .q_stride = Q,
                             .n_q = s->T,
                             .out = out,
                             .out_stride = Q,
                             .span = {{k0, v0, s->K, KV}, {k1, v1, s->T, KV}},
                             .mask = s->heads == s->kv_heads ? ATTEND_ALL : ATTEND_CAUSAL};
    }
    b->k->attend(b->k, a, s->n_seq);
}
static double attend_bytes(const bench *b, const shape *s)
{
    return s->n_seq * act_bytes(b, 2.0 * s->T * s->heads * s->dim + 2.0 * (s->T + s->K) * s->kv_heads * s->dim);
}

static void run_score(bench *b, const shape *s)
{
    int32_t row[64], token[64];
    float   logit[64], lse[64];
    for (int i = 0; i < s->T; i++) {
        row[i] = i;
        token[i] = i % s->N;
    }
    b->k->score(b->k, logit, lse, operand(b, (size_t)s->T * (size_t)s->K), s->T, next_weight(b), row, token, s->T);
}
static double score_bytes(const bench *b, const shape *s)
{
    return act_bytes(b, (double)s->T * s->K + (double)s->N * s->K);
}

/* A step of an open answer: T branches, greedy, with room for two tokens that end it. */
static void run_step(bench *b, const shape *s)
{
    enum { TOP = 3 };
    int32_t      token[TOP], likeliest[64];
    float        w[64];
    double       p[TOP], each[TOP * 64];
    mixture_args m = {
        .n = 1, .K = s->T, .top = TOP, .w = w, .token = token, .p = p, .each = each, .likeliest = likeliest};
    for (int i = 0; i < s->T; i++) w[i] = 1.0f / (float)s->T;
    b->k->mixture(b->k, &m, operand(b, (size_t)s->T * (size_t)s->K), next_weight(b));
}

/* Qwen2-VL-7B: D 3584, 28 heads of 128 (4 for keys), F 18944, V 152064; tower E 1280, 16 heads of 80, 5120
 * wide. A cold case of design.md, K 10 and 252 px, is some 1,400 patches and 1,600 tokens of prefixes; 4,096
 * rows fill a pass. */
static const operation FULL[] = {
    {"copy, 4096 x 18944", run_copy, read_and_write, {.T = 4096, .K = 18944}, false},
    {"product 4096 x 3584 x 3584 (q, o)", run_linear, linear_bytes, {.T = 4096, .N = 3584, .K = 3584}, true},
    {"product 4096 x 512 x 3584 (k, v)", run_linear, linear_bytes, {.T = 4096, .N = 512, .K = 3584}, true},
    {"product 4096 x 18944 x 3584 (gate, up)", run_linear, linear_bytes, {.T = 4096, .N = 18944, .K = 3584}, true},
    {"product 4096 x 3584 x 18944 (down)", run_linear, linear_bytes, {.T = 4096, .N = 3584, .K = 18944}, true},
    {"product 1024 x 18944 x 3584", run_linear, linear_bytes, {.T = 1024, .N = 18944, .K = 3584}, true},
    {"product 256 x 18944 x 3584", run_linear, linear_bytes, {.T = 256, .N = 18944, .K = 3584}, true},
    {"product 4096 x 3840 x 1280 (tower qkv)", run_linear, linear_bytes, {.T = 4096, .N = 3840, .K = 1280}, true},
    {"product 4096 x 5120 x 1280 (tower fc1)", run_linear, linear_bytes, {.T = 4096, .N = 5120, .K = 1280}, true},
    {"product 4096 x 1280 x 5120 (tower fc2)", run_linear, linear_bytes, {.T = 4096, .N = 1280, .K = 5120}, true},
    {"the same + bias + residual", run_biased, linear_bytes, {.T = 4096, .N = 1280, .K = 5120}, true},
    {"product 4096 x 3584 x 3584 + bias + residual", run_biased, linear_bytes, {.T = 4096, .N = 3584, .K = 3584},
     true},
    {"decode product 1 x 18944 x 3584", run_linear, linear_bytes, {.T = 1, .N = 18944, .K = 3584}, true},
    {"decode product 1 x 3584 x 18944", run_linear, linear_bytes, {.T = 1, .N = 3584, .K = 18944}, true},
    {"decode product 10 x 18944 x 3584", run_linear, linear_bytes, {.T = 10, .N = 18944, .K = 3584}, true},
    {"attention, prefill 1024, 28/4 heads of 128", run_attend, attend_bytes,
     {.T = 1024, .heads = 28, .kv_heads = 4, .dim = 128, .n_seq = 1}, false},
    {"attention, prefill 10 x 160", run_attend, attend_bytes,
     {.T = 160, .heads = 28, .kv_heads = 4, .dim = 128, .n_seq = 10}, false},
    {"attention, 10 x 130 queries behind 160 keys", run_attend, attend_bytes,
     {.T = 130, .K = 160, .heads = 28, .kv_heads = 4, .dim = 128, .n_seq = 10}, false},
    {"attention, tower, 1024 patches, 16 heads of 80", run_attend, attend_bytes,
     {.T = 1024, .heads = 16, .kv_heads = 16, .dim = 80, .n_seq = 1}, false},
    {"attention, tower, 11 x 324 patches", run_attend, attend_bytes,
     {.T = 324, .heads = 16, .kv_heads = 16, .dim = 80, .n_seq = 11}, false},
    {"attention, decode, 10 x 1 query, 2048 keys", run_attend, attend_bytes,
     {.T = 1, .K = 2047, .heads = 28, .kv_heads = 4, .dim = 128, .n_seq = 10}, false},
    {"rmsnorm 4096 x 3584", run_rmsnorm, read_and_write, {.T = 4096, .K = 3584}, false},
    {"layernorm 4096 x 1280", run_layernorm, read_and_write, {.T = 4096, .K = 1280}, false},
    {"glu 4096 x 18944", run_glu, three_operands, {.T = 4096, .K = 18944}, false},
    {"add 4096 x 3584", run_add, three_operands, {.T = 4096, .K = 3584}, false},
    {"copies, keys and values of 10 candidates", run_copies, copies_bytes, {.T = 10, .K = 512}, false},
    {"rope 4096 x 28 heads of 128", run_rope, rope_bytes, {.T = 4096, .heads = 28, .dim = 128}, false},
    {"gather 4096 x 3584 of 152064", run_gather, read_and_write, {.T = 4096, .N = 152064, .K = 3584}, true},
    {"score 10 rows, vocabulary 152064", run_score, score_bytes, {.T = 10, .N = 152064, .K = 3584}, true},
    {"step of 10 branches, vocabulary 152064", run_step, score_bytes, {.T = 10, .N = 152064, .K = 3584}, true},
};
static const operation TINY[] = {
    {"copy", run_copy, read_and_write, {.T = 5, .K = 64}, false},
    {"product", run_linear, linear_bytes, {.T = 5, .N = 64, .K = 64}, true},
    {"product + bias + residual", run_biased, linear_bytes, {.T = 5, .N = 64, .K = 64}, true},
    {"decode product", run_linear, linear_bytes, {.T = 1, .N = 64, .K = 64}, true},
    {"attention, prefill", run_attend, attend_bytes,
     {.T = 9, .heads = 4, .kv_heads = 2, .dim = 64, .n_seq = 1}, false},
    {"attention behind a prefix", run_attend, attend_bytes,
     {.T = 3, .K = 11, .heads = 4, .kv_heads = 2, .dim = 64, .n_seq = 2}, false},
    {"attention, tower", run_attend, attend_bytes,
     {.T = 16, .heads = 2, .kv_heads = 2, .dim = 80, .n_seq = 2}, false},
    {"rmsnorm", run_rmsnorm, read_and_write, {.T = 5, .K = 64}, false},
    {"layernorm", run_layernorm, read_and_write, {.T = 5, .K = 64}, false},
    {"glu", run_glu, three_operands, {.T = 5, .K = 64}, false},
    {"add", run_add, three_operands, {.T = 5, .K = 64}, false},
    {"copies", run_copies, copies_bytes, {.T = 3, .K = 64}, false},
    {"rope", run_rope, rope_bytes, {.T = 5, .heads = 2, .dim = 32}, false},
    {"gather", run_gather, read_and_write, {.T = 5, .N = 300, .K = 64}, true},
    {"score", run_score, score_bytes, {.T = 3, .N = 300, .K = 64}, true},
    {"step", run_step, score_bytes, {.T = 3, .N = 300, .K = 64}, true},
};

/* ---- timing ---- */

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Seconds of one call, the median; and its FLOPs. */
static bool time_calls(bench *b, void (*call)(bench *b, const void *arg), const void *arg, double *seconds,
                       double *flops, err *e)
{
    double   s[MAX_REPEATS];
    uint64_t before = b->k->flops;
    call(b, arg); /* warm-up, and a first guess at its time */
    *flops = (double)(b->k->flops - before);
    if (!b->k->sync(b->k, e)) return false;
    double start = clock_ms();
    call(b, arg);
    if (!b->k->sync(b->k, e)) return false;
    double one = clock_ms() - start;
    int    calls = b->tiny ? 1 : one > 0 ? 1 + (int)fmin(10 / one, 1000) : 1000;
    for (int i = 0; i < b->repeats; i++) {
        start = clock_ms();
        for (int j = 0; j < calls; j++) call(b, arg);
        if (!b->k->sync(b->k, e)) return false;
        s[i] = (clock_ms() - start) / 1e3 / calls;
    }
    qsort(s, (size_t)b->repeats, sizeof *s, compare);
    *seconds = s[b->repeats / 2];
    return true;
}

static void call_operation(bench *b, const void *arg)
{
    const operation *o = arg;
    o->run(b, &o->s);
}

static bool run_operation(bench *b, const operation *o, err *e)
{
    double seconds, flops, bytes = o->bytes(b, &o->s);
    if (o->weights && !open_weights(b, o->s.N, o->s.K, e)) return false;
    if (!time_calls(b, call_operation, o, &seconds, &flops, e)) return false;
    close_weights(b);
    if (!b->copy_bytes_s) b->copy_bytes_s = bytes / seconds; /* the first of the list */
    printf("%-48s %10.1f us", b->own ? "  by our own kernel" : o->name, seconds * 1e6);
    if (flops > 0) printf(" %8.2f TFLOP/s", flops / seconds / 1e12);
    else printf(" %8s        ", "");
    if (flops > 0 && b->product_flops_s) printf(" %5.1f %%", 100 * flops / seconds / b->product_flops_s);
    else printf(" %5s  ", "");
    printf(" %8.1f GB/s %5.1f %%\n", bytes / seconds / 1e9, 100 * bytes / seconds / b->copy_bytes_s);
    fflush(stdout);
    return true;
}

/* ---- the ceiling of products: cuBLAS, if this machine has it ---- */

/* What is used of its interface, which has not changed since version 11; the enumerators' numbers are
 * cublas_api.h's and library_types.h's. Loaded by name, since nothing else here needs it. */
typedef struct {
    int (*create)(void **handle);
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                int compute, int algo);
    int (*destroy)(void *handle);
    int (*wait)(void); /* the driver's */
    void *handle;
    int   status;
} cublas;
enum { BLAS_N = 0, BLAS_T = 1, R_16BF = 14, COMPUTE_32F = 68, GEMM_DEFAULT = -1, LARGE = 8192 };

static void *first_library(const char *const *names)
{
    void *h = NULL;
    for (int i = 0; !h && names[i]; i++) h = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return h;
}

static bool load_cublas(cublas *c)
{
    static const char *const blas[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so", NULL};
    static const char *const driver[] = {"libcuda.so.1", NULL};
    void *lib = first_library(blas), *cuda = first_library(driver);
    if (!lib || !cuda) return false;
    /* POSIX: a data pointer is copied to a function pointer by way of its bytes */
    *(void **)&c->create = dlsym(lib, "cublasCreate_v2");
    *(void **)&c->gemm = dlsym(lib, "cublasGemmEx");
    *(void **)&c->destroy = dlsym(lib, "cublasDestroy_v2");
    *(void **)&c->wait = dlsym(cuda, "cuCtxSynchronize");
    return c->create && c->gemm && c->destroy && c->wait && c->create(&c->handle) == 0;
}

static bool measure_products(bench *b, err *e)
{
    const float one = 1, zero = 0;
    double      s[MAX_REPEATS];
    size_t      n = (size_t)LARGE * LARGE;
    cublas      c = {0};
    if (b->tiny || b->k->act_bytes != 2 || !load_cublas(&c)) {
        printf("no cuBLAS for bf16 here: no ceiling of products, shares of it are not shown\n");
        return true;
    }
    act *x = operand(b, n), *w = operand(b, n), *y = operand(b, n);
    if (!b->k->sync(b->k, e)) return false;
    for (int i = -2; i < b->repeats && c.status == 0; i++) {
        double start = clock_ms();
        for (int j = 0; j < 5 && c.status == 0; j++)
            c.status = c.gemm(c.handle, BLAS_T, BLAS_N, LARGE, LARGE, LARGE, &one, w, R_16BF, LARGE, x, R_16BF,
                              LARGE, &zero, y, R_16BF, LARGE, COMPUTE_32F, GEMM_DEFAULT);
        if (c.status == 0) c.status = c.wait();
        if (i >= 0) s[i] = (clock_ms() - start) / 5e3;
    }
    c.destroy(c.handle);
    if (c.status != 0) return err_set(e, ERR_GPU, "cuBLAS failed with status %d", c.status);
    qsort(s, (size_t)b->repeats, sizeof *s, compare);
    b->product_flops_s = 2.0 * LARGE * LARGE * LARGE / s[b->repeats / 2];
    printf("%-48s %10.1f us %8.2f TFLOP/s 100.0 %%\n", "cuBLAS, bf16, 8192 cubed: the ceiling",
           s[b->repeats / 2] * 1e6, b->product_flops_s / 1e12);
    return true;
}

/* ---- */

static bool open_vector(bench *b, weight *w, int64_t n, err *e)
{
    tensor t = {.name = "random", .file = "bench", .type = DTYPE_F32, .n_dims = 1, .dim = {n}, .count = n,
                .bytes = (size_t)n * sizeof(float), .data = b->host};
    return b->k->weight_open(b->k, w, &t, 1, n, e);
}

static bool bench_open(bench *b, const char *device, err *e)
{
    kernels_options o = {.device = device, .products = PRECISION_BF16};
    if (!kernels_open(&b->k, &o, e)) return false;
    b->pool_n = b->tiny ? (size_t)1 << 17 : (size_t)1 << 29;
    b->host_n = b->tiny ? (size_t)1 << 12 : (size_t)1 << 20;
    b->host = mem_zalloc(b->host_n, sizeof *b->host);
    b->pool = b->k->alloc(b->k, b->pool_n * (size_t)b->k->act_bytes);
    if (!b->host || !b->pool)
        return err_set(e, ERR_MEMORY, "%s: no memory for %zu activations", b->k->name, b->pool_n);
    uint32_t seed = 1;
    for (size_t i = 0; i < b->host_n; i++)
        b->host[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) / 8388608.0f - 1;
    b->k->put(b->k, b->pool, b->host, b->host_n);
    for (size_t i = b->host_n; i < b->pool_n; i += b->host_n)
        b->k->copy(b->k, act_at(b->k, b->pool, i), b->pool, b->host_n);
    return open_vector(b, &b->vector, 3584, e) && open_vector(b, &b->angles, (int64_t)b->host_n / 4, e) &&
           b->k->sync(b->k, e);
}

static void bench_close(bench *b)
{
    if (b->k) {
        close_weights(b);
        b->k->weight_close(b->k, &b->vector);
        b->k->weight_close(b->k, &b->angles);
        b->k->free_(b->k, b->pool);
        b->k->close(b->k);
    }
    free(b->host);
}

int main(int argc, char **argv)
{
    bench       b = {.repeats = 20};
    const char *device = "auto";
    err         e = {0};
    bool        usage = false;
    for (int i = 1; i < argc && !usage; i++) {
        if (strcmp(argv[i], "--tiny") == 0) b.tiny = true;
        else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc) device = argv[++i];
        else if (strcmp(argv[i], "--repeats") == 0 && i + 1 < argc) b.repeats = atoi(argv[++i]);
        else usage = true;
    }
    if (usage || b.repeats < 1 || b.repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: bench_gpu [--device NAME] [--repeats N] [--tiny]\n");
        return 2;
    }
    bool ok = bench_open(&b, device, &e);
    if (ok) {
        printf("%s\n", b.k->name);
        ok = measure_products(&b, &e);
    }
    const operation *o = b.tiny ? TINY : FULL;
    size_t           n = b.tiny ? sizeof TINY / sizeof *TINY : sizeof FULL / sizeof *FULL;
    for (size_t i = 0; ok && i < n; i++) {
        ok = run_operation(&b, &o[i], &e);
        b.own = true;
        if (ok && (o[i].run == run_linear || o[i].run == run_biased)) ok = run_operation(&b, &o[i], &e);
        b.own = false;
    }
    if (!ok) fprintf(stderr, "bench_gpu: %s\n", e.text);
    bench_close(&b);
    return ok ? 0 : 1;
}
