/* import_medmnist.c - MedMNIST: FILE.npz with SPLIT_images [N,H,W] or [N,H,W,3] and SPLIT_labels [N] or [N,1],
 * and a JSON file of captions per label, {"0": ["...", "..."], "1": [...]}: item i with label y gets
 * captions[y][i mod n]. */
#include "index/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "index/npz.h"

typedef struct {
    importer   im;
    npz_array *labels;
    json_t    *captions;
    char      *root, *file, *split, *name; /* file: below root */
    int64_t    i, n;
} medmnist;

static void medmnist_close(importer *im)
{
    medmnist *m = (medmnist *)im;
    npz_close(m->labels);
    json_decref(m->captions);
    free(m->root);
    free(m->file);
    free(m->split);
    free(m->name);
    free(m);
}

static double medmnist_done(const importer *im)
{
    const medmnist *m = (const medmnist *)im;
    return m->n ? (double)m->i / (double)m->n : 1;
}

static bool medmnist_next(importer *im, import_item *out, bool *end, arena *a, err *e)
{
    medmnist *m = (medmnist *)im;
    uint64_t  row;
    char      key[24];
    *out = (import_item){.source = m->name};
    if ((*end = m->i == m->n)) return true;
    if (!npz_row(m->labels, m->i, &row, e)) return false;
    snprintf(key, sizeof key, "%lld", (long long)npy_int(npz_shape(m->labels), &row, 0));
    const json_t *texts = json_object_get(m->captions, key);
    size_t        n = json_array_size(texts);
    const char   *text = n ? json_string_value(json_array_get(texts, (size_t)m->i % n)) : NULL;

    out->source_id = out->label = arena_printf(a, e, "%s/%lld", m->split, (long long)m->i);
    out->image = arena_printf(a, e, "%s#%s/%lld", m->file, m->split, (long long)m->i);
    m->i++;
    if (!out->label || !out->image) return false;
    if (!text) {
        out->reason = arena_printf(a, e, "the captions file has no text for label %s", key);
        return out->reason != NULL;
    }
    out->caption = arena_strdup(a, text, e);
    return out->caption != NULL;
}

static bool copy_names(medmnist *m, const import_source *s, err *e)
{
    const char *slash = strrchr(s->path, '/');
    m->file = mem_strdup(slash ? slash + 1 : s->path);
    m->split = mem_strdup(s->split ? s->split : "train");
    m->name = m->file ? mem_strdup(s->name ? s->name : m->file) : NULL;
    if (!m->file || !m->split || !m->name) return err_set(e, ERR_MEMORY, "%s: out of memory", s->path);
    char *dot = strrchr(m->name, '.');
    if (!s->name && dot && dot != m->name) *dot = 0;
    size_t n = strlen(m->file);
    if (n < 5 || strcmp(m->file + n - 4, ".npz") != 0)
        return err_set(e, ERR_USAGE, "%s: a MedMNIST file ends in .npz", s->path);
    return true;
}

/* The arrays must belong together before the first item is made. */
static bool check_arrays(medmnist *m, const import_source *s, err *e)
{
    char       name[128];
    npz_array *images = NULL;
    if (snprintf(name, sizeof name, "%s_labels", m->split) >= (int)sizeof name)
        return err_set(e, ERR_USAGE, "%s: no such split", s->path);
    if (!npz_open(&m->labels, s->path, name, e)) return false;
    const npy_shape *l = npz_shape(m->labels);
    if (l->n_dims > 2 || (l->n_dims == 2 && l->dim[1] != 1))
        return err_set(e, ERR_FILE, "%s: %s is not one label an item ([N] or [N,1])", s->path, name);
    snprintf(name, sizeof name, "%s_images", m->split);
    if (!npz_open(&images, s->path, name, e)) return false;
    m->n = npz_shape(images)->dim[0];
    npz_close(images);
    if (m->n != l->dim[0])
        return err_set(e, ERR_FILE, "%s: %lld images but %lld labels", s->path, (long long)m->n,
                       (long long)l->dim[0]);
    return true;
}

bool import_medmnist_open(importer **out, const import_source *s, err *e)
{
    if (!s->captions) return err_set(e, ERR_USAGE, "--medmnist %s: needs --captions FILE.json", s->path);
    medmnist *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "%s: out of memory", s->path);
    m->im = (importer){medmnist_next, medmnist_done, medmnist_close, NULL};
    bool ok = copy_names(m, s, e) && import_folder_of(&m->root, s->path, e) && check_arrays(m, s, e) &&
              json_open(&m->captions, s->captions, e) &&
              (json_is_object(m->captions) ||
               err_set(e, ERR_FILE, "%s: not an object of captions per label", s->captions));
    m->im.root = m->root;
    if (ok) *out = &m->im;
    else medmnist_close(&m->im);
    return ok;
}
