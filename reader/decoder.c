/* decoder.c - straight down the layer of Llama-like decoders [Touvron et al. 2023, arXiv:2302.13971; grouped queries:
 * Ainslie et al. 2023, arXiv:2305.13245; three-axis rotary: Wang et al. 2024, arXiv:2409.12191, section 2.1]:
 *
 *     x += o(attend(rope(q(n1(x))), rope(k(n1(x))), v(n1(x))))        x += down(silu(gate(n2(x))) * up(n2(x)))
 *
 * Three savings that change no bit, since rows of a product do not depend on each other:
 *   - the sequences of a pass are packed: all but attention runs over their rows together, so a weight is read once;
 *   - the last layer's queries, attention and feed-forward are made only for rows somebody reads. A prefix is
 *     kept for its keys and values, so there the last layer is two products;
 *   - the feed-forward runs in blocks of rows, which bounds its buffers for long prompts.
 *
 *     rows      [ seq 0: T0 rows | seq 1: T1 rows | ... ]       last layer      [ wanted of 0 | wanted of 1 | ... ]
 *     products, norms, rope      over all of them                               over those
 *     attention                  seq i's queries over [prefix i | own i]
 *
 * TRAP: keys go into `own` rotated, so a prefix is valid only at the positions it was made for: always the start. */
#include "reader/decoder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { MLP_ROWS = 512 }; /* or as many as fill the device; at F = 18,944: 2 x 39 MB of f32 */

typedef struct { weight norm1, norm2; linear q, k, v, o, gate, up, down; } layer;

struct decoder {
    decoder_config c;
    layer         *layers; /* [L] */
    weight         embed, norm, head;
    float         *inv;    /* [head_dim / 2] rotary frequencies */
    uint8_t       *axis;   /* [head_dim / 2] the position axis each follows */
};

/* Frequencies as the reference rounds them: float32 at every step. */
static bool rope_open(decoder *d, err *e)
{
    int half = d->c.head_dim / 2, j = 0;
    d->inv = mem_zalloc((size_t)half, sizeof *d->inv);
    d->axis = mem_zalloc((size_t)half, 1);
    if (!d->inv || !d->axis) return err_set(e, ERR_MEMORY, "reader: out of memory");
    for (int i = 0; i < half; i++) d->inv[i] = 1.0f / powf((float)d->c.theta, (float)(2 * i) / (float)d->c.head_dim);
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < d->c.section[s]; i++) d->axis[j++] = (uint8_t)s;
    return true;
}

static bool layer_open(layer *y, const decoder_config *c, const loader *l, int i, err *e)
{
    int q = c->N * c->head_dim, kv_dim = c->kv_heads * c->head_dim;
    return load_vector(l, &y->norm1, c->D, e, "layers.%d.input_layernorm.weight", i)
        && load_vector(l, &y->norm2, c->D, e, "layers.%d.post_attention_layernorm.weight", i)
        && load_linear(l, &y->q, q, c->D, c->qkv_bias, e, "layers.%d.self_attn.q_proj", i)
        && load_linear(l, &y->k, kv_dim, c->D, c->qkv_bias, e, "layers.%d.self_attn.k_proj", i)
        && load_linear(l, &y->v, kv_dim, c->D, c->qkv_bias, e, "layers.%d.self_attn.v_proj", i)
        && load_linear(l, &y->o, c->D, q, false, e, "layers.%d.self_attn.o_proj", i)
        && load_linear(l, &y->gate, c->F, c->D, false, e, "layers.%d.mlp.gate_proj", i)
        && load_linear(l, &y->up, c->F, c->D, false, e, "layers.%d.mlp.up_proj", i)
        && load_linear(l, &y->down, c->D, c->F, false, e, "layers.%d.mlp.down_proj", i);
}

bool decoder_vocabulary(decoder_config *c, const loader *l, int n_ids, err *e)
{
    char          name[96];
    const tensor *t;
    snprintf(name, sizeof name, "%sembed_tokens.weight", l->prefix);
    if (!safetensors_need(l->file, &t, name, (int64_t[]){0, c->D, -1}, e)) return false;
    if (t->dim[0] < n_ids || t->dim[0] > INT32_MAX)
        return err_set(e, ERR_FILE, "%s: %s has %lld rows, tokenizer.json has %d tokens", t->file, name,
                       (long long)t->dim[0], n_ids);
    c->V = (int)t->dim[0];
    return true;
}

bool decoder_open(decoder **out, const decoder_config *c, const loader *l, const char *head, err *e)
{
    bool     ok = false;
    loader   top = {.file = l->file, .k = l->k, .prefix = ""};
    decoder *d = mem_zalloc(1, sizeof *d);
    if (!d) return err_set(e, ERR_MEMORY, "reader: out of memory");
    d->c = *c;
    d->layers = mem_zalloc((size_t)c->L, sizeof *d->layers);
    if (!d->layers) { err_set(e, ERR_MEMORY, "reader: out of memory"); goto done; }

    if (!rope_open(d, e)) goto done;
    if (!load_matrix(l, &d->embed, c->V, c->D, e, "embed_tokens.weight")) goto done;
    for (int i = 0; i < c->L; i++)
        if (!layer_open(&d->layers[i], c, l, i, e)) goto done;
    if (!load_vector(l, &d->norm, c->D, e, "norm.weight")) goto done;
    if (!c->tied && !load_matrix(&top, &d->head, c->V, c->D, e, "%s", head)) goto done;
    *out = d;
    ok = true;
done:
    if (!ok) decoder_close(d, l->k);
    return ok;
}

void decoder_close(decoder *d, kernels *k)
{
    if (!d) return;
    for (int i = 0; d->layers && i < d->c.L; i++) {
        layer *y = &d->layers[i];
        k->weight_close(k, &y->norm1);
        k->weight_close(k, &y->norm2);
        linear *const all[] = {&y->q, &y->k, &y->v, &y->o, &y->gate, &y->up, &y->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) linear_close(k, all[j]);
    }
    k->weight_close(k, &d->embed);
    k->weight_close(k, &d->norm);
    k->weight_close(k, &d->head);
    free(d->layers);
    free(d->inv);
    free(d->axis);
    free(d);
}

const decoder_config *decoder_sizes(const decoder *d) { return &d->c; }
const weight *decoder_head(const decoder *d) { return d->c.tied ? &d->embed : &d->head; }

static size_t kv_dim(const decoder_config *c) { return (size_t)c->kv_heads * (size_t)c->head_dim; }

size_t decoder_kv_len(const decoder *d, int tokens) { return 2 * (size_t)d->c.L * (size_t)tokens * kv_dim(&d->c); }

/* Row `row` of layer i's keys (which = 0) or values (1). */
static act *kv_row(const decoder *d, const kernels *k, const kv *c, int i, int which, int row)
{
    size_t plane = (size_t)c->capacity * kv_dim(&d->c);
    return act_at(k, c->data, (size_t)(2 * i + which) * plane + (size_t)row * kv_dim(&d->c));
}

kv decoder_kv_from(const decoder *d, const kernels *k, const kv *whole, int row)
{
    return (kv){act_at(k, whole->data, (size_t)row * kv_dim(&d->c)), whole->capacity, 0};
}

/* Angles of rows, where rope reads them: [rows, head_dim / 2]. */
typedef struct { const float *cos_, *sin_; } angles;

/* A packed pass under way. */
typedef struct {
    const decoder_pass *p;
    int          n, T, wanted; /* sequences, their rows, those wanted of the last layer */
    bool         in_line;      /* own rows of the sequences lie one behind the other: products write them in place */
    angles       all, last;    /* of all rows; of those wanted */
    attend_args *at;           /* [n] */
    act_copy    *moves;        /* [2 n] */
    act         *x, *h, *q, *o; /* residual stream; normed input; queries; attended */
    act         *keys, *values; /* [T, kv_heads * head_dim] where not in_line */
    act         *out;
} packed;

/* cos, sin of position * frequency, each frequency reading its own axis's position: of all rows, then of those
 * wanted. */
static bool rope_tables(const decoder *d, kernels *k, packed *b, arena *a, err *e)
{
    int    half = d->c.head_dim / 2;
    size_t n = (size_t)b->T * (size_t)half, m = (size_t)b->wanted * (size_t)half;
    float *c = ARENA_NEW(a, float, n + m, e), *s = c ? ARENA_NEW(a, float, n + m, e) : NULL;
    if (!s) return false;
    size_t at = 0, at_last = n;
    for (int i = 0; i < b->n; i++) {
        const decoder_pass *p = &b->p[i];
        for (int t = 0; t < p->T; t++, at += (size_t)half) {
            for (int j = 0; j < half; j++) {
                float angle = (float)p->pos[(size_t)d->axis[j] * (size_t)p->T + (size_t)t] * d->inv[j];
                c[at + (size_t)j] = cosf(angle);
                s[at + (size_t)j] = sinf(angle);
            }
            if (t < p->want) continue;
            memcpy(c + at_last, c + at, (size_t)half * sizeof *c);
            memcpy(s + at_last, s + at, (size_t)half * sizeof *s);
            at_last += (size_t)half;
        }
    }
    const float *dc = k->upload(k, c, n + m), *ds = k->upload(k, s, n + m);
    b->all = (angles){dc, ds};
    b->last = (angles){dc ? dc + n : NULL, ds ? ds + n : NULL};
    return true;
}

static void feed_forward(const decoder *d, kernels *k, const layer *y, int adapter, act *x, act *h, int T)
{
    int D = d->c.D, F = d->c.F, most = k->pass_tokens > MLP_ROWS ? k->pass_tokens : MLP_ROWS,
        step = T < most ? T : most;
    size_t mark = k->mark(k);
    act   *gate = k->take(k, (size_t)step * (size_t)F), *up = k->take(k, (size_t)step * (size_t)F);
    k->rmsnorm(k, h, x, T, D, &y->norm2, d->c.eps);
    for (int t = 0; t < T; t += step) {
        int  n = T - t < step ? T - t : step;
        act *ht = act_at(k, h, (size_t)t * (size_t)D), *xt = act_at(k, x, (size_t)t * (size_t)D);
        const linear_out both[] = {{&y->gate, gate, F}, {&y->up, up, F}};
        linears_run(k, both, 2, adapter, ht, n);
        k->glu(k, gate, gate, up, F, n, F, UNIT_SILU);
        linear_run(k, &y->down, adapter, xt, D, gate, n, UNIT_NONE, xt);
    }
    k->back(k, mark);
}

/* Where the sequences stand, and whether their own rows lie one behind the other. */
static bool lay_out(const decoder *d, kernels *k, packed *b, err *e)
{
    const kv *first = b->p[0].own;
    int       at = first->n;
    b->in_line = true;
    for (int i = 0; i < b->n; i++) {
        const decoder_pass *p = &b->p[i];
        if (p->own->n + p->T > p->own->capacity) return err_set(e, ERR_BUG, "decoder: keys and values do not fit");
        if (p->adapter != b->p[0].adapter || p->x != act_at(k, b->p[0].x, (size_t)b->T * (size_t)d->c.D))
            return err_set(e, ERR_BUG, "decoder: sequences that cannot be packed");
        if (p->own->capacity != first->capacity
            || kv_row(d, k, p->own, 0, 0, p->own->n) != kv_row(d, k, first, 0, 0, at + b->T))
            b->in_line = false;
        b->T += p->T;
        b->wanted += p->T - p->want;
    }
    return true;
}

/* Keys and values of all rows, straight into own where they lie in line, else by way of scratch; and but in the last
 * layer their queries. */
static void keys_and_values(const decoder *d, kernels *k, const packed *b, int i, bool last)
{
    const decoder_config *c = &d->c;
    const layer          *y = &d->layers[i];
    int    KV = c->kv_heads * c->head_dim, n0 = b->p[0].own->n, adapter = b->p[0].adapter;
    act   *keys = b->in_line ? kv_row(d, k, b->p[0].own, i, 0, n0) : b->keys;
    act   *values = b->in_line ? kv_row(d, k, b->p[0].own, i, 1, n0) : b->values;
    const linear_out out[] = {{&y->k, keys, KV}, {&y->v, values, KV}, {&y->q, b->q, c->N * c->head_dim}};
    linears_run(k, out, last ? 2 : 3, adapter, b->h, b->T);
    k->rope(k, keys, KV, b->T, c->kv_heads, c->head_dim, b->all.cos_, b->all.sin_, c->head_dim / 2, false);
    if (b->in_line) return;
    size_t at = 0;
    for (int s = 0; s < b->n; s++) {
        const kv *own = b->p[s].own;
        size_t    n = (size_t)b->p[s].T * (size_t)KV;
        b->moves[2 * s] = (act_copy){kv_row(d, k, own, i, 0, own->n), act_at(k, keys, at), n};
        b->moves[2 * s + 1] = (act_copy){kv_row(d, k, own, i, 1, own->n), act_at(k, values, at), n};
        at += n;
    }
    k->copies(k, b->moves, 2 * b->n);
}

/* The residual stream goes on with the rows that are wanted alone. */
static void keep_wanted(const decoder *d, kernels *k, packed *b)
{
    size_t D = (size_t)d->c.D, from = 0, to = 0;
    int    n_moves = 0;
    for (int s = 0; s < b->n; s++) {
        const decoder_pass *p = &b->p[s];
        size_t              n = (size_t)(p->T - p->want) * D;
        const act          *x = act_at(k, b->x, from + (size_t)p->want * D);
        act                *y = act_at(k, b->out, to);
        if (n && x != y) b->moves[n_moves++] = (act_copy){y, x, n};
        from += (size_t)p->T * D;
        to += n;
    }
    k->copies(k, b->moves, n_moves);
    b->x = b->out;
}

/* Queries of the rows under way, in q, over each sequence's keys and values; in the last layer of what is wanted. */
static void attend_all(const decoder *d, kernels *k, const packed *b, int i, bool last)
{
    const decoder_config *c = &d->c;
    int hd = c->head_dim, KV = c->kv_heads * hd, Q = c->N * hd, row = 0, n = 0;
    for (int s = 0; s < b->n; s++) {
        const decoder_pass *p = &b->p[s];
        int                 n_q = last ? p->T - p->want : p->T;
        if (n_q == 0) continue;
        attend_args *at = &b->at[n++];
        *at = (attend_args){.n_heads = c->N,
                            .n_kv_heads = c->kv_heads,
                            .head_dim = hd,
                            .scale = 1.0f / sqrtf((float)hd),
                            .q = act_at(k, b->q, (size_t)row * (size_t)Q),
                            .q_stride = Q,
                            .n_q = n_q,
                            .out = act_at(k, b->o, (size_t)row * (size_t)Q),
                            .out_stride = Q,
                            .mask = p->n_tree ? ATTEND_TREE : ATTEND_CAUSAL,
                            .n_tree = p->n_tree,
                            .visible = p->visible};
        if (p->prefix)
            at->span[0] =
                (kv_span){kv_row(d, k, p->prefix, i, 0, 0), kv_row(d, k, p->prefix, i, 1, 0), p->prefix->n, KV};
        at->span[1] = (kv_span){kv_row(d, k, p->own, i, 0, 0), kv_row(d, k, p->own, i, 1, 0), p->own->n + p->T, KV};
        row += n_q;
    }
    k->attend(k, b->at, n);
}

static void run_layers(const decoder *d, kernels *k, packed *b)
{
    const decoder_config *c = &d->c;
    const int D = c->D, hd = c->head_dim, Q = c->N * hd, adapter = b->p[0].adapter;
    for (int i = 0; i < c->L; i++) {
        const layer *y = &d->layers[i];
        const bool   last = i == c->L - 1;
        const int    R = last ? b->wanted : b->T; /* rows whose output somebody reads */
        const angles at = last ? b->last : b->all;

        k->rmsnorm(k, b->h, b->x, b->T, D, &y->norm1, c->eps);
        keys_and_values(d, k, b, i, last);
        if (R == 0) break; /* prefixes: nobody reads the last layer's output */
        if (last) {
            keep_wanted(d, k, b);
            k->rmsnorm(k, b->h, b->x, R, D, &y->norm1, c->eps);
            linear_run(k, &y->q, adapter, b->q, Q, b->h, R, UNIT_NONE, NULL);
        }
        k->rope(k, b->q, Q, R, c->N, hd, at.cos_, at.sin_, hd / 2, false);
        attend_all(d, k, b, i, last);
        linear_run(k, &y->o, adapter, b->x, D, b->o, R, UNIT_NONE, b->x);
        feed_forward(d, k, y, adapter, b->x, b->h, R);
        tap_see(b->p[0].tap, "text.layer", i, k, b->x, R, D);
    }
}

bool decoder_forward_packed(const decoder *d, kernels *k, const decoder_pass *p, int n, act *out, arena *a, err *e)
{
    packed b = {.p = p, .n = n, .x = n ? p[0].x : NULL, .out = out};
    if (n == 0) return true;
    if (!lay_out(d, k, &b, e)) return false;
    if (b.T == 0) return true;
    arena_mark am = arena_here(a);
    size_t     mark = k->mark(k), T = (size_t)b.T, Q = (size_t)d->c.N * (size_t)d->c.head_dim;
    b.at = ARENA_NEW(a, attend_args, n, e);
    b.moves = b.at ? ARENA_NEW(a, act_copy, 2 * (size_t)n, e) : NULL;
    bool ok = b.moves && rope_tables(d, k, &b, a, e);
    if (ok) {
        b.h = k->take(k, T * (size_t)d->c.D);
        b.q = k->take(k, T * Q);
        b.o = k->take(k, T * Q);
        b.keys = b.in_line ? NULL : k->take(k, T * kv_dim(&d->c));
        b.values = b.in_line ? NULL : k->take(k, T * kv_dim(&d->c));
        k->decoding = p[0].step;
        run_layers(d, k, &b);
        k->decoding = false;
        for (int i = 0; i < n; i++) p[i].own->n += p[i].T;
    }
    k->back(k, mark);
    arena_back(a, am);
    return ok;
}

bool decoder_forward(const decoder *d, kernels *k, const decoder_pass *p, arena *a, err *e)
{
    return decoder_forward_packed(d, k, p, 1, act_at(k, p->x, (size_t)p->want * (size_t)d->c.D), a, e);
}

void decoder_embed(const decoder *d, kernels *k, const prompt *p, const act *vision, act *x)
{
    size_t D = (size_t)d->c.D, row = 0;
    k->gather(k, x, &d->embed, p->ids, p->n_ids, d->c.D);
    for (int i = 0; i < p->n_spans; i++) {
        size_t n = (size_t)p->span[i].rows * (size_t)p->span[i].cols;
        k->copy(k, act_at(k, x, (size_t)p->span[i].start * D), act_at(k, vision, row * D), n * D);
        row += n;
    }
}

void decoder_norm(const decoder *d, kernels *k, act *x, int T) { k->rmsnorm(k, x, x, T, d->c.D, &d->norm, d->c.eps); }

uint64_t decoder_flops(const decoder_config *c, const int *seen, int T, int rows)
{
    uint64_t D = (uint64_t)c->D, Q = (uint64_t)c->N * (uint64_t)c->head_dim, KV = kv_dim(c), F = (uint64_t)c->F;
    uint64_t full = (uint64_t)(c->L - 1), pairs = 0, last = 0;
    for (int t = 0; t < T; t++) {
        pairs += (uint64_t)seen[t];
        if (t >= T - rows) last += (uint64_t)seen[t];
    }
    /* per token: k and v; q, o and feed-forward */
    uint64_t keys = 2 * 2 * D * KV, rest = 2 * (2 * D * Q + 3 * D * F);
    return (uint64_t)T * (uint64_t)c->L * keys + ((uint64_t)T * full + (uint64_t)rows) * rest
         + 4 * Q * (full * pairs + last);
}

uint64_t decoder_adapter_flops(const decoder *d, int adapter, int T, int rows)
{
    uint64_t sum = 0;
    for (int i = 0; i < d->c.L; i++) {
        const layer        *y = &d->layers[i];
        const linear *const rest[] = {&y->q, &y->o, &y->gate, &y->up, &y->down};
        uint64_t            n = (uint64_t)(i == d->c.L - 1 ? rows : T);
        sum += (uint64_t)T * (linear_branch_flops(&y->k, adapter) + linear_branch_flops(&y->v, adapter));
        for (size_t j = 0; j < sizeof rest / sizeof *rest; j++) sum += n * linear_branch_flops(rest[j], adapter);
    }
    return sum;
}
