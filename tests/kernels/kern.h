/* kern.h - what the kernels' tests share: every instruction set of this machine, fixed random numbers, weights. */
#ifndef JOMED_TESTS_KERNELS_KERN_H
#define JOMED_TESTS_KERNELS_KERN_H

#include "tests/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

static inline kernels *kern_open(const isa *on, precision p, int threads)
{
    kernels *k = NULL;
    err      e = {0};
    OK(cpu_open(&k, &(kernels_options){.products = p, .threads = threads, .scratch_bytes = (size_t)1 << 30}, on,
                &e),
       e);
    return k;
}

static inline void kern_ok(kernels *k)
{
    err e = {0};
    OK(k->sync(k, &e), e);
}

/* xorshift; the same numbers every run */
static inline uint32_t random_next(uint32_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 17;
    return *s ^= *s << 5;
}
static inline float random_unit(uint32_t *s) { return (float)(random_next(s) >> 8) / 8388608.0f - 1; } /* [-1, 1) */

/* n floats on the heap (never NULL, also for n == 0): about normal, with every 97th 40 times as large when
 * outliers. */
static inline float *random_floats(size_t n, uint32_t seed, bool outliers)
{
    float   *p = malloc(n ? n * sizeof *p : 1); /* to the byte, for AddressSanitizer */
    uint32_t s = seed * 2654435761u + 1;
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = random_unit(&s) + random_unit(&s) + random_unit(&s);
        if (outliers && random_next(&s) % 97 == 0) p[i] *= 40;
    }
    return p;
}

/* A matrix of random numbers, also as the f32 values that its elements have. */
typedef struct { weight w; float *f32; void *store; } test_weight;

static inline test_weight random_weight(int rows, int cols, dtype type, uint32_t seed)
{
    size_t      n = (size_t)rows * (size_t)cols;
    test_weight t = {.f32 = random_floats(n, seed, false)};
    if (type == DTYPE_BF16) {
        uint16_t *b = malloc(n ? n * sizeof *b : 1);
        assert_non_null(b);
        for (size_t i = 0; i < n; i++) {
            b[i] = bf16_from_f32(t.f32[i]);
            t.f32[i] = bf16_to_f32(b[i]);
        }
        t.store = b;
    }
    t.w = (weight){.data = t.store ? t.store : t.f32, .type = type, .rows = rows, .cols = cols};
    return t;
}
static inline weight vector_weight(const float *p, int n)
{
    return (weight){.data = p, .type = DTYPE_F32, .rows = 1, .cols = n};
}
static inline void random_weight_free(test_weight *t)
{
    free(t->f32);
    free(t->store);
}

/* |got - want| <= bound for all, and no NaN. */
static inline void within(const float *got, const double *want, const double *bound, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= bound[i]))
            fail_msg("%s: element %zu is %.9g, should be %.9g within %.3g", what, i, (double)got[i], want[i],
                     bound[i]);
}

#endif
