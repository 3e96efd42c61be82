/* pixtral.h - Pixtral's own half of the reader, opened up for the tests of its stages. Internal to reader/. */
#ifndef JOMED_READER_PIXTRAL_H
#define JOMED_READER_PIXTRAL_H

#include "reader/family.h"

typedef struct {
    decoder_config text;
    int            depth, E, heads, F, patch, side; /* the vision tower; side: the most patches that a side may
                                                       have */
    double         theta;
    unit           act, projector_act;
    int32_t        image_id;
    int            max_tokens;
} pixtral_config;

/* Sizes from config.json in any of its spellings. ERR_FILE names the member. */
bool pixtral_config_open(pixtral_config *out, const model_files *f, err *e);
/* The decoder's alone, but for V. */
bool pixtral_sizes(decoder_config *out, const json_t *config, const char *config_name, err *e);

#endif
