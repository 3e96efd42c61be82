/* towers.h - the two encoders of jina-clip-v1. Internal to retriever/; tests look at every stage through a tap.
 * Threads  read-only after open; each caller brings its own kernels and arena. */
#ifndef JOMED_RETRIEVER_TOWERS_H
#define JOMED_RETRIEVER_TOWERS_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "retriever/config.h"

/* Called after a stage ("vision.embed", "vision.block.0", "text.layer.1", ...) with its output, x [T,D]. It
 * only looks. Without a tap the last block of the image tower computes the class token's row alone. */
typedef struct { void (*stage)(void *ctx, const char *name, const float *x, int T, int D); void *ctx; } tower_tap;

/* Image tower: EVA-02 ViT [Fang et al. 2023, arXiv 2303.11331]: pre-norm, sub-LN, SwiGLU, 2-D rotary embedding. */
typedef struct vision_tower vision_tower;
/* file must outlive the tower. only_vision: file is a tuned query tower and holds nothing else. Gives *out. */
bool vision_tower_open(vision_tower **out, const vision_config *c, const safetensors *file, bool only_vision,
                       kernels *k, err *e);
void vision_tower_close(vision_tower *v);
/* px: a picture by jina_plan(), as k makes it: patches [P, 3 * patch^2]. z [E], as long as the tower leaves it (not
 * normalised). */
bool vision_tower_embed(const vision_tower *v, kernels *k, const act *px, float *z, const tower_tap *tap, arena *a,
                        err *e);

/* Text tower: JinaBERT [Guenther et al. 2023, arXiv 2310.19923]: post-norm BERT with symmetric ALiBi and a
 * gated MLP. */
typedef struct text_tower text_tower;
bool text_tower_open(text_tower **out, const text_config *c, const safetensors *file, kernels *k, err *e);
void text_tower_close(text_tower *t);
int  text_tower_vocab(const text_tower *t);
/* ids [n], n >= 1, as wordpiece_encode() makes them; ids of padding are left out. z [E], not normalised.
 * ERR_UNUSABLE: an id past the vocabulary, or nothing but padding. */
bool text_tower_embed(const text_tower *t, kernels *k, const int32_t *ids, int n, float *z, const tower_tap *tap,
                      arena *a, err *e);

/* cos, sin [P, head_width / 2] of the image tower: P patches in raster order, angles of the row, then of the
 * column. */
void vision_rope_tables(const vision_config *c, float *cos_, float *sin_);
/* [n] slopes of n heads; for no power of two, those of the next lower one and then every other of the next higher.
 * [Press et al. 2022, arXiv 2108.12409] */
void alibi_slopes(float *slope, int n);

/* Show a stage to the tap, if there is one. */
bool tower_show(const tower_tap *tap, kernels *k, const act *x, int T, int D, arena *a, err *e, const char *fmt, ...)
    __attribute__((format(printf, 8, 9)));

#endif
