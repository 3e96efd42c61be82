/* lora.c - opening a PEFT folder. Of adapter_config.json only r, the scale and the refusals matter: which
 * layers an adapter changes is read off its tensors. target_modules is a list in some versions and a regular
 * expression in others, and the usual failure of loaders that interpret it is an adapter that changes nothing
 * and is reported as loaded. */
#include "reader/lora.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

enum { MAX_RANK = 8192, MAX_NAME = 256 };
static const char ROOT[] = "base_model.model.", A_END[] = ".lora_A.weight", B_END[] = ".lora_B.weight";

struct lora {
    safetensors *file;
    bool        *taken; /* [count of tensors] */
    int          rank;
    double       scale;
    char         hash[SHA256_HEX];
};

/* ---- adapter_config.json ---- */

/* Members that change no result here, whatever they say: how the adapter was trained, or what the tensors
 * themselves tell. Any other that is set to something refuses the adapter, so that a feature newer than this
 * list is not ignored. */
static const char *const HARMLESS[] = {
    "task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version",
    "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "loftq_config",
    "eva_config", "corda_config", "megatron_core", "qalora_group_size", "runtime_config",
    /* read below */
    "peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"};

/* null, false, "", {} and []: the feature is off */
static bool is_off(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0)
        || (json_is_object(v) && json_object_size(v) == 0) || (json_is_array(v) && json_array_size(v) == 0);
}

static bool only_known_features(const json_t *config, const char *where, err *e)
{
    const char *key;
    json_t     *v;
    json_object_foreach((json_t *)config, key, v) {
        bool known = is_off(v);
        for (size_t i = 0; !known && i < sizeof HARMLESS / sizeof *HARMLESS; i++)
            known = strcmp(key, HARMLESS[i]) == 0;
        if (!known) return err_set(e, ERR_FILE, "%s: %.60s is set: adapters with it are not supported", where, key);
    }
    return true;
}

/* These ways to start the training also change the base weights; the adapter then belongs to a base that is not the
 * published one, and the file does not say whether it was converted back. */
static bool plain_start(const json_t *config, const char *where, err *e)
{
    static const char *const changes_base[] = {"pissa", "olora", "corda", "loftq"};
    const char *s = json_string_value(json_object_get(config, "init_lora_weights"));
    for (size_t i = 0; s && i < sizeof changes_base / sizeof *changes_base; i++)
        if (strncmp(s, changes_base[i], strlen(changes_base[i])) == 0)
            return err_set(e, ERR_FILE, "%s: init_lora_weights is '%.40s', which changes the base too: "
                           "convert the adapter to plain LoRA", where, s);
    return true;
}

static bool config_read(lora *l, const json_t *config, const char *where, err *e)
{
    const char *type, *bias;
    int64_t     r;
    double      alpha;
    bool        stabilised;
    if (!json_str_or(config, "peft_type", "", &type, where, e)) return false;
    if (!json_str_or(config, "bias", "none", &bias, where, e)) return false;
    if (strcmp(type, "LORA") != 0)
        return err_set(e, ERR_FILE, "%s: peft_type is '%.40s', only LORA is supported", where, type);
    if (strcmp(bias, "none") != 0)
        return err_set(e, ERR_FILE, "%s: bias is '%.40s', only 'none' is supported", where, bias);
    if (!only_known_features(config, where, e) || !plain_start(config, where, e)) return false;
    if (!json_int(config, "r", &r, where, e) || !json_num_or(config, "lora_alpha", 8, &alpha, where, e)
        || !json_bool_or(config, "use_rslora", false, &stabilised, where, e))
        return false;
    if (r < 1 || r > MAX_RANK) return err_set(e, ERR_FILE, "%s: r must be 1 to %d", where, MAX_RANK);
    l->rank = (int)r;
    l->scale = alpha / (stabilised ? sqrt((double)r) : (double)r);
    return isfinite((float)l->scale) || err_set(e, ERR_FILE, "%s: lora_alpha is out of range", where);
}

/* ---- adapter_model.safetensors ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

/* name with its ending A exchanged for B, or the other way round */
static const tensor *other_half(const lora *l, const char *name)
{
    char other[MAX_NAME];
    bool a = ends_with(name, A_END);
    int n =
        snprintf(other, sizeof other, "%.*s%s", (int)(strlen(name) - (sizeof A_END - 1)), name, a ? B_END : A_END);
    return n < (int)sizeof other ? safetensors_find(l->file, other) : NULL;
}

static bool tensor_fits(const lora *l, const tensor *t, err *e)
{
    bool a = ends_with(t->name, A_END);
    if (strncmp(t->name, ROOT, sizeof ROOT - 1) != 0 || (!a && !ends_with(t->name, B_END)))
        return err_set(e, ERR_FILE, "%s: %.120s is not %s*%s or *%s", t->file, t->name, ROOT, A_END, B_END);
    if (t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16)
        return err_set(e, ERR_FILE, "%s: %.120s: dtype %s, wanted F32, F16 or BF16", t->file, t->name,
                       dtype_name(t->type));
    if (t->n_dims != 2 || t->dim[0] < 1 || t->dim[1] < 1)
        return err_set(e, ERR_FILE, "%s: %.120s is no matrix: only adapters of linear layers are supported",
                       t->file, t->name);
    if (t->dim[a ? 0 : 1] != l->rank)
        return err_set(e, ERR_FILE, "%s: %.120s has rank %lld, adapter_config.json says %d", t->file, t->name,
                       (long long)t->dim[a ? 0 : 1], l->rank);
    return other_half(l, t->name)
           || err_set(e, ERR_FILE, "%s: %.120s has no %s", t->file, t->name, a ? "lora_B" : "lora_A");
}

static bool tensors_fit(lora *l, const char *path, err *e)
{
    int n = safetensors_count(l->file);
    if (n == 0) return err_set(e, ERR_FILE, "%s: no tensor is in it", path);
    for (int i = 0; i < n; i++)
        if (!tensor_fits(l, safetensors_at(l->file, i), e)) return false;
    l->taken = mem_zalloc((size_t)n, sizeof *l->taken);
    return l->taken || err_set(e, ERR_MEMORY, "adapter: out of memory");
}

bool lora_open(lora **out, const char *dir, err *e)
{
    bool    ok = false;
    json_t *config = NULL;
    char    config_path[PATH_MAX], path[PATH_MAX];
    lora   *l = mem_zalloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_MEMORY, "adapter: out of memory");
    if (!path_join(config_path, sizeof config_path, dir, "adapter_config.json", e)) goto done;
    if (!path_join(path, sizeof path, dir, "adapter_model.safetensors", e)) goto done;
    if (!json_open(&config, config_path, e) || !config_read(l, config, config_path, e)) goto done;
    if (!safetensors_open(&l->file, path, e) || !tensors_fit(l, path, e)) goto done;
    if (!sha256_model(l->hash, dir, e)) goto done;
    *out = l;
    l = NULL;
    ok = true;
done:
    json_decref(config);
    lora_close(l);
    return ok;
}

void lora_close(lora *l)
{
    if (!l) return;
    safetensors_close(l->file);
    free(l->taken);
    free(l);
}

/* ---- finding layers ---- */

/* Tensors lie in the order of their names, and the index of one is its mark in taken. */
static int index_of(const lora *l, const tensor *t)
{
    return (int)(t - safetensors_at(l->file, 0));
}

bool lora_take(lora *l, const char *const *prefixes, const char *module, lora_pair *out)
{
    for (int i = 0; prefixes[i]; i++) {
        char name[MAX_NAME];
        if (snprintf(name, sizeof name, "%s%s%s%s", ROOT, prefixes[i], module, A_END) >= (int)sizeof name) continue;
        const tensor *a = safetensors_find(l->file, name), *b = a ? other_half(l, name) : NULL;
        if (!b) continue;
        l->taken[index_of(l, a)] = l->taken[index_of(l, b)] = true;
        *out = (lora_pair){a, b, (float)l->scale, l->rank};
        return true;
    }
    return false;
}

bool lora_matched(const lora *l, err *e)
{
    for (int i = 0; i < safetensors_count(l->file); i++) {
        const tensor *t = safetensors_at(l->file, i);
        if (!l->taken[i])
            return err_set(e, ERR_FILE,
                           "%s: %.120s: the reader has no such layer: is the adapter for another base model?",
                           t->file, t->name);
    }
    return true;
}

int         lora_rank(const lora *l) { return l->rank; }
double      lora_scale(const lora *l) { return l->scale; }
int64_t     lora_parameters(const lora *l) { return safetensors_parameters(l->file); }
size_t      lora_bytes(const lora *l) { return safetensors_bytes(l->file); }
const char *lora_hash(const lora *l) { return l->hash; }
