/* bpe_impl.h - what bpe_open.c fills from tokenizer.json and bpe.c runs. */
#ifndef JOMED_READER_BPE_IMPL_H
#define JOMED_READER_BPE_IMPL_H

#include "reader/bpe.h"
#include "reader/bpe_tables.h"
#include "reader/split.h"

enum { BPE_MAX_STAGES = 8, BPE_MAX_POST = 8 };

typedef struct { char *content; size_t len; int32_t id; bool special; } added_token;

/* One step of the pre-tokenizer: put a space in front where there is none, or cut at the matches of a pattern. */
typedef struct {
    split *pattern;  /* NULL: the space */
    bool   keep_match, keep_gap;
} bpe_stage;

struct bpe {
    bpe_tables   tables;
    bool         nfc, ignore_merges;
    added_token *added;       /* [n_added] in byte order of the contents */
    int          n_added;
    int32_t     *added_by_id; /* [tables.n_ids] index into added; -1: none */
    bpe_stage    stage[BPE_MAX_STAGES];
    int          n_stages;
    int32_t      head[BPE_MAX_POST], tail[BPE_MAX_POST]; /* what the post-processor puts around */
    int          n_head, n_tail;
};

#endif
