/* demo.h - the demonstration model's synthetic cases: pictures, captions, candidates and PyTorch's results. */
#ifndef JOMED_TESTS_READER_DEMO_H
#define JOMED_TESTS_READER_DEMO_H

#include "tests/reader/golden.h"
#include "base/file.h"

enum { DEMO_ITEMS = 720, DEMO_K = 4 };

typedef struct {
    arena       *a;
    safetensors *eval;
    json_t      *line[DEMO_ITEMS]; /* the index's lines */
    int          n_lines;
    int          loads;            /* pictures asked for so far */
    long         fail_load;        /* the load that fails; -1: none */
    image        kept[DEMO_ITEMS]; /* decoded once: decoding is not what is tested here */
} demo;

static inline int read_lines(json_t **out, int max, const char *path)
{
    err    e = {0};
    char  *s;
    size_t n;
    int    count = 0;
    OK(file_read(&s, &n, path, 1 << 24, &e), e);
    for (char *p = s, *end; *p && (end = strchr(p, '\n')); p = end + 1) {
        assert_true(count < max);
        out[count] = json_loadb(p, (size_t)(end - p), 0, NULL);
        assert_non_null(out[count++]);
    }
    free(s);
    return count;
}

static inline demo *demo_open(void)
{
    err   e = {0};
    demo *d = calloc(1, sizeof *d);
    assert_non_null(d);
    d->a = arena_new(0);
    d->fail_load = -1;
    d->n_lines = read_lines(d->line, DEMO_ITEMS, DEMO("synthetic/index.jsonl"));
    OK(safetensors_open(&d->eval, DEMO("eval.safetensors"), &e), e);
    return d;
}

static inline void demo_close(demo *d)
{
    for (int i = 0; i < d->n_lines; i++) json_decref(d->line[i]);
    safetensors_close(d->eval);
    arena_free(d->a);
    free(d);
}

static inline bool demo_picture(image *out, const char *rel, arena *a, err *e)
{
    char   path[256];
    char  *bytes;
    size_t n;
    snprintf(path, sizeof path, DEMO("synthetic/%s"), rel);
    if (!file_read(&bytes, &n, path, 1 << 20, e)) return false;
    bool ok = image_decode(out, bytes, n, &IMAGE_LIMITS, a, e);
    free(bytes);
    return ok;
}

static inline bool demo_load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    demo *d = ctx;
    if (d->loads++ == d->fail_load) return err_set(e, ERR_FILE, "passage picture is gone");
    (void)a; /* what is kept lives as long as d */
    const char *rel = json_string_value(json_object_get(d->line[id], "img_path"));
    if (!d->kept[id].rgb && !demo_picture(&d->kept[id], rel, d->a, e)) return false;
    *out = d->kept[id];
    return true;
}

/* Case i of a set such as "breast", "test": the query as diagnose() would put it, with PyTorch's candidates. */
typedef struct {
    reader_query   q;
    image          img;
    reader_passage z[DEMO_K];
    const char    *answers[8];
    const float   *logp, *logit; /* [K,A] expected */
    json_t        *task, *line;
} demo_case;

static inline demo_case *demo_case_open(demo *d, const char *task, const char *split, int i)
{
    err        e = {0};
    char       path[128];
    json_t    *lines[64];
    demo_case *c = ARENA_NEW(d->a, demo_case, 1, &e);
    assert_non_null(c);
    snprintf(path, sizeof path, DEMO("synthetic/%s_%s.jsonl"), task, split);
    int n = read_lines(lines, 64, path);
    assert_true(i < n);
    for (int j = 0; j < n; j++)
        if (j != i) json_decref(lines[j]);
    c->line = lines[i];
    snprintf(path, sizeof path, DEMO("tasks/%smnist.json"), task);
    OK(json_open(&c->task, path, &e), e);
    OK(demo_picture(&c->img, json_string_value(json_object_get(c->line, "image_path")), d->a, &e), e);

    const json_t *answers = json_object_get(c->task, "answers");
    int           A = (int)json_array_size(answers);
    for (int j = 0; j < A; j++) c->answers[j] = json_string_value(json_array_get(answers, (size_t)j));
    snprintf(path, sizeof path, "synthetic/%smnist/%s/candidates", task, split);
    const int64_t *ids = golden_ints(d->eval, path, NULL) + DEMO_K * i;
    for (int j = 0; j < DEMO_K; j++)
        c->z[j] = (reader_passage){ids[j], json_string_value(json_object_get(d->line[ids[j]], "text"))};
    for (int j = 0; j < 2; j++) {
        snprintf(path, sizeof path, "synthetic/%smnist/%s/%s", task, split, j ? "logit" : "logp");
        const tensor *t = safetensors_find(d->eval, path);
        assert_non_null(t);
        assert_int_equal(t->type, DTYPE_F32);
        *(j ? &c->logit : &c->logp) = (const float *)t->data + (size_t)i * DEMO_K * (size_t)A;
    }
    c->q = (reader_query){.img = &c->img, .question = json_string_value(json_object_get(c->task, "question")),
                          .answers = c->answers, .A = A, .z = c->z, .K = DEMO_K, .load = demo_load, .load_ctx = d};
    return c;
}

static inline void demo_case_close(demo_case *c)
{
    json_decref(c->line);
    json_decref(c->task);
}

#endif
