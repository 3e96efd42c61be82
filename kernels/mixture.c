#include "kernels/mixture.h"

#include <math.h>
#include <string.h>

void id_set_add(uint64_t *set, const int32_t *ids, int n)
{
    for (int i = 0; i < n; i++) set[ids[i] / 64] |= UINT64_C(1) << ids[i] % 64;
}

void penalise(float *logit, const uint64_t *set, int V, double penalty)
{
    for (int v = 0; v < V; v++)
        if (set[v / 64] >> v % 64 & 1)
            logit[v] = logit[v] < 0 ? logit[v] * (float)penalty : logit[v] / (float)penalty;
}

/* part[v] = exp(logit[v] - largest); *sum theirs, which is no finite number if any logit is none. */
static row_facts soften(double *part, double *sum, const float *logit, int V)
{
    int32_t best = 0;
    for (int v = 1; v < V; v++)
        if (logit[v] > logit[best]) best = v;
    *sum = 0;
    for (int v = 0; v < V; v++) *sum += part[v] = exp((double)logit[v] - (double)logit[best]);
    return (row_facts){(double)logit[best] + log(*sum), best};
}

bool mix_probabilities(double *p, row_facts *facts, const float *logit, size_t stride, const float *w, int K, int V,
                       double *part)
{
    double sum;
    memset(p, 0, (size_t)V * sizeof *p);
    for (int k = 0; k < K; k++) {
        facts[k] = soften(part, &sum, logit + (size_t)k * stride, V);
        if (!isfinite(sum)) return false;
        double share = (double)w[k] / sum;
        for (int v = 0; v < V; v++) p[v] += share * part[v];
    }
    return true;
}

void likeliest_tokens(int32_t *token, double *best, int top, const double *p, int V)
{
    int n = 0;
    for (int v = 0; v < V; v++) {
        if (n == top && !(p[v] > best[n - 1])) continue;
        int i = n < top ? n++ : n - 1;
        for (; i > 0 && p[v] > best[i - 1]; i--) {
            best[i] = best[i - 1];
            token[i] = token[i - 1];
        }
        best[i] = p[v];
        token[i] = v;
    }
}

void mixture_of_logits(const mixture_args *m, float *logit, int V, row_facts *facts, double *p, double *part)
{
    size_t n = (size_t)m->n, K = (size_t)m->K, top = (size_t)m->top, stride = n * (size_t)V;
    for (size_t row = 0; m->seen && row < K * n; row++)
        penalise(logit + row * (size_t)V, m->seen + row * id_set_words(V), V, m->penalty);
    for (size_t b = 0; b < n; b++) {
        const float *of_beam = logit + b * (size_t)V;
        int32_t     *token = m->token + b * top;
        if (!mix_probabilities(p, facts, of_beam, stride, m->w, m->K, V, part)) {
            m->p[b * top] = NAN;
            continue;
        }
        likeliest_tokens(token, m->p + b * top, m->top, p, V);
        for (size_t i = 0; i < top; i++)
            for (size_t k = 0; k < K; k++)
                m->each[(b * top + i) * K + k] = (double)of_beam[k * stride + (size_t)token[i]] - facts[k].lse;
        for (size_t k = 0; k < K; k++) m->likeliest[b * K + k] = facts[k].likeliest;
    }
}

bool pool_logits(double *pooled, row_facts *of_pool, row_facts *facts, const float *logit, size_t stride,
                 const float *w, int K, int V, double *part)
{
    double sum;
    memset(pooled, 0, (size_t)V * sizeof *pooled);
    for (int k = 0; k < K; k++) {
        const float *row = logit + (size_t)k * stride;
        facts[k] = soften(part, &sum, row, V);
        if (!isfinite(sum)) return false;
        for (int v = 0; v < V; v++) pooled[v] += (double)w[k] * (double)row[v];
    }
    int32_t best = 0;
    for (int v = 1; v < V; v++)
        if (pooled[v] > pooled[best]) best = v;
    sum = 0;
    for (int v = 0; v < V; v++) sum += exp(pooled[v] - pooled[best]);
    *of_pool = (row_facts){pooled[best] + log(sum), best};
    return isfinite(sum);
}
