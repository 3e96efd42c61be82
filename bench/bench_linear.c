/* bench_linear.c - our products beside oneDNN's and OpenBLAS's, at the shapes of Qwen2-VL-2B and at 2048 cubed.
 *
 *   build/bench/bench_linear [THREADS [SECONDS [T]]]       default: all cores, 0.4 s a cell, all rows of the table
 *
 * All five are timed in turn, round after round, so that a change of clock meets them alike; the table shows
 * the median.
 *   ours bf16     kernels' linear: f32 activations in, rounded to bf16 on the way (that is counted); bf16
 *                 weights as mapped
 *   ours f32      kernels' linear with exact f32 products of the same bf16 weights
 *   dnnl plain    oneDNN matmul bf16 x bf16 -> f32 on the weights as they lie, [N,K]
 *   dnnl packed   the same on weights in the layout that oneDNN chooses: a second copy of the model, not counted
 *   openblas      sgemm on weights widened beforehand: twice the memory, not counted
 * The libraries are given x in the form that they want. Weights rotate through 150 MB, so that they come from memory.
 * Needs libdnnl-dev. With one thread the clock is that thread's processor time, so that a machine's other work
 * disturbs less. */
#include <cblas.h>
#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "kernels/kernels.h"

enum { WAYS = 5, MAX_ROUNDS = 400 };
static const char *const WAY[WAYS] = {"ours bf16", "ours f32", "dnnl plain", "dnnl packed", "openblas"};
typedef struct { int T, N, K; } shape;
static const shape SHAPES[] = {
    {2048, 2048, 2048},
    {1, 1536, 1536}, {1, 8960, 1536}, {1, 1536, 8960},
    {16, 1536, 1536}, {16, 8960, 1536},
    {64, 1536, 1536}, {64, 8960, 1536}, {64, 1536, 8960},
    {128, 1536, 1536}, {128, 8960, 1536}, {128, 1536, 8960},
    {512, 1536, 1536}, {512, 8960, 1536}, {512, 1536, 8960},
    {1024, 3840, 1280}, {1024, 5120, 1280}, {1024, 1280, 5120},
};

static void check(dnnl_status_t s, const char *what)
{
    if (s == dnnl_success) return;
    fprintf(stderr, "oneDNN: %s: status %d\n", what, s);
    exit(1);
}

typedef struct { dnnl_primitive_t p; dnnl_exec_arg_t arg[3]; dnnl_stream_t stream; } matmul;

static matmul matmul_new(dnnl_engine_t eng, dnnl_stream_t stream, const shape *s, uint16_t *x, uint16_t *w,
                         float *y, bool packed)
{
    matmul m = {.stream = stream};
    dnnl_memory_desc_t xd, wd, wa, yd;
    check(dnnl_memory_desc_init_by_tag(&xd, 2, (dnnl_dims_t){s->T, s->K}, dnnl_bf16, dnnl_ab), "x");
    check(dnnl_memory_desc_init_by_tag(&wd, 2, (dnnl_dims_t){s->K, s->N}, dnnl_bf16, dnnl_ba), "w");
    check(dnnl_memory_desc_init_by_tag(&wa, 2, (dnnl_dims_t){s->K, s->N}, dnnl_bf16,
                                       packed ? dnnl_format_tag_any : dnnl_ba),
          "w");
    check(dnnl_memory_desc_init_by_tag(&yd, 2, (dnnl_dims_t){s->T, s->N}, dnnl_f32, dnnl_ab), "y");
    dnnl_matmul_desc_t d;
    check(dnnl_matmul_desc_init(&d, &xd, &wa, NULL, &yd), "matmul");
    dnnl_primitive_desc_t pd;
    check(dnnl_primitive_desc_create(&pd, &d, NULL, eng, NULL), "primitive");
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_memory_t mx, mw, my, plain;
    check(dnnl_memory_create(&mx, &xd, eng, x), "x");
    check(dnnl_memory_create(&plain, &wd, eng, w), "w");
    check(dnnl_memory_create(&my, &yd, eng, y), "y");
    mw = plain;
    if (packed && !dnnl_memory_desc_equal(chosen, &wd)) {
        check(dnnl_memory_create(&mw, chosen, eng, DNNL_MEMORY_ALLOCATE), "packed");
        dnnl_primitive_desc_t rd;
        dnnl_primitive_t      r;
        check(dnnl_reorder_primitive_desc_create(&rd, &wd, eng, chosen, eng, NULL), "reorder");
        check(dnnl_primitive_create(&r, rd), "reorder");
        check(dnnl_primitive_execute(r, stream, 2, (dnnl_exec_arg_t[]){{DNNL_ARG_SRC, plain}, {DNNL_ARG_DST, mw}}),
              "reorder");
        dnnl_stream_wait(stream);
        dnnl_primitive_destroy(r);
    }
    check(dnnl_primitive_create(&m.p, pd), "primitive");
    m.arg[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, mx};
    m.arg[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, mw};
    m.arg[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, my};
    return m;
}

static void execute(const matmul *m)
{
    check(dnnl_primitive_execute(m->p, m->stream, 3, m->arg), "execute");
    dnnl_stream_wait(m->stream);
}

static double now_ms(int threads)
{
    if (threads > 1) return clock_ms();
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int      threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs();
    double   budget_ms = (argc > 2 ? atof(argv[2]) : 0.4) * 1000 * WAYS;
    int      only = argc > 3 ? atoi(argv[3]) : 0;
    kernels *exact, *fast;
    err      e = {0};
    if (!kernels_open(&exact, &(kernels_options){.threads = threads}, &e) ||
        !kernels_open(&fast, &(kernels_options){.threads = threads, .products = PRECISION_BF16}, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    omp_set_num_threads(threads);
    openblas_set_num_threads(threads);
    dnnl_engine_t eng;
    dnnl_stream_t stream;
    check(dnnl_engine_create(&eng, dnnl_cpu, 0), "engine");
    check(dnnl_stream_create(&stream, eng, dnnl_stream_default_flags), "stream");
    printf("%s; oneDNN %d.%d.%d; %s\nGFLOP/s, median\n%5s %5s %5s", fast->name, dnnl_version()->major,
           dnnl_version()->minor, dnnl_version()->patch, openblas_get_config(), "T", "N", "K");
    for (int i = 0; i < WAYS; i++) printf(" %12s", WAY[i]);
    printf("   bf16/best dnnl   f32/openblas\n");

    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        shape  s = SHAPES[i];
        if (only && s.T != only) continue;
        size_t nx = (size_t)s.T * s.K, nw = (size_t)s.N * s.K, ny = (size_t)s.T * s.N;
        int    copies = (int)(75e6 / (double)nw) + 1;
        copies = copies < 64 ? copies : 64;
        float    *x = malloc(nx * 4), *y = malloc(ny * 4), *wf = malloc(nw * 4 * (size_t)copies);
        uint16_t *xb = malloc(nx * 2), *w = malloc(nw * 2 * (size_t)copies);
        matmul   *plain = malloc(sizeof *plain * (size_t)copies), *packed = malloc(sizeof *packed * (size_t)copies);
        if (!x || !y || !wf || !xb || !w || !plain || !packed) return 1;
        for (size_t j = 0; j < nx; j++)
            xb[j] = bf16_from_f32(x[j] = (float)((j * 2654435761u >> 7) % 2001) / 1000 - 1);
        for (size_t j = 0; j < nw * (size_t)copies; j++)
            wf[j] = bf16_to_f32(w[j] = bf16_from_f32((float)((j * 2246822519u >> 7) % 2001) / 1000 - 1));
        for (int c = 0; c < copies; c++) {
            plain[c] = matmul_new(eng, stream, &s, xb, w + nw * (size_t)c, y, false);
            packed[c] = matmul_new(eng, stream, &s, xb, w + nw * (size_t)c, y, true);
        }
        static double ms[WAYS][MAX_ROUNDS];
        int    rounds = 0;
        double begin = clock_ms();
        /* round -1 is the warm-up */
        for (int r = -1; r < MAX_ROUNDS && (r < 5 || clock_ms() - begin < budget_ms); r++)
            for (int way = 0; way < WAYS; way++) {
                int rest = threads > 1; /* the libraries' threads spin for milliseconds after a call: let them
                                           go to sleep */
                if (rest) nanosleep(&(struct timespec){.tv_nsec = 20 * 1000000}, NULL);
                for (; rest >= 0; rest--) { /* then one call to wake up, and one that counts */
                    int    c = (2 * r + 2 + rest) % copies;
                    weight ww = {.data = w + nw * (size_t)c, .type = DTYPE_BF16, .rows = s.N, .cols = s.K};
                    double t = now_ms(threads);
                    switch (way) {
                    case 0: fast->linear(fast, y, s.N, x, s.K, s.T, &ww, NULL, UNIT_NONE, NULL); break;
                    case 1: exact->linear(exact, y, s.N, x, s.K, s.T, &ww, NULL, UNIT_NONE, NULL); break;
                    case 2: execute(&plain[c]); break;
                    case 3: execute(&packed[c]); break;
                    default:
                        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, s.T, s.N, s.K, 1, x, s.K,
                                    wf + nw * (size_t)c, s.K, 0, y, s.N);
                    }
                    if (r >= 0) ms[way][r] = now_ms(threads) - t;
                }
                rounds = r + 1;
            }
        double rate[WAYS];
        printf("%5d %5d %5d", s.T, s.N, s.K);
        for (int way = 0; way < WAYS; way++) {
            qsort(ms[way], (size_t)rounds, sizeof(double), by_value);
            rate[way] = 2.0 * s.T * s.N * s.K / ms[way][rounds / 2] / 1e6;
            printf(" %12.1f", rate[way]);
        }
        double best = rate[2] > rate[3] ? rate[2] : rate[3];
        printf(" %12.2f %14.2f\n", rate[0] / best, rate[1] / rate[4]);
        fflush(stdout);
        free(x), free(y), free(wf), free(xb), free(w), free(plain), free(packed);
    }
    exact->close(exact);
    fast->close(fast);
    return 0;
}
