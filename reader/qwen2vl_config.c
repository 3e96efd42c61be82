/* qwen2vl_config.c - config.json of Qwen2-VL in the spellings that the library has written over time:
 *   published    all text fields at the top, rope_theta + rope_scaling {type: mrope, mrope_section}
 *   4.45 - 4.51  vision_config cut down to what differs from the 7B's; rope_scaling {rope_type: default,
 *                type: default, ...}
 *   4.52 on      text fields in text_config, cut down likewise to what differs from the class's defaults
 *   5.x          rope fields in rope_parameters {rope_theta, rope_type, mrope_section}
 * A field that is absent therefore means the class's default, which is what is filled in here. TRAP: for the
 * text half these are not the 7B's values (the class's rms_norm_eps is 1e-5, the published files say 1e-6);
 * sizes that no published model leaves out have no default. What would change the arithmetic and is not built
 * is refused by name. */
#include "reader/qwen2vl.h"

#include <string.h>

#include "base/json.h"
#include "reader/config_fields.h"

/* "text_config.NAME" where it is there, else "NAME". */
static const char *text_path(char buf[96], const config_fields *s, const char *name)
{
    snprintf(buf, 96, "text_config.%s", name);
    return json_path(s->root, buf) ? buf : name;
}

static bool text_size(const config_fields *s, const char *name, int def, int hi, int *out)
{
    char buf[96];
    return field_size(s, text_path(buf, s, name), def, 1, hi, out);
}

/* The object that says how positions turn: the first of these that is there. */
static const char *rope_path(const config_fields *s)
{
    static const char *const place[] = {"text_config.rope_parameters", "rope_parameters", "text_config.rope_scaling",
                                        "rope_scaling"};
    for (int i = 0; i < 4; i++)
        if (json_path(s->root, place[i])) return place[i];
    return "rope_scaling";
}

static bool rope_kind(const config_fields *s, const char *rope)
{
    static const char *const key[] = {"rope_type", "type"};
    for (int i = 0; i < 2; i++) {
        char        path[96];
        const char *v;
        snprintf(path, sizeof path, "%s.%s", rope, key[i]);
        if (!json_str_or(s->root, path, "mrope", &v, s->where, s->e)) return false;
        if (strcmp(v, "mrope") != 0 && strcmp(v, "default") != 0)
            return err_set(s->e, ERR_FILE, "%s: %s is '%.40s', only 'mrope' and 'default' are supported", s->where,
                           path, v);
    }
    return true;
}

static bool rope_config(const config_fields *s, decoder_config *c)
{
    char        path[96], flat[96];
    const char *rope = rope_path(s);
    snprintf(path, sizeof path, "%s.rope_theta", rope);
    if (!json_path(s->root, path)) snprintf(path, sizeof path, "%s", text_path(flat, s, "rope_theta"));
    if (!json_num_or(s->root, path, 1e6, &c->theta, s->where, s->e) || !rope_kind(s, rope)) return false;
    if (!(c->theta > 1)) return err_set(s->e, ERR_FILE, "%s: %s must be above 1", s->where, path);

    snprintf(path, sizeof path, "%s.mrope_section", rope);
    const json_t *section = json_path(s->root, path);
    int64_t       sum = 0;
    for (size_t i = 0; i < 3; i++) {
        const json_t *v = json_array_get(section, i);
        int64_t       n = json_integer_value(v);
        if (json_array_size(section) != 3 || !json_is_integer(v) || n < 0 || n > c->head_dim)
            return err_set(s->e, ERR_FILE, "%s: %s must be three sizes", s->where, path);
        c->section[i] = (int)n;
        sum += n;
    }
    return sum * 2 == c->head_dim
        || err_set(s->e, ERR_FILE, "%s: %s must add up to half the head's %d", s->where, path, c->head_dim);
}

static bool text_config(const config_fields *s, decoder_config *c, int *max_tokens)
{
    char buf[96];
    bool sliding;
    if (!text_size(s, "hidden_size", -1, CONFIG_MAX_SIZE, &c->D)
        || !text_size(s, "num_hidden_layers", -1, CONFIG_MAX_LAYERS, &c->L)
        || !text_size(s, "num_attention_heads", -1, CONFIG_MAX_SIZE, &c->N)
        || !text_size(s, "intermediate_size", -1, CONFIG_MAX_SIZE, &c->F)
        || !text_size(s, "num_key_value_heads", c->N, CONFIG_MAX_SIZE, &c->kv_heads)
        || !text_size(s, "head_dim", c->D / c->N ? c->D / c->N : 1, CONFIG_MAX_SIZE, &c->head_dim)
        || !text_size(s, "max_position_embeddings", 32768, CONFIG_MAX_SIZE, max_tokens))
        return false;
    if (c->N % c->kv_heads != 0)
        return err_set(s->e, ERR_FILE, "%s: num_attention_heads %d is no multiple of num_key_value_heads %d",
                       s->where, c->N, c->kv_heads);
    if (c->head_dim % 2 != 0 || (int64_t)c->head_dim * c->N > CONFIG_MAX_SIZE)
        return err_set(s->e, ERR_FILE, "%s: %d heads of size %d are not possible", s->where, c->N, c->head_dim);

    double eps;
    if (!json_num_or(s->root, text_path(buf, s, "rms_norm_eps"), 1e-5, &eps, s->where, s->e)) return false;
    if (!(eps > 0)) return err_set(s->e, ERR_FILE, "%s: rms_norm_eps must be above 0", s->where);
    c->eps = (float)eps;
    c->qkv_bias = true;
    if (!field_must_be(s, text_path(buf, s, "hidden_act"), "silu")) return false;
    if (!json_bool_or(s->root, text_path(buf, s, "use_sliding_window"), false, &sliding, s->where, s->e))
        return false;
    if (sliding) return err_set(s->e, ERR_FILE, "%s: use_sliding_window is not supported", s->where);
    return rope_config(s, c);
}

static bool vision_config(const config_fields *s, qwen2vl_config *c)
{
    int channels, hidden;
    if (!field_size(s, "vision_config.depth", 32, 1, CONFIG_MAX_LAYERS, &c->depth)
        || !field_size(s, "vision_config.embed_dim", 1280, 1, CONFIG_MAX_SIZE, &c->E)
        || !field_size(s, "vision_config.num_heads", 16, 1, CONFIG_MAX_SIZE, &c->heads)
        || !field_size(s, "vision_config.mlp_ratio", 4, 1, 64, &c->ratio)
        || !field_size(s, "vision_config.patch_size", 14, 1, 1024, &c->patch)
        || !field_size(s, "vision_config.spatial_merge_size", 2, 1, 64, &c->merge)
        || !field_size(s, "vision_config.temporal_patch_size", 2, 1, 64, &c->temporal)
        || !field_size(s, "vision_config.in_channels", 3, 1, 64, &channels)
        || !field_size(s, "vision_config.hidden_size", c->text.D, 1, CONFIG_MAX_SIZE, &hidden)
        || !field_must_be(s, "vision_config.hidden_act", "quick_gelu")) return false;
    if (channels != 3) return err_set(s->e, ERR_FILE, "%s: vision_config.in_channels must be 3", s->where);
    if (hidden != c->text.D)
        return err_set(s->e, ERR_FILE, "%s: vision_config.hidden_size is %d, the text's hidden_size %d", s->where,
                       hidden, c->text.D);
    if (c->E % c->heads != 0 || c->E / c->heads % 4 != 0) /* half the head turns by the row, half by the column */
        return err_set(s->e, ERR_FILE, "%s: vision_config.embed_dim %d does not split into %d heads", s->where,
                       c->E, c->heads);
    return true;
}

/* A head of its own or the embedding's: as the file says; where it is silent, as the tensors say. */
static bool tied_config(const config_fields *s, const safetensors *file, bool *tied)
{
    char        buf[96];
    const char *path = "tie_word_embeddings";
    if (!json_path(s->root, path)) path = text_path(buf, s, path);
    return json_bool_or(s->root, path, !safetensors_find(file, "lm_head.weight"), tied, s->where, s->e);
}

bool qwen2vl_sizes(decoder_config *out, const json_t *config, const char *config_name, err *e)
{
    config_fields s = {config, config_name, e};
    int           max_tokens;
    *out = (decoder_config){0};
    return text_config(&s, out, &max_tokens);
}

bool qwen2vl_config_open(qwen2vl_config *out, const model_files *f, err *e)
{
    config_fields  s = {f->config, f->config_name, e};
    qwen2vl_config c = {0};
    int64_t        id;
    if (!text_config(&s, &c.text, &c.max_tokens) || !vision_config(&s, &c)) return false;
    if (!tied_config(&s, f->file, &c.text.tied)) return false;
    if (!json_int_or(f->config, "image_token_id", 151655, &id, f->config_name, e)) return false;
    c.image_id = id >= 0 && id < INT32_MAX ? (int32_t)id : -1;
    *out = c;
    return true;
}
