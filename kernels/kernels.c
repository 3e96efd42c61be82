/* kernels.c - which device a kernels is for. */
#include "kernels/kernels.h"

#include <string.h>
#include "kernels/cpu/cpu.h"

bool kernels_open(kernels **out, const kernels_options *o, err *e)
{
    const char *device = o->device ? o->device : "auto";
    if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0) return cpu_open(out, o, NULL, e);
    return err_at(e, ERR_USAGE, NULL, "device", "device: unknown; this build has auto and cpu");
}

void kernels_fail(kernels *k, err_code code, const char *text)
{
    err_set(&k->failed, code, "%s", text);
}
