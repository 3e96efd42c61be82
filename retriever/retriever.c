/* retriever.c - the model as a whole: its folder opened and checked, a picture or a caption to a unit vector, and the
 * query of each head.
 * A tuned query tower f_theta is a whole image tower that was trained away from f_0; the query is mixed from both and
 * keeps the mixture's length, which scales all scores of a query alike. [specs/jomed.md 1.4; released code
 * jomed.py:263-269] */
#include "retriever/retriever.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "imaging/preprocess.h"
#include "retriever/towers.h"
#include "retriever/wordpiece.h"

static const float TUNED = 0.15f, FROZEN = 0.85f; /* e_q = TUNED f_theta + FROZEN f_0 */
static const char *const QUERY_FILE[N_HEADS] = {[HEAD_IMAGE] = "query_image.safetensors",
                                                [HEAD_TEXT] = "query_text.safetensors"};

struct retriever {
    jina_config       config;
    jina_image_config image;
    wordpiece        *words;
    safetensors      *file, *query_file[N_HEADS]; /* query_file: NULL where there is no tuned tower */
    vision_tower     *vision, *query[N_HEADS];
    text_tower       *text;
    char              hash[SHA256_HEX], query_hash[N_HEADS][SHA256_HEX];
};

/* The retriever is float32 on every device: two candidates may be 1e-4 apart, and which one is second decides
 * what is read. Where k's activations are narrower it computes in k's exact table, whose work and failure are
 * k's. */
static kernels *exact_begin(kernels *k)
{
    kernels *x = kernels_exact(k);
    if (x != k) kernels_recover(x); /* of another request's failure */
    return x;
}

static void exact_end(kernels *k, kernels *x)
{
    if (x == k) return;
    k->flops += x->flops;
    x->flops = 0;
    if (x->failed.code != ERR_NONE) kernels_fail(k, x->failed.code, x->failed.text);
}

static bool open_config(retriever *r, const char *dir, err *e)
{
    char path[PATH_MAX];
    if (!path_join(path, sizeof path, dir, "config.json", e) || !jina_config_open(&r->config, path, e) ||
        !jina_image_config_open(&r->image, dir, e))
        return false;
    if (r->image.size != r->config.vision.image_size)
        return err_set(e, ERR_FILE,
                       "%s: preprocessor_config.json makes pictures of %d pixels, config.json wants %d", dir,
                       r->image.size, r->config.vision.image_size);
    return true;
}

static bool open_words(retriever *r, const char *dir, err *e)
{
    char path[PATH_MAX];
    if (!path_join(path, sizeof path, dir, "tokenizer.json", e) || !wordpiece_open(&r->words, path, e)) return false;
    if (wordpiece_vocab(r->words) > text_tower_vocab(r->text))
        return err_set(e, ERR_FILE, "%s: %d tokens, but the word embeddings have %d rows", path,
                       wordpiece_vocab(r->words), text_tower_vocab(r->text));
    return true;
}

static bool open_query(retriever *r, head h, const char *dir, kernels *k, err *e)
{
    char path[PATH_MAX];
    if (!path_join(path, sizeof path, dir, QUERY_FILE[h], e)) return false;
    if (!file_exists(path)) return true;
    return safetensors_open(&r->query_file[h], path, e) && sha256_file(r->query_hash[h], path, e)
        && vision_tower_open(&r->query[h], &r->config.vision, r->query_file[h], true, kernels_exact(k), e);
}

bool retriever_open(retriever **out, const char *dir, kernels *k, err *e)
{
    bool       ok = false;
    retriever *r = mem_zalloc(1, sizeof *r);
    if (!r) {
        err_set(e, ERR_MEMORY, "retriever: out of memory");
        goto done;
    }
    if (!open_config(r, dir, e) || !safetensors_open(&r->file, dir, e)
        || !vision_tower_open(&r->vision, &r->config.vision, r->file, false, kernels_exact(k), e)
        || !text_tower_open(&r->text, &r->config.text, r->file, kernels_exact(k), e) || !open_words(r, dir, e)
        || !open_query(r, HEAD_IMAGE, dir, k, e) || !open_query(r, HEAD_TEXT, dir, k, e)
        || !sha256_model(r->hash, dir, e))
        goto done;
    *out = r;
    r = NULL;
    ok = true;
done:
    retriever_close(r);
    return ok;
}

void retriever_close(retriever *r)
{
    if (!r) return;
    for (int h = 0; h < N_HEADS; h++) {
        vision_tower_close(r->query[h]);
        safetensors_close(r->query_file[h]);
    }
    vision_tower_close(r->vision);
    text_tower_close(r->text);
    wordpiece_close(r->words);
    safetensors_close(r->file);
    free(r);
}

int         retriever_dim(const retriever *r) { return r->config.vision.embed; }
const char *retriever_hash(const retriever *r) { return r->hash; }
const char *retriever_query_hash(const retriever *r, head h) { return r->query[h] ? r->query_hash[h] : NULL; }
int64_t     retriever_parameters(const retriever *r) { return safetensors_parameters(r->file); }

/* To length 1. A length that is not a number means damaged weights: no search can mean anything with it. */
static bool normalise(float *z, int E, err *e)
{
    double sq = 0;
    for (int i = 0; i < E; i++) sq += (double)z[i] * z[i];
    if (!isfinite(sq))
        return err_set(e, ERR_FILE, "retriever: the embedding is not a number: the weights are damaged");
    double len = sqrt(sq);
    if (len < 1e-12) len = 1e-12; /* torch.nn.functional.normalize */
    for (int i = 0; i < E; i++) z[i] = (float)(z[i] / len);
    return true;
}

/* A picture as all towers take it, made once in the scratch of the table that they run in. */
typedef struct { kernels *x; size_t mark; const act *px; } seen;

static bool see(seen *s, const retriever *r, kernels *k, const image *img, arena *a, err *e)
{
    const int  S = r->image.size;
    pixel_plan plan;
    if (!jina_plan(&plan, img, &r->image, r->config.vision.patch, a, e)) return false;
    kernels *x = exact_begin(k);
    *s = (seen){.x = x, .mark = x->mark(x)};
    act *px = x->take(x, (size_t)3 * S * S);
    x->pixels(x, px, &plan);
    s->px = px;
    return true;
}

static void look_away(const seen *s, kernels *k)
{
    s->x->back(s->x, s->mark);
    exact_end(k, s->x);
}

static bool embed_seen(const vision_tower *v, const seen *s, int E, float *z, arena *a, err *e)
{
    return vision_tower_embed(v, s->x, s->px, z, NULL, a, e) && normalise(z, E, e);
}

bool retriever_embed_image(const retriever *r, kernels *k, const image *img, float *z, arena *a, err *e)
{
    const arena_mark here = arena_here(a);
    seen             s;
    bool             ok = see(&s, r, k, img, a, e);
    if (ok) {
        ok = embed_seen(r->vision, &s, retriever_dim(r), z, a, e);
        look_away(&s, k);
    }
    arena_back(a, here);
    return ok;
}

bool retriever_embed_text(const retriever *r, kernels *k, const char *caption, int max_tokens, float *z, arena *a,
                          err *e)
{
    const arena_mark here = arena_here(a);
    kernels         *x = exact_begin(k);
    int32_t         *ids;
    int              n;
    if (max_tokens <= 0) max_tokens = RETRIEVER_TEXT_TOKENS;
    bool ok = wordpiece_encode(r->words, caption, strlen(caption), true, max_tokens, &ids, &n, a, e)
           && text_tower_embed(r->text, x, ids, n, z, NULL, a, e) && normalise(z, retriever_dim(r), e);
    exact_end(k, x);
    arena_back(a, here);
    return ok;
}

/* z = TUNED f_theta + FROZEN f_0, or f_0 itself where no tower was tuned. */
static bool mix(const retriever *r, head h, const seen *s, const float *f0, float *z, arena *a, err *e)
{
    const int E = retriever_dim(r);
    if (!r->query[h]) {
        memcpy(z, f0, (size_t)E * sizeof *z);
        return true;
    }
    float *tuned = ARENA_NEW(a, float, E, e);
    if (!tuned || !embed_seen(r->query[h], s, E, tuned, a, e)) return false;
    for (int i = 0; i < E; i++) z[i] = TUNED * tuned[i] + FROZEN * f0[i]; /* TRAP: not normalised again, as trained */
    return true;
}

/* The queries of the n heads in h. */
static bool embed_heads(const retriever *r, kernels *k, const image *img, const head *h, float *const *z, int n,
                        arena *a, err *e)
{
    const arena_mark here = arena_here(a);
    float           *f0 = ARENA_NEW(a, float, retriever_dim(r), e);
    seen             s;
    bool             ok = f0 && see(&s, r, k, img, a, e);
    if (ok) {
        ok = embed_seen(r->vision, &s, retriever_dim(r), f0, a, e);
        for (int i = 0; ok && i < n; i++) ok = mix(r, h[i], &s, f0, z[i], a, e);
        look_away(&s, k);
    }
    arena_back(a, here);
    return ok;
}

bool retriever_embed_queries(const retriever *r, kernels *k, const image *img, float *const z[N_HEADS], arena *a,
                             err *e)
{
    static const head BOTH[N_HEADS] = {HEAD_IMAGE, HEAD_TEXT};
    return embed_heads(r, k, img, BOTH, z, N_HEADS, a, e);
}

bool retriever_embed_query(const retriever *r, kernels *k, head h, const image *img, float *z, arena *a, err *e)
{
    return embed_heads(r, k, img, &h, &z, 1, a, e);
}
