/* rows.c - operations row by row over threads: norms, gated units, rotary positions, gather, sums. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { SERIAL_ELEMENTS = 64 * 1024, ROWS_A_TASK = 8 };

/* One of the row operations with its arguments; rows are independent. */
typedef struct {
    const isa   *isa;
    enum { LAYERNORM, RMSNORM, GLU, ROPE, GATHER } op;
    float       *y;
    const float *x, *up, *gain, *bias, *cos_, *sin_;
    float        eps;
    int          T, D, ld, n_heads, head_dim, half;
    bool         interleaved;
    unit         unit;
    const weight  *table;
    const int32_t *id;
    int          step;
} row_job;

static void gather_rows(const row_job *j, int t0, int n)
{
    size_t size = dtype_bytes(j->table->type), row = (size_t)j->table->cols * size;
    for (int t = t0; t < t0 + n; t++)
        dtype_widen(j->y + (size_t)t * j->D, (const uint8_t *)j->table->data + (size_t)j->id[t] * row, j->table->type,
                    (size_t)j->D);
}

static void row_task(void *ctx, int task, int worker)
{
    (void)worker;
    const row_job *j = ctx;
    int            t = task * j->step, n = j->T - t < j->step ? j->T - t : j->step;
    size_t         at = (size_t)t * j->D, at_ld = (size_t)t * j->ld;
    switch (j->op) {
    case LAYERNORM: j->isa->layernorm(j->y + at, j->x + at, n, j->D, j->gain, j->bias, j->eps); break;
    case RMSNORM: j->isa->rmsnorm(j->y + at, j->x + at, n, j->D, j->gain, j->eps); break;
    case GLU: j->isa->glu(j->y + at, j->x + at_ld, j->up + at_ld, j->ld, n, j->D, j->unit); break;
    case ROPE:
        j->isa->rope(j->y + at_ld, j->ld, n, j->n_heads, j->head_dim, j->cos_ + (size_t)t * j->half,
                     j->sin_ + (size_t)t * j->half, j->half, j->interleaved);
        break;
    case GATHER: gather_rows(j, t, n); break;
    }
}

static void run_rows(kernels *k, row_job *j)
{
    cpu *c = cpu_of(k);
    if (!c || j->T == 0) return;
    j->isa = c->isa;
    j->step = (size_t)j->T * (size_t)j->D < SERIAL_ELEMENTS ? j->T : ROWS_A_TASK;
    pool_run(c->pool, row_task, j, (j->T + j->step - 1) / j->step);
}

void cpu_layernorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, const weight *bias, float eps)
{
    run_rows(k, &(row_job){.op = LAYERNORM, .y = y, .x = x, .T = T, .D = D, .gain = gain->data,
                           .bias = bias ? bias->data : NULL, .eps = eps});
}

void cpu_rmsnorm(kernels *k, act *y, const act *x, int T, int D, const weight *gain, float eps)
{
    run_rows(k, &(row_job){.op = RMSNORM, .y = y, .x = x, .T = T, .D = D, .gain = gain->data, .eps = eps});
}

void cpu_glu(kernels *k, act *y, const act *gate, const act *up, int ld, int T, int F, unit u)
{
    run_rows(k, &(row_job){.op = GLU, .y = y, .x = gate, .up = up, .ld = ld, .T = T, .D = F, .unit = u});
}

void cpu_rope(kernels *k, act *x, int ld, int T, int n_heads, int head_dim, const float *cos_, const float *sin_,
              int half, bool interleaved)
{
    run_rows(k, &(row_job){.op = ROPE,
                           .y = x,
                           .ld = ld,
                           .T = T,
                           .D = n_heads * head_dim,
                           .n_heads = n_heads,
                           .head_dim = head_dim,
                           .cos_ = cos_,
                           .sin_ = sin_,
                           .half = half,
                           .interleaved = interleaved});
}

void cpu_gather(kernels *k, act *y, const weight *table, const int32_t *id, int T, int D)
{
    run_rows(k, &(row_job){.op = GATHER, .y = y, .table = table, .id = id, .T = T, .D = D});
}

void cpu_add(kernels *k, act *y, const act *x, size_t n)
{
    cpu *c = cpu_of(k);
    if (c) c->isa->add(y, x, n);
}

/* Row by row in order, so that the sum of a column has one order. */
void cpu_mean_rows(kernels *k, act *y, const act *x, int T, int D)
{
    cpu *c = cpu_of(k);
    if (!c) return;
    float *m = y;
    for (int i = 0; i < D; i++) m[i] = 0;
    for (int t = 0; t < T; t++) c->isa->add(m, (const float *)x + (size_t)t * D, (size_t)D);
    for (int i = 0; i < D && T > 0; i++) m[i] /= (float)T;
}
