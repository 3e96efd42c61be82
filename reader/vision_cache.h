/* vision_cache.h - vision tokens of the last query pictures, so that several questions about one picture run the
 * tower once. They depend on (pixels, policy, adapter) alone, so a request has the same bits with or without.
 *
 *   take -> the picture is there: its tokens
 *        -> it is not: the least recently used place is filled with it
 *
 * One worker's own: a cache shared by all would need a lock and references, and workers that divide questions by
 * picture, as eval does, have nothing to share. No memory is not an error: the caller computes in scratch, to the
 * same bits.
 *
 * Threads  one at a time, always with the same kernels. Internal to reader/ but for what reader.h has of it. */
#ifndef JOMED_READER_VISION_CACHE_H
#define JOMED_READER_VISION_CACHE_H

#include "reader/decoder.h"
#include "reader/reader.h"

/* Fills tokens; false: e is set, and nothing is kept. */
typedef bool (*vision_fill)(void *ctx, act *tokens, err *e);

/* Room for n activations of img's vision tokens, filled now or kept from an earlier request. *out is valid until
 * the cache is asked for another picture. *out NULL: no memory for it, nothing was filled. */
bool vision_cache_take(vision_cache *c, kernels *k, const image *img, image_policy policy, int adapter, size_t n,
                       vision_fill fill, void *ctx, act **out, err *e);

#endif
