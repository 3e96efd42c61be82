/* decoder.h - the text half of the reader: a Llama-like decoder with grouped-query attention, RMS norm and SwiGLU,
 * rotary positions on one axis (Mistral) or three (Qwen2-VL). Sizes, names and formulas: docs/MODEL.md.
 *
 * A pass runs T new tokens over [cached prefix | own] keys and values. The prefix is read-only, so that any number of
 * workers share it; what is new is written straight into `own`, which the caller sized. Passes of several
 * sequences can be packed: products and norms then run over the rows of all of them, and a weight is read once;
 * each attends to its own.
 *
 * Threads  read-only after open; each caller brings its own kernels and arena. Internal to reader/. */
#ifndef JOMED_READER_DECODER_H
#define JOMED_READER_DECODER_H

#include "base/arena.h"
#include "reader/linear.h"
#include "reader/prompt.h"
#include "reader/tap.h"

typedef struct {
    int    L, D, N, kv_heads, head_dim, F, V;
    float  eps;
    double theta;
    int    section[3]; /* how many rotary frequencies follow time, row, column; {head_dim / 2, 0, 0}: ordinary
                          rotary */
    bool   qkv_bias;
    bool   tied;       /* the head is the embedding */
} decoder_config;

typedef struct decoder decoder;

/* V of *c: the text's vocabulary is as long as its embedding, and the tokenizer, of n_ids tokens, must not
 * reach past it. */
bool decoder_vocabulary(decoder_config *c, const loader *l, int n_ids, err *e);

/* l->prefix leads to "embed_tokens.weight", "layers.N..." and "norm.weight"; head is the full name of an own head.
 * Gives *out. The file must outlive the decoder. */
bool decoder_open(decoder **out, const decoder_config *c, const loader *l, const char *head, err *e);
void decoder_close(decoder *d, kernels *k); /* NULL is fine */
const decoder_config *decoder_sizes(const decoder *d);

/* Keys and values of all layers: [L][K, V][capacity, kv_heads * head_dim]. */
typedef struct { act *data; int capacity, n; } kv;
size_t decoder_kv_len(const decoder *d, int tokens); /* activations that kv.data needs for that capacity */
/* The rows of `whole` from `row` on, as keys and values of their own: the sequences of a packed pass whose rows
 * lie one behind the other in one kv are written without a copy. TRAP: its capacity is the whole's: where it
 * ends, the caller knows. */
kv decoder_kv_from(const decoder *d, const kernels *k, const kv *whole, int row);

typedef struct {
    const kv      *prefix;   /* seen by all new tokens; NULL: none */
    kv            *own;      /* rows n .. n + T - 1 are written, then n += T */
    const int32_t *pos;      /* [3,T], axis-major */
    act           *x;        /* [T,D] embeddings in; out: rows from `want` on are the last layer's output before
                                the norm */
    int            T;
    int            adapter;  /* counted from 1; 0: none */
    int            want;     /* in the last layer only keys and values are made of the rows before this one */
    bool           step;     /* of decoding: the tokens are what the model itself gave (kernels.h, decoding); p[0]'s
                                counts for all */
    int            n_tree;   /* the last n_tree tokens are a tree of answers, see kernels.h */
    const uint8_t *visible;
    const tap     *tap;
} decoder_pass;
bool decoder_forward(const decoder *d, kernels *k, const decoder_pass *p, arena *a, err *e);

/* n passes at once, to the same bits as one by one. p[i].x lies right behind p[i-1].x; all have p[0]'s adapter
 * and tap. The rows that are wanted, of one sequence behind the other's, go to out [sum of T - want, D], apart
 * from x or where all of them lie already; what x holds then is undefined. out: NULL where nothing is wanted. */
bool decoder_forward_packed(const decoder *d, kernels *k, const decoder_pass *p, int n, act *out, arena *a, err *e);

/* x[n_ids, D]: rows of the embedding, and vision tokens ([..., D], in the order of the spans) at the pictures. */
void decoder_embed(const decoder *d, kernels *k, const prompt *p, const act *vision, act *x);
/* The final norm, in place. */
void decoder_norm(const decoder *d, kernels *k, act *x, int T);
const weight *decoder_head(const decoder *d); /* [V,D]: for k->score and k->logits, after decoder_norm */

/* What a pass costs, by the formula, not by counting (kernels.h says what is counted): T tokens of which the first
 * query i sees seen[i] keys, the last layer made in full for the last `rows` of them. */
uint64_t decoder_flops(const decoder_config *c, const int *seen, int T, int rows);
/* What an adapter adds to that. */
uint64_t decoder_adapter_flops(const decoder *d, int adapter, int T, int rows);

#endif
