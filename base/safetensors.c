/* safetensors.c - the format: u64 little-endian header length, a JSON object {name: {dtype, shape, data_offsets}},
 * then the data. Nothing in the header is believed: offsets must lie inside the file, match shape x dtype exactly and
 * not overlap, so that a tensor can be read without further checks.
 * [huggingface/safetensors README, "Format"] */
#include "base/safetensors.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

enum { MAX_HEADER = 100 << 20, MAX_TENSORS = 1 << 20, MAX_SHARDS = 4096 };

struct safetensors {
    file_map *map;
    char    **path; /* of each shard */
    int       n_maps;
    json_t  **header; /* of each shard: owns the names */
    tensor   *t;
    int       n;
};

/* *size: bytes of one element. Types that no model here computes with are DTYPE_OTHER: their place is checked
 * all the same. */
static bool parse_dtype(dtype *out, size_t *size, const char *s)
{
    for (dtype t = DTYPE_F32; t < DTYPE_OTHER; t++)
        if (strcmp(s, dtype_name(t)) == 0) return *out = t, *size = dtype_bytes(t), true;
    static const struct {
        const char *name;
        size_t size;
    } other[] = {{"F64", 8}, {"U64", 8},  {"U32", 4},     {"I16", 2},    {"U16", 2},
                 {"I8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (strcmp(s, other[i].name) == 0) return *out = DTYPE_OTHER, *size = other[i].size, true;
    return false;
}

static bool parse_shape(tensor *t, const json_t *shape, const char *file, const char *name, err *e)
{
    t->n_dims = (int)json_array_size(shape);
    if (!json_is_array(shape) || t->n_dims > TENSOR_DIMS)
        return err_set(e, ERR_FILE, "%s: %s: shape is not a list of at most %d sizes", file, name, TENSOR_DIMS);
    t->count = 1;
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        int64_t       v = json_integer_value(d);
        if (!json_is_integer(d) || v < 0 || (v > 0 && t->count > INT64_MAX / 16 / v))
            return err_set(e, ERR_FILE, "%s: %s: shape holds a wrong size", file, name);
        t->dim[i] = v;
        t->count *= v;
    }
    return true;
}

static bool parse_tensor(tensor *t, const char *name, const json_t *v, const char *file, const uint8_t *data,
                         size_t bytes, err *e)
{
    const json_t *o = json_object_get(v, "data_offsets");
    const char   *type = json_string_value(json_object_get(v, "dtype"));
    size_t size;
    if (!type || !parse_dtype(&t->type, &size, type))
        return err_set(e, ERR_FILE, "%s: %s: unknown dtype", file, name);
    if (!parse_shape(t, json_object_get(v, "shape"), file, name, e)) return false;
    const json_t *b = json_array_get(o, 0), *f = json_array_get(o, 1);
    int64_t       begin = json_integer_value(b), end = json_integer_value(f);
    if (json_array_size(o) != 2 || !json_is_integer(b) || !json_is_integer(f) || begin < 0 || end < begin
        || (uint64_t)end > bytes)
        return err_set(e, ERR_FILE, "%s: %s: data offsets lie outside the file (is it truncated?)", file, name);
    if ((uint64_t)(end - begin) != (uint64_t)t->count * size)
        return err_set(e, ERR_FILE, "%s: %s: %lld bytes of data do not fit its shape and dtype %s", file, name,
                       (long long)(end - begin), type);
    t->name = name;
    t->file = file;
    t->data = data + begin;
    t->bytes = (size_t)(end - begin);
    return true;
}

/* An empty tensor may lie where another begins: it comes first. */
static int by_address(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    if (x->data != y->data) return x->data > y->data ? 1 : -1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

/* Tensors t[0..n) of one shard must not share bytes. */
static bool no_overlap(tensor *t, int n, err *e)
{
    if (n) qsort(t, (size_t)n, sizeof *t, by_address);
    for (int i = 1; i < n; i++)
        if ((const uint8_t *)t[i].data < (const uint8_t *)t[i - 1].data + t[i - 1].bytes)
            return err_set(e, ERR_FILE, "%s: %s overlaps %s", t[i].file, t[i].name, t[i - 1].name);
    return true;
}

static bool parse_header(json_t **out, const file_map *m, const char *file, size_t *data_at, err *e)
{
    uint64_t     len;
    json_error_t je;
    if (m->bytes < 8) return err_set(e, ERR_FILE, "%s: too short for a safetensors file", file);
    memcpy(&len, m->data, 8); /* little endian, as every machine this builds for */
    if (len > MAX_HEADER || len > m->bytes - 8)
        return err_set(e, ERR_FILE, "%s: header length %llu does not fit the file (is it a safetensors file?)", file,
                       (unsigned long long)len);
    *out = json_loadb((const char *)m->data + 8, len, JSON_REJECT_DUPLICATES, &je);
    if (!*out) return err_set(e, ERR_FILE, "%s: header: %s", file, je.text);
    if (!json_is_object(*out) || json_object_size(*out) > MAX_TENSORS)
        return err_set(e, ERR_FILE, "%s: header is not an object of tensors", file);
    *data_at = 8 + (size_t)len;
    return true;
}

/* Map one shard and append its tensors. The path, map and header slots are owned by s from the start. */
static bool add_shard(safetensors *s, const char *path, err *e)
{
    int       i = s->n_maps;
    size_t    at;
    file_map *maps = mem_realloc(s->map, (size_t)(i + 1) * sizeof *maps);
    if (maps) s->map = maps;
    char **paths = mem_realloc(s->path, (size_t)(i + 1) * sizeof *paths);
    if (paths) s->path = paths;
    json_t **headers = mem_realloc(s->header, (size_t)(i + 1) * sizeof *headers);
    if (headers) s->header = headers;
    char *copy = mem_strdup(path);
    if (!maps || !paths || !headers || !copy) {
        free(copy);
        return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    }
    s->map[i] = (file_map){0};
    s->path[i] = copy;
    s->header[i] = NULL;
    s->n_maps++;
    if (!file_map_open(&s->map[i], path, e) || !parse_header(&s->header[i], &s->map[i], copy, &at, e)) return false;

    int     n = 0, most = (int)json_object_size(s->header[i]);
    tensor *t = mem_realloc(s->t, (size_t)(s->n + most) * sizeof *t);
    if (!t) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    s->t = t;
    const char *name;
    json_t     *v;
    json_object_foreach (s->header[i], name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        tensor *x = &s->t[s->n + n];
        *x = (tensor){0};
        if (!parse_tensor(x, name, v, copy, s->map[i].data + at, s->map[i].bytes - at, e)) return false;
        n++;
    }
    if (!no_overlap(s->t + s->n, n, e)) return false;
    s->n += n;
    return true;
}

/* The files that an index JSON names, each once. */
static bool add_indexed(safetensors *s, const char *dir, const char *index, err *e)
{
    char        path[PATH_MAX];
    json_t     *j = NULL;
    bool        ok = false;
    const char *name;
    json_t     *file;
    if (!json_open(&j, index, e)) return false;
    json_t *map = json_object_get(j, "weight_map"), *seen = json_object();
    if (!json_is_object(map) || !seen) {
        err_set(e, ERR_FILE, "%s: weight_map is missing", index);
        goto done;
    }
    json_object_foreach (map, name, file) {
        const char *f = json_string_value(file);
        if (!f || !path_is_below(f)) {
            err_set(e, ERR_FILE, "%s: %s: not the name of a file beside it", index, name);
            goto done;
        }
        if (json_object_get(seen, f)) continue;
        if (json_object_set_new(seen, f, json_true()) != 0 || json_object_size(seen) > MAX_SHARDS) {
            err_set(e, ERR_FILE, "%s: too many shards", index);
            goto done;
        }
        if (!path_join(path, sizeof path, dir, f, e) || !add_shard(s, path, e)) goto done;
    }
    ok = true;
done:
    json_decref(seen);
    json_decref(j);
    return ok;
}

/* Every name the index promises must be there. Called after sorting. */
static bool check_promises(const safetensors *s, const char *index, err *e)
{
    json_t     *j = NULL, *file;
    const char *name;
    if (!json_open(&j, index, e)) return false;
    json_object_foreach (json_object_get(j, "weight_map"), name, file)
        if (!safetensors_find(s, name)) {
            err_set(e, ERR_FILE, "%s: %s is promised in %s and not there", index, name, json_string_value(file));
            break;
        }
    json_decref(j);
    return e->code == ERR_NONE;
}

static bool open_path(safetensors *s, const char *path, char *index, err *e)
{
    static const char *const single[] = {"model.safetensors", "adapter_model.safetensors"};
    struct stat st;
    char        file[PATH_MAX];
    index[0] = 0;
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) return add_shard(s, path, e);
    if (!path_join(index, PATH_MAX, path, "model.safetensors.index.json", e)) return false;
    if (file_exists(index)) return add_indexed(s, path, index, e);
    index[0] = 0;
    for (int i = 0; i < 2; i++) {
        if (!path_join(file, sizeof file, path, single[i], e)) return false;
        if (file_exists(file)) return add_shard(s, file, e);
    }
    return err_set(e, ERR_FILE,
                   "%s: holds no model.safetensors, model.safetensors.index.json or adapter_model.safetensors",
                   path);
}

bool safetensors_open(safetensors **out, const char *path, err *e)
{
    bool         ok = false;
    char         index[PATH_MAX];
    safetensors *s = mem_zalloc(1, sizeof *s);
    if (!s) {
        err_set(e, ERR_MEMORY, "%s: out of memory", path);
        goto done;
    }
    if (!open_path(s, path, index, e)) goto done;
    if (s->n) qsort(s->t, (size_t)s->n, sizeof *s->t, by_tensor_name);
    for (int i = 1; i < s->n; i++)
        if (strcmp(s->t[i - 1].name, s->t[i].name) == 0) {
            err_set(e, ERR_FILE, "%s: %s is also in %s", s->t[i].file, s->t[i].name, s->t[i - 1].file);
            goto done;
        }
    if (index[0] && !check_promises(s, index, e)) goto done;
    *out = s;
    s = NULL;
    ok = true;
done:
    safetensors_close(s);
    return ok;
}

void safetensors_close(safetensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_maps; i++) {
        json_decref(s->header[i]);
        file_map_close(&s->map[i]);
        free(s->path[i]);
    }
    free(s->header);
    free(s->map);
    free(s->path);
    free(s->t);
    free(s);
}

const tensor *safetensors_find(const safetensors *s, const char *name)
{
    tensor key = {.name = name};
    return s->n ? bsearch(&key, s->t, (size_t)s->n, sizeof *s->t, by_tensor_name) : NULL;
}

int safetensors_count(const safetensors *s) { return s->n; }

const tensor *safetensors_at(const safetensors *s, int i) { return i >= 0 && i < s->n ? &s->t[i] : NULL; }

int64_t safetensors_parameters(const safetensors *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n; i++) n += s->t[i].count;
    return n;
}

size_t safetensors_bytes(const safetensors *s)
{
    size_t n = 0;
    for (int i = 0; i < s->n_maps; i++) n += s->map[i].bytes;
    return n;
}

static void print_shape(char *buf, size_t size, const int64_t *dim, int n)
{
    size_t at = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < n && at < size; i++) {
        if (dim[i]) at += (size_t)snprintf(buf + at, size - at, "%s%lld", i ? "," : "", (long long)dim[i]);
        else at += (size_t)snprintf(buf + at, size - at, "%s*", i ? "," : "");
    }
    if (at < size) snprintf(buf + at, size - at, "]");
}

bool safetensors_need(const safetensors *s, const tensor **out, const char *name, const int64_t *dims, err *e)
{
    const tensor *t = safetensors_find(s, name);
    if (!t) return err_set(e, ERR_FILE, "%s: tensor %s is missing", s->n_maps ? s->path[0] : "checkpoint", name);
    if (t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16)
        return err_set(e, ERR_FILE, "%s: %s: dtype %s, wanted F32, F16 or BF16", t->file, name, dtype_name(t->type));
    int n = 0;
    while (dims[n] >= 0) n++;
    bool same = n == t->n_dims;
    for (int i = 0; same && i < n; i++) same = dims[i] == 0 || dims[i] == t->dim[i];
    if (!same) {
        char has[96], want[96];
        print_shape(has, sizeof has, t->dim, t->n_dims);
        print_shape(want, sizeof want, dims, n);
        return err_set(e, ERR_FILE, "%s: %s: shape %s, wanted %s", t->file, name, has, want);
    }
    *out = t;
    return true;
}
