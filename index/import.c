/* import.c - the table of importers and what they share: paths and images. */
#include "index/import.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "index/npz.h"

const char *const SOURCE_KIND[N_SOURCE_KINDS] = {"jsonl", "medmnist", "roco", "pmc-oa", "mimic"};

bool importer_open(importer **out, const import_source *s, err *e)
{
    static bool (*const open[N_SOURCE_KINDS])(importer **, const import_source *, err *) = {
        [SOURCE_JSONL] = import_jsonl_open, [SOURCE_MEDMNIST] = import_medmnist_open,
        [SOURCE_ROCO] = import_roco_open,   [SOURCE_PMC_OA] = import_pmcoa_open,
        [SOURCE_MIMIC] = import_mimic_open,
    };
    return open[s->kind](out, s, e);
}

void importer_close(importer *im)
{
    if (im) im->close(im);
}

bool import_root(char **out, const char *dir, err *e)
{
    char        path[PATH_MAX];
    struct stat st;
    if (!realpath(dir, path)) return err_set(e, ERR_FILE, "%s: %s", dir, strerror(errno));
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) return err_set(e, ERR_FILE, "%s: not a folder", dir);
    /* It is written to the manifest, which is JSON. */
    if (!utf8_valid(path, strlen(path))) return err_set(e, ERR_FILE, "the path of an images folder is not UTF-8");
    *out = mem_strdup(path);
    return *out || err_set(e, ERR_MEMORY, "%s: out of memory", dir);
}

bool import_folder_of(char **out, const char *file, err *e)
{
    char        dir[PATH_MAX];
    const char *slash = strrchr(file, '/');
    size_t      n = slash ? (size_t)(slash - file) : 0;
    if (n + 2 > sizeof dir) return err_set(e, ERR_FILE, "%.100s...: path too long", file);
    memcpy(dir, file, n);
    dir[n] = 0;
    return import_root(out, !slash ? "." : n == 0 ? "/" : dir, e);
}

const char *import_below(const char *root, const char *path)
{
    size_t n = strlen(root);
    if (strncmp(path, root, n) == 0 && path[n] == '/') path += n + 1;
    return path_is_below(path) ? path : NULL;
}

/* ---- Images ---- */

enum { OPEN_ARRAYS = 8, MAX_IMAGE_BYTES = 256 << 20 };

typedef struct { char *path, *split; npz_array *array; uint64_t used; } open_array;
struct image_store {
    open_array a[OPEN_ARRAYS];
    uint64_t   clock;
};

image_store *image_store_new(void) { return mem_zalloc(1, sizeof(image_store)); }

static void close_array(open_array *o)
{
    npz_close(o->array);
    free(o->path);
    free(o->split);
    *o = (open_array){0};
}

void image_store_free(image_store *s)
{
    if (!s) return;
    for (int i = 0; i < OPEN_ARRAYS; i++) close_array(&s->a[i]);
    free(s);
}

/* [N,H,W] or [N,H,W,3] of unsigned bytes, of a size that an image may have. */
static bool is_images(const npy_shape *s)
{
    return s->item_bytes == 1 && !s->is_signed && (s->n_dims == 3 || (s->n_dims == 4 && s->dim[3] == 3))
           && s->dim[1] >= 1 && s->dim[2] >= 1 && s->dim[1] <= IMAGE_LIMITS.max_side
           && s->dim[2] <= IMAGE_LIMITS.max_side && s->dim[1] * s->dim[2] <= IMAGE_LIMITS.max_pixels;
}

static bool open_images(open_array *o, const char *path, const char *split, err *e)
{
    char name[128];
    if (snprintf(name, sizeof name, "%s_images", split) >= (int)sizeof name)
        return err_set(e, ERR_FILE, "%s: no such split", path);
    o->path = mem_strdup(path);
    o->split = mem_strdup(split);
    if (!o->path || !o->split) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    if (!npz_open(&o->array, path, name, e)) return false;
    return is_images(npz_shape(o->array)) ||
           err_set(e, ERR_FILE, "%s: %s is not an array of images, [N,H,W] or [N,H,W,3] of bytes", path, name);
}

/* The array from the open ones, or opened in place of the one that was used longest ago. */
static npz_array *find_array(image_store *s, const char *path, const char *split, err *e)
{
    open_array *oldest = s->a;
    s->clock++;
    for (open_array *o = s->a; o < s->a + OPEN_ARRAYS; o++) {
        if (o->array && strcmp(o->path, path) == 0 && strcmp(o->split, split) == 0) {
            o->used = s->clock;
            return o->array;
        }
        if (o->used < oldest->used) oldest = o;
    }
    close_array(oldest);
    if (!open_images(oldest, path, split, e)) {
        close_array(oldest);
        return NULL;
    }
    oldest->used = s->clock;
    return oldest->array;
}

/* Split "DIR/FILE.npz#SPLIT/ROW" in place. */
static bool split_reference(char *ref, char **split, int64_t *row)
{
    char *hash = strstr(ref, ".npz#"), *slash, *end;
    if (!hash) return false;
    hash[4] = 0;
    *split = hash + 5;
    if (!(slash = strchr(*split, '/')) || slash == *split || slash[1] < '0' || slash[1] > '9') return false;
    *slash = 0;
    errno = 0;
    *row = strtoll(slash + 1, &end, 10);
    return *end == 0 && errno == 0;
}

static bool load_row(image_store *s, const char *root, const char *ref, stored_image *out, arena *a, err *e)
{
    char    path[PATH_MAX], *split, *copy = arena_strdup(a, ref, e);
    int64_t row;
    if (!copy) return false;
    if (!split_reference(copy, &split, &row)) return err_set(e, ERR_INPUT, "not of the form FILE.npz#SPLIT/ROW");
    if (!path_join(path, sizeof path, root, copy, e)) return false;
    npz_array *z = find_array(s, path, split, e);
    if (!z) return false;

    const npy_shape *shape = npz_shape(z);
    size_t           n_pixels = (size_t)(shape->dim[1] * shape->dim[2]);
    uint8_t         *rgb = arena_take_n(a, n_pixels, 3, e), *png;
    if (!rgb) return false;
    if (shape->n_dims == 4) {
        if (!npz_row(z, row, rgb, e)) return false;
    } else {
        uint8_t *grey = arena_take(a, n_pixels, e);
        if (!grey || !npz_row(z, row, grey, e)) return false;
        for (size_t i = 0; i < n_pixels; i++) memset(rgb + 3 * i, grey[i], 3);
    }
    out->pixels = (image){.width = (int)shape->dim[2], .height = (int)shape->dim[1], .rgb = rgb};
    out->is_file = false;
    if (!image_encode_png(&png, &out->n, &out->pixels, a, e)) return false;
    out->bytes = png;
    return true;
}

static bool load_file(const char *root, const char *ref, stored_image *out, arena *a, err *e)
{
    char     path[PATH_MAX];
    file_map m;
    uint8_t *bytes = NULL;
    if (!path_join(path, sizeof path, root, ref, e) || !file_map_open(&m, path, e)) return false;
    if (m.bytes > MAX_IMAGE_BYTES)
        err_set(e, ERR_TOO_LARGE, "%s: %zu bytes are more than an image may have", path, m.bytes);
    else if ((bytes = arena_take(a, m.bytes, e)) != NULL) memcpy(bytes, m.data, m.bytes);
    out->n = m.bytes;
    file_map_close(&m);
    out->bytes = bytes;
    out->is_file = true;
    return bytes && image_decode(&out->pixels, bytes, out->n, &IMAGE_LIMITS, a, e);
}

bool image_store_load(image_store *s, const char *root, const char *ref, stored_image *out, arena *a, err *e)
{
    if (!path_is_below(ref)) return err_set(e, ERR_INPUT, "its image path leaves the images folder");
    return strstr(ref, ".npz#") ? load_row(s, root, ref, out, a, e) : load_file(root, ref, out, a, e);
}
