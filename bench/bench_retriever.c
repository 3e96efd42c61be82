/* bench_retriever.c - what a query costs before the search: picture to embedding, caption to embedding.
 *   bench_retriever DIR IMAGE [THREADS] [REPEATS]   median and 95th percentile, one line a stage
 *   bench_retriever --random DIR TOKENIZER          write a checkpoint of jina-clip-v1's published sizes with random
 *                                                   weights (F32, 890 MB) and this tokenizer.json, to time the
 *                                                   real size
 * One thread is timed by its processor time, which other load on the machine hardly moves; more threads by the
 * wall clock. Every repeat embeds another picture (one pixel differs), so nothing can be reused between
 * them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "imaging/preprocess.h"
#include "retriever/retriever.h"

static int die(const err *e) { return fprintf(stderr, "bench_retriever: %s\n", e->text), 1; }

/* ---- a random checkpoint ---- */

typedef struct { FILE *f; char *header; size_t len, offset; uint64_t seed; bool writing; } writer;

/* One tensor: in the first pass its header entry, in the second its values, uniform with that standard deviation. */
static void tensor_out(writer *w, const char *name, double mean, double deviation, int n_dims, const int64_t *dim)
{
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)dim[i];
    if (!w->writing) {
        w->len += (size_t)sprintf(w->header + w->len, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[",
                                  w->len > 1 ? "," : "", name);
        for (int i = 0; i < n_dims; i++)
            w->len += (size_t)sprintf(w->header + w->len, "%s%lld", i ? "," : "", (long long)dim[i]);
        w->len +=
            (size_t)sprintf(w->header + w->len, "],\"data_offsets\":[%zu,%zu]}", w->offset, w->offset + 4 * count);
        w->offset += 4 * count;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
        float v = (float)(mean + deviation * sqrt(12.0) * ((double)(w->seed >> 40) / (1 << 24) - 0.5));
        fwrite(&v, sizeof v, 1, w->f);
    }
}

static void vector_out(writer *w, const char *stem, const char *part, double mean, int64_t n)
{
    char name[400];
    snprintf(name, sizeof name, "%.200s%.100s", stem, part);
    tensor_out(w, name, mean, 0.1, 1, (int64_t[]){n});
}

static void matrix_out(writer *w, const char *stem, const char *part, int64_t rows, int64_t cols)
{
    char name[400];
    snprintf(name, sizeof name, "%.200s%.100s", stem, part);
    tensor_out(w, name, 0, 1 / sqrt((double)cols), 2, (int64_t[]){rows, cols});
}

static void norm_out(writer *w, const char *stem, const char *part, int64_t n)
{
    char name[400];
    snprintf(name, sizeof name, "%.200s%.100s", stem, part);
    vector_out(w, name, ".weight", 1, n);
    vector_out(w, name, ".bias", 0, n);
}

static void linear_out(writer *w, const char *stem, const char *part, int64_t rows, int64_t cols)
{
    char name[400];
    snprintf(name, sizeof name, "%.200s%.100s", stem, part);
    matrix_out(w, name, ".weight", rows, cols);
    vector_out(w, name, ".bias", 0, rows);
}

static void published_tensors(writer *w)
{
    enum { D = 768, VF = 2048, TF = 3072, L = 12, V = 30528 };
    char s[96];
    tensor_out(w, "vision_model.cls_token", 0, 0.1, 3, (int64_t[]){1, 1, D});
    tensor_out(w, "vision_model.pos_embed", 0, 0.1, 3, (int64_t[]){1, 197, D});
    tensor_out(w, "vision_model.patch_embed.proj.weight", 0, 0.036, 4, (int64_t[]){D, 3, 16, 16});
    vector_out(w, "vision_model.patch_embed.proj", ".bias", 0, D);
    norm_out(w, "vision_model.norm", "", D);
    for (int l = 0; l < L; l++) {
        snprintf(s, sizeof s, "vision_model.blocks.%d.", l);
        norm_out(w, s, "norm1", D);
        norm_out(w, s, "norm2", D);
        matrix_out(w, s, "attn.q_proj.weight", D, D);
        matrix_out(w, s, "attn.k_proj.weight", D, D);
        matrix_out(w, s, "attn.v_proj.weight", D, D);
        vector_out(w, s, "attn.q_bias", 0, D);
        vector_out(w, s, "attn.v_bias", 0, D);
        norm_out(w, s, "attn.inner_attn_ln", D);
        linear_out(w, s, "attn.proj", D, D);
        linear_out(w, s, "mlp.w1", VF, D);
        linear_out(w, s, "mlp.w2", VF, D);
        norm_out(w, s, "mlp.ffn_ln", VF);
        linear_out(w, s, "mlp.w3", D, VF);
    }
    matrix_out(w, "text_model.transformer.embeddings.word_embeddings", ".weight", V, D);
    matrix_out(w, "text_model.transformer.embeddings.token_type_embeddings", ".weight", 2, D);
    norm_out(w, "text_model.transformer.emb_ln", "", D);
    for (int l = 0; l < L; l++) {
        snprintf(s, sizeof s, "text_model.transformer.encoder.layers.%d.", l);
        linear_out(w, s, "mixer.Wqkv", 3 * D, D);
        linear_out(w, s, "mixer.out_proj", D, D);
        norm_out(w, s, "norm1", D);
        norm_out(w, s, "norm2", D);
        matrix_out(w, s, "mlp.gated_layers.weight", 2 * TF, D);
        linear_out(w, s, "mlp.wo", D, TF);
    }
}

static int make_random(const char *dir, const char *tokenizer)
{
    static const char CONFIG[] = "{\"model_type\": \"jina_clip\"}\n"; /* all sizes by default: the published ones */
    static const char PREPROCESSOR[] =
        "{\"size\": 224, \"mean\": [0.48145466, 0.4578275, 0.40821073],"
        " \"std\": [0.26862954, 0.26130258, 0.27577711], \"resize_mode\": \"shortest\","
        " \"interpolation\": \"bicubic\", \"fill_color\": 0}\n";
    char   path[4096], *words;
    size_t n;
    err    e = {0};
    writer w = {.header = malloc(1 << 20), .seed = 20240917};
    if (!w.header) return 1;
    mkdir(dir, 0777);
    if (!path_join(path, sizeof path, dir, "config.json", &e) || !file_write(path, CONFIG, sizeof CONFIG - 1, &e)
        || !path_join(path, sizeof path, dir, "preprocessor_config.json", &e)
        || !file_write(path, PREPROCESSOR, sizeof PREPROCESSOR - 1, &e)
        || !file_read(&words, &n, tokenizer, 1 << 28, &e)
        || !path_join(path, sizeof path, dir, "tokenizer.json", &e) || !file_write(path, words, n, &e)
        || !path_join(path, sizeof path, dir, "model.safetensors", &e))
        return die(&e);
    free(words);
    if (!(w.f = fopen(path, "wb"))) return perror(path), 1;
    w.len = (size_t)sprintf(w.header, "{");
    published_tensors(&w);
    while (w.len % 8 != 7) w.header[w.len++] = ' ';
    w.header[w.len++] = '}';
    uint64_t len = w.len;
    fwrite(&len, 8, 1, w.f);
    fwrite(w.header, 1, w.len, w.f);
    w.writing = true;
    published_tensors(&w);
    free(w.header);
    return fclose(w.f) ? (perror(path), 1) : 0;
}

/* ---- timing ---- */

static double now_ms(int threads)
{
    struct timespec t;
    if (threads > 1) return clock_ms();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, double *ms, int n, double flops)
{
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    printf("%-28s %9.3f %9.3f", what, ms[n / 2], ms[(int)ceil(0.95 * (n - 1))]);
    if (flops > 0) printf(" %10.1f %8.1f", flops / 1e6, flops / ms[n / 2] / 1e6);
    putchar('\n');
}

typedef struct {
    retriever *r;
    kernels *k;
    int threads;
    arena *a;
    image img;
    jina_image_config c;
    float *z[N_HEADS];
} bench;
typedef bool (*work)(bench *b, int i, err *e);

static bool do_pixels(bench *b, int i, err *e)
{
    pixel_plan p;
    kernels   *x = kernels_exact(b->k);
    size_t     mark = x->mark(x);
    (void)i;
    if (!jina_plan(&p, &b->img, &b->c, 16, b->a, e)) return false;
    x->pixels(x, x->take(x, (size_t)3 * b->c.size * b->c.size), &p);
    x->back(x, mark);
    return x->sync(x, e);
}
static bool do_image(bench *b, int i, err *e)
{
    return (void)i, retriever_embed_image(b->r, b->k, &b->img, b->z[0], b->a, e);
}
static bool do_queries(bench *b, int i, err *e)
{
    return (void)i, retriever_embed_queries(b->r, b->k, &b->img, b->z, b->a, e);
}
static bool do_caption(bench *b, int i, err *e)
{
    static const char *const TEXT[] = {"Breast ultrasound of a malignant lesion, cancer.",
                                       "Chest X-ray of a child, normal lungs.",
                                       "Fundus photograph, mild diabetic retinopathy, grade 1."};
    return retriever_embed_text(b->r, b->k, TEXT[i % 3], 0, b->z[0], b->a, e);
}
static bool do_long_caption(bench *b, int i, err *e)
{
    static char text[4096];
    if (!*text)
        while (strlen(text) < 4000) strcat(text, "normal chest ");
    (void)i;
    return retriever_embed_text(b->r, b->k, text, 0, b->z[0], b->a, e);
}

static bool time_it(const char *what, work w, bench *b, int n, err *e)
{
    double *ms = calloc((size_t)n, sizeof *ms);
    uint64_t flops = 0;
    bool ok = ms != NULL;
    for (int i = -n / 10 - 2; ok && i < n; i++, arena_reset(b->a)) { /* the first tenth is warm-up */
        b->img.rgb[((unsigned)i * 7919u) % (unsigned)(b->img.width * b->img.height * 3)] ^= 1;
        flops = b->k->flops;
        double t = now_ms(b->threads);
        ok = w(b, i < 0 ? 0 : i, e);
        if (i >= 0) ms[i] = now_ms(b->threads) - t;
        flops = b->k->flops - flops;
    }
    if (ok) report(what, ms, n, (double)flops);
    free(ms);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--random") == 0) return make_random(argv[2], argv[3]);
    if (argc < 3)
        return fprintf(stderr, "usage: bench_retriever DIR IMAGE [THREADS] [REPEATS] | --random DIR TOKENIZER\n"),
               2;
    int             threads = argc > 3 ? atoi(argv[3]) : 1, n = argc > 4 ? atoi(argv[4]) : 1000;
    err             e = {0};
    char           *bytes;
    size_t          size;
    bench           b = {.threads = threads, .a = arena_new(0)};
    arena          *keep = arena_new(0); /* the picture outlives the resets */
    kernels_options o = {.device = "cpu", .products = PRECISION_F32, .threads = threads};
    if (!b.a || !keep || n < 1) return 1;
    double t = clock_ms();
    if (!kernels_open(&b.k, &o, &e) || !retriever_open(&b.r, argv[1], b.k, &e)) return die(&e);
    double opened = clock_ms() - t;
    if (!jina_image_config_open(&b.c, argv[1], &e) || !file_read(&bytes, &size, argv[2], 1 << 26, &e) ||
        !image_decode(&b.img, bytes, size, &IMAGE_LIMITS, keep, &e))
        return die(&e);
    for (int h = 0; h < N_HEADS; h++)
        if (!(b.z[h] = ARENA_NEW(keep, float, retriever_dim(b.r), &e))) return die(&e);

    printf("%s: %lld parameters, opened and hashed in %.0f ms; %s; picture %d x %d; %d repeats\n", argv[1],
           (long long)retriever_parameters(b.r), opened, b.k->name, b.img.width, b.img.height, n);
    printf("%-28s %9s %9s %10s %8s\n", "", "median ms", "p95 ms", "MFLOP", "GFLOP/s");
    if (!time_it("preprocess", do_pixels, &b, n, &e) || !time_it("embed image", do_image, &b, n, &e)
        || !time_it("queries of both heads", do_queries, &b, n, &e)
        || !time_it("embed caption", do_caption, &b, n, &e)
        || !time_it("embed caption, 256 tokens", do_long_caption, &b, n / 4 + 1, &e))
        return die(&e);
    free(bytes);
    retriever_close(b.r);
    b.k->close(b.k);
    arena_free(b.a);
    arena_free(keep);
    return 0;
}
