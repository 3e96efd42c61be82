#include "reader/linear.h"

#include <stdarg.h>
#include <stdio.h>

enum { MAX_NAME = 256 };

const char *loader_prefix(const safetensors *file, const char *const *prefixes, const char *name)
{
    for (int i = 0; prefixes[i]; i++) {
        char full[MAX_NAME];
        snprintf(full, sizeof full, "%s%s", prefixes[i], name);
        if (safetensors_find(file, full)) return prefixes[i];
    }
    return prefixes[0];
}

/* prefix + formatted name + suffix; all names are ours, so that one too long is our own mistake. */
static bool full_name(char out[MAX_NAME], const loader *l, const char *suffix, err *e, const char *fmt, va_list ap)
{
    int n = snprintf(out, MAX_NAME, "%s", l->prefix);
    if (n < MAX_NAME) n += vsnprintf(out + n, (size_t)(MAX_NAME - n), fmt, ap);
    if (n < MAX_NAME) n += snprintf(out + n, (size_t)(MAX_NAME - n), "%s", suffix);
    return n < MAX_NAME || err_set(e, ERR_BUG, "a tensor's name is too long");
}

static bool load(const loader *l, weight *w, const char *name, const int64_t *dims, int64_t rows, int64_t cols, err *e)
{
    const tensor *t;
    return safetensors_need(l->file, &t, name, dims, e) && l->k->weight_open(l->k, w, t, rows, cols, e);
}

bool load_vector(const loader *l, weight *w, int64_t n, err *e, const char *fmt, ...)
{
    char    name[MAX_NAME];
    va_list ap;
    va_start(ap, fmt);
    bool ok = full_name(name, l, "", e, fmt, ap);
    va_end(ap);
    return ok && load(l, w, name, (int64_t[]){n, -1}, 1, n, e);
}

bool load_matrix(const loader *l, weight *w, int64_t rows, int64_t cols, err *e, const char *fmt, ...)
{
    char    name[MAX_NAME];
    va_list ap;
    va_start(ap, fmt);
    bool ok = full_name(name, l, "", e, fmt, ap);
    va_end(ap);
    return ok && load(l, w, name, (int64_t[]){rows, cols, -1}, rows, cols, e);
}

bool load_linear(const loader *l, linear *x, int64_t rows, int64_t cols, bool bias, err *e, const char *fmt, ...)
{
    char    w[MAX_NAME], b[MAX_NAME];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    bool ok = full_name(w, l, ".weight", e, fmt, ap) && full_name(b, l, ".bias", e, fmt, again);
    va_end(again);
    va_end(ap);
    ok = ok && load(l, &x->w, w, (int64_t[]){rows, cols, -1}, rows, cols, e);
    ok = ok && (!bias || load(l, &x->bias, b, (int64_t[]){rows, -1}, 1, rows, e));
    x->has_bias = ok && bias;
    return ok;
}

bool load_shaped(const loader *l, weight *w, const int64_t *dims, int64_t rows, int64_t cols, err *e, const char *name)
{
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    return load(l, w, full, dims, rows, cols, e);
}

void linear_close(kernels *k, linear *x)
{
    k->weight_close(k, &x->w);
    k->weight_close(k, &x->bias);
}

void linear_run(kernels *k, const linear *l, act *y, int ldy, const act *x, int T, unit u, const act *residual)
{
    k->linear(k, y, ldy, x, (int)l->w.cols, T, &l->w, l->has_bias ? &l->bias : NULL, u, residual);
}
