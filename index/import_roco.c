/* import_roco.c - ROCO [Pelka et al. 2018]: a folder (data/train/radiology and its like) with
 *   captions.txt   "ROCO_00020<TAB> Axial computed tomography ..."
 *   licences.txt   "ROCO_ID,PMC_ID,CC" with "ROCO_00020,PMC3970251_CRIONM2014-931546.003.jpg,CC BY"; may be missing
 *   images/        by the name in licences.txt (what the project's fetch script writes), or ROCO_00020.jpg
 * The article (PMC3970251) counts as the study. Many images are no longer to be had, so missing ones are ordinary. */
#include "index/import.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "index/lines.h"

typedef struct { char *id, *image, *license; } figure; /* pointers into one line, which id owns */

typedef struct {
    importer im;
    lines   *in;
    char    *root, *name;
    figure  *figures; /* sorted by id */
    size_t   n_figures, cap;
} roco;

static void roco_close(importer *im)
{
    roco *r = (roco *)im;
    lines_close(r->in);
    for (size_t i = 0; i < r->n_figures; i++) free(r->figures[i].id);
    free(r->figures);
    free(r->root);
    free(r->name);
    free(r);
}

static double roco_done(const importer *im) { return lines_done(((const roco *)im)->in); }

static int by_id(const void *a, const void *b) { return strcmp(((const figure *)a)->id, ((const figure *)b)->id); }

static bool add_figure(roco *r, const char *line, err *e)
{
    char *field[4], *copy;
    if (r->n_figures == r->cap) {
        size_t  cap = r->cap ? r->cap * 2 : 1024;
        figure *more = mem_realloc(r->figures, cap * sizeof *more);
        if (!more) return err_set(e, ERR_MEMORY, "licences.txt: out of memory");
        r->figures = more;
        r->cap = cap;
    }
    if (!(copy = mem_strdup(line))) return err_set(e, ERR_MEMORY, "licences.txt: out of memory");
    if (csv_split(copy, field, 4) == 3 && strncmp(copy, "ROCO_ID", 7) != 0) {
        r->figures[r->n_figures++] = (figure){field[0], field[1], field[2]};
        return true;
    }
    free(copy); /* the header, or a line that says nothing */
    return true;
}

static bool read_licences(roco *r, const char *folder, err *e)
{
    char   path[PATH_MAX], *s;
    size_t n;
    bool   too_long, ok;
    lines *in = NULL;
    if (!path_join(path, sizeof path, folder, "licences.txt", e)) return false;
    if (!file_exists(path)) return true;
    if (!lines_open(&in, path, e)) return false;
    while ((ok = lines_next(in, &s, &n, &too_long, e)) && s && (ok = add_figure(r, s, e))) {}
    lines_close(in);
    if (r->n_figures) qsort(r->figures, r->n_figures, sizeof *r->figures, by_id);
    return ok;
}

/* The figure's line in licences.txt. csv_split leaves id at the start of its allocation unless it was quoted;
 * IDs never are. */
static const figure *find_figure(const roco *r, const char *id)
{
    figure key = {.id = (char *)id};
    return r->n_figures ? bsearch(&key, r->figures, r->n_figures, sizeof key, by_id) : NULL;
}

/* images/NAME from licences.txt, else images/ID.jpg. */
static bool find_image(const roco *r, const figure *f, const char *id, const char **out, arena *a, err *e)
{
    char path[PATH_MAX];
    if (f && strchr(f->image, '/') == NULL) {
        if (!(*out = arena_printf(a, e, "images/%s", f->image)) || !path_join(path, sizeof path, r->root, *out, e))
            return false;
        if (file_exists(path)) return true;
    }
    *out = arena_printf(a, e, "images/%s.jpg", id);
    return *out != NULL;
}

static bool roco_next(importer *im, import_item *out, bool *end, arena *a, err *e)
{
    roco  *r = (roco *)im;
    char  *s, *tab, *text;
    size_t n;
    bool   too_long;
    *out = (import_item){.source = r->name};
    do {
        if (!lines_next(r->in, &s, &n, &too_long, e)) return false;
        if ((*end = s == NULL)) return true;
    } while (n == strspn(s, " \t"));

    out->label = arena_printf(a, e, "line %lld", (long long)lines_number(r->in));
    if (!out->label) return false;
    tab = memchr(s, '\t', n);
    if (too_long || !tab || tab == s || memchr(s, 0, n)) {
        out->reason = too_long ? "the line is too long" : "not of the form ID, tab, caption";
        return true;
    }
    *tab = 0;
    text = tab + 1;
    text += strspn(text, " \t"); /* captions begin with a blank, sometimes two */
    size_t len = strlen(text);
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\t')) len--;

    const figure *f = find_figure(r, s);
    if (!(out->source_id = arena_strdup(a, s, e)) || !(out->caption = arena_strndup(a, text, len, e)) ||
        !find_image(r, f, out->source_id, &out->image, a, e))
        return false;
    if (strchr(out->source_id, '/')) out->reason = "its ID is no file name";
    if (!f) return true;
    const char *cut = strchr(f->image, '_');
    out->license = arena_strdup(a, f->license, e);
    if (!out->license) return false;
    if (cut) out->study = arena_strndup(a, f->image, (size_t)(cut - f->image), e);
    return !cut || out->study;
}

bool import_roco_open(importer **out, const import_source *s, err *e)
{
    char  path[PATH_MAX];
    roco *r = mem_zalloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "%s: out of memory", s->path);
    r->im = (importer){roco_next, roco_done, roco_close, NULL};
    r->name = mem_strdup(s->name ? s->name : "roco");
    bool ok = (r->name || err_set(e, ERR_MEMORY, "%s: out of memory", s->path)) &&
              import_root(&r->root, s->images ? s->images : s->path, e) && read_licences(r, s->path, e) &&
              path_join(path, sizeof path, s->path, "captions.txt", e) && lines_open(&r->in, path, e);
    r->im.root = r->root;
    if (ok) *out = &r->im;
    else roco_close(&r->im);
    return ok;
}
