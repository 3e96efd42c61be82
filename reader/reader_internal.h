/* reader_internal.h - the reader's struct, shared by the files of reader/ and by tests of its stages. */
#ifndef JOMED_READER_INTERNAL_H
#define JOMED_READER_INTERNAL_H

#include "base/sha256.h"
#include "reader/family.h"
#include "reader/prefix_cache.h"
#include "reader/reader.h"

struct reader {
    const family *f;
    model        *m;
    bpe          *tokens;
    safetensors  *file;  /* kept: weights lie in its mapping */
    kernels      *k;     /* that opened the weights */
    prefix_cache *cache;
    char          hash[SHA256_HEX];
};

#endif
