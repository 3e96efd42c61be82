/* control.h - what a test can tell the emulated device (C and C++). */
#ifndef JOMED_SIMT_CONTROL_H
#define JOMED_SIMT_CONTROL_H

#include <stddef.h>
#include <stdint.h>
#include "tests/simt/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif
/* The call to the runtime API number n from now (0: the next one) gives `status`. cudaErrorMemoryAllocation is given
 * once; every other code for ever after, as a lost device does. simt_fail(cudaSuccess, 0) mends the device. */
void simt_fail(cudaError_t status, long n);
long simt_calls(void);                 /* to the runtime API that can fail, so far */
void simt_set_devices(int n);          /* 0: no GPU in the machine; 1 at start */
void simt_set_memory(size_t bytes);    /* of the device; 16 GiB at start */
size_t simt_memory_used(void);         /* bytes allocated on the device: 0 when nothing leaked */
long simt_handles_used(void);          /* streams, events, graphs, pinned blocks not yet given back */

/* What the kernels launched since simt_count(1) moved (traffic.cc): in sum, or of the one launched by that name (what
 * LAUNCH was given). Nothing is counted at start, nor in a build with AddressSanitizer. */
typedef struct {
    uint64_t shared, shared_least; /* wavefronts of shared memory */
    uint64_t global, global_least; /* sectors of 32 bytes of device memory */
} simt_traffic;
void simt_count(int on);
simt_traffic simt_counted(const char *kernel);

/* The cuBLASLt that is found next (cublaslt.cc): a letter for each algorithm that it proposes, the first first;
 * NULL: there is none. At start "s".
 *     s  sound: in another order than our kernels, so that it shows where the two are mixed
 *     t  a row's bits change with T        w  wrong numbers       n  refuses few rows     x  does not run
 *     k  splits K     r  reduces     m  wants a workspace     ?  not to be had: its state is an error */
void simt_cublaslt(const char *algorithms);
void simt_cublaslt_start(int status);        /* what cublasLtCreate gives from now on; 0 at start */
void simt_cublaslt_fail(int status);         /* the next product gives it */
long simt_cublaslt_products(void);           /* done so far */
void *simt_cublaslt_symbol(const char *name); /* as dlsym: of cublaslt.cu's functions */
#ifdef __cplusplus
}
#endif

#endif
