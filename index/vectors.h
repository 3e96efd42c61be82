/* vectors.h - one FAISS index of unit vectors compared by inner product: built from a file of raw rows, opened
 * read-only, searched. The only files that know FAISS are vectors.c and vectors_gpu.c. Passage i is vector i.
 * Threads  vectors_search and vectors_score: any number at once; the rest: one.
 * Memory   FAISS's own, plus the file's pages. */
#ifndef JOMED_INDEX_VECTORS_H
#define JOMED_INDEX_VECTORS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

typedef struct vectors vectors;

/* Gives *out. ERR_FILE names the file: FAISS cannot read it, or another count, dimension or metric than expected.
 * TRAP: FAISS's reader trusts sizes in the file, so the caller compares the file's checksum first. */
bool vectors_open(vectors **out, const char *path, int dim, int64_t n, err *e);
void vectors_close(vectors *v); /* NULL is fine */

/* Search on GPU number `device`, through FAISS, from now on. ERR_USAGE: its GPU part is not in this build.
 * ERR_MEMORY, ERR_GPU. */
bool vectors_to_gpu(vectors *v, int device, err *e);
void vectors_from_gpu(vectors *v);
bool vectors_on_gpu(const vectors *v);

/* The best by FAISS's own scores, best first, ids below 0 behind them where it found fewer than k; 1 <= k <= n. */
bool vectors_search(const vectors *v, const float *z, int64_t k, float *score, int64_t *id, err *e);

/* True when rows are stored as they were added, so that vectors_score() can be used. */
bool vectors_exact(const vectors *v);
/* Inner product of z and row id, summed in double in order of the components: the same whatever FAISS did. */
float vectors_score(const vectors *v, const float *z, int64_t id);
/* Stored row, or NULL where rows are not stored as added. Lives as long as v. */
const float *vectors_row(const vectors *v, int64_t id);

/* Check that FAISS understands an index_factory string; ERR_USAGE holds what it said. */
bool vectors_factory_check(const char *factory, int dim, err *e);

typedef struct {
    const char *factory;          /* FAISS index_factory string */
    int         dim;
    int64_t     n;
    const char *what;             /* for notes: "image" */
    /* A line about what begins and how much memory it wants; and whether to stop. NULL ctx is passed on. */
    void (*note)(void *ctx, const char *line);
    bool (*stop)(void *ctx);
    void *ctx;
} vectors_plan;

/* Train (where the factory wants it), add all rows of raw ([n,dim] f32) and write path, synced to disk.
 * One thread and fixed samples: the same rows give the same bytes. *stopped: stop() said so and nothing was
 * written. */
bool vectors_build(const vectors_plan *p, const float *raw, const char *path, bool *stopped, err *e);

#endif
