/* bench_reader.c - how fast is a reader on this machine: prefill, vision, decode, and one case cold and warm.
 *     bench_reader DIR [--threads N] [--products bf16|f32|own] [--tokens 512] [--image 448] [--decode 32]
 *                      [--repeats 5] [--k 4] [--case-image 224] [--answers 2] [--adapter DIR]
 *                      [--device cpu] [--pass-tokens N]: what one packed pass takes (default: as the device says)
 * own: bf16 and, on a GPU, all products by our own kernels, none by cuBLASLt.
 * A line each: median and best of the repeats, mean processor time of all threads, GFLOP/s (of the median) by
 * the kernels' own count. The first run is not counted. Ends with the peak of resident memory beside the size
 * of the weights. Pictures are grey noise, tokens random: a forward pass takes the same time whatever they say.
 * With an adapter each task is run without and with it in turn, and what it adds is said in processor time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"
#include "reader/generate.h"
#include "reader/reader_internal.h"

enum { MAX_REPEATS = 100 };

typedef struct {
    const char *dir, *adapter_dir, *device;
    int         threads, tokens, image_px, decode, repeats, k, case_px, answers, pass_tokens;
    precision   products;
    bool        own_products;
} options;

typedef struct {
    options o;
    kernels *k;
    reader *r;
    arena *a;
    uint32_t seed;
    int adapter; /* of the run under way */
} bench;

/* One thing to time: false with e set on failure. units: what the rate counts. */
typedef struct { const char *name, *unit; double units; bool (*run)(bench *b, void *arg, err *e); void *arg; } task;

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Of all threads: what a run costs, also on a machine that does other things. */
static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

typedef struct { double ms[MAX_REPEATS], cpu, flops; } timing;

static bool time_once(bench *b, const task *t, timing *y, int i, err *e)
{
    arena_mark am = arena_here(b->a);
    size_t     mark = b->k->mark(b->k);
    uint64_t   flops = b->k->flops;
    double     start = clock_ms(), cpu_start = cpu_ms();
    if (!t->run(b, t->arg, e) || !b->k->sync(b->k, e)) return false;
    if (i >= 0) {
        y->ms[i] = clock_ms() - start;
        y->cpu += (cpu_ms() - cpu_start) / b->o.repeats;
    }
    y->flops = (double)(b->k->flops - flops);
    b->k->back(b->k, mark);
    arena_back(b->a, am);
    return true;
}

static bool time_it(bench *b, const task *t, err *e)
{
    timing y[2] = {0};
    int    variants = b->o.adapter_dir ? 2 : 1;
    for (int i = -1; i < b->o.repeats; i++) /* -1: warm-up */
        for (b->adapter = 0; b->adapter < variants; b->adapter++)
            if (!time_once(b, t, &y[b->adapter], i, e)) return false;
    for (int v = 0; v < variants; v++) {
        qsort(y[v].ms, (size_t)b->o.repeats, sizeof *y[v].ms, compare);
        double median = y[v].ms[b->o.repeats / 2];
        printf("%-28s %10.2f ms median %10.2f best %10.2f cpu %10.1f %s/s %8.1f GFLOP/s\n",
               v ? "  with the adapter" : t->name, median, y[v].ms[0], y[v].cpu, 1000 * t->units / median, t->unit,
               y[v].flops / median / 1e6);
    }
    if (variants == 2)
        printf("  the adapter adds %.1f %% of processor time, %.1f %% of FLOPs\n", 100 * (y[1].cpu / y[0].cpu - 1),
               100 * (y[1].flops / y[0].flops - 1));
    fflush(stdout);
    return true;
}

static uint32_t next(bench *b) { return (b->seed = b->seed * 1664525u + 1013904223u) >> 8; }

/* ---- the four tasks ---- */

static bool make_tokens(bench *b, int n, prompt *p, int32_t **pos, err *e)
{
    int vocab = bpe_vocab(b->r->tokens);
    *p = (prompt){.ids = ARENA_NEW(b->a, int32_t, n, e), .n_ids = n};
    *pos = p->ids ? ARENA_NEW(b->a, int32_t, 3 * n, e) : NULL;
    if (!*pos) return false;
    for (int i = 0; i < n; i++) p->ids[i] = (int32_t)(next(b) % (uint32_t)vocab);
    b->r->f->positions(*pos, p, 0);
    return true;
}

/* A prompt up to the logits of its last token. */
static bool prefill(bench *b, void *arg, err *e)
{
    const decoder *d = b->r->m->text;
    kernels       *k = b->k;
    size_t         D = (size_t)decoder_sizes(d)->D;
    int            T = b->o.tokens;
    prompt         p;
    int32_t       *pos;
    (void)arg;
    if (!make_tokens(b, T, &p, &pos, e)) return false;
    float *logits = ARENA_NEW(b->a, float, decoder_sizes(d)->V, e);
    if (!logits) return false;
    kv   own = {k->take(k, decoder_kv_len(d, T)), T, 0};
    act *x = k->take(k, (size_t)T * D), *last = act_at(k, x, (size_t)(T - 1) * D);
    decoder_embed(d, k, &p, NULL, x);
    decoder_pass pass = {.own = &own, .pos = pos, .x = x, .T = T, .adapter = b->adapter, .want = T - 1};
    if (!decoder_forward(d, k, &pass, b->a, e)) return false;
    decoder_norm(d, k, last, 1);
    k->logits(k, logits, last, 1, decoder_head(d));
    return true;
}

static bool noise(bench *b, int side, image *out, err *e)
{
    size_t n = (size_t)side * (size_t)side;
    *out = (image){.width = side, .height = side, .rgb = ARENA_NEW(b->a, uint8_t, 3 * n, e)};
    if (!out->rgb) return false;
    for (size_t i = 0; i < n; i++) memset(out->rgb + 3 * i, (int)(next(b) & 255), 3);
    return true;
}

static bool vision(bench *b, void *arg, err *e)
{
    const picture *p = arg;
    act *out = b->k->take(b->k, (size_t)p->rows * (size_t)p->cols * (size_t)decoder_sizes(b->r->m->text)->D);
    return b->r->f->encode(b->r->m, b->k, b->adapter, p, 1, out, NULL, b->a, e);
}

/* decode + 1 tokens behind a prompt of one: the first comes out of the prompt's own pass. */
static bool decode(bench *b, void *arg, err *e)
{
    prompt   p;
    int32_t *pos, *ids = ARENA_NEW(b->a, int32_t, b->o.decode, e);
    int      n;
    (void)arg;
    if (!ids || !make_tokens(b, 1, &p, &pos, e)) return false;
    generate_args g = {.p = &p, .pos = pos, .cursor = 1, .adapter = b->adapter, .max_new = b->o.decode, .stop = -1};
    return generate_greedy(b->r->m->text, b->k, &g, ids, &n, b->a, e);
}

typedef struct { image query, z; bool cold; int prompt_tokens; } case_images;

static bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    (void)id, (void)a, (void)e;
    *out = ((case_images *)ctx)->z;
    return true;
}

static bool one_case(bench *b, void *arg, err *e)
{
    case_images   *c = arg;
    reader_scores  s;
    reader_passage z[64];
    if (c->cold) reader_cache_clear(b->r);
    for (int i = 0; i < b->o.k; i++) z[i] = (reader_passage){i, "Ultrasound of the breast showing a benign finding."};
    static const char *const few[] = {"Yes", "No"}, *const letters[] = {
                                                        "A", "B", "C", "D", "E", "F", "G", "H", "I",
                                                        "J", "K", "L", "M", "N", "O", "P"}; /* of one token each */
    reader_query q = {.img = &c->query,
                      .question = "Does this breast ultrasound image show signs of cancer?",
                      .answers = b->o.answers == 2 ? few : letters,
                      .A = b->o.answers,
                      .z = z,
                      .K = b->o.k,
                      .load = load,
                      .load_ctx = c,
                      .adapter = b->adapter};
    bool ok = reader_score(b->r, b->k, &q, b->a, &s, e);
    if (ok) c->prompt_tokens = s.prompt_tokens;
    return ok;
}

static bool run(bench *b, err *e)
{
    image       img;
    picture     pic;
    case_images c = {0};
    char        name[4][64];
    const options *o = &b->o;
    if (!noise(b, o->image_px, &img, e) || !b->r->f->prepare(b->r->m, &pic, &img, IMAGE_NATIVE, b->a, e))
        return false;
    if (!noise(b, o->case_px, &c.query, e) || !noise(b, o->case_px, &c.z, e)) return false;
    snprintf(name[0], 64, "prefill %d tokens", o->tokens);
    snprintf(name[1], 64, "vision %d px, %d tokens", o->image_px, pic.rows * pic.cols);
    snprintf(name[2], 64, "decode %d tokens", o->decode);
    snprintf(name[3], 64, "case K=%d %d px, ", o->k, o->case_px);
    const task tasks[] = {{name[0], "tokens", o->tokens, prefill, NULL}, {name[1], "images", 1, vision, &pic},
                          {name[2], "tokens", o->decode, decode, NULL}};
    for (int i = 0; i < 3; i++)
        if (!time_it(b, &tasks[i], e)) return false;
    for (int warm = 0; o->k > 0 && warm < 2; warm++) {
        char both[80];
        snprintf(both, sizeof both, "%s%s", name[3], warm ? "warm" : "cold");
        c.cold = !warm;
        if (!time_it(b, &(task){both, "cases", 1, one_case, &c}, e)) return false;
    }
    if (o->k > 0) printf("  %d candidates of %d tokens, %d answers\n", o->k, c.prompt_tokens, o->answers);
    return true;
}

static bool parse(options *o, int argc, char **argv)
{
    const struct { const char *name; int *at; int least, most; } number[] = {
        {"--threads", &o->threads, 1, 1024}, {"--tokens", &o->tokens, 2, 32768}, {"--image", &o->image_px, 28, 4096},
        {"--decode", &o->decode, 1, 4096}, {"--repeats", &o->repeats, 1, MAX_REPEATS}, {"--k", &o->k, 0, 64},
        {"--case-image", &o->case_px, 28, 4096}, {"--answers", &o->answers, 2, 16},
        {"--pass-tokens", &o->pass_tokens, 1, 1 << 20}};
    *o = (options){.dir = argc > 1 ? argv[1] : NULL,
                   .threads = 1,
                   .tokens = 512,
                   .image_px = 448,
                   .decode = 32,
                   .repeats = 5,
                   .k = 4,
                   .case_px = 224,
                   .answers = 2,
                   .products = PRECISION_BF16,
                   .device = "cpu"};
    for (int i = 2; i + 1 < argc; i += 2) {
        size_t j = 0;
        if (strcmp(argv[i], "--adapter") == 0) {
            o->adapter_dir = argv[i + 1];
            continue;
        }
        if (strcmp(argv[i], "--device") == 0) {
            o->device = argv[i + 1];
            continue;
        }
        if (strcmp(argv[i], "--products") == 0) {
            o->products = strcmp(argv[i + 1], "f32") == 0 ? PRECISION_F32 : PRECISION_BF16;
            o->own_products = strcmp(argv[i + 1], "own") == 0;
            continue;
        }
        while (j < sizeof number / sizeof *number && strcmp(argv[i], number[j].name) != 0) j++;
        if (j == sizeof number / sizeof *number) return false;
        *number[j].at = atoi(argv[i + 1]);
        if (*number[j].at < number[j].least || *number[j].at > number[j].most) return false;
    }
    return o->dir && argc % 2 == 0;
}

int main(int argc, char **argv)
{
    bench b = {.seed = 1};
    err   e = {0};
    if (!parse(&b.o, argc, argv)) {
        fprintf(
            stderr,
            "usage: bench_reader DIR [--threads N] [--products bf16|f32|own] [--tokens N] [--image PX]\n"
            "                    [--decode N] [--repeats N] [--k K] [--case-image PX] [--answers N] [--adapter DIR] [--device NAME]\n"
            "                    [--pass-tokens N]\n");
        return 2;
    }
    double          start = clock_ms();
    kernels_options ko = {.device = b.o.device, .products = b.o.products, .own_products = b.o.own_products,
                          .threads = b.o.threads};
    reader_adapter  adapter = {"adapter", b.o.adapter_dir};
    reader_options ro = {
        .cache_bytes = (size_t)1 << 30, .adapters = &adapter, .n_adapters = b.o.adapter_dir ? 1 : 0};
    b.a = arena_new(0);
    bool ok = b.a && kernels_open(&b.k, &ko, &e) && reader_open(&b.r, b.o.dir, &ro, b.k, &e);
    if (ok && b.o.pass_tokens) b.k->pass_tokens = b.o.pass_tokens;
    if (ok) {
        printf("%s, %s products, %lld parameters, opened in %.0f ms\n", b.k->name,
               b.o.products == PRECISION_F32 ? "f32" : "bf16", (long long)reader_parameters(b.r),
               clock_ms() - start);
        ok = run(&b, &e);
    }
    if (ok) {
        struct rusage u;
        getrusage(RUSAGE_SELF, &u);
        double peak = (double)u.ru_maxrss / 1024, file = (double)safetensors_bytes(b.r->file) / 1048576;
        printf("peak resident %.0f MB, weights %.0f MB, difference %.0f MB\n", peak, file, peak - file);
    } else fprintf(stderr, "bench_reader: %s\n", e.text);
    reader_close(b.r);
    if (b.k) b.k->close(b.k);
    arena_free(b.a);
    return ok ? 0 : 1;
}
