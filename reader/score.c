/* score.c - how likely is each answer, given each retrieved pair.
 *
 *   per request    tokens and trie of the answers; vision tokens of the query image; ids of the query part
 *   per candidate  prefix [system, z image, z caption]: cached keys and values, or computed in a pass of its own
 *                  one pass over [query part | inner nodes of the trie], each token seeing the prefix too
 *                  log-probabilities of the trie's edges, read at the rows above them
 *
 * Candidates run one by one and each in the same two passes, whatever was cached: so a candidate's bits depend on
 * (passage, query, answers) alone. Nothing is sampled, nothing is approximated. */
#include <string.h>

#include "reader/candidate.h"
#include "reader/trie.h"

/* What all candidates of a request share. Activations are scratch, the rest is the arena's. */
typedef struct {
    const reader_query *q;
    trie    t;
    picture image;
    prompt  ask;     /* the query part, then the trie's inner nodes as further ids */
    int     n_query; /* tokens of the query part alone */
    act    *vision;  /* [rows * cols, D] of the query image */
    float  *logit, *lse; /* [n_edges] */
} request;

/* Ids of the query part with the trie's inner nodes behind it, so that one pass embeds both. */
static bool append_tree(prompt *p, const trie *t, arena *a, err *e)
{
    int32_t *ids = ARENA_NEW(a, int32_t, p->n_ids + t->n_tree, e);
    if (!ids) return false;
    memcpy(ids, p->ids, (size_t)p->n_ids * sizeof *ids);
    if (t->n_tree) memcpy(ids + p->n_ids, t->node, (size_t)t->n_tree * sizeof *ids);
    p->ids = ids;
    p->n_ids += t->n_tree;
    return true;
}

static bool request_open(request *s, reader *r, const reader_query *q, arena *a, err *e)
{
    s->q = q;
    if (q->A < 1) return err_set(e, ERR_BUG, "reader: %d answers", q->A);
    if (!trie_of_answers(&s->t, r->tokens, q->answers, q->A, r->m->end_id, a, e)) return false;
    if (!query_prepare(r, q, &s->image, &s->ask, a, e)) return false;
    s->n_query = s->ask.n_ids;
    if (!prompt_fits(r, s->n_query + trie_longest(&s->t), e)) return false; /* before anything is computed */
    s->logit = ARENA_NEW(a, float, s->t.n_edges, e);
    s->lse = s->logit ? ARENA_NEW(a, float, s->t.n_edges, e) : NULL;
    return s->lse && append_tree(&s->ask, &s->t, a, e);
}

/* Positions of the query part from cursor on; a node of the trie stands where its depth puts it, on all axes. */
static void place(const reader *r, const request *s, int cursor, int32_t *pos, int32_t *query_pos)
{
    prompt ask = s->ask;
    int    T = s->ask.n_ids, n = s->n_query;
    ask.n_ids = n;
    int after = r->f->positions(query_pos, &ask, cursor);
    for (int axis = 0; axis < 3; axis++) {
        memcpy(pos + (size_t)axis * (size_t)T, query_pos + (size_t)axis * (size_t)n, (size_t)n * sizeof *pos);
        for (int i = 0; i < s->t.n_tree; i++) pos[axis * T + n + i] = after + s->t.depth[i] - 1;
    }
}

/* One pass over the query part and the trie, then the edges' logits. */
static bool run_query(const reader *r, kernels *k, const request *s, const prefix_kv *before, arena *a, err *e)
{
    int      T = s->ask.n_ids, rows = 1 + s->t.n_tree;
    size_t   D = reader_width(r), mark = k->mark(k);
    int32_t *pos = ARENA_NEW(a, int32_t, 3 * (size_t)T, e);
    int32_t *query_pos = pos ? ARENA_NEW(a, int32_t, 3 * (size_t)s->n_query, e) : NULL;
    if (!query_pos) return false;
    place(r, s, before->cursor, pos, query_pos);

    kv   own = {k->take(k, decoder_kv_len(r->m->text, T)), T, 0};
    act *x = k->take(k, (size_t)T * D), *scored = act_at(k, x, (size_t)(T - rows) * D);
    decoder_embed(r->m->text, k, &s->ask, s->vision, x);
    decoder_pass pass = {.prefix = &before->keys, .own = &own, .pos = pos, .x = x, .T = T, .adapter = reader_branch(r, s->q),
                         .want = T - rows, .n_tree = s->t.n_tree, .visible = s->t.visible};
    bool ok = decoder_forward(r->m->text, k, &pass, a, e);
    if (ok) {
        decoder_norm(r->m->text, k, scored, rows);
        k->score(k, s->logit, s->lse, scored, rows, decoder_head(r->m->text), s->t.row, s->t.token, s->t.n_edges);
    }
    k->back(k, mark);
    return ok && k->sync(k, e);
}

static void sum_answers(const request *s, float *logp, float *logit)
{
    for (int a = 0; a < s->t.A; a++) {
        double lp = 0, raw = 0;
        for (int i = 0; i < s->t.len[a]; i++) {
            int c = s->t.path[a][i];
            lp += (double)s->logit[c] - (double)s->lse[c];
            if (i < s->t.own[a]) raw += (double)s->logit[c];
        }
        logp[a] = (float)lp;
        logit[a] = (float)(raw / s->t.own[a]);
    }
}

static bool score_candidate(reader *r, kernels *k, const request *s, int i, reader_scores *out, arena *a, err *e)
{
    prefix_kv  before = {0};
    size_t     mark = k->mark(k);
    arena_mark am = arena_here(a);
    bool ok = prefix_take(r, k, s->q, &s->q->z[i], &before, a, e)
           && prompt_fits(r, before.keys.n + s->n_query + trie_longest(&s->t), e)
           && run_query(r, k, s, &before, a, e);
    prefix_release(r, k, &before);
    k->back(k, mark);
    arena_back(a, am);
    if (!ok) return false;
    if (before.keys.n + s->n_query > out->prompt_tokens) out->prompt_tokens = before.keys.n + s->n_query;
    out->n_cached += before.cached;
    sum_answers(s, out->logp + (size_t)i * (size_t)s->t.A, out->logit + (size_t)i * (size_t)s->t.A);
    return true;
}

bool reader_score(reader *r, kernels *k, const reader_query *q, arena *a, reader_scores *out, err *e)
{
    request       s = {0};
    uint64_t      before = k->flops;
    reader_scores y = {0};
    size_t        mark = k->mark(k), n = (size_t)q->K * (size_t)q->A;
    if (!request_open(&s, r, q, a, e)) return false;
    y.logp = ARENA_NEW(a, float, n, e);
    y.logit = y.logp ? ARENA_NEW(a, float, n, e) : NULL;
    if (!y.logit) return false;
    y.answer_tokens = s.t.own;
    y.end_token = s.t.end_token;

    bool ok = query_encode(r, k, q, &s.image, &s.vision, a, e) && k->sync(k, e);
    for (int i = 0; ok && i < q->K; i++)
        ok = (!q->go_on || q->go_on(q->go_on_ctx, e)) && score_candidate(r, k, &s, i, &y, a, e);
    k->back(k, mark);
    if (!ok) {
        /* Scratch that ran out is whole again; a device that failed is not. */
        if (k->failed.code == ERR_MEMORY) k->failed = (err){0};
        return false;
    }
    y.flops = k->flops - before;
    *out = y;
    return true;
}

/* ---- the minimum, by the formula ---- */

/* What one candidate costs: its picture and its prefix (nothing wanted of its last layer), then the query part and the
 * trie on top of it. seen: room for the longest of the two. */
static uint64_t candidate_flops(const reader *r, const request *s, const picture *pic, int n_prefix, int *seen)
{
    const decoder_config *c = decoder_sizes(r->m->text);
    int      T = s->ask.n_ids, rows = 1 + s->t.n_tree;
    for (int i = 0; i < n_prefix; i++) seen[i] = i + 1;
    int      adapter = reader_branch(r, s->q);
    uint64_t flops = r->f->encode_flops(r->m, adapter, pic) + decoder_flops(c, seen, n_prefix, 0);
    flops += decoder_adapter_flops(r->m->text, adapter, n_prefix, 0) + decoder_adapter_flops(r->m->text, adapter, T, rows);
    for (int i = 0; i < T; i++) {
        int depth = i < s->n_query ? 0 : s->t.depth[i - s->n_query];
        seen[i] = n_prefix + (depth ? s->n_query + depth : i + 1);
    }
    return flops + decoder_flops(c, seen, T, rows) + 2 * (uint64_t)rows * (uint64_t)c->V * (uint64_t)c->D;
}

uint64_t reader_minimum_flops(reader *r, const reader_query *q, arena *a, err *e)
{
    request  s = {0};
    uint64_t total = 0;
    if (!request_open(&s, r, q, a, e)) return 0;
    total = r->f->encode_flops(r->m, reader_branch(r, q), &s.image);
    for (int i = 0; i < q->K; i++) {
        arena_mark am = arena_here(a);
        picture    pic;
        prompt     p;
        if (!prefix_render(r, q, &q->z[i], &pic, &p, a, e)) return 0;
        int *seen = ARENA_NEW(a, int, p.n_ids > s.ask.n_ids ? p.n_ids : s.ask.n_ids, e);
        if (!seen) return 0;
        total += candidate_flops(r, &s, &pic, p.n_ids, seen);
        arena_back(a, am);
    }
    return total;
}
