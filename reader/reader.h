/* reader.h - the vision-language reader: how likely is each answer, given one retrieved pair and the query.
 * Families (Qwen2-VL, Pixtral) are in a table in reader.c; see family.h. Model: docs/MODEL.md.
 * Threads  a reader is read-only after open but for its prefix cache, which has its own lock; each caller
 *          brings its own kernels and arena. */
#ifndef JOMED_READER_READER_H
#define JOMED_READER_READER_H

#include "base/arena.h"
#include "imaging/policy.h"
#include "kernels/kernels.h"

typedef struct reader reader;

enum { MAX_ADAPTERS = 32, MAX_ADAPTER_NAME = 64 };
/* A PEFT folder under the name that requests use for it: letters, digits, '_', '-' and '.', but not "none". */
typedef struct { const char *name, *dir; } reader_adapter;
bool reader_adapter_name(const char *name); /* it is such a name */

/* As cache_bytes: on a GPU room for 256 prefixes, those of 64 requests with the default k, of 400 tokens, which is a
 * picture of 448 px with its caption; at most half of what is free once the weights are there. On a CPU a quarter of
 * it and at most 1 GiB, since what a container may have is not known here. */
#define CACHE_AUTO SIZE_MAX
enum { CACHE_PREFIXES = 256, CACHE_PREFIXES_CPU = 64, CACHE_PREFIX_TOKENS = 400 };

typedef struct {
    size_t                cache_bytes; /* of candidate prefixes' keys and values; 0: no cache; or CACHE_AUTO */
    size_t                cache_host_bytes; /* pinned host memory for what a GPU has no more room for; 0: none */
    const reader_adapter *adapters;    /* borrowed */
    int                   n_adapters;
    bool                  merge;       /* add the one adapter to the weights: no branch to compute, but memory
                                          of its own */
} reader_options;

/* Host memory is not behind a CPU, whose cache lies there already, nor behind no cache. ERR_USAGE, field
 * cache_host_mb. */
bool reader_cache_agrees(size_t cache_bytes, size_t cache_host_bytes, bool gpu, err *e);
/* CACHE_AUTO for the reader in dir, from its config.json alone: so without a GPU's bound. ERR_FILE. */
bool reader_auto_cache(size_t *bytes, const char *dir, bool gpu, precision products, err *e);

/* dir: config.json, tokenizer.json, preprocessor_config.json, model.safetensors or shards. k opens the weights
 * and must outlive the reader. ERR_FILE names file and tensor, or an unknown family; every tensor of an adapter
 * must find its layer. ERR_USAGE: a name that is no name or is used twice, merging of several, a cache that does not
 * agree. */
bool reader_open(reader **out, const char *dir, const reader_options *o, kernels *k, err *e);
void reader_close(reader *r);
const char *reader_hash(const reader *r);
const char *reader_family(const reader *r); /* "qwen2_vl", "llava" (Pixtral) */
int64_t     reader_parameters(const reader *r);
int         reader_max_tokens(const reader *r); /* of one prompt, answers included */

/* Adapters are counted from 1, in the order of the options; 0 is the base model alone. */
int reader_adapters(const reader *r);
/* The adapter of that name; "none" and NULL: 0. ERR_UNUSABLE adapter-unknown lists the names there are. A
 * reader with its adapter merged has no other state: NULL and its name give 1, "none" is unknown. */
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

/* Vision tokens of the last query pictures, for a worker that asks several questions about one: its tower runs
 * once a picture, policy and adapter. A request has the same bits with or without. One worker's own, used with
 * the kernels it was made with. */
typedef struct vision_cache vision_cache;
/* query pictures: runs of the tower, and runs saved */
typedef struct { uint64_t encoded, reused; } vision_cache_stats;
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
    const char *const    *labels;  /* each is asked as "QUESTION\nLABEL?", a closed question of its own with
                                      these answers */
    int                   L;       /* 0: none, the question itself is asked */
    const reader_passage *z;
    int                   K;
    passage_image_loader  load;
    void                 *load_ctx;
    int                   adapter; /* 0: none; for all of the request's work, also its prefixes in the cache */
    /* called between candidates; false stops with the error it set (a deadline, a vanished client). NULL: never */
    bool (*go_on)(void *ctx, err *e);
    void *go_on_ctx;
} reader_query;

/* All live in the arena. With labels every [A] is [L,A]. */
typedef struct {
    float   *logp;          /* [K,A] sum of log p(token | ...) over the answer's tokens (and the end token, see
                               end_token) */
    float   *logit;         /* [K,A] mean raw logit over the answer's own tokens, teacher-forced ("reference" mode) */
    int     *answer_tokens; /* [A] the answer's own tokens */
    bool     end_token;     /* an answer's tokens are a prefix of another's: the end token was scored for all in
                               logp */
    int      n_cached;      /* prefixes found in the cache */
    int      prompt_tokens; /* longest prompt of the K */
    uint64_t flops;
} reader_scores;

/* Score every answer once per candidate. The prefix [system, z image, z caption] is computed once per passage
 * and cached; [query image, question] once per candidate; answers are branches of a trie on it (a one-token
 * answer adds no token); lm_head runs on scored rows only. Labels are branches of the same trie, so that one
 * pass per candidate answers all of them: a label's scores are those of its question asked alone (labels.h):
 * bit for bit on a CPU, within rounding on a GPU (kernels.h). Same bits for the same (passage, query, answers),
 * whatever was cached or in whatever order. ERR_UNUSABLE, field question, answers or labels: prompt too long
 * (both numbers), answer that is empty after tokenising, more tokens of answers and labels than are read at
 * once. */
bool reader_score(reader *r, kernels *k, const reader_query *q, arena *a, reader_scores *out, err *e);

/* The same for n >= 1 requests at once, packed into the same passes: to the same bits, and each with its own
 * outcome. *e is ERR_NONE and *out set, or *e says why that request failed; only a device that failed, or had
 * no memory for a pass, takes others along. false: e, that of the call, is set and nothing was done. Where n >
 * 1 flops are those that the request's own work costs by the formula. */
typedef struct { const reader_query *q; arena *a; reader_scores *out; err *e; } reader_job;
bool reader_score_many(reader *r, kernels *k, const reader_job *job, int n, err *e);

/* ---- open answers ----
 *
 * Synchronised decoding: all K branches have the same emitted tokens y behind their own prompts, and the next
 * one is told by
 *     p(v | y) = sum_k w_k p_k(v | y),      p_k: softmax of branch k's logits over the whole vocabulary.
 * One beam: the likeliest token at each step, the lowest id of equals. Several: the search of beam.h, for the
 * answer of the largest likelihood, its end token included and its length not weighed. An end token is the end
 * of an assistant's turn or one of generation_config.json's eos_token_id. All numbers are sums over the emitted
 * tokens and the end token, if one ended it:
 *     logp     log p(v | y)                           each[k]  log p_k(v | y), as if z_k were the only candidate
 *     agrees[k]  at every step the likeliest token of p_k was the emitted one, where all end tokens are one:
 *                alone and with one beam, z_k would have given the same answer
 *
 * repetition_penalty r: before its softmax, branch k's logit of each id that stands in its own prompt
 * (pictures' markers and special tokens too) or among y is divided by r if above 0, multiplied by r if below.
 * All of the above is then of such p_k. It needs the ids of the prompts, so that retrieved pictures are asked
 * for also where prefixes are cached.
 *
 * reference: as the released code has it. Every branch goes on with its own likeliest token, and with the
 * padding token once it has ended; independently of that the emitted token is argmax_v sum_k w_k logit_k[v]. It
 * stops with max_new_tokens, with an emitted end token (the released code goes on, and may find words behind
 * it), or after the step in which all candidates of a head have ended. logp sums log softmax of that sum of
 * logits, each[k] log softmax of logit_k behind k's own tokens, and agrees[k] says that these were the emitted
 * ones.
 *
 * Same bits for the same (passages, weights, query, options): whatever was cached and in whatever order they
 * are given. */
typedef struct {
    const float    *weight;             /* [K] w_k; their sum is one */
    int             max_new_tokens;     /* at least 1; the end token is not counted */
    int             beams;              /* at least 1; 1 with reference */
    double          repetition_penalty; /* above 0; 1: none */
    bool            reference;
    const unsigned *heads;              /* [K] bits, of reference's stop: which heads found each; NULL: one head
                                           found all */
    /* Text as soon as it is known and whole UTF-8, n bytes; with beams once, at the end. false stops with the
     * error it set. NULL: nobody waits for it. */
    bool (*on_text)(void *ctx, const char *text, size_t n, err *e);
    void  *on_text_ctx;
} reader_decoding;

/* All live in the arena; of K in the order of the query's candidates. */
typedef struct {
    const char    *text;   /* what on_text was given. Special tokens are left out, what is no UTF-8 and U+0000
                              is U+FFFD */
    const int32_t *token;  /* [n_tokens] emitted */
    int            n_tokens;
    bool           ended;  /* false: max_new_tokens were spent */
    float          logp;
    float         *each;   /* [K] */
    bool          *agrees; /* [K] */
    int            n_cached, prompt_tokens;
    uint64_t       flops;
} reader_text;

/* The answers of q are not looked at; go_on is asked before each step too. ERR_UNUSABLE prompt-too-long: a prompt and
 * max_new_tokens are more than the reader takes. */
bool reader_generate(reader *r, kernels *k, const reader_query *q, const reader_decoding *d, arena *a,
                     reader_text *out, err *e);

/* The least number of FLOPs that reader_score can do for such a case with an empty cache: docs/MODEL.md, "Work".
 * 0: e is set. */
uint64_t reader_minimum_flops(reader *r, const reader_query *q, arena *a, err *e);

typedef struct {
    uint64_t hits, misses; /* of prefixes asked for */
    uint64_t host_hits;    /* those of hits that came from host memory */
    uint64_t evictions, host_evictions; /* for room: from the device, and of copies in host memory */
    size_t   bytes, limit_bytes, host_bytes, host_limit_bytes;
    int      entries, host_entries;
} reader_cache_stats;
void reader_cache(reader *r, reader_cache_stats *out);
void reader_cache_clear(reader *r);

#endif
