/* passages.h - the passages of an index: one SQLite file, written by the builder, read-only when serving.
 *   passages  one row a passage: id 0..n-1 in input order, where it came from, caption, keys, and its image
 *   images    the image's bytes, where the index carries them (.npz items, --embed-images)
 *   merged    duplicates that --dedupe left out, with their keys, so that excluding their study still works
 *   build     one row: arguments and progress of the build (build.c)
 * Threads  reading: any number at once (SQLite's serialised mode; every call prepares its own statement);
 *          writing: one. */
#ifndef JOMED_INDEX_PASSAGES_H
#define JOMED_INDEX_PASSAGES_H

#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "imaging/image.h"

typedef struct passages passages;

/* A row. NULL and -1: the source has none. */
typedef struct {
    int64_t        id;
    const char    *source, *source_id, *caption, *study, *patient, *license;
    int64_t        root;         /* place in the manifest's image_roots, or -1: the bytes are in images */
    const char    *image_path;   /* below the root; for .npz items FILE#split/row, to say where it came from */
    int64_t        image_bytes;  /* size of the encoded image */
    uint8_t        image_sha256[32];
    const uint8_t *embedded;     /* with root -1 */
} passage_row;

/* Read-only; the file must not change while open. ERR_FILE names it. */
bool passages_open(passages **out, const char *path, err *e);
/* For building: makes the file where it is missing. */
bool passages_create(passages **out, const char *path, err *e);
void passages_close(passages *p); /* NULL is fine; an open transaction is rolled back */

/* ---- Reading ---- */
bool passages_count(passages *p, int64_t *n, err *e);   /* by the largest id; quick */
/* Full check for `index verify`: SQLite's own, and that ids are 0..n-1. *problem (in a) is NULL when all is well. */
bool passages_check(passages *p, int64_t n, const char **problem, arena *a, err *e);
/* *found false: no such id. Strings, and embedded where bytes is true, live in a. */
bool passages_get(passages *p, int64_t id, bool bytes, passage_row *out, bool *found, arena *a, err *e);

/* Asks many ids about one set of keys: is this passage excluded? NULL keys exclude nothing. */
typedef struct key_query key_query;
bool key_query_open(key_query **out, passages *p, const char *study, const char *patient,
                    const uint8_t *image_sha256, err *e);
bool key_query_excludes(key_query *q, int64_t id, bool *yes, err *e);
void key_query_close(key_query *q); /* NULL is fine */

/* ---- Building: all between two commits is one transaction ---- */
bool passages_begin(passages *p, err *e);
bool passages_commit(passages *p, err *e);
bool passages_add(passages *p, const passage_row *r, err *e);
bool passages_add_merged(passages *p, int64_t into, const passage_row *r, err *e);
/* The first passage with these pixels and this caption, or -1. */
bool passages_find_duplicate(passages *p, const uint8_t image_sha256[32], const char *caption, int64_t *id, err *e);

/* How far a build has come: everything needed to continue it. */
typedef struct {
    int64_t source, item;                /* the next item of this source */
    int64_t items, bad, duplicates, merged;
    int64_t report_bytes;
} build_state;
/* arguments of the build, "" and zeros in a new file; the string lives in a. */
bool passages_build_load(passages *p, const char **arguments, build_state *s, arena *a, err *e);
bool passages_build_save(passages *p, const char *arguments /* NULL: unchanged */, const build_state *s, err *e);
/* Passages per source, in order of the first: calls each(ctx, source, n); false from it ends with its error. */
bool passages_sources(passages *p, bool (*each)(void *ctx, const char *source, int64_t n, err *e), void *ctx, err *e);

#endif
