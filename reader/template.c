#include "reader/template.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MAX_TEMPLATE_BYTES = 1 << 20 };

/* The member chat_template of a JSON file: absent, a string, or a list of named templates. */
static bool check_json(const char *path, template_check check, void *ctx, err *e)
{
    json_t *root, *one;
    size_t  i;
    bool    ok = true;
    if (!file_exists(path)) return true;
    if (!json_open(&root, path, e)) return false;
    const json_t *v = json_object_get(root, "chat_template");
    if (json_is_string(v)) {
        ok = check(ctx, json_string_value(v), json_string_length(v), path, e);
    } else if (json_is_array(v)) {
        json_array_foreach((json_t *)v, i, one)
        {
            const json_t *s = json_object_get(one, "template");
            const char   *name = json_string_value(json_object_get(one, "name"));
            if (!name || strcmp(name, "default") != 0) continue; /* others are for tools */
            ok = ok && check(ctx, json_is_string(s) ? json_string_value(s) : "", json_string_length(s), path, e);
        }
    } else if (v && !json_is_null(v)) {
        ok = err_set(e, ERR_FILE, "%s: chat_template is not a string", path);
    }
    json_decref(root);
    return ok;
}

static bool check_jinja(const char *path, template_check check, void *ctx, err *e)
{
    char  *s;
    size_t n;
    if (!file_exists(path)) return true;
    if (!file_read(&s, &n, path, MAX_TEMPLATE_BYTES, e)) return false;
    bool ok = check(ctx, s, n, path, e);
    free(s);
    return ok;
}

bool template_each(const char *dir, template_check check, void *ctx, err *e)
{
    char path[4096];
    return path_join(path, sizeof path, dir, "chat_template.jinja", e) && check_jinja(path, check, ctx, e)
        && path_join(path, sizeof path, dir, "chat_template.json", e) && check_json(path, check, ctx, e)
        && path_join(path, sizeof path, dir, "tokenizer_config.json", e) && check_json(path, check, ctx, e);
}
