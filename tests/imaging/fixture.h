/* fixture.h - what the imaging tests share: files, decoded goldens, the synthetic picture of specs/models.md 2.5. */
#ifndef JOMED_TESTS_IMAGING_FIXTURE_H
#define JOMED_TESTS_IMAGING_FIXTURE_H

#include <dirent.h>
#include "tests/check.h"
#include "base/file.h"
#include "base/safetensors.h"
#include "imaging/image.h"

/* The bytes of a file that must be there; free(). */
static inline uint8_t *slurp(const char *path, size_t *n)
{
    char *p;
    err   e = {0};
    OK(file_read(&p, n, path, (size_t)64 << 20, &e), e);
    return (uint8_t *)p;
}

/* S(w, h): byte (x, y, c) = 7x + 13y + 31c + (xy >> 3) + 5 (x xor y). */
static inline image synthetic(int w, int h, arena *a)
{
    err   e = {0};
    image img = {.width = w, .height = h, .rgb = arena_take_n(a, (size_t)w * 3, (size_t)h, &e)};
    if (!img.rgb) fail_msg("%s", e.text);
    uint8_t *p = img.rgb;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) *p++ = (uint8_t)(7 * x + 13 * y + 31 * c + ((x * y) >> 3) + (x ^ y) * 5);
    return img;
}

/* 64-bit FNV-1a */
static inline uint64_t fnv1a(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint64_t       h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static inline const tensor *need_tensor(const safetensors *s, const char *name)
{
    const tensor *t = safetensors_find(s, name);
    if (!t) fail_msg("no tensor %s", name);
    return t;
}

/* The image has exactly the golden's size and bytes. */
static inline void same_pixels(const image *img, const tensor *t, const char *name)
{
    if (t->n_dims != 3 || t->dim[0] != img->height || t->dim[1] != img->width || t->dim[2] != 3)
        fail_msg("%s: %d x %d, golden is %d x %d", name, img->width, img->height, (int)t->dim[1], (int)t->dim[0]);
    const uint8_t *want = t->data;
    for (int64_t i = 0; i < t->count; i++)
        if (img->rgb[i] != want[i])
            fail_msg("%s: pixel %d,%d channel %d is %d, golden %d", name, (int)(i / 3 % img->width),
                     (int)(i / 3 / img->width), (int)(i % 3), img->rgb[i], want[i]);
}

/* For each file of dir that ends in .png or .jpg. Returns how many. */
static inline int each_picture(const char *dir, void (*f)(const char *path, const char *name, void *ctx), void *ctx)
{
    DIR *d = opendir(dir);
    int  n = 0;
    if (!d) fail_msg("cannot open %s", dir);
    for (struct dirent *x; (x = readdir(d)) != NULL;) {
        const char *dot = strrchr(x->d_name, '.');
        if (!dot || (strcmp(dot, ".png") != 0 && strcmp(dot, ".jpg") != 0)) continue;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
        f(path, x->d_name, ctx);
        n++;
    }
    closedir(d);
    return n;
}

#endif
