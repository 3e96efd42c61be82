#include "reader/generation_config.h"

#include <limits.h>

#include "base/file.h"
#include "base/json.h"

bool generation_ends(const generation_config *c, int32_t id)
{
    for (int i = 0; i < c->n_end; i++)
        if (c->end[i] == id) return true;
    return false;
}

static bool token_id(int32_t *out, const json_t *v, const char *name, int V, const char *where, err *e)
{
    if (!json_is_integer(v)) return err_set(e, ERR_FILE, "%s: %s is not a token id", where, name);
    if (json_integer_value(v) < 0 || json_integer_value(v) >= V)
        return err_set(e, ERR_FILE, "%s: %s is %lld, the vocabulary has %d tokens", where, name,
                       (long long)json_integer_value(v), V);
    *out = (int32_t)json_integer_value(v);
    return true;
}

static bool add_end(generation_config *c, const json_t *v, int V, const char *where, err *e)
{
    int32_t id;
    if (!token_id(&id, v, "eos_token_id", V, where, e)) return false;
    if (generation_ends(c, id)) return true;
    if (c->n_end == MAX_END_IDS - 1) /* the last place is the family's */
        return err_set(e, ERR_FILE, "%s: more than %d values of eos_token_id", where, MAX_END_IDS - 1);
    c->end[c->n_end++] = id;
    return true;
}

static bool read_ids(generation_config *c, const json_t *root, int V, const char *where, err *e)
{
    const json_t *eos = json_path(root, "eos_token_id"), *pad = json_path(root, "pad_token_id");
    if (json_is_array(eos)) {
        for (size_t i = 0; i < json_array_size(eos); i++)
            if (!add_end(c, json_array_get(eos, i), V, where, e)) return false;
    } else if (eos && !add_end(c, eos, V, where, e)) {
        return false;
    }
    c->pad = c->n_end ? c->end[0] : -1; /* as transformers' generate() takes it where the file has none */
    return !pad || token_id(&c->pad, pad, "pad_token_id", V, where, e);
}

bool generation_config_open(generation_config *out, const char *dir, int32_t end_id, int V, err *e)
{
    generation_config c = {.pad = -1};
    char              path[PATH_MAX];
    if (!path_join(path, sizeof path, dir, "generation_config.json", e)) return false;
    if (file_exists(path)) {
        json_t *root;
        if (!json_open(&root, path, e)) return false;
        bool ok = read_ids(&c, root, V, path, e);
        json_decref(root);
        if (!ok) return false;
    }
    if (!generation_ends(&c, end_id)) c.end[c.n_end++] = end_id;
    if (c.pad < 0) c.pad = end_id;
    *out = c;
    return true;
}
