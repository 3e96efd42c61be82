/* pictures.h - several pictures in one pass of a vision tower: their patches lie one behind the other's,
 * products run over all of them, attention over each one's own. Internal to reader/. */
#ifndef JOMED_READER_PICTURES_H
#define JOMED_READER_PICTURES_H

#include "reader/family.h"

picture picture_from(const pixel_plan *p);       /* merge^2 patches are a token */
int picture_tokens(const picture *p);          /* of the decoder, as the prompt lays them out */
int picture_patches(const picture *p);
int pictures_patches(const picture *p, int n); /* of all n */

/* Pixels of all, to px [patches, width]. */
void pictures_pixels(kernels *k, act *px, const picture *p, int n, int width);

/* at [n]: each picture's patches among themselves; rows of qkv are [q | k | v], E wide each, out's are E wide. */
void pictures_attend(attend_args *at, const kernels *k, const picture *p, int n, const act *qkv, act *out, int E,
                     int heads);

#endif
