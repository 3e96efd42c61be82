/* manifest.h - manifest.json of an index folder: what was built, by what, and the size and SHA-256 of every file.
 *   {"format": 1, "tool_version": "0.1.0", "created": "2026-01-31T12:00:00.000Z", "retriever_hash": "<64 hex>",
 *    "metric": "inner_product", "dim": 768, "factory": "Flat", "n_passages": 720,
 *    "items": 725, "bad": 3, "duplicates": 2, "merged": 2, "sources": {"roco": 700, "mimic-cxr": 20},
 *    "image_roots": ["/data/roco"], "files": {"image.faiss": {"bytes": 1, "sha256": "<64 hex>"}, ...}}
 * items = n_passages + bad + merged. image_roots is the one place that says where the images lie; after moving
 * them, edit it. */
#ifndef JOMED_INDEX_MANIFEST_H
#define JOMED_INDEX_MANIFEST_H

#include <jansson.h>
#include <stdint.h>
#include "base/err.h"
#include "base/sha256.h"

enum { INDEX_FORMAT = 1 };

/* The files of an index, in the order in which they are checked. */
enum { FILE_PASSAGES, FILE_IMAGE, FILE_TEXT, FILE_REPORT, N_INDEX_FILES };
extern const char *const INDEX_FILE[N_INDEX_FILES]; /* "passages.db", "image.faiss", "text.faiss", "report.jsonl" */
#define MANIFEST_FILE "manifest.json"

typedef struct { int64_t bytes; char sha256[SHA256_HEX]; } manifest_file;

/* Strings belong to json. */
typedef struct {
    json_t     *json;
    char        hash[SHA256_HEX]; /* SHA-256 of manifest.json: the index's identity */
    const char *tool_version, *created, *retriever_hash, *factory;
    int         format, dim, n_roots;
    int64_t     n_passages, items, bad, duplicates, merged;
    const json_t *sources, *roots;
    manifest_file file[N_INDEX_FILES];
} manifest;

/* Fills *m, which ends with manifest_close(). ERR_FILE: no such index, another format, a field missing or of a
 * wrong type. */
bool manifest_open(manifest *m, const char *dir, err *e);
void manifest_close(manifest *m);
const char *manifest_root(const manifest *m, int64_t i); /* NULL: no such root */

/* File i of dir has the size that the manifest says; ERR_FILE otherwise. And, much slower, its checksum. */
bool manifest_check_size(const manifest *m, const char *dir, int i, err *e);
bool manifest_check_sha256(const manifest *m, const char *dir, int i, err *e);

/* Write dir/manifest.json. Measures the files itself: json, hash and file of m are not used. */
bool manifest_write(const manifest *m, const char *dir, err *e);

#endif
