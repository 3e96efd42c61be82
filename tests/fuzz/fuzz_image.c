/* fuzz_image.c - any bytes as a picture: no crash, no leak, memory bounded by the limits, an error that is one
 * of those promised; what decodes has the size that the header says, survives PNG, and can be resized. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "imaging/image.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

static void check_error(const err *e)
{
    MUST(e->code == ERR_UNSUPPORTED || e->code == ERR_UNUSABLE || e->code == ERR_TOO_LARGE || e->code == ERR_MEMORY);
    MUST(e->code == ERR_MEMORY || (e->problem && e->field && strcmp(e->field, "image") == 0));
    MUST(e->text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const image_limits lim = {.max_pixels = 1 << 18, .max_side = 4096, .min_side = 1};
    arena             *a = arena_new((size_t)16 << 20);
    err                e = {0}, peek = {0};
    image              img, back;
    int                w = 0, h = 0;
    MUST(a);
    bool peeked = image_peek(&w, &h, data, n, &lim, &peek);
    if (!peeked) check_error(&peek);
    if (!image_decode(&img, data, n, &lim, a, &e)) check_error(&e);
    else {
        MUST(peeked && img.width == w && img.height == h && w >= 1 && h >= 1);
        if (img.width * img.height <= 64 * 64) {
            uint8_t *png;
            size_t   png_bytes;
            MUST(image_encode_png(&png, &png_bytes, &img, a, &e));
            MUST(image_decode(&back, png, png_bytes, &lim, a, &e));
            MUST(memcmp(back.rgb, img.rgb, (size_t)w * h * 3) == 0);
            MUST(image_resize_nearest(&back, &img, 1 + h, 1 + w / 2, a, &e));
            MUST(image_resize_bicubic(&back, &img, 1 + h, 1 + w / 2, a, &e));
        }
    }
    arena_free(a);
    return 0;
}
