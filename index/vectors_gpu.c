/* vectors_gpu.c - see vectors_gpu.h. Whether FAISS has a GPU part is told by its headers: packages without it leave
 * them out. They include CUDA's, which a build of C files has no path to; so the three functions are declared here,
 * as FAISS has them. */
#include "index/vectors_gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <faiss/c_api/error_c.h>

#include "base/memory.h"

#if __has_include(<faiss/c_api/gpu/GpuAutoTune_c.h>)
FAISS_DECLARE_CLASS(GpuResourcesProvider)
FAISS_DECLARE_CLASS_INHERITED(StandardGpuResources, GpuResourcesProvider)
FAISS_DECLARE_CLASS_INHERITED(GpuIndex, Index)
int  faiss_StandardGpuResources_new(FaissStandardGpuResources **p);
void faiss_StandardGpuResources_free(FaissStandardGpuResources *p);
int faiss_index_cpu_to_gpu(FaissGpuResourcesProvider *provider, int device, const FaissIndex *index,
                           FaissGpuIndex **p);

struct vectors_gpu {
    FaissStandardGpuResources *resources;
    FaissGpuIndex             *index;
    pthread_mutex_t            one; /* the GPU's memory for a search belongs to resources */
};

static bool gpu_ok(int status, const char *what, err_code code, err *e)
{
    if (status == 0) return true;
    const char *why = faiss_get_last_error();
    if (why && strstr(why, "out of memory")) code = ERR_MEMORY;
    return err_set(e, code, "faiss-gpu: %s: %.120s", what, why ? why : "unknown FAISS error");
}

bool vectors_gpu_open(vectors_gpu **out, const FaissIndex *faiss, int device, err *e)
{
    vectors_gpu *g = mem_zalloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_MEMORY, "faiss-gpu: out of memory");
    pthread_mutex_init(&g->one, NULL);
    bool ok = gpu_ok(faiss_StandardGpuResources_new(&g->resources), "FAISS cannot use the GPU", ERR_GPU, e)
              && gpu_ok(faiss_index_cpu_to_gpu(g->resources, device, faiss, &g->index),
                        "this index cannot go to the GPU", ERR_GPU, e);
    if (ok) *out = g;
    else vectors_gpu_close(g);
    return ok;
}

void vectors_gpu_close(vectors_gpu *g)
{
    if (!g) return;
    faiss_Index_free(g->index);
    if (g->resources) faiss_StandardGpuResources_free(g->resources);
    pthread_mutex_destroy(&g->one);
    free(g);
}

bool vectors_gpu_search(vectors_gpu *g, const float *z, int64_t k, float *score, int64_t *id, err *e)
{
    pthread_mutex_lock(&g->one);
    bool ok = gpu_ok(faiss_Index_search(g->index, 1, z, k, score, id), "search failed", ERR_GPU, e);
    pthread_mutex_unlock(&g->one);
    return ok;
}

#else
bool vectors_gpu_open(vectors_gpu **out, const FaissIndex *faiss, int device, err *e)
{
    (void)out, (void)faiss, (void)device;
    return err_at(e, ERR_USAGE, NULL, "search",
                  "search: faiss-gpu: the FAISS of this build has no GPU part; take exact (with a "
                  "GPU) or faiss");
}

void vectors_gpu_close(vectors_gpu *g) { (void)g; }

bool vectors_gpu_search(vectors_gpu *g, const float *z, int64_t k, float *score, int64_t *id, err *e)
{
    (void)g, (void)z, (void)k, (void)score, (void)id;
    return err_set(e, ERR_BUG, "faiss-gpu: not in this build");
}
#endif
