/* bench_index.c - what an index costs: building it without the model, opening it, searching both heads.
 *
 *   build/bench/bench_index FOLDER N [DIM [FACTORY [DEVICE]]]       N passages, DIM 768, FACTORY Flat, DEVICE cpu
 *
 * The items are 1 x 1 pictures of one .npz file with random unit vectors as embeddings, so that the builder's
 * own work is what is timed. FOLDER is made, and removed at the end. Times are processor time of the process
 * (so that a busy machine disturbs little), summed over OpenBLAS's threads: run with OPENBLAS_NUM_THREADS=1,
 * where it is the time an idle machine takes. Queries are random: 50 of them for each line. With a DEVICE of
 * cuda:N the search is the one on it, by the clock on the wall. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zip.h>

#include "index/build.h"
#include "index/index.h"

enum { QUERIES = 50 };

typedef struct { int dim; uint64_t seed; } random_vectors;

static double ms_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}
static double cpu_ms(void) { return ms_of(CLOCK_PROCESS_CPUTIME_ID); }

static void fail(const err *e)
{
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

static void unit_vector(float *z, int dim, uint64_t *seed)
{
    double sum = 0;
    for (int i = 0; i < dim; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        z[i] = (float)((double)(*seed >> 40) / (1 << 24) - 0.5);
        sum += (double)z[i] * z[i];
    }
    for (int i = 0; i < dim; i++) z[i] = (float)(z[i] / sqrt(sum));
}

static bool embed_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    random_vectors *r = ctx;
    (void)img, (void)a, (void)e;
    unit_vector(z, r->dim, &r->seed);
    return true;
}

static bool embed_text(void *ctx, const char *caption, float *z, arena *a, err *e)
{
    random_vectors *r = ctx;
    (void)caption, (void)a, (void)e;
    unit_vector(z, r->dim, &r->seed);
    return true;
}

static void *npy(const char *shape, const uint8_t *data, size_t bytes, size_t *n)
{
    char     dict[128];
    int      len = snprintf(dict, sizeof dict, "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }", shape);
    uint8_t *out = malloc(10 + (size_t)len + bytes);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (uint8_t)len;
    out[9] = 0;
    memcpy(out + 10, dict, (size_t)len);
    memcpy(out + 10 + len, data, bytes);
    *n = 10 + (size_t)len + bytes;
    return out;
}

/* N grey pixels and labels that say which of 200 captions. */
static void make_items(const char *npz, const char *captions, int n)
{
    char     shape[64];
    size_t   bytes;
    uint8_t *data = malloc((size_t)n);
    for (int i = 0; i < n; i++) data[i] = (uint8_t)(i % 200);
    zip_t *z = zip_open(npz, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    snprintf(shape, sizeof shape, "(%d, 1, 1)", n);
    void *images = npy(shape, data, (size_t)n, &bytes);
    zip_file_add(z, "train_images.npy", zip_source_buffer(z, images, bytes, 0), 0);
    snprintf(shape, sizeof shape, "(%d,)", n);
    void *labels = npy(shape, data, (size_t)n, &bytes);
    zip_file_add(z, "train_labels.npy", zip_source_buffer(z, labels, bytes, 0), 0);
    if (zip_close(z) != 0) exit(1);
    free(images), free(labels), free(data);

    /* 200 labels with 5000 captions each: no two neighbours share one. */
    FILE *f = fopen(captions, "w");
    for (int y = 0; y < 200; y++) {
        fprintf(f, "%s\"%d\": [", y ? ", " : "{", y);
        for (int c = 0; c < 5000; c++) fprintf(f, "%s\"Finding %d of kind %d.\"", c ? ", " : "", c, y);
        fputs("]", f);
    }
    fputs("}", f);
    fclose(f);
}

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static void time_search(passage_index *ix, kernels *kern, const char *what, int k, const exclusion *x)
{
    clockid_t     clock = kern->gpu < 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    static double ms[QUERIES];
    int           dim = index_describe(ix)->dim;
    float        *z = malloc((size_t)dim * sizeof *z);
    uint64_t      seed = 99;
    arena        *a = arena_new(0);
    for (int i = -3; i < QUERIES; i++) { /* three to warm up */
        hits   got;
        err    e = {0};
        unit_vector(z, dim, &seed);
        double start = ms_of(clock);
        for (int h = 0; h < N_HEADS; h++)
            if (!index_search(ix, kern, (head)h, z, k, x, &got, a, &e)) fail(&e);
        if (i >= 0) ms[i] = ms_of(clock) - start;
        arena_reset(a);
    }
    qsort(ms, QUERIES, sizeof *ms, by_value);
    printf("search, both heads, k %2d, %-24s %8.3f ms (95 %%: %.3f, least %.3f)\n", k, what, ms[QUERIES / 2],
           ms[QUERIES * 95 / 100], ms[0]);
    arena_free(a);
    free(z);
}

int main(int argc, char **argv)
{
    if (argc < 3) return fprintf(stderr, "usage: bench_index FOLDER N [DIM [FACTORY [DEVICE]]]\n"), 2;
    int            n = atoi(argv[2]), dim = argc > 3 ? atoi(argv[3]) : 768;
    char           npz[512], captions[512], out[512];
    random_vectors r = {dim, 1};
    build_counts   c;
    err            e = {0};
    passage_index *ix;
    kernels       *kern;
    if (!kernels_open(&kern, &(kernels_options){.device = argc > 5 ? argv[5] : "cpu"}, &e)) fail(&e);
    if (mkdir(argv[1], 0777) != 0) return perror(argv[1]), 1;
    snprintf(npz, sizeof npz, "%s/x.npz", argv[1]);
    snprintf(captions, sizeof captions, "%s/captions.json", argv[1]);
    snprintf(out, sizeof out, "%s/index", argv[1]);
    make_items(npz, captions, n);

    import_source src = {.kind = SOURCE_MEDMNIST, .path = npz, .captions = captions};
    build_options o = {.out = out,
                       .sources = &src,
                       .n_sources = 1,
                       .factory = argc > 4 ? argv[4] : "Flat",
                       .tool_version = "bench",
                       .quiet = true,
                       .embed = {embed_image, embed_text, &r, dim, "0123456789"}};
    double        start = cpu_ms();
    if (!index_build(&o, &c, &e)) fail(&e);
    double built = cpu_ms();
    printf("%d x %d, %s\nbuild without the model                     %8.1f s, %.0f items/s\n", n, dim, o.factory,
           (built - start) / 1000, n / (built - start) * 1000);
    if (!index_open(&ix, out, NULL, &e)) fail(&e);
    printf("open, checksums compared                    %8.0f ms\n", cpu_ms() - built);
    if (!index_use(ix, SEARCH_AUTO, kern, &e)) fail(&e);
    printf("searched by %s on %s\n", index_searcher(ix), kern->name);
    time_search(ix, kern, "", 2, NULL);
    time_search(ix, kern, "", 50, NULL);
    time_search(ix, kern, "one study excluded", 2, &(exclusion){.study = "none", .patient = "none"});
    index_close(ix);
    kern->close(kern);

    static const char *const file[] = {"index/manifest.json", "index/passages.db",  "index/image.faiss",
                                       "index/text.faiss",    "index/report.jsonl", "x.npz",
                                       "captions.json"};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        snprintf(out, sizeof out, "%s/%s", argv[1], file[i]);
        remove(out);
    }
    snprintf(out, sizeof out, "%s/index", argv[1]);
    rmdir(out);
    return rmdir(argv[1]) != 0;
}
