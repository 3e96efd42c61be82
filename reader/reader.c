/* reader.c - opening and closing a reader, and the table of families. */
#include "reader/reader_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

static const family *const FAMILIES[] = {&FAMILY_QWEN2VL, &FAMILY_PIXTRAL};
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
        || err_set(e, ERR_FILE,
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
    if (!known_layout(dir, e)) goto done;
    if (!path_join(config_path, sizeof config_path, dir, "config.json", e)) goto done;
    if (!path_join(tokens_path, sizeof tokens_path, dir, "tokenizer.json", e)) goto done;

    if (!json_open(&config, config_path, e)) goto done;
    if (!find_family(&r->f, config, config_path, e)) goto done;
    if (!bpe_open(&r->tokens, tokens_path, e)) goto done;
    if (!safetensors_open(&r->file, dir, e)) goto done;
    model_files files = {dir, config, config_path, r->file, r->tokens, k};
    if (!r->f->open(&r->m, &files, e)) goto done;
    if (!(r->cache = prefix_cache_new(o->cache_bytes))) { err_set(e, ERR_MEMORY, "reader: out of memory"); goto done; }
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
