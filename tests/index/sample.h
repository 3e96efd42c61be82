/* sample.h - what the tests of index/ share: a temporary folder, small pictures, .npz files, and an embedder
 * without a model. The embedder depends on the picture's first pixel and on the caption alone, so equal inputs
 * give equal vectors. */
#ifndef JOMED_TESTS_INDEX_SAMPLE_H
#define JOMED_TESTS_INDEX_SAMPLE_H

#include "tests/check.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/memory.h"
#include "index/build.h"
#include "index/index.h"

enum { DIM = 19 };

typedef struct { char dir[64]; arena *a; } sample;

static int sample_remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}
static inline void remove_tree(const char *dir) { nftw(dir, sample_remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static inline int sample_setup(void **state)
{
    sample *s = calloc(1, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "/tmp/jomed-index-XXXXXX");
    if (!mkdtemp(s->dir) || !(s->a = arena_new(0))) return -1;
    *state = s;
    return 0;
}
static inline int sample_teardown(void **state)
{
    sample *s = *state;
    mem_fail_after(-1);
    remove_tree(s->dir);
    arena_free(s->a);
    free(s);
    return 0;
}
#define SAMPLE_TEST(f) cmocka_unit_test_setup_teardown(f, sample_setup, sample_teardown)

/* "DIR/name" for this test, its folders made; lives as long as the test. */
static inline const char *at(const sample *s, const char *fmt, ...)
{
    char    rel[256];
    err     e = {0};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rel, sizeof rel, fmt, ap);
    va_end(ap);
    char *path = arena_printf(s->a, &e, "%s/%s", s->dir, rel);
    assert_non_null(path);
    for (char *p = path + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = 0;
        mkdir(path, 0777);
        *p = '/';
    }
    return path;
}

static inline void put(const char *path, const void *bytes, size_t n)
{
    err e = {0};
    OK(file_write(path, bytes, n, &e), e);
}
static inline void put_text(const char *path, const char *s) { put(path, s, strlen(s)); }

static inline void put_png(const sample *s, const char *path, int width, int height, unsigned seed)
{
    err      e = {0};
    uint8_t *png;
    size_t   n;
    image    img = {.width = width, .height = height, .rgb = ARENA_NEW(s->a, uint8_t, width * height * 3, &e)};
    for (int i = 0; i < width * height * 3; i++) img.rgb[i] = (uint8_t)(seed >> 8 * (i % 3));
    OK(image_encode_png(&png, &n, &img, s->a, &e), e);
    put(path, png, n);
}

/* A .npy of the given description, and a .npz of several. */
typedef struct { const char *name, *descr, *shape; const void *data; size_t bytes; } npy_part;
static inline void put_npz(const char *path, const npy_part *part, int n)
{
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(z);
    char *made[8] = {0};
    for (int i = 0; i < n; i++) {
        char   dict[256], name[64];
        int len = snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                           part[i].descr, part[i].shape);
        size_t top = 10 + (size_t)len;
        made[i] = malloc(top + part[i].bytes);
        memcpy(made[i], "\x93NUMPY\x01\x00", 8);
        made[i][8] = (char)(len & 255);
        made[i][9] = (char)(len >> 8);
        memcpy(made[i] + 10, dict, (size_t)len);
        memcpy(made[i] + top, part[i].data, part[i].bytes);
        snprintf(name, sizeof name, "%s.npy", part[i].name);
        zip_file_add(z, name, zip_source_buffer(z, made[i], top + part[i].bytes, 0), ZIP_FL_OVERWRITE);
    }
    assert_int_equal(zip_close(z), 0);
    for (int i = 0; i < n; i++) free(made[i]);
}

/* ---- The embedder ---- */

static inline void unit_of(float *z, uint64_t seed)
{
    double sum = 0;
    for (int i = 0; i < DIM; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        z[i] = (float)((double)(seed >> 40) / (1 << 24) - 0.5);
        sum += (double)z[i] * z[i];
    }
    for (int i = 0; i < DIM; i++) z[i] = (float)(z[i] / sqrt(sum));
}
static inline uint64_t text_seed(const char *s)
{
    uint64_t h = 1469598103934665603u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 1099511628211u;
    return h;
}
static inline uint64_t pixel_seed(const image *img)
{
    return img->rgb[0] | (unsigned)img->rgb[1] << 8 | (unsigned)img->rgb[2] << 16;
}

/* kill_at: SIGKILL in that call; stop_at: raise the stop flag in that call (from 0; -1: never). */
typedef struct { long calls, kill_at, stop_at; volatile sig_atomic_t stop; } fake;

static inline bool fake_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    fake *f = ctx;
    (void)a, (void)e;
    if (f->calls == f->kill_at) raise(SIGKILL);
    if (f->calls == f->stop_at) f->stop = 1;
    f->calls++;
    unit_of(z, pixel_seed(img));
    return true;
}
static inline bool fake_text(void *ctx, const char *caption, float *z, arena *a, err *e)
{
    (void)ctx, (void)a;
    if (strstr(caption, "unembeddable")) return err_set(e, ERR_UNUSABLE, "this text cannot be embedded");
    unit_of(z, text_seed(caption));
    return true;
}

#define FAKE_HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
static inline build_options fake_options(const char *out, const import_source *src, int n, fake *f)
{
    *f = (fake){.kill_at = -1, .stop_at = -1};
    return (build_options){.out = out,
                           .sources = src,
                           .n_sources = n,
                           .tool_version = "test",
                           .quiet = true,
                           .stop = &f->stop,
                           .embed = {fake_image, fake_text, f, DIM, FAKE_HASH}};
}

/* A JSONL of n items with their pictures below DIR/pictures; item i has pixel picture(i) and caption caption(i). */
static inline const char *put_items(const sample *s, const char *name, int n, unsigned (*picture)(int),
                                    const char *(*caption)(int))
{
    FILE *f = fopen(at(s, "%s", name), "w");
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        unsigned p = picture(i);
        if (!file_exists(at(s, "pictures/%06u.png", p))) put_png(s, at(s, "pictures/%06u.png", p), 3, 2, p);
        fprintf(
            f,
            "{\"id\": %d, \"img_path\": \"pictures/%06u.png\", \"text\": \"%s\", \"dataset_source\": \"set%d\", \"study\": \"st%d\","
            " \"patient\": \"p%d\"}\n",
            1000 + i, p, caption(i), i % 2, i / 2, i / 3);
    }
    fclose(f);
    return at(s, "%s", name);
}

static inline unsigned own_picture(int i) { return (unsigned)(i * 7919 + 1); }
static inline const char *own_caption(int i)
{
    static char buf[64];
    snprintf(buf, sizeof buf, "Finding number %d.", i);
    return buf;
}

/* An index of n such items at DIR/index, opened. */
static inline passage_index *build_and_open(const sample *s, int n, unsigned (*picture)(int),
                                            const char *(*caption)(int), const char *factory)
{
    err            e = {0};
    fake           f;
    build_counts   c;
    passage_index *ix = NULL;
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", n, picture, caption), .images = s->dir};
    build_options  o = fake_options(at(s, "index"), &src, 1, &f);
    o.factory = factory;
    OK(index_build(&o, &c, &e), e);
    OK(index_open(&ix, at(s, "index"), FAKE_HASH, &e), e);
    return ix;
}

#endif
