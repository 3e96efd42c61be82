/* vectors_gpu.h - a FAISS index on a GPU, where the FAISS of this build has that part. Internal to index/.
 * Threads  any number at once; they wait for each other, since FAISS's GPU indexes serve one at a time. */
#ifndef JOMED_INDEX_VECTORS_GPU_H
#define JOMED_INDEX_VECTORS_GPU_H

#include <stdint.h>
#include <faiss/c_api/Index_c.h>
#include "base/err.h"

typedef struct vectors_gpu vectors_gpu;

/* A copy of faiss on GPU number `device`. Gives *out. ERR_USAGE: FAISS has no GPU part here. ERR_MEMORY, ERR_GPU:
 * FAISS's own words. */
bool vectors_gpu_open(vectors_gpu **out, const FaissIndex *faiss, int device, err *e);
void vectors_gpu_close(vectors_gpu *g); /* NULL is fine */

enum { VECTORS_GPU_MOST = 1024 }; /* results of one search; FAISS's limit is 1,024 on old devices and 2,048 on
                                     others */
bool vectors_gpu_search(vectors_gpu *g, const float *z, int64_t k, float *score, int64_t *id, err *e);

#endif
