#include "reader/generate.h"

static int32_t likeliest(const float *logit, int V)
{
    int best = 0;
    for (int v = 1; v < V; v++)
        if (logit[v] > logit[best]) best = v;
    return best;
}

/* One new token at this position behind the keys in own: its hidden state, normed, in x [1,D]. */
static bool step(const decoder *d, kernels *k, int adapter, kv *own, int32_t id, int position, act *x, arena *a,
                 err *e)
{
    prompt       one = {.ids = &id, .n_ids = 1};
    int32_t      pos[3] = {position, position, position};
    decoder_pass pass = {.own = own, .pos = pos, .x = x, .T = 1, .adapter = adapter, .step = true};
    decoder_embed(d, k, &one, NULL, x);
    if (!decoder_forward(d, k, &pass, a, e)) return false;
    decoder_norm(d, k, x, 1);
    return true;
}

bool generate_greedy(const decoder *d, kernels *k, const generate_args *g, int32_t *ids, int *n_ids, arena *a, err *e)
{
    const decoder_config *c = decoder_sizes(d);
    int        T = g->p->n_ids;
    size_t     mark = k->mark(k);
    arena_mark am = arena_here(a);
    float     *row = ARENA_NEW(a, float, c->V, e);
    if (!row) return false;

    kv           own = {k->take(k, decoder_kv_len(d, T + g->max_new)), T + g->max_new, 0};
    act         *x = k->take(k, (size_t)T * (size_t)c->D), *last = act_at(k, x, (size_t)(T - 1) * (size_t)c->D);
    decoder_pass pass = {.own = &own, .pos = g->pos, .x = x, .T = T, .adapter = g->adapter, .want = T - 1};
    decoder_embed(d, k, g->p, g->vision, x);
    bool ok = decoder_forward(d, k, &pass, a, e);
    decoder_norm(d, k, last, 1);
    *n_ids = 0;
    for (int i = 0; ok && i < g->max_new; i++) {
        float *logit = g->logits ? g->logits + (size_t)i * (size_t)c->V : row;
        k->logits(k, logit, last, 1, decoder_head(d));
        if (!(ok = k->sync(k, e))) break;
        int32_t id = likeliest(logit, c->V);
        if (id == g->stop) break;
        ids[(*n_ids)++] = id;
        if (i + 1 < g->max_new) ok = step(d, k, g->adapter, &own, id, g->cursor + i, last, a, e);
    }
    k->back(k, mark);
    arena_back(a, am);
    return ok;
}
