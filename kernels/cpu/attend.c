/* attend.c - attention over threads: a task is a block of query rows of one key/value head of one sequence; see
 * attend_isa.h. */
#include "kernels/cpu/cpu.h"

enum { TOGETHER = 64 }; /* sequences whose tasks are shared out in one run */

/* Tasks from `first` on are this sequence's: blocks of `step` queries, for one key/value head after the other. */
typedef struct { const attend_args *a; int first, blocks, step; } part;
typedef struct { cpu *c; int n; part p[TOGETHER]; } attending;

static void attend_task(void *ctx, int task, int worker)
{
    const attending *t = ctx;
    cpu_space       *s = &t->c->space[worker];
    const part      *p = &t->p[t->n - 1];
    while (p->first > task) p--;
    int          own = task - p->first, i0 = own % p->blocks * p->step, left = p->a->n_q - i0;
    attend_block b = {.a = p->a, .kv_head = own / p->blocks, .i0 = i0, .n_i = left < p->step ? left : p->step,
                      .q = s->q, .keys = s->keys, .values = s->values, .out = s->out};
    t->c->isa->attend(&b);
}

static bool can_attend(const attend_args *a)
{
    return a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0 && a->n_heads / a->n_kv_heads <= ATTEND_ROWS
           && a->head_dim <= ATTEND_MAX_DIM;
}

/* Up to TOGETHER sequences: the threads share the blocks of all of them. */
static void attend_some(cpu *c, const attend_args *a, int n)
{
    attending t = {.c = c};
    uint64_t  flops = 0;
    int       tasks = 0;
    for (int i = 0; i < n; i++) {
        if (a[i].n_q == 0) continue;
        if (!can_attend(&a[i])) {
            kernels_fail(&c->k, ERR_BUG, "kernels: attention of more than 256 dimensions a head or 96 heads a group");
            return;
        }
        int per = ATTEND_ROWS / (a[i].n_heads / a[i].n_kv_heads), blocks = (a[i].n_q + per - 1) / per;
        int step = (a[i].n_q + blocks - 1) / blocks;
        blocks = (a[i].n_q + step - 1) / step;
        t.p[t.n++] = (part){&a[i], tasks, blocks, step};
        tasks += blocks * a[i].n_kv_heads;
        flops += 4 * attend_pairs(&a[i]) * (uint64_t)a[i].n_heads * (uint64_t)a[i].head_dim;
    }
    if (flops < 200 * 1000) /* not worth another core */
        for (int i = 0; i < tasks; i++) attend_task(&t, i, 0);
    else
        pool_run(c->pool, attend_task, &t, tasks);
    c->k.flops += flops;
}

void cpu_attend(kernels *k, const attend_args *a, int n)
{
    cpu *c = cpu_of(k);
    for (int i = 0; c && i < n; i += TOGETHER) attend_some(c, a + i, n - i < TOGETHER ? n - i : TOGETHER);
}
