/* qwen2vl.c - Qwen2-VL: names in the checkpoint, vision tower, prompt and positions [Wang et al. 2024,
 * arXiv:2409.12191]. Sizes, tensor names and traps: docs/MODEL.md, "Qwen2-VL". The decoder is decoder.c's.
 *
 * Vision: a pre-norm ViT in which images do not see each other, patches in 2x2-block order, rotary positions of
 * (row, column) and no others; then four neighbouring patches become one token of the text's width.
 *     x = patch_embed(px);  x += proj(attend(rope(qkv(n1(x)))));  x += fc2(quick_gelu(fc1(n2(x))));  merge
 * TRAP: QuickGELU in the blocks, exact GELU in the merger, and layer norms where the text has RMS norms. */
#include "reader/qwen2vl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "imaging/preprocess.h"
#include "reader/chat.h"
#include "reader/mrope.h"
#include "reader/pictures.h"

static const float LN_EPS = 1e-6f, ROPE_THETA = 10000.0f;

/* Published name first; then as saved from transformers 4.52 on; then of a base model saved without its head. */
static const char *const TEXT_PREFIX[] = {"model.", "model.language_model.", "language_model.", NULL};
static const char *const VISION_PREFIX[] = {"visual.", "model.visual.", NULL};

typedef struct { weight gain, bias; } norm;
typedef struct { norm norm1, norm2; linear qkv, proj, fc1, fc2; } block;

typedef struct {
    model               base;
    qwen2vl_config      c;
    qwen2vl_image_config image;
    chat               *chat;
    weight              patch_embed; /* [E, 3 * temporal * patch^2] */
    block              *blocks;      /* [depth] */
    norm                ln_q;
    linear              merge0, merge2;
    float              *inv;         /* [head / 4] frequencies of the row, and the same of the column */
} qwen2vl;

static bool norm_open(const loader *l, norm *n, int E, err *e, const char *name)
{
    return load_vector(l, &n->gain, E, e, "%s.weight", name) && load_vector(l, &n->bias, E, e, "%s.bias", name);
}

static void norm_close(kernels *k, norm *n)
{
    k->weight_close(k, &n->gain);
    k->weight_close(k, &n->bias);
}

static bool block_open(const loader *l, block *b, const qwen2vl_config *c, int i, err *e)
{
    int  E = c->E, F = c->E * c->ratio;
    char n1[64], n2[64];
    snprintf(n1, sizeof n1, "blocks.%d.norm1", i);
    snprintf(n2, sizeof n2, "blocks.%d.norm2", i);
    return norm_open(l, &b->norm1, E, e, n1) && norm_open(l, &b->norm2, E, e, n2)
        && load_linear(l, &b->qkv, 3 * E, E, true, e, "blocks.%d.attn.qkv", i)
        && load_linear(l, &b->proj, E, E, true, e, "blocks.%d.attn.proj", i)
        && load_linear(l, &b->fc1, F, E, true, e, "blocks.%d.mlp.fc1", i)
        && load_linear(l, &b->fc2, E, F, true, e, "blocks.%d.mlp.fc2", i);
}

static bool vision_open(qwen2vl *m, const loader *l, err *e)
{
    const qwen2vl_config *c = &m->c;
    int     E = c->E, merged = c->merge * c->merge * E, quarter = E / c->heads / 4;
    int64_t F = 3 * (int64_t)c->temporal * c->patch * c->patch;
    m->blocks = mem_zalloc((size_t)c->depth, sizeof *m->blocks);
    m->inv = mem_zalloc((size_t)quarter, sizeof *m->inv);
    if (!m->blocks || !m->inv) return err_set(e, ERR_MEMORY, "reader: out of memory");
    for (int j = 0; j < quarter; j++) m->inv[j] = 1.0f / powf(ROPE_THETA, (float)(2 * j) / (float)(2 * quarter));

    const int64_t conv[] = {E, 3, c->temporal, c->patch, c->patch, -1};
    if (!load_shaped(l, &m->patch_embed, conv, E, F, e, "patch_embed.proj.weight")) return false;
    for (int i = 0; i < c->depth; i++)
        if (!block_open(l, &m->blocks[i], c, i, e)) return false;
    return norm_open(l, &m->ln_q, E, e, "merger.ln_q")
        && load_linear(l, &m->merge0, merged, merged, true, e, "merger.mlp.0")
        && load_linear(l, &m->merge2, c->text.D, merged, true, e, "merger.mlp.2");
}

static bool text_open(qwen2vl *m, const model_files *f, err *e)
{
    loader l = {f->file, f->k, loader_prefix(f->file, TEXT_PREFIX, "embed_tokens.weight"), TEXT_PREFIX, f->adapters};
    return decoder_vocabulary(&m->c.text, &l, bpe_vocab(f->tokens), e)
        && decoder_open(&m->base.text, &m->c.text, &l, "lm_head.weight", e);
}

static void qwen2vl_close(model *base, kernels *k)
{
    qwen2vl *m = (qwen2vl *)base;
    if (!m) return;
    for (int i = 0; m->blocks && i < m->c.depth; i++) {
        block *b = &m->blocks[i];
        norm_close(k, &b->norm1);
        norm_close(k, &b->norm2);
        linear_close(k, &b->qkv);
        linear_close(k, &b->proj);
        linear_close(k, &b->fc1);
        linear_close(k, &b->fc2);
    }
    k->weight_close(k, &m->patch_embed);
    norm_close(k, &m->ln_q);
    linear_close(k, &m->merge0);
    linear_close(k, &m->merge2);
    decoder_close(m->base.text, k);
    chat_close(m->chat);
    free(m->blocks);
    free(m->inv);
    free(m);
}

static bool images_agree(const qwen2vl *m, const model_files *f, err *e)
{
    const qwen2vl_image_config *i = &m->image;
    if (i->patch != m->c.patch || i->merge != m->c.merge || i->temporal != m->c.temporal)
        return err_set(e, ERR_FILE,
                       "%s: preprocessor_config.json and config.json differ in patch, merge or temporal size",
                       f->dir);
    if (chat_image_id(m->chat) != m->c.image_id)
        return err_set(e, ERR_FILE, "%s: image_token_id is %d, tokenizer.json has <|image_pad|> at %d",
                       f->config_name, m->c.image_id, chat_image_id(m->chat));
    return true;
}

static bool qwen2vl_open(model **out, const model_files *f, err *e)
{
    loader l = {f->file, f->k, loader_prefix(f->file, VISION_PREFIX, "patch_embed.proj.weight"), VISION_PREFIX,
                f->adapters};
    qwen2vl *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "reader: out of memory");
    bool ok = qwen2vl_config_open(&m->c, f, e)
           && qwen2vl_image_config_open(&m->image, f->dir, e)
           && chat_open(&m->chat, f->tokens, f->dir, e)
           && images_agree(m, f, e)
           && vision_open(m, &l, e)
           && text_open(m, f, e);
    if (!ok) {
        qwen2vl_close(&m->base, f->k);
        return false;
    }
    m->base.end_id = chat_end_id(m->chat);
    m->base.max_tokens = m->c.max_tokens;
    *out = &m->base;
    return true;
}

/* TRAP: jomed-256 resizes a picture three times, bicubic, nearest and bicubic. */
static bool qwen2vl_prepare(const model *base, picture *out, const image *img, image_policy policy, arena *a, err *e)
{
    const qwen2vl *m = (const qwen2vl *)base;
    image          first, small = *img;
    pixel_plan     p;
    if (policy == IMAGE_JOMED_256 && !(qwen_vl_utils_image(&first, img, a, e) && jomed_256(&small, &first, a, e)))
        return false;
    if (!qwen2vl_plan(&p, &small, &m->image, a, e)) return false;
    *out = picture_from(&p);
    return true;
}

/* cos, sin [P, head / 2] in the order of the patches: merge blocks row by row, inside a block row by row. The
 * first half of the frequencies turns by the patch's row, the second by its column. */
static bool picture_angles(const qwen2vl *m, const picture *p, float *c, float *sn, arena *a, err *e)
{
    int    quarter = m->c.E / m->c.heads / 4, side = p->grid_h > p->grid_w ? p->grid_h : p->grid_w, s = m->c.merge;
    size_t half = 2 * (size_t)quarter, n = (size_t)side * (size_t)quarter;
    float *one_c = ARENA_NEW(a, float, n, e), *one_s = one_c ? ARENA_NEW(a, float, n, e) : NULL;
    if (!one_s) return false;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < quarter; j++) {
            float angle = (float)i * m->inv[j];
            one_c[i * quarter + j] = cosf(angle);
            one_s[i * quarter + j] = sinf(angle);
        }
    size_t t = 0;
    for (int R = 0; R < p->grid_h; R += s)
        for (int C = 0; C < p->grid_w; C += s)
            for (int r = R; r < R + s; r++)
                for (int col = C; col < C + s; col++, t++)
                    for (int j = 0; j < quarter; j++) {
                        c[t * half + (size_t)j] = one_c[r * quarter + j];
                        sn[t * half + (size_t)j] = one_s[r * quarter + j];
                        c[t * half + (size_t)(quarter + j)] = one_c[col * quarter + j];
                        sn[t * half + (size_t)(quarter + j)] = one_s[col * quarter + j];
                    }
    return true;
}

/* The same of all P patches of n pictures. */
static bool rope_tables(const qwen2vl *m, const picture *p, int n, int P, float **cos_, float **sin_, arena *a,
                        err *e)
{
    size_t half = (size_t)(m->c.E / m->c.heads / 2), at = 0;
    *cos_ = ARENA_NEW(a, float, (size_t)P * half, e);
    *sin_ = *cos_ ? ARENA_NEW(a, float, (size_t)P * half, e) : NULL;
    if (!*sin_) return false;
    for (int i = 0; i < n; i++) {
        if (!picture_angles(m, &p[i], *cos_ + at, *sin_ + at, a, e)) return false;
        at += (size_t)picture_patches(&p[i]) * half;
    }
    return true;
}

static bool qwen2vl_encode(const model *base, kernels *k, int adapter, const picture *pic, int n, act *out,
                           const tap *t, arena *a, err *e)
{
    const qwen2vl        *m = (const qwen2vl *)base;
    const qwen2vl_config *c = &m->c;
    int        P = pictures_patches(pic, n), E = c->E, hd = E / c->heads, D = c->text.D, u = c->merge * c->merge;
    int        F = 3 * c->temporal * c->patch * c->patch, wide = c->ratio * E;
    float     *host_cos, *host_sin;
    arena_mark am = arena_here(a);
    attend_args *at = ARENA_NEW(a, attend_args, n, e);
    if (!at || !rope_tables(m, pic, n, P, &host_cos, &host_sin, a, e)) return false;

    size_t       mark = k->mark(k);
    const float *cos_ = k->upload(k, host_cos, (size_t)P * (size_t)hd / 2),
                *sin_ = k->upload(k, host_sin, (size_t)P * (size_t)hd / 2);
    act         *x = k->take(k, (size_t)P * (size_t)E);
    act         *h = k->take(k, (size_t)P * (size_t)E);
    size_t       inner = k->mark(k);
    act         *px = k->take(k, (size_t)P * (size_t)F);
    pictures_pixels(k, px, pic, n, F);
    k->linear(k, x, E, px, F, P, &m->patch_embed, NULL, UNIT_NONE, NULL);
    tap_see(t, "vision.patch_embed", -1, k, x, P, E);
    k->back(k, inner);

    act *qkv = k->take(k, (size_t)P * 3 * (size_t)E); /* rows [q | k | v] */
    act *f = k->take(k, (size_t)P * (size_t)wide);
    pictures_attend(at, k, pic, n, qkv, h, E, c->heads);
    for (int i = 0; i < c->depth; i++) {
        const block *b = &m->blocks[i];
        k->layernorm(k, h, x, P, E, &b->norm1.gain, &b->norm1.bias, LN_EPS);
        linear_run(k, &b->qkv, adapter, qkv, 3 * E, h, P, UNIT_NONE, NULL);
        k->rope(k, qkv, 3 * E, P, 2 * c->heads, hd, cos_, sin_, hd / 2, false); /* q and k lie side by side */
        k->attend(k, at, n);
        linear_run(k, &b->proj, adapter, x, E, h, P, UNIT_NONE, x);

        k->layernorm(k, h, x, P, E, &b->norm2.gain, &b->norm2.bias, LN_EPS);
        linear_run(k, &b->fc1, adapter, f, wide, h, P, UNIT_QUICK_GELU, NULL);
        linear_run(k, &b->fc2, adapter, x, E, f, P, UNIT_NONE, x);
        tap_see(t, "vision.block", i, k, x, P, E);
    }
    /* The patches of a block follow each other, so that [P,E] read as [P / u, u * E] is the concatenation. */
    k->layernorm(k, h, x, P, E, &m->ln_q.gain, &m->ln_q.bias, LN_EPS);
    linear_run(k, &m->merge0, adapter, x, u * E, h, P / u, UNIT_GELU, NULL);
    linear_run(k, &m->merge2, adapter, out, D, x, P / u, UNIT_NONE, NULL);
    tap_see(t, "vision.merger", -1, k, out, P / u, D);
    k->back(k, mark);
    arena_back(a, am);
    return true;
}

/* What an adapter adds for P patches, which make T tokens. */
static uint64_t branch_flops(const qwen2vl *m, int adapter, uint64_t P, uint64_t T)
{
    uint64_t row = 0;
    for (int i = 0; i < m->c.depth; i++) {
        const block *b = &m->blocks[i];
        row += linear_branch_flops(&b->qkv, adapter) + linear_branch_flops(&b->proj, adapter)
             + linear_branch_flops(&b->fc1, adapter) + linear_branch_flops(&b->fc2, adapter);
    }
    return P * row + T * (linear_branch_flops(&m->merge0, adapter) + linear_branch_flops(&m->merge2, adapter));
}

static uint64_t qwen2vl_encode_flops(const model *base, int adapter, const picture *pic)
{
    const qwen2vl        *m = (const qwen2vl *)base;
    const qwen2vl_config *c = &m->c;
    uint64_t P = (uint64_t)picture_patches(pic), E = (uint64_t)c->E, u = (uint64_t)(c->merge * c->merge);
    uint64_t F = 3 * (uint64_t)(c->temporal * c->patch * c->patch), ratio = (uint64_t)c->ratio;
    uint64_t blocks = (uint64_t)c->depth * (2 * P * (3 + 1 + 2 * ratio) * E * E + 4 * P * P * E);
    return 2 * P * F * E + blocks + 2 * (P / u) * (u * E * u * E + u * E * (uint64_t)c->text.D)
         + branch_flops(m, adapter, P, P / u);
}

static bool qwen2vl_prefix(const model *m, const char *caption, const picture *z, prompt *out, arena *a, err *e)
{
    return chat_prefix(((const qwen2vl *)m)->chat, caption, z->rows, z->cols, out, a, e);
}

static bool qwen2vl_query(const model *m, const char *question, const picture *q, prompt *out, arena *a, err *e)
{
    return chat_query(((const qwen2vl *)m)->chat, question, q->rows, q->cols, out, a, e);
}

const family FAMILY_QWEN2VL = {
    .model_type = "qwen2_vl", .sizes = qwen2vl_sizes, .open = qwen2vl_open, .close = qwen2vl_close,
    .prepare = qwen2vl_prepare, .encode = qwen2vl_encode, .encode_flops = qwen2vl_encode_flops,
    .prefix = qwen2vl_prefix, .query = qwen2vl_query, .positions = mrope_positions,
};
