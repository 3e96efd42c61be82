/* cpu.c - the CPU's table: opening, memory, and the choice of the instruction set.
 * Activations are f32. Weights lie in the mapped file where their bytes can be used as they are (weight.c). */
#include "kernels/cpu/cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/memory.h"

/* ---------------------------------------------------------------------------------------------------- memory */
static void *cpu_alloc(kernels *k, size_t bytes)
{
    (void)k;
    return mem_aligned(64, bytes ? bytes : 1);
}

static void cpu_free(kernels *k, void *p)
{
    (void)k;
    free(p);
}

/* Scratch is address space with a top: pages are real only once touched, and stay so for the next request. */
static act *cpu_take(kernels *k, size_t n)
{
    cpu *c = cpu_of(k);
    if (!c) return NULL;
    size_t left = c->scratch_bytes - c->scratch_top;
    if (n > (SIZE_MAX - 63) / sizeof(float) || (n * sizeof(float) + 63) / 64 * 64 > left) {
        kernels_fail(k, ERR_MEMORY, "kernels: scratch memory is spent");
        return NULL;
    }
    act *p = c->scratch + c->scratch_top;
    c->scratch_top += (n * sizeof(float) + 63) / 64 * 64;
    return p;
}

static size_t cpu_mark(kernels *k) { return ((cpu *)k)->scratch_top; }
static void cpu_back(kernels *k, size_t mark) { ((cpu *)k)->scratch_top = mark; }

static void cpu_put(kernels *k, act *dst, const float *src, size_t n)
{
    if (cpu_of(k) && n) memcpy(dst, src, n * sizeof(float));
}
static void cpu_get(kernels *k, float *dst, const act *src, size_t n)
{
    if (cpu_of(k) && n) memcpy(dst, src, n * sizeof(float));
}
static void cpu_copy(kernels *k, act *dst, const act *src, size_t n)
{
    if (cpu_of(k) && n) memmove(dst, src, n * sizeof(float));
}

static void cpu_copies(kernels *k, const act_copy *c, int n)
{
    for (int i = 0; i < n; i++) cpu_copy(k, c[i].to, c[i].from, c[i].n);
}

static const float *cpu_upload(kernels *k, const float *src, size_t n)
{
    (void)k, (void)n;
    return src;
}

static bool cpu_sync(kernels *k, err *e)
{
    if (k->failed.code == ERR_NONE) return true;
    return err_at(e, k->failed.code, k->failed.problem, k->failed.field, "%s", k->failed.text);
}

/* --------------------------------------------------------------------------------------------- instruction sets */
/* By CPUID itself: clang 14 does not know this name in __builtin_cpu_supports(). */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

int cpu_isas(const isa *out[4])
{
    int n = 0;
    out[n++] = &isa_base;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return n;
    out[n++] = &isa_avx2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")
        || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return n;
    out[n++] = &isa_avx512;
    if (__builtin_cpu_supports("avx512bf16")) out[n++] = &isa_avx512bf16;
    return n;
}

/* ------------------------------------------------------------------------------------------------ open and close */
static bool space_open(cpu_space *s)
{
    const size_t panel = GEMM_PANEL_BYTES, sums = (size_t)GEMM_ROWS * GEMM_MAX_NR * sizeof(float),
                 rows = (size_t)ATTEND_ROWS * ATTEND_MAX_DIM * sizeof(float),
                 keys = (size_t)ATTEND_KEYS * ATTEND_MAX_DIM * sizeof(float);
    uint8_t *p = mem_aligned(64, panel + sums + 2 * rows + 2 * keys);
    if (!p) return false;
    s->memory = p;
    s->gemm.panel = (uint32_t *)p, p += panel;
    s->gemm.sums = (float *)p, p += sums;
    s->q = (float *)p, p += rows;
    s->out = (float *)p, p += rows;
    s->keys = (float *)p, p += keys;
    s->values = (float *)p;
    return true;
}

static void cpu_close(kernels *k)
{
    cpu *c = (cpu *)k;
    if (!c) return;
    for (int i = 0; c->space && c->pool && i < pool_threads(c->pool); i++) free(c->space[i].memory);
    pool_close(c->pool);
    free(c->space);
    if (c->scratch) munmap(c->scratch, c->scratch_bytes);
    free(c);
}

static int cores(void)
{
    cpu_set_t set; /* the cores this process may run on, which in a container are fewer than there are */
    int       n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < CPU_MAX_THREADS ? n : CPU_MAX_THREADS;
}

/* At 512 rows products run at the speed of any larger number (docs/PERF.md, "Products on the CPU"), and a pass
 * of the 7B model then holds 4 x 7 MB of rows and 2 x 39 MB of the feed-forward's besides keys and values. */
enum { CPU_PASS_TOKENS = 512 };

static const kernels TABLE = {.act_bytes = sizeof(float),
                              .gpu = -1,
                              .pass_tokens = CPU_PASS_TOKENS,
                              .alloc = cpu_alloc,
                              .free_ = cpu_free,
                              .take = cpu_take,
                              .mark = cpu_mark,
                              .back = cpu_back,
                              .put = cpu_put,
                              .get = cpu_get,
                              .copy = cpu_copy,
                              .copies = cpu_copies,
                              .upload = cpu_upload,
                              .pixels = cpu_pixels,
                              .weight_open = cpu_weight_open,
                              .weight_close = cpu_weight_close,
                              .sync = cpu_sync,
                              .close = cpu_close,
                              .linear = cpu_linear,
                              .linears = cpu_linears,
                              .linear_low_rank = cpu_linear_low_rank,
                              .layernorm = cpu_layernorm,
                              .rmsnorm = cpu_rmsnorm,
                              .glu = cpu_glu,
                              .rope = cpu_rope,
                              .attend = cpu_attend,
                              .gather = cpu_gather,
                              .add = cpu_add,
                              .mean_rows = cpu_mean_rows,
                              .logits = cpu_logits,
                              .score = cpu_score,
                              .mixture = cpu_mixture};

bool cpu_open(kernels **out, const kernels_options *o, const isa *on, err *e)
{
    bool       ok = false;
    const isa *have[4];
    int        n_isa = cpu_isas(have), threads = o->threads ? o->threads : cores();
    cpu       *c = NULL;
    if (threads < 1 || threads > CPU_MAX_THREADS)
        return err_at(e, ERR_USAGE, NULL, "threads", "threads: %d is not in 0..%d", o->threads, CPU_MAX_THREADS);

    c = mem_zalloc(1, sizeof *c);
    if (!c) { err_set(e, ERR_MEMORY, "kernels: out of memory"); goto done; }
    c->k = TABLE;
    c->isa = on ? on : have[n_isa - 1];
    c->products = o->products;
    snprintf(c->name, sizeof c->name, "cpu %s, %d thread%s", c->isa->name, threads, threads == 1 ? "" : "s");
    c->k.name = c->name;

    c->scratch_bytes = o->scratch_bytes ? o->scratch_bytes : (size_t)8 << 30;
    c->scratch =
        mmap(NULL, c->scratch_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->scratch == MAP_FAILED) {
        c->scratch = NULL;
        err_set(e, ERR_MEMORY, "kernels: cannot reserve %zu bytes of address space", c->scratch_bytes);
        goto done;
    }
    if (!pool_open(&c->pool, threads, e)) goto done;
    c->space = mem_zalloc((size_t)threads, sizeof *c->space);
    for (int i = 0; i < threads; i++) {
        if (c->space && space_open(&c->space[i])) continue;
        err_set(e, ERR_MEMORY, "kernels: out of memory for thread %d of %d", i + 1, threads);
        goto done;
    }
    *out = &c->k; c = NULL; ok = true;
done:
    cpu_close(c ? &c->k : NULL);
    return ok;
}
