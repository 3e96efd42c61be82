/* image.c - what kind of picture, how large, and which decoder; cropping. */
#include "imaging/image.h"

#include <stdio.h>
#include <string.h>
#include <nettle/sha2.h>

#include "imaging/codec.h"

const image_limits IMAGE_LIMITS = {.max_pixels = (int64_t)64 << 20, .max_side = 32767, .min_side = 1};

static const uint8_t PNG_SIGNATURE[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

media_type image_sniff(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    if (n >= sizeof PNG_SIGNATURE && memcmp(p, PNG_SIGNATURE, sizeof PNG_SIGNATURE) == 0) return MEDIA_PNG;
    if (n >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff) return MEDIA_JPEG;
    return MEDIA_NONE;
}

const char *media_type_name(media_type t)
{
    switch (t) {
    case MEDIA_PNG: return "image/png";
    case MEDIA_JPEG: return "image/jpeg";
    case MEDIA_NONE: break;
    }
    return "application/octet-stream";
}

bool image_undecodable(err *e, const char *kind, const char *what)
{
    return err_at(e, ERR_UNUSABLE, "image-undecodable", "image", "the %s does not decode: %s", kind, what);
}

bool image_check_size(int64_t width, int64_t height, const image_limits *lim, err *e)
{
    if (width < 1 || height < 1)
        return err_at(e, ERR_UNUSABLE, "image-undecodable", "image", "the image has no pixels: %lld x %lld",
                      (long long)width, (long long)height);
    if (width > lim->max_side || height > lim->max_side)
        return err_at(e, ERR_TOO_LARGE, "image-too-large", "image",
                      "the image is %lld x %lld; a side may have %d pixels", (long long)width, (long long)height,
                      lim->max_side);
    if (width * height > lim->max_pixels)
        return err_at(e, ERR_TOO_LARGE, "image-too-large", "image",
                      "the image is %lld x %lld; it may have %lld pixels", (long long)width, (long long)height,
                      (long long)lim->max_pixels);
    if (width < lim->min_side || height < lim->min_side)
        return err_at(e, ERR_UNUSABLE, "image-too-small", "image",
                      "the image is %lld x %lld; a side must have %d pixels", (long long)width, (long long)height,
                      lim->min_side);
    return true;
}

static bool unsupported(err *e)
{
    return err_at(e, ERR_UNSUPPORTED, "image-unsupported", "image", "the image is neither PNG nor JPEG");
}

bool image_peek(int *width, int *height, const void *bytes, size_t n, const image_limits *lim, err *e)
{
    switch (image_sniff(bytes, n)) {
    case MEDIA_PNG: return image_png_peek(width, height, bytes, n, lim, e);
    case MEDIA_JPEG: return image_jpeg_peek(width, height, bytes, n, lim, e);
    case MEDIA_NONE: break;
    }
    return unsupported(e);
}

bool image_decode(image *out, const void *bytes, size_t n, const image_limits *lim, arena *a, err *e)
{
    const arena_mark before = arena_here(a);
    image            img = {0};
    bool             ok = false;
    switch (image_sniff(bytes, n)) {
    case MEDIA_PNG: ok = image_png_decode(&img, bytes, n, lim, a, e); break;
    case MEDIA_JPEG: ok = image_jpeg_decode(&img, bytes, n, lim, a, e); break;
    case MEDIA_NONE: ok = unsupported(e); break;
    }
    if (ok) *out = img;
    else arena_back(a, before); /* the pixels of a picture that failed half-way are nobody's */
    return ok;
}

void image_hash(uint8_t out[32], const image *img)
{
    char              size[32];
    struct sha256_ctx c;
    int               n = snprintf(size, sizeof size, "%d %d\n", img->width, img->height);
    sha256_init(&c);
    sha256_update(&c, (size_t)n, (const uint8_t *)size);
    sha256_update(&c, (size_t)img->width * (size_t)img->height * 3, img->rgb);
    sha256_digest(&c, 32, out);
}
