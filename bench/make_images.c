/* make_images.c - N distinct pictures for load tests: each a source picture with its pixels nudged by noise of
 * its own.
 *     make_images N OUT_DIR SOURCE.png...      writes OUT_DIR/00000.png ... */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "imaging/image.h"

/* xorshift64* [Vigna 2016]: any stream will do, as long as it is the same every time. */
static uint32_t next(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return (uint32_t)(*s * 0x2545f4914f6cdd1du >> 32);
}

static bool write_one(int i, const char *dir, const char *source, arena *a, err *e)
{
    char     path[4096], *bytes = NULL;
    size_t   n;
    image    img;
    uint8_t *png;
    uint64_t seed = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
    bool     ok = false;
    if (!file_read(&bytes, &n, source, 64 << 20, e) || !image_decode(&img, bytes, n, &IMAGE_LIMITS, a, e)) goto done;
    for (size_t p = 0; p < (size_t)img.width * (size_t)img.height; p++) {
        int step = (int)(next(&seed) % 9) - 4; /* the same for all channels: grey stays grey */
        for (int c = 0; c < 3; c++) {
            int v = img.rgb[3 * p + (size_t)c] + step;
            img.rgb[3 * p + (size_t)c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
    }
    if (!image_encode_png(&png, &n, &img, a, e)) goto done;
    snprintf(path, sizeof path, "%s/%05d.png", dir, i);
    FILE *f = fopen(path, "wb");
    ok = f && fwrite(png, 1, n, f) == n;
    ok = f && fclose(f) == 0 && ok;
    if (!ok) err_set(e, ERR_FILE, "%s: cannot be written", path);
done:
    free(bytes);
    return ok;
}

int main(int argc, char **argv)
{
    err    e = {0};
    int    n = argc > 3 ? atoi(argv[1]) : 0;
    arena *a = arena_new(0);
    if (n < 1 || !a) {
        fprintf(stderr, "usage: make_images N OUT_DIR SOURCE.png...\n");
        return 2;
    }
    for (int i = 0; i < n; i++, arena_reset(a))
        if (!write_one(i, argv[2], argv[3 + i % (argc - 3)], a, &e)) {
            fprintf(stderr, "make_images: %s\n", e.text);
            return 1;
        }
    arena_free(a);
    return 0;
}
