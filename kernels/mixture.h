/* mixture.h - from K rows of logits to one next-token distribution, on plain arrays of the host. Sums run over the
 * rows in their order, in double: rows in ascending passage id give the same bits whatever order a request's
 * candidates had. The CPU's table calls it (kernels->mixture); other tables' tests compare with it. */
#ifndef JOMED_KERNELS_MIXTURE_H
#define JOMED_KERNELS_MIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/kernels.h"

/* A row's log p(v) is logit[v] - lse; likeliest is the first of its largest. */
typedef struct { double lse; int32_t likeliest; } row_facts;

/* A set of ids below V, a bit each, in id_set_words(V) words; zeros are the empty set. */
static inline size_t id_set_words(int V) { return ((size_t)V + 63) / 64; }
void id_set_add(uint64_t *set, const int32_t *ids, int n);

/* Divide the logit of each id of the set by the penalty where it is above 0, multiply it where it is below
 * [Keskar et al. 2019, arXiv:1909.05858, section 4.1, as transformers' RepetitionPenaltyLogitsProcessor]. */
void penalise(float *logit, const uint64_t *set, int V, double penalty);

/* p[v] = sum_k w[k] softmax(row k)[v]. Row k, [V], is at logit + k * stride, its facts go to facts[k]; part [V]
 * is scratch. false: a logit is not a finite number. */
bool mix_probabilities(double *p, row_facts *facts, const float *logit, size_t stride, const float *w, int K, int V,
                       double *part);

/* The top <= V likeliest of p [V] and their ids, likeliest first, equal ones by the lower id. */
void likeliest_tokens(int32_t *token, double *best, int top, const double *p, int V);

/* All of kernels->mixture but the product: logit [m->K * m->n, V] is penalised where it lies. facts [m->K], p and
 * part [V] are scratch. */
void mixture_of_logits(const mixture_args *m, float *logit, int V, row_facts *facts, double *p, double *part);

/* pooled[v] = sum_k w[k] row_k[v], the released code's pool of logits, and its own facts. Otherwise as above. */
bool pool_logits(double *pooled, row_facts *of_pool, row_facts *facts, const float *logit, size_t stride,
                 const float *w, int K, int V, double *part);

#endif
