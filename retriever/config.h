/* config.h - sizes of a jina-clip model, from its config.json. Internal to retriever/. */
#ifndef JOMED_RETRIEVER_CONFIG_H
#define JOMED_RETRIEVER_CONFIG_H

#include "base/err.h"

typedef struct {
    int  image_size, patch, grid; /* S, pixels of a patch's side, S / patch */
    int  layers, width, heads, head_width, ffn, embed; /* L, D, N, D / N, F, E */
    bool interpolate; /* positions are stretched to a grid of trained_grid (intp_freq) */
    int  trained_grid; /* pt_hw_seq_len */
} vision_config;

typedef struct {
    int   layers, heads, width, ffn, embed;
    int   vocab;  /* 0: as many as the file has */
    int   types;  /* rows of the token type table */
    int   pad_id; /* not seen by attention or pooling */
    float eps;
} text_config;

typedef struct { vision_config vision; text_config text; } jina_config;

/* Read path, fill in what the published file leaves out, and refuse what this program does not compute
 * (ERR_FILE names the field): layer scale, post-norm, plain MLP, another pooling, projections. */
bool jina_config_open(jina_config *out, const char *path, err *e);

#endif
