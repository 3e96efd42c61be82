/* reader_internal.h - the reader's struct, shared by the files of reader/ and by tests of its stages. */
#ifndef JOMED_READER_INTERNAL_H
#define JOMED_READER_INTERNAL_H

#include "base/sha256.h"
#include "reader/family.h"
#include "reader/generation_config.h"
#include "reader/prefix_cache.h"
#include "reader/reader.h"

struct reader {
    const family *f;
    model        *m;
    bpe          *tokens;
    safetensors  *file;  /* kept: weights lie in its mapping */
    kernels      *k;     /* that opened the weights */
    prefix_cache *cache;
    generation_config generation;
    lora         *adapter[MAX_ADAPTERS]; /* kept: their weights lie in their mappings */
    char          adapter_name[MAX_ADAPTERS][MAX_ADAPTER_NAME + 1];
    int           n_adapters;
    bool          merged;
    size_t        merged_bytes;
    char          hash[SHA256_HEX];
};

#endif
