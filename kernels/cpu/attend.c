/* attend.c - attention over threads: a task is a block of query rows of one key/value head; see attend_isa.h. */
#include "kernels/cpu/cpu.h"

typedef struct { cpu *c; const attend_args *a; int blocks, step; } attending;

static void attend_task(void *ctx, int task, int worker)
{
    const attending *t = ctx;
    cpu_space       *s = &t->c->space[worker];
    int              i0 = task % t->blocks * t->step, left = t->a->n_q - i0;
    attend_block b = {.a = t->a, .kv_head = task / t->blocks, .i0 = i0, .n_i = left < t->step ? left : t->step,
                      .q = s->q, .keys = s->keys, .values = s->values, .out = s->out};
    t->c->isa->attend(&b);
}

/* (query, key) pairs that are not masked, of one head */
static uint64_t visible_pairs(const attend_args *a)
{
    uint64_t all = (uint64_t)a->span[0].n + (uint64_t)a->span[1].n, n_q = (uint64_t)a->n_q;
    if (a->mask == ATTEND_ALL) return n_q * all;
    uint64_t nodes = a->mask == ATTEND_TREE ? (uint64_t)a->n_tree : 0, before = n_q - nodes, pairs = 0;
    pairs += before * (all - n_q) + before * (before + 1) / 2 + nodes * (all - nodes);
    for (uint64_t i = 0; i < nodes * nodes; i++) pairs += a->visible[i] != 0;
    return pairs;
}

void cpu_attend(kernels *k, const attend_args *a)
{
    cpu *c = cpu_of(k);
    if (!c || a->n_q == 0) return;
    int group = a->n_heads / a->n_kv_heads, per = group ? ATTEND_ROWS / group : 0;
    if (a->head_dim > ATTEND_MAX_DIM || per == 0 || a->n_heads % a->n_kv_heads != 0) {
        kernels_fail(k, ERR_BUG, "kernels: attention of more than 256 dimensions a head or 96 heads a group");
        return;
    }
    int       blocks = (a->n_q + per - 1) / per;
    attending t = {.c = c, .a = a, .blocks = blocks, .step = (a->n_q + blocks - 1) / blocks};
    t.blocks = (a->n_q + t.step - 1) / t.step;
    uint64_t flops = 4 * visible_pairs(a) * (uint64_t)a->n_heads * (uint64_t)a->head_dim;
    if (flops < 200 * 1000) /* not worth another core */
        for (int i = 0; i < t.blocks * a->n_kv_heads; i++) attend_task(&t, i, 0);
    else
        pool_run(c->pool, attend_task, &t, t.blocks * a->n_kv_heads);
    k->flops += flops;
}
