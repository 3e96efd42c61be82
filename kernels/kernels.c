/* kernels.c - which device a kernels is for. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"

/* The N of "cuda:N"; -1: not of that form. */
static int gpu_number(const char *device)
{
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9') return -1;
    char *end;
    long  n = strtol(device + 5, &end, 10);
    return *end == '\0' && n < 1024 ? (int)n : -1;
}

bool kernels_open(kernels **out, const kernels_options *o, err *e)
{
    const char *device = o->device ? o->device : "auto";
    int         gpu = gpu_number(device);
    /* a GPU that does not work is not passed over in silence */
    if (strcmp(device, "auto") == 0 && !cuda_find(&gpu, e)) return false;
    if (gpu >= 0) return cuda_open(out, o, gpu, e);
    if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0) return cpu_open(out, o, NULL, e);
    return err_at(e, ERR_USAGE, NULL, "device", "device: unknown; there are auto, cpu and cuda:N");
}

bool kernels_on_gpu(const char *device)
{
    err e = {0};
    int gpu = gpu_number(device);
    return gpu >= 0 || (strcmp(device, "auto") == 0 && cuda_find(&gpu, &e) && gpu >= 0);
}

void kernels_fail(kernels *k, err_code code, const char *text)
{
    err_set(&k->failed, code, "%s", text);
}

uint64_t attend_pairs(const attend_args *a)
{
    uint64_t all = (uint64_t)a->span[0].n + (uint64_t)a->span[1].n, n_q = (uint64_t)a->n_q;
    if (a->mask == ATTEND_ALL) return n_q * all;
    /* nodes that are queries */
    uint64_t nodes = a->mask == ATTEND_TREE ? (uint64_t)a->n_tree : 0, asked = nodes < n_q ? nodes : n_q;
    uint64_t before = n_q - asked, pairs = before * (all - n_q) + before * (before + 1) / 2 + asked * (all - nodes);
    for (uint64_t i = (nodes - asked) * nodes; i < nodes * nodes; i++) pairs += a->visible[i] != 0;
    return pairs;
}

bool weight_check(const tensor *t, int64_t rows, int64_t cols, err *e)
{
    if (t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16)
        return err_set(e, ERR_FILE, "%s: %s is %s, not F32, F16 or BF16", t->file, t->name, dtype_name(t->type));
    if (rows < 0 || cols < 0 || (cols > 0 && rows > INT64_MAX / cols) || t->count != rows * cols)
        return err_set(e, ERR_FILE, "%s: %s has %lld elements, not %lld x %lld", t->file, t->name,
                       (long long)t->count, (long long)rows, (long long)cols);
    if (rows > INT32_MAX || cols > INT32_MAX)
        return err_set(e, ERR_FILE, "%s: %s is larger than 2^31 - 1 on a side", t->file, t->name);
    return true;
}
