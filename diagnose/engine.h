/* engine.h - open the two models and the index that answer requests, checked against each other.
 * Order of life: kernels_open (one per worker) -> engine_open -> diagnose ... -> engine_close -> kernels' close. */
#ifndef JOMED_DIAGNOSE_ENGINE_H
#define JOMED_DIAGNOSE_ENGINE_H

#include "diagnose/diagnose.h"

/* OWN: bf16, on a GPU without cuBLASLt. */
typedef enum { PRODUCTS_AUTO, PRODUCTS_F32, PRODUCTS_BF16, PRODUCTS_OWN } products_choice;
bool products_parse(products_choice *out, const char *name); /* "auto", "f32", "bf16", "own" */

typedef struct {
    const char     *reader, *retriever, *index; /* folders; reader NULL: retrieval only; index NULL: neither
                                                   half needs it */
    const char     *device;                     /* "auto", "cpu" */
    products_choice products;                   /* AUTO: f32 for a small reader (exact), bf16 for a large one
                                                   (fast) */
    search_choice   search;                     /* what finds candidates in the index */
    int             threads;                    /* of one kernels; 0: one per core, one alone for small models */
    size_t          cache_bytes, cache_host_bytes; /* of candidate prefixes; see reader.h */
    image_policy    policy;                     /* of the pictures that the reader sees; 0: native */
    float           tau;                        /* of p_R; 0: 1 */
    int64_t         max_pixels;                 /* of a query image; 0: IMAGE_LIMITS */
    reader_adapter  adapter[MAX_ADAPTERS];
    int             n_adapters;
    const char     *use_adapter;                /* of requests that name none; NULL: the base model alone */
    bool            merge_adapter;              /* see reader.h */
} engine_options;

/* One worker's kernels as the options ask. ERR_USAGE: unknown device. */
bool engine_kernels(kernels **out, const engine_options *o, err *e);
/* What products will be used for this reader folder: "auto" looks at the size of its weights. */
precision engine_precision(const engine_options *o);

/* Both models are so small that one thread serves a request best. */
bool engine_small(const engine_options *o);

/* Fill *out; k opens the weights and must outlive it. Refuses an index of another retriever (ERR_FILE). */
bool engine_open(engine *out, const engine_options *o, kernels *k, err *e);
void engine_close(engine *en); /* a zeroed or half-opened one is fine */

#endif
