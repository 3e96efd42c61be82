/* preprocess.h - RGB to each model's pixels, bit for bit as their Python (slow, PIL) processors do: a plan, which the
 * table of kernels/ carries out where the model runs (kernels.h, pixels). The parameters come from the model's
 * preprocessor_config.json.
 * Plans borrow the picture's bytes; all else of them lives in a. */
#ifndef JOMED_IMAGING_PREPROCESS_H
#define JOMED_IMAGING_PREPROCESS_H

#include "imaging/image.h"
#include "kernels/kernels.h"

typedef struct { float mean[3], std[3]; } pixel_norm; /* y = (u8 / 255 - mean) / std, one f32 rounding per
                                                         operation */

/* jina-clip: shortest side to S (bicubic), centre crop S x S. */
typedef struct { int size; pixel_norm norm; } jina_image_config;
bool jina_image_config_open(jina_image_config *out, const char *dir, err *e); /* dir/preprocessor_config.json */
/* Patches in raster order; patch divides S. */
bool jina_plan(pixel_plan *out, const image *in, const jina_image_config *c, int patch, arena *a, err *e);

/* Qwen2-VL: smart_resize to multiples of patch * merge within pixel limits, bicubic, patches in merge-block order. */
typedef struct { int patch, merge, temporal; int64_t min_pixels, max_pixels; pixel_norm norm; } qwen2vl_image_config;
bool qwen2vl_image_config_open(qwen2vl_image_config *out, const char *dir, err *e);
/* New size of an H x W image. ERR_UNUSABLE, field "image": a side below patch * merge handled as the library of the
 * released code does (see the .c), or (image-aspect, also of jina_plan) an aspect ratio over 200. */
bool qwen2vl_smart_resize(int *new_h, int *new_w, int h, int w, const qwen2vl_image_config *c, err *e);
bool qwen2vl_plan(pixel_plan *out, const image *in, const qwen2vl_image_config *c, arena *a, err *e);
/* What qwen-vl-utils 0.0.8 makes of a picture before that processor sees it: smart_resize with its own limits. */
bool qwen_vl_utils_image(image *out, const image *in, arena *a, err *e);

/* Pixtral: a longer side above longest_edge is brought down to it, then both sides are stretched up to
 * multiples of the patch, bicubic; patches in raster order, [channel, row, column] inside a patch. */
typedef struct { int patch, longest_edge; pixel_norm norm; } pixtral_image_config;
bool pixtral_image_config_open(pixtral_image_config *out, const char *dir, err *e);
/* New size of an H x W image. ERR_UNUSABLE image-aspect, field "image": so thin that nothing is left of a side. */
bool pixtral_resize(int *new_h, int *new_w, int h, int w, const pixtral_image_config *c, err *e);
bool pixtral_plan(pixel_plan *out, const image *in, const pixtral_image_config *c, arena *a, err *e);

#endif
