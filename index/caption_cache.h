/* caption_cache.h - text embeddings of captions seen lately. Captions repeat: the views of a study share a
 * report, and MedMNIST has a few captions for thousands of images, so half of a build's work would be to embed
 * the same words again. Direct-mapped: a caption has one place, and the last one there stays. Memory: 256
 * captions with their vectors. */
#ifndef JOMED_INDEX_CAPTION_CACHE_H
#define JOMED_INDEX_CAPTION_CACHE_H

#include "base/err.h"

typedef struct caption_cache caption_cache;
caption_cache *caption_cache_new(int dim); /* NULL: out of memory */
void           caption_cache_free(caption_cache *c);
/* Copy the vector of this caption to z; false: not here. */
bool caption_cache_get(const caption_cache *c, const char *caption, float *z);
/* Keep z [dim] for this caption. Out of memory only means that it is not kept. */
void caption_cache_put(caption_cache *c, const char *caption, const float *z);

#endif
