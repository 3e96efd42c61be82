/* none.c - a build without CUDA (GPU=0, or no nvcc): there is no GPU, and asking for one says why. */
#include "kernels/cuda/cuda.h"
#include "kernels/range.h"

bool cuda_find(int *device, err *e)
{
    (void)e;
    *device = -1;
    return true;
}

bool cuda_open(kernels **out, const kernels_options *o, int device, err *e)
{
    (void)out, (void)o;
    return err_at(e, ERR_USAGE, NULL, "device",
                  "device: cuda:%d: this build has no CUDA; build with nvcc, or take auto or cpu", device);
}

void range_begin(const char *name) { (void)name; }
void range_end(void) { }
