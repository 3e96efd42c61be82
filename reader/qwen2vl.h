/* qwen2vl.h - Qwen2-VL's own half of the reader, opened up for the tests of its stages. Internal to reader/. */
#ifndef JOMED_READER_QWEN2VL_H
#define JOMED_READER_QWEN2VL_H

#include "reader/family.h"

typedef struct {
    decoder_config text;
    /* the vision tower: E wide, ratio * E feed-forward */
    int            depth, E, heads, ratio, patch, merge, temporal;
    int32_t        image_id;
    int            max_tokens;
} qwen2vl_config;

/* Sizes from config.json in any of its spellings, and the embedding's rows from the file itself. ERR_FILE names
 * the member. */
bool qwen2vl_config_open(qwen2vl_config *out, const model_files *f, err *e);
/* The decoder's alone, but for V. */
bool qwen2vl_sizes(decoder_config *out, const json_t *config, const char *config_name, err *e);

#endif
