/* rows_isa.h - operations on one row after the other: norms, gated units, rotary positions, sums. */
#ifndef JOMED_KERNELS_CPU_ROWS_ISA_H
#define JOMED_KERNELS_CPU_ROWS_ISA_H

#include <math.h>
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vecmath.h"

/* The variance takes its own pass: E[x^2] - mean^2 cancels on the outlier channels of a vision transformer. */
static void layernorm_part(float *y, const float *x, int T, int D, const float *gain, const float *bias, float eps)
{
    for (int t = 0; t < T; t++, x += D, y += D) {
        vf  s = v_zero(), q = v_zero();
        int i = 0;
        for (; i + VL <= D; i += VL) s = s + v_load(x + i);
        float sum = v_sum(s);
        for (int j = i; j < D; j++) sum += x[j];
        float mean = sum / (float)D;
        vf    mu = v_all(mean);
        for (i = 0; i + VL <= D; i += VL) {
            vf d = v_load(x + i) - mu;
            q    = v_fma(d, d, q);
        }
        float var = v_sum(q);
        for (int j = i; j < D; j++) var += (x[j] - mean) * (x[j] - mean);
        float rstd = 1.0f / sqrtf(var / (float)D + eps);
        vf    r = v_all(rstd);
        for (i = 0; i + VL <= D; i += VL)
            v_store(y + i, v_fma((v_load(x + i) - mu) * r, v_load(gain + i), bias ? v_load(bias + i) : v_zero()));
        for (; i < D; i++) y[i] = (x[i] - mean) * rstd * gain[i] + (bias ? bias[i] : 0);
    }
}

static void rmsnorm_part(float *y, const float *x, int T, int D, const float *gain, float eps)
{
    for (int t = 0; t < T; t++, x += D, y += D) {
        vf  q = v_zero();
        int i = 0;
        for (; i + VL <= D; i += VL) {
            vf d = v_load(x + i);
            q    = v_fma(d, d, q);
        }
        float sq = v_sum(q);
        for (int j = i; j < D; j++) sq += x[j] * x[j];
        float rms = 1.0f / sqrtf(sq / (float)D + eps);
        vf    r = v_all(rms);
        for (i = 0; i + VL <= D; i += VL) v_store(y + i, v_load(x + i) * r * v_load(gain + i));
        for (; i < D; i++) y[i] = x[i] * rms * gain[i];
    }
}

static void unit_n_part(float *y, const float *x, int n, unit u)
{
    int i = 0;
    for (; i + VL <= n; i += VL) v_store(y + i, v_unit(v_load(x + i), u));
    if (i < n) v_store_n(y + i, v_unit(v_load_n(x + i, n - i), u), n - i);
}

static void exp_n_part(float *y, const float *x, int n)
{
    int i = 0;
    for (; i + VL <= n; i += VL) v_store(y + i, v_exp(v_load(x + i)));
    if (i < n) v_store_n(y + i, v_exp(v_load_n(x + i, n - i)), n - i);
}

static void glu_part(float *y, const float *gate, const float *up, int ld, int T, int F, unit u)
{
    for (int t = 0; t < T; t++, gate += ld, up += ld, y += F) {
        int j = 0;
        for (; j + VL <= F; j += VL) v_store(y + j, v_unit(v_load(gate + j), u) * v_load(up + j));
        if (j < F) v_store_n(y + j, v_unit(v_load_n(gate + j, F - j), u) * v_load_n(up + j, F - j), F - j);
    }
}

/* A pair (a, b) becomes (a cos - b sin, b cos + a sin). */
static void rope_part(float *x, int ld, int T, int n_heads, int head_dim, const float *c, const float *s, int half,
                      bool interleaved)
{
    for (int t = 0; t < T; t++, x += ld, c += half, s += half) {
        for (int h = 0; h < n_heads; h++) {
            float *p = x + (size_t)h * head_dim;
            int    j = 0;
            if (interleaved) {
                for (; j < half; j++) {
                    float a = p[2 * j], b = p[2 * j + 1];
                    p[2 * j]     = a * c[j] - b * s[j];
                    p[2 * j + 1] = b * c[j] + a * s[j];
                }
                continue;
            }
            for (; j + VL <= half; j += VL) {
                vf a = v_load(p + j), b = v_load(p + half + j), cv = v_load(c + j), sv = v_load(s + j);
                v_store(p + j, a * cv - b * sv);
                v_store(p + half + j, b * cv + a * sv);
            }
            for (; j < half; j++) {
                float a = p[j], b = p[half + j];
                p[j]        = a * c[j] - b * s[j];
                p[half + j] = b * c[j] + a * s[j];
            }
        }
    }
}

static void add_part(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + VL <= n; i += VL) v_store(y + i, v_load(y + i) + v_load(x + i));
    for (; i < n; i++) y[i] += x[i];
}

static void max_sum_part(const float *x, int n, float *max, float *sum)
{
    vf    m = v_all(-INFINITY), s = v_zero();
    float top = -INFINITY, total = 0, rest[VL] = {0};
    int   i = 0;
    for (; i + VL <= n; i += VL) m = v_max(v_load(x + i), m);
    top = v_largest(m);
    for (int j = i; j < n; j++) top = x[j] > top ? x[j] : top;
    vf shift = v_all(top);
    for (i = 0; i + VL <= n; i += VL) s = s + v_exp(v_load(x + i) - shift);
    total = v_sum(s);
    if (i < n) {
        v_store(rest, v_exp(v_load_n(x + i, n - i) - shift));
        for (int j = 0; j < n - i; j++) total += rest[j];
    }
    *max = top;
    *sum = total;
}

#endif
