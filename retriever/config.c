/* config.c - config.json of jina-clip-v1. The published file names the text model and leaves its sizes to that
 * model's own repository, so those are the defaults here; a re-saved or a small model spells them out in
 * text_config.hf_model_config_kwargs. Fields that switch arithmetic are not read but compared: a checkpoint
 * that wants another forward pass must not run through this one. [specs/models.md 5.1] */
#include "retriever/config.h"

#include <string.h>

#include "base/json.h"

enum { MAX_SIDE = 4096, MAX_WIDTH = 16384, MAX_LAYERS = 256 };

#define VISION "vision_config."
#define TEXT   "text_config."
#define BERT   "text_config.hf_model_config_kwargs."

/* What the forward passes of vision.c and text.c assume; absent means as published. */
static const struct { const char *path; bool want; } SWITCHES[] = {
    {"add_projections", false},
    {VISION "naive_swiglu", true},  {VISION "subln", true},     {VISION "rope_embeddings", true},
    {VISION "qkv_bias", true},      {VISION "post_norm", false},
    {BERT "use_qk_norm", false},
};
static const struct { const char *path, *want; } CHOICES[] = {
    {"model_type", "jina_clip"}, {TEXT "pooler_type", "mean_pooler"}, {BERT "mlp_type", "glu"},
    {BERT "hidden_act", "gelu"}, {BERT "position_embedding_type", "alibi"},
};
static const char *const MUST_BE_NULL[] = {VISION "ls_init_value", VISION "proj_type", TEXT "proj_type"};

static bool check_switches(const json_t *j, const char *where, err *e)
{
    for (size_t i = 0; i < sizeof SWITCHES / sizeof *SWITCHES; i++) {
        bool v;
        if (!json_bool_or(j, SWITCHES[i].path, SWITCHES[i].want, &v, where, e)) return false;
        if (v != SWITCHES[i].want)
            return err_set(e, ERR_FILE, "%s: %s is %s: not supported", where, SWITCHES[i].path, v ? "true" : "false");
    }
    for (size_t i = 0; i < sizeof CHOICES / sizeof *CHOICES; i++) {
        const char *v;
        if (!json_str_or(j, CHOICES[i].path, CHOICES[i].want, &v, where, e)) return false;
        if (strcmp(v, CHOICES[i].want) != 0)
            return err_set(e, ERR_FILE, "%s: %s is \"%.40s\", wanted \"%s\"", where, CHOICES[i].path, v,
                           CHOICES[i].want);
    }
    for (size_t i = 0; i < sizeof MUST_BE_NULL / sizeof *MUST_BE_NULL; i++)
        if (json_path(j, MUST_BE_NULL[i]))
            return err_set(e, ERR_FILE, "%s: %s is set: not supported", where, MUST_BE_NULL[i]);
    return true;
}

static bool size_or(const json_t *j, const char *path, int def, int least, int most, int *out, const char *where,
                    err *e)
{
    int64_t v;
    if (!json_int_or(j, path, def, &v, where, e)) return false;
    if (v < least || v > most)
        return err_set(e, ERR_FILE, "%s: %s is %lld, wanted %d to %d", where, path, (long long)v, least, most);
    *out = (int)v;
    return true;
}

static bool read_vision(vision_config *c, const json_t *j, const char *where, err *e)
{
    double ratio;
    if (!size_or(j, VISION "image_size", 224, 1, MAX_SIDE, &c->image_size, where, e) ||
        !size_or(j, VISION "patch_size", 16, 1, MAX_SIDE, &c->patch, where, e) ||
        !size_or(j, VISION "layers", 12, 1, MAX_LAYERS, &c->layers, where, e) ||
        !size_or(j, VISION "width", 768, 1, MAX_WIDTH, &c->width, where, e) ||
        !size_or(j, VISION "embed_dim", c->width, 1, MAX_WIDTH, &c->embed, where, e) ||
        !size_or(j, VISION "head_width", 64, 1, MAX_WIDTH, &c->head_width, where, e) ||
        !json_num_or(j, VISION "mlp_ratio", 2.6667, &ratio, where, e) ||
        !json_bool_or(j, VISION "intp_freq", false, &c->interpolate, where, e))
        return false;
    if (c->image_size % c->patch)
        return err_set(e, ERR_FILE, "%s: vision_config.image_size %d is not a multiple of patch_size %d", where,
                       c->image_size, c->patch);
    /* The head is turned in two halves (row, column) of channel pairs. */
    if (c->width % c->head_width || c->head_width % 4)
        return err_set(e, ERR_FILE, "%s: vision_config.head_width %d must be a multiple of 4 that divides width %d",
                       where, c->head_width, c->width);
    if (!(ratio > 0 && c->width * ratio >= 1 && c->width * ratio <= 8 * MAX_WIDTH))
        return err_set(e, ERR_FILE, "%s: vision_config.mlp_ratio is out of range", where);
    c->grid = c->image_size / c->patch;
    c->heads = c->width / c->head_width;
    c->ffn = (int)(c->width * ratio); /* truncated: 768 x 2.6667 = 2048.03 is 2048 */

    /* The class's own default is 16; without interpolation only the grid itself can work. */
    const int absent = c->interpolate ? 16 : c->grid;
    if (!size_or(j, VISION "pt_hw_seq_len", absent, 1, MAX_SIDE, &c->trained_grid, where, e)) return false;
    if (!c->interpolate && c->trained_grid != c->grid)
        return err_set(
            e, ERR_FILE,
            "%s: vision_config.pt_hw_seq_len is %d, but there are %d x %d patches and intp_freq is false", where,
            c->trained_grid, c->grid, c->grid);
    return true;
}

static bool read_text(text_config *c, const json_t *j, const char *where, err *e)
{
    double eps;
    if (!size_or(j, BERT "num_hidden_layers", 12, 1, MAX_LAYERS, &c->layers, where, e) ||
        !size_or(j, BERT "num_attention_heads", 12, 1, MAX_WIDTH, &c->heads, where, e) ||
        !size_or(j, BERT "hidden_size", 768, 1, MAX_WIDTH, &c->width, where, e) ||
        !size_or(j, BERT "intermediate_size", 4 * c->width, 1, 8 * MAX_WIDTH, &c->ffn, where, e) ||
        !size_or(j, BERT "vocab_size", 0, 0, 1 << 24, &c->vocab, where, e) ||
        !size_or(j, BERT "type_vocab_size", 2, 1, 1 << 10, &c->types, where, e) ||
        !size_or(j, BERT "pad_token_id", 0, 0, 1 << 24, &c->pad_id, where, e) ||
        !size_or(j, TEXT "embed_dim", c->width, 1, MAX_WIDTH, &c->embed, where, e) ||
        !json_num_or(j, BERT "layer_norm_eps", 1e-12, &eps, where, e))
        return false;
    if (c->width % c->heads)
        return err_set(e, ERR_FILE, "%s: %shidden_size %d is not a multiple of num_attention_heads %d", where, BERT,
                       c->width, c->heads);
    if (!(eps > 0 && eps < 1)) return err_set(e, ERR_FILE, "%s: %slayer_norm_eps is out of range", where, BERT);
    c->eps = (float)eps;
    return true;
}

bool jina_config_open(jina_config *out, const char *path, err *e)
{
    jina_config c = {0};
    json_t     *j = NULL;
    if (!json_open(&j, path, e)) return false;
    bool ok = (json_is_object(j) || err_set(e, ERR_FILE, "%s: not a JSON object", path)) && check_switches(j, path, e)
           && read_vision(&c.vision, j, path, e) && read_text(&c.text, j, path, e);
    json_decref(j);
    if (!ok) return false;
    /* Without a projection the text tower ends at its own width, and both towers must meet in one space. */
    if (c.text.width != c.text.embed || c.vision.embed != c.text.embed)
        return err_set(e, ERR_FILE,
                       "%s: embeddings differ: vision_config.embed_dim %d, text_config.embed_dim %d, text width %d",
                       path, c.vision.embed, c.text.embed, c.text.width);
    *out = c;
    return true;
}
