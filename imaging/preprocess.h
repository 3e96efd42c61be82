/* preprocess.h - RGB to each model's pixels, bit for bit as their Python (slow, PIL) processors do.
 * The parameters come from the model's preprocessor_config.json. */
#ifndef JOMED_IMAGING_PREPROCESS_H
#define JOMED_IMAGING_PREPROCESS_H

#include "imaging/image.h"

typedef struct { float mean[3], std[3]; } pixel_norm; /* y = (u8 / 255 - mean) / std, one f32 rounding per
                                                         operation */

/* jina-clip: shortest side to S (bicubic), centre crop S x S. */
typedef struct { int size; pixel_norm norm; } jina_image_config;
bool jina_image_config_open(jina_image_config *out, const char *dir, err *e); /* dir/preprocessor_config.json */
/* *px [3,S,S] lives in a. cropped may be NULL. */
bool jina_pixels(float **px, image *cropped, const image *in, const jina_image_config *c, arena *a, err *e);

/* Qwen2-VL: smart_resize to multiples of patch * merge within pixel limits, bicubic, patches in merge-block order. */
typedef struct { int patch, merge, temporal; int64_t min_pixels, max_pixels; pixel_norm norm; } qwen2vl_image_config;
bool qwen2vl_image_config_open(qwen2vl_image_config *out, const char *dir, err *e);
/* New size of an H x W image. ERR_UNUSABLE, field "image": a side below patch * merge handled as the library of the
 * released code does (see the .c), or (image-aspect, also of jina_pixels) an aspect ratio over 200. */
bool qwen2vl_smart_resize(int *new_h, int *new_w, int h, int w, const qwen2vl_image_config *c, err *e);
typedef struct { int grid_h, grid_w; float *px; int P, F; } patches; /* px [P, F], F = 3 * temporal * patch^2 */
/* resized may be NULL. *out lives in a. */
bool qwen2vl_patches(patches *out, image *resized, const image *in, const qwen2vl_image_config *c, arena *a, err *e);
/* What qwen-vl-utils 0.0.8 makes of a picture before that processor sees it: smart_resize with its own limits. */
bool qwen_vl_utils_image(image *out, const image *in, arena *a, err *e);

/* Pixtral: a longer side above longest_edge is brought down to it, then both sides are stretched up to
 * multiples of the patch, bicubic; patches in raster order, [channel, row, column] inside a patch. */
typedef struct { int patch, longest_edge; pixel_norm norm; } pixtral_image_config;
bool pixtral_image_config_open(pixtral_image_config *out, const char *dir, err *e);
/* New size of an H x W image. ERR_UNUSABLE image-aspect, field "image": so thin that nothing is left of a side. */
bool pixtral_resize(int *new_h, int *new_w, int h, int w, const pixtral_image_config *c, err *e);
/* F = 3 * patch^2; resized may be NULL. *out lives in a. */
bool pixtral_patches(patches *out, image *resized, const image *in, const pixtral_image_config *c, arena *a, err *e);

#endif
