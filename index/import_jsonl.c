/* import_jsonl.c - JOMED's index JSONL and PMC-OA's pmc_oa.jsonl: one JSON object a line, which differ in their
 * names.
 *   JOMED   {"img_path": "a/b.png" or "FILE.npz#train/12", "text": "...", "id": 3, "dataset_source": "roco",
 *            "study": "...", "patient": "...", "license": "..."}; the last three and id may be missing
 *   PMC-OA  {"image": "PMC212319_Fig3_4.jpg", "caption": "...", "pmcid": "PMC212319"}; the article counts as
 *           the study, so that a query from an article can leave out its own figures. Without pmcid it is the
 *           file name up to the first "_". */
#include "index/import.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "index/lines.h"

typedef struct {
    importer im;
    lines   *in;
    char    *root, *name;
    bool     pmc;
} jsonl;

static void jsonl_close(importer *im)
{
    jsonl *j = (jsonl *)im;
    lines_close(j->in);
    free(j->root);
    free(j->name);
    free(j);
}

static double jsonl_done(const importer *im) { return lines_done(((const jsonl *)im)->in); }

/* A member that must be text (or, for keys, may be an integer), copied into a. False: it has another type. */
static bool member(const json_t *o, const char *name, const char **out, arena *a, err *e)
{
    const json_t *v = json_object_get(o, name);
    *out = NULL;
    if (!v || json_is_null(v)) return true;
    if (json_is_string(v)) *out = arena_strndup(a, json_string_value(v), json_string_length(v), e);
    else if (json_is_integer(v)) *out = arena_printf(a, e, "%lld", (long long)json_integer_value(v));
    return *out != NULL;
}

static bool read_jomed(jsonl *j, const json_t *o, import_item *it, const char **path, arena *a, err *e)
{
    bool ok = member(o, "img_path", path, a, e) && member(o, "text", &it->caption, a, e) &&
              member(o, "id", &it->source_id, a, e) && member(o, "dataset_source", &it->source, a, e) &&
              member(o, "study", &it->study, a, e) && member(o, "patient", &it->patient, a, e) &&
              member(o, "license", &it->license, a, e);
    if (ok && !it->source) it->source = j->name;
    if (ok && (!*path || !it->caption)) it->reason = "img_path or text is missing";
    return ok;
}

static bool read_pmc(jsonl *j, const json_t *o, import_item *it, const char **path, arena *a, err *e)
{
    if (!member(o, "image", path, a, e) || !member(o, "caption", &it->caption, a, e)
        || !member(o, "pmcid", &it->study, a, e))
        return false;
    it->source = j->name;
    it->source_id = *path;
    const char *cut = *path ? strchr(*path, '_') : NULL;
    if (!it->study && cut && strncmp(*path, "PMC", 3) == 0) {
        it->study = arena_strndup(a, *path, (size_t)(cut - *path), e);
        if (!it->study) return false;
    }
    if (!*path || !it->caption) it->reason = "image or caption is missing";
    return true;
}

static bool jsonl_next(importer *im, import_item *out, bool *end, arena *a, err *e)
{
    jsonl      *j = (jsonl *)im;
    char       *s;
    size_t      n;
    bool        too_long;
    import_item it = {0};
    do {
        if (!lines_next(j->in, &s, &n, &too_long, e)) return false;
        if ((*end = s == NULL)) return true;
    } while (n == strspn(s, " \t")); /* empty lines are no items */

    it.label = arena_printf(a, e, "line %lld", (long long)lines_number(j->in));
    if (!it.label) return false;
    json_t *o = too_long ? NULL : json_loadb(s, n, JSON_REJECT_DUPLICATES, NULL);
    if (too_long) it.reason = "the line is too long";
    else if (!json_is_object(o)) it.reason = "not a JSON object";
    else {
        const char *path = NULL;
        bool        ok = j->pmc ? read_pmc(j, o, &it, &path, a, e) : read_jomed(j, o, &it, &path, a, e);
        if (!ok && e->code == ERR_NONE) it.reason = "a field has the wrong type";
        else if (ok && !it.reason && !(it.image = import_below(j->root, path)))
            it.reason = "its image path leaves the images folder";
    }
    json_decref(o);
    *out = it;
    return e->code == ERR_NONE;
}

static bool open_kind(importer **out, const import_source *s, bool pmc, const char *name, err *e)
{
    jsonl *j = mem_zalloc(1, sizeof *j);
    if (!j) return err_set(e, ERR_MEMORY, "%s: out of memory", s->path);
    j->im = (importer){jsonl_next, jsonl_done, jsonl_close, NULL};
    j->pmc = pmc;
    j->name = mem_strdup(s->name ? s->name : name);
    bool ok = j->name || err_set(e, ERR_MEMORY, "%s: out of memory", s->path);
    ok = ok && (s->images ? import_root(&j->root, s->images, e) : import_folder_of(&j->root, s->path, e));
    ok = ok && lines_open(&j->in, s->path, e);
    j->im.root = j->root;
    if (ok) *out = &j->im;
    else jsonl_close(&j->im);
    return ok;
}

bool import_jsonl_open(importer **out, const import_source *s, err *e)
{
    return open_kind(out, s, false, "jsonl", e);
}
bool import_pmcoa_open(importer **out, const import_source *s, err *e)
{
    return open_kind(out, s, true, "pmc-oa", e);
}
