/* resize.h - the weights of Pillow's bicubic resize, for what resizes a picture: image_resize_bicubic() here, and the
 * pixels that the tables of kernels/ make. Internal to imaging/ and tests. */
#ifndef JOMED_IMAGING_RESIZE_H
#define JOMED_IMAGING_RESIZE_H

#include "imaging/image.h"
#include "kernels/kernels.h"

/* The axis from n_in samples to n_all, of which n_out are kept, from number first on; all lives in a. */
bool pixel_axis_make(pixel_axis *x, int n_in, int n_all, int first, int n_out, arena *a, err *e);

#endif
