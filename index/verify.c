#include "index/verify.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "index/index.h"
#include "index/manifest.h"
#include "index/passages.h"
#include "index/vectors.h"

typedef struct {
    const char   *dir;
    manifest      m;
    verify_report tell;
    void         *ctx;
    int64_t       problems;
} check;

static void tell(check *c, const char *problem)
{
    c->problems++;
    c->tell(c->ctx, problem);
}

/* A failed step: what is wrong with the index is told, what kept us from looking is an error. */
static bool told(check *c, err *why, err *e)
{
    if (why->code == ERR_MEMORY) return *e = *why, false;
    tell(c, why->text);
    *why = (err){0};
    return true;
}

static bool check_files(check *c, err *e)
{
    for (int i = 0; i < N_INDEX_FILES; i++) {
        err why = {0};
        if (!(manifest_check_size(&c->m, c->dir, i, &why) && manifest_check_sha256(&c->m, c->dir, i, &why))
            && !told(c, &why, e))
            return false;
    }
    return true;
}

static bool check_passages(check *c, arena *a, err *e)
{
    char        path[4096], line[4096 + 256];
    const char *problem = NULL;
    passages   *db = NULL;
    err         why = {0};
    bool ok = path_join(path, sizeof path, c->dir, INDEX_FILE[FILE_PASSAGES], &why)
              && passages_open(&db, path, &why) && passages_check(db, c->m.n_passages, &problem, a, &why);
    passages_close(db);
    if (!ok) return told(c, &why, e);
    if (problem) {
        snprintf(line, sizeof line, "%s: %s", path, problem);
        tell(c, line);
    }
    return true;
}

static void check_lengths(check *c, const vectors *v, const char *path)
{
    int64_t wrong = 0, first = -1;
    for (int64_t i = 0; vectors_exact(v) && i < c->m.n_passages; i++) {
        const float *row = vectors_row(v, i);
        double       s = 0;
        for (int d = 0; d < c->m.dim; d++) s += (double)row[d] * row[d];
        if (fabs(sqrt(s) - 1) < 1e-3) continue;
        if (wrong++ == 0) first = i;
    }
    if (!wrong) return;
    char line[512];
    snprintf(line, sizeof line, "%.300s: %lld vectors have not length 1, the first is that of passage %lld", path,
             (long long)wrong, (long long)first);
    tell(c, line);
}

static bool check_head(check *c, int file, err *e)
{
    char     path[4096];
    vectors *v = NULL;
    err      why = {0};
    if (!path_join(path, sizeof path, c->dir, INDEX_FILE[file], &why) ||
        !vectors_open(&v, path, c->m.dim, c->m.n_passages, &why))
        return told(c, &why, e);
    check_lengths(c, v, path);
    vectors_close(v);
    return true;
}

/* *problem (in a) is NULL when the image is there and has the pixels that were indexed. */
static bool check_image(passage_index *ix, int64_t id, const char **problem, arena *a, err *e)
{
    passage        p;
    const uint8_t *bytes;
    size_t         n;
    media_type     type;
    image          img;
    uint8_t        hash[32];
    char           hex[65] = "";
    err            why = {0};
    bool ok = index_passage(ix, id, &p, a, &why) && index_passage_image(ix, id, &bytes, &n, &type, a, &why) &&
              image_decode(&img, bytes, n, &IMAGE_LIMITS, a, &why);
    if (!ok && why.code == ERR_MEMORY) return *e = why, false;
    if (ok) {
        image_hash(hash, &img);
        hex_encode(hex, hash, sizeof hash);
        if (strcmp(hex, p.image_sha256) == 0) return *problem = NULL, true;
        err_set(&why, ERR_FILE, "its pixels are not those that were indexed");
    }
    bool named = strncmp(why.text, "passage ", 8) == 0;
    *problem = named ? arena_strdup(a, why.text, e) : arena_printf(a, e, "passage %lld: %s", (long long)id, why.text);
    return *problem != NULL;
}

static bool check_images(check *c, arena *a, err *e)
{
    passage_index *ix = NULL;
    const char    *problem = NULL;
    err            why = {0};
    if (!index_open(&ix, c->dir, NULL, &why)) return told(c, &why, e);
    for (int64_t id = 0; id < c->m.n_passages && check_image(ix, id, &problem, a, e); id++) {
        if (problem) tell(c, problem);
        arena_reset(a);
    }
    index_close(ix);
    return e->code == ERR_NONE;
}

bool index_verify(const char *dir, bool images, verify_report report, void *ctx, int64_t *problems, err *e)
{
    check  c = {.dir = dir, .tell = report, .ctx = ctx};
    err    why = {0};
    bool   ok = false;
    arena *a = arena_new(0);
    if (!a) err_set(e, ERR_MEMORY, "index verify: out of memory");
    else if (!manifest_open(&c.m, dir, &why)) ok = told(&c, &why, e);
    else {
        ok = check_files(&c, e);
        /* FAISS trusts its file, so a damaged one is not shown to it. */
        if (ok && c.problems == 0)
            ok = check_passages(&c, a, e) && check_head(&c, FILE_IMAGE, e) && check_head(&c, FILE_TEXT, e);
        if (ok && c.problems == 0 && images) ok = check_images(&c, a, e);
        manifest_close(&c.m);
    }
    arena_free(a);
    *problems = c.problems;
    return ok;
}
