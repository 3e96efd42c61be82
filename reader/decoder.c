/* decoder.c - straight down the layer of Llama-like decoders [Touvron et al. 2023, arXiv:2302.13971; grouped queries:
 * Ainslie et al. 2023, arXiv:2305.13245; three-axis rotary: Wang et al. 2024, arXiv:2409.12191, section 2.1]:
 *
 *     x += o(attend(rope(q(n1(x))), rope(k(n1(x))), v(n1(x))))        x += down(silu(gate(n2(x))) * up(n2(x)))
 *
 * Two savings that change no bit, since rows of a product do not depend on each other:
 *   - the last layer's queries, attention and feed-forward are made only for rows somebody reads. A prefix is kept for
 *     its keys and values, so there the last layer is two products;
 *   - the feed-forward runs in blocks of rows, which bounds its buffers for long prompts.
 * TRAP: keys go into `own` rotated, so a prefix is valid only at the positions it was made for: always the start. */
#include "reader/decoder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { MLP_ROWS = 512 }; /* at F = 18,944: 2 x 39 MB of f32 */

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
        return err_set(e, ERR_FILE, "%s: %s has %lld rows, tokenizer.json has %d tokens", t->file, name, (long long)t->dim[0],
                       n_ids);
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

/* cos, sin [T, head_dim / 2] of the angles position * frequency, each frequency reading its own axis's position. */
static bool rope_tables(const decoder *d, const int32_t *pos, int T, float **cos_, float **sin_, arena *a, err *e)
{
    int    half = d->c.head_dim / 2;
    size_t n = (size_t)T * (size_t)half;
    float *c = ARENA_NEW(a, float, n, e), *s = c ? ARENA_NEW(a, float, n, e) : NULL;
    if (!s) return false;
    for (int t = 0; t < T; t++)
        for (int j = 0; j < half; j++) {
            float angle = (float)pos[(size_t)d->axis[j] * (size_t)T + (size_t)t] * d->inv[j];
            c[(size_t)t * (size_t)half + (size_t)j] = cosf(angle);
            s[(size_t)t * (size_t)half + (size_t)j] = sinf(angle);
        }
    *cos_ = c;
    *sin_ = s;
    return true;
}

static void feed_forward(const decoder *d, kernels *k, const layer *y, int adapter, act *x, act *h, int T)
{
    int    D = d->c.D, F = d->c.F, step = T < MLP_ROWS ? T : MLP_ROWS;
    size_t mark = k->mark(k);
    act   *gate = k->take(k, (size_t)step * (size_t)F), *up = k->take(k, (size_t)step * (size_t)F);
    k->rmsnorm(k, h, x, T, D, &y->norm2, d->c.eps);
    for (int t = 0; t < T; t += step) {
        int  n = T - t < step ? T - t : step;
        act *ht = act_at(k, h, (size_t)t * (size_t)D), *xt = act_at(k, x, (size_t)t * (size_t)D);
        linear_run(k, &y->gate, adapter, gate, F, ht, n, UNIT_NONE, NULL);
        linear_run(k, &y->up, adapter, up, F, ht, n, UNIT_NONE, NULL);
        k->glu(k, gate, gate, up, F, n, F, UNIT_SILU);
        linear_run(k, &y->down, adapter, xt, D, gate, n, UNIT_NONE, xt);
    }
    k->back(k, mark);
}

bool decoder_forward(const decoder *d, kernels *k, const decoder_pass *p, arena *a, err *e)
{
    const decoder_config *c = &d->c;
    int    T = p->T, D = c->D, hd = c->head_dim, half = hd / 2, KV = c->kv_heads * hd, Q = c->N * hd, n0 = p->own->n;
    float *cos_, *sin_;
    if (T == 0) return true;
    if (n0 + T > p->own->capacity) return err_set(e, ERR_BUG, "decoder: keys and values do not fit");
    arena_mark am = arena_here(a);
    if (!rope_tables(d, p->pos, T, &cos_, &sin_, a, e)) return false;

    size_t mark = k->mark(k);
    act   *h = k->take(k, (size_t)T * (size_t)D); /* normed input */
    act   *q = k->take(k, (size_t)T * (size_t)Q);
    act   *o = k->take(k, (size_t)T * (size_t)Q); /* attended */
    for (int i = 0; i < c->L; i++) {
        const layer *y = &d->layers[i];
        int          from = i == c->L - 1 ? p->want : 0, n = T - from;
        act         *keys = kv_row(d, k, p->own, i, 0, n0), *values = kv_row(d, k, p->own, i, 1, n0);
        act         *x = act_at(k, p->x, (size_t)from * (size_t)D), *hx = act_at(k, h, (size_t)from * (size_t)D);
        const float *cq = cos_ + (size_t)from * (size_t)half, *sq = sin_ + (size_t)from * (size_t)half;

        k->rmsnorm(k, h, p->x, T, D, &y->norm1, c->eps);
        linear_run(k, &y->k, p->adapter, keys, KV, h, T, UNIT_NONE, NULL);
        linear_run(k, &y->v, p->adapter, values, KV, h, T, UNIT_NONE, NULL);
        k->rope(k, keys, KV, T, c->kv_heads, hd, cos_, sin_, half, false);
        if (n == 0) break; /* a prefix: nobody reads the last layer's output */

        linear_run(k, &y->q, p->adapter, q, Q, hx, n, UNIT_NONE, NULL);
        k->rope(k, q, Q, n, c->N, hd, cq, sq, half, false);
        attend_args at = {.n_heads = c->N, .n_kv_heads = c->kv_heads, .head_dim = hd, .scale = 1.0f / sqrtf((float)hd),
                          .q = q, .q_stride = Q, .n_q = n, .out = o, .out_stride = Q,
                          .mask = p->n_tree ? ATTEND_TREE : ATTEND_CAUSAL, .n_tree = p->n_tree, .visible = p->visible};
        if (p->prefix)
            at.span[0] = (kv_span){kv_row(d, k, p->prefix, i, 0, 0), kv_row(d, k, p->prefix, i, 1, 0), p->prefix->n, KV};
        at.span[1] = (kv_span){kv_row(d, k, p->own, i, 0, 0), kv_row(d, k, p->own, i, 1, 0), n0 + T, KV};
        k->attend(k, &at);
        linear_run(k, &y->o, p->adapter, x, D, o, n, UNIT_NONE, x);
        feed_forward(d, k, y, p->adapter, x, hx, n);
        tap_see(p->tap, "text.layer", i, k, x, n, D);
    }
    k->back(k, mark);
    arena_back(a, am);
    p->own->n += T;
    return true;
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
    uint64_t keys = 2 * 2 * D * KV, rest = 2 * (2 * D * Q + 3 * D * F); /* per token: k and v; q, o and feed-forward */
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
