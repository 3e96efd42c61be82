/* retriever.h - jina-clip-v1: an image tower and a text tower into one space, and the two heads over an index.
 * Model   ../shared/specs/models.md section 5; names, sizes and traps in docs/MODEL.md.
 * Threads read-only after open; each caller brings its own kernels and arena. */
#ifndef JOMED_RETRIEVER_RETRIEVER_H
#define JOMED_RETRIEVER_RETRIEVER_H

#include "base/arena.h"
#include "index/index.h"
#include "imaging/image.h"
#include "kernels/kernels.h"

typedef struct retriever retriever;

enum { RETRIEVER_TEXT_TOKENS = 256 }; /* of a caption, [CLS] and [SEP] included: what the released code indexes
                                         with */

/* dir: config.json, preprocessor_config.json, tokenizer.json, model.safetensors. Optional tuned query towers:
 * dir/query_image.safetensors and dir/query_text.safetensors (vision tensors only), mixed 0.15 tuned + 0.85 frozen.
 * k opens the weights and must outlive the retriever. ERR_FILE names file and tensor. */
bool retriever_open(retriever **out, const char *dir, kernels *k, err *e);
void retriever_close(retriever *r);
int  retriever_dim(const retriever *r);
const char *retriever_hash(const retriever *r); /* of the folder without the query towers: what an index is
                                                   built with */
const char *retriever_query_hash(const retriever *r, head h); /* of the head's tuned query tower; NULL: it has none */
int64_t     retriever_parameters(const retriever *r); /* without the query towers */

/* z [E] f32, unit length, the caller's. */
bool retriever_embed_image(const retriever *r, kernels *k, const image *img, float *z, arena *a, err *e);
/* Cut to max_tokens, [CLS] and [SEP] included; 0 means RETRIEVER_TEXT_TOKENS. */
bool retriever_embed_text(const retriever *r, kernels *k, const char *caption, int max_tokens, float *z, arena *a,
                          err *e);
/* Query side of a head: 0.15 f_theta + 0.85 f_0 where a tuned tower is there (not re-normalised, as trained),
 * else f_0. */
bool retriever_embed_query(const retriever *r, kernels *k, head h, const image *img, float *z, arena *a, err *e);

/* Both heads' queries, z[h] [E] each the caller's; the picture is preprocessed and f_0 computed once. */
bool retriever_embed_queries(const retriever *r, kernels *k, const image *img, float *const z[N_HEADS], arena *a,
                             err *e);

/* A candidate z_k: heads is a bit set of (1 << head); score[h] is the similarity where that bit is set;
 * weight is p_R(z_k | q), summing to one over the candidates. */
typedef struct { int64_t id; unsigned heads; float score[N_HEADS]; float weight; } candidate;

/* Search both heads with the query image, unite without duplicates (order: the image head's, then the text
 * head's new ones), and weigh. k per head. tau is the temperature of p_R (1 by default). *out lives in a.
 * ERR_UNUSABLE no-candidates: the filters leave nothing. ERR_BUG: k < 1, tau not positive, an index of another
 * width. */
bool retrieve(const retriever *r, kernels *kern, passage_index *ix, const image *img, int k, const exclusion *x,
              float tau, candidate **out, int *K, arena *a, err *e);

/* The union: the image head's hits in order, then those of the text head that are new. weight is not set. *out
 * lives in a. */
bool retriever_unite(const hits found[N_HEADS], candidate **out, int *K, arena *a, err *e);

/* p_R from the scores alone: each head's scores divided by that head's largest, all entries together,
 * softmax(. / tau); a candidate of both heads gets the sum of its two entries. [design.md section 4; released
 * code evaluate.py:330-337]
 * TRAP: a largest score that is negative or zero cannot divide: it would turn the head's order round. Such a
 * head's scores are shifted instead, s - largest + 1: its best entry counts 1 as in every head, the others less.
 * tau > 0. */
void retriever_weigh(candidate *c, int K, float tau);

#endif
