/* weight.cu - weights of the GPU: the mapped file's bytes through pinned memory to the device, once.
 *
 * The host fills one pinned half while the device copies the other. On the way elements become what the table
 * multiplies: bf16 matrices in a bf16 table (f32 and f16 files are rounded here, once), f32 in an f32 table and for
 * every vector. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>

static void convert(void *out, dtype to, const uint8_t *from, dtype type, size_t n)
{
    if (to == type) memcpy(out, from, n * dtype_bytes(type));
    else if (to == DTYPE_F32) dtype_widen((float *)out, from, type, n);
    else
        for (size_t i = 0; i < n; i++) {
            float v;
            if (type == DTYPE_F32) memcpy(&v, from + i * sizeof v, sizeof v);
            else dtype_widen(&v, from + i * dtype_bytes(type), type, 1);
            ((uint16_t *)out)[i] = bf16_from_f32(v);
        }
}

/* n elements that lie together in the file and on the device. */
static bool upload(cuda *g, uint8_t *device, dtype to, const uint8_t *from, dtype type, size_t n)
{
    size_t most = g->staging.half_bytes / dtype_bytes(to);
    for (size_t at = 0; at < n; at += most) {
        size_t   piece = n - at < most ? n - at : most, bytes = piece * dtype_bytes(to);
        uint8_t *room = cuda_room(g, bytes);
        if (!room) return false;
        convert(room, to, from + at * dtype_bytes(type), type, piece);
        if (!cuda_send(g, device + at * dtype_bytes(to), room, bytes)) return false;
    }
    return true;
}

static bool upload_all(cuda *g, uint8_t *device, const weight *w, const tensor *t)
{
    size_t pitch = (size_t)cuda_pitch(w), cols = (size_t)w->cols, rows = (size_t)w->rows, to = dtype_bytes(w->type);
    const uint8_t *from = (const uint8_t *)t->data;
    if (pitch == cols) return upload(g, device, w->type, from, t->type, rows * cols);
    bool ok = cu_ok(&g->k, cudaMemsetAsync(device, 0, rows * pitch * to, g->stream), "weights");
    for (size_t r = 0; ok && r < rows; r++)
        ok = upload(g, device + r * pitch * to, w->type, from + r * cols * dtype_bytes(t->type), t->type, cols);
    return ok;
}

/* Waits, so that a failure names its tensor and other workers' streams may read the weight. */
bool cuda_weight_open(kernels *k, weight *w, const tensor *t, int64_t rows, int64_t cols, err *e)
{
    cuda *g = cuda_of(k);
    if (!g) return k->sync(k, e);
    if (!weight_check(t, rows, cols, e)) return false;
    *w = weight{};
    w->type = rows == 1 || g->f32 ? DTYPE_F32 : DTYPE_BF16;
    w->rows = rows;
    w->cols = cols;
    size_t bytes = (size_t)rows * (size_t)cuda_pitch(w) * dtype_bytes(w->type);
    w->owned = k->alloc(k, bytes);
    if (!w->owned) {
        size_t free_bytes = 0, all = 0;
        cudaMemGetInfo(&free_bytes, &all);
        *w = weight{};
        return err_set(e, ERR_MEMORY, "%s: no room for %s on %s: it needs %zu MiB, %zu of %zu MiB are free", t->file,
                       t->name, k->name, bytes >> 20, free_bytes >> 20, all >> 20);
    }
    w->data = w->owned;
    bool ok = upload_all(g, (uint8_t *)w->owned, w, t) && cu_ok(k, cudaStreamSynchronize(g->stream), t->name)
                  ? lt_weight_open(g, w, e)
                  : k->sync(k, e);
    if (!ok) cuda_weight_close(k, w);
    return ok;
}

void cuda_weight_close(kernels *k, weight *w)
{
    k->free_(k, w->owned);
    free(w->plan);
    *w = weight{};
}
