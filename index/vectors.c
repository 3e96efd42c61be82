/* vectors.c - everything that touches FAISS but its GPU part, through its C interface.
 * Three traps of that interface:
 *   - FAISS_IO_FLAG_MMAP in its headers is 1, which to the library means "leave out the storage". The value
 *     that maps inverted lists is the C++ header's IO_FLAG_MMAP, spelled out below.
 *   - a search runs on OpenMP threads. Their number is set per calling thread, so each search sets it: threads
 *     are ours.
 *   - the error text belongs to the calling thread and is read at once. */
#include "index/vectors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>
#include <faiss/c_api/index_io_c.h>
#include <faiss/c_api/utils/distances_c.h>

#include "base/memory.h"
#include "index/vectors_gpu.h"

/* From OpenMP's runtime; <omp.h> belongs to one compiler or the other, the function to both. */
void omp_set_num_threads(int n);

enum {
    READ_MAPPED = 2 | 8 | 0x646f0000, /* faiss/index_io.h: IO_FLAG_READ_ONLY | IO_FLAG_MMAP */
    ADD_ROWS = 65536,                 /* added at once where the index is not flat */
    TRAIN_BYTES = 1 << 30,            /* most bytes of rows that training sees */
};

struct vectors {
    FaissIndex  *faiss;
    const float *flat; /* [n,dim] where rows are stored as added, else NULL */
    int          dim;
    vectors_gpu *gpu;  /* a copy of faiss there, or NULL */
};

static bool faiss_ok(int status, const char *what, const char *where, err_code code, err *e)
{
    if (status == 0) return true;
    if (status == STD_EXCEPT) /* a C++ exception that is none of FAISS's own: std::bad_alloc, its text lost */
        return err_set(e, ERR_MEMORY, "%s: %s: no memory for it, or a damaged length", where, what);
    const char *why = faiss_get_last_error();
    /* FAISS puts its own function, file and line in front: "Error in FUNCTION at FILE:LINE: ..." */
    const char *cut = why ? strstr(why, ": ") : NULL;
    if (why && strncmp(why, "Error in ", 9) == 0 && cut) why = cut + 2;
    return err_set(e, code, "%s: %s: %.120s", where, what, why ? why : "unknown FAISS error");
}

/* How FAISS works here, set before every use; the first is per thread, the second the same value each time. */
static void settle_faiss(void)
{
    omp_set_num_threads(1);
    /* One query through OpenBLAS instead of FAISS's generic loop: 1 M x 768 takes 97-136 ms instead of 363-537
     * (Debian's 1.7.3, 2 cores with AVX-512). */
    if (faiss_get_distance_compute_blas_threshold() != 1) faiss_set_distance_compute_blas_threshold(1);
}

void vectors_close(vectors *v)
{
    if (!v) return;
    vectors_from_gpu(v);
    faiss_Index_free(v->faiss);
    free(v);
}

bool vectors_open(vectors **out, const char *path, int dim, int64_t n, err *e)
{
    bool     ok = false;
    vectors *v = mem_zalloc(1, sizeof *v);
    if (!v) {
        err_set(e, ERR_MEMORY, "%s: out of memory", path);
        goto done;
    }
    settle_faiss();
    v->dim = dim;
    if (!faiss_ok(faiss_read_index_fname(path, READ_MAPPED, &v->faiss), "FAISS cannot read it", path, ERR_FILE, e))
        goto done;
    if (faiss_Index_d(v->faiss) != dim || faiss_Index_ntotal(v->faiss) != n) {
        err_set(e, ERR_FILE, "%s: holds %lld vectors of dimension %d, the manifest says %lld of %d", path,
                (long long)faiss_Index_ntotal(v->faiss), faiss_Index_d(v->faiss), (long long)n, dim);
        goto done;
    }
    if (faiss_Index_metric_type(v->faiss) != METRIC_INNER_PRODUCT || !faiss_Index_is_trained(v->faiss)) {
        err_set(e, ERR_FILE, "%s: is not a trained inner-product index", path);
        goto done;
    }
    FaissIndexFlat *flat = faiss_IndexFlat_cast(v->faiss);
    if (flat) {
        float *xb = NULL;
        size_t len = 0;
        faiss_IndexFlat_xb(flat, &xb, &len);
        if (len != (size_t)n * (size_t)dim) {
            err_set(e, ERR_FILE, "%s: holds %zu numbers, %lld vectors of dimension %d need more", path, len,
                    (long long)n, dim);
            goto done;
        }
        v->flat = xb;
    }
    *out = v;
    v = NULL;
    ok = true;
done:
    vectors_close(v);
    return ok;
}

bool vectors_to_gpu(vectors *v, int device, err *e)
{
    vectors_from_gpu(v);
    return vectors_gpu_open(&v->gpu, v->faiss, device, e);
}

void vectors_from_gpu(vectors *v)
{
    vectors_gpu_close(v->gpu);
    v->gpu = NULL;
}

bool vectors_on_gpu(const vectors *v) { return v->gpu != NULL; }

bool vectors_search(const vectors *v, const float *z, int64_t k, float *score, int64_t *id, err *e)
{
    if (v->gpu && k <= VECTORS_GPU_MOST) return vectors_gpu_search(v->gpu, z, k, score, id, e);
    settle_faiss();
    return faiss_ok(faiss_Index_search(v->faiss, 1, z, k, score, id), "search failed", "index", ERR_BUG, e);
}

bool vectors_exact(const vectors *v) { return v->flat != NULL; }

const float *vectors_row(const vectors *v, int64_t id)
{
    return v->flat ? v->flat + (size_t)id * (size_t)v->dim : NULL;
}

float vectors_score(const vectors *v, const float *z, int64_t id)
{
    const float *row = vectors_row(v, id);
    double       sum = 0;
    for (int i = 0; i < v->dim; i++) sum += (double)row[i] * z[i];
    return (float)sum;
}

bool vectors_factory_check(const char *factory, int dim, err *e)
{
    FaissIndex *ix = NULL;
    bool ok =
        faiss_ok(faiss_index_factory(&ix, dim, factory, METRIC_INNER_PRODUCT), factory, "--factory", ERR_USAGE, e);
    faiss_Index_free(ix);
    return ok;
}

/* Rows for training: evenly spaced over the whole, so that every source is seen, at most TRAIN_BYTES. */
static bool train(FaissIndex *ix, const vectors_plan *p, const float *raw, err *e)
{
    size_t  row_bytes = (size_t)p->dim * sizeof(float);
    int64_t most = (int64_t)(TRAIN_BYTES / row_bytes), n = p->n < most ? p->n : most;
    char    line[160];
    snprintf(line, sizeof line, "%s: training %s on %lld vectors, %lld MiB of memory", p->what, p->factory,
             (long long)n, (long long)((size_t)n * row_bytes >> 20));
    p->note(p->ctx, line);

    if (n == p->n) return faiss_ok(faiss_Index_train(ix, n, raw), "training failed", p->factory, ERR_FILE, e);
    float *sample = mem_alloc((size_t)n * row_bytes);
    if (!sample)
        return err_set(e, ERR_MEMORY, "training %s: out of memory for %lld vectors", p->factory, (long long)n);
    for (int64_t i = 0; i < n; i++) {
        int64_t from = (int64_t)((double)i * ((double)p->n / (double)n));
        memcpy(sample + i * p->dim, raw + from * p->dim, row_bytes);
    }
    bool ok = faiss_ok(faiss_Index_train(ix, n, sample), "training failed", p->factory, ERR_FILE, e);
    free(sample);
    return ok;
}

static bool sync_file(const char *path, err *e)
{
    int  fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok) err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return ok;
}

bool vectors_build(const vectors_plan *p, const float *raw, const char *path, bool *stopped, err *e)
{
    bool        ok = false;
    FaissIndex *ix = NULL;
    *stopped = false;
    settle_faiss();
    if (!faiss_ok(faiss_index_factory(&ix, p->dim, p->factory, METRIC_INNER_PRODUCT), p->factory, "--factory",
                  ERR_USAGE, e))
        goto done;
    if (!faiss_Index_is_trained(ix) && !train(ix, p, raw, e)) goto done;

    /* A flat index takes all rows at once, so that its vector grows once and to the exact size: adding in
     * blocks would double the peak. Others work row by row anyway and can be stopped between blocks. */
    bool flat = faiss_IndexFlat_cast(ix) != NULL;
    char line[160];
    snprintf(line, sizeof line, "%s: adding %lld vectors to %s, %s%lld MiB of memory", p->what, (long long)p->n,
             p->factory, flat ? "" : "up to about ",
             (long long)((size_t)p->n * (size_t)p->dim * sizeof(float) >> 20));
    p->note(p->ctx, line);
    for (int64_t i = 0, m; i < p->n; i += m) {
        if ((*stopped = p->stop(p->ctx))) {
            ok = true;
            goto done;
        }
        m = flat || p->n - i < ADD_ROWS ? p->n - i : ADD_ROWS;
        if (!faiss_ok(faiss_Index_add(ix, m, raw + i * p->dim), "adding vectors failed", p->factory, ERR_FILE, e))
            goto done;
    }
    ok = faiss_ok(faiss_write_index_fname(ix, path), "cannot be written", path, ERR_FILE, e) && sync_file(path, e);
done:
    faiss_Index_free(ix);
    return ok;
}
