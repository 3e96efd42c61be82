/* family.h - what differs between the readers we know: the vision tower, the prompt, the positions, the names in the
 * checkpoint. All else (decoder, scoring, cache, generation) is shared. The table of families is in reader.c.
 * Internal to reader/. */
#ifndef JOMED_READER_FAMILY_H
#define JOMED_READER_FAMILY_H

#include <jansson.h>
#include "imaging/policy.h"
#include "reader/bpe.h"
#include "reader/decoder.h"

/* A picture as a family's tower takes it; the plan lives in the arena it was prepared in and may borrow the image's
 * bytes. */
typedef struct {
    int        rows, cols;     /* of vision tokens, as the prompt lays them out */
    int        grid_h, grid_w; /* of patches */
    pixel_plan plan;
} picture;

/* What a family opens from. All is borrowed and outlives the model. */
typedef struct {
    const char        *dir;
    const json_t      *config; /* config.json */
    const char        *config_name;
    const safetensors *file;
    const bpe         *tokens;
    kernels           *k;
    const lora_set    *adapters; /* for the loaders */
} model_files;

/* What every family has; a family's own struct begins with it. */
typedef struct {
    decoder *text;
    int32_t  end_id;     /* ends an assistant's turn */
    int      max_tokens; /* that positions were trained for */
} model;

typedef struct {
    const char *model_type; /* as config.json spells it */
    /* Sizes of the decoder from config.json alone, but for V. ERR_FILE. */
    bool (*sizes)(decoder_config *out, const json_t *config, const char *config_name, err *e);
    bool (*open)(model **out, const model_files *f, err *e);
    void (*close)(model *m, kernels *k); /* NULL is fine */

    /* The policy's steps of this family, then its own processor's plan; img outlives *out. */
    bool (*prepare)(const model *m, picture *out, const image *img, image_policy policy, arena *a, err *e);
    /* Vision tokens of n pictures, one behind the other's, out [sum of rows * cols, D] in the order of the
     * prompt's spans. No picture sees another: the bits are those of one by one. adapter: as in linear.h. */
    bool (*encode)(const model *m, kernels *k, int adapter, const picture *p, int n, act *out, const tap *t,
                   arena *a, err *e);
    uint64_t (*encode_flops)(const model *m, int adapter, const picture *p); /* by the formula */

    /* The prompt's two halves, docs/MODEL.md, "Scoring": the retrieved pair; the query up to the answer's first
     * token. */
    bool (*prefix)(const model *m, const char *caption, const picture *z, prompt *out, arena *a, err *e);
    bool (*query)(const model *m, const char *question, const picture *q, prompt *out, arena *a, err *e);
    /* pos [3, n_ids] of a piece that starts at cursor; returns the cursor after it. */
    int (*positions)(int32_t *pos, const prompt *p, int cursor);
} family;

extern const family FAMILY_QWEN2VL, FAMILY_PIXTRAL;

#endif
