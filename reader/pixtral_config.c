/* pixtral_config.c - config.json of Pixtral in the Hugging Face layout (model_type llava): text_config of a Mistral,
 * vision_config of a Pixtral tower. Rotary fields stand flat, or in rope_parameters from transformers 5 on.
 *
 * A field that is absent means the default of the library's class. TRAP: these are not the published model's
 * values: its file spells out what differs (head_dim 128, rms_norm_eps 1e-5, rope_theta 1e9, hidden_act silu,
 * sliding_window null) and leaves out what does not (32 heads; the vision tower's sizes), so every default
 * matters. What would change the arithmetic and is not built is refused by name. */
#include "reader/pixtral.h"

#include <string.h>

#include "base/json.h"
#include "reader/config_fields.h"

/* HALF.rope_parameters or the flat spelling: theta, and that it is not scaled. */
static bool rope_config(const config_fields *s, const char *half, double *theta)
{
    static const char *const scaled[] = {"rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type"};
    char path[96];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s.%s", half, scaled[i]);
        if (!field_must_be(s, path, "default")) return false;
    }
    snprintf(path, sizeof path, "%s.rope_parameters.rope_theta", half);
    if (!json_path(s->root, path)) snprintf(path, sizeof path, "%s.rope_theta", half);
    if (!json_num_or(s->root, path, 10000, theta, s->where, s->e)) return false;
    return *theta > 1 || err_set(s->e, ERR_FILE, "%s: %s must be above 1", s->where, path);
}

/* A sliding window (the class has one of 4096, the published file says null) is the same as none for prompts
 * that fit in it: the window then bounds the prompt. */
static bool window_config(const config_fields *s, int *max_tokens)
{
    int window;
    if (json_is_null(json_object_get(json_path(s->root, "text_config"), "sliding_window"))) return true;
    if (!field_size(s, "text_config.sliding_window", 4096, 1, INT32_MAX, &window)) return false;
    if (window < *max_tokens) *max_tokens = window;
    return true;
}

static bool text_config(const config_fields *s, decoder_config *c, int *max_tokens)
{
    double eps;
    if (!field_must_be(s, "text_config.model_type", "mistral")
        || !field_size(s, "text_config.hidden_size", 4096, 1, CONFIG_MAX_SIZE, &c->D)
        || !field_size(s, "text_config.num_hidden_layers", 32, 1, CONFIG_MAX_LAYERS, &c->L)
        || !field_size(s, "text_config.num_attention_heads", 32, 1, CONFIG_MAX_SIZE, &c->N)
        || !field_size(s, "text_config.num_key_value_heads", 8, 1, CONFIG_MAX_SIZE, &c->kv_heads)
        || !field_size(s, "text_config.head_dim", c->D / c->N ? c->D / c->N : 1, 1, CONFIG_MAX_SIZE, &c->head_dim)
        || !field_size(s, "text_config.intermediate_size", 14336, 1, CONFIG_MAX_SIZE, &c->F)
        || !field_size(s, "text_config.max_position_embeddings", 131072, 1, INT32_MAX, max_tokens)
        || !field_must_be(s, "text_config.hidden_act", "silu") || !window_config(s, max_tokens)
        || !rope_config(s, "text_config", &c->theta)
        || !json_num_or(s->root, "text_config.rms_norm_eps", 1e-6, &eps, s->where, s->e)) return false;
    if (!(eps > 0)) return err_set(s->e, ERR_FILE, "%s: text_config.rms_norm_eps must be above 0", s->where);
    if (c->N % c->kv_heads != 0)
        return err_set(s->e, ERR_FILE, "%s: num_attention_heads %d is no multiple of num_key_value_heads %d",
                       s->where, c->N, c->kv_heads);
    if (c->head_dim % 2 != 0 || (int64_t)c->head_dim * c->N > CONFIG_MAX_SIZE)
        return err_set(s->e, ERR_FILE, "%s: %d heads of size %d are not possible", s->where, c->N, c->head_dim);
    c->eps = (float)eps;
    c->section[0] = c->head_dim / 2; /* one axis */
    return true;
}

/* TRAP: early copies of the published file say gelu where the model was trained with silu. A reader fine-tuned
 * from such a copy saw gelu, so the file is believed. */
static bool activation(const config_fields *s, const char *path, unit *out)
{
    const char *v;
    if (!json_str_or(s->root, path, "gelu", &v, s->where, s->e)) return false;
    *out = strcmp(v, "silu") == 0 ? UNIT_SILU : UNIT_GELU;
    return strcmp(v, "silu") == 0 || strcmp(v, "gelu") == 0
        || err_set(s->e, ERR_FILE, "%s: %s is '%.40s', only 'gelu' and 'silu' are supported", s->where, path, v);
}

static bool vision_config(const config_fields *s, pixtral_config *c)
{
    int channels, size, head;
    if (!field_must_be(s, "vision_config.model_type", "pixtral")
        || !field_size(s, "vision_config.hidden_size", 1024, 1, CONFIG_MAX_SIZE, &c->E)
        || !field_size(s, "vision_config.num_hidden_layers", 24, 1, CONFIG_MAX_LAYERS, &c->depth)
        || !field_size(s, "vision_config.num_attention_heads", 16, 1, CONFIG_MAX_SIZE, &c->heads)
        || !field_size(s, "vision_config.intermediate_size", 4096, 1, CONFIG_MAX_SIZE, &c->F)
        || !field_size(s, "vision_config.num_channels", 3, 1, 64, &channels)
        || !field_size(s, "vision_config.image_size", 1024, 1, CONFIG_MAX_SIZE, &size)
        || !field_size(s, "vision_config.patch_size", 16, 1, 1024, &c->patch)
        || !activation(s, "vision_config.hidden_act", &c->act) || !rope_config(s, "vision_config", &c->theta))
        return false;
    if (channels != 3) return err_set(s->e, ERR_FILE, "%s: vision_config.num_channels must be 3", s->where);
    if (c->E % c->heads != 0 || c->E / c->heads % 4 != 0) /* half the pairs turn by the row, half by the column */
        return err_set(s->e, ERR_FILE, "%s: vision_config.hidden_size %d does not split into %d heads", s->where,
                       c->E, c->heads);
    if (!field_size(s, "vision_config.head_dim", c->E / c->heads, 1, CONFIG_MAX_SIZE, &head)) return false;
    if (head != c->E / c->heads)
        return err_set(s->e, ERR_FILE, "%s: vision_config.head_dim is %d, hidden_size over num_attention_heads %d",
                       s->where, head, c->E / c->heads);
    c->side = size / c->patch;
    return true;
}

/* Which rows of the tower become tokens, and how. The class's defaults for the first two are those of another
 * model. */
static bool projector_config(const config_fields *s, pixtral_config *c)
{
    int64_t     layer, id;
    const char *strategy;
    bool        bias;
    if (!json_int_or(s->root, "vision_feature_layer", -2, &layer, s->where, s->e)
        || !json_str_or(s->root, "vision_feature_select_strategy", "default", &strategy, s->where, s->e)
        || !json_bool_or(s->root, "multimodal_projector_bias", true, &bias, s->where, s->e)
        || !activation(s, "projector_hidden_act", &c->projector_act)
        || !json_int_or(s->root, json_path(s->root, "image_token_id") ? "image_token_id" : "image_token_index",
                        32000, &id, s->where, s->e))
        return false;
    if (layer != -1)
        return err_set(s->e, ERR_FILE, "%s: vision_feature_layer is %lld, only -1 is supported", s->where,
                       (long long)layer);
    if (strcmp(strategy, "full") != 0)
        return err_set(s->e, ERR_FILE, "%s: vision_feature_select_strategy is '%.40s', only 'full' is supported",
                       s->where, strategy);
    if (!bias) return err_set(s->e, ERR_FILE, "%s: multimodal_projector_bias false is not supported", s->where);
    c->image_id = id >= 0 && id < INT32_MAX ? (int32_t)id : -1;
    return true;
}

bool pixtral_sizes(decoder_config *out, const json_t *config, const char *config_name, err *e)
{
    config_fields s = {config, config_name, e};
    int           max_tokens;
    *out = (decoder_config){0};
    return text_config(&s, out, &max_tokens);
}

bool pixtral_config_open(pixtral_config *out, const model_files *f, err *e)
{
    config_fields  s = {f->config, f->config_name, e};
    pixtral_config c = {0};
    const char    *tie = "tie_word_embeddings";
    if (!json_path(f->config, tie)) tie = "text_config.tie_word_embeddings";
    if (!text_config(&s, &c.text, &c.max_tokens) || !vision_config(&s, &c) || !projector_config(&s, &c)
        || !json_bool_or(f->config, tie, false, &c.text.tied, f->config_name, e)) return false;
    *out = c;
    return true;
}
