/* build.h - build an index folder from sources of (image, caption) items.
 * The embeddings come from callbacks, so index/ knows no model. The work is done in OUT.partial and appears as
 * OUT by rename:
 *   passages.db          the log of the build: what it says is done is done, the other files are cut to that
 *   image.f32, text.f32  embeddings as they are made, one row a passage; FAISS indexes are made of them at the end
 *   report.jsonl         a line for each item that was skipped, each duplicate, each clipped picture (image.h)
 * A build that was interrupted, by SIGINT or by power, continues at its last checkpoint when it is started with
 * the same arguments. One that came to its end without a passage leaves its report and begins anew.
 * Same input, same embeddings: same ids and the same bytes of image.faiss and text.faiss.
 * Memory  one item at a time, .npz arrays of up to 64 MB, and what FAISS needs for the index at the end (told
 *         beforehand).
 * Threads one build per folder; a second one is refused. */
#ifndef JOMED_INDEX_BUILD_H
#define JOMED_INDEX_BUILD_H

#include <signal.h>
#include "base/arena.h"
#include "imaging/image.h"
#include "index/import.h"

/* z: [dim] f32, the callback fills it with a unit vector. ERR_INPUT, ERR_UNSUPPORTED, ERR_TOO_LARGE and
 * ERR_UNUSABLE mean that this item cannot be embedded and is skipped; any other error ends the build. */
typedef struct {
    bool (*image)(void *ctx, const image *img, float *z, arena *a, err *e);
    bool (*text)(void *ctx, const char *caption, float *z, arena *a, err *e);
    void       *ctx;
    int         dim;
    const char *hash; /* of the model: an index serves only the model it was built with */
} embedder;

typedef struct {
    const char          *out;
    const import_source *sources;      /* in this order */
    int                  n_sources;
    embedder             embed;
    const char          *factory;      /* FAISS index_factory; NULL: "Flat", exact */
    const char          *tool_version;
    bool                 dedupe;       /* leave out items whose pixels and caption are those of an earlier one */
    bool                 embed_images; /* carry the images in passages.db, so that the index can be moved */
    bool                 force;        /* replace an index at out */
    int                  checkpoint;   /* items between checkpoints; 0: 256 */
    const volatile sig_atomic_t *stop; /* not 0: stop after the item at hand; may be NULL */
    bool                 quiet;        /* nothing on stderr */
} build_options;

typedef struct {
    bool    stopped;                                /* by stop: out is not there yet, the checkpoint is */
    int64_t items, passages, bad, duplicates, merged; /* items = passages + bad + merged */
    int64_t resumed_at;                             /* items that an earlier run had done */
} build_counts;

/* Build, or continue a build. ERR_FILE: out exists, a source cannot be read, the partial build has other
 * arguments (which), no item could be used; ERR_USAGE: a bad factory or source; ERR_BUSY: another build works
 * on the folder. */
bool index_build(const build_options *o, build_counts *counts, err *e);

#endif
