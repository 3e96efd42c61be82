/* reader.c - opening and closing a reader, and the table of families. */
#include "reader/reader_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

static const family *const FAMILIES[] = {&FAMILY_QWEN2VL, &FAMILY_PIXTRAL};
static const size_t CPU_CACHE_BYTES = (size_t)1 << 30;
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

static bool find_family(const family **out, const json_t *config, const char *where, err *e)
{
    const char *type;
    char        known[120] = "";
    if (!json_str_or(config, "model_type", "", &type, where, e)) return false;
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(FAMILIES[i]->model_type, type) == 0) return *out = FAMILIES[i], true;
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", FAMILIES[i]->model_type);
    }
    return err_set(e, ERR_FILE, "%s: model_type '%.40s' is not a reader that is supported (%s)", where, type, known);
}

/* ---- the size of the cache ---- */

bool reader_cache_agrees(size_t cache_bytes, size_t cache_host_bytes, bool gpu, err *e)
{
    if (cache_host_bytes == 0 || (gpu && cache_bytes)) return true;
    return err_at(e, ERR_USAGE, NULL, "cache_host_mb", "cache_host_mb: %s",
                  gpu ? "host memory takes what the cache on the GPU has no room for, and cache_mb is 0"
                      : "on a CPU the cache is host memory already, and a second one would hold the same: raise "
                        "cache_mb instead");
}

static size_t auto_cache(const decoder_config *c, bool gpu, size_t act_bytes)
{
    size_t token = 2 * (size_t)c->L * (size_t)c->kv_heads * (size_t)c->head_dim * act_bytes,
           bytes = token * CACHE_PREFIX_TOKENS * (gpu ? CACHE_PREFIXES : CACHE_PREFIXES_CPU);
    return gpu || bytes < CPU_CACHE_BYTES ? bytes : CPU_CACHE_BYTES;
}

bool reader_auto_cache(size_t *bytes, const char *dir, bool gpu, precision products, err *e)
{
    char           path[1024];
    json_t        *config = NULL;
    const family  *f;
    decoder_config c;
    bool ok = path_join(path, sizeof path, dir, "config.json", e) && json_open(&config, path, e)
              && find_family(&f, config, path, e) && f->sizes(&c, config, path, e);
    if (ok) *bytes = auto_cache(&c, gpu, gpu && products == PRECISION_BF16 ? 2 : 4);
    json_decref(config);
    return ok;
}

/* Once the weights are there. */
static bool open_cache(reader *r, const reader_options *o, err *e)
{
    const kernels *k = r->k;
    size_t         bytes = o->cache_bytes;
    if (bytes == CACHE_AUTO) {
        size_t most = k->free_bytes ? k->free_bytes(r->k) / 2 : SIZE_MAX;
        bytes = auto_cache(decoder_sizes(r->m->text), k->gpu >= 0, (size_t)k->act_bytes);
        if (bytes > most) bytes = most;
    }
    r->cache = prefix_cache_new(bytes, o->cache_host_bytes);
    return r->cache || err_set(e, ERR_MEMORY, "reader: out of memory");
}

/* ---- adapters ---- */

bool reader_adapter_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= MAX_ADAPTER_NAME && strcmp(name, "none") != 0
        && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == n;
}

static bool name_adapter(reader *r, const char *name, err *e)
{
    if (!reader_adapter_name(name))
        return err_set(e, ERR_USAGE,
                       "adapter '%.80s': a name has 1 to %d letters, digits, '_', '-' or '.', and is not 'none'",
                       name, MAX_ADAPTER_NAME);
    for (int i = 0; i < r->n_adapters; i++)
        if (strcmp(r->adapter_name[i], name) == 0) return err_set(e, ERR_USAGE, "adapter '%s' is named twice", name);
    memcpy(r->adapter_name[r->n_adapters], name, strlen(name) + 1);
    return true;
}

static bool open_adapters(reader *r, const reader_options *o, err *e)
{
    if (o->n_adapters > MAX_ADAPTERS)
        return err_set(e, ERR_USAGE, "%d adapters, at most %d are taken", o->n_adapters, MAX_ADAPTERS);
    if (o->merge && o->n_adapters != 1)
        return err_set(e, ERR_USAGE, "%d adapters: exactly one can be merged", o->n_adapters);
    for (int i = 0; i < o->n_adapters; i++, r->n_adapters++)
        if (!name_adapter(r, o->adapters[i].name, e) || !lora_open(&r->adapter[i], o->adapters[i].dir, e))
            return false;
    r->merged = o->merge;
    return true;
}

static bool adapters_matched(const reader *r, err *e)
{
    for (int i = 0; i < r->n_adapters; i++)
        if (!lora_matched(r->adapter[i], e)) return false;
    return true;
}

/* from_pretrained() of such a folder would apply the adapter, and we would not: so none is taken for the other. */
static bool no_adapter_folder(const char *dir, err *e)
{
    char path[PATH_MAX];
    if (!path_join(path, sizeof path, dir, "adapter_config.json", e)) return false;
    return !file_exists(path)
           || err_set(e, ERR_FILE,
                      "%s is there: an adapter is given beside its base model (--adapter NAME=DIR), a merged model "
                      "must not hold it",
                      path);
}

int reader_adapters(const reader *r) { return r->n_adapters; }

bool reader_find_adapter(const reader *r, const char *name, int *adapter, err *e)
{
    char known[160] = "";
    if (!name || (strcmp(name, "none") == 0 && !r->merged)) return *adapter = r->merged ? 1 : 0, true;
    for (int i = 0; i < r->n_adapters; i++) {
        size_t n = strlen(known);
        if (strcmp(r->adapter_name[i], name) == 0) return *adapter = i + 1, true;
        snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", r->adapter_name[i]);
    }
    if (!r->n_adapters) return err_at(e, ERR_UNUSABLE, "adapter-unknown", "adapter", "adapter: this reader has none");
    return err_at(e, ERR_UNUSABLE, "adapter-unknown", "adapter", "adapter: this reader has %s%s", known,
                  r->merged ? ", merged into it" : "");
}

reader_adapter_info reader_describe_adapter(const reader *r, int adapter)
{
    const lora *l = r->adapter[adapter - 1];
    return (reader_adapter_info){.name = r->adapter_name[adapter - 1], .hash = lora_hash(l), .rank = lora_rank(l),
                                 .scale = lora_scale(l), .parameters = lora_parameters(l), .bytes = lora_bytes(l),
                                 .merged = r->merged, .merged_bytes = r->merged_bytes};
}

/* ---- opening ---- */

/* Mistral's own layout holds the same weights under other names, with the rows of q and k in another order. */
static bool known_layout(const char *dir, err *e)
{
    static const char *const ours[] = {"model.safetensors", "model.safetensors.index.json"};
    char path[1024];
    for (int i = 0; i < 2; i++) {
        if (!path_join(path, sizeof path, dir, ours[i], e)) return false;
        if (file_exists(path)) return true;
    }
    if (!path_join(path, sizeof path, dir, "consolidated.safetensors", e)) return false;
    return !file_exists(path)
           || err_set(
               e, ERR_FILE,
               "%s: this is Mistral's own layout, which is not supported: use the checkpoint in the Hugging Face layout "
               "(config.json, tokenizer.json, model*.safetensors)",
               path);
}

bool reader_open(reader **out, const char *dir, const reader_options *o, kernels *k, err *e)
{
    bool    ok = false;
    json_t *config = NULL;
    char    config_path[1024], tokens_path[1024];
    reader *r = mem_zalloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "reader: out of memory");
    r->k = k;
    if (!reader_cache_agrees(o->cache_bytes, o->cache_host_bytes, k->gpu >= 0, e)) goto done;
    if (!known_layout(dir, e)) goto done;
    if (!path_join(config_path, sizeof config_path, dir, "config.json", e)) goto done;
    if (!path_join(tokens_path, sizeof tokens_path, dir, "tokenizer.json", e)) goto done;
    if (!no_adapter_folder(dir, e)) goto done;

    if (!json_open(&config, config_path, e)) goto done;
    if (!find_family(&r->f, config, config_path, e)) goto done;
    if (!bpe_open(&r->tokens, tokens_path, e)) goto done;
    if (!safetensors_open(&r->file, dir, e)) goto done;
    if (!open_adapters(r, o, e)) goto done;
    lora_set    adapters = {r->adapter, r->n_adapters, r->merged, &r->merged_bytes};
    model_files files = {dir, config, config_path, r->file, r->tokens, k, &adapters};
    if (!r->f->open(&r->m, &files, e) || !adapters_matched(r, e)) goto done;
    if (!generation_config_open(&r->generation, dir, r->m->end_id, decoder_sizes(r->m->text)->V, e)) goto done;
    if (!open_cache(r, o, e)) goto done;
    if (!sha256_model(r->hash, dir, e)) goto done;
    *out = r;
    r = NULL;
    ok = true;
done:
    json_decref(config);
    reader_close(r);
    return ok;
}

void reader_close(reader *r)
{
    if (!r) return;
    prefix_cache_free(r->cache, r->k);
    if (r->m) r->f->close(r->m, r->k);
    for (int i = 0; i < MAX_ADAPTERS; i++) lora_close(r->adapter[i]);
    safetensors_close(r->file);
    bpe_close(r->tokens);
    free(r);
}

const char *reader_hash(const reader *r) { return r->hash; }
const char *reader_family(const reader *r) { return r->f->model_type; }
int64_t     reader_parameters(const reader *r) { return safetensors_parameters(r->file); }
int         reader_max_tokens(const reader *r) { return r->m->max_tokens; }
void        reader_cache(reader *r, reader_cache_stats *out) { prefix_cache_read_stats(r->cache, out); }
void        reader_cache_clear(reader *r) { prefix_cache_clear(r->cache, r->k); }
