/* bench_imaging.c - what a picture costs before the towers see it: decoding, resizing, each model's preprocessing.
 *
 *   build/bench/bench_imaging [SECONDS]       default: 0.5 s a line
 *
 * One core, processor time of this thread (so that a busy machine disturbs little), median and 95th percentile.
 * The picture is a smooth scene with noise, as an X-ray is: its JPEG (4:2:0, quality 90) and PNG are of
 * realistic size. Pictures rotate through 16 copies. The arena is warm, as in a server. */
#include <stdio.h> /* jpeglib.h needs FILE */

#include <jpeglib.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>
#include "imaging/preprocess.h"

enum { COPIES = 16, MAX_ROUNDS = 20000 };

typedef struct {
    image    img[COPIES];
    uint8_t *jpeg, *png;
    size_t   jpeg_bytes, png_bytes;
} picture;

#define CLIP_NORM {{0.48145466f, 0.4578275f, 0.40821073f}, {0.26862954f, 0.26130258f, 0.27577711f}}
static const qwen2vl_image_config QWEN = {
    .patch = 14, .merge = 2, .temporal = 2, .min_pixels = 3136, .max_pixels = 12845056, .norm = CLIP_NORM};
static const jina_image_config    JINA = {.size = 224, .norm = CLIP_NORM};

static void fail(const err *e)
{
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

static void scene(image *img, int side, uint32_t seed, arena *a)
{
    err e = {0};
    *img = (image){.width = side, .height = side, .rgb = arena_take_n(a, (size_t)side * 3, (size_t)side, &e)};
    if (!img->rgb) fail(&e);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int c = 0; c < 3; c++) {
                seed = seed * 1664525u + 1013904223u;
                double v = 120 + 70 * sin(9.0 * x / side + c) * cos(7.0 * y / side) + (seed >> 28) - 8;
                img->rgb[((size_t)y * side + x) * 3 + c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
            }
}

static void to_jpeg(picture *p)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr       errors;
    unsigned long               n = 0;
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &p->jpeg, &n);
    c.image_width = (JDIMENSION)p->img[0].width;
    c.image_height = (JDIMENSION)p->img[0].height;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 90, TRUE);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = p->img[0].rgb + (size_t)c.next_scanline * p->img[0].width * 3;
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    p->jpeg_bytes = n;
}

/* ---- what is timed -------------------------------------------------------------------------------------------- */

typedef bool (*stage)(const picture *p, int copy, arena *a, err *e);

static bool decode_jpeg(const picture *p, int copy, arena *a, err *e)
{
    image img;
    (void)copy;
    return image_decode(&img, p->jpeg, p->jpeg_bytes, &IMAGE_LIMITS, a, e);
}

static bool decode_png(const picture *p, int copy, arena *a, err *e)
{
    image img;
    (void)copy;
    return image_decode(&img, p->png, p->png_bytes, &IMAGE_LIMITS, a, e);
}

static bool encode_png(const picture *p, int copy, arena *a, err *e)
{
    uint8_t *png;
    size_t   n;
    return image_encode_png(&png, &n, &p->img[copy], a, e);
}

static bool bicubic_224(const picture *p, int copy, arena *a, err *e)
{
    image out;
    return image_resize_bicubic(&out, &p->img[copy], 224, 224, a, e);
}

static bool bicubic_up(const picture *p, int copy, arena *a, err *e)
{
    image out;
    return image_resize_bicubic(&out, &p->img[copy], p->img[copy].width * 5 / 4, p->img[copy].height * 5 / 4, a, e);
}

static bool nearest_256(const picture *p, int copy, arena *a, err *e)
{
    image out;
    return image_resize_nearest(&out, &p->img[copy], 256, 256, a, e);
}

static kernels *kern; /* the CPU's */

static bool make_pixels(const pixel_plan *p, err *e)
{
    size_t mark = kern->mark(kern);
    kern->pixels(kern, kern->take(kern, (size_t)3 * p->temporal * p->x.n_out * p->y.n_out), p);
    kern->back(kern, mark);
    return kern->sync(kern, e);
}

static bool jina(const picture *p, int copy, arena *a, err *e)
{
    pixel_plan plan;
    return jina_plan(&plan, &p->img[copy], &JINA, 16, a, e) && make_pixels(&plan, e);
}

static bool qwen(const picture *p, int copy, arena *a, err *e)
{
    pixel_plan plan;
    return qwen2vl_plan(&plan, &p->img[copy], &QWEN, a, e) && make_pixels(&plan, e);
}

static bool both_models(const picture *p, int copy, arena *a, err *e)
{
    return jina(p, copy, a, e) && qwen(p, copy, a, e);
}

static double thread_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, stage run, const picture *p, double seconds, arena *a)
{
    static double t[MAX_ROUNDS];
    err           e = {0};
    const double  until = thread_ms() + seconds * 1000;
    int           n = 0;
    for (int i = 0; i < 3 || (thread_ms() < until && n < MAX_ROUNDS); i++) {
        arena_reset(a);
        const double start = thread_ms();
        if (!run(p, i % COPIES, a, &e)) fail(&e);
        if (i >= 2) t[n++] = thread_ms() - start; /* two to warm up */
    }
    qsort(t, (size_t)n, sizeof *t, ascending);
    printf("%4d px  %-22s median %7.3f ms   p95 %7.3f ms   %5d runs\n", p->img[0].width, name, t[n / 2],
           t[(int)(n * 0.95)], n);
}

int main(int argc, char **argv)
{
    static const int side[] = {224, 512, 1024, 2048};
    static const struct { const char *name; stage run; } stages[] = {
        {"decode JPEG", decode_jpeg}, {"decode PNG", decode_png},    {"encode PNG", encode_png},
        {"bicubic to 224", bicubic_224}, {"bicubic by 1.25", bicubic_up}, {"nearest to 256", nearest_256},
        {"jina", jina},               {"Qwen2-VL", qwen},            {"jina and Qwen2-VL", both_models},
    };
    const double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    err          no_table = {0};
    if (!kernels_open(&kern, &(kernels_options){.device = "cpu", .threads = 1}, &no_table)) fail(&no_table);
    for (size_t i = 0; i < sizeof side / sizeof *side; i++) {
        arena  *keep = arena_new(0), *a = arena_new(0);
        picture p = {0};
        err     e = {0};
        if (!keep || !a) return 1;
        for (int k = 0; k < COPIES; k++) scene(&p.img[k], side[i], (uint32_t)k, keep);
        to_jpeg(&p);
        if (!image_encode_png(&p.png, &p.png_bytes, &p.img[0], keep, &e)) fail(&e);
        printf("%4d px  JPEG %zu bytes, PNG %zu bytes\n", side[i], p.jpeg_bytes, p.png_bytes);
        for (size_t k = 0; k < sizeof stages / sizeof *stages; k++)
            measure(stages[k].name, stages[k].run, &p, seconds, a);
        free(p.jpeg);
        arena_free(a);
        arena_free(keep);
    }
    kern->close(kern);
    return 0;
}
