/* index.c - an index folder opened for serving: manifest, passages and the two FAISS indexes, and exact search
 * over them. */
#include "index/index.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "index/manifest.h"
#include "index/passages.h"
#include "index/vectors.h"

const char *const HEAD_NAME[N_HEADS] = {"image", "text"};

/* More than k are fetched at once: 16 from FAISS, whose own rounding is tiny. The device's rows are rounded to
 * f16, which may move a score by more than neighbours are apart; there more cost nothing but their
 * rescoring. */
enum { FETCH_MARGIN = 16, DEVICE_MARGIN = 112 };

struct passage_index {
    char      *dir;
    manifest   m;
    index_info info;
    passages  *db;
    vectors   *head[N_HEADS];
    kernels   *uploaded_by; /* both heads' vectors are on its device; NULL: not there */
    vector_set device[N_HEADS];
};

/* ---- Opening ---- */

/* One head being opened: the two take as long as their files are large, so they are opened side by side. */
typedef struct { passage_index *ix; head h; err e; bool ok; } opening;

/* The FAISS files are read whole anyway and FAISS trusts what it reads, so their checksums are compared first.
 * passages.db may be many times larger and SQLite checks its pages itself; `index verify` compares its checksum. */
static void *open_head(void *arg)
{
    opening       *o = arg;
    passage_index *ix = o->ix;
    char           path[4096];
    int            file = o->h == HEAD_IMAGE ? FILE_IMAGE : FILE_TEXT;
    o->ok = manifest_check_size(&ix->m, ix->dir, file, &o->e) && manifest_check_sha256(&ix->m, ix->dir, file, &o->e)
            && path_join(path, sizeof path, ix->dir, INDEX_FILE[file], &o->e)
            && vectors_open(&ix->head[o->h], path, ix->m.dim, ix->m.n_passages, &o->e);
    return NULL;
}

static bool open_heads(passage_index *ix, err *e)
{
    opening   o[N_HEADS] = {{.ix = ix, .h = HEAD_IMAGE}, {.ix = ix, .h = HEAD_TEXT}};
    pthread_t t;
    bool      second = pthread_create(&t, NULL, open_head, &o[HEAD_TEXT]) == 0;
    open_head(&o[HEAD_IMAGE]);
    if (second) pthread_join(t, NULL);
    else open_head(&o[HEAD_TEXT]);
    for (int h = 0; h < N_HEADS; h++)
        if (!o[h].ok) return *e = o[h].e, false;
    return true;
}

static bool open_passages(passage_index *ix, err *e)
{
    char    path[4096];
    int64_t n;
    if (!manifest_check_size(&ix->m, ix->dir, FILE_PASSAGES, e) ||
        !path_join(path, sizeof path, ix->dir, INDEX_FILE[FILE_PASSAGES], e) || !passages_open(&ix->db, path, e) ||
        !passages_count(ix->db, &n, e))
        return false;
    if (n != ix->m.n_passages)
        return err_set(e, ERR_FILE, "%s: holds %lld passages, the manifest says %lld", path, (long long)n,
                       (long long)ix->m.n_passages);
    return true;
}

bool index_open(passage_index **out, const char *dir, const char *retriever_hash, err *e)
{
    bool           ok = false;
    passage_index *ix = mem_zalloc(1, sizeof *ix);
    if (!ix || !(ix->dir = mem_strdup(dir))) {
        err_set(e, ERR_MEMORY, "index: out of memory");
        goto done;
    }
    if (!manifest_open(&ix->m, dir, e)) goto done;
    if (retriever_hash && strcmp(retriever_hash, ix->m.retriever_hash) != 0) {
        err_set(
            e, ERR_FILE,
            "%s: built with another retriever (%.12s..., this one is %.12s...); build the index again with this one",
            dir, ix->m.retriever_hash, retriever_hash);
        goto done;
    }
    if (!open_passages(ix, e) || !open_heads(ix, e)) goto done;
    ix->info = (index_info){.dir = ix->dir, .retriever_hash = ix->m.retriever_hash, .factory = ix->m.factory,
                            .tool_version = ix->m.tool_version, .created = ix->m.created, .hash = ix->m.hash,
                            .format = ix->m.format, .dim = ix->m.dim, .n_passages = ix->m.n_passages};
    *out = ix;
    ix = NULL;
    ok = true;
done:
    index_close(ix);
    return ok;
}

static void leave_device(passage_index *ix)
{
    for (int h = 0; h < N_HEADS; h++)
        if (ix->head[h]) vectors_from_gpu(ix->head[h]);
    for (int h = 0; h < N_HEADS && ix->uploaded_by; h++)
        ix->uploaded_by->vectors_close(ix->uploaded_by, &ix->device[h]);
    ix->uploaded_by = NULL;
}

void index_close(passage_index *ix)
{
    if (!ix) return;
    leave_device(ix);
    for (int h = 0; h < N_HEADS; h++) vectors_close(ix->head[h]);
    passages_close(ix->db);
    manifest_close(&ix->m);
    free(ix->dir);
    free(ix);
}

const index_info *index_describe(const passage_index *ix) { return &ix->info; }

/* ---- What searches ---- */

static const char *const SEARCH_NAME[] = {"auto", "faiss", "faiss-gpu", "exact"};

bool search_parse(search_choice *out, const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, SEARCH_NAME[i]) == 0) return *out = (search_choice)i, true;
    return false;
}

static bool upload(passage_index *ix, kernels *k, err *e)
{
    ix->uploaded_by = k;
    for (int h = 0; h < N_HEADS; h++)
        if (!k->vectors_open(k, &ix->device[h], vectors_row(ix->head[h], 0), ix->m.n_passages, ix->m.dim, e))
            return false;
    return true;
}

bool index_use(passage_index *ix, search_choice how, kernels *k, err *e)
{
    const bool rows = vectors_exact(ix->head[HEAD_IMAGE]) && vectors_exact(ix->head[HEAD_TEXT]);
    if (how == SEARCH_EXACT && !k->vectors_open)
        return err_at(e, ERR_USAGE, NULL, "search",
                      "search: exact runs on a GPU, the device is %s; faiss is as exact on a Flat "
                      "index",
                      k->name);
    if (how == SEARCH_EXACT && !rows)
        return err_at(e, ERR_USAGE, NULL, "search",
                      "search: exact needs the vectors themselves, a %s index does not keep them; "
                      "take faiss, or build it Flat",
                      ix->m.factory);
    leave_device(ix);
    bool ok = true;
    if (how == SEARCH_FAISS_GPU) {
        int gpu = k->gpu < 0 ? 0 : k->gpu;
        ok = vectors_to_gpu(ix->head[HEAD_IMAGE], gpu, e) && vectors_to_gpu(ix->head[HEAD_TEXT], gpu, e);
    } else if (how != SEARCH_FAISS && k->vectors_open && rows) ok = upload(ix, k, e);
    if (!ok) leave_device(ix); /* never with one head alone */
    return ok;
}

const char *index_searcher(const passage_index *ix)
{
    return SEARCH_NAME[ix->uploaded_by                        ? SEARCH_EXACT
                       : vectors_on_gpu(ix->head[HEAD_IMAGE]) ? SEARCH_FAISS_GPU
                                                              : SEARCH_FAISS];
}

/* ---- Search ---- */

typedef struct { float score; int64_t id; } scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The fetch best of one head by whatever searches it, which may round as slack_of() says. */
static bool fetch_rough(const passage_index *ix, kernels *kern, head h, const float *z, int64_t fetch, float *score,
                        int64_t *id, err *e)
{
    if (!ix->uploaded_by) return vectors_search(ix->head[h], z, fetch, score, id, e);
    if (!kern) return err_set(e, ERR_BUG, "index: a search on the device needs kernels");
    kern->search(kern, &ix->device[h], z, fetch, score, id);
    return kern->sync(kern, e);
}

/* How far a score of FAISS or of the device may be from the inner product of unit rows with z. [Rounding:
 * |fl(x.y) - x.y| <= gamma_d |x||y| with gamma_d about d * 2^-24 for any order of summation: Higham, Accuracy and
 * Stability of Numerical Algorithms, eq. 3.5; on the device rows themselves are off by vector_set.error at most.] */
static double slack_of(const passage_index *ix, head h, const float *z)
{
    double norm = 0;
    for (int i = 0; i < ix->m.dim; i++) norm += (double)z[i] * z[i];
    return 1.01 * ((ix->m.dim + 2) * 0x1p-24 + (ix->uploaded_by ? (double)ix->device[h].error : 0)) * sqrt(norm);
}

/* The fetch best of one head, rescored where rows are stored as they were added, sorted by (score, id). *n <= fetch.
 * *floor: no passage that was not fetched scores above it. */
static bool fetch_best(const passage_index *ix, kernels *kern, head h, const float *z, int64_t fetch, scored **out,
                       int64_t *n, float *floor, arena *a, err *e)
{
    const vectors *v = ix->head[h];
    float   *score = ARENA_NEW(a, float, fetch, e);
    int64_t *id = ARENA_NEW(a, int64_t, fetch, e);
    scored  *s = ARENA_NEW(a, scored, fetch, e);
    if (!score || !id || !s || !fetch_rough(ix, kern, h, z, fetch, score, id, e)) return false;

    int64_t m = 0;
    while (m < fetch && id[m] >= 0) m++; /* a short list ends in -1 */
    for (int64_t i = 0; i < m; i++)
        s[i] = (scored){vectors_exact(v) ? vectors_score(v, z, id[i]) : score[i], id[i]};
    *floor = !m                 ? 0
             : vectors_exact(v) ? nextafterf((float)(score[m - 1] + slack_of(ix, h, z)), INFINITY)
                                : score[m - 1];
    qsort(s, (size_t)m, sizeof *s, by_score);
    *out = s;
    *n = m;
    return true;
}

/* Copy the first k of s that q lets pass; *n may stay below k. */
static bool take_allowed(hits *out, int k, const scored *s, int64_t n, key_query *q, err *e)
{
    out->n = 0;
    for (int64_t i = 0; i < n && out->n < k; i++) {
        bool excluded = false;
        if (q && !key_query_excludes(q, s[i].id, &excluded, e)) return false;
        if (excluded) continue;
        out->id[out->n] = s[i].id;
        out->score[out->n++] = s[i].score;
    }
    return true;
}

bool index_search(passage_index *ix, kernels *kern, head h, const float *z, int k, const exclusion *x, hits *out,
                  arena *a, err *e)
{
    int64_t    n = ix->m.n_passages;
    key_query *q = NULL;
    bool       ok = false;
    if (k < 1) return err_set(e, ERR_BUG, "index: k is %d", k);
    for (int i = 0; i < ix->m.dim; i++)
        if (!isfinite(z[i])) return err_set(e, ERR_BUG, "index: the query embedding is not finite");

    out->n = 0;
    out->id = ARENA_NEW(a, int64_t, k, e);
    out->score = ARENA_NEW(a, float, k, e);
    if (!out->id || !out->score) return false;
    if (x && (x->study || x->patient || x->image_sha256)
        && !key_query_open(&q, ix->db, x->study, x->patient, x->image_sha256, e))
        return false;

    /* Equal pictures and equal captions are common, so the k-th score may be shared by passages that were not
     * fetched, and exclusion thins the list: fetch twice as many until the rest is surely worse, or there is no
     * rest. */
    for (int64_t fetch = (int64_t)k + (ix->uploaded_by ? DEVICE_MARGIN : FETCH_MARGIN);; fetch *= 2) {
        arena_mark mark = arena_here(a);
        scored    *s;
        int64_t    m;
        float      floor;
        bool       all = fetch >= n;
        ok = fetch_best(ix, kern, h, z, all ? n : fetch, &s, &m, &floor, a, e) && take_allowed(out, k, s, m, q, e);
        arena_back(a, mark);
        if (!ok || all || m < fetch || (out->n == k && out->score[k - 1] > floor)) break;
    }
    key_query_close(q);
    return ok;
}

/* ---- Passages ---- */

static bool get_row(passage_index *ix, int64_t id, bool bytes, passage_row *r, arena *a, err *e)
{
    bool found;
    if (!passages_get(ix->db, id, bytes, r, &found, a, e)) return false;
    if (!found)
        return err_at(e, ERR_NOT_FOUND, "passage-unknown", "id", "passage %lld: the index has no such id",
                      (long long)id);
    return true;
}

bool index_passage(passage_index *ix, int64_t id, passage *out, arena *a, err *e)
{
    passage_row r;
    if (!get_row(ix, id, false, &r, a, e)) return false;
    *out = (passage){.id = id, .source = r.source, .caption = r.caption, .study = r.study, .patient = r.patient,
                     .license = r.license};
    hex_encode(out->image_sha256, r.image_sha256, sizeof r.image_sha256);
    return true;
}

static bool read_image_file(passage_index *ix, const passage_row *r, const uint8_t **bytes, arena *a, err *e)
{
    static const char slug[] = "passage-image-missing";
    const char       *root = manifest_root(&ix->m, r->root);
    char              path[4096];
    file_map          m;
    err               why = {0};
    if (!root)
        return err_at(e, ERR_FILE, slug, NULL, "passage %lld: the manifest has no image root %lld",
                      (long long)r->id, (long long)r->root);
    if (!path_is_below(r->image_path))
        return err_at(e, ERR_FILE, slug, NULL, "passage %lld: its image path leaves the image root",
                      (long long)r->id);
    if (!path_join(path, sizeof path, root, r->image_path, &why) || !file_map_open(&m, path, &why))
        return err_at(e, ERR_FILE, slug, NULL, "passage %lld: image %s", (long long)r->id, why.text);
    uint8_t *copy = NULL;
    if ((int64_t)m.bytes != r->image_bytes)
        err_at(e, ERR_FILE, slug, NULL, "passage %lld: image %s has changed since the index was built",
               (long long)r->id, path);
    else if ((copy = arena_take(a, m.bytes, e)) != NULL) memcpy(copy, m.data, m.bytes);
    file_map_close(&m);
    *bytes = copy;
    return copy != NULL;
}

bool index_passage_image(passage_index *ix, int64_t id, const uint8_t **bytes, size_t *n, media_type *type,
                         arena *a, err *e)
{
    passage_row r;
    if (!get_row(ix, id, true, &r, a, e)) return false;
    if (r.root < 0) *bytes = r.embedded;
    else if (!read_image_file(ix, &r, bytes, a, e)) return false;
    *n = (size_t)r.image_bytes;
    *type = image_sniff(*bytes, *n);
    return true;
}
