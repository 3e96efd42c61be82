/* checkpoint.h - model folders made from the fixture: copy it, change tensors or configuration, write it out again.
 * For tests only: every failure ends the test. */
#ifndef JOMED_TESTS_RETRIEVER_CHECKPOINT_H
#define JOMED_TESTS_RETRIEVER_CHECKPOINT_H

#include "tests/check.h"

#include <dirent.h>
#include <jansson.h>
#include <unistd.h>
#include "base/dtype.h"
#include "base/file.h"
#include "base/safetensors.h"

/* Sanitizers make the models twenty times slower: long lists are looked at in steps there, and whole without them. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { LIST_STEP = 8 };
#else
enum { LIST_STEP = 1 };
#endif

enum { MAX_SAVED = 160 };
typedef struct {
    char name[128];
    dtype type;
    int n_dims;
    int64_t dim[TENSOR_DIMS];
    size_t bytes;
    void *data;
} saved_tensor;
typedef struct { saved_tensor t[MAX_SAVED]; int n; } checkpoint;

static inline void *must(void *p)
{
    assert_non_null(p);
    return p;
}

/* A copy of memory; of nothing where n is 0. */
static inline void *copy_of(const void *p, size_t n) { return memcpy(must(malloc(n ? n : 1)), p, n); }

static inline saved_tensor *checkpoint_add(checkpoint *c, const char *name, dtype type, int n_dims,
                                           const int64_t *dim, const void *data)
{
    assert_true(c->n < MAX_SAVED && n_dims <= TENSOR_DIMS);
    saved_tensor *t = &c->t[c->n++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->type = type;
    t->n_dims = n_dims;
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) {
        t->dim[i] = dim[i];
        count *= (size_t)dim[i];
    }
    t->bytes = count * dtype_bytes(type);
    t->data = copy_of(data, t->bytes);
    return t;
}

static inline void checkpoint_read(checkpoint *c, const char *path)
{
    safetensors *s = NULL;
    err          e = {0};
    c->n = 0;
    OK(safetensors_open(&s, path, &e), e);
    for (int i = 0; i < safetensors_count(s); i++) {
        const tensor *t = safetensors_at(s, i);
        checkpoint_add(c, t->name, t->type, t->n_dims, t->dim, t->data);
    }
    safetensors_close(s);
}

static inline saved_tensor *checkpoint_find(checkpoint *c, const char *name)
{
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->t[i].name, name) == 0) return &c->t[i];
    fail_msg("the fixture has no %s", name);
    return NULL;
}

static inline void checkpoint_drop(checkpoint *c, const char *name)
{
    saved_tensor *t = checkpoint_find(c, name);
    free(t->data);
    *t = c->t[--c->n];
}

/* Keep only (or drop) the tensors whose name begins with prefix. */
static inline void checkpoint_filter(checkpoint *c, const char *prefix, bool keep)
{
    for (int i = c->n - 1; i >= 0; i--)
        if ((strncmp(c->t[i].name, prefix, strlen(prefix)) == 0) != keep) {
            free(c->t[i].data);
            c->t[i] = c->t[--c->n];
        }
}

static inline void checkpoint_free(checkpoint *c)
{
    for (int i = 0; i < c->n; i++) free(c->t[i].data);
    c->n = 0;
}

/* Nearest half, ties to even; the fixture's values are all normal or zero in half precision after this rounding. */
static inline uint16_t half_from_f32(float f)
{
    uint32_t b;
    memcpy(&b, &f, 4);
    uint16_t sign = (uint16_t)(b >> 16 & 0x8000);
    int32_t  exp = (int32_t)(b >> 23 & 0xff) - 127 + 15;
    uint32_t man = b & 0x7fffff;
    if (exp <= 0) return sign; /* flushed: as good a value as any, as long as both files hold it */
    uint32_t h = (uint32_t)exp << 10 | man >> 13, rest = man & 0x1fff;
    if (rest > 0x1000 || (rest == 0x1000 && (h & 1))) h++;
    return (uint16_t)(sign | h);
}

/* Round an F32 tensor's values to 16 bits, keeping it F32 or storing it as the 16-bit type. */
static inline void tensor_round(saved_tensor *t, dtype to, bool keep_f32)
{
    assert_int_equal(t->type, DTYPE_F32);
    size_t    n = t->bytes / 4;
    float    *f = t->data;
    uint16_t *h = must(malloc(n * 2 + 1));
    for (size_t i = 0; i < n; i++) h[i] = to == DTYPE_F16 ? half_from_f32(f[i]) : bf16_from_f32(f[i]);
    if (keep_f32) {
        for (size_t i = 0; i < n; i++) f[i] = to == DTYPE_F16 ? f16_to_f32(h[i]) : bf16_to_f32(h[i]);
        free(h);
        return;
    }
    free(t->data);
    t->data = h;
    t->type = to;
    t->bytes = n * 2;
}

/* pad: blanks put behind the header, so that tensors lie at odd addresses. */
static inline void checkpoint_write(const checkpoint *c, const char *path, int pad)
{
    json_t *header = json_object();
    size_t  at = 0;
    for (int i = 0; i < c->n; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < c->t[i].n_dims; d++) json_array_append_new(shape, json_integer(c->t[i].dim[d]));
        json_object_set_new(header, c->t[i].name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(c->t[i].type), "shape", shape,
                                      "data_offsets", (json_int_t)at, (json_int_t)(at + c->t[i].bytes)));
        at += c->t[i].bytes;
    }
    char    *text = must(json_dumps(header, JSON_COMPACT));
    uint64_t len = strlen(text), padded = (len + 7) / 8 * 8 + (uint64_t)pad;
    FILE    *f = must(fopen(path, "wb"));
    fwrite(&padded, 8, 1, f);
    fputs(text, f);
    for (uint64_t i = len; i < padded; i++) fputc(' ', f);
    for (int i = 0; i < c->n; i++) fwrite(c->t[i].data, 1, c->t[i].bytes, f);
    assert_int_equal(fclose(f), 0);
    free(text);
    json_decref(header);
}

/* A temporary folder with the fixture's configuration and tokenizer, and no weights yet. */
typedef struct { char dir[64]; } model_folder;

/* Static storage, four calls deep. */
static inline const char *folder_file(const model_folder *m, const char *name)
{
    static char path[4][512];
    static int  next;
    char       *p = path[next++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", m->dir, name);
    return p;
}

static inline void folder_make(model_folder *m)
{
    static const char *const NAME[] = {"config.json", "preprocessor_config.json", "tokenizer.json"};
    err e = {0};
    *m = (model_folder){.dir = "/tmp/jomed-retriever-XXXXXX"};
    must(mkdtemp(m->dir));
    for (int i = 0; i < 3; i++) {
        char   from[160], *bytes;
        size_t n;
        snprintf(from, sizeof from, FIXTURE("jina-clip-tiny/%s"), NAME[i]);
        OK(file_read(&bytes, &n, from, 1 << 24, &e), e);
        OK(file_write(folder_file(m, NAME[i]), bytes, n, &e), e);
        free(bytes);
    }
}

static inline void folder_remove(model_folder *m)
{
    DIR *d = must(opendir(m->dir));
    for (struct dirent *f; (f = readdir(d)) != NULL;)
        if (f->d_name[0] != '.') unlink(folder_file(m, f->d_name));
    closedir(d);
    rmdir(m->dir);
}

/* Set the member at a dotted path of a JSON file in the folder; value as JSON text, NULL removes it. */
static inline void folder_set(model_folder *m, const char *file, const char *path, const char *value)
{
    json_t *root = must(json_load_file(folder_file(m, file), 0, NULL)), *o = root;
    char    key[64];
    for (size_t n; path[n = strcspn(path, ".")] == '.'; path += n + 1) {
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        o = must(json_object_get(o, key));
    }
    if (value) json_object_set_new(o, path, must(json_loads(value, JSON_DECODE_ANY, NULL)));
    else json_object_del(o, path);
    assert_int_equal(json_dump_file(root, folder_file(m, file), 0), 0);
    json_decref(root);
}

#endif
