/* ref.c - see ref.h. Slow and obvious on purpose. */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

double ref_unit(double x, unit u)
{
    switch (u) {
    case UNIT_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case UNIT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case UNIT_SILU: return x / (1 + exp(-x));
    case UNIT_NONE: break;
    }
    return x;
}

void ref_linear(double *y, double *size, const float *x, int ldx, int T, const float *w, int N, int K,
                const float *bias, unit u, const float *residual, int ldr)
{
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            double s = bias ? bias[n] : 0, a = fabs(s);
            for (int i = 0; i < K; i++) {
                double p = (double)x[(size_t)t * ldx + i] * w[(size_t)n * K + i];
                s += p;
                a += fabs(p);
            }
            double r = residual ? residual[(size_t)t * ldr + n] : 0;
            y[(size_t)t * N + n] = ref_unit(s, u) + r;
            if (size) size[(size_t)t * N + n] = a + fabs(r);
        }
}

void ref_layernorm(double *y, const float *x, int T, int D, const float *gain, const float *bias, double eps)
{
    for (int t = 0; t < T; t++, x += D, y += D) {
        double mean = 0, var = 0;
        for (int i = 0; i < D; i++) mean += x[i];
        mean /= D;
        for (int i = 0; i < D; i++) var += (x[i] - mean) * (x[i] - mean);
        var /= D;
        for (int i = 0; i < D; i++) y[i] = (x[i] - mean) / sqrt(var + eps) * gain[i] + (bias ? bias[i] : 0);
    }
}

void ref_rmsnorm(double *y, const float *x, int T, int D, const float *gain, double eps)
{
    for (int t = 0; t < T; t++, x += D, y += D) {
        double sq = 0;
        for (int i = 0; i < D; i++) sq += (double)x[i] * x[i];
        for (int i = 0; i < D; i++) y[i] = x[i] / sqrt(sq / D + eps) * gain[i];
    }
}

void ref_glu(double *y, const float *gate, const float *up, int ld, int T, int F, unit u)
{
    for (int t = 0; t < T; t++)
        for (int j = 0; j < F; j++)
            y[(size_t)t * F + j] = ref_unit(gate[(size_t)t * ld + j], u) * up[(size_t)t * ld + j];
}

void ref_rope(double *y, const float *x, int ld, int T, int n_heads, int head_dim, const float *cos_,
              const float *sin_, int half, bool interleaved)
{
    for (int t = 0; t < T; t++)
        for (int h = 0; h < n_heads; h++) {
            size_t       at = (size_t)t * ld + (size_t)h * head_dim;
            for (int d = 0; d < head_dim; d++) y[at + d] = x[at + d];
            for (int j = 0; j < half; j++) {
                int    ia = interleaved ? 2 * j : j, ib = interleaved ? 2 * j + 1 : j + half;
                double a = x[at + ia], b = x[at + ib], c = cos_[t * half + j], s = sin_[t * half + j];
                y[at + ia] = a * c - b * s;
                y[at + ib] = b * c + a * s;
            }
        }
}

static const float *key_row(const attend_args *a, int j, bool value)
{
    const kv_span *s = j < a->span[0].n ? &a->span[0] : &a->span[1];
    int            i = j < a->span[0].n ? j : j - a->span[0].n;
    return (const float *)(value ? s->v : s->k) + (size_t)i * s->row_stride;
}

/* May query i see key j, numbered through both spans? */
static bool sees(const attend_args *a, int i, int j)
{
    int all = a->span[0].n + a->span[1].n, first_query = all - a->n_q;
    if (a->mask == ATTEND_ALL) return true;
    if (a->mask == ATTEND_CAUSAL) return j <= first_query + i;
    int tree = all - a->n_tree, node = first_query + i - tree;
    if (node < 0) return j <= first_query + i;
    return j < tree || a->visible[(size_t)node * a->n_tree + (j - tree)];
}

void ref_attend(double *out, const attend_args *a)
{
    int     n = a->span[0].n + a->span[1].n, dim = a->head_dim, group = a->n_heads / a->n_kv_heads;
    double *p = calloc((size_t)n + 1, sizeof *p);
    for (int i = 0; p && i < a->n_q; i++)
        for (int h = 0; h < a->n_heads; h++) {
            const float *q = (const float *)a->q + (size_t)i * a->q_stride + (size_t)h * dim;
            double      *o = out + ((size_t)i * a->n_heads + h) * dim, max = -INFINITY, sum = 0;
            size_t       kv = (size_t)(h / group) * dim;
            for (int j = 0; j < n; j++) {
                p[j] = -INFINITY;
                if (!sees(a, i, j)) continue;
                double s = 0;
                for (int d = 0; d < dim; d++) s += (double)q[d] * key_row(a, j, false)[kv + d];
                p[j] = a->scale * s - (a->alibi ? a->alibi[h] * abs(i - j) : 0);
                if (p[j] > max) max = p[j];
            }
            for (int j = 0; j < n; j++) sum += p[j] = exp(p[j] - max);
            for (int d = 0; d < dim; d++) {
                o[d] = 0;
                for (int j = 0; j < n; j++)
                    if (p[j] > 0) o[d] += p[j] / sum * key_row(a, j, true)[kv + d];
            }
        }
    free(p);
}

void ref_mean_rows(double *y, const float *x, int T, int D)
{
    for (int i = 0; i < D; i++) {
        double s = 0;
        for (int t = 0; t < T; t++) s += x[(size_t)t * D + i];
        y[i] = s / T;
    }
}

/* Sample i of a side whose samples lie `step` bytes apart. */
static uint8_t ref_sample(const pixel_axis *a, int i, const uint8_t *from, size_t step)
{
    if (!a->k) return from[(size_t)i * step];
    double s = 0; /* whole numbers below 2^53 */
    for (int j = 0; j < a->n[i]; j++)
        s += (double)from[(size_t)(a->lo[i] + j) * step] * a->k[(size_t)i * a->stride + j];
    s = floor(s / 0x1p22 + 0.5);
    return (uint8_t)(s < 0 ? 0 : s > 255 ? 255 : s);
}

void ref_pixels(float *out, const pixel_plan *p)
{
    const int    W = p->x.n_out, side = p->patch, m = p->merge, across = W / side / m;
    const size_t wide_bytes = (size_t)W * 3, in_bytes = (size_t)p->x.n_in * 3;
    uint8_t     *wide = malloc((size_t)p->y.n_in * wide_bytes);
    for (int y = 0; y < p->y.n_in; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < 3; c++)
                wide[y * wide_bytes + x * 3 + c] = ref_sample(&p->x, x, p->rgb + y * in_bytes + c, 3);
    for (int y = 0; y < p->y.n_out; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < 3; c++)
                for (int t = 0; t < p->temporal; t++) {
                    int    row = y / side, col = x / side; /* of the patch */
                    size_t n = ((size_t)(row / m) * across + col / m) * m * m + row % m * m + col % m;
                    size_t at = (((n * 3 + c) * p->temporal + t) * side + y % side) * side + x % side;
                    out[at] = p->level[c * 256 + ref_sample(&p->y, y, wide + x * 3 + c, wide_bytes)];
                }
    free(wide);
}

double ref_lse(const double *logits, int V)
{
    double max = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++) max = logits[v] > max ? logits[v] : max;
    for (int v = 0; v < V; v++) sum += exp(logits[v] - max);
    return max + log(sum);
}

void ref_round_bf16(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = bf16_to_f32(bf16_from_f32(x[i]));
}
