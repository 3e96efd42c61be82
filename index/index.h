/* index.h - the retrieval index: a folder of passages (SQLite) and two FAISS indexes, opened read-only.
 * Layout: design.md section 7, docs/DESIGN.md. A passage is an (image, caption) pair with its origin.
 * Search is by inner product of unit vectors; equal scores go by the lower id, exactly: the search over-fetches until
 * the score drops, and scores are recomputed from the stored vectors in one fixed order where the index keeps
 * them. So what finds the candidates, FAISS or a device's own search of rounded vectors, shows in no result of
 * an exact index.
 * Threads  one passage_index may be searched by many threads at once, each with its own kernels. */
#ifndef JOMED_INDEX_INDEX_H
#define JOMED_INDEX_INDEX_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "imaging/image.h"
#include "kernels/kernels.h"

typedef enum { HEAD_IMAGE, HEAD_TEXT, N_HEADS } head;
extern const char *const HEAD_NAME[N_HEADS]; /* "image", "text" */

typedef struct passage_index passage_index;

/* What manifest.json says; strings are kept by the index. */
typedef struct {
    const char *dir, *retriever_hash, *factory, *tool_version, *created, *hash; /* hash: SHA-256 of manifest.json */
    int         format, dim;
    int64_t     n_passages;
} index_info;

/* Gives *out. retriever_hash may be NULL (not compared). ERR_FILE names what is wrong and how to mend it: no
 * manifest, another format, another retriever, counts or dimensions that differ, a corrupt FAISS file, an empty
 * index. */
bool index_open(passage_index **out, const char *dir, const char *retriever_hash, err *e);
void index_close(passage_index *ix); /* NULL is fine */
const index_info *index_describe(const passage_index *ix);

/* What finds the candidates: FAISS as the index was built, FAISS on a GPU, or all vectors on the device in f16.
 * AUTO: EXACT where the device can and the index keeps its rows, else FAISS. */
typedef enum { SEARCH_AUTO, SEARCH_FAISS, SEARCH_FAISS_GPU, SEARCH_EXACT } search_choice;
bool search_parse(search_choice *out, const char *name); /* "auto", "faiss", "faiss-gpu", "exact" */

/* Before the first search, or again between two. k uploads the vectors where the device searches; it must
 * outlive the index, and the kernels of searches must be of its device. ERR_USAGE: this build, device or index
 * has no such search, and what to do. ERR_MEMORY. */
bool index_use(passage_index *ix, search_choice how, kernels *k, err *e);
const char *index_searcher(const passage_index *ix); /* as search_parse() takes it, never "auto" */

/* Passages that a query must not find. A NULL member excludes nothing. */
typedef struct {
    const char    *study, *patient; /* keys as stored */
    const uint8_t *image_sha256;    /* [32] of the decoded pixels, as image_hash() gives: a query never finds
                                       itself */
} exclusion;

/* The k best passages of one head, best first; fewer where the index has fewer. hits live in a. kern: the
 * caller's, for a search on the device; NULL is fine where index_use() was not asked for one. */
typedef struct { int n; int64_t *id; float *score; } hits;
bool index_search(passage_index *ix, kernels *kern, head h, const float *z, int k, const exclusion *x, hits *out,
                  arena *a, err *e);

typedef struct {
    int64_t     id;
    const char *source, *caption, *study, *patient, *license; /* NULL where the source gave none */
    char        image_sha256[65];
} passage;
/* ERR_NOT_FOUND passage-unknown. Strings live in a. */
bool index_passage(passage_index *ix, int64_t id, passage *out, arena *a, err *e);
/* The image's bytes (PNG or JPEG) as stored or read from its file; live in a.
 * ERR_FILE passage-image-missing: names the passage id and the file. */
bool index_passage_image(passage_index *ix, int64_t id, const uint8_t **bytes, size_t *n, media_type *type,
                         arena *a, err *e);

#endif
