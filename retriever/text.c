/* text.c - text tower of jina-clip-v1 (JinaBERT): one caption's tokens to one vector.
 *
 *     x = LN(word[id] + type[0])                             no positions: order enters by ALiBi alone
 *     x = LN1(x + out_proj(attn(q, k, v)))                   logits q k / sqrt(D / N) - slope_h |i - j|
 *     x = LN2(x + wo(gelu(g) * u)),  [g; u] = gated_layers(x)
 *     z = mean of x over the tokens
 *
 * Post-norm, no causal mask, exact (erf) GELU. TRAP: the first half of gated_layers is the gate. Shapes: T tokens of
 * width D, N heads, F inner channels. It runs when an index is built, one caption at a time. */
#include "retriever/towers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "retriever/weights.h"

typedef struct { weight gain, bias; } norm;
typedef struct { weight w, b; } linear;

typedef struct {
    linear q, k, v, out;
    norm   norm1, norm2;
    weight gated; /* [2F, D]: gate, then value */
    linear wo;
} layer;

struct text_tower {
    text_config c;
    weights     ws;
    weight      word, type;
    norm        embed_norm;
    layer      *layer;   /* [L] */
    float      *slope;   /* [N] */
};

/* Spellings of the same tensor: the flash implementation that jina-clip-v1 is loaded with, and the older
 * JinaBERT code. %d is the layer. The query, key and value of the older spelling are thirds of one matrix in
 * the newer. */
typedef enum { WORD, TYPE, EMBED_NORM, OUT, NORM1, NORM2, GATED, WO, N_NAMES } name_id;
static const char *const NAME[N_NAMES][2] = {
    [WORD]       = {"embeddings.word_embeddings",            NULL},
    [TYPE]       = {"embeddings.token_type_embeddings",      NULL},
    [EMBED_NORM] = {"emb_ln",                                "embeddings.LayerNorm"},
    [OUT]        = {"encoder.layers.%d.mixer.out_proj",      "encoder.layer.%d.attention.output.dense"},
    [NORM1]      = {"encoder.layers.%d.norm1",               "encoder.layer.%d.attention.output.LayerNorm"},
    [NORM2]      = {"encoder.layers.%d.norm2",               "encoder.layer.%d.mlp.layernorm"},
    [GATED]      = {"encoder.layers.%d.mlp.gated_layers",    "encoder.layer.%d.mlp.gated_layers"},
    [WO]         = {"encoder.layers.%d.mlp.wo",              "encoder.layer.%d.mlp.wo"},
};
#define TEXT "text_model.transformer."

enum { MAX_NAME = 160 };

/* The full name of tensor id in layer l, as this file spells it; the newer spelling where neither is there, so
 * that the error names that. part is ".weight" or ".bias". */
static void spell(const weights *ws, char out[MAX_NAME], name_id id, int l, const char *part)
{
    for (int s = 1; s >= 0; s--) {
        if (!NAME[id][s]) continue;
        char  stem[MAX_NAME / 2];
        char *digit = strstr(NAME[id][s], "%d");
        if (digit) snprintf(stem, sizeof stem, "%.*s%d%s", (int)(digit - NAME[id][s]), NAME[id][s], l, digit + 2);
        else snprintf(stem, sizeof stem, "%s", NAME[id][s]);
        snprintf(out, MAX_NAME, TEXT "%s%s", stem, part);
        if (safetensors_find(ws->file, out)) return;
    }
}

static bool open_vector(weights *ws, weight *o, name_id id, int l, const char *part, int n, err *e)
{
    char name[MAX_NAME];
    spell(ws, name, id, l, part);
    return weights_vector(ws, o, n, e, "%s", name);
}

static bool open_matrix(weights *ws, weight *o, name_id id, int l, int rows, int cols, err *e)
{
    char name[MAX_NAME];
    spell(ws, name, id, l, ".weight");
    return weights_matrix(ws, o, rows, cols, e, "%s", name);
}

static bool open_norm(weights *ws, norm *o, name_id id, int l, int D, err *e)
{
    return open_vector(ws, &o->gain, id, l, ".weight", D, e) && open_vector(ws, &o->bias, id, l, ".bias", D, e);
}

static bool open_linear(weights *ws, linear *o, name_id id, int l, int out, int in, err *e)
{
    return open_matrix(ws, &o->w, id, l, out, in, e) && open_vector(ws, &o->b, id, l, ".bias", out, e);
}

/* q, k and v from one matrix of three parts, or from three. */
static bool open_qkv(weights *ws, layer *y, int l, int D, err *e)
{
    static const char *const PART[3] = {"query", "key", "value"};
    linear *const o[3] = {&y->q, &y->k, &y->v};
    char          first[MAX_NAME];
    const tensor *w, *b;
    snprintf(first, sizeof first, TEXT "encoder.layer.%d.attention.self.query.weight", l);
    if (safetensors_find(ws->file, first)) {
        for (int i = 0; i < 3; i++)
            if (!weights_matrix(ws, &o[i]->w, D, D, e, TEXT "encoder.layer.%d.attention.self.%s.weight", l, PART[i])
                || !weights_vector(ws, &o[i]->b, D, e, TEXT "encoder.layer.%d.attention.self.%s.bias", l, PART[i]))
                return false;
        return true;
    }
    if (!weights_find(ws, &w, (int64_t[]){3 * (int64_t)D, D, -1}, e, TEXT "encoder.layers.%d.mixer.Wqkv.weight", l) ||
        !weights_find(ws, &b, (int64_t[]){3 * (int64_t)D, -1}, e, TEXT "encoder.layers.%d.mixer.Wqkv.bias", l))
        return false;
    for (int i = 0; i < 3; i++)
        if (!weights_open_rows(ws, &o[i]->w, w, (int64_t)i * D, D, D, e) ||
            !weights_open_rows(ws, &o[i]->b, b, i, 1, D, e))
            return false;
    return true;
}

/* A mean needs no pooler; position ids are counted here. */
static bool is_unused(const char *name) { return strstr(name, "position_ids") != NULL; }

static bool open_tensors(text_tower *t, err *e)
{
    weights  *ws = &t->ws;
    const int D = t->c.width, F = t->c.ffn;
    const tensor *word = NULL;
    if (!weights_find(ws, &word, (int64_t[]){t->c.vocab, D, -1}, e, TEXT "%s.weight", NAME[WORD][0])) return false;
    t->c.vocab = (int)word->dim[0];
    if (!weights_open_rows(ws, &t->word, word, 0, t->c.vocab, D, e) ||
        !open_matrix(ws, &t->type, TYPE, 0, t->c.types, D, e) || !open_norm(ws, &t->embed_norm, EMBED_NORM, 0, D, e))
        return false;
    for (int l = 0; l < t->c.layers; l++) {
        layer *y = &t->layer[l];
        if (!open_qkv(ws, y, l, D, e) || !open_linear(ws, &y->out, OUT, l, D, D, e) ||
            !open_norm(ws, &y->norm1, NORM1, l, D, e) || !open_matrix(ws, &y->gated, GATED, l, 2 * F, D, e) ||
            !open_linear(ws, &y->wo, WO, l, D, F, e) || !open_norm(ws, &y->norm2, NORM2, l, D, e))
            return false;
    }
    return weights_all_read(ws, "text_model.", is_unused, e);
}

void alibi_slopes(float *slope, int n)
{
    int low = 1;
    while (low * 2 <= n) low *= 2;
    for (int i = 0; i < n; i++)
        slope[i] = (float)(i < low ? exp2(-8.0 * (i + 1) / low) : exp2(-8.0 * (2 * (i - low) + 1) / (2 * low)));
}

bool text_tower_open(text_tower **out, const text_config *c, const safetensors *file, kernels *k, err *e)
{
    bool        ok = false;
    text_tower *t = mem_zalloc(1, sizeof *t);
    if (t) {
        t->c = *c;
        t->ws = (weights){.k = k, .file = file};
        t->layer = mem_zalloc((size_t)c->layers, sizeof *t->layer);
        t->slope = mem_alloc((size_t)c->heads * sizeof *t->slope);
    }
    if (!t || !t->layer || !t->slope) {
        err_set(e, ERR_MEMORY, "text tower: out of memory");
        goto done;
    }
    alibi_slopes(t->slope, c->heads);
    if (!open_tensors(t, e)) goto done;
    *out = t;
    t = NULL;
    ok = true;
done:
    text_tower_close(t);
    return ok;
}

void text_tower_close(text_tower *t)
{
    if (!t) return;
    weights_close(&t->ws);
    free(t->layer);
    free(t->slope);
    free(t);
}

int text_tower_vocab(const text_tower *t) { return t->c.vocab; }

static bool forward(const text_tower *t, kernels *k, const int32_t *id, int T, float *z, const tower_tap *tap,
                    arena *a, err *e)
{
    const int D = t->c.width, N = t->c.heads, hd = D / N, F = t->c.ffn;
    const float eps = t->c.eps;
    int32_t    *type = ARENA_NEW(a, int32_t, T, e); /* zeros: every token is of the first type */
    if (!type) return false;

    act *x     = k->take(k, (size_t)T * D);
    act *y     = k->take(k, (size_t)T * D);
    act *qkv   = k->take(k, (size_t)T * 3 * D);
    act *gated = k->take(k, (size_t)T * 2 * F); /* a row: gate, then value */
    act *h     = k->take(k, (size_t)T * F);
    act *keys = act_at(k, qkv, D), *values = act_at(k, qkv, 2 * (size_t)D);

    k->gather(k, x, &t->word, id, T, D);
    k->gather(k, y, &t->type, type, T, D);
    k->add(k, x, y, (size_t)T * D);
    k->layernorm(k, x, x, T, D, &t->embed_norm.gain, &t->embed_norm.bias, eps);
    if (!tower_show(tap, k, x, T, D, a, e, "text.embed")) return false;

    for (int l = 0; l < t->c.layers; l++) {
        const layer *b = &t->layer[l];
        k->linear(k, qkv, 3 * D, x, D, T, &b->q.w, &b->q.b, UNIT_NONE, NULL);
        k->linear(k, keys, 3 * D, x, D, T, &b->k.w, &b->k.b, UNIT_NONE, NULL);
        k->linear(k, values, 3 * D, x, D, T, &b->v.w, &b->v.b, UNIT_NONE, NULL);
        k->attend(k,
                  &(attend_args){.n_heads = N,
                                 .n_kv_heads = N,
                                 .head_dim = hd,
                                 .scale = 1 / sqrtf((float)hd),
                                 .q = qkv,
                                 .q_stride = 3 * D,
                                 .n_q = T,
                                 .out = y,
                                 .out_stride = D,
                                 .span[1] = {.k = keys, .v = values, .n = T, .row_stride = 3 * D},
                                 .mask = ATTEND_ALL,
                                 .alibi = t->slope},
                  1);
        k->linear(k, x, D, y, D, T, &b->out.w, &b->out.b, UNIT_NONE, x);
        k->layernorm(k, x, x, T, D, &b->norm1.gain, &b->norm1.bias, eps);

        k->linear(k, gated, 2 * F, x, D, T, &b->gated, NULL, UNIT_NONE, NULL);
        k->glu(k, h, gated, act_at(k, gated, F), 2 * F, T, F, UNIT_GELU);
        k->linear(k, x, D, h, F, T, &b->wo.w, &b->wo.b, UNIT_NONE, x);
        k->layernorm(k, x, x, T, D, &b->norm2.gain, &b->norm2.bias, eps);
        if (!tower_show(tap, k, x, T, D, a, e, "text.layer.%d", l)) return false;
    }
    k->mean_rows(k, y, x, T, D);
    k->get(k, z, y, (size_t)D);
    return k->sync(k, e);
}

bool text_tower_embed(const text_tower *t, kernels *k, const int32_t *ids, int n, float *z, const tower_tap *tap,
                      arena *a, err *e)
{
    const size_t     scratch = k->mark(k);
    const arena_mark here = arena_here(a);
    int32_t         *id = ARENA_NEW(a, int32_t, n, e);
    int              T = 0;
    bool             ok = false;
    if (!id) goto done;
    /* The original masks padding ids wherever they stand. A text holds one only if it spells out "[PAD]"; it is
     * left out here, which differs from a mask in the distance between its neighbours alone. */
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->c.vocab) {
            err_set(e, ERR_UNUSABLE, "text: token %d lies past the vocabulary of %d", (int)ids[i], t->c.vocab);
            goto done;
        }
        if (ids[i] != t->c.pad_id) id[T++] = ids[i];
    }
    if (T == 0) {
        err_set(e, ERR_UNUSABLE, "text: no token");
        goto done;
    }
    ok = forward(t, k, id, T, z, tap, a, e);
done:
    arena_back(a, here);
    k->back(k, scratch);
    return ok;
}
