/* codec.h - what image.c and the decoders share; not for other folders.
 * Both decoders work on bytes in memory, write straight into the arena, and turn every failure of their library into
 * one err. Neither library's message is passed on with anything of the file's content in it. */
#ifndef JOMED_IMAGING_CODEC_H
#define JOMED_IMAGING_CODEC_H

#include "imaging/image.h"

/* Sides as the header states them, before any memory is taken for pixels. */
bool image_check_size(int64_t width, int64_t height, const image_limits *lim, err *e);
/* ERR_UNUSABLE image-undecodable: what is the reason, in the words of the library. */
bool image_undecodable(err *e, const char *kind, const char *what);

bool image_png_peek(int *width, int *height, const uint8_t *bytes, size_t n, const image_limits *lim, err *e);
bool image_png_decode(image *out, const uint8_t *bytes, size_t n, const image_limits *lim, arena *a, err *e);
bool image_jpeg_peek(int *width, int *height, const uint8_t *bytes, size_t n, const image_limits *lim, err *e);
bool image_jpeg_decode(image *out, const uint8_t *bytes, size_t n, const image_limits *lim, arena *a, err *e);

#endif
