#include "reader/beam.h"

#include <math.h>
#include <string.h>

static bool beam_new(beam *b, int K, arena *a, err *e)
{
    b->node = -1;
    b->each = ARENA_NEW(a, double, K, e);
    b->agrees = b->each ? ARENA_NEW(a, bool, K, e) : NULL;
    return b->agrees != NULL;
}

bool beam_begin(beam_search *s, int K, int B, int V, int most, const generation_config *ends, arena *a, err *e)
{
    size_t nodes = (size_t)B * (size_t)most;
    int    room = B * (1 + ends->n_end); /* surely B that do not end */
    *s = (beam_search){.ends = ends, .B = B, .K = K, .top = room < V ? room : V, .n = 1, .room = room};
    s->run = ARENA_NEW(a, beam, B, e);
    s->next = s->run ? ARENA_NEW(a, beam, B, e) : NULL;
    s->parent = s->next ? ARENA_NEW(a, int, nodes, e) : NULL;
    s->token = s->parent ? ARENA_NEW(a, int32_t, nodes, e) : NULL;
    s->best = s->token ? ARENA_NEW(a, extension, s->room, e) : NULL;
    if (!s->best || !beam_new(&s->done, K, a, e)) return false;
    for (int b = 0; b < B; b++)
        if (!beam_new(&s->run[b], K, a, e) || !beam_new(&s->next[b], K, a, e)) return false;
    for (int k = 0; k < K; k++) s->run[0].agrees[k] = true;
    return true;
}

static bool before(const extension *x, const extension *y)
{
    if (x->logp != y->logp) return x->logp > y->logp;
    return x->from != y->from ? x->from < y->from : x->token < y->token;
}

static void insert(beam_search *s, extension x)
{
    int i = s->n_best < s->room ? s->n_best++ : s->room - 1;
    for (; i > 0 && before(&x, &s->best[i - 1]); i--) s->best[i] = s->best[i - 1];
    s->best[i] = x;
}

void beam_extend(beam_search *s, int b, const int32_t *token, const double *p)
{
    double so_far = s->run[b].logp;
    for (int i = 0; i < s->top && p[i] > 0; i++) {
        extension x = {so_far + log(p[i]), b, token[i], i};
        if (s->n_best < s->room || before(&x, &s->best[s->room - 1])) insert(s, x);
    }
}

/* from and one token more. */
static void extend(const beam_search *s, beam *to, const extension *x, const double *each, const int32_t *likeliest)
{
    const beam *from = &s->run[x->from];
    bool        end = generation_ends(s->ends, x->token);
    to->logp = x->logp;
    to->node = from->node;
    for (int k = 0; k < s->K; k++) {
        int32_t own = likeliest[x->from * s->K + k];
        to->each[k] = from->each[k] + each[(x->from * s->top + x->at) * s->K + k];
        to->agrees[k] = from->agrees[k] && (own == x->token || (end && generation_ends(s->ends, own)));
    }
}

void beam_step(beam_search *s, const double *each, const int32_t *likeliest)
{
    int n = 0;
    for (int i = 0; i < s->n_best; i++) {
        const extension *x = &s->best[i];
        if (generation_ends(s->ends, x->token)) {
            if (i >= s->B || (s->has_done && x->logp <= s->done.logp)) continue;
            extend(s, &s->done, x, each, likeliest);
            s->has_done = true;
        } else if (n < s->B) {
            beam *b = &s->next[n++];
            extend(s, b, x, each, likeliest);
            s->parent[s->n_nodes] = b->node;
            s->token[s->n_nodes] = x->token;
            b->node = s->n_nodes++;
        }
    }
    beam *was = s->run;
    s->run = s->next;
    s->next = was;
    s->n = n;
    s->n_best = 0;
}

bool beam_over(const beam_search *s) { return s->n == 0 || (s->has_done && s->done.logp >= s->run[0].logp); }

const beam *beam_best(const beam_search *s, bool *ended)
{
    *ended = s->has_done && beam_over(s);
    return *ended ? &s->done : &s->run[0];
}

bool beam_tokens(const beam_search *s, const beam *b, int32_t **ids, int *n, arena *a, err *e)
{
    *n = 0;
    for (int i = b->node; i >= 0; i = s->parent[i]) (*n)++;
    *ids = ARENA_NEW(a, int32_t, *n ? *n : 1, e);
    if (!*ids) return false;
    for (int i = b->node, at = *n; i >= 0; i = s->parent[i]) (*ids)[--at] = s->token[i];
    return true;
}
