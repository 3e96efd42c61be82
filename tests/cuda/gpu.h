/* gpu.h - what the tests of the CUDA table share. The same source runs on a GPU (`make check-gpu`) and in the
 * emulation of tests/simt (`make test`): only kernels.h is called, on device "cuda:0". Without either the tests
 * skip. */
#ifndef JOMED_TESTS_CUDA_GPU_H
#define JOMED_TESTS_CUDA_GPU_H

#include "tests/kernels/kern.h"

/* A table of its own; skips where there is no GPU. */
static inline kernels *gpu_open(precision p)
{
    kernels *k = NULL;
    err      e = {0};
    if (kernels_open(&k, &(kernels_options){.device = "cuda:0", .products = p, .scratch_bytes = (size_t)16 << 20},
                     &e))
        return k;
    if (e.code == ERR_USAGE) SKIP("%s", e.text);
    fail_msg("%s", e.text);
    return NULL;
}

/* The table of that precision which all cases share: opening is the longest part of a small case. Closed by
 * gpu_close_all, a group's teardown. */
static kernels *gpu_tables[2];
static inline kernels *gpu_table(precision p)
{
    kernels **k = &gpu_tables[p == PRECISION_BF16];
    if (!*k) *k = gpu_open(p);
    kern_ok(*k);
    (*k)->flops = 0;
    return *k;
}

static inline int gpu_close_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        if (gpu_tables[i]) gpu_tables[i]->close(gpu_tables[i]);
    return 0;
}

static inline bool gpu_rounds(const kernels *k) { return k->act_bytes == 2; }

/* Activations on the device, and x made to hold just what they hold. */
static inline act *gpu_acts(kernels *k, float *x, size_t n)
{
    act *p = k->alloc(k, n * (size_t)k->act_bytes + 1);
    assert_non_null(p);
    if (gpu_rounds(k)) ref_round_bf16(x, x, n);
    k->put(k, p, x, n);
    return p;
}

/* The same, where the device's first element is not aligned to 16 bytes: free p, use *at. */
static inline act *gpu_acts_off(kernels *k, float *x, size_t n, act **at)
{
    act *p = k->alloc(k, (n + 1) * (size_t)k->act_bytes);
    assert_non_null(p);
    *at = act_at(k, p, 1);
    if (gpu_rounds(k)) ref_round_bf16(x, x, n);
    k->put(k, *at, x, n);
    return p;
}

/* A weight on the device; w->f32 made to hold what the device multiplies. */
static inline weight gpu_weight(kernels *k, test_weight *w)
{
    weight out;
    err    e = {0};
    tensor t = {.name = "w", .file = "test", .data = w->w.data, .type = w->w.type, .count = w->w.rows * w->w.cols};
    OK(k->weight_open(k, &out, &t, w->w.rows, w->w.cols, &e), e);
    if (gpu_rounds(k) && w->w.rows != 1) ref_round_bf16(w->f32, w->f32, (size_t)t.count);
    return out;
}
static inline weight gpu_vector(kernels *k, const float *p, int n)
{
    weight out;
    err    e = {0};
    tensor t = {.name = "v", .file = "test", .data = p, .type = DTYPE_F32, .count = n};
    OK(k->weight_open(k, &out, &t, 1, n, &e), e);
    return out;
}

/* What rounding a result to the device's element costs: half a unit in the last place. */
static inline double gpu_rounding(const kernels *k, double v) { return fabs(v) * (gpu_rounds(k) ? 0x1p-8 : 0x1p-24); }

#endif
