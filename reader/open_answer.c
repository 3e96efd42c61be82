/* open_answer.c - text of the reader's own, decoded from all candidates at once.
 *
 *   per request    prefixes of all candidates, held to the end; vision tokens of the query image; ids of the
 *                  query part
 *   once           one pass over the K query parts
 *   per step       the mixture's likeliest tokens (kernels->mixture) -> one token, which all K branches consume in
 *                  one packed pass
 *
 * Branches stand in ascending passage id from the start, which fixes the order of every sum over them.
 *
 * With beams, each branch keeps the tokens of all of them behind its query part as a tree, and a beam's row
 * sees its own ancestors: so beams that come and go copy no keys, and a step is still one pass of K x beams
 * rows.
 *
 *     own keys of a branch    [ query part | a1 b1 | a2 b2 | a3 b3 ]        row b3 sees the query part, a1, b2, b3
 *                                              b2 extends a1 */
#include <math.h>
#include <string.h>

#include "kernels/mixture.h"
#include "reader/beam.h"
#include "reader/candidate.h"
#include "reader/detokenise.h"

/* One decoding under way. Activations are scratch, the rest is the arena's. */
typedef struct {
    reader                *r;
    kernels               *k;
    const decoder         *text;
    const reader_decoding *d;
    reader_query           q;       /* the caller's, its candidates in ascending id */
    int                   *from;    /* [K] place of each in the caller's order */
    float                 *w;       /* [K] */
    int                    K, B, V;
    arena                 *a;
    /* prompts */
    prompt                 ask;     /* the query part */
    prefix_kv             *before;  /* [K] */
    kv                    *own;     /* [K] query part, then emitted tokens */
    int                   *after;   /* [K] position of the first emitted token */
    uint64_t              *told;    /* [K] sets of the ids of each prompt, for a penalty; NULL: there is none */
    /* a step */
    act                   *x;       /* [K * B, D] rows whose logits come next: K branches of each beam under way */
    decoder_pass          *pass;    /* [K] */
    int32_t               *ids, *pos; /* [K * B], [3 * K * B] */
    uint8_t               *visible; /* [nodes, nodes] at most; NULL: one beam, so that causal order is all */
    uint64_t              *seen;    /* [K * B] sets of ids that a row is penalised for; NULL: there is no penalty */
    /* synchronised */
    beam_search            beams;
    mixture_args           mixture;
    /* reference */
    float                 *logit;   /* [K, V] */
    double                *p, *part; /* [V] */
    row_facts             *facts;   /* [K] */
    /* what came of it */
    detokeniser            words;
    int32_t               *token;   /* [n_token] emitted */
    int                    n_token;
    int                    prompt_tokens, n_cached;
} decoding;

/* ---- what is read before the first token ---- */

static bool go_on(const decoding *s, err *e) { return !s->q.go_on || s->q.go_on(s->q.go_on_ctx, e); }

static bool sensible(const reader_query *q, const reader_decoding *d, err *e)
{
    if (q->K >= 1 && d->max_new_tokens >= 1 && d->beams >= 1 && d->repetition_penalty > 0
        && !(d->reference && d->beams > 1))
        return true;
    return err_set(e, ERR_BUG, "reader: an open answer of %d candidates, %d tokens, %d beams", q->K,
                   d->max_new_tokens, d->beams);
}

/* The candidates in ascending id; equal ones stay in order. */
static bool put_in_order(decoding *s, err *e)
{
    const reader_query *q = &s->q;
    reader_passage *z = ARENA_NEW(s->a, reader_passage, s->K, e);
    s->from = z ? ARENA_NEW(s->a, int, s->K, e) : NULL;
    s->w = s->from ? ARENA_NEW(s->a, float, s->K, e) : NULL;
    if (!s->w) return false;
    for (int k = 0; k < s->K; k++) {
        int at = k;
        for (; at > 0 && q->z[k].id < z[at - 1].id; at--) {
            z[at] = z[at - 1];
            s->from[at] = s->from[at - 1];
        }
        z[at] = q->z[k];
        s->from[at] = k;
    }
    for (int k = 0; k < s->K; k++) s->w[k] = s->d->weight[s->from[k]];
    s->q.z = z;
    return true;
}

/* For the mixture's results. */
static bool take_mixture(decoding *s, err *e)
{
    mixture_args *m = &s->mixture;
    int           most = s->d->max_new_tokens;
    if (!beam_begin(&s->beams, s->K, s->B, s->V, most, &s->r->generation, s->a, e)) return false;
    size_t top = (size_t)s->beams.top, B = (size_t)s->B, K = (size_t)s->K;
    *m = (mixture_args){
        .K = s->K, .top = s->beams.top, .w = s->w, .seen = s->seen, .penalty = s->d->repetition_penalty};
    m->token = ARENA_NEW(s->a, int32_t, B * top, e);
    m->p = m->token ? ARENA_NEW(s->a, double, B * top, e) : NULL;
    m->each = m->p ? ARENA_NEW(s->a, double, B * top * K, e) : NULL;
    m->likeliest = m->each ? ARENA_NEW(s->a, int32_t, B * K, e) : NULL;
    return m->likeliest != NULL;
}

/* For the pool of logits. */
static bool take_pool(decoding *s, err *e)
{
    size_t V = (size_t)s->V;
    s->facts = ARENA_NEW(s->a, row_facts, s->K, e);
    s->logit = s->facts ? ARENA_NEW(s->a, float, (size_t)s->K * V, e) : NULL;
    s->p = s->logit ? ARENA_NEW(s->a, double, V, e) : NULL;
    s->part = s->p ? ARENA_NEW(s->a, double, V, e) : NULL;
    return s->part != NULL;
}

static bool take_memory(decoding *s, err *e)
{
    size_t rows = (size_t)s->K * (size_t)s->B, nodes = (size_t)s->B * (size_t)s->d->max_new_tokens;
    s->before = ARENA_NEW(s->a, prefix_kv, s->K, e);
    s->own = s->before ? ARENA_NEW(s->a, kv, s->K, e) : NULL;
    s->after = s->own ? ARENA_NEW(s->a, int, s->K, e) : NULL;
    s->pass = s->after ? ARENA_NEW(s->a, decoder_pass, s->K, e) : NULL;
    s->ids = s->pass ? ARENA_NEW(s->a, int32_t, rows, e) : NULL;
    s->pos = s->ids ? ARENA_NEW(s->a, int32_t, 3 * rows, e) : NULL;
    s->token = s->pos ? ARENA_NEW(s->a, int32_t, s->d->max_new_tokens, e) : NULL;
    if (!s->token) return false;
    if (s->d->repetition_penalty != 1 && !(s->seen = ARENA_NEW(s->a, uint64_t, rows * id_set_words(s->V), e)))
        return false;
    if (s->B > 1 && !(s->visible = ARENA_NEW(s->a, uint8_t, nodes * nodes, e))) return false;
    return (s->d->reference ? take_pool(s, e) : take_mixture(s, e))
        && detokenise_begin(&s->words, s->r->tokens, 8 * (size_t)s->d->max_new_tokens, s->a, e);
}

/* The ids of each prompt. A cached prefix does not keep its own, so each pair is rendered once more. */
static bool read_prompt_ids(decoding *s, err *e)
{
    size_t words = id_set_words(s->V);
    if (!s->seen) return true;
    if (!(s->told = ARENA_NEW(s->a, uint64_t, (size_t)s->K * words, e))) return false;
    for (int k = 0; k < s->K; k++) {
        arena_mark am = arena_here(s->a);
        picture    pic;
        prompt     pair;
        if (!go_on(s, e) || !prefix_render(s->r, &s->q, &s->q.z[k], &pic, &pair, s->a, e)) return false;
        id_set_add(s->told + (size_t)k * words, pair.ids, pair.n_ids);
        id_set_add(s->told + (size_t)k * words, s->ask.ids, s->ask.n_ids);
        arena_back(s->a, am);
    }
    return true;
}

/* The K prefixes, and room for what comes behind them. */
static bool take_prefixes(decoding *s, err *e)
{
    int rest = s->ask.n_ids + s->d->max_new_tokens, room = s->ask.n_ids + s->B * s->d->max_new_tokens;
    if (!prompt_fits(s->r, rest, e)) return false; /* before anything is computed */
    if (!prefixes_take(s->r, s->k, &s->q, s->before, s->a, e) || !read_prompt_ids(s, e)) return false;
    for (int k = 0; k < s->K; k++) {
        int n = s->before[k].keys.n;
        if (!prompt_fits(s->r, n + rest, e)) return false;
        s->own[k] = (kv){s->k->take(s->k, decoder_kv_len(s->text, room)), room, 0};
        s->n_cached += s->before[k].cached;
        if (n + s->ask.n_ids > s->prompt_tokens) s->prompt_tokens = n + s->ask.n_ids;
    }
    s->x = s->k->take(s->k, (size_t)s->K * (size_t)s->B * reader_width(s->r));
    return true;
}

/* Query parts of branches first .. first + n - 1 in one pass; the row behind the last token of each goes to x. */
static bool read_some(decoding *s, const act *vision, int first, int n, err *e)
{
    size_t     D = reader_width(s->r), T = (size_t)s->ask.n_ids, mark = s->k->mark(s->k);
    arena_mark am = arena_here(s->a);
    act       *x = s->k->take(s->k, (size_t)n * T * D);
    int32_t   *pos = ARENA_NEW(s->a, int32_t, 3 * (size_t)n * T, e);
    if (!pos) return false;
    for (int i = 0; i < n; i++) {
        int      k = first + i;
        act     *xi = act_at(s->k, x, (size_t)i * T * D);
        int32_t *pi = pos + 3 * (size_t)i * T;
        s->after[k] = s->r->f->positions(pi, &s->ask, s->before[k].cursor);
        decoder_embed(s->text, s->k, &s->ask, vision, xi);
        s->pass[i] = (decoder_pass){.prefix = &s->before[k].keys,
                                    .own = &s->own[k],
                                    .pos = pi,
                                    .x = xi,
                                    .T = s->ask.n_ids,
                                    .adapter = reader_branch(s->r, &s->q),
                                    .want = s->ask.n_ids - 1};
    }
    bool ok = decoder_forward_packed(s->text, s->k, s->pass, n, act_at(s->k, s->x, (size_t)first * D), s->a, e);
    s->k->back(s->k, mark);
    arena_back(s->a, am);
    return ok;
}

/* As many branches at a time as fill the device. */
static bool read_prompts(decoding *s, const act *vision, err *e)
{
    int group = s->k->pass_tokens / s->ask.n_ids;
    if (group < 1) group = 1;
    for (int k = 0; k < s->K; k += group) {
        int n = s->K - k < group ? s->K - k : group;
        if (!go_on(s, e) || !read_some(s, vision, k, n, e) || !s->k->sync(s->k, e)) return false;
    }
    decoder_norm(s->text, s->k, s->x, s->K);
    return true;
}

/* ---- one step ---- */

static bool unsound(err *e)
{
    return err_set(e, ERR_BUG, "reader: logits that are not finite numbers: are the weights sound?");
}

/* The set of ids that row `row` is penalised for: those of branch k's prompt, to which emitted ones are added. */
static uint64_t *begin_seen(const decoding *s, size_t row, int k)
{
    size_t words = id_set_words(s->V);
    return memcpy(s->seen + row * words, s->told + (size_t)k * words, words * sizeof *s->seen);
}

/* All branches consume n tokens each, ids [K * n], which stand t behind the prompt; in a tree of n_tree nodes,
 * the last n. */
static bool consume(decoding *s, int n, int t, int n_tree, err *e)
{
    size_t D = reader_width(s->r);
    prompt p = {.ids = s->ids, .n_ids = s->K * n};
    decoder_embed(s->text, s->k, &p, NULL, s->x);
    for (int k = 0; k < s->K; k++) {
        int32_t *pos = s->pos + 3 * k * n;
        for (int i = 0; i < 3 * n; i++) pos[i] = s->after[k] + t;
        s->pass[k] = (decoder_pass){.prefix = &s->before[k].keys,
                                    .own = &s->own[k],
                                    .pos = pos,
                                    .T = n,
                                    .x = act_at(s->k, s->x, (size_t)(k * n) * D),
                                    .adapter = reader_branch(s->r, &s->q),
                                    .step = true,
                                    .n_tree = n_tree,
                                    .visible = s->visible};
    }
    if (!decoder_forward_packed(s->text, s->k, s->pass, s->K, s->x, s->a, e)) return false;
    decoder_norm(s->text, s->k, s->x, s->K * n);
    return true;
}

static bool hand_on(const decoding *s, const char *text, size_t n, err *e)
{
    return n == 0 || !s->d->on_text || s->d->on_text(s->d->on_text_ctx, text, n, e);
}

/* With beams nothing is handed on before the search is over. */
static bool emit(decoding *s, int32_t id, err *e)
{
    const char *fresh;
    size_t      n;
    s->token[s->n_token++] = id;
    return detokenise(&s->words, id, &fresh, &n, e) && (s->B > 1 || hand_on(s, fresh, n, e));
}

static bool end_text(decoding *s, err *e)
{
    const char *fresh;
    size_t      n;
    if (!detokenise_end(&s->words, &fresh, &n, e)) return false;
    return s->B > 1 ? hand_on(s, s->words.text, s->words.len, e) : hand_on(s, fresh, n, e);
}

/* ---- synchronised: all branches have the same tokens behind their prompts ---- */

/* What may come behind each beam under way, and the best of it. */
static bool extend_beams(decoding *s, beam_search *y, err *e)
{
    mixture_args *m = &s->mixture;
    m->n = y->n;
    for (int k = 0; s->seen && k < s->K; k++)
        for (int b = 0; b < y->n; b++) {
            uint64_t *set = begin_seen(s, (size_t)k * (size_t)y->n + (size_t)b, k);
            for (int i = y->run[b].node; i >= 0; i = y->parent[i]) id_set_add(set, &y->token[i], 1);
        }
    s->k->mixture(s->k, m, s->x, decoder_head(s->text));
    if (!s->k->sync(s->k, e)) return false;
    for (int b = 0; b < y->n; b++) {
        const double *p = m->p + b * m->top;
        if (isnan(*p)) return unsound(e);
        beam_extend(y, b, m->token + b * m->top, p);
    }
    beam_step(y, m->each, m->likeliest);
    return true;
}

/* Rows of `visible` for the beams under way, the newest nodes of the tree: each sees what it extends, and itself. */
static void see_ancestors(const decoding *s, const beam_search *y)
{
    size_t   N = (size_t)y->n_nodes;
    uint8_t *row = s->visible + (N - (size_t)y->n) * N;
    memset(row, 0, (size_t)y->n * N);
    for (int b = 0; b < y->n; b++, row += N)
        for (int i = y->run[b].node; i >= 0; i = y->parent[i]) row[i] = 1;
}

static bool synchronised(decoding *s, reader_text *out, err *e)
{
    beam_search *y = &s->beams;
    for (int t = 0; t < s->d->max_new_tokens; t++) {
        if (!go_on(s, e) || !extend_beams(s, y, e)) return false;
        if (beam_over(y)) break;
        if (s->B == 1 && !emit(s, y->token[y->run[0].node], e)) return false;
        if (t + 1 == s->d->max_new_tokens) break;
        for (int k = 0; k < s->K; k++)
            for (int b = 0; b < y->n; b++) s->ids[k * y->n + b] = y->token[y->run[b].node];
        if (s->visible) see_ancestors(s, y);
        if (!consume(s, y->n, t, s->visible ? y->n_nodes : 0, e)) return false;
    }
    const beam *best = beam_best(y, &out->ended);
    out->logp = (float)best->logp;
    for (int k = 0; k < s->K; k++) {
        out->each[s->from[k]] = (float)best->each[k];
        out->agrees[s->from[k]] = best->agrees[k];
    }
    if (s->B == 1) return true;
    int32_t *ids;
    int      n;
    if (!beam_tokens(y, best, &ids, &n, s->a, e)) return false;
    for (int i = 0; i < n; i++)
        if (!emit(s, ids[i], e)) return false;
    return true;
}

/* ---- reference: each branch goes on with its own likeliest token ---- */

/* Whether every candidate of some head has ended. */
static bool a_head_has_ended(const decoding *s, const bool *ended)
{
    unsigned running = 0, all = 0;
    for (int k = 0; k < s->K; k++) {
        unsigned heads = s->d->heads ? s->d->heads[s->from[k]] : 1;
        all |= heads;
        if (!ended[k]) running |= heads;
    }
    return (all & ~running) != 0;
}

static bool read_logits(decoding *s, err *e)
{
    s->k->logits(s->k, s->logit, s->x, s->K, decoder_head(s->text));
    return s->k->sync(s->k, e);
}

static bool unsynchronised(decoding *s, reader_text *out, err *e)
{
    const generation_config *ends = &s->r->generation;
    size_t   V = (size_t)s->V;
    int      most = s->d->max_new_tokens;
    double   logp = 0, *each = ARENA_NEW(s->a, double, s->K, e);
    bool    *ended = each ? ARENA_NEW(s->a, bool, s->K, e) : NULL;
    int32_t *tail = ended ? ARENA_NEW(s->a, int32_t, (size_t)s->K * (size_t)most, e) : NULL; /* of each branch */
    if (!tail) return false;
    for (int k = 0; k < s->K; k++) out->agrees[s->from[k]] = true;

    for (int t = 0; t < most; t++) {
        row_facts pool;
        if (!go_on(s, e) || !read_logits(s, e)) return false;
        for (int k = 0; s->seen && k < s->K; k++) {
            uint64_t *set = begin_seen(s, (size_t)k, k);
            id_set_add(set, tail + k * most, t);
            penalise(s->logit + (size_t)k * V, set, s->V, s->d->repetition_penalty);
        }
        if (!pool_logits(s->p, &pool, s->facts, s->logit, V, s->w, s->K, s->V, s->part)) return unsound(e);
        int32_t id = pool.likeliest;
        bool    end = generation_ends(ends, id);
        logp += s->p[id] - pool.lse;
        for (int k = 0; k < s->K; k++) {
            int32_t own = ended[k] ? ends->pad : s->facts[k].likeliest;
            each[k] += (double)s->logit[(size_t)k * V + (size_t)id] - s->facts[k].lse;
            ended[k] = ended[k] || generation_ends(ends, own);
            if (!(ended[k] ? end : own == id)) out->agrees[s->from[k]] = false;
            s->ids[k] = tail[k * most + t] = own;
        }
        out->ended = end || a_head_has_ended(s, ended);
        if (!end && !emit(s, id, e)) return false;
        if (out->ended || t + 1 == most) break;
        if (!consume(s, 1, t, 0, e)) return false;
    }
    out->logp = (float)logp;
    for (int k = 0; k < s->K; k++) out->each[s->from[k]] = (float)each[k];
    return true;
}

/* ---- all of it ---- */

static bool decode(decoding *s, reader_text *out, err *e)
{
    picture pic;
    act    *vision;
    out->each = ARENA_NEW(s->a, float, s->K, e);
    out->agrees = out->each ? ARENA_NEW(s->a, bool, s->K, e) : NULL;
    if (!out->agrees || !put_in_order(s, e) || !take_memory(s, e)) return false;
    if (!query_prepare(s->r, &s->q, &pic, &s->ask, s->a, e)) return false;
    return query_encode(s->r, s->k, &s->q, &pic, &vision, s->a, e)
        && take_prefixes(s, e)
        && read_prompts(s, vision, e)
        && (s->d->reference ? unsynchronised(s, out, e) : synchronised(s, out, e))
        && end_text(s, e);
}

bool reader_generate(reader *r, kernels *k, const reader_query *q, const reader_decoding *d, arena *a,
                     reader_text *out, err *e)
{
    uint64_t    before = k->flops;
    size_t      mark = k->mark(k);
    reader_text y = {0};
    decoding    s = {.r = r, .k = k, .text = r->m->text, .d = d, .q = *q, .K = q->K, .B = d->beams, .a = a};
    s.V = decoder_sizes(s.text)->V;
    if (!sensible(q, d, e)) return false;
    bool ok = decode(&s, &y, e);
    for (int i = 0; s.before && i < s.K; i++) prefix_release(r, k, &s.before[i]);
    k->back(k, mark);
    if (!ok) {
        kernels_recover(k);
        return false;
    }
    y.text = s.words.text;
    y.token = s.token;
    y.n_tokens = s.n_token;
    y.n_cached = s.n_cached;
    y.prompt_tokens = s.prompt_tokens;
    y.flops = k->flops - before;
    *out = y;
    return true;
}
