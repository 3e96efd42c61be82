/* candidate.h - what scoring and decoding have in common: the query part of a request, and the prefix of each
 * candidate.
 *
 *     [system, z image, z caption] [query image, question] ...          z: one of K retrieved pairs
 *      prefix: keys and values      query part: the same ids for
 *      from the cache or computed   all candidates, at positions that follow each one's prefix
 *
 * Activations are scratch of the caller's kernels, the rest is the arena's. Internal to reader/. */
#ifndef JOMED_READER_CANDIDATE_H
#define JOMED_READER_CANDIDATE_H

#include "reader/reader_internal.h"

/* Which branch of the linear layers a request takes: none where the adapter is part of the weights. */
int    reader_branch(const reader *r, const reader_query *q);
size_t reader_width(const reader *r);

/* The query's picture as the tower takes it and the ids of [query image, question]. Nothing is computed yet.
 * ERR_BUG: no candidate, an adapter that is not there. */
bool query_prepare(const reader *r, const reader_query *q, picture *pic, prompt *ask, arena *a, err *e);

/* Vision tokens of n pictures on the scratch stack, one behind the other's. */
bool pictures_encode(const reader *r, kernels *k, int branch, const picture *p, int n, act **out, arena *a, err *e);

/* Those of the query's picture: kept from an earlier request (reader_query.vision), or computed. They are valid
 * until scratch goes back or the cache is asked for another picture. */
bool query_encode(const reader *r, kernels *k, const reader_query *q, const picture *p, act **out, arena *a, err *e);

/* n_tokens, of a prompt and what may follow it, are within the model's bound; ERR_UNUSABLE prompt-too-long of field
 * "question" otherwise, with both numbers. (A pair too long by itself is of field "k", and its passage is named.) */
bool prompt_fits(const reader *r, int n_tokens, err *e);

/* Load a passage's picture and render its prefix. ERR_FILE: the passage is at fault, not the request. */
bool prefix_render(const reader *r, const reader_query *q, const reader_passage *z, picture *pic, prompt *p, arena *a,
                   err *e);

/* A prefix that was not in the cache, rendered and still to be computed. */
typedef struct { prefix_key key; picture pic; prompt p; int branch; } prefix_job;

/* What a pass on top of a prefix needs of it. Copies of these two: an entry's links change under other workers. */
typedef struct {
    kv   keys;
    int  cursor; /* position of the token that follows */
    bool cached, ready;
    bool shared; /* computed for another request that needed it too */
    const prefix_entry *held;  /* the cache's; NULL: the keys are scratch, or lie in an entry that another one of
                                  them holds */
    const prefix_entry *below; /* the cache's copy in host memory, until it is ready; NULL: none */
    prefix_job         *job;   /* the arena's; NULL: it was in the cache */
} prefix_kv;

/* The prefix of a passage if it is in the cache; else load its picture and render it, and it is not ready yet.
 * *out is to be released also after an error. */
bool prefix_find(reader *r, const reader_query *q, const reader_passage *z, prefix_kv *out, arena *a, err *e);
int  prefix_tokens(const prefix_kv *p);
/* Make ready what is not: copied from host memory or computed in one packed pass, into the cache if there is room,
 * into scratch if not; waits for the device. One that is needed twice is made once. All are of one branch. Valid
 * until released and until scratch goes back. */
bool prefixes_compute(reader *r, kernels *k, prefix_kv *p, int n, arena *a, err *e);
void prefix_release(reader *r, kernels *k, prefix_kv *p); /* a zeroed one is fine */

/* All K prefixes of a request, in as few packed passes as the device's width allows, asking q->go_on before
 * each. out [K] are to be released also after an error. */
bool prefixes_take(reader *r, kernels *k, const reader_query *q, prefix_kv *out, arena *a, err *e);

#endif
