/* fuzz_safetensors.c - any bytes as a checkpoint: no crash, no leak, and where it opens, every tensor lies
 * inside the file, is as long as its shape says, overlaps none and is found by its name. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/safetensors.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

static int by_start(const void *a, const void *b)
{
    const tensor *x = *(const tensor *const *)a, *y = *(const tensor *const *)b;
    const uint8_t *p = x->data, *q = y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static void check(const safetensors *s)
{
    const int      n = safetensors_count(s);
    const tensor **order = malloc(((size_t)n + 1) * sizeof *order);
    unsigned       sum = 0;
    MUST(order);
    for (int i = 0; i < n; i++) {
        const tensor *t = order[i] = safetensors_at(s, i);
        int64_t       count = 1;
        MUST(t && t->n_dims >= 0 && t->n_dims <= TENSOR_DIMS && safetensors_find(s, t->name) == t);
        MUST(i == 0 || strcmp(safetensors_at(s, i - 1)->name, t->name) < 0);
        for (int d = 0; d < t->n_dims; d++) count *= t->dim[d];
        MUST(count == t->count && (t->type == DTYPE_OTHER || t->bytes == (size_t)count * dtype_bytes(t->type)));
        /* a fault, if outside */
        if (t->bytes) sum += *(const uint8_t *)t->data + ((const uint8_t *)t->data)[t->bytes - 1];
        const tensor *need;
        err           e = {0};
        MUST(safetensors_need(s, &need, t->name, (const int64_t[]){0, 7, -1}, &e)
             || (e.code == ERR_FILE && e.text[0]));
    }
    qsort(order, (size_t)n, sizeof *order, by_start);
    for (int i = 1; i < n; i++)
        MUST((const uint8_t *)order[i - 1]->data + order[i - 1]->bytes <= (const uint8_t *)order[i]->data);
    free(order);
    MUST(sum <= 510u * (unsigned)n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static int   fd = -1; /* a file in memory, and a name to open it by */
    static char  path[64];
    safetensors *s;
    err          e = {0};
    if (fd < 0) {
        MUST((fd = memfd_create("fuzz", MFD_CLOEXEC)) >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    MUST(ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
    if (safetensors_open(&s, path, &e)) {
        check(s);
        safetensors_close(s);
    } else MUST(e.code == ERR_FILE && e.text[0]);
    return 0;
}
