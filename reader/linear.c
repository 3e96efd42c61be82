#include "reader/linear.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

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

static bool load(const loader *l, weight *w, const char *name, const int64_t *dims, int64_t rows, int64_t cols,
                 err *e)
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

/* ---- adapters, while a layer opens ---- */

static bool pair_fits(const lora_pair *p, int64_t rows, int64_t cols, err *e)
{
    if (p->a->dim[1] == cols && p->b->dim[0] == rows) return true;
    const tensor *t = p->a->dim[1] == cols ? p->b : p->a;
    return err_set(e, ERR_FILE,
                   "%s: %.120s: the adapter takes %lld and gives %lld, the reader's layer %lld and %lld: "
                   "is it for another base model?",
                   t->file, t->name, (long long)p->a->dim[1], (long long)p->b->dim[0], (long long)cols,
                   (long long)rows);
}

static void store(void *out, dtype type, size_t i, float v)
{
    if (type == DTYPE_BF16) ((uint16_t *)out)[i] = bf16_from_f32(v);
    else ((float *)out)[i] = v;
}

/* t, multiplied by scale, in the type of the base's weight (bf16, or f32): PEFT too casts an adapter to the
 * type of the layer it hangs on. The scale goes in before the one rounding. *own: bytes that must live as long
 * as w; NULL: none. */
static bool open_scaled(kernels *k, weight *w, void **own, const tensor *t, float scale, dtype type, err *e)
{
    int64_t rows = t->dim[0], cols = t->dim[1];
    if (t->type == type && scale == 1) return k->weight_open(k, w, t, rows, cols, e);
    size_t n = (size_t)t->count;
    float *wide = mem_alloc(n * sizeof *wide);
    void  *out = mem_aligned(64, n * dtype_bytes(type));
    bool   ok = (wide && out) || err_set(e, ERR_MEMORY, "%s: out of memory for %s", t->file, t->name);
    if (ok) {
        tensor made = *t;
        dtype_widen(wide, t->data, t->type, n);
        for (size_t i = 0; i < n; i++) store(out, type, i, scale * wide[i]);
        made.data = out;
        made.type = type;
        made.bytes = n * dtype_bytes(type);
        ok = k->weight_open(k, w, &made, rows, cols, e);
    }
    free(wide);
    if (ok && w->data == out) *own = out; /* a device of its own memory has copied it */
    else free(out);
    return ok;
}

static bool branch_open(const loader *l, linear *x, int i, const lora_pair *p, err *e)
{
    dtype type = x->w.type == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    if (!x->branch) {
        x->branch = mem_zalloc((size_t)l->adapters->n, sizeof *x->branch);
        if (!x->branch) return err_set(e, ERR_MEMORY, "adapter: out of memory");
        x->n_branches = l->adapters->n;
    }
    low_rank *y = &x->branch[i];
    y->rank = p->rank;
    return open_scaled(l->k, &y->a, &y->own_a, p->a, 1, type, e)
           && open_scaled(l->k, &y->b, &y->own_b, p->b, p->scale, type, e);
}

/* out[i, :] = w[i, :] + s B[i, :] A, a row at a time in f32, rounded once to w's type.
 * a [rank, cols]; room for b [rank], row and sum [cols]. */
static void merge_row(void *out, const tensor *w, int64_t i, const lora_pair *p, const float *a, float *room)
{
    size_t cols = (size_t)w->dim[1], size = dtype_bytes(w->type), r = (size_t)p->rank, from = dtype_bytes(p->b->type);
    float *b = room, *row = room + r, *sum = row + cols;
    dtype_widen(b, (const uint8_t *)p->b->data + (size_t)i * r * from, p->b->type, r);
    dtype_widen(row, (const uint8_t *)w->data + (size_t)i * cols * size, w->type, cols);
    memset(sum, 0, cols * sizeof *sum);
    for (size_t q = 0; q < r; q++)
        for (size_t j = 0; j < cols; j++) sum[j] += b[q] * a[q * cols + j];
    dtype type = w->type == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    for (size_t j = 0; j < cols; j++) store(out, type, (size_t)i * cols + j, row[j] + p->scale * sum[j]);
}

/* Exchange x->w for W + s B A. F16 becomes f32, as the device widens it anyway. */
static bool merge(const loader *l, linear *x, const tensor *t, const lora_pair *p, err *e)
{
    size_t rows = (size_t)t->dim[0], cols = (size_t)t->dim[1], r = (size_t)p->rank;
    tensor made = *t;
    made.type = t->type == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    made.bytes = rows * cols * dtype_bytes(made.type);
    void  *out = mem_aligned(64, made.bytes);
    float *a = mem_alloc((r * cols + r + 2 * cols) * sizeof *a);
    bool   ok = (a && out) || err_set(e, ERR_MEMORY, "%s: out of memory for merging %s", t->file, t->name);
    if (ok) {
        dtype_widen(a, p->a->data, p->a->type, r * cols);
        for (size_t i = 0; i < rows; i++) merge_row(out, t, (int64_t)i, p, a, a + r * cols);
        made.data = out;
        l->k->weight_close(l->k, &x->w);
        ok = l->k->weight_open(l->k, &x->w, &made, (int64_t)rows, (int64_t)cols, e);
        if (ok) *l->adapters->merged_bytes += made.bytes;
    }
    free(a);
    if (ok && x->w.data == out) x->merged = out;
    else free(out);
    return ok;
}

static bool adapters_open(const loader *l, linear *x, const char *name, const char *module, err *e)
{
    const char *const only[] = {l->prefix, NULL};
    const int64_t     any[] = {x->w.rows, x->w.cols, -1};
    for (int i = 0; l->adapters && i < l->adapters->n; i++) {
        lora_pair     p;
        const tensor *t;
        if (!lora_take(l->adapters->at[i], l->prefixes ? l->prefixes : only, module, &p)) continue;
        if (!pair_fits(&p, x->w.rows, x->w.cols, e) || !safetensors_need(l->file, &t, name, any, e)) return false;
        if (!(l->adapters->merge ? merge(l, x, t, &p, e) : branch_open(l, x, i, &p, e))) return false;
    }
    return true;
}

bool load_linear(const loader *l, linear *x, int64_t rows, int64_t cols, bool bias, err *e, const char *fmt, ...)
{
    char    w[MAX_NAME], b[MAX_NAME], module[MAX_NAME];
    loader  bare = {.prefix = ""};
    va_list ap, again, third;
    va_start(ap, fmt);
    va_copy(again, ap);
    va_copy(third, ap);
    bool ok = full_name(w, l, ".weight", e, fmt, ap) && full_name(b, l, ".bias", e, fmt, again)
           && full_name(module, &bare, "", e, fmt, third);
    va_end(third);
    va_end(again);
    va_end(ap);
    ok = ok && load(l, &x->w, w, (int64_t[]){rows, cols, -1}, rows, cols, e);
    ok = ok && (!bias || load(l, &x->bias, b, (int64_t[]){rows, -1}, 1, rows, e));
    x->has_bias = ok && bias;
    return ok && adapters_open(l, x, w, module, e);
}

bool load_shaped(const loader *l, weight *w, const int64_t *dims, int64_t rows, int64_t cols, err *e,
                 const char *name)
{
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    return load(l, w, full, dims, rows, cols, e);
}

void linear_close(kernels *k, linear *x)
{
    k->weight_close(k, &x->w);
    k->weight_close(k, &x->bias);
    for (int i = 0; i < x->n_branches; i++) {
        k->weight_close(k, &x->branch[i].a);
        k->weight_close(k, &x->branch[i].b);
        free(x->branch[i].own_a);
        free(x->branch[i].own_b);
    }
    free(x->branch);
    free(x->merged);
    *x = (linear){0};
}

static const low_rank *branch_of(const linear *l, int adapter)
{
    return adapter > 0 && adapter <= l->n_branches && l->branch[adapter - 1].rank ? &l->branch[adapter - 1] : NULL;
}

void linear_run(kernels *k, const linear *l, int adapter, act *y, int ldy, const act *x, int T, unit u,
                const act *residual)
{
    const low_rank *b = branch_of(l, adapter);
    const weight   *bias = l->has_bias ? &l->bias : NULL;
    int             cols = (int)l->w.cols;
    if (b) k->linear_low_rank(k, y, ldy, x, cols, T, &l->w, bias, &b->a, &b->b, u, residual);
    else k->linear(k, y, ldy, x, cols, T, &l->w, bias, u, residual);
}

void linears_run(kernels *k, const linear_out *o, int n, int adapter, const act *x, int T)
{
    enum { MOST = 3 };
    product_out p[MOST];
    bool        bare = n <= MOST;
    for (int i = 0; bare && i < n; i++) {
        const linear *l = o[i].l;
        bare = !branch_of(l, adapter);
        p[i] = (product_out){o[i].y, o[i].ldy, &l->w, l->has_bias ? &l->bias : NULL};
    }
    if (bare) k->linears(k, p, n, x, (int)o->l->w.cols, T);
    else
        for (int i = 0; i < n; i++) linear_run(k, o[i].l, adapter, o[i].y, o[i].ldy, x, T, UNIT_NONE, NULL);
}

uint64_t linear_branch_flops(const linear *l, int adapter)
{
    const low_rank *b = branch_of(l, adapter);
    return b ? 2 * (uint64_t)b->rank * (uint64_t)(l->w.rows + l->w.cols) : 0;
}
