#include "retriever/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { MAX_NAME = 256 };

struct opened_weight {
    weight      w;
    float      *wide; /* f32 copy of a 16-bit tensor that w points into; NULL: w points into the file, or owns
                         its data */
    const char *name;
};

static bool find(weights *ws, const tensor **out, const int64_t *dims, err *e, const char *fmt, va_list ap)
{
    char name[MAX_NAME];
    if (vsnprintf(name, sizeof name, fmt, ap) >= (int)sizeof name)
        return err_set(e, ERR_BUG, "a tensor's name is too long");
    return safetensors_need(ws->file, out, name, dims, e);
}

bool weights_find(weights *ws, const tensor **out, const int64_t *dims, err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    bool ok = find(ws, out, dims, e, fmt, ap);
    va_end(ap);
    return ok;
}

static bool room(weights *ws, err *e)
{
    if (ws->n < ws->cap) return true;
    int                   cap = ws->cap ? 2 * ws->cap : 64;
    struct opened_weight *more = mem_realloc(ws->open, (size_t)cap * sizeof *more);
    if (!more) return err_set(e, ERR_MEMORY, "retriever weights: out of memory");
    ws->open = more;
    ws->cap = cap;
    return true;
}

bool weights_open_rows(weights *ws, weight *out, const tensor *t, int64_t first, int64_t rows, int64_t cols, err *e)
{
    tensor view = *t;
    view.n_dims = 2;
    view.dim[0] = rows;
    view.dim[1] = cols;
    view.count = rows * cols;
    view.data = (const char *)t->data + (size_t)(first * cols) * dtype_bytes(t->type);
    if (first + rows > t->count / cols) return err_set(e, ERR_BUG, "%s: %s: rows past the end", t->file, t->name);
    if (!room(ws, e)) return false;

    float *wide = NULL;
    if (t->type != DTYPE_F32) {
        wide = mem_aligned(64, (size_t)view.count * sizeof *wide);
        if (!wide) return err_set(e, ERR_MEMORY, "%s: %s: out of memory", t->file, t->name);
        dtype_widen(wide, view.data, t->type, (size_t)view.count);
        view.data = wide;
        view.type = DTYPE_F32;
    }
    struct opened_weight *o = &ws->open[ws->n];
    *o = (struct opened_weight){.name = t->name};
    if (!ws->k->weight_open(ws->k, &o->w, &view, rows, cols, e)) {
        free(wide);
        return false;
    }
    if (o->w.owned) free(wide); /* the device has its own copy */
    else o->wide = wide;
    ws->n++;
    *out = o->w;
    return true;
}

bool weights_host(weights *ws, float *out, const int64_t *dims, err *e, const char *fmt, ...)
{
    const tensor *t;
    va_list       ap;
    va_start(ap, fmt);
    bool ok = find(ws, &t, dims, e, fmt, ap);
    va_end(ap);
    if (!ok || !room(ws, e)) return false;
    dtype_widen(out, t->data, t->type, (size_t)t->count);
    ws->open[ws->n++] = (struct opened_weight){.name = t->name};
    return true;
}

bool weights_vector(weights *ws, weight *out, int64_t n, err *e, const char *fmt, ...)
{
    const tensor *t;
    va_list       ap;
    va_start(ap, fmt);
    bool ok = find(ws, &t, (int64_t[]){n, -1}, e, fmt, ap);
    va_end(ap);
    return ok && weights_open_rows(ws, out, t, 0, 1, n, e);
}

bool weights_matrix(weights *ws, weight *out, int64_t rows, int64_t cols, err *e, const char *fmt, ...)
{
    const tensor *t;
    va_list       ap;
    va_start(ap, fmt);
    bool ok = find(ws, &t, (int64_t[]){rows, cols, -1}, e, fmt, ap);
    va_end(ap);
    return ok && weights_open_rows(ws, out, t, 0, rows, cols, e);
}

static bool was_opened(const weights *ws, const char *name)
{
    for (int i = 0; i < ws->n; i++)
        if (strcmp(ws->open[i].name, name) == 0) return true;
    return false;
}

bool weights_all_read(const weights *ws, const char *prefix, bool (*ignore)(const char *name), err *e)
{
    for (int i = 0; i < safetensors_count(ws->file); i++) {
        const tensor *t = safetensors_at(ws->file, i);
        if (strncmp(t->name, prefix, strlen(prefix)) != 0 || was_opened(ws, t->name) || ignore(t->name)) continue;
        return err_set(e, ERR_FILE, "%s: %s: not a tensor of this model (is it another version of jina-clip?)",
                       t->file, t->name);
    }
    return true;
}

void weights_close(weights *ws)
{
    for (int i = 0; i < ws->n; i++) {
        if (ws->open[i].w.data) ws->k->weight_close(ws->k, &ws->open[i].w); /* none: weights_host() */
        free(ws->open[i].wide);
    }
    free(ws->open);
    *ws = (weights){0};
}
