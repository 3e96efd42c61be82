/* retrieve.c - from a query image to weighted candidates: embed, search both heads, unite, weigh.
 *
 *     image head   e_q . image embeddings   -> k best       both queried with the picture alone: the question
 *     text head    e_q . caption embeddings -> k best       never enters retrieval
 *
 *     p_R(z|q) = sum over the entries of z of softmax(score / (best score of its head) / tau), all 2k entries
 *     together */
#include "retriever/retriever.h"

#include <math.h>
#include <string.h>

static candidate *find(candidate *c, int K, int64_t id)
{
    for (int i = 0; i < K; i++)
        if (c[i].id == id) return &c[i];
    return NULL;
}

bool retriever_unite(const hits found[N_HEADS], candidate **out, int *K, arena *a, err *e)
{
    int        n = 0;
    candidate *c = ARENA_NEW(a, candidate, found[HEAD_IMAGE].n + found[HEAD_TEXT].n, e);
    if (!c) return false;
    for (int h = 0; h < N_HEADS; h++)
        for (int i = 0; i < found[h].n; i++) {
            candidate *z = find(c, n, found[h].id[i]);
            if (!z) z = &c[n++], z->id = found[h].id[i];
            z->heads |= 1u << h;
            z->score[h] = found[h].score[i];
        }
    *out = c;
    *K = n;
    return true;
}

/* A head's best score; -infinity where the head found nothing. */
static double best_score(const candidate *c, int K, int h)
{
    double best = -INFINITY;
    for (int i = 0; i < K; i++)
        if (c[i].heads & 1u << h && c[i].score[h] > best) best = c[i].score[h];
    return best;
}

/* The entry of candidate c in head h, on the common scale where each head's best is 1. */
static double relative(const candidate *c, int h, double best)
{
    return best > 0 ? c->score[h] / best : c->score[h] - best + 1;
}

void retriever_weigh(candidate *c, int K, float tau)
{
    double best[N_HEADS], sum = 0;
    for (int h = 0; h < N_HEADS; h++) best[h] = best_score(c, K, h);
    /* The largest relative score is 1 by construction, so exp() cannot overflow. */
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < K; i++) {
            double w = 0;
            for (int h = 0; h < N_HEADS; h++)
                if (c[i].heads & 1u << h) w += exp((relative(&c[i], h, best[h]) - 1) / tau);
            if (pass == 0) sum += w;
            else c[i].weight = (float)(w / sum);
        }
}

bool retrieve(const retriever *r, kernels *kern, passage_index *ix, const image *img, int k, const exclusion *x,
              float tau, candidate **out, int *K, arena *a, err *e)
{
    const int E = retriever_dim(r);
    hits      found[N_HEADS];
    float    *z[N_HEADS];
    if (k < 1 || !(tau > 0)) return err_set(e, ERR_BUG, "retrieve: k %d, tau %g", k, (double)tau);
    if (index_describe(ix)->dim != E)
        return err_set(e, ERR_BUG, "retrieve: the index has dim %d, the retriever gives %d",
                       index_describe(ix)->dim, E);
    for (int h = 0; h < N_HEADS; h++)
        if (!(z[h] = ARENA_NEW(a, float, E, e))) return false;

    if (!retriever_embed_queries(r, kern, img, z, a, e)) return false;
    for (int h = 0; h < N_HEADS; h++)
        if (!index_search(ix, kern, (head)h, z[h], k, x, &found[h], a, e)) return false;
    if (!retriever_unite(found, out, K, a, e)) return false;
    if (*K == 0)
        return err_at(e, ERR_UNUSABLE, "no-candidates", "exclude", "the exclusions leave no passage to retrieve");
    retriever_weigh(*out, *K, tau);
    return true;
}
