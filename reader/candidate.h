/* candidate.h - what scoring and decoding have in common: the query part of a request, and the prefix of each candidate.
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
bool query_prepare(const reader *r, const reader_query *q, picture *image, prompt *ask, arena *a, err *e);

/* Vision tokens of a picture on the scratch stack. */
bool picture_encode(const reader *r, kernels *k, int branch, const picture *p, act **out, arena *a, err *e);

/* Those of the query's picture: kept from an earlier request (reader_query.vision), or computed. They are valid until scratch
 * goes back or the cache is asked for another picture. */
bool query_encode(const reader *r, kernels *k, const reader_query *q, const picture *p, act **out, arena *a, err *e);

/* n_tokens, of a prompt and what may follow it, are within the model's bound; ERR_UNUSABLE prompt-too-long otherwise, with
 * both numbers. */
bool prompt_fits(const reader *r, int n_tokens, err *e);

/* Load a passage's picture and render its prefix. ERR_FILE: the passage is at fault, not the request. */
bool prefix_render(const reader *r, const reader_query *q, const reader_passage *z, picture *pic, prompt *p, arena *a,
                   err *e);

/* What a pass on top of a prefix needs of it. Copies of these two: an entry's links change under other workers. */
typedef struct {
    kv   keys;
    int  cursor; /* position of the token that follows */
    bool cached;
    const prefix_entry *held; /* the cache's; NULL: the keys are scratch */
} prefix_kv;

/* The prefix of a passage, from the cache or computed: into the cache if there is room, into scratch if not. *out, zeroed
 * before, is to be released also after an error, and is valid until then and until scratch goes back. */
bool prefix_take(reader *r, kernels *k, const reader_query *q, const reader_passage *z, prefix_kv *out, arena *a, err *e);
void prefix_release(reader *r, kernels *k, prefix_kv *p); /* a zeroed one is fine */

#endif
