/* weight.c - weights of the CPU: the bytes of the mapped file wherever they can be used as they are.
 *
 *   matrix BF16, F32   borrowed from the mapping; copied when not aligned to its element (an odd header length)
 *   matrix F16         widened to f32: no kernel reads halves
 *   vector             f32, always owned: it is short, and norms and biases are applied in f32 */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include "base/memory.h"

bool cpu_weight_open(kernels *k, weight *w, const tensor *t, int64_t rows, int64_t cols, err *e)
{
    (void)k;
    size_t size = dtype_bytes(t->type);
    if (!weight_check(t, rows, cols, e)) return false;
    bool widen = rows == 1 || t->type == DTYPE_F16;
    *w = (weight){.data = t->data, .type = widen ? DTYPE_F32 : t->type, .rows = rows, .cols = cols};
    if (!widen && (uintptr_t)t->data % size == 0) return true;

    size_t bytes = (size_t)t->count * (widen ? sizeof(float) : size);
    w->owned = mem_aligned(64, bytes ? bytes : 1);
    if (!w->owned) {
        *w = (weight){0};
        return err_set(e, ERR_MEMORY, "%s: out of memory for %s", t->file, t->name);
    }
    if (widen) dtype_widen(w->owned, t->data, t->type, (size_t)t->count);
    else memcpy(w->owned, t->data, bytes);
    w->data = w->owned;
    return true;
}

void cpu_weight_close(kernels *k, weight *w)
{
    (void)k;
    free(w->owned);
    *w = (weight){0};
}
