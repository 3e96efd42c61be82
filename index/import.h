/* import.h - data sets as streams of (image, caption) items for the index builder. One file per layout: import_*.c.
 *   JSONL     JOMED's: img_path, text, id, dataset_source; also study, patient, license   [specs/jomed.md 8.1]
 *   MEDMNIST  FILE.npz and a JSON of captions per label: item i with label y gets captions[y][i mod n]
 *   ROCO      a folder with captions.txt (ID, tab, caption), images/ and, where there, licences.txt
 *   PMC_OA    pmc_oa.jsonl (image, caption) and a folder of images
 *   MIMIC     MIMIC-CXR-JPG: frontal views, caption = FINDINGS section of the study's report
 * Items come in a fixed order; the image is only named here, image_store reads it.
 * Threads  one importer, one thread. */
#ifndef JOMED_INDEX_IMPORT_H
#define JOMED_INDEX_IMPORT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "imaging/image.h"

typedef enum { SOURCE_JSONL, SOURCE_MEDMNIST, SOURCE_ROCO, SOURCE_PMC_OA, SOURCE_MIMIC, N_SOURCE_KINDS } source_kind;
extern const char *const SOURCE_KIND[N_SOURCE_KINDS]; /* "jsonl", "medmnist", "roco", "pmc-oa", "mimic" */

/* What the command line says about one source; NULL where it says nothing. Borrowed until the importer is closed. */
typedef struct {
    source_kind kind;
    const char *path;     /* the file, or the folder of ROCO and MIMIC */
    const char *images;   /* folder that image paths start from; default: the file's folder, the folder itself */
    const char *split;    /* MEDMNIST: "train" by default */
    const char *captions; /* MEDMNIST: required */
    const char *reports;  /* MIMIC: folder of the reports' files/; default: path */
    const char *name;     /* name of the source where items carry none; default: by kind or file name */
} import_source;

typedef struct {
    const char *label;  /* where it stands, for the report: "line 17", "train/3" */
    const char *reason; /* not NULL: the item cannot be used, and why; the rest may be missing */
    const char *source, *source_id, *caption, *study, *patient, *license;
    const char *image;  /* path below the root, or FILE.npz#SPLIT/ROW */
} import_item;

typedef struct importer importer;
struct importer {
    /* The next item, whose strings live in a; *end instead when there is none. false: the source itself cannot
     * be read. */
    bool (*next)(importer *im, import_item *out, bool *end, arena *a, err *e);
    double (*done)(const importer *im); /* share of the source that was given, 0..1 */
    void (*close)(importer *im);
    const char *root; /* absolute; kept by the importer */
};

/* Gives *out, ended by importer_close(). ERR_FILE: what is missing; ERR_USAGE: what the source must be given. */
bool importer_open(importer **out, const import_source *s, err *e);
void importer_close(importer *im); /* NULL is fine */

/* ---- For the importers ---- */

bool import_jsonl_open(importer **out, const import_source *s, err *e);
bool import_medmnist_open(importer **out, const import_source *s, err *e);
bool import_roco_open(importer **out, const import_source *s, err *e);
bool import_pmcoa_open(importer **out, const import_source *s, err *e);
bool import_mimic_open(importer **out, const import_source *s, err *e);

/* Absolute path of dir; gives *out (free()). ERR_FILE. */
bool import_root(char **out, const char *dir, err *e);
/* Absolute path of the folder that file lies in; gives *out (free()). */
bool import_folder_of(char **out, const char *file, err *e);
/* Where the image lies below root: path itself, or what is left of an absolute path that starts with root.
 * NULL: outside. */
const char *import_below(const char *root, const char *path);
/* The caption of MIMIC-CXR: text between "FINDINGS:" and the next of "IMPRESSION:" and its like, white space
 * collapsed. NULL with *why: the report has none. Exposed for tests. */
bool mimic_findings(const char **out, const char **why, const char *report, arena *a, err *e);

/* ---- Images ---- */

typedef struct image_store image_store;
image_store *image_store_new(void); /* NULL: out of memory. Keeps a few .npz arrays open */
void image_store_free(image_store *s);

typedef struct {
    image          pixels;
    const uint8_t *bytes; /* of the file; of an .npz item its PNG */
    size_t         n;
    bool           is_file;
} stored_image;
/* Read and decode the image that ref names below root; all lives in a. Errors of the image or its file, or
 * ERR_MEMORY. */
bool image_store_load(image_store *s, const char *root, const char *ref, stored_image *out, arena *a, err *e);

#endif
