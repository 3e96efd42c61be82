/* cuda.cu - the GPU's table: finding a device, its memory, and what goes between host and device.
 *
 * One `cuda` is one worker's stream with scratch of its own. Host data that an operation is given (token ids, angles)
 * is copied to pinned memory before the operation returns; the stream takes it from there. Nothing waits but get,
 * sync, the weights, and a half of the pinned memory that the device has not finished with. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
extern "C" {
#include "base/memory.h"
}
#include "kernels/range.h"
#ifndef JOMED_SIMT
#include <nvtx3/nvToolsExt.h>
#endif

enum { MIN_CAPABILITY = 80, GPU_PASS_TOKENS = 4096 };
/* EXACT_BYTES: scratch of the f32 table beside a bf16 one, in which the retriever runs: a picture or a caption at a
 * time. */
static const size_t SCRATCH_BYTES = (size_t)2 << 30, EXACT_BYTES = (size_t)256 << 20, STAGING_BYTES = (size_t)4 << 20;
static const size_t SCRATCH_ALIGN = 256;

/* ------------------------------------------------------------------------------------------------------- failures */
bool cu_ok(kernels *k, cudaError_t status, const char *what)
{
    if (status == cudaSuccess) return true;
    (void)cudaGetLastError(); /* one that does not stick to the device is not reported again, by the next launch */
    char text[200];
    snprintf(text, sizeof text, "%s: %s: %s", k->name ? k->name : "cuda", what, cudaGetErrorString(status));
    kernels_fail(k, status == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_GPU, text);
    return false;
}

/* A thread has a current device of its own; a worker's thread is not the one that opened the table. */
cuda *cuda_of(kernels *k)
{
    if (k->failed.code != ERR_NONE) return NULL;
    return cu_ok(k, cudaSetDevice(k->gpu), "device") ? (cuda *)k : NULL;
}

static bool gpu_sync(kernels *k, err *e)
{
    cuda *g = cuda_of(k);
    if (g && cu_ok(k, cudaStreamSynchronize(g->stream), "forward pass")) return true;
    return err_at(e, k->failed.code, k->failed.problem, k->failed.field, "%s", k->failed.text);
}

/* --------------------------------------------------------------------------------------------------------- memory */
static void *gpu_alloc(kernels *k, size_t bytes)
{
    void *p = NULL;
    if (cudaSetDevice(k->gpu) == cudaSuccess && cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess) return p;
    (void)cudaGetLastError();
    return NULL;
}

/* cudaFree waits for what the device is doing, so memory may be given back while operations on it are under way. */
static void gpu_free(kernels *k, void *p)
{
    if (!p) return;
    (void)cudaSetDevice(k->gpu);
    (void)cudaFree(p);
    (void)cudaGetLastError();
}

void *cuda_take(cuda *g, size_t bytes)
{
    size_t left = g->scratch_bytes - g->scratch_top;
    if (bytes > left || (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN > left) {
        kernels_fail(&g->k, ERR_MEMORY, "kernels: scratch memory is spent");
        return NULL;
    }
    void *p = g->scratch + g->scratch_top;
    g->scratch_top += (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    return p;
}

static act *gpu_take(kernels *k, size_t n)
{
    cuda *g = cuda_of(k);
    if (!g) return NULL;
    return cuda_take(g, n <= SIZE_MAX / 8 ? n * (size_t)k->act_bytes : SIZE_MAX);
}

static size_t gpu_mark(kernels *k) { return ((cuda *)k)->scratch_top; }
static void   gpu_back(kernels *k, size_t mark) { ((cuda *)k)->scratch_top = mark; }

/* ---------------------------------------------------------------------------------------- between host and device */
uint8_t *cuda_room(cuda *g, size_t bytes)
{
    cuda_staging *s = &g->staging;
    if (s->half_bytes - s->used < bytes) {
        if (!cu_ok(&g->k, cudaEventRecord(s->done[s->turn], g->stream), "upload")) return NULL;
        s->turn = !s->turn;
        s->used = 0;
        if (!cu_ok(&g->k, cudaEventSynchronize(s->done[s->turn]), "upload")) return NULL;
    }
    uint8_t *p = s->host + (size_t)s->turn * s->half_bytes + s->used;
    s->used += (bytes + 15) / 16 * 16 < s->half_bytes - s->used ? (bytes + 15) / 16 * 16 : s->half_bytes - s->used;
    return p;
}

bool cuda_send(cuda *g, void *device, const void *pinned, size_t bytes)
{
    return cu_ok(&g->k, cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, g->stream), "upload");
}

bool cuda_send_all(cuda *g, void *device, const void *host, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += g->staging.half_bytes) {
        size_t   piece = bytes - at < g->staging.half_bytes ? bytes - at : g->staging.half_bytes;
        uint8_t *room = cuda_room(g, piece);
        if (!room) return false;
        memcpy(room, (const uint8_t *)host + at, piece);
        if (!cuda_send(g, (uint8_t *)device + at, room, piece)) return false;
    }
    return true;
}

const void *cuda_stage(cuda *g, const void *host, size_t bytes)
{
    void *p = cuda_take(g, bytes);
    return p && cuda_send_all(g, p, host, bytes) ? p : NULL;
}

bool cuda_fetch(cuda *g, void *host, const void *device, size_t bytes)
{
    if (bytes == 0) return true;
    return cu_ok(&g->k, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, g->stream), "download") &&
           cu_ok(&g->k, cudaStreamSynchronize(g->stream), "download");
}

static void gpu_put(kernels *k, act *dst, const float *src, size_t n)
{
    cuda *g = cuda_of(k);
    if (!g || n == 0) return;
    if (g->f32) {
        cuda_send_all(g, dst, src, n * sizeof *src);
        return;
    }
    size_t mark = k->mark(k), most = g->staging.half_bytes / sizeof *src, piece;
    float *wide = (float *)cuda_take(g, (n < most ? n : most) * sizeof *src);
    /* into the same scratch again: the stream has read it by then */
    for (size_t at = 0; wide && at < n; at += piece) {
        piece = n - at < most ? n - at : most;
        if (!cuda_send_all(g, wide, src + at, piece * sizeof *src)) break;
        cuda_round(g, (bf16 *)dst + at, wide, piece);
    }
    k->back(k, mark);
}

static void gpu_get(kernels *k, float *dst, const act *src, size_t n)
{
    cuda *g = cuda_of(k);
    if (!g || n == 0) return;
    if (g->f32) {
        cuda_fetch(g, dst, src, n * sizeof *dst);
        return;
    }
    size_t mark = k->mark(k), most = g->staging.half_bytes / sizeof *dst, piece;
    float *wide = (float *)cuda_take(g, (n < most ? n : most) * sizeof *dst);
    for (size_t at = 0; wide && at < n; at += piece) {
        piece = n - at < most ? n - at : most;
        cuda_widen(g, wide, (const bf16 *)src + at, piece);
        if (!cuda_fetch(g, dst + at, wide, piece * sizeof *dst)) break;
    }
    k->back(k, mark);
}

static void gpu_copy(kernels *k, act *dst, const act *src, size_t n)
{
    cuda *g = cuda_of(k);
    if (g && n)
        cu_ok(k, cudaMemcpyAsync(dst, src, n * (size_t)k->act_bytes, cudaMemcpyDeviceToDevice, g->stream), "copy");
}

/* Locking pages is slow, and freeing them waits for the device: whoever takes such memory should keep it. */
static void *gpu_alloc_host(kernels *k, size_t bytes)
{
    void *p = NULL;
    if (cudaSetDevice(k->gpu) == cudaSuccess && cudaMallocHost(&p, bytes ? bytes : 1) == cudaSuccess) return p;
    (void)cudaGetLastError();
    return NULL;
}

static void gpu_free_host(kernels *k, void *p)
{
    if (!p) return;
    (void)cudaSetDevice(k->gpu);
    (void)cudaFreeHost(p);
    (void)cudaGetLastError();
}

static void gpu_save(kernels *k, void *host, const void *src, size_t bytes)
{
    cuda *g = cuda_of(k);
    if (g && bytes) cu_ok(k, cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, g->stream), "save");
}

static void gpu_restore(kernels *k, void *dst, const void *host, size_t bytes)
{
    cuda *g = cuda_of(k);
    if (g && bytes) cu_ok(k, cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, g->stream), "restore");
}

static size_t gpu_free_bytes(kernels *k)
{
    size_t free_bytes = 0, all = 0;
    if (cudaSetDevice(k->gpu) == cudaSuccess && cudaMemGetInfo(&free_bytes, &all) == cudaSuccess) return free_bytes;
    (void)cudaGetLastError();
    return 0;
}

static const float *gpu_upload(kernels *k, const float *src, size_t n)
{
    cuda *g = cuda_of(k);
    return g ? (const float *)cuda_stage(g, src, n * sizeof *src) : NULL;
}

/* -------------------------------------------------------------------------------------------------------- devices */
/* *n devices. False: there is a driver that this build cannot use. */
static bool count_devices(int *n, err *e)
{
    int driver = 0, wanted = 0;
    *n = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return true; /* no driver: an ordinary machine */
    cudaError_t status = cudaGetDeviceCount(n);
    if (status == cudaSuccess) return true;
    (void)cudaGetLastError();
    *n = 0;
    if (status == cudaErrorNoDevice) return true;
    cudaRuntimeGetVersion(&wanted);
    if (status == cudaErrorInsufficientDriver)
        return err_at(e, ERR_GPU, NULL, "device",
                      "device: the NVIDIA driver supports CUDA up to %d.%d, this build needs "
                      "%d.%d: update the driver, or take the CPU (cpu)",
                      driver / 1000, driver % 1000 / 10, wanted / 1000, wanted % 1000 / 10);
    return err_at(e, ERR_GPU, NULL, "device", "device: CUDA does not start: %s; cpu works without it",
                  cudaGetErrorString(status));
}

/* 10 * major + minor; 0: not told. */
static int capability_of(int device)
{
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return 10 * major + minor;
}

bool cuda_find(int *device, err *e)
{
    int n;
    *device = -1;
    if (!count_devices(&n, e)) return false;
    for (int i = 0; i < n && *device < 0; i++)
        if (capability_of(i) >= MIN_CAPABILITY) *device = i;
    return true;
}

static bool device_check(int device, err *e)
{
    int n;
    if (!count_devices(&n, e)) return false;
    if (n == 0)
        return err_at(e, ERR_USAGE, NULL, "device",
                      "device: cuda:%d: this machine has no NVIDIA GPU, or no driver for it", device);
    if (device >= n)
        return err_at(e, ERR_USAGE, NULL, "device", "device: cuda:%d: there are cuda:0 to cuda:%d", device, n - 1);
    int capability = capability_of(device);
    if (capability >= MIN_CAPABILITY) return true;
    return err_at(e, ERR_USAGE, NULL, "device",
                  "device: cuda:%d has compute capability %d.%d; 8.0 (Ampere) or later is "
                  "needed",
                  device, capability / 10, capability % 10);
}

/* ------------------------------------------------------------------------------------------------- open and close */
static void gpu_close(kernels *k)
{
    cuda *g = (cuda *)k;
    if (!g) return;
    gpu_close(k->exact);
    (void)cudaSetDevice(k->gpu);
    if (g->stream) (void)cudaStreamSynchronize(g->stream);
    for (int i = 0; i < 2; i++)
        if (g->staging.done[i]) (void)cudaEventDestroy(g->staging.done[i]);
    if (g->staging.host) (void)cudaFreeHost(g->staging.host);
    lt_close(g);
    if (g->scratch) (void)cudaFree(g->scratch);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    (void)cudaGetLastError();
    free(g);
}

static kernels table(bool f32)
{
    kernels k = {};
    k.act_bytes = f32 ? (int)sizeof(float) : (int)sizeof(bf16);
    k.pass_tokens = GPU_PASS_TOKENS;
    k.alloc = gpu_alloc, k.free_ = gpu_free;
    k.take = gpu_take, k.mark = gpu_mark, k.back = gpu_back;
    k.put = gpu_put, k.get = gpu_get, k.copy = gpu_copy, k.copies = cuda_copies, k.upload = gpu_upload;
    k.pixels = cuda_pixels;
    k.alloc_host = gpu_alloc_host, k.free_host = gpu_free_host, k.save = gpu_save, k.restore = gpu_restore;
    k.free_bytes = gpu_free_bytes;
    k.weight_open = cuda_weight_open, k.weight_close = cuda_weight_close;
    k.sync = gpu_sync, k.close = gpu_close;
    k.linear = cuda_linear, k.linears = cuda_linears, k.linear_low_rank = cuda_linear_low_rank;
    k.layernorm = cuda_layernorm, k.rmsnorm = cuda_rmsnorm, k.glu = cuda_glu, k.rope = cuda_rope;
    k.attend = cuda_attend, k.gather = cuda_gather, k.add = cuda_add, k.mean_rows = cuda_mean_rows;
    k.logits = cuda_logits, k.score = cuda_score, k.mixture = cuda_mixture;
    k.vectors_open = cuda_vectors_open, k.vectors_close = cuda_vectors_close, k.search = cuda_search;
    return k;
}

/* Stream, scratch and pinned memory; what is missing is said in MiB. */
static bool take_memory(cuda *g, err *e)
{
    kernels *k = &g->k;
    size_t   free_bytes = 0, all = 0;
    if (!cu_ok(k, cudaSetDevice(k->gpu), "device") || !cu_ok(k, cudaMemGetInfo(&free_bytes, &all), "device memory") ||
        !cu_ok(k, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "stream"))
        return false;
    if (cudaMalloc((void **)&g->scratch, g->scratch_bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        g->scratch = NULL;
        return err_at(e, ERR_MEMORY, NULL, "device", "%s: the workspace needs %zu MiB, %zu of %zu MiB are free",
                      k->name, g->scratch_bytes >> 20, free_bytes >> 20, all >> 20);
    }
    g->staging.half_bytes = STAGING_BYTES;
    return cu_ok(k, cudaMallocHost((void **)&g->staging.host, 2 * STAGING_BYTES), "pinned memory") &&
           cu_ok(k, cudaEventCreateWithFlags(&g->staging.done[0], cudaEventDisableTiming), "event") &&
           cu_ok(k, cudaEventCreateWithFlags(&g->staging.done[1], cudaEventDisableTiming), "event");
}

/* One table: of one element type. */
static bool open_table(kernels **out, const kernels_options *o, int device, err *e)
{
    bool           ok = false;
    cudaDeviceProp prop;
    cuda          *g = (cuda *)mem_zalloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_MEMORY, "kernels: out of memory");
    g->f32 = o->products == PRECISION_F32;
    g->k = table(g->f32);
    g->scratch_bytes = o->scratch_bytes ? o->scratch_bytes : SCRATCH_BYTES;
    snprintf(g->name, sizeof g->name, "cuda:%d", device);
    g->k.name = g->name;
    g->k.gpu = device;

    if (!device_check(device, e)) goto done;
    if (!cu_ok(&g->k, cudaGetDeviceProperties(&prop, device), "device")) goto done;
    g->n_sms = prop.multiProcessorCount;
    g->own_products = o->own_products;
    if (!take_memory(g, e) || (!g->f32 && !g->own_products && !lt_open(g))) goto done;
    snprintf(g->name, sizeof g->name, "cuda:%d %.50s, %s, %s, %zu MiB workspace", device, prop.name,
             g->f32 ? "f32" : "bf16", lt_name(g), g->scratch_bytes >> 20);
    if (!cuda_linear_open(g) || !cuda_attend_open(g) || !cuda_score_open(g)) goto done;
    *out = &g->k; g = NULL; ok = true;
done:
    if (!ok && e->code == ERR_NONE) err_at(e, g->k.failed.code, NULL, "device", "%s", g->k.failed.text);
    gpu_close(g ? &g->k : NULL);
    return ok;
}

bool cuda_open(kernels **out, const kernels_options *o, int device, err *e)
{
    kernels        *k = NULL;
    kernels_options exact = *o;
    if (!open_table(&k, o, device, e)) return false;
    exact.products = PRECISION_F32;
    exact.scratch_bytes = o->scratch_bytes && o->scratch_bytes < EXACT_BYTES ? o->scratch_bytes : EXACT_BYTES;
    if (o->products != PRECISION_F32 && !open_table(&k->exact, &exact, device, e)) {
        gpu_close(k);
        return false;
    }
    *out = k;
    return true;
}

/* ------------------------------------------------------------------------------------------------------ profilers */
void range_begin(const char *name) { (void)nvtxRangePushA(name); }
void range_end(void) { (void)nvtxRangePop(); }
