/* npz.c - see npz.h. The .npy format: NumPy's "numpy.lib.format", versions 1.0, 2.0 and 3.0. */
#include "index/npz.h"

#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "base/memory.h"

enum {
    WHOLE_BYTES = 64 << 20,     /* arrays up to this are held in memory */
    MAX_HEADER_BYTES = 1 << 16,
};

struct npz_array {
    zip_t      *zip;
    zip_file_t *f;
    zip_int64_t member;
    char       *where;     /* "FILE: NAME.npy" */
    npy_shape   shape;
    size_t      header_bytes; /* before the first row */
    int64_t     at;        /* row that f gives next */
    uint8_t    *whole;
};

/* ---- The header's dictionary: {'descr': '|u1', 'fortran_order': False, 'shape': (546, 28, 28), } ---- */

typedef struct { const char *s, *end; } cursor;

static void skip_space(cursor *c)
{
    while (c->s < c->end && (*c->s == ' ' || *c->s == '\n' || *c->s == '\t')) c->s++;
}

static bool take(cursor *c, char ch)
{
    skip_space(c);
    if (c->s == c->end || *c->s != ch) return false;
    c->s++;
    return true;
}

static bool take_word(cursor *c, const char *word)
{
    size_t n = strlen(word);
    skip_space(c);
    if ((size_t)(c->end - c->s) < n || memcmp(c->s, word, n) != 0) return false;
    c->s += n;
    return true;
}

/* A quoted string without escapes. */
static bool take_string(cursor *c, char *out, size_t size)
{
    skip_space(c);
    if (c->s == c->end || (*c->s != '\'' && *c->s != '"')) return false;
    char   quote = *c->s++;
    size_t n = 0;
    while (c->s < c->end && *c->s != quote) {
        if (*c->s == '\\' || n + 1 >= size) return false;
        out[n++] = *c->s++;
    }
    out[n] = 0;
    return take(c, quote);
}

static bool take_shape(cursor *c, npy_shape *out)
{
    if (!take(c, '(')) return false;
    out->n_dims = 0;
    while (!take(c, ')')) {
        int64_t v = 0;
        int     digits = 0;
        skip_space(c);
        for (; c->s < c->end && *c->s >= '0' && *c->s <= '9'; c->s++, digits++) {
            if (v > (INT64_C(1) << 48)) return false;
            v = v * 10 + (*c->s - '0');
        }
        if (digits == 0 || out->n_dims == NPY_DIMS) return false;
        out->dim[out->n_dims++] = v;
        if (take(c, ',')) continue;
        return take(c, ')');
    }
    return true;
}

static bool parse_type(npy_shape *out, const char *descr)
{
    bool one = strlen(descr) == 3 && descr[2] == '1';
    if (strlen(descr) != 3 || !strchr("124", descr[2]) || (descr[1] != 'u' && descr[1] != 'i')) {
        if (strcmp(descr, "<i8") != 0 && strcmp(descr, "<u8") != 0) return false;
    }
    if (descr[0] != '<' && !(one && (descr[0] == '|' || descr[0] == '='))) return false;
    out->item_bytes = descr[2] - '0';
    out->is_signed = descr[1] == 'i';
    return true;
}

bool npy_parse_header(npy_shape *out, const char *s, size_t n, const char **why)
{
    cursor   c = {s, s + n};
    unsigned seen = 0;
    char     key[32], descr[32];
    *out = (npy_shape){0};
    *why = "malformed header";
    if (!take(&c, '{')) return false;
    while (!take(&c, '}')) {
        if (!take_string(&c, key, sizeof key) || !take(&c, ':')) return false;
        unsigned bit = !strcmp(key, "descr") ? 1 : !strcmp(key, "fortran_order") ? 2 : !strcmp(key, "shape") ? 4 : 0;
        if (bit == 0 || (seen & bit)) return false;
        seen |= bit;
        if (bit == 1) {
            if (!take_string(&c, descr, sizeof descr) || !parse_type(out, descr))
                return *why = "not an array of integers", false;
        } else if (bit == 2) {
            if (take_word(&c, "True")) return *why = "column-major (fortran_order) arrays are not read", false;
            if (!take_word(&c, "False")) return false;
        } else if (!take_shape(&c, out)) return *why = "malformed or too large shape", false;
        if (!take(&c, ',')) {
            if (!take(&c, '}')) return false;
            break;
        }
    }
    skip_space(&c);
    if (seen != 7 || c.s != c.end) return false;
    if (out->n_dims < 1) return *why = "not an array of rows", false;
    /* Sizes: the product of all but the first axis, then with it. 2^48 bytes is beyond any file here. */
    uint64_t bytes = (uint64_t)out->item_bytes;
    for (int i = out->n_dims - 1; i >= 0; i--) {
        if (i == 0) out->row_bytes = (size_t)bytes;
        if (out->dim[i] != 0 && bytes > (UINT64_C(1) << 48) / (uint64_t)out->dim[i])
            return *why = "shape too large", false;
        bytes *= (uint64_t)out->dim[i];
    }
    if (out->row_bytes == 0) return *why = "rows are empty", false;
    return true;
}

/* ---- The stream ---- */

static bool fail(const npz_array *z, const char *why, err *e)
{
    return err_set(e, ERR_FILE, "%s: %s", z->where, why);
}

static bool read_all(npz_array *z, void *out, size_t n, err *e)
{
    for (size_t got = 0; got < n;) {
        zip_int64_t r = zip_fread(z->f, (char *)out + got, n - got);
        if (r <= 0) return fail(z, r < 0 ? zip_file_strerror(z->f) : "the file is truncated", e);
        got += (size_t)r;
    }
    return true;
}

static bool skip_bytes(npz_array *z, uint64_t n, err *e)
{
    uint8_t sink[4096];
    while (n) {
        size_t part = n < sizeof sink ? (size_t)n : sizeof sink;
        if (!read_all(z, sink, part, e)) return false;
        n -= part;
    }
    return true;
}

/* Open the member anew and stand before row 0. */
static bool rewind_stream(npz_array *z, err *e)
{
    if (z->f) zip_fclose(z->f);
    z->f = zip_fopen_index(z->zip, (zip_uint64_t)z->member, 0);
    if (!z->f) return fail(z, zip_strerror(z->zip), e);
    z->at = 0;
    return skip_bytes(z, z->header_bytes, e);
}

static bool read_header(npz_array *z, uint64_t member_bytes, err *e)
{
    uint8_t     start[12];
    char       *s = NULL;
    const char *why;
    bool        ok = false;
    if (!rewind_stream(z, e) || !read_all(z, start, 10, e)) return false;
    if (memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 || start[6] > 3) return fail(z, "not a .npy array", e);
    size_t fixed = start[6] == 1 ? 10 : 12, n = (size_t)start[8] | (size_t)start[9] << 8;
    if (fixed == 12) {
        if (!read_all(z, start + 10, 2, e)) return false;
        n |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (n > MAX_HEADER_BYTES) return fail(z, "malformed header", e);
    if (!(s = mem_alloc(n + 1))) return err_set(e, ERR_MEMORY, "%s: out of memory", z->where);
    if (!read_all(z, s, n, e)) goto done;
    if (!npy_parse_header(&z->shape, s, n, &why)) {
        fail(z, why, e);
        goto done;
    }
    z->header_bytes = fixed + n;
    if (z->header_bytes + z->shape.row_bytes * (uint64_t)z->shape.dim[0] != member_bytes) {
        fail(z, "its size does not match its shape", e);
        goto done;
    }
    ok = true;
done:
    free(s);
    return ok;
}

static bool load_whole(npz_array *z, err *e)
{
    size_t n = z->shape.row_bytes * (size_t)z->shape.dim[0];
    char   beyond;
    if (n > WHOLE_BYTES) return true;
    z->whole = mem_alloc(n + 1);
    if (!z->whole) return err_set(e, ERR_MEMORY, "%s: out of memory", z->where);
    if (!read_all(z, z->whole, n, e)) return false;
    /* The checksum is compared when the end is reached: ask for it. */
    return zip_fread(z->f, &beyond, 1) == 0 || fail(z, zip_file_strerror(z->f), e);
}

static bool open_source(npz_array **out, zip_source_t *src, const char *name, const char *where, err *e)
{
    bool       ok = false;
    zip_stat_t st;
    char       member[256];
    size_t     where_bytes = strlen(where) + sizeof member + 3;
    zip_error_t ze;
    zip_error_init(&ze);
    npz_array *z = mem_zalloc(1, sizeof *z);
    if (z) z->where = mem_alloc(where_bytes);
    if (!z || !z->where) {
        err_set(e, ERR_MEMORY, "%s: out of memory", where);
        goto done;
    }
    if (snprintf(member, sizeof member, "%s.npy", name) >= (int)sizeof member) {
        err_set(e, ERR_FILE, "%s: no array of that name", where);
        goto done;
    }
    snprintf(z->where, where_bytes, "%s: %s", where, member);
    z->zip = zip_open_from_source(src, ZIP_RDONLY, &ze);
    if (!z->zip) {
        err_set(e, ERR_FILE, "%s: %s", where, zip_error_strerror(&ze));
        goto done;
    }
    src = NULL; /* the archive's now */
    if ((z->member = zip_name_locate(z->zip, member, 0)) < 0) {
        fail(z, "no such array in the file", e);
        goto done;
    }
    if (zip_stat_index(z->zip, (zip_uint64_t)z->member, 0, &st) != 0 || !(st.valid & ZIP_STAT_SIZE)) {
        fail(z, "its size is not known", e);
        goto done;
    }
    if (!read_header(z, st.size, e) || !load_whole(z, e)) goto done;
    *out = z;
    z = NULL;
    ok = true;
done:
    npz_close(z);
    if (src) zip_source_free(src);
    zip_error_fini(&ze);
    return ok;
}

bool npz_open(npz_array **out, const char *path, const char *name, err *e)
{
    zip_error_t ze;
    zip_error_init(&ze);
    zip_source_t *src = zip_source_file_create(path, 0, -1, &ze);
    if (!src) err_set(e, ERR_FILE, "%s: %s", path, zip_error_strerror(&ze));
    zip_error_fini(&ze);
    return src && open_source(out, src, name, path, e);
}

bool npz_open_memory(npz_array **out, const void *bytes, size_t n, const char *name, const char *where, err *e)
{
    zip_error_t ze;
    zip_error_init(&ze);
    zip_source_t *src = zip_source_buffer_create(bytes, n, 0, &ze);
    if (!src) err_set(e, ERR_FILE, "%s: %s", where, zip_error_strerror(&ze));
    zip_error_fini(&ze);
    return src && open_source(out, src, name, where, e);
}

void npz_close(npz_array *z)
{
    if (!z) return;
    if (z->f) zip_fclose(z->f);
    if (z->zip) zip_discard(z->zip);
    free(z->whole);
    free(z->where);
    free(z);
}

const npy_shape *npz_shape(const npz_array *z) { return &z->shape; }

bool npz_row(npz_array *z, int64_t i, void *out, err *e)
{
    size_t n = z->shape.row_bytes;
    if (i < 0 || i >= z->shape.dim[0])
        return err_set(e, ERR_INPUT, "%s: has %lld rows, no row %lld", z->where, (long long)z->shape.dim[0],
                       (long long)i);
    if (z->whole) {
        memcpy(out, z->whole + (size_t)i * n, n);
        return true;
    }
    if (i < z->at && !rewind_stream(z, e)) return false;
    if (!skip_bytes(z, (uint64_t)(i - z->at) * n, e) || !read_all(z, out, n, e)) {
        z->at = INT64_MAX; /* the stream stands anywhere: start over next time */
        return false;
    }
    z->at = i + 1;
    return true;
}

int64_t npy_int(const npy_shape *s, const void *row, size_t j)
{
    const uint8_t *p = (const uint8_t *)row + j * (size_t)s->item_bytes;
    uint64_t       v = 0;
    for (int b = s->item_bytes - 1; b >= 0; b--) v = v << 8 | p[b];
    if (s->is_signed && s->item_bytes < 8 && (v >> (8 * s->item_bytes - 1) & 1))
        v |= ~UINT64_C(0) << (8 * s->item_bytes);
    return (int64_t)v;
}
