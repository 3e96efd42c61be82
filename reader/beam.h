/* beam.h - which answers are under way: beam search over a stream of distributions. Greedy decoding is its width 1.
 *
 *   At each step every answer under way is extended by every token, log p(answer) + log p(token). Extensions
 *   are ordered by that sum, then by the rank of what they extend, then by the lower id. Of the first B those
 *   that end have ended, and the likeliest is kept; the first B that do not end are under way next. The search
 *   is over when nothing under way is likelier than the best that has ended (it can only lose), or after `most`
 *   tokens: then the likelier of the two is the answer.
 *
 * Answers are compared by their likelihood, the end token's included, with no factor for their length: what is
 * looked for is the largest p(a|q). (transformers divides by the length unless length_penalty is 0.) Internal
 * to reader/. */
#ifndef JOMED_READER_BEAM_H
#define JOMED_READER_BEAM_H

#include "base/arena.h"
#include "reader/generation_config.h"

/* An answer, by its last token's place in the tree of all emitted ones; -1: it has none. */
typedef struct {
    int     node;
    double  logp;   /* of the mixture */
    double *each;   /* [K] of each candidate by itself */
    bool   *agrees; /* [K] its own likeliest token was the emitted one at every step, all end tokens being one */
} beam;

typedef struct { double logp; int from; int32_t token; int at; /* its place among from's likeliest */ } extension;

typedef struct {
    const generation_config *ends;
    int        B, K;
    int        top;      /* likeliest tokens of each beam that can matter, at most V */
    int        n;        /* under way */
    beam      *run, *next; /* [B] best first */
    beam       done;
    bool       has_done;
    int        n_nodes;  /* of the tree, in the order they came under way: parents before children */
    int       *parent;
    int32_t   *token;
    extension *best;     /* of this step so far, [n_best] in order */
    int        n_best, room;
} beam_search;

/* K candidates, B beams, at most `most` tokens of V; the first beam has none. All lives in a. */
bool beam_begin(beam_search *s, int K, int B, int V, int most, const generation_config *ends, arena *a, err *e);
/* What may follow beam b: its s->top likeliest tokens and their probabilities, likeliest first. */
void beam_extend(beam_search *s, int b, const int32_t *token, const double *p);
/* Go on with the best extensions. each and likeliest: as kernels->mixture gives them for the beams under way. */
void beam_step(beam_search *s, const double *each, const int32_t *likeliest);
bool beam_over(const beam_search *s); /* nothing under way can become the answer */
/* The likeliest answer so far; *ended: by an end token. */
const beam *beam_best(const beam_search *s, bool *ended);
/* Its tokens, [*n] in a. */
bool beam_tokens(const beam_search *s, const beam *b, int32_t **ids, int *n, arena *a, err *e);

#endif
