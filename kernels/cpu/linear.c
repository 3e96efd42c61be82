/* linear.c - products with weights: linear layers, and the head over the vocabulary. Splits work over threads; the
 * arithmetic is in gemm_isa.h. How work is split shows in no result: each output is computed whole by one worker. */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum {
    GROUP = 3,                 /* products that are run together */
    SERIAL_FLOPS = 500 * 1000, /* below this, waking another core costs more than it saves */
    SCORE_COLUMNS = 512,       /* of the vocabulary in a block: fixed, since sums are grouped by it */
    SCORE_ROWS = 64            /* rows of x that one pass over the vocabulary serves */
};

/* ---------------------------------------------------------------------------------------- activations to bf16 */
typedef struct { const isa *isa; uint32_t *pairs; const float *x; int T, K, ldx, step; } rounding;

static void round_rows(void *ctx, int task, int worker)
{
    (void)worker;
    const rounding *r = ctx;
    int t1 = (task + 1) * r->step < r->T ? (task + 1) * r->step : r->T, pairs = (r->K + 1) / 2;
    for (int t = task * r->step; t < t1; t++)
        r->isa->round_row(r->pairs + (size_t)t * pairs, r->x + (size_t)t * r->ldx, r->K);
}

static void round_to_f32(void *ctx, int task, int worker)
{
    (void)worker;
    const rounding *r = ctx;
    int t1 = (task + 1) * r->step < r->T ? (task + 1) * r->step : r->T;
    for (int t = task * r->step; t < t1; t++) {
        const float *x = r->x + (size_t)t * r->ldx;
        float       *y = (float *)r->pairs + (size_t)t * r->K;
        for (int i = 0; i < r->K; i++) y[i] = bf16_to_f32(bf16_from_f32(x[i]));
    }
}

/* Set g's operands; rounds x into scratch where the device multiplies bf16. False: scratch is spent (kept). */
static bool operands(cpu *c, gemm *g, const float *x, int ldx, int T, const weight *w)
{
    g->T = T;
    g->N = (int)w->rows;
    g->K = (int)w->cols;
    g->w = w->data;
    g->x = x;
    g->ldx = ldx;
    g->kind = w->type == DTYPE_BF16 ? PRODUCT_F32_BF16 : PRODUCT_F32;
    if (w->type != DTYPE_BF16 || c->products != PRECISION_BF16) return true;

    /* Without bf16 instructions the rounded values are multiplied as f32: the same products, added in another
     * order. */
    bool   dot = c->isa->dot;
    size_t row = dot ? (size_t)(g->K + 1) / 2 : (size_t)g->K;
    void  *room = c->k.take(&c->k, row * (size_t)T);
    if (!room) return false;
    rounding r = {.isa = c->isa, .pairs = room, .x = x, .T = T, .K = g->K, .ldx = ldx};
    bool serial = (size_t)T * (size_t)g->K < 64 * 1024;
    r.step = serial ? T : 16;
    pool_run(c->pool, dot ? round_rows : round_to_f32, &r, r.step ? (T + r.step - 1) / r.step : 0);
    g->x = room;
    g->ldx = (int)row;
    if (dot) g->kind = PRODUCT_BF16;
    return true;
}

/* ------------------------------------------------------------------------------------------------------ products */
/* A product in parts of n_step outputs by t_step rows. */
typedef struct { const gemm *g; int n_step, t_step, n_parts, tasks; } split;
typedef struct { cpu *c; split part[GROUP]; } splits;

static void run_part(void *ctx, int task, int worker)
{
    const splits *all = ctx;
    const split  *s = all->part;
    for (; task >= s->tasks; s++) task -= s->tasks;
    const gemm *g = s->g;
    int n = task % s->n_parts * s->n_step, t = task / s->n_parts * s->t_step;
    int n1 = n + s->n_step < g->N ? n + s->n_step : g->N, t1 = t + s->t_step < g->T ? t + s->t_step : g->T;
    all->c->isa->gemm(g, t, t1, n, n1, all->c->space[worker].gemm);
}

/* By columns, in runs of panels so that a worker can ask for its next one in time; by rows as well where there
 * are hardly more panels than workers. */
static split split_gemm(const cpu *c, const gemm *g, int threads)
{
    int   nr = c->isa->nr, panels = (g->N + nr - 1) / nr, run = panels / (4 * threads);
    if (run == 0) run = 1;
    split s = {.g = g, .n_step = nr * run, .t_step = g->T, .n_parts = (panels + run - 1) / run};
    if (panels < 2 * threads && g->T > 1) s.t_step = (g->T + threads - 1) / threads;
    s.tasks = g->T ? s.n_parts * ((g->T + s.t_step - 1) / s.t_step) : 0;
    return s;
}

/* n <= GROUP products that do not need each other: the workers are woken once. */
static void run_gemms(cpu *c, const gemm *g, int n)
{
    int    threads = pool_threads(c->pool), tasks = 0;
    double flops = 0;
    splits all = {.c = c};
    for (int i = 0; i < n; i++) flops += 2.0 * g[i].T * g[i].N * g[i].K;
    if (threads == 1 || flops < SERIAL_FLOPS) {
        for (int i = 0; i < n; i++)
            if (g[i].T && g[i].N) c->isa->gemm(&g[i], 0, g[i].T, 0, g[i].N, c->space[0].gemm);
        return;
    }
    for (int i = 0; i < n; i++) {
        all.part[i] = split_gemm(c, &g[i], threads);
        tasks += all.part[i].tasks;
    }
    pool_run(c->pool, run_part, &all, tasks);
}

static void run_gemm(cpu *c, const gemm *g) { run_gemms(c, g, 1); }

void cpu_linear(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w, const weight *bias,
                unit u, const act *residual)
{
    cpu *c = cpu_of(k);
    if (!c) return;
    size_t mark = k->mark(k);
    gemm   g = {.bias = bias ? bias->data : NULL, .residual = residual, .unit = u, .y = y, .ldy = ldy};
    if (operands(c, &g, x, ldx, T, w)) {
        run_gemm(c, &g);
        k->flops += product_flops(T, w);
    }
    k->back(k, mark);
}

void cpu_linears(kernels *k, const product_out *p, int n, const act *x, int ldx, int T)
{
    cpu *c = cpu_of(k);
    if (!c) return;
    gemm   g[GROUP];
    size_t mark = k->mark(k);
    for (int done = 0, m; done < n; done += m) {
        m = n - done < GROUP ? n - done : GROUP;
        bool ok = true;
        for (int i = 0; ok && i < m; i++) {
            const product_out *q = &p[done + i];
            bool               same = i > 0 && q->w->type == p[done].w->type; /* x is rounded once for both */
            g[i] = same ? g[0] : (gemm){0};
            if (!same) ok = operands(c, &g[i], x, ldx, T, q->w);
            g[i].N = (int)q->w->rows;
            g[i].w = q->w->data;
            g[i].bias = q->bias ? q->bias->data : NULL;
            g[i].y = q->y;
            g[i].ldy = q->ldy;
        }
        if (!ok) break;
        run_gemms(c, g, m);
        for (int i = 0; i < m; i++) k->flops += product_flops(T, p[done + i].w);
    }
    k->back(k, mark);
}

/* The branch's sums go on where the product's ended, so that it costs neither a pass over y nor a second
 * rounding of x.
 * TRAP: a of rank 1 is a vector to weight_open(), hence f32 whatever w is: then x is taken as it came. */
void cpu_linear_low_rank(kernels *k, act *y, int ldy, const act *x, int ldx, int T, const weight *w,
                         const weight *bias, const weight *a, const weight *b, unit u, const act *residual)
{
    cpu *c = cpu_of(k);
    if (!c) return;
    size_t mark = k->mark(k);
    int    R = (int)a->rows;
    gemm   g = {.bias = bias ? bias->data : NULL, .residual = residual, .unit = u, .y = y, .ldy = ldy}, in, out = {0};
    float *low = k->take(k, (size_t)T * (size_t)R);
    if (low && operands(c, &g, x, ldx, T, w)) {
        in = (gemm){
            .kind = g.kind, .T = T, .N = R, .K = g.K, .x = g.x, .ldx = g.ldx, .w = a->data, .y = low, .ldy = R};
        if (a->type == w->type || operands(c, &in, x, ldx, T, a)) run_gemm(c, &in);
        if (operands(c, &out, low, R, T, b)) {
            g.low = out.x;
            g.ld_low = out.ldx;
            g.b = b->data;
            g.R = R;
            run_gemm(c, &g);
            k->flops += product_flops(T, w) + product_flops(T, a) + product_flops(T, b);
        }
    }
    k->back(k, mark);
}

void cpu_logits(kernels *k, float *out, const act *x, int R, const weight *w)
{
    cpu_linear(k, out, (int)w->rows, x, (int)w->cols, R, w, NULL, UNIT_NONE, NULL);
}

/* ----------------------------------------------------------------------------------------------------- scoring
 * The vocabulary in blocks of SCORE_COLUMNS: each gives the largest logit and the sum of exp(logit - largest)
 * of every row. Blocks are then joined in their order, so neither threads nor R show in a result, and [R,V]
 * logits are never in memory. */
typedef struct {
    cpu           *c;
    gemm           g;
    int            r0, R, n;
    float         *logits;    /* [threads, SCORE_ROWS, SCORE_COLUMNS] */
    float         *max, *sum; /* [blocks, R] */
    const int32_t *row, *token;
    float         *logit;
} scoring;

static void score_block(void *ctx, int block, int worker)
{
    const scoring *s = ctx;
    const isa     *set = s->c->isa;
    int            v0 = block * SCORE_COLUMNS, v1 = v0 + SCORE_COLUMNS < s->g.N ? v0 + SCORE_COLUMNS : s->g.N;
    float         *l = s->logits + (size_t)worker * SCORE_ROWS * SCORE_COLUMNS;
    gemm           g = s->g; /* the block as a product of its own, so that it is written densely */

    g.w = (const uint8_t *)g.w + (size_t)v0 * (size_t)g.K * (g.kind == PRODUCT_F32 ? 4 : 2);
    g.N = v1 - v0;
    g.y = l;
    g.ldy = SCORE_COLUMNS;
    set->gemm(&g, 0, s->R, 0, g.N, s->c->space[worker].gemm);
    for (int r = 0; r < s->R; r++)
        set->max_sum(l + (size_t)r * SCORE_COLUMNS, g.N, &s->max[(size_t)block * s->R + r],
                     &s->sum[(size_t)block * s->R + r]);
    for (int p = 0; p < s->n; p++) {
        int r = s->row[p] - s->r0;
        if (r >= 0 && r < s->R && s->token[p] >= v0 && s->token[p] < v1)
            s->logit[p] = l[(size_t)r * SCORE_COLUMNS + s->token[p] - v0];
    }
}

/* log sum exp of row r from the blocks' largest and sums */
static float join_blocks(const scoring *s, int r, int blocks)
{
    double max = -INFINITY, sum = 0;
    for (int b = 0; b < blocks; b++) {
        double m = s->max[(size_t)b * s->R + r];
        if (m > max) { sum *= exp(max - m); max = m; }
        sum += s->sum[(size_t)b * s->R + r] * exp(m - max);
    }
    return (float)(max + log(sum));
}

void cpu_score(kernels *k, float *logit, float *lse, const act *x, int R, const weight *w, const int32_t *row,
               const int32_t *token, int n)
{
    cpu *c = cpu_of(k);
    if (!c || n == 0) return;
    size_t mark = k->mark(k);
    int    blocks = ((int)w->rows + SCORE_COLUMNS - 1) / SCORE_COLUMNS, K = (int)w->cols;
    for (int r0 = 0; r0 < R; r0 += SCORE_ROWS) {
        scoring s = {.c = c,
                     .r0 = r0,
                     .R = R - r0 < SCORE_ROWS ? R - r0 : SCORE_ROWS,
                     .n = n,
                     .row = row,
                     .token = token,
                     .logit = logit};
        bool ready = operands(c, &s.g, (const float *)x + (size_t)r0 * (size_t)K, K, s.R, w);
        s.logits = k->take(k, (size_t)pool_threads(c->pool) * SCORE_ROWS * SCORE_COLUMNS);
        s.max = k->take(k, (size_t)blocks * (size_t)s.R);
        s.sum = k->take(k, (size_t)blocks * (size_t)s.R);
        if (!ready || !s.logits || !s.max || !s.sum) break;
        pool_run(c->pool, score_block, &s, blocks);
        for (int p = 0; p < n; p++)
            if (row[p] >= r0 && row[p] < r0 + s.R) lse[p] = join_blocks(&s, row[p] - r0, blocks);
        k->flops += product_flops(s.R, w);
        k->back(k, mark);
    }
    k->back(k, mark);
}
