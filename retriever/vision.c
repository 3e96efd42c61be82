/* vision.c - image tower of jina-clip-v1 (EVA02-B/16): one picture to one vector.
 *
 *     x = [cls; conv(pixels)] + pos                          one row a patch, row 0 is the class token
 *     x = x + proj(LN(attn(rope(q), rope(k), v)))            q, k, v of LN1(x); k has no bias
 *     x = x + w3(LN(silu(w1 u) * w2 u)),  u = LN2(x)
 *     z = head(LN(x[0]))                                     head is the identity in the published model
 *
 * The second LayerNorm inside each branch is EVA-02's "sub-LN". Shapes: T = P + 1 tokens of width D, N heads of
 * D / N channels, F inner channels of the MLP. Formulas, names and sizes: docs/MODEL.md. */
#include "retriever/towers.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "retriever/weights.h"

static const float EPS = 1e-6f; /* of every LayerNorm of this tower */

typedef struct { weight gain, bias; } norm;
typedef struct { weight w, b; } linear;

typedef struct {
    norm   norm1, norm2, inner, ffn; /* before attention, before the MLP, and the two of sub-LN */
    linear q, k, v, proj;            /* k.b is not used: the published model has none */
    linear w1, w2, w3;
} block;

struct vision_tower {
    vision_config c;
    weights       ws;
    linear        patch, head; /* patch: [D, 3 * patch^2], the convolution of stride = kernel as a product */
    norm          last;
    bool          has_head, has_head_bias;
    block        *block;         /* [L] */
    act          *start;         /* [T,D] on the device: what is added to the patches; row 0 is cls + pos[0] */
    float        *cos_, *sin_;   /* [P, head_width / 2] */
};

bool tower_show(const tower_tap *tap, kernels *k, const act *x, int T, int D, arena *a, err *e, const char *fmt, ...)
{
    if (!tap) return true;
    char    name[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    float *host = ARENA_NEW(a, float, (size_t)T * (size_t)D, e);
    if (!host) return false;
    k->get(k, host, x, (size_t)T * (size_t)D);
    if (!k->sync(k, e)) return false;
    tap->stage(tap->ctx, name, host, T, D);
    return true;
}

/* Position t of a patch row or column is its number, or stretched to the grid of training; pair i of half a
 * head turns by t * 10000^(-2i / (head_width / 2)). TRAP: neighbouring channels (2i, 2i + 1) are a pair, and
 * the first half of the channels belongs to the row. f32 in the order of the original, which builds its tables
 * in f32. */
void vision_rope_tables(const vision_config *c, float *cos_, float *sin_)
{
    const int g = c->grid, half = c->head_width / 2, pairs = half / 2;
    for (int y = 0; y < g; y++)
        for (int x = 0; x < g; x++, cos_ += half, sin_ += half)
            for (int i = 0; i < half; i++) {
                int   j = i % pairs, at = i < pairs ? y : x;
                float t = c->interpolate ? (float)at / (float)g * (float)c->trained_grid : (float)at;
                float f = 1.0f / (float)pow(10000.0, (float)(2 * j) / (float)half);
                float angle = t * f;
                cos_[i] = (float)cos(angle);
                sin_[i] = (float)sin(angle);
            }
}

#define VISION "vision_model."

static bool open_norm(weights *ws, norm *o, int D, err *e, const char *name)
{
    return weights_vector(ws, &o->gain, D, e, VISION "%s.weight", name)
        && weights_vector(ws, &o->bias, D, e, VISION "%s.bias", name);
}

static bool open_linear(weights *ws, linear *o, int out, int in, err *e, const char *name)
{
    return weights_matrix(ws, &o->w, out, in, e, VISION "%s.weight", name)
        && weights_vector(ws, &o->b, out, e, VISION "%s.bias", name);
}

static bool open_block(weights *ws, block *b, const vision_config *c, int i, err *e)
{
    const int D = c->width, F = c->ffn;
    const struct { const char *name; norm *o; int n;
    } norms[] = {{"norm1", &b->norm1, D},
                 {"norm2", &b->norm2, D},
                 {"attn.inner_attn_ln", &b->inner, D},
                 {"mlp.ffn_ln", &b->ffn, F}};
    const struct { const char *name; linear *o; int out, in; } linears[] = {
        {"attn.proj", &b->proj, D, D}, {"mlp.w1", &b->w1, F, D}, {"mlp.w2", &b->w2, F, D}, {"mlp.w3", &b->w3, D, F}};
    char name[64];
    for (int n = 0; n < 4; n++) {
        snprintf(name, sizeof name, "blocks.%d.%s", i, norms[n].name);
        if (!open_norm(ws, norms[n].o, norms[n].n, e, name)) return false;
        snprintf(name, sizeof name, "blocks.%d.%s", i, linears[n].name);
        if (!open_linear(ws, linears[n].o, linears[n].out, linears[n].in, e, name)) return false;
    }
    return weights_matrix(ws, &b->q.w, D, D, e, VISION "blocks.%d.attn.q_proj.weight", i)
        && weights_matrix(ws, &b->k.w, D, D, e, VISION "blocks.%d.attn.k_proj.weight", i)
        && weights_matrix(ws, &b->v.w, D, D, e, VISION "blocks.%d.attn.v_proj.weight", i)
        && weights_vector(ws, &b->q.b, D, e, VISION "blocks.%d.attn.q_bias", i)
        && weights_vector(ws, &b->v.b, D, e, VISION "blocks.%d.attn.v_bias", i);
}

/* start = pos_embed with cls_token added to its first row, on the device. */
static bool open_start(vision_tower *v, err *e)
{
    const int D = v->c.width, T = v->c.grid * v->c.grid + 1;
    const size_t n = (size_t)T * (size_t)D;
    bool   ok = false;
    float *pos = mem_alloc(n * sizeof *pos), *cls = mem_alloc((size_t)D * sizeof *cls);
    if (!pos || !cls) {
        err_set(e, ERR_MEMORY, "image tower: out of memory");
        goto done;
    }
    if (!weights_host(&v->ws, pos, (int64_t[]){1, T, D, -1}, e, VISION "pos_embed") ||
        !weights_host(&v->ws, cls, (int64_t[]){1, 1, D, -1}, e, VISION "cls_token"))
        goto done;
    for (int d = 0; d < D; d++) pos[d] += cls[d];
    v->start = v->ws.k->alloc(v->ws.k, n * (size_t)v->ws.k->act_bytes);
    if (!v->start) {
        err_set(e, ERR_MEMORY, "image tower: out of memory");
        goto done;
    }
    v->ws.k->put(v->ws.k, v->start, pos, n);
    ok = v->ws.k->sync(v->ws.k, e);
done:
    free(pos);
    free(cls);
    return ok;
}

/* The class may have been built with a head that maps to the embedding's size; the published one has none. */
static bool open_head(vision_tower *v, err *e)
{
    const int D = v->c.width, E = v->c.embed;
    v->has_head = safetensors_find(v->ws.file, VISION "head.weight") != NULL;
    v->has_head_bias = v->has_head && safetensors_find(v->ws.file, VISION "head.bias") != NULL;
    if (!v->has_head && D != E)
        return weights_matrix(&v->ws, &v->head.w, E, D, e, VISION "head.weight"); /* says that it is missing */
    return (!v->has_head || weights_matrix(&v->ws, &v->head.w, E, D, e, VISION "head.weight"))
        && (!v->has_head_bias || weights_vector(&v->ws, &v->head.b, E, e, VISION "head.bias"));
}

/* The tables of rotation are computed here, whatever a file holds. */
static bool is_rope_table(const char *name) { return strstr(name, "rope.freqs_") != NULL; }

static bool open_tensors(vision_tower *v, bool only_vision, err *e)
{
    const vision_config *c = &v->c;
    const tensor        *patch;
    const int            D = c->width, side = c->patch;
    if (!weights_find(&v->ws, &patch, (int64_t[]){D, 3, side, side, -1}, e, VISION "patch_embed.proj.weight") ||
        !weights_open_rows(&v->ws, &v->patch.w, patch, 0, D, 3 * (int64_t)side * side, e) ||
        !weights_vector(&v->ws, &v->patch.b, D, e, VISION "patch_embed.proj.bias") || !open_start(v, e))
        return false;
    for (int i = 0; i < c->layers; i++)
        if (!open_block(&v->ws, &v->block[i], c, i, e)) return false;
    return open_norm(&v->ws, &v->last, D, e, "norm") && open_head(v, e)
        && weights_all_read(&v->ws, only_vision ? "" : VISION, is_rope_table, e);
}

bool vision_tower_open(vision_tower **out, const vision_config *c, const safetensors *file, bool only_vision,
                       kernels *k, err *e)
{
    bool          ok = false;
    const size_t  n = (size_t)c->grid * (size_t)c->grid * (size_t)c->head_width / 2;
    vision_tower *v = mem_zalloc(1, sizeof *v);
    if (v) {
        v->c = *c;
        v->ws = (weights){.k = k, .file = file};
        v->block = mem_zalloc((size_t)c->layers, sizeof *v->block);
        v->cos_ = mem_alloc(n * sizeof *v->cos_);
        v->sin_ = mem_alloc(n * sizeof *v->sin_);
    }
    if (!v || !v->block || !v->cos_ || !v->sin_) {
        err_set(e, ERR_MEMORY, "image tower: out of memory");
        goto done;
    }
    vision_rope_tables(c, v->cos_, v->sin_);
    if (!open_tensors(v, only_vision, e)) goto done;
    *out = v;
    v = NULL;
    ok = true;
done:
    vision_tower_close(v);
    return ok;
}

void vision_tower_close(vision_tower *v)
{
    if (!v) return;
    if (v->start) v->ws.k->free_(v->ws.k, v->start);
    weights_close(&v->ws);
    free(v->block);
    free(v->cos_);
    free(v->sin_);
    free(v);
}

static bool forward(const vision_tower *v, kernels *k, const act *px, float *z, const tower_tap *tap, arena *a,
                    err *e)
{
    const vision_config *c = &v->c;
    const int P = c->grid * c->grid, T = P + 1, D = c->width, N = c->heads, hd = c->head_width, F = c->ffn;
    const int pixels = 3 * c->patch * c->patch;

    act *x    = k->take(k, (size_t)T * D);     /* the residual stream */
    act *y    = k->take(k, (size_t)T * D);     /* what a branch makes of it */
    act *qkv  = k->take(k, (size_t)T * 3 * D); /* a row: q, k, v, each N heads of hd */
    act *gate = k->take(k, (size_t)T * F);
    act *up   = k->take(k, (size_t)T * F);
    act *keys = act_at(k, qkv, D), *values = act_at(k, qkv, 2 * (size_t)D);
    act *patch_rows = act_at(k, x, D), *patch_qk = act_at(k, qkv, 3 * (size_t)D); /* row 0 is the class token */

    const float *cos_ = k->upload(k, v->cos_, (size_t)P * hd / 2), *sin_ = k->upload(k, v->sin_, (size_t)P * hd / 2);

    k->copy(k, x, v->start, (size_t)T * D);
    k->linear(k, patch_rows, D, px, pixels, P, &v->patch.w, &v->patch.b, UNIT_NONE, patch_rows);
    if (!tower_show(tap, k, x, T, D, a, e, "vision.embed")) return false;

    for (int l = 0; l < c->layers; l++) {
        const block *b = &v->block[l];
        /* Only the class token leaves the last block: its other rows are keys and values and nothing else. */
        const int R = l + 1 == c->layers && !tap ? 1 : T;

        k->layernorm(k, y, x, T, D, &b->norm1.gain, &b->norm1.bias, EPS);
        k->linear(k, qkv, 3 * D, y, D, R, &b->q.w, &b->q.b, UNIT_NONE, NULL);
        k->linear(k, keys, 3 * D, y, D, T, &b->k.w, NULL, UNIT_NONE, NULL);
        k->linear(k, values, 3 * D, y, D, T, &b->v.w, &b->v.b, UNIT_NONE, NULL);
        /* TRAP: the class token is not turned. Keys follow queries in a row, so both turn as 2 N heads. */
        if (R == T) k->rope(k, patch_qk, 3 * D, P, 2 * N, hd, cos_, sin_, hd / 2, true);
        else k->rope(k, act_at(k, patch_qk, D), 3 * D, P, N, hd, cos_, sin_, hd / 2, true);
        k->attend(k,
                  &(attend_args){.n_heads = N,
                                 .n_kv_heads = N,
                                 .head_dim = hd,
                                 .scale = 1 / sqrtf((float)hd),
                                 .q = qkv,
                                 .q_stride = 3 * D,
                                 .n_q = R,
                                 .out = y,
                                 .out_stride = D,
                                 .span[1] = {.k = keys, .v = values, .n = T, .row_stride = 3 * D},
                                 .mask = ATTEND_ALL},
                  1);
        k->layernorm(k, y, y, R, D, &b->inner.gain, &b->inner.bias, EPS);
        k->linear(k, x, D, y, D, R, &b->proj.w, &b->proj.b, UNIT_NONE, x);

        k->layernorm(k, y, x, R, D, &b->norm2.gain, &b->norm2.bias, EPS);
        k->linear(k, gate, F, y, D, R, &b->w1.w, &b->w1.b, UNIT_NONE, NULL);
        k->linear(k, up, F, y, D, R, &b->w2.w, &b->w2.b, UNIT_NONE, NULL);
        k->glu(k, gate, gate, up, F, R, F, UNIT_SILU);
        k->layernorm(k, gate, gate, R, F, &b->ffn.gain, &b->ffn.bias, EPS);
        k->linear(k, x, D, gate, F, R, &b->w3.w, &b->w3.b, UNIT_NONE, x);
        if (!tower_show(tap, k, x, T, D, a, e, "vision.block.%d", l)) return false;
    }
    k->layernorm(k, y, x, 1, D, &v->last.gain, &v->last.bias, EPS);
    if (v->has_head) {
        k->linear(k, x, c->embed, y, D, 1, &v->head.w, v->has_head_bias ? &v->head.b : NULL, UNIT_NONE, NULL);
        y = x;
    }
    k->get(k, z, y, (size_t)c->embed);
    return k->sync(k, e);
}

bool vision_tower_embed(const vision_tower *v, kernels *k, const act *px, float *z, const tower_tap *tap, arena *a,
                        err *e)
{
    const size_t     scratch = k->mark(k);
    const arena_mark here = arena_here(a);
    bool             ok = forward(v, k, px, z, tap, a, e);
    arena_back(a, here);
    k->back(k, scratch);
    return ok;
}
