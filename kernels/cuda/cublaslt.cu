/* cublaslt.cu - large products by cuBLASLt, whose wgmma reaches more of a Hopper than our mma.sync.
 * Reference: our own products (linear.cu), here and in tests/cuda/test_cublaslt.c.
 *
 * Same bits whatever T. The library promises it of nothing, so it is made so, and looked at before it is used:
 *
 *     one algorithm   per (N, K) and epilogue, chosen once, for the widest pass, and used for every T. It may
 *                     neither split K nor have a workspace, in which partial sums could meet.
 *     trial           when the first weight of a shape opens, rows made to show the order of a sum go through one
 *                     product of the widest pass and through narrow ones, from both its ends: the same bits, and
 *                     close to our own kernel's numbers, or the library's next proposal is tried; after the last
 *                     the shape is ours.
 *     the weight      keeps what was found, so all workers, each with a handle of its own, do the same for ever.
 *
 * Which products are the library's depends on N, K, the epilogue and the step (kernels.h: decoding), never on T.
 *
 * Epilogues. The library rounds x w^T, or x w^T + residual, once, as we do. Its GELU is not ours and its bias has
 * the output's type: what has a bias, a unit or a low-rank branch leaves it as f32 sums, and our kernel goes on from
 * them with nothing to multiply but the branch. That moves 10 bytes an output; at 4 TB/s and 700 TFLOP/s it takes
 * 833 / K of the product's own time, so that it pays from K of about 2,000 on if our own kernel reaches 60 % of the
 * library's speed. These are estimates: bench_gpu prints both. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/cublaslt.h"

#include <stdio.h>
#include <stdlib.h>
extern "C" {
#include "base/log.h"
#include "base/memory.h"
}
#ifdef JOMED_SIMT
#include "tests/simt/control.h"
#else
#include <dlfcn.h>
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define SAME(ours, theirs) static_assert((int)(ours) == (int)(theirs), #theirs)
SAME(LT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED);
SAME(LT_R_32F, CUDA_R_32F);
SAME(LT_R_16BF, CUDA_R_16BF);
SAME(LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(LT_OP_T, CUBLAS_OP_T);
SAME(LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(LT_PREF_REDUCTION, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(LT_PREF_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(LT_PREF_ALIGNMENT_A + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(LT_CONFIG_SPLITK, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
SAME(LT_CONFIG_REDUCTION, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
SAME(LT_REDUCTION_NONE, CUBLASLT_REDUCTION_SCHEME_NONE);
SAME(sizeof(lt_algorithm), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(lt_choice), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(lt_choice, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
#undef SAME
#endif
#endif

/* LEAST: of N and K. MOST_N: above are vocabularies, which score.cu multiplies. */
enum { LEAST = 64, MOST_N = 32768, LEAST_K_OF_SUMS = 2048, PROPOSALS = 8 };
/* Rows of the trial's widest product: a pass's, as many as the device has multiprocessors for. */
enum { ROWS_PER_SM = 32, LEAST_WIDEST = 512, NARROW_MOST = 129 };
static const int NARROW[] = {1, 7, 16, 17, 128, NARROW_MOST};

struct lt_plan {
    int          N, K;
    bool         use[LT_KINDS];
    lt_algorithm algorithm[LT_KINDS];
    lt_plan     *next; /* of the table's; NULL in a weight's copy */
};

struct lt_library {
    lt_functions f;
    void        *handle, *desc; /* desc: w as stored is [K,N] by columns, so it is turned */
    lt_plan     *plans;         /* of the shapes that have been tried */
    char         name[32];
};

/* -------------------------------------------------------------------------------------------- loading the library */
static void *symbol(void *library, const char *name)
{
#ifdef JOMED_SIMT
    (void)library;
    return simt_cublaslt_symbol(name);
#else
    return dlsym(library, name);
#endif
}

/* False: it is not there. It stays loaded: its kernels may not be torn out of a device's context. */
static bool load(lt_functions *f)
{
    void *library = NULL;
#ifndef JOMED_SIMT
    char name[32]; /* of our CUDA's own major version: only that one's numbers were compared */
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUDART_VERSION / 1000);
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) return false;
#endif
    bool all = true;
#define TAKE(function) all = (*(void **)&f->function = symbol(library, "cublasLt" #function)) != NULL && all
    TAKE(Create); TAKE(Destroy); TAKE(GetVersion);
    TAKE(MatmulDescCreate); TAKE(MatmulDescDestroy); TAKE(MatmulDescSetAttribute);
    TAKE(MatrixLayoutCreate); TAKE(MatrixLayoutDestroy);
    TAKE(MatmulPreferenceCreate); TAKE(MatmulPreferenceDestroy); TAKE(MatmulPreferenceSetAttribute);
    TAKE(MatmulAlgoGetHeuristic); TAKE(MatmulAlgoConfigGetAttribute); TAKE(MatmulAlgoCheck); TAKE(Matmul);
#undef TAKE
    return all;
}

void lt_close(cuda *g)
{
    lt_library *lt = g->lt;
    if (!lt) return;
    for (lt_plan *p = lt->plans, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    if (lt->desc) lt->f.MatmulDescDestroy(lt->desc);
    if (lt->handle) lt->f.Destroy(lt->handle);
    free(lt);
    g->lt = NULL;
}

bool lt_open(cuda *g)
{
    const int turned = LT_OP_T;
    int       status;
    lt_library *lt = g->lt = (lt_library *)mem_zalloc(1, sizeof *lt);
    if (!lt) {
        kernels_fail(&g->k, ERR_MEMORY, "kernels: out of memory");
        return false;
    }
    if (!load(&lt->f)) {
        lt_close(g);
        return true;
    }
    size_t v = lt->f.GetVersion();
    snprintf(lt->name, sizeof lt->name, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
    if ((status = lt->f.Create(&lt->handle)) == 0 &&
        (status = lt->f.MatmulDescCreate(&lt->desc, LT_COMPUTE_32F, LT_R_32F)) == 0 &&
        (status = lt->f.MatmulDescSetAttribute(lt->desc, LT_DESC_TRANSA, &turned, sizeof turned)) == 0)
        return true;
    (void)cudaGetLastError();
    char text[80];
    snprintf(text, sizeof text, "does not start, status %d: all products by our own kernels", status);
    log_field f[2] = {};
    f[0].key = "library", f[0].s = lt->name;
    f[1].key = "text", f[1].s = text;
    log_line(LOG_WARN, "products", f, 2);
    lt_close(g);
    return true;
}

const char *lt_name(const cuda *g) { return g->lt ? g->lt->name : "own products"; }

/* ------------------------------------------------------------------------------------------------------- products */
/* The layouts of one product: the library counts by columns, so our rows are its columns and y^T = w x^T. */
struct lt_layouts { void *w, *x, *y; };

static void close_layouts(const lt_functions *f, lt_layouts *l)
{
    if (l->w) f->MatrixLayoutDestroy(l->w);
    if (l->x) f->MatrixLayoutDestroy(l->x);
    if (l->y) f->MatrixLayoutDestroy(l->y);
}

static int open_layouts(const lt_functions *f, lt_layouts *l, const lt_product *p)
{
    int status = f->MatrixLayoutCreate(&l->w, LT_R_16BF, (uint64_t)p->K, (uint64_t)p->N, p->ldw);
    if (status == 0) status = f->MatrixLayoutCreate(&l->x, LT_R_16BF, (uint64_t)p->K, (uint64_t)p->T, p->ldx);
    if (status == 0)
        status = f->MatrixLayoutCreate(&l->y, p->kind == LT_SUMS ? LT_R_32F : LT_R_16BF, (uint64_t)p->N,
                                       (uint64_t)p->T, p->ldy);
    return status;
}

static int multiply(cuda *g, const lt_algorithm *algorithm, const lt_product *p)
{
    const float  one = 1, beta = p->kind == LT_ADDED;
    lt_library  *lt = g->lt;
    lt_layouts   l = {};
    const void  *c = p->kind == LT_ADDED ? (const void *)p->residual : p->y;
    int          status = open_layouts(&lt->f, &l, p);
    if (status == 0)
        status = lt->f.Matmul(lt->handle, lt->desc, &one, p->w, l.w, p->x, l.x, &beta, c, l.y, p->y, l.y, algorithm,
                              NULL, 0, g->stream);
    close_layouts(&lt->f, &l);
    return status;
}

bool lt_takes(const weight *w, lt_kind kind)
{
    const lt_plan *plan = (const lt_plan *)w->plan;
    return plan && plan->use[kind];
}

void lt_run(cuda *g, const weight *w, const lt_product *p)
{
    int status = g->lt ? multiply(g, &((const lt_plan *)w->plan)->algorithm[p->kind], p) : LT_ALLOC_FAILED;
    if (status == 0) return;
    (void)cudaGetLastError();
    char text[160]; /* our own kernel would do it, to other bits */
    snprintf(text, sizeof text, "%s: %s: a product of %d x %d x %d: status %d", g->k.name, lt_name(g), p->T, p->N,
             p->K, status);
    kernels_fail(&g->k, g->lt && status == LT_ALLOC_FAILED ? ERR_MEMORY : ERR_GPU, text);
}

/* --------------------------------------------------------------------------------------------------------- trials */
/* Operands that show the order of a sum, which rounding to bf16 would hide: x has its first half twice, every other
 * row of w its own first half negated. That row's sums are 0 but for their rounding, and all of that is seen; the
 * others are ordinary numbers, for comparing with ours. The residual is 0 where sums are. */
typedef enum { FILL_X, FILL_W, FILL_RESIDUAL } fill_role;
static __global__ void __launch_bounds__(256) fill_kernel(bf16 *p, int rows, int cols, fill_role role)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)rows * cols) return;
    int  row = (int)(i / cols), col = (int)(i % cols), half = cols / 2;
    bool twin = col >= half && (role == FILL_X || (role == FILL_W && row % 2));
    uint32_t h = ((uint32_t)(twin ? i - half : i) ^ (uint32_t)role << 30) * 2654435761u;
    h = (h ^ h >> 15) * 0x2c1b3c6du;
    h = (h ^ h >> 12) * 0x297a2d39u;
    float v = (float)((h ^ h >> 15) >> 8) * 0x1p-23f - 1.0f; /* in [-1, 1) */
    if (role == FILL_RESIDUAL && col % 2) v = 0;
    p[i] = narrow<bf16>(twin && role == FILL_W ? -v : v);
}

/* *wrong: how many of n words differ. */
static __global__ void __launch_bounds__(256)
differ_kernel(const uint32_t *a, const uint32_t *b, size_t n, int *wrong)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && a[i] != b[i]) atomicAdd(wrong, 1);
}

/* *wrong: how many of n numbers are not near ours, which were rounded to bf16; NaN is near nothing. */
template <class E> static __global__ void __launch_bounds__(256)
far_kernel(const E *theirs, const bf16 *ours, size_t n, float within, int *wrong)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float a = widen(theirs[i]), b = widen(ours[i]);
    if (!(fabsf(a - b) <= within + 0x1p-7f * fabsf(b))) atomicAdd(wrong, 1);
}

static dim3 grid_of(size_t n) { return dim3((unsigned)((n + 255) / 256)); }

static void fill(cuda *g, bf16 *p, int rows, int cols, fill_role role)
{
    if (p) LAUNCH(fill_kernel, grid_of((size_t)rows * cols), dim3(256), 0, g->stream, p, rows, cols, role);
}

/* Operands of a trial, in scratch. */
struct lt_trial {
    int      N, K, widest;
    lt_kind  kind;
    bf16    *w, *x, *residual, *ours; /* [N,K], [widest,K], [widest,N], [NARROW_MOST,N] */
    uint8_t *wide, *narrow;           /* [widest,N], [NARROW_MOST,N] of bf16 or f32 */
    int     *wrong;
};

static size_t out_bytes(lt_kind kind) { return kind == LT_SUMS ? sizeof(float) : sizeof(bf16); }

static size_t trial_bytes(const lt_trial *t)
{
    size_t N = (size_t)t->N, K = (size_t)t->K, rows = (size_t)t->widest, out = out_bytes(t->kind);
    return (N * K + rows * K + rows * N + NARROW_MOST * N) * sizeof(bf16) + (rows + NARROW_MOST) * N * out + 8 * 256;
}

static bool take_trial(cuda *g, lt_trial *t)
{
    size_t N = (size_t)t->N, K = (size_t)t->K, rows = (size_t)t->widest, out = out_bytes(t->kind);
    t->w = (bf16 *)cuda_take(g, N * K * sizeof(bf16));
    t->x = (bf16 *)cuda_take(g, rows * K * sizeof(bf16));
    t->residual = (bf16 *)cuda_take(g, rows * N * sizeof(bf16));
    t->ours = (bf16 *)cuda_take(g, NARROW_MOST * N * sizeof(bf16));
    t->wide = (uint8_t *)cuda_take(g, rows * N * out);
    t->narrow = (uint8_t *)cuda_take(g, NARROW_MOST * N * out);
    t->wrong = (int *)cuda_take(g, sizeof *t->wrong);
    fill(g, t->w, t->N, t->K, FILL_W);
    fill(g, t->x, t->widest, t->K, FILL_X);
    fill(g, t->residual, t->widest, t->N, FILL_RESIDUAL);
    return g->k.failed.code == ERR_NONE && cu_launched(&g->k, "products");
}

/* Rows from .. from + T - 1 of the trial as a product of their own. */
static lt_product trial_product(const lt_trial *t, int from, int T, void *y)
{
    lt_product p = {};
    p.kind = t->kind, p.T = T, p.N = t->N, p.K = t->K;
    p.w = t->w, p.ldw = t->K;
    p.x = t->x + (size_t)from * t->K, p.ldx = t->K;
    p.residual = t->residual + (size_t)from * t->N;
    p.y = y, p.ldy = t->N;
    return p;
}

/* What one algorithm gives for all rows at once has the bits of narrow products of them, and our numbers. False:
 * *why; a device that fails is kept. */
static bool holds(cuda *g, const lt_trial *t, const lt_algorithm *algorithm, const char **why)
{
    kernels   *k = &g->k;
    size_t     row_bytes = (size_t)t->N * out_bytes(t->kind), few = (size_t)NARROW_MOST * t->N;
    lt_product all = trial_product(t, 0, t->widest, t->wide);
    int        wrong = 0;
    *why = "its kernel does not run";
    if (!cu_ok(k, cudaMemsetAsync(t->wrong, 0, sizeof *t->wrong, g->stream), "products")) return false;
    if (multiply(g, algorithm, &all) != 0) return false;
    for (size_t i = 0; i < 2 * (sizeof NARROW / sizeof *NARROW); i++) {
        int        T = NARROW[i / 2], from = i % 2 ? t->widest - T : 0;
        lt_product some = trial_product(t, from, T, t->narrow);
        if (multiply(g, algorithm, &some) != 0) return false;
        size_t words = (size_t)T * row_bytes / 4;
        LAUNCH(differ_kernel, grid_of(words), dim3(256), 0, g->stream, (const uint32_t *)t->narrow,
               (const uint32_t *)(t->wide + (size_t)from * row_bytes), words, t->wrong);
        if (!cu_launched(k, "products")) return false;
    }
    if (!cuda_fetch(g, &wrong, t->wrong, sizeof wrong)) return false;
    *why = "a row's bits change with the number of rows";
    if (wrong) return false;

    weight w = {};
    w.data = t->w, w.type = DTYPE_BF16, w.rows = t->N, w.cols = t->K;
    uint64_t flops = k->flops;
    k->linear(k, t->ours, t->N, t->x, t->K, NARROW_MOST, &w, NULL, UNIT_NONE,
              t->kind == LT_ADDED ? t->residual : NULL);
    k->flops = flops;
    float within = 0x1p-20f * t->K; /* of the sums in another order; bf16's rounding is in far_kernel */
    if (t->kind == LT_SUMS)
        LAUNCH((far_kernel<float>), grid_of(few), dim3(256), 0, g->stream, (const float *)t->wide, t->ours, few,
               within, t->wrong);
    else
        LAUNCH((far_kernel<bf16>), grid_of(few), dim3(256), 0, g->stream, (const bf16 *)t->wide, t->ours, few, within,
               t->wrong);
    if (!cu_launched(k, "products") || !cuda_fetch(g, &wrong, t->wrong, sizeof wrong)) return false;
    *why = "its numbers are not ours";
    return wrong == 0;
}

/* Whether this algorithm, as chosen for the widest pass, is one that may be held to it. */
static bool fit(cuda *g, const lt_trial *t, const lt_choice *c)
{
    const lt_functions *f = &g->lt->f;
    int32_t  splits = 0;
    uint32_t reduction = ~0u;
    size_t   n;
    if (c->state != 0 || c->workspace_bytes != 0 ||
        f->MatmulAlgoConfigGetAttribute(&c->algorithm, LT_CONFIG_SPLITK, &splits, sizeof splits, &n) != 0 ||
        f->MatmulAlgoConfigGetAttribute(&c->algorithm, LT_CONFIG_REDUCTION, &reduction, sizeof reduction, &n) != 0 ||
        splits > 1 || reduction != LT_REDUCTION_NONE)
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof NARROW / sizeof *NARROW; i++) {
        lt_product p = trial_product(t, 0, NARROW[i], NULL);
        lt_layouts l = {};
        lt_choice  r = {};
        ok = open_layouts(f, &l, &p) == 0 &&
             f->MatmulAlgoCheck(g->lt->handle, g->lt->desc, l.w, l.x, l.y, l.y, &c->algorithm, &r) == 0 &&
             r.workspace_bytes == 0;
        close_layouts(f, &l);
    }
    return ok;
}

/* The library's proposals for the widest pass, the fastest first by its own estimate. */
static int propose(cuda *g, const lt_trial *t, lt_choice found[PROPOSALS])
{
    const lt_functions *f = &g->lt->f;
    const uint64_t no_workspace = 0;
    const uint32_t reduction = LT_REDUCTION_NONE, alignment = 16;
    lt_product p = trial_product(t, 0, t->widest, NULL);
    lt_layouts l = {};
    void      *wish = NULL;
    int        n = 0;
    bool ok = f->MatmulPreferenceCreate(&wish) == 0 &&
              f->MatmulPreferenceSetAttribute(wish, LT_PREF_WORKSPACE, &no_workspace, sizeof no_workspace) == 0 &&
              f->MatmulPreferenceSetAttribute(wish, LT_PREF_REDUCTION, &reduction, sizeof reduction) == 0 &&
              open_layouts(f, &l, &p) == 0;
    for (int i = 0; ok && i < 4; i++)
        ok = f->MatmulPreferenceSetAttribute(wish, LT_PREF_ALIGNMENT_A + i, &alignment, sizeof alignment) == 0;
    ok = ok && f->MatmulAlgoGetHeuristic(g->lt->handle, g->lt->desc, l.w, l.x, l.y, l.y, wish, PROPOSALS, found,
                                         &n) == 0;
    close_layouts(f, &l);
    if (wish) f->MatmulPreferenceDestroy(wish);
    return ok ? n : 0;
}

/* NULL: plan->algorithm[kind] is found; else why there is none. */
static const char *try_kind(cuda *g, lt_plan *plan, lt_kind kind)
{
    lt_choice   found[PROPOSALS] = {};
    const char *why = "no room for a trial in the workspace";
    lt_trial    t = {};
    t.N = plan->N, t.K = plan->K, t.kind = kind;
    t.widest = ROWS_PER_SM * g->n_sms < g->k.pass_tokens ? ROWS_PER_SM * g->n_sms : g->k.pass_tokens;
    if (t.widest < LEAST_WIDEST) t.widest = LEAST_WIDEST;
    if (trial_bytes(&t) > g->scratch_bytes - g->scratch_top || !take_trial(g, &t)) return why;
    why = "it proposes nothing that neither splits K nor wants a workspace, for every number of rows";
    int n = propose(g, &t, found);
    for (int i = 0; i < n && g->k.failed.code == ERR_NONE; i++) {
        if (!fit(g, &t, &found[i]) || !holds(g, &t, &found[i].algorithm, &why)) continue;
        plan->algorithm[kind] = found[i].algorithm;
        plan->use[kind] = true;
        return NULL;
    }
    return why;
}

static void log_refusal(const cuda *g, const lt_plan *plan, lt_kind kind, const char *why)
{
    static const char *const KIND[LT_KINDS] = {"x w^T", "x w^T + residual", "f32 sums"};
    char text[200];
    snprintf(text, sizeof text, "%s of %d x %d by our own kernel: %s", KIND[kind], plan->N, plan->K, why);
    log_field f[2] = {};
    f[0].key = "library", f[0].s = g->lt->name;
    f[1].key = "text", f[1].s = text;
    log_line(LOG_WARN, "products", f, 2);
}

/* The table's plan for a shape, tried out when it is new. NULL: out of memory. */
static const lt_plan *plan_of(cuda *g, int N, int K)
{
    lt_plan *plan = g->lt->plans;
    while (plan && (plan->N != N || plan->K != K)) plan = plan->next;
    if (plan) return plan;
    plan = (lt_plan *)mem_zalloc(1, sizeof *plan);
    if (!plan) return NULL;
    plan->N = N, plan->K = K;
    for (int kind = 0; kind < LT_KINDS && g->k.failed.code == ERR_NONE; kind++) {
        if (kind == LT_SUMS && K < LEAST_K_OF_SUMS) continue;
        size_t      mark = g->k.mark(&g->k);
        const char *why = try_kind(g, plan, (lt_kind)kind);
        (void)cudaGetLastError(); /* what the library left */
        if (why) log_refusal(g, plan, (lt_kind)kind, why);
        g->k.back(&g->k, mark);
    }
    plan->next = g->lt->plans;
    return g->lt->plans = plan;
}

bool lt_weight_open(cuda *g, weight *w, err *e)
{
    if (!g->lt || w->type != DTYPE_BF16 || w->rows % 8 || w->cols % 8) return true;
    if (w->rows < LEAST || w->cols < LEAST || w->rows > MOST_N) return true;
    const lt_plan *plan = plan_of(g, (int)w->rows, (int)w->cols);
    if (g->k.failed.code != ERR_NONE) return g->k.sync(&g->k, e);
    lt_plan *copy = plan ? (lt_plan *)mem_zalloc(1, sizeof *copy) : NULL;
    if (!copy) return err_set(e, ERR_MEMORY, "kernels: out of memory");
    *copy = *plan;
    copy->next = NULL;
    w->plan = copy;
    return true;
}
