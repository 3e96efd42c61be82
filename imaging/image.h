/* image.h - bytes of a JPEG or PNG to 8-bit RGB, as Pillow's Image.open(...).convert("RGB") gives it.
 * Palette and grey are expanded, alpha is dropped (not blended), EXIF orientation
 * is not applied. Everything is bounded before it is decoded: pixels, sides, bytes, ancillary chunk memory.
 * TRAP: 16-bit colour keeps the high byte, but 16-bit grey is clipped at 255, because Pillow does so: a 16-bit
 * radiograph comes out nearly white. Then `clipped` is set, and whoever shows a result says IMAGE_CLIPPED with it. */
#ifndef JOMED_IMAGING_IMAGE_H
#define JOMED_IMAGING_IMAGE_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

typedef struct {
    int      width, height;
    uint8_t *rgb;     /* [H,W,3] u8 */
    bool     clipped; /* decoded from 16-bit grey with values above 255, all of which are 255 now: say so */
} image;

#define IMAGE_CLIPPED "the image is 16-bit grey and its values above 255 were clipped: window it to 8 bits first"

typedef struct { int64_t max_pixels; int max_side; int min_side; } image_limits;
extern const image_limits IMAGE_LIMITS; /* 64 M pixels, sides 1..32,767 */

typedef enum { MEDIA_NONE, MEDIA_PNG, MEDIA_JPEG } media_type;
media_type  image_sniff(const void *bytes, size_t n); /* by the first bytes */
const char *media_type_name(media_type t);            /* "image/png" */

/* *out lives in a. Errors, all with field "image":
 * ERR_UNSUPPORTED image-unsupported (neither PNG nor JPEG); ERR_TOO_LARGE image-too-large (over the limits,
 * before decoding); ERR_UNUSABLE image-undecodable (truncated, corrupt, no pixels), image-too-small (below
 * min_side). */
bool image_decode(image *out, const void *bytes, size_t n, const image_limits *lim, arena *a, err *e);
/* Size alone, from the header; same errors. */
bool image_peek(int *width, int *height, const void *bytes, size_t n, const image_limits *lim, err *e);

/* RGB (or grey, where all three are equal in every pixel) to PNG; *out lives in a. */
bool image_encode_png(uint8_t **out, size_t *n, const image *img, arena *a, err *e);

/* Pillow's Image.resize on RGB, bit for bit: bicubic (antialiased, 22-bit fixed point) and nearest.
 * [Pillow Resample.c, Geometry.c; ../shared/specs/models.md 2.1, 2.2]. *out lives in a; same size gives a copy. */
bool image_resize_bicubic(image *out, const image *in, int width, int height, arena *a, err *e);
bool image_resize_nearest(image *out, const image *in, int width, int height, arena *a, err *e);

void image_hash(uint8_t out[32], const image *img); /* which picture it is: SHA-256 over "W H\n" and the RGB bytes */

#endif
