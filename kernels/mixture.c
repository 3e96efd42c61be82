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
