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

#include "reader/reader_internal.h"
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

/* Which branch of the linear layers a request takes: none where the adapter is part of the weights. */
static int branch(const reader *r, const reader_query *q) { return r->merged ? 0 : q->adapter; }

static size_t width(const reader *r) { return (size_t)decoder_sizes(r->m->text)->D; }

/* Vision tokens of a picture on the scratch stack. */
static bool encode_picture(const reader *r, kernels *k, int adapter, const picture *p, act **out, arena *a, err *e)
{
    *out = k->take(k, (size_t)p->rows * (size_t)p->cols * width(r));
    return r->f->encode(r->m, k, adapter, p, *out, NULL, a, e);
}

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

static bool fits(const reader *r, int n_tokens, err *e)
{
    if (n_tokens <= r->m->max_tokens) return true;
    return err_at(e, ERR_UNUSABLE, "prompt-too-long", "question",
                  "the prompt and its longest answer make %d tokens, at most %d", n_tokens, r->m->max_tokens);
}

static bool request_open(request *s, reader *r, const reader_query *q, arena *a, err *e)
{
    s->q = q;
    if (q->A < 1 || q->K < 1) return err_set(e, ERR_BUG, "reader: %d answers, %d candidates", q->A, q->K);
    if (q->adapter < (r->merged ? 1 : 0) || q->adapter > r->n_adapters)
        return err_set(e, ERR_BUG, "reader: adapter %d of %d", q->adapter, r->n_adapters);
    if (!trie_of_answers(&s->t, r->tokens, q->answers, q->A, r->m->end_id, a, e)) return false;
    if (!r->f->prepare(r->m, &s->image, q->img, q->policy, a, e)) return false;
    if (!r->f->query(r->m, q->question, &s->image, &s->ask, a, e)) return false;
    s->n_query = s->ask.n_ids;
    if (!fits(r, s->n_query + trie_longest(&s->t), e)) return false; /* before anything is computed */
    s->logit = ARENA_NEW(a, float, s->t.n_edges, e);
    s->lse = s->logit ? ARENA_NEW(a, float, s->t.n_edges, e) : NULL;
    return s->lse && append_tree(&s->ask, &s->t, a, e);
}

/* Load the passage's picture and render its prefix. */
static bool render_prefix(const reader *r, const reader_query *q, const reader_passage *z, picture *pic, prompt *p, arena *a,
                          err *e)
{
    image img;
    if (!q->load(q->load_ctx, z->id, &img, a, e)) return false;
    if (r->f->prepare(r->m, pic, &img, q->policy, a, e) && r->f->prefix(r->m, z->caption, pic, p, a, e)) return true;
    if (e->code == ERR_UNUSABLE) { /* the index is at fault, not a field of the request */
        e->code = ERR_FILE;
        e->problem = e->field = NULL;
    }
    return false;
}

static bool run_prefix(const reader *r, kernels *k, int adapter, const picture *pic, const prompt *p, kv *keys, int *cursor,
                       arena *a, err *e)
{
    size_t   mark = k->mark(k);
    act     *vision, *x = k->take(k, (size_t)p->n_ids * width(r));
    int32_t *pos = ARENA_NEW(a, int32_t, 3 * (size_t)p->n_ids, e);
    bool     ok = pos && encode_picture(r, k, adapter, pic, &vision, a, e);
    if (ok) {
        *cursor = r->f->positions(pos, p, 0);
        decoder_embed(r->m->text, k, p, vision, x);
        decoder_pass pass = {.own = keys, .pos = pos, .x = x, .T = p->n_ids, .adapter = adapter, .want = p->n_ids};
        ok = decoder_forward(r->m->text, k, &pass, a, e);
    }
    k->back(k, mark);
    return ok;
}

/* What a pass on top of a prefix needs of it. A copy of these two alone: an entry's links change under other workers. */
typedef struct { kv keys; int cursor; } prefix_kv;

/* The prefix of a passage, from the cache or computed: into the cache if there is room, into scratch if not. *held is to
 * be released; *out is valid until then and until scratch goes back. */
static bool candidate_prefix(reader *r, kernels *k, const reader_query *q, const reader_passage *z, prefix_kv *out,
                             const prefix_entry **held, bool *cached, arena *a, err *e)
{
    prefix_key key = prefix_key_of(z->id, q->adapter, q->policy, z->caption);
    *held = prefix_cache_find(r->cache, key);
    *cached = *held != NULL;
    if (*held) {
        *out = (prefix_kv){(*held)->keys, (*held)->cursor};
        return true;
    }

    arena_mark am = arena_here(a);
    picture    pic;
    prompt     p;
    if (!render_prefix(r, q, z, &pic, &p, a, e)) return false;
    if (p.n_ids > r->m->max_tokens)
        return err_at(e, ERR_UNUSABLE, "prompt-too-long", NULL, "a retrieved pair makes %d tokens, at most %d", p.n_ids,
                      r->m->max_tokens);

    size_t        len = decoder_kv_len(r->m->text, p.n_ids);
    prefix_entry *fresh = prefix_cache_reserve(r->cache, k, key, len * (size_t)k->act_bytes);
    *held = fresh;
    *out = (prefix_kv){.keys = {.data = fresh ? fresh->keys.data : k->take(k, len), .capacity = p.n_ids}};
    if (!run_prefix(r, k, branch(r, q), &pic, &p, &out->keys, &out->cursor, a, e) || !k->sync(k, e)) return false;
    if (fresh) {
        fresh->keys = out->keys;
        fresh->cursor = out->cursor;
        prefix_cache_publish(r->cache, fresh); /* only what is known to be complete */
    }
    arena_back(a, am);
    return true;
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
    size_t   D = width(r), mark = k->mark(k);
    int32_t *pos = ARENA_NEW(a, int32_t, 3 * (size_t)T, e);
    int32_t *query_pos = pos ? ARENA_NEW(a, int32_t, 3 * (size_t)s->n_query, e) : NULL;
    if (!query_pos) return false;
    place(r, s, before->cursor, pos, query_pos);

    kv   own = {k->take(k, decoder_kv_len(r->m->text, T)), T, 0};
    act *x = k->take(k, (size_t)T * D), *scored = act_at(k, x, (size_t)(T - rows) * D);
    decoder_embed(r->m->text, k, &s->ask, s->vision, x);
    decoder_pass pass = {.prefix = &before->keys, .own = &own, .pos = pos, .x = x, .T = T,
                         .adapter = branch(r, s->q), .want = T - rows, .n_tree = s->t.n_tree, .visible = s->t.visible};
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
    prefix_kv           before;
    const prefix_entry *held = NULL;
    bool                cached = false;
    size_t              mark = k->mark(k);
    arena_mark          am = arena_here(a);
    bool ok = candidate_prefix(r, k, s->q, &s->q->z[i], &before, &held, &cached, a, e)
           && fits(r, before.keys.n + s->n_query + trie_longest(&s->t), e)
           && run_query(r, k, s, &before, a, e);
    prefix_cache_release(r->cache, k, held);
    k->back(k, mark);
    arena_back(a, am);
    if (!ok) return false;
    if (before.keys.n + s->n_query > out->prompt_tokens) out->prompt_tokens = before.keys.n + s->n_query;
    out->n_cached += cached;
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

    bool ok = encode_picture(r, k, branch(r, q), &s.image, &s.vision, a, e) && k->sync(k, e);
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
    int      adapter = branch(r, s->q);
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
    total = r->f->encode_flops(r->m, branch(r, q), &s.image);
    for (int i = 0; i < q->K; i++) {
        arena_mark am = arena_here(a);
        picture    pic;
        prompt     p;
        if (!render_prefix(r, q, &q->z[i], &pic, &p, a, e)) return 0;
        int *seen = ARENA_NEW(a, int, p.n_ids > s.ask.n_ids ? p.n_ids : s.ask.n_ids, e);
        if (!seen) return 0;
        total += candidate_flops(r, &s, &pic, p.n_ids, seen);
        arena_back(a, am);
    }
    return total;
}
