/* bpe_impl.h - what bpe_open.c fills from tokenizer.json and bpe.c runs. */
#ifndef JOMED_READER_BPE_IMPL_H
#define JOMED_READER_BPE_IMPL_H

#include "base/pieces.h"
#include "base/tokenizer_json.h"
#include "reader/bpe.h"
#include "reader/bpe_merge.h"
#include "reader/split.h"

enum { BPE_MAX_STAGES = 8 };

/* One step of the pre-tokenizer: cut at the matches of a pattern, or put a space in front where there is
 * none. */
typedef struct {
    split *pattern; /* NULL: the space */
    bool   keep_match, keep_gap;
} bpe_stage;

struct bpe {
    pieces       pieces;  /* in bytes, not in the file's alphabet */
    merge_table  merges;
    int32_t      byte_id[256];
    bool         nfc, ignore_merges;
    added_tokens added;
    int32_t     *added_by_id; /* [pieces.n_ids] index into added; -1: none */
    bpe_stage    stage[BPE_MAX_STAGES];
    int          n_stages;
    post_tokens  post;
};

#endif
