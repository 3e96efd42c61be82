#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

/* jansson's allocator gets no context, so what it met can only be left here, one for each thread. */
static _Thread_local bool ran_out;

static void *alloc_or_tell(size_t bytes)
{
    void *p = mem_alloc(bytes);
    if (!p) ran_out = true;
    return p;
}

void json_use_our_memory(void) { json_set_alloc_funcs(alloc_or_tell, mem_free); }

bool json_ran_out(void)
{
    bool was = ran_out;
    ran_out = false;
    return was;
}

enum { MAX_JSON_BYTES = 256 << 20 }; /* a tokenizer.json of 131,072 pieces is 9 MB */

bool json_parse(json_t **out, const char *s, size_t n, const char *where, err *e)
{
    json_error_t je;
    json_t      *v = json_loadb(s, n, JSON_REJECT_DUPLICATES, &je);
    if (!v) return err_set(e, ERR_FILE, "%s: line %d: %s", where, je.line, je.text);
    *out = v;
    return true;
}

bool json_open(json_t **out, const char *path, err *e)
{
    file_map m;
    if (!file_map_open(&m, path, e)) return false;
    bool ok = m.bytes > MAX_JSON_BYTES ? err_set(e, ERR_FILE, "%s: larger than a JSON file here may be", path)
                                       : json_parse(out, (const char *)m.data, m.bytes, path, e);
    file_map_close(&m);
    return ok;
}

const json_t *json_path(const json_t *o, const char *path)
{
    char key[128];
    while (o && *path) {
        size_t n = strcspn(path, ".");
        if (n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        o = json_object_get(o, key);
        path += n + (path[n] == '.');
    }
    return o && json_is_null(o) ? NULL : o;
}

static bool wrong(const char *path, const char *want, const char *where, err *e)
{
    return err_set(e, ERR_FILE, "%s: %s is not %s", where, path, want);
}

bool json_int(const json_t *o, const char *path, int64_t *out, const char *where, err *e)
{
    const json_t *v = json_path(o, path);
    if (!v) return err_set(e, ERR_FILE, "%s: %s is missing", where, path);
    if (!json_is_integer(v)) return wrong(path, "a whole number", where, e);
    *out = json_integer_value(v);
    return true;
}

bool json_int_or(const json_t *o, const char *path, int64_t def, int64_t *out, const char *where, err *e)
{
    if (json_path(o, path)) return json_int(o, path, out, where, e);
    *out = def;
    return true;
}

bool json_num_or(const json_t *o, const char *path, double def, double *out, const char *where, err *e)
{
    const json_t *v = json_path(o, path);
    if (v && !json_is_number(v)) return wrong(path, "a number", where, e);
    *out = v ? json_number_value(v) : def;
    return true;
}

bool json_bool_or(const json_t *o, const char *path, bool def, bool *out, const char *where, err *e)
{
    const json_t *v = json_path(o, path);
    if (v && !json_is_boolean(v)) return wrong(path, "true or false", where, e);
    *out = v ? json_is_true(v) : def;
    return true;
}

bool json_str_or(const json_t *o, const char *path, const char *def, const char **out, const char *where, err *e)
{
    const json_t *v = json_path(o, path);
    if (v && !json_is_string(v)) return wrong(path, "a string", where, e);
    *out = v ? json_string_value(v) : def;
    return true;
}
