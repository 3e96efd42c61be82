/* score.c - how likely is each answer, given each retrieved pair.
 *
 *   per request    tokens and trie of the answers; vision tokens of the query image; ids of the query part
 *   per candidate  prefix [system, z image, z caption]: cached keys and values, or computed
 *                  [query part | inner nodes of the trie], each token seeing the prefix too
 *                  log-probabilities of the trie's edges, read at the rows above them
 *
 * Candidates, of one request or of several that are read together, go in groups of as many tokens as fill the
 * device: one packed pass over the prefixes that the cache did not have, one over all query parts. A row's bits
 * do not depend on what is packed with it (kernels.h), so a candidate's depend on (passage, query, answers)
 * alone. Nothing is sampled or approximated. */
#include <string.h>

#include "kernels/range.h"
#include "reader/candidate.h"
#include "reader/labels.h"
#include "reader/pictures.h"

/* What all candidates of a request share. Activations are scratch, the rest is the arena's. */
typedef struct {
    const reader_query *q;
    trie    t;
    picture image;
    prompt  ask;     /* the query part, then the trie's inner nodes as further ids */
    int     n_query; /* tokens of the query part alone */
    act    *vision;  /* [rows * cols, D] of the query image */
    float  *logit, *lse; /* [K, n_edges] */
    int     n_cached, prompt_tokens;
    uint64_t flops;  /* by the formula, of what was computed for it */
    arena  *a;       /* its own */
    err     e;       /* it failed */
} request;

/* The candidates of a group, of any of the requests but all of one branch: candidate i of s, behind the prefix z. */
typedef struct { request *s; int i; } member;
typedef struct {
    reader    *r;
    kernels   *k;
    request  **s;    /* [n_s] read together */
    int        n_s;
    member    *m;    /* [n] the group under way */
    prefix_kv *z;    /* [n] */
    int        n, taken;  /* of those taken into the group, the first n are still in it */
    int        next_s, next_i; /* the first that is in no group yet */
    arena     *a;    /* of the groups */
} batch;

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
    s->a = a;
    if (q->A < 1) return err_set(e, ERR_BUG, "reader: %d answers", q->A);
    if (!query_prepare(r, q, &s->image, &s->ask, a, e)) return false;
    if (!(q->L ? labels_prepare(r, q, &s->image, &s->ask, &s->t, a, e)
               : trie_of_answers(&s->t, r->tokens, q->answers, q->A, r->m->end_id, a, e))) return false;
    s->n_query = s->ask.n_ids;
    if (!prompt_fits(r, s->n_query + trie_longest(&s->t), e)) return false; /* before anything is computed */
    size_t n = (size_t)q->K * (size_t)s->t.n_edges;
    s->logit = ARENA_NEW(a, float, n, e);
    s->lse = s->logit ? ARENA_NEW(a, float, n, e) : NULL;
    return s->lse && append_tree(&s->ask, &s->t, a, e);
}

/* ---- what a request costs, by the formula ---- */

/* A picture and its prefix, of which nothing is wanted of the last layer. seen: room for its tokens. */
static uint64_t prefix_flops(const reader *r, int branch, const picture *pic, int n, int *seen)
{
    for (int i = 0; i < n; i++) seen[i] = i + 1;
    return r->f->encode_flops(r->m, branch, pic) + decoder_flops(decoder_sizes(r->m->text), seen, n, 0)
         + decoder_adapter_flops(r->m->text, branch, n, 0);
}

/* The query part and the trie behind a prefix of n_prefix tokens. */
static uint64_t query_flops(const reader *r, const request *s, int n_prefix, int *seen)
{
    const decoder_config *c = decoder_sizes(r->m->text);
    int      T = s->ask.n_ids, rows = s->t.n_rows;
    for (int i = 0; i < T; i++) {
        int depth = i < s->n_query ? 0 : s->t.depth[i - s->n_query];
        seen[i] = n_prefix + (depth ? s->n_query + depth : i + 1);
    }
    return decoder_flops(c, seen, T, rows) + decoder_adapter_flops(r->m->text, reader_branch(r, s->q), T, rows)
         + 2 * (uint64_t)rows * (uint64_t)c->V * (uint64_t)c->D;
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
        total += prefix_flops(r, reader_branch(r, q), &pic, p.n_ids, seen) + query_flops(r, &s, p.n_ids, seen);
        arena_back(a, am);
    }
    return total;
}

/* ---- the pass over query parts ---- */

/* Positions of the query part from cursor on; a node of the trie stands where its depth puts it, on all axes. */
static bool place(const reader *r, const request *s, int cursor, int32_t **out, arena *a, err *e)
{
    prompt   ask = s->ask;
    int      T = s->ask.n_ids, n = s->n_query;
    int32_t *pos = ARENA_NEW(a, int32_t, 3 * (size_t)T, e),
            *query_pos = pos ? ARENA_NEW(a, int32_t, 3 * (size_t)n, e) : NULL;
    if (!query_pos) return false;
    ask.n_ids = n;
    int after = r->f->positions(query_pos, &ask, cursor);
    for (int axis = 0; axis < 3; axis++) {
        memcpy(pos + (size_t)axis * (size_t)T, query_pos + (size_t)axis * (size_t)n, (size_t)n * sizeof *pos);
        for (int i = 0; i < s->t.n_tree; i++) pos[axis * T + n + i] = after + s->t.depth[i] - 1;
    }
    *out = pos;
    return true;
}

/* Embeddings of all query parts and tries, one behind the other in x, and the pass of each. Their own keys and
 * values are rows of one kv, so that products write them in place. */
static bool make_passes(const batch *b, const kv *whole, kv *own, decoder_pass *pass, act *x, err *e)
{
    const decoder *d = b->r->m->text;
    int            row = 0;
    for (int i = 0; i < b->n; i++) {
        const request *s = b->m[i].s;
        int            T = s->ask.n_ids;
        int32_t       *pos;
        if (!place(b->r, s, b->z[i].cursor, &pos, b->a, e)) return false;
        act *at = act_at(b->k, x, (size_t)row * reader_width(b->r));
        decoder_embed(d, b->k, &s->ask, s->vision, at);
        own[i] = decoder_kv_from(d, b->k, whole, row);
        pass[i] = (decoder_pass){.prefix = &b->z[i].keys, .own = &own[i], .pos = pos, .x = at, .T = T,
                                 .adapter = reader_branch(b->r, s->q), .want = T - s->t.n_rows, .n_tree = s->t.n_tree,
                                 .visible = s->t.visible};
        row += T;
    }
    return true;
}

/* Logit and log-sum-exp of every edge of the group, from the scored rows [R,D]. */
static bool score_edges(const batch *b, const act *scored, int R, int n_edges, err *e)
{
    int32_t *row = ARENA_NEW(b->a, int32_t, n_edges, e), *token = row ? ARENA_NEW(b->a, int32_t, n_edges, e) : NULL;
    float *logit = token ? ARENA_NEW(b->a, float, n_edges, e) : NULL,
          *lse = logit ? ARENA_NEW(b->a, float, n_edges, e) : NULL;
    if (!lse) return false;
    for (int i = 0, at = 0, first = 0; i < b->n; i++) {
        const trie *t = &b->m[i].s->t;
        for (int c = 0; c < t->n_edges; c++, at++) {
            row[at] = first + t->row[c];
            token[at] = t->token[c];
        }
        first += t->n_rows;
    }
    b->k->score(b->k, logit, lse, scored, R, decoder_head(b->r->m->text), row, token, n_edges);
    if (!b->k->sync(b->k, e)) return false;
    for (int i = 0, at = 0; i < b->n; at += b->m[i++].s->t.n_edges) {
        const member *m = &b->m[i];
        size_t        n = (size_t)m->s->t.n_edges;
        memcpy(m->s->logit + (size_t)m->i * n, logit + at, n * sizeof *logit);
        memcpy(m->s->lse + (size_t)m->i * n, lse + at, n * sizeof *lse);
    }
    return true;
}

/* One packed pass over the group's query parts and tries, then the edges' logits. */
static bool run_queries(const batch *b, err *e)
{
    kernels       *k = b->k;
    const decoder *d = b->r->m->text;
    size_t         D = reader_width(b->r), mark = k->mark(k);
    int            T = 0, R = 0, n_edges = 0;
    for (int i = 0; i < b->n; i++) {
        T += b->m[i].s->ask.n_ids;
        R += b->m[i].s->t.n_rows;
        n_edges += b->m[i].s->t.n_edges;
    }
    kv           *own = ARENA_NEW(b->a, kv, b->n, e);
    decoder_pass *pass = own ? ARENA_NEW(b->a, decoder_pass, b->n, e) : NULL;
    if (!pass) return false;
    kv   whole = {k->take(k, decoder_kv_len(d, T)), T, 0};
    act *x = k->take(k, (size_t)T * D), *scored = k->take(k, (size_t)R * D);
    bool ok = make_passes(b, &whole, own, pass, x, e) && decoder_forward_packed(d, k, pass, b->n, scored, b->a, e);
    if (ok) {
        decoder_norm(d, k, scored, R);
        ok = score_edges(b, scored, R, n_edges, e);
    }
    k->back(k, mark);
    return ok;
}

/* ---- groups ---- */

static bool go_on(request *s) { return !s->q->go_on || s->q->go_on(s->q->go_on_ctx, &s->e); }

/* Take member i out of the group; it changes places with the last one. Its prefix stays held until the group is
 * done: another member may share it, and the cache must not evict it under that one. */
static void drop(batch *b, int i)
{
    int       last = --b->n;
    member    m = b->m[i];
    prefix_kv z = b->z[i];
    b->m[i] = b->m[last];
    b->z[i] = b->z[last];
    b->m[last] = m;
    b->z[last] = z;
}

/* Out go those whose request has failed or may not go on. */
static void drop_failed(batch *b)
{
    for (int i = b->n - 1; i >= 0; i--)
        if (b->m[i].s->e.code || !go_on(b->m[i].s)) drop(b, i);
}

static bool add_member(batch *b, request *s, int i)
{
    prefix_kv *z = &b->z[b->n];
    *z = (prefix_kv){0};
    b->m[b->n++] = (member){s, i};
    b->taken = b->n;
    return go_on(s) && prefix_find(b->r, s->q, &s->q->z[i], z, b->a, &s->e)
        && prompt_fits(b->r, prefix_tokens(z) + s->n_query + trie_longest(&s->t), &s->e);
}

static bool same_branch(const batch *b, const request *s)
{
    return reader_branch(b->r, s->q) == reader_branch(b->r, b->m[0].s->q);
}

/* The next group: candidates in their order, until either of its two passes is wide enough. false: there are no
 * more. */
static bool next_group(batch *b)
{
    int fresh = 0, asked = 0;
    for (b->n = b->taken = 0; b->next_s < b->n_s; b->next_s++, b->next_i = 0) {
        request *s = b->s[b->next_s];
        for (; !s->e.code && b->next_i < s->q->K; b->next_i++) {
            if (b->n
                && (fresh >= b->k->pass_tokens || asked + s->ask.n_ids > b->k->pass_tokens || !same_branch(b, s)))
                return true;
            if (!add_member(b, s, b->next_i)) break;
            const prefix_kv *z = &b->z[b->n - 1];
            if (!z->ready) fresh += prefix_tokens(z);
            asked += s->ask.n_ids;
        }
    }
    return b->n > 0;
}

/* What a member's request has had of it. */
static bool account(const batch *b, int i, err *e)
{
    request         *s = b->m[i].s;
    const prefix_kv *z = &b->z[i];
    int              n = z->keys.n, most = n > s->ask.n_ids ? n : s->ask.n_ids;
    int             *seen = ARENA_NEW(b->a, int, most, e);
    if (!seen) return false;
    int longest = n + s->n_query + trie_text(&s->t);
    if (longest > s->prompt_tokens) s->prompt_tokens = longest;
    s->n_cached += z->cached;
    if (z->job && !z->shared) s->flops += prefix_flops(b->r, z->job->branch, &z->job->pic, n, seen);
    s->flops += query_flops(b->r, s, n, seen);
    return true;
}

static bool run_group(batch *b, err *e)
{
    drop_failed(b);
    if (b->n == 0) return true;
    if (!prefixes_compute(b->r, b->k, b->z, b->n, b->a, e)) return false;
    drop_failed(b);
    if (b->n == 0) return true;
    range_begin("queries");
    bool ok = run_queries(b, e);
    range_end();
    if (!ok) return false;
    for (int i = 0; i < b->n; i++)
        if (!account(b, i, e)) return false;
    return true;
}

/* Form a group and read it; an error is that of every request in it. false: there was none left. */
static bool read_group(batch *b)
{
    err        e = {0};
    size_t     mark = b->k->mark(b->k);
    arena_mark am = arena_here(b->a);
    if (!next_group(b)) return false;
    if (!run_group(b, &e))
        for (int i = 0; i < b->n; i++)
            if (!b->m[i].s->e.code) b->m[i].s->e = e;
    for (int i = 0; i < b->taken; i++) prefix_release(b->r, b->k, &b->z[i]);
    b->k->back(b->k, mark);
    arena_back(b->a, am);
    kernels_recover(b->k);
    return true;
}

/* ---- requests ---- */

/* Vision tokens of the query pictures of s[0 .. n - 1], which are of one branch, in one pass of the tower. */
static bool encode_together(const batch *b, request **s, int n, err *e)
{
    act     *vision;
    size_t   row = 0;
    picture *pic = ARENA_NEW(b->a, picture, n, e);
    if (!pic) return false;
    for (int i = 0; i < n; i++) pic[i] = s[i]->image;
    if (!pictures_encode(b->r, b->k, reader_branch(b->r, s[0]->q), pic, n, &vision, b->a, e)
        || !b->k->sync(b->k, e))
        return false;
    for (int i = 0; i < n; i++) {
        s[i]->vision = act_at(b->k, vision, row * reader_width(b->r));
        s[i]->flops += b->r->f->encode_flops(b->r->m, reader_branch(b->r, s[i]->q), &s[i]->image);
        row += (size_t)picture_tokens(&pic[i]);
    }
    return true;
}

/* Those of all requests: of one alone perhaps kept from an earlier one. */
static void encode_queries(batch *b)
{
    for (int i = 0, n; i < b->n_s; i += n) {
        err e = {0};
        int tokens = 0;
        for (n = 0; i + n < b->n_s && tokens < b->k->pass_tokens; n++) {
            if (reader_branch(b->r, b->s[i + n]->q) != reader_branch(b->r, b->s[i]->q)) break;
            tokens += picture_tokens(&b->s[i + n]->image);
        }
        request *one = b->s[i];
        bool ok = b->n_s == 1 ? query_encode(b->r, b->k, one->q, &one->image, &one->vision, b->a, &e)
                                    && b->k->sync(b->k, &e)
                              : encode_together(b, b->s + i, n, &e);
        for (int j = i; !ok && j < i + n; j++) b->s[j]->e = e;
        kernels_recover(b->k);
    }
}

static void sum_answers(const request *s, reader_scores *y)
{
    for (int i = 0; i < s->q->K; i++)
        for (int a = 0; a < s->t.A; a++) {
            const float *logit = s->logit + (size_t)i * (size_t)s->t.n_edges,
                        *lse = s->lse + (size_t)i * (size_t)s->t.n_edges;
            double       lp = 0, raw = 0;
            for (int j = 0; j < s->t.len[a]; j++) {
                int c = s->t.path[a][j];
                lp += (double)logit[c] - (double)lse[c];
                if (j < s->t.own[a]) raw += (double)logit[c];
            }
            y->logp[i * s->t.A + a] = (float)lp;
            y->logit[i * s->t.A + a] = (float)(raw / s->t.own[a]);
        }
}

static bool conclude(const request *s, reader_scores *out, err *e)
{
    size_t        n = (size_t)s->q->K * (size_t)s->t.A;
    reader_scores y = {.answer_tokens = s->t.own, .end_token = s->t.end_token, .n_cached = s->n_cached,
                       .prompt_tokens = s->prompt_tokens, .flops = s->flops};
    y.logp = ARENA_NEW(s->a, float, n, e);
    y.logit = y.logp ? ARENA_NEW(s->a, float, n, e) : NULL;
    if (!y.logit) return false;
    sum_answers(s, &y);
    *out = y;
    return true;
}

/* Read the requests that are open. */
static bool read_all(reader *r, kernels *k, request **s, int n, arena *a, err *e)
{
    int    K = 0;
    size_t mark = k->mark(k);
    for (int i = 0; i < n; i++) K += s[i]->q->K;
    batch b = {.r = r, .k = k, .s = s, .n_s = n, .a = a};
    b.m = ARENA_NEW(a, member, K, e);
    b.z = b.m ? ARENA_NEW(a, prefix_kv, K, e) : NULL;
    if (!b.z) return false;
    encode_queries(&b);
    while (read_group(&b)) { }
    k->back(k, mark);
    return true;
}

bool reader_score_many(reader *r, kernels *k, const reader_job *job, int n, err *e)
{
    int       open = 0;
    uint64_t  before = k->flops;
    request  *s = ARENA_NEW(job[0].a, request, n, e), **live = s ? ARENA_NEW(job[0].a, request *, n, e) : NULL;
    if (!live) return false;
    for (int i = 0; i < n; i++) {
        s[i] = (request){0};
        if (request_open(&s[i], r, job[i].q, job[i].a, &s[i].e)) live[open++] = &s[i];
    }
    if (open && !read_all(r, k, live, open, job[0].a, e)) return false;
    for (int i = 0; i < n; i++) {
        if (n == 1) s[i].flops = k->flops - before; /* what the device counted */
        if (!s[i].e.code) conclude(&s[i], job[i].out, &s[i].e);
        *job[i].e = s[i].e;
    }
    return true;
}

bool reader_score(reader *r, kernels *k, const reader_query *q, arena *a, reader_scores *out, err *e)
{
    err        why = {0};
    reader_job job = {q, a, out, &why};
    if (!reader_score_many(r, k, &job, 1, e)) return false;
    if (why.code) *e = why;
    return !why.code;
}
