/* generation_config.h - which tokens end an answer: generation_config.json of the checkpoint, and the end of an
 * assistant's turn that the family knows. The file's sampling settings are not read: an answer here is the
 * likeliest, or what a beam search finds.
 * TRAP: neither is its repetition_penalty (1.05 in the first release of Qwen2-VL): a penalty is asked for or there
 * is none. Internal to reader/. */
#ifndef JOMED_READER_GENERATION_CONFIG_H
#define JOMED_READER_GENERATION_CONFIG_H

#include <stdint.h>
#include "base/err.h"

enum { MAX_END_IDS = 16 };

typedef struct {
    int32_t end[MAX_END_IDS]; /* distinct */
    int     n_end;
    int32_t pad;              /* what a branch that has ended goes on with in the reference's mode */
} generation_config;

/* end_id: the family's; V: tokens of the vocabulary. The file may be absent. ERR_FILE: eos_token_id or
 * pad_token_id is no id (eos_token_id: nor a list of ids), or lies outside the vocabulary. */
bool generation_config_open(generation_config *out, const char *dir, int32_t end_id, int V, err *e);
bool generation_ends(const generation_config *c, int32_t id);

#endif
