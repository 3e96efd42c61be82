#include "imaging/policy.h"

#include <string.h>

enum { LONGEST = 256, LEAST = 28, MAX_ASPECT = 200, CLAMPED_ASPECT = 180 };

static const char *const NAME[N_IMAGE_POLICIES] = {"native", "jomed-256"};

bool image_policy_parse(image_policy *out, const char *name)
{
    for (int i = 0; i < N_IMAGE_POLICIES; i++)
        if (strcmp(name, NAME[i]) == 0) return *out = (image_policy)i, true;
    return false;
}

const char *image_policy_name(image_policy p) { return NAME[p]; }

/* TRAP: a double, multiplied and cut, as Python's int(n * f) does: 322 * (256.0 / 322) is just below 256, so
 * this picture becomes 255 wide. 272 of the sizes from 257 to 2999 end there; n * 256 / longest would give 256
 * for all. */
static int scaled(int n, double f)
{
    const int m = (int)(n * f);
    return m > LEAST ? m : LEAST;
}

bool jomed_256(image *out, const image *in, arena *a, err *e)
{
    image     img = *in;
    const int longest = in->width > in->height ? in->width : in->height;
    if (longest > LONGEST) {
        const double f = (double)LONGEST / longest;
        if (!image_resize_nearest(&img, in, scaled(in->width, f), scaled(in->height, f), a, e)) return false;
    }
    /* Only pictures that were not resized can still be this thin. */
    if (img.width > MAX_ASPECT * img.height) {
        if (!image_resize_nearest(&img, &img, CLAMPED_ASPECT * img.height, img.height, a, e)) return false;
    } else if (img.height > MAX_ASPECT * img.width) {
        if (!image_resize_nearest(&img, &img, img.width, CLAMPED_ASPECT * img.width, a, e)) return false;
    }
    *out = img;
    return true;
}
