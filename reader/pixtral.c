/* pixtral.c - Pixtral: names in the checkpoint, vision tower, prompt and positions [Agrawal et al. 2024,
 * arXiv:2410.07073]. Sizes, tensor names and traps: docs/MODEL.md, "Pixtral-12B". The decoder is decoder.c's.
 *
 * Vision: a pre-norm transformer like the text's, in which images do not see each other, patches in raster
 * order, rotary positions of (row, column); every patch becomes a token of the text's width.
 *     x = RMS(patch_conv(px));  x += o(attend(rope(q), rope(k), v));  x += down(act(gate(RMS x)) * up(RMS x))
 *     out = linear_2(gelu(linear_1(x)))
 * TRAP: there is a norm before the first layer and none after the last. */
#include "reader/pixtral.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "imaging/preprocess.h"
#include "reader/pictures.h"
#include "reader/pixtral_chat.h"

static const float RMS_EPS = 1e-5f; /* the tower's own; the text's stands in the file */

/* Published name first; then as saved from transformers 4.52 on; then of a base model saved without its head. */
static const char *const TEXT_PREFIX[] = {"language_model.model.", "model.language_model.", "language_model.", NULL};
static const char *const VISION_PREFIX[] = {"vision_tower.", "model.vision_tower.", NULL};
static const char *const PROJECTOR_PREFIX[] = {"multi_modal_projector.", "model.multi_modal_projector.", NULL};
static const char *const HEAD_PREFIX[] = {"language_model.lm_head.", "lm_head.", NULL};

typedef struct { weight norm1, norm2; linear q, k, v, o, gate, up, down; } block;

typedef struct {
    model                base;
    pixtral_config       c;
    pixtral_image_config image;
    pixtral_chat         chat;
    weight               patch_conv; /* [E, 3 * patch^2] */
    weight               ln_pre;
    block               *blocks;     /* [depth] */
    linear               linear1, linear2;
    float               *inv;        /* [head / 2] frequencies: the even ones turn by the row, the odd ones by
                                        the column */
} pixtral;

static bool block_open(const loader *l, block *b, const pixtral_config *c, int i, err *e)
{
    static const char layer[] = "transformer.layers";
    int E = c->E, F = c->F;
    return load_vector(l, &b->norm1, E, e, "%s.%d.attention_norm.weight", layer, i)
        && load_vector(l, &b->norm2, E, e, "%s.%d.ffn_norm.weight", layer, i)
        && load_linear(l, &b->q, E, E, false, e, "%s.%d.attention.q_proj", layer, i)
        && load_linear(l, &b->k, E, E, false, e, "%s.%d.attention.k_proj", layer, i)
        && load_linear(l, &b->v, E, E, false, e, "%s.%d.attention.v_proj", layer, i)
        && load_linear(l, &b->o, E, E, false, e, "%s.%d.attention.o_proj", layer, i)
        && load_linear(l, &b->gate, F, E, false, e, "%s.%d.feed_forward.gate_proj", layer, i)
        && load_linear(l, &b->up, F, E, false, e, "%s.%d.feed_forward.up_proj", layer, i)
        && load_linear(l, &b->down, E, F, false, e, "%s.%d.feed_forward.down_proj", layer, i);
}

static void block_close(kernels *k, block *b)
{
    linear *const all[] = {&b->q, &b->k, &b->v, &b->o, &b->gate, &b->up, &b->down};
    k->weight_close(k, &b->norm1);
    k->weight_close(k, &b->norm2);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) linear_close(k, all[i]);
}

static bool vision_open(pixtral *m, const model_files *f, err *e)
{
    const pixtral_config *c = &m->c;
    loader tower = {f->file, f->k, loader_prefix(f->file, VISION_PREFIX, "patch_conv.weight"), VISION_PREFIX,
                    f->adapters};
    loader projector = {f->file, f->k, loader_prefix(f->file, PROJECTOR_PREFIX, "linear_1.weight"),
                        PROJECTOR_PREFIX, f->adapters};
    const int64_t conv[] = {c->E, 3, c->patch, c->patch, -1};
    int           head = c->E / c->heads;
    m->blocks = mem_zalloc((size_t)c->depth, sizeof *m->blocks);
    m->inv = mem_zalloc((size_t)head / 2, sizeof *m->inv);
    if (!m->blocks || !m->inv) return err_set(e, ERR_MEMORY, "reader: out of memory");
    for (int i = 0; i < head / 2; i++) m->inv[i] = 1.0f / powf((float)c->theta, (float)(2 * i) / (float)head);

    if (!load_shaped(&tower, &m->patch_conv, conv, c->E, 3 * (int64_t)c->patch * c->patch, e, "patch_conv.weight"))
        return false;
    if (!load_vector(&tower, &m->ln_pre, c->E, e, "ln_pre.weight")) return false;
    for (int i = 0; i < c->depth; i++)
        if (!block_open(&tower, &m->blocks[i], c, i, e)) return false;
    return load_linear(&projector, &m->linear1, c->text.D, c->E, true, e, "linear_1")
        && load_linear(&projector, &m->linear2, c->text.D, c->text.D, true, e, "linear_2");
}

static bool text_open(pixtral *m, const model_files *f, err *e)
{
    char   head[64];
    loader l = {f->file, f->k, loader_prefix(f->file, TEXT_PREFIX, "embed_tokens.weight"), TEXT_PREFIX, f->adapters};
    snprintf(head, sizeof head, "%sweight", loader_prefix(f->file, HEAD_PREFIX, "weight"));
    return decoder_vocabulary(&m->c.text, &l, bpe_vocab(f->tokens), e)
        && decoder_open(&m->base.text, &m->c.text, &l, head, e);
}

static void pixtral_close(model *base, kernels *k)
{
    pixtral *m = (pixtral *)base;
    if (!m) return;
    for (int i = 0; m->blocks && i < m->c.depth; i++) block_close(k, &m->blocks[i]);
    k->weight_close(k, &m->patch_conv);
    k->weight_close(k, &m->ln_pre);
    linear_close(k, &m->linear1);
    linear_close(k, &m->linear2);
    decoder_close(m->base.text, k);
    free(m->blocks);
    free(m->inv);
    free(m);
}

static bool files_agree(const pixtral *m, const model_files *f, err *e)
{
    const pixtral_config *c = &m->c;
    if (m->image.patch != c->patch)
        return err_set(e, ERR_FILE, "%s: patch_size is %d in preprocessor_config.json, %d in config.json", f->dir,
                       m->image.patch, c->patch);
    if ((m->image.longest_edge - 1) / c->patch + 1 > c->side)
        return err_set(
            e, ERR_FILE,
            "%s: size.longest_edge %d of preprocessor_config.json is above vision_config.image_size of config.json",
            f->dir, m->image.longest_edge);
    if (m->chat.image != c->image_id)
        return err_set(e, ERR_FILE, "%s: image_token_index is %d, tokenizer.json has [IMG] at %d", f->config_name,
                       c->image_id, m->chat.image);
    return true;
}

static bool pixtral_open(model **out, const model_files *f, err *e)
{
    pixtral *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "reader: out of memory");
    bool ok = pixtral_config_open(&m->c, f, e)
           && pixtral_image_config_open(&m->image, f->dir, e)
           && pixtral_chat_open(&m->chat, f->tokens, f->dir, e)
           && files_agree(m, f, e)
           && vision_open(m, f, e)
           && text_open(m, f, e);
    if (!ok) {
        pixtral_close(&m->base, f->k);
        return false;
    }
    m->base.end_id = m->chat.end;
    m->base.max_tokens = m->c.max_tokens;
    *out = &m->base;
    return true;
}

static bool pixtral_prepare(const model *base, picture *out, const image *img, image_policy policy, arena *a, err *e)
{
    image      small = *img;
    pixel_plan p;
    if (policy == IMAGE_JOMED_256 && !jomed_256(&small, img, a, e)) return false;
    if (!pixtral_plan(&p, &small, &((const pixtral *)base)->image, a, e)) return false;
    *out = picture_from(&p);
    return true;
}

/* cos, sin [P, head / 2]: the first half of the pairs turns by the patch's row, at the even frequencies, the
 * second by its column, at the odd ones. TRAP: rows first; the reverse gives fluent answers about another
 * picture. */
static bool rope_tables(const pixtral *m, const picture *p, int n, int P, float **cos_, float **sin_, arena *a,
                        err *e)
{
    int quarter = m->c.E / m->c.heads / 4, half = 2 * quarter;
    *cos_ = arena_take_n(a, (size_t)P, (size_t)half * sizeof **cos_, e);
    *sin_ = *cos_ ? arena_take_n(a, (size_t)P, (size_t)half * sizeof **sin_, e) : NULL;
    if (!*sin_) return false;
    float *c = *cos_, *s = *sin_;
    for (int i = 0; i < n; i++)
        for (int row = 0; row < p[i].grid_h; row++)
            for (int col = 0; col < p[i].grid_w; col++, c += half, s += half)
                for (int j = 0; j < quarter; j++) {
                    float by_row = (float)row * m->inv[2 * j], by_col = (float)col * m->inv[2 * j + 1];
                    c[j] = cosf(by_row);
                    s[j] = sinf(by_row);
                    c[quarter + j] = cosf(by_col);
                    s[quarter + j] = sinf(by_col);
                }
    return true;
}

static bool pixtral_encode(const model *base, kernels *k, int adapter, const picture *pic, int n, act *out,
                           const tap *t, arena *a, err *e)
{
    const pixtral        *m = (const pixtral *)base;
    const pixtral_config *c = &m->c;
    int P = pictures_patches(pic, n), E = c->E, F = c->F, hd = E / c->heads, D = c->text.D,
        n_px = 3 * c->patch * c->patch;
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
    act         *px = k->take(k, (size_t)P * (size_t)n_px);
    pictures_pixels(k, px, pic, n, n_px);
    k->linear(k, x, E, px, n_px, P, &m->patch_conv, NULL, UNIT_NONE, NULL);
    k->rmsnorm(k, x, x, P, E, &m->ln_pre, RMS_EPS);
    tap_see(t, "vision.ln_pre", -1, k, x, P, E);
    k->back(k, inner);

    act *qkv = k->take(k, (size_t)P * 3 * (size_t)E); /* rows [q | k | v] */
    act *keys = act_at(k, qkv, (size_t)E), *values = act_at(k, qkv, 2 * (size_t)E);
    act *gate = k->take(k, (size_t)P * (size_t)F);
    act *up = k->take(k, (size_t)P * (size_t)F);
    pictures_attend(at, k, pic, n, qkv, h, E, c->heads);
    for (int i = 0; i < c->depth; i++) {
        const block *b = &m->blocks[i];
        k->rmsnorm(k, h, x, P, E, &b->norm1, RMS_EPS);
        const linear_out sides[] = {{&b->q, qkv, 3 * E}, {&b->k, keys, 3 * E}, {&b->v, values, 3 * E}};
        linears_run(k, sides, 3, adapter, h, P);
        k->rope(k, qkv, 3 * E, P, 2 * c->heads, hd, cos_, sin_, hd / 2, false); /* q and k lie side by side */
        k->attend(k, at, n);
        linear_run(k, &b->o, adapter, x, E, h, P, UNIT_NONE, x);

        k->rmsnorm(k, h, x, P, E, &b->norm2, RMS_EPS);
        const linear_out both[] = {{&b->gate, gate, F}, {&b->up, up, F}};
        linears_run(k, both, 2, adapter, h, P);
        k->glu(k, gate, gate, up, F, P, F, c->act);
        linear_run(k, &b->down, adapter, x, E, gate, P, UNIT_NONE, x);
        tap_see(t, "vision.layer", i, k, x, P, E);
    }
    k->back(k, inner);
    act *wide = k->take(k, (size_t)P * (size_t)D);
    linear_run(k, &m->linear1, adapter, wide, D, x, P, c->projector_act, NULL);
    linear_run(k, &m->linear2, adapter, out, D, wide, P, UNIT_NONE, NULL);
    tap_see(t, "vision.projector", -1, k, out, P, D);
    k->back(k, mark);
    arena_back(a, am);
    return true;
}

/* What an adapter adds for one patch, which is one token. */
static uint64_t branch_flops(const pixtral *m, int adapter)
{
    uint64_t sum = linear_branch_flops(&m->linear1, adapter) + linear_branch_flops(&m->linear2, adapter);
    for (int i = 0; i < m->c.depth; i++) {
        const block  *b = &m->blocks[i];
        const linear *const all[] = {&b->q, &b->k, &b->v, &b->o, &b->gate, &b->up, &b->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) sum += linear_branch_flops(all[j], adapter);
    }
    return sum;
}

static uint64_t pixtral_encode_flops(const model *base, int adapter, const picture *pic)
{
    const pixtral        *m = (const pixtral *)base;
    const pixtral_config *c = &m->c;
    uint64_t P = (uint64_t)picture_patches(pic), E = (uint64_t)c->E, F = (uint64_t)c->F, D = (uint64_t)c->text.D;
    uint64_t n_px = 3 * (uint64_t)c->patch * (uint64_t)c->patch;
    return 2 * P * n_px * E + (uint64_t)c->depth * (2 * P * (4 * E * E + 3 * E * F) + 4 * P * P * E)
           + 2 * P * (E * D + D * D) + P * branch_flops(m, adapter);
}

static bool pixtral_prefix(const model *m, const char *caption, const picture *z, prompt *out, arena *a, err *e)
{
    return pixtral_chat_prefix(&((const pixtral *)m)->chat, caption, z->rows, z->cols, out, a, e);
}

static bool pixtral_query(const model *m, const char *question, const picture *q, prompt *out, arena *a, err *e)
{
    return pixtral_chat_query(&((const pixtral *)m)->chat, question, q->rows, q->cols, out, a, e);
}

/* Every token, of a picture or not, is one position further; the three axes are one. */
static int pixtral_positions(int32_t *pos, const prompt *p, int cursor)
{
    for (int axis = 0; axis < 3; axis++)
        for (int t = 0; t < p->n_ids; t++) pos[axis * p->n_ids + t] = cursor + t;
    return cursor + p->n_ids;
}

const family FAMILY_PIXTRAL = {
    .model_type = "llava", .sizes = pixtral_sizes, .open = pixtral_open, .close = pixtral_close,
    .prepare = pixtral_prepare, .encode = pixtral_encode, .encode_flops = pixtral_encode_flops,
    .prefix = pixtral_prefix, .query = pixtral_query, .positions = pixtral_positions,
};
