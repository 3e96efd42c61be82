/* copy.h - a writable copy of a reader's fixture: change its configuration, names or tensors, and open what
 * comes of it. */
#ifndef JOMED_TESTS_READER_COPY_H
#define JOMED_TESTS_READER_COPY_H

#include "tests/reader/golden.h"
#include "tests/retriever/checkpoint.h"

/* A copy: its files but for the weights, which the test edits and saves. */
typedef struct { model_folder m; checkpoint c; } copy;

static inline copy *copy_of_fixture(const char *name)
{
    static const char *const NAME[] = {"config.json",    "generation_config.json", "preprocessor_config.json",
                                       "tokenizer.json", "tokenizer_config.json",  "chat_template.json"};
    err   e = {0};
    char  from[256], *bytes;
    copy *y = must(calloc(1, sizeof *y));
    y->m = (model_folder){.dir = "/tmp/jomed-reader-XXXXXX"};
    must(mkdtemp(y->m.dir));
    for (size_t i = 0; i < sizeof NAME / sizeof *NAME; i++) {
        size_t n;
        snprintf(from, sizeof from, FIXTURE("%s/%s"), name, NAME[i]);
        OK(file_read(&bytes, &n, from, 1 << 24, &e), e);
        OK(file_write(folder_file(&y->m, NAME[i]), bytes, n, &e), e);
        free(bytes);
    }
    snprintf(from, sizeof from, FIXTURE("%s"), name);
    checkpoint_read(&y->c, from);
    return y;
}

static inline void save(copy *y) { checkpoint_write(&y->c, folder_file(&y->m, "model.safetensors"), 0); }

static inline void copy_free(copy *y)
{
    folder_remove(&y->m);
    checkpoint_free(&y->c);
    free(y);
}

static inline void rename_prefix(copy *y, const char *from, const char *to)
{
    size_t n = strlen(from), m = strlen(to);
    for (int i = 0; i < y->c.n; i++) {
        char  *name = y->c.t[i].name;
        if (strncmp(name, from, n) != 0) continue;
        size_t rest = strlen(name + n) + 1;
        assert_true(m + rest <= sizeof y->c.t[i].name);
        memmove(name + m, name + n, rest);
        memcpy(name, to, m);
    }
}

static inline void refused(copy *y, const char *part)
{
    err            e;
    reader        *r = NULL;
    reader_options o = {0};
    kernels       *k = open_cpu(PRECISION_F32, 1);
    save(y);
    FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, part);
    assert_null(r);
    k->close(k);
}

#endif
