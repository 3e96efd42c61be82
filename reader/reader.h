/* reader.h - the vision-language reader: how likely is each answer, given one retrieved pair and the query.
 * Families (Qwen2-VL, Pixtral) are in a table in reader.c; see family.h. Model: docs/MODEL.md.
 * Threads  a reader is read-only after open but for its prefix cache, which has its own lock; each caller brings its own
 *          kernels and arena. */
#ifndef JOMED_READER_READER_H
#define JOMED_READER_READER_H

#include "base/arena.h"
#include "imaging/policy.h"
#include "kernels/kernels.h"

typedef struct reader reader;

enum { MAX_ADAPTERS = 32, MAX_ADAPTER_NAME = 64 };
/* A PEFT folder under the name that requests use for it: letters, digits, '_', '-' and '.', but not "none". */
typedef struct { const char *name, *dir; } reader_adapter;

typedef struct {
    size_t                cache_bytes; /* of candidate prefixes' keys and values; 0: no cache */
    const reader_adapter *adapters;    /* borrowed */
    int                   n_adapters;
    bool                  merge;       /* add the one adapter to the weights: no branch to compute, but memory of its own */
} reader_options;

/* dir: config.json, tokenizer.json, preprocessor_config.json, model.safetensors or shards. k opens the weights and must
 * outlive the reader. ERR_FILE names file and tensor, or an unknown family; every tensor of an adapter must find its layer.
 * ERR_USAGE: a name that is no name or is used twice, merging of several. */
bool reader_open(reader **out, const char *dir, const reader_options *o, kernels *k, err *e);
void reader_close(reader *r);
const char *reader_hash(const reader *r);
const char *reader_family(const reader *r); /* "qwen2_vl", "llava" (Pixtral) */
int64_t     reader_parameters(const reader *r);
int         reader_max_tokens(const reader *r); /* of one prompt, answers included */

/* Adapters are counted from 1, in the order of the options; 0 is the base model alone. */
int reader_adapters(const reader *r);
/* The adapter of that name; "none" and NULL: 0. ERR_UNUSABLE adapter-unknown lists the names there are. A reader with its
 * adapter merged has no other state: NULL and its name give 1, "none" is unknown. */
bool reader_find_adapter(const reader *r, const char *name, int *adapter, err *e);

typedef struct {
    const char *name, *hash; /* the reader's */
    int         rank;
    double      scale;
    int64_t     parameters;
    size_t      bytes;        /* of its file */
    bool        merged;
    size_t      merged_bytes; /* of weights that lie in memory for it instead of in the mapped checkpoint */
} reader_adapter_info;
reader_adapter_info reader_describe_adapter(const reader *r, int adapter);

/* One retrieved pair. Its image is asked for only when its prefix is not cached. */
typedef bool (*passage_image_loader)(void *ctx, int64_t id, image *out, arena *a, err *e);
typedef struct { int64_t id; const char *caption; } reader_passage;

/* Vision tokens of the last query pictures, for a worker that asks several questions about one: its tower runs once a picture,
 * policy and adapter. A request has the same bits with or without. One worker's own, used with the kernels it was made with. */
typedef struct vision_cache vision_cache;
typedef struct { uint64_t encoded, reused; } vision_cache_stats; /* query pictures: runs of the tower, and runs saved */
vision_cache      *vision_cache_new(kernels *k); /* NULL: out of memory */
void               vision_cache_free(vision_cache *c); /* NULL is fine; before the kernels */
vision_cache_stats vision_cache_read_stats(const vision_cache *c);

typedef struct {
    const image          *img;
    image_policy          policy; /* of img and of the retrieved pictures; part of the cache's key */
    vision_cache         *vision; /* of img; NULL: none */
    const char           *question;
    const char *const    *answers; /* UTF-8, distinct, not empty */
    int                   A;
    const reader_passage *z;
    int                   K;
    passage_image_loader  load;
    void                 *load_ctx;
    int                   adapter; /* 0: none; for all of the request's work, also its prefixes in the cache */
    /* called between candidates; false stops with the error it set (a deadline, a vanished client). NULL: never */
    bool (*go_on)(void *ctx, err *e);
    void *go_on_ctx;
} reader_query;

/* All live in the arena. */
typedef struct {
    float   *logp;          /* [K,A] sum of log p(token | ...) over the answer's tokens (and the end token, see end_token) */
    float   *logit;         /* [K,A] mean raw logit over the answer's own tokens, teacher-forced ("reference" mode) */
    int     *answer_tokens; /* [A] the answer's own tokens */
    bool     end_token;     /* an answer's tokens are a prefix of another's: the end token was scored for all in logp */
    int      n_cached;      /* prefixes found in the cache */
    int      prompt_tokens; /* longest prompt of the K */
    uint64_t flops;
} reader_scores;

/* Score every answer once per candidate. The prefix [system, z image, z caption] is computed once per passage and cached;
 * [query image, question] once per candidate; answers are branches of a trie on it (a one-token answer adds no token);
 * lm_head runs on scored rows only. Same bits for the same (passage, query, answers), whatever was cached or in whatever order.
 * ERR_UNUSABLE, field question or answers: prompt too long (both numbers), answer that is empty after tokenising. */
bool reader_score(reader *r, kernels *k, const reader_query *q, arena *a, reader_scores *out, err *e);

/* The least number of FLOPs that reader_score can do for such a case with an empty cache: docs/MODEL.md, "Work".
 * 0: e is set. */
uint64_t reader_minimum_flops(reader *r, const reader_query *q, arena *a, err *e);

typedef struct { uint64_t hits, misses, evictions; size_t bytes, limit_bytes; int entries; } reader_cache_stats;
void reader_cache(reader *r, reader_cache_stats *out);
void reader_cache_clear(reader *r);

#endif
