/* runtime.cc - the runtime API but for streams: the device, its memory, copies, launches, and failures made on
 * purpose. */
#include "tests/simt/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <map>
#include <vector>

using namespace simt;

/* What we call ourselves: an A100's generation, so that no launcher takes a path that only a newer one has, with the
 * shared memory of that generation; few multiprocessors, so that a grid sized by them has to go round. */
enum { CAPABILITY_MAJOR = 8, CAPABILITY_MINOR = 0, MULTIPROCESSORS = 4, SHARED_OPTIN = 163 << 10 };

static std::recursive_mutex     api;
static bool                     opened;
static int                      n_devices = 1;
static long                     n_calls, fail_at = -1;
static cudaError_t              fail_with, lost; /* lost: what every call gives from now on */
static thread_local cudaError_t last_error;
static std::map<const void *, int>     dynamic_limit; /* of kernels that raised it */
static std::map<const uint8_t *, size_t> pinned;
namespace simt { long n_handles; }

api_call::api_call() : lock(api), status(cudaSuccess)
{
    if (!opened) {
        opened = true;
        memory_open();
        fibers_open();
        checks_open();
    }
    n_calls++;
    if (n_devices == 0) status = fail(cudaErrorNoDevice);
    else if (lost != cudaSuccess) status = fail(lost);
    else if (fail_at >= 0 && fail_at-- == 0) {
        if (fail_with != cudaErrorMemoryAllocation) lost = fail_with;
        status = fail(fail_with);
    }
}
cudaError_t simt::fail(cudaError_t status) { return status == cudaSuccess ? status : last_error = status; }

/* ------------------------------------------------------------------------------------------------------ for tests */
void simt_fail(cudaError_t status, long n)
{
    std::lock_guard<std::recursive_mutex> lock(api);
    lost = cudaSuccess;
    last_error = cudaSuccess;
    fail_with = status;
    fail_at = status == cudaSuccess ? -1 : n;
}
long simt_calls(void) { return n_calls; }
long simt_handles_used(void) { return n_handles; }
void simt_set_devices(int n) { n_devices = n; }

/* ----------------------------------------------------------------------------------------------------- the device */
cudaError_t cudaGetDeviceCount(int *n)
{
    api_call c;
    *n = n_devices;
    return c.status;
}
cudaError_t cudaGetDevice(int *device)
{
    api_call c;
    *device = 0;
    return c.status;
}
cudaError_t cudaSetDevice(int device)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    return device >= 0 && device < n_devices ? cudaSuccess : fail(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (device < 0 || device >= n_devices) return fail(cudaErrorInvalidDevice);
    size_t free_bytes;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated (tests/simt)");
    cudaMemGetInfo(&free_bytes, &p->totalGlobalMem);
    p->sharedMemPerBlock = DYNAMIC_DEFAULT;
    p->sharedMemPerBlockOptin = SHARED_OPTIN;
    p->sharedMemPerMultiprocessor = SHARED_OPTIN + 1024;
    p->major = CAPABILITY_MAJOR;
    p->minor = CAPABILITY_MINOR;
    p->multiProcessorCount = MULTIPROCESSORS;
    p->warpSize = LANES;
    p->maxThreadsPerBlock = MAX_THREADS;
    p->maxThreadsPerMultiProcessor = 2048;
    p->regsPerBlock = 65536;
    p->l2CacheSize = 40 << 20;
    p->asyncEngineCount = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (device < 0 || device >= n_devices) return fail(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = MAX_THREADS; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = DYNAMIC_DEFAULT; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = MULTIPROCESSORS; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = CAPABILITY_MAJOR; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = CAPABILITY_MINOR; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_OPTIN; return cudaSuccess;
    }
    return fail(cudaErrorInvalidValue);
}
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = n_devices ? CUDART_VERSION : 0;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (capturing()) return fail(cudaErrorStreamCaptureUnsupported);
    drain_all();
    return cudaSuccess;
}
cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }
cudaError_t cudaPeekAtLastError(void) { return lost != cudaSuccess ? lost : last_error; }
cudaError_t cudaGetLastError(void)
{
    cudaError_t status = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return status;
}

#define ERRORS(X) \
    X(cudaSuccess, "no error") \
    X(cudaErrorInvalidValue, "invalid argument") \
    X(cudaErrorMemoryAllocation, "out of memory") \
    X(cudaErrorInitializationError, "initialization error") \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument") \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy") \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version") \
    X(cudaErrorInvalidDeviceFunction, "invalid device function") \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected") \
    X(cudaErrorInvalidDevice, "invalid device ordinal") \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle") \
    X(cudaErrorNotReady, "device not ready") \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered") \
    X(cudaErrorLaunchFailure, "unspecified launch failure") \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing") \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture") \
    X(cudaErrorUnknown, "unknown error")
const char *cudaGetErrorString(cudaError_t status)
{
#define TEXT(code, text) if (status == code) return text;
    ERRORS(TEXT)
#undef TEXT
    return "unrecognized error code";
}
const char *cudaGetErrorName(cudaError_t status)
{
#define NAME(code, text) if (status == code) return #code;
    ERRORS(NAME)
#undef NAME
    return "unrecognized error code";
}

/* --------------------------------------------------------------------------------------------------------- memory */
cudaError_t simt_malloc(void **p, size_t bytes)
{
    api_call c;
    if (p) *p = NULL;
    if (c.status != cudaSuccess) return c.status;
    if (!p) return fail(cudaErrorInvalidValue);
    if (capturing()) return fail(cudaErrorStreamCaptureUnsupported);
    if (bytes == 0) return cudaSuccess;
    *p = memory_take(bytes);
    return *p ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t simt_malloc_async(void **p, size_t bytes, cudaStream_t) { return simt_malloc(p, bytes); }

/* A lost device gives its error, but the block is given back all the same: a test may count what is left. */
cudaError_t cudaFree(void *p)
{
    api_call c;
    if (capturing()) return fail(cudaErrorStreamCaptureUnsupported);
    drain_all();
    if (p && !memory_give(p)) return fail(cudaErrorInvalidValue);
    return c.status;
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t s)
{
    api_call c;
    if (c.status != cudaSuccess) { memory_give(p); return c.status; }
    return submit(s, [p] { if (p && !memory_give(p)) report(NULL, NULL, "cudaFreeAsync(%p): not a block", p); });
}

static std::map<const uint8_t *, size_t>::iterator pinned_at(const void *p)
{
    auto b = pinned.upper_bound((const uint8_t *)p);
    if (b == pinned.begin()) return pinned.end();
    --b;
    return (const uint8_t *)p < b->first + b->second ? b : pinned.end();
}
cudaError_t simt_malloc_host(void **p, size_t bytes)
{
    api_call c;
    if (p) *p = NULL;
    if (c.status != cudaSuccess) return c.status;
    if (!p) return fail(cudaErrorInvalidValue);
    *p = malloc(bytes ? bytes : 1);
    if (!*p) return fail(cudaErrorMemoryAllocation);
    pinned[(uint8_t *)*p] = bytes;
    n_handles++;
    return cudaSuccess;
}
static cudaError_t unpin(void *p)
{
    drain_all();
    if (pinned.erase((uint8_t *)p) == 0) return fail(cudaErrorInvalidValue);
    n_handles--;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p)
{
    api_call    c;
    cudaError_t status = p ? unpin(p) : cudaSuccess;
    if (status == cudaSuccess) free(p);
    return c.status != cudaSuccess ? c.status : status;
}
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!p || bytes == 0) return fail(cudaErrorInvalidValue);
    pinned[(uint8_t *)p] = bytes;
    n_handles++;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p)
{
    api_call    c;
    cudaError_t status = unpin(p);
    return c.status != cudaSuccess ? c.status : status;
}

/* --------------------------------------------------------------------------------------------------------- copies */
static bool on_device(const void *p) { return (uintptr_t)p >= device_begin && (uintptr_t)p < device_end; }

struct copy { uint8_t *dst; const uint8_t *src; size_t dst_pitch, src_pitch, width, height; };

static size_t span(size_t pitch, const copy *c)
{
    return c->height && c->width ? (c->height - 1) * pitch + c->width : 0;
}

static cudaError_t copy_check(const copy *c, cudaMemcpyKind kind)
{
    bool to = on_device(c->dst), from = on_device(c->src);
    if (kind != cudaMemcpyDefault
        && (to != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
            || from != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)))
        return cudaErrorInvalidValue;
    if (c->width > c->dst_pitch || c->width > c->src_pitch || !c->dst || !c->src) return cudaErrorInvalidValue;
    if (to && !memory_holds(c->dst, span(c->dst_pitch, c))) return cudaErrorInvalidValue;
    if (from && !memory_holds(c->src, span(c->src_pitch, c))) return cudaErrorInvalidValue;
    return cudaSuccess;
}
static void copy_do(const copy *c)
{
    memory_access open;
    if ((on_device(c->dst) && !memory_touch(c->dst, span(c->dst_pitch, c)))
        || (on_device(c->src) && !memory_touch(c->src, span(c->src_pitch, c))))
        report(NULL, NULL, "a copy's turn came after its device memory was freed");
    for (size_t i = 0; i < c->height; i++) memmove(c->dst + i * c->dst_pitch, c->src + i * c->src_pitch, c->width);
}

static cudaError_t copy_now(copy k, cudaMemcpyKind kind)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (k.width == 0 || k.height == 0) return cudaSuccess;
    if (capturing()) return fail(cudaErrorStreamCaptureUnsupported);
    cudaError_t status = copy_check(&k, kind);
    if (status != cudaSuccess) return fail(status);
    drain(NULL);
    copy_do(&k);
    return cudaSuccess;
}
static cudaError_t copy_later(copy k, cudaMemcpyKind kind, cudaStream_t s)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (k.width == 0 || k.height == 0) return cudaSuccess;
    cudaError_t status = copy_check(&k, kind);
    if (status != cudaSuccess) return fail(status);
    if (!on_device(k.src) && pinned_at(k.src) == pinned.end()) { /* pageable: taken before we return */
        std::vector<uint8_t> bytes(k.src, k.src + span(k.src_pitch, &k));
        return submit(s, [k, bytes] {
            copy from = k;
            from.src = bytes.data();
            copy_do(&from);
        });
    }
    status = submit(s, [k] { copy_do(&k); });
    /* pageable: done when we return */
    if (status == cudaSuccess && !on_device(k.dst) && pinned_at(k.dst) == pinned.end()) {
        if (capturing()) return fail(cudaErrorStreamCaptureUnsupported);
        drain(s);
    }
    return status;
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    return copy_now({(uint8_t *)dst, (const uint8_t *)src, bytes, bytes, bytes, 1}, kind);
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    return copy_later({(uint8_t *)dst, (const uint8_t *)src, bytes, bytes, bytes, 1}, kind, s);
}
cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind)
{
    return copy_now({(uint8_t *)dst, (const uint8_t *)src, dst_pitch, src_pitch, width, height}, kind);
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t s)
{
    return copy_later({(uint8_t *)dst, (const uint8_t *)src, dst_pitch, src_pitch, width, height}, kind, s);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (bytes == 0) return cudaSuccess;
    if (!memory_holds(p, bytes)) return fail(cudaErrorInvalidValue);
    return submit(s, [p, value, bytes] {
        memory_access open;
        if (!memory_touch(p, bytes))
            report(NULL, NULL, "cudaMemsetAsync's turn came after its device memory was freed");
        memset(p, value, bytes);
    });
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, NULL); }

/* ------------------------------------------------------------------------------------------------------- launches */
cudaError_t simt_func_set_attribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > SHARED_OPTIN) return fail(cudaErrorInvalidValue);
    dynamic_limit[kernel] = value;
    return cudaSuccess;
}
cudaError_t simt_func_get_attributes(cudaFuncAttributes *a, const void *kernel)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = MAX_THREADS;
    a->maxDynamicSharedSizeBytes = dynamic_limit.count(kernel) ? dynamic_limit[kernel] : (int)DYNAMIC_DEFAULT;
    return cudaSuccess;
}

static cudaError_t launch_check(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
    size_t threads = (size_t)block.x * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 0xffffu || grid.z > 0xffffu)
        return cudaErrorInvalidConfiguration;
    if (!threads || block.x > MAX_THREADS || block.y > MAX_THREADS || block.z > 64 || threads > MAX_THREADS)
        return cudaErrorInvalidConfiguration;
    auto limit = dynamic_limit.find(kernel);
    return shared_bytes > (limit != dynamic_limit.end() ? (size_t)limit->second : (size_t)DYNAMIC_DEFAULT)
               ? cudaErrorInvalidValue
               : cudaSuccess;
}
void simt_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t s,
                 void (*invoke)(const void *, const void *), const void *params, size_t params_bytes)
{
    api_call c;
    if (c.status != cudaSuccess) return;
    cudaError_t status = launch_check(kernel, grid, block, shared_bytes);
    if (status != cudaSuccess) { fail(status); return; }
    const uint8_t              *p = (const uint8_t *)params;
    std::vector<max_align_t> kept((params_bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t));
    memcpy(kept.data(), p, params_bytes);
    submit(s, [=] { grid_run(name, kernel, grid, block, shared_bytes, invoke, kept.data(), params_bytes); });
}
