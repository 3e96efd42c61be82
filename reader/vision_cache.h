/* vision_cache.h - vision tokens of the last query pictures, so that several questions about one picture run the
 * tower once. They depend on (pixels, policy, adapter) alone, so a request has the same bits with or without.
 *
 *   take -> the picture is there: its tokens
 *        -> it is not: the least recently used place is filled with it
 *
 * One worker's own: a cache shared by all would need a lock and references, and workers that divide questions by
 * picture, as eval does, have nothing to share. A server's do not divide them: a second question about a picture finds
 * it where the worker that takes it had the first. Requests that are read together run their towers in one pass,
 * without a cache.
 * Memory   two places of at most 32 MiB, taken when first filled. A picture that needs more, or finds no memory, is no
 *          error: the caller computes in scratch, to the same bits.
 * Privacy  what is kept are tokens and the hash of the pixels, never the picture; the worker's next pictures overwrite
 *          them, and vision_cache_free() frees them.
 *
 * Threads  one at a time, always with the same kernels. Internal to reader/ but for what reader.h has of it. */
#ifndef JOMED_READER_VISION_CACHE_H
#define JOMED_READER_VISION_CACHE_H

#include "reader/decoder.h"
#include "reader/reader.h"

/* Fills tokens; false: e is set, and nothing is kept. */
typedef bool (*vision_fill)(void *ctx, act *tokens, err *e);

/* Room for n activations of img's vision tokens, filled now or kept from an earlier request. *out is valid until
 * the cache is asked for another picture. *out NULL: no room for it, nothing was filled. */
bool vision_cache_take(vision_cache *c, kernels *k, const image *img, image_policy policy, int adapter, size_t n,
                       vision_fill fill, void *ctx, act **out, err *e);

#endif
