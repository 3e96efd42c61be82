/* test_mistakes.cc - kernels with one mistake each: the emulation must name the kernel, the thread and what it did;
 * and kernels that come close to the same mistakes and must pass. */
#include "kernels/cuda/device.cuh"
#include "tests/simt/child.h"

static void run() { cudaDeviceSynchronize(); }
template <class T> static T *device(size_t n)
{
    T *p;
    assert_int_equal(cudaMalloc(&p, n * sizeof *p), cudaSuccess);
    assert_int_equal(cudaMemset(p, 0, n * sizeof *p), cudaSuccess);
    return p;
}

/* -------------------------------------------------------------------------------------------------- device memory */
static __global__ void past_the_end(float *y, int n) { if ((int)threadIdx.x <= n) y[threadIdx.x] = 1; }
static __global__ void before_the_start(const float *x, float *y) { y[threadIdx.x] = x[(int)threadIdx.x - 1]; }
static __global__ void wrong_index(float *y, int rows, int cols) { y[(size_t)threadIdx.x * rows + cols] = 1; }
static __global__ void wide_load(const uint4 *x, uint4 *y) { y[threadIdx.x] = x[threadIdx.x]; }
static __global__ void half_past(const float *x, float *y)
{
    float4 v = *(const float4 *)(x + 4 * threadIdx.x);
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
static __global__ void misaligned(const float *x, float *y) { float2 v = *(const float2 *)(x + 1); *y = v.x + v.y; }
static __global__ void atomic_past(int *y) { atomicAdd(y + threadIdx.x, 1); }
static __global__ void through_pointer(float **p) { (*p)[0] = 1; }

static void device_memory_out_of_bounds_is_found(void **)
{
    caught(
        "write",
        [] {
            LAUNCH(past_the_end, 1, 32, 0, 0, device<float>(17), 17);
            run();
        },
        "past_the_end", "block (0, 0, 0) thread (17, 0, 0)",
        "writes 4 bytes of device memory out of bounds: offset 68 of a block of 68");
    caught(
        "read",
        [] {
            float *x = device<float>(40);
            LAUNCH(before_the_start, 1, 8, 0, 0, x, device<float>(8));
            run();
        },
        "before_the_start", "thread (0, 0, 0)", "reads 4 bytes of device memory out of bounds");
    caught("rows for columns", [] { LAUNCH(wrong_index, dim3(1), 8, 0, 0, device<float>(8 * 3), 5, 2); run(); },
           "wrong_index", "thread (5, 0, 0)", "writes 4 bytes of device memory");
    caught(
        "last vector",
        [] {
            float *x = device<float>(14);
            LAUNCH(half_past, 1, 4, 0, 0, x, device<float>(4));
            run();
        },
        "half_past", "thread (3, 0, 0)", "out of bounds: offset");
    caught("freed", [] {
        uint4 *x = device<uint4>(4), *y = device<uint4>(4);
        LAUNCH(wide_load, 1, 4, 0, 0, x, y);
        cudaFree(x);
        LAUNCH(wide_load, 1, 4, 0, 0, x, y);
        run();
    }, "wide_load", "reads 16 bytes of device memory", "freed");
    caught(
        "alignment",
        [] {
            float *x = device<float>(8);
            LAUNCH(misaligned, 1, 1, 0, 0, x, device<float>(1));
            run();
        },
        "misaligned", "test_mistakes.cc", "not aligned");
    caught(
        "launched through a variable",
        [] {
            auto f = wrong_index;
            LAUNCH(f, 1, 8, 0, 0, device<float>(24), 5, 2);
            run();
        },
        "simt: f: block (0, 0, 0) thread (5, 0, 0)", "kernel wrong_index", "test_mistakes.cc");
    caught("atomic", [] { LAUNCH(atomic_past, 1, 3, 0, 0, device<int>(2)); run(); },
           "atomic_past", "thread (2, 0, 0)", "changes atomically 4 bytes");
}

static void memory_of_the_other_side_is_found(void **)
{
    caught("host memory in a kernel", [] { LAUNCH(past_the_end, 1, 1, 0, 0, (float *)malloc(64), 8); run(); },
           "past_the_end", "writes 4 bytes", "which is no device memory");
    caught("a host pointer in device memory", [] {
        float **p = device<float *>(1), *host = (float *)malloc(4);
        cudaMemcpy(p, &host, sizeof host, cudaMemcpyHostToDevice);
        LAUNCH(through_pointer, 1, 1, 0, 0, p);
        run();
    }, "through_pointer", "writes 4 bytes", "which is no device memory");
    caught(
        "device memory in a launcher",
        [] {
            volatile float *p = device<float>(1);
            *p = 1;
        },
        "host code", "writes 4 bytes", "device memory");
    outcome o = in_child([] { memcpy(device<char>(8), "x", strlen(getenv("PATH")) ? 1 : 0); });
    assert_int_equal(o.status, 1000 + SIGSEGV); /* and by code that is not compiled for it */
}

/* -------------------------------------------------------------------------------------------------- shared memory */
static __global__ void shared_past(float *y)
{
    DYNAMIC_SHARED(float, s);
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
static __global__ void static_past(float *y, int n)
{
    __shared__ float s[2][16];
    s[1][threadIdx.x % n] = 1;
    __syncthreads();
    y[threadIdx.x] = s[1][0];
}
template <int N> static __global__ void static_in_a_template(float *y)
{
    __shared__ float s[N]; /* g++ leaves it where all statics are: a race would not be seen */
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
}
static __global__ void not_written(float *y)
{
    DYNAMIC_SHARED(float, s);
    __shared__ float t[4];
    if (threadIdx.x == 0) s[0] = 1, t[0] = 1;
    __syncthreads();
    y[0] = s[threadIdx.x + 1], y[1] = t[1], y[2] = t[0] + s[0];
}

static void shared_memory_out_of_bounds_is_found(void **)
{
    caught("dynamic", [] { LAUNCH(shared_past, 1, 32, 31 * sizeof(float), 0, device<float>(32)); run(); },
           "shared_past", "thread (31, 0, 0)", "writes 4 bytes of dynamic shared memory at offset 124 of 124");
    caught("static", [] { LAUNCH(static_past, 1, 32, 0, 0, device<float>(32), 17); run(); },
           "static_past", "thread (16, 0, 0)", "out of the array's bounds");
    caught("static, where it cannot be seen",
           [] { LAUNCH(static_in_a_template<32>, 1, 32, 0, 0, device<float>(32)); run(); },
           "static_in_a_template", "writes 4 bytes of an object of the program", "DYNAMIC_SHARED");
}

static void shared_memory_begins_as_nan(void **)
{
    float *y = device<float>(3), got[3];
    LAUNCH(not_written, 1, 1, 64, 0, y); /* twice: the first block's values may not be found by the second */
    LAUNCH(not_written, 1, 1, 64, 0, y);
    assert_int_equal(cudaMemcpy(got, y, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_true(got[0] != got[0] && got[1] != got[1] && got[2] == 2);
    cudaFree(y);
}

/* ---------------------------------------------------------------------------------------------------------- races */
static __global__ void no_barrier(float *y)
{
    __shared__ float s[64];
    s[threadIdx.x] = 1;
    y[threadIdx.x] = s[threadIdx.x ^ 32];
}
static __global__ void no_second_barrier(float *y)
{
    __shared__ float s[64];
    for (int i = 0; i < 2; i++) {
        s[threadIdx.x] = i;
        __syncthreads();
        y[threadIdx.x] = s[63 - threadIdx.x]; /* the next turn writes what others still read */
    }
}
static __global__ void no_syncwarp(float *y)
{
    __shared__ float s[32];
    s[threadIdx.x] = 1;
    float v = __shfl_xor_sync(0xffffffffu, 1.0f, 1); /* orders nothing */
    y[threadIdx.x] = s[threadIdx.x ^ 1] + v;
}
static __global__ void all_write_one(int *y)
{
    __shared__ int s;
    s = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s;
}
static __global__ void read_then_one_writes(int *y)
{
    __shared__ int s;
    if (threadIdx.x == 0) s = 5;
    __syncthreads();
    int v = s;
    if (threadIdx.x == 63) s = v + 1; /* the last to run, behind thread 95 and its warp: only the clocks can tell */
    y[threadIdx.x] = v;
}
static __global__ void counts_plainly(int *y)
{
    __shared__ int s;
    if (threadIdx.x == 0) s = 0;
    __syncthreads();
    if (threadIdx.x % 2) atomicAdd(&s, 1);
    else s = s + 1;
    __syncthreads();
    y[threadIdx.x] = s;
}
static __global__ void syncs_half(float *y)
{
    __shared__ float s[32];
    s[threadIdx.x] = 1;
    __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
    y[threadIdx.x] = s[31 - threadIdx.x]; /* of the other half */
}

static void races_in_shared_memory_are_found(void **)
{
    caught("missing barrier", [] { LAUNCH(no_barrier, 1, 64, 0, 0, device<float>(64)); run(); },
           "no_barrier", "race", "static shared memory");
    caught("missing second barrier", [] { LAUNCH(no_second_barrier, 1, 64, 0, 0, device<float>(64)); run(); },
           "no_second_barrier", "race", "with no barrier between");
    caught("missing __syncwarp", [] { LAUNCH(no_syncwarp, 1, 32, 0, 0, device<float>(32)); run(); },
           "no_syncwarp", "race: reads", "writes them");
    caught(
        "one place",
        [] {
            LAUNCH(all_write_one, 1, 2, 0, 0, device<int>(2));
            run();
        },
        "all_write_one", "race: writes", "thread (1, 0, 0)");
    caught("a write behind reads", [] { LAUNCH(read_then_one_writes, 1, 96, 0, 0, device<int>(96)); run(); },
           "read_then_one_writes", "thread (63, 0, 0): race: writes", "reads them");
    caught("atomic and plain", [] { LAUNCH(counts_plainly, 1, 4, 0, 0, device<int>(4)); run(); },
           "counts_plainly", "race", "changes atomically them");
    caught(
        "half a warp",
        [] {
            LAUNCH(syncs_half, 1, 32, 0, 0, device<float>(32));
            run();
        },
        "syncs_half", "race", "with no barrier between");
}

static __global__ void ordered(int *y)
{
    __shared__ int           s[96], sum;
    __shared__ unsigned char bytes[96];
    int t = threadIdx.x, lane = t % 32;
    if (t == 0) sum = 0;
    s[t] = t;
    bytes[t] = (unsigned char)t; /* neighbours' bytes of one word */
    __syncwarp();
    int v = s[t ^ 31];
    __syncwarp();
    s[t] = v + 1;
    __syncwarp(lane < 8 ? 0xffu : 0xffffff00u);
    if (lane < 8) v = s[t ^ 7];
    __syncwarp();
    __syncthreads();
    v += s[95 - t] + bytes[95 - t];
    atomicAdd(&sum, 1);
    __syncthreads();
    y[t] = v + sum + s[0] + s[0];
}
static __global__ void leaves_early(int *y)
{
    if (threadIdx.x >= 32) return; /* a barrier waits for those that are left */
    __shared__ int s[32];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[31 - threadIdx.x];
}
static void ordered_accesses_are_no_race(void **)
{
    int *y = device<int>(96), got[96];
    for (int turn = 0; turn < 2; turn++) LAUNCH(ordered, dim3(1, 2), 96, 0, 0, y);
    assert_int_equal(cudaMemcpy(got, y, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int t = 0; t < 96; t++) {
        /* s[i] became (i ^ 31) + 1, lanes below 8 then read their neighbour's */
        int v = t % 32 < 8 ? ((t ^ 7) ^ 31) + 1 : t ^ 31;
        assert_int_equal(got[t], v + ((95 - t) ^ 31) + 1 + (95 - t) + 96 + 2 * 32);
    }
    LAUNCH(leaves_early, 1, 96, 0, 0, y);
    assert_int_equal(cudaMemcpy(got, y, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int t = 0; t < 32; t++) assert_int_equal(got[t], 31 - t);
    cudaFree(y);
}

/* ------------------------------------------------------------------------------------------------------- cp.async */
static __global__ void reads_before_the_wait(const float *x, float *y)
{
    DYNAMIC_SHARED(float, s);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    y[threadIdx.x] = s[4 * threadIdx.x];
}
static __global__ void waits_for_too_few(const float *x, float *y)
{
    DYNAMIC_SHARED(float, s);
    for (int i = 0; i < 2; i++) {
        cp_async_16(s + 4 * i, x + 4 * i, 16);
        cp_async_commit();
    }
    cp_async_wait<1>();
    y[0] = s[0] + s[4];
}
static __global__ void waits_alone(const float *x, float *y)
{
    DYNAMIC_SHARED(float, s);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<0>();
    y[threadIdx.x] = s[4 * (threadIdx.x ^ 1)]; /* the other thread's copy: a barrier is missing */
}
static __global__ void copies_over_readers(const float *x, float *y)
{
    DYNAMIC_SHARED(float, s);
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x ^ 1];
    if (threadIdx.x == 0) cp_async_16(s, x, 16);
    cp_async_commit();
    cp_async_wait<0>();
}
static __global__ void copies_past(const float *x, int bytes)
{
    DYNAMIC_SHARED(float, s);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, bytes);
    cp_async_commit();
    cp_async_wait<0>();
}
static __global__ void copies_misaligned(const float *x)
{
    DYNAMIC_SHARED(float, s);
    cp_async_16(s, x + 1, 16);
}

static void cp_async_mistakes_are_found(void **)
{
    caught(
        "read before the wait",
        [] {
            float *x = device<float>(8);
            LAUNCH(reads_before_the_wait, 1, 2, 64, 0, x, device<float>(2));
            run();
        },
        "reads_before_the_wait", "thread (0, 0, 0)", "has not waited since its cp.async");
    caught(
        "a group too few",
        [] {
            float *x = device<float>(8);
            LAUNCH(waits_for_too_few, 1, 1, 64, 0, x, device<float>(2));
            run();
        },
        "waits_for_too_few", "offset 16", "has not waited");
    caught(
        "no barrier behind the wait",
        [] {
            float *x = device<float>(8);
            LAUNCH(waits_alone, 1, 2, 64, 0, x, device<float>(2));
            run();
        },
        "waits_alone", "thread (1, 0, 0): race: writes 16 bytes", "thread (0, 0, 0) reads them");
    caught(
        "copy over readers",
        [] {
            float *x = device<float>(8);
            LAUNCH(copies_over_readers, 1, 2, 64, 0, x, device<float>(2));
            run();
        },
        "copies_over_readers", "race", "thread (");
    caught(
        "source",
        [] {
            LAUNCH(copies_past, 1, 2, 64, 0, device<float>(7), 16);
            run();
        },
        "copies_past", "thread (1, 0, 0)",
        "reads 16 bytes of device memory out of bounds: offset 16 of a block of 28");
    caught("destination", [] { LAUNCH(copies_past, 1, 4, 48, 0, device<float>(16), 16); run(); },
           "copies_past", "thread (3, 0, 0)", "is not shared memory");
    caught("alignment", [] { LAUNCH(copies_misaligned, 1, 1, 64, 0, device<float>(16)); run(); },
           "copies_misaligned", "cp.async", "not aligned to 16");
}

/* ---------------------------------------------------------------------------------------------------------- lanes */
static __global__ void shuffles_in_a_branch(int *y)
{
    int v = threadIdx.x;
    if (threadIdx.x < 31) v = __shfl_down_sync(0xffffffffu, v, 1);
    y[threadIdx.x] = v;
}
static __global__ void shuffles_past_a_barrier(int *y)
{
    int v = threadIdx.x;
    if (threadIdx.x == 7) __syncthreads();
    else v = __shfl_sync(0xffffffffu, v, 0);
    y[threadIdx.x] = v;
}
static __global__ void lacks_itself(int *y) { y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }
static __global__ void other_function(int *y)
{
    if (threadIdx.x < 16) y[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
    else y[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}
static __global__ void other_mask(int *y)
{
    y[threadIdx.x] = __shfl_sync(threadIdx.x == 3 ? 0xfu : 0xffffffffu, 1, 0);
}
static __global__ void from_outside(int *y)
{
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}
static __global__ void short_warp(int *y) { y[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0); }
static __global__ void two_barriers(int *y)
{
    if (threadIdx.x < 32) __syncthreads();
    else y[0] = __syncthreads_or(1);
}
static __global__ void barriers_in_two_branches(int *y)
{
    __shared__ int s[64];
    s[threadIdx.x] = threadIdx.x;
    if (threadIdx.x % 32 < 16) {
        __syncthreads();
        y[threadIdx.x] = s[63 - threadIdx.x];
    } else {
        __syncthreads();
        y[threadIdx.x] = 2 * s[63 - threadIdx.x] + 1;
    }
}
static __global__ void barriers_of_two_warps(int *y) /* right: a warp is of one mind */
{
    __shared__ int s[64];
    s[threadIdx.x] = threadIdx.x;
    if (threadIdx.x < 32) {
        __syncthreads();
        y[threadIdx.x] = s[63 - threadIdx.x];
    } else {
        __syncthreads();
        y[threadIdx.x] = 2 * s[63 - threadIdx.x] + 1;
    }
}
static __global__ void products_in_two_branches(float *y)
{
    uint32_t a[4] = {}, b[2] = {threadIdx.x, 1};
    float    c[4] = {}, d[4];
    if (threadIdx.x < 8) mma_m16n8k16_bf16(d, a, b, c);
    else {
        c[threadIdx.x % 4] = 1;
        mma_m16n8k16_bf16(d, a, b, c);
    }
    y[threadIdx.x] = d[threadIdx.x % 4];
}
static __global__ void ldmatrix_outside(uint32_t *y)
{
    DYNAMIC_SHARED(uint16_t, s);
    uint32_t r[4];
    ldmatrix_x4(r, s + threadIdx.x * 8);
    y[threadIdx.x] = r[0];
}
static __global__ void ldmatrix_race(uint32_t *y)
{
    DYNAMIC_SHARED(uint16_t, s);
    uint32_t r[1];
    for (int i = 0; i < 2; i++) s[(threadIdx.x ^ 1) * 2 + i] = 1;
    ldmatrix_x1(r, s + threadIdx.x % 8 * 8);
    y[threadIdx.x] = r[0];
}

static void lanes_that_do_not_meet_are_found(void **)
{
    caught(
        "a lane left",
        [] {
            LAUNCH(shuffles_in_a_branch, 1, 32, 0, 0, device<int>(32));
            run();
        },
        "shuffles_in_a_branch", "thread (0, 0, 0): waits in __shfl_down_sync with mask 0xffffffff",
        "lane 31 has left the kernel");
    caught("a lane waits elsewhere", [] { LAUNCH(shuffles_past_a_barrier, 1, 32, 0, 0, device<int>(32)); run(); },
           "shuffles_past_a_barrier", "waits in __shfl_sync", "lane 7 waits in __syncthreads");
    caught("own lane", [] { LAUNCH(lacks_itself, 1, 32, 0, 0, device<int>(32)); run(); },
           "lacks_itself", "thread (16, 0, 0)", "lacks its own lane 16");
    caught("another function", [] { LAUNCH(other_function, 1, 32, 0, 0, device<int>(32)); run(); },
           "other_function", "calls __shfl_sync", "waits in __ballot_sync");
    caught(
        "another mask",
        [] {
            LAUNCH(other_mask, 1, 32, 0, 0, device<int>(32));
            run();
        },
        "other_mask", "thread (3, 0, 0)", "mask 0x0000000f");
    caught("source lane", [] { LAUNCH(from_outside, 1, 32, 0, 0, device<int>(32)); run(); },
           "from_outside", "shuffles from lane 20", "lacks");
    caught(
        "no such lane",
        [] {
            LAUNCH(short_warp, 1, 20, 0, 0, device<int>(20));
            run();
        },
        "short_warp", "__shfl_sync", "its warp has the lanes 0x000fffff");
    caught("another barrier", [] { LAUNCH(two_barriers, 1, 64, 0, 0, device<int>(1)); run(); },
           "two_barriers", "calls __syncthreads_or", "wait in __syncthreads");
    if (system("addr2line --version >/dev/null 2>&1") == 0) { /* else two calls cannot be told apart */
        caught("barriers in two branches",
               [] { LAUNCH(barriers_in_two_branches, 1, 64, 0, 0, device<int>(64)); run(); },
               "barriers_in_two_branches", "thread (16, 0, 0): calls __syncthreads where other lanes", "another one");
        caught("mma in two branches",
               [] { LAUNCH(products_in_two_branches, 1, 32, 0, 0, device<float>(32)); run(); },
               "products_in_two_branches", "thread (8, 0, 0): calls mma where lane 0", "another one");
    }
    outcome o = in_child([] { LAUNCH(barriers_of_two_warps, 1, 64, 0, 0, device<int>(64)); run(); });
    assert_int_equal(o.status, 0);
    caught("ldmatrix bounds", [] { LAUNCH(ldmatrix_outside, 1, 32, 31 * 16, 0, device<uint32_t>(32)); run(); },
           "ldmatrix_outside", "thread (31, 0, 0)", "is not shared memory");
    caught("ldmatrix race", [] { LAUNCH(ldmatrix_race, 1, 32, 512, 0, device<uint32_t>(32)); run(); },
           "ldmatrix_race", "race: reads 4 bytes", "writes them");
}

static __global__ void overflows(int *y, int rows, int cols) { y[0] = rows * cols > 0; }
static __global__ void deep(int *y, int n)
{
    volatile int here[256];
    here[n % 256] = n;
    if (n > 0) deep(y, n - 1);
    y[0] = here[n % 256];
}
static void undefined_arithmetic_is_found(void **)
{
    caught("overflow", [] { LAUNCH(overflows, 1, 1, 0, 0, device<int>(1), 1 << 20, 1 << 20); run(); },
           "overflows", "test_mistakes.cc", "signed multiplication overflows");
    outcome o = in_child([] { LAUNCH(deep, 1, 1, 0, 0, device<int>(1), 100000); run(); });
    assert_int_equal(o.status, 1000 + SIGSEGV); /* a stack ends at a page that cannot be touched */
}

#ifdef __SANITIZE_ADDRESS__
/* Its build has its own checks instead of our hooks: of the mistakes above, it finds what is out of bounds. */
static void address_sanitizer_looks_in_a_sanitized_build(void **)
{
    caught("device", [] { LAUNCH(past_the_end, 1, 32, 0, 0, device<float>(17), 17); run(); },
           "AddressSanitizer", "WRITE of size 4", "past_the_end");
    caught("freed", [] {
        uint4 *x = device<uint4>(4), *y = device<uint4>(4);
        cudaFree(x);
        LAUNCH(wide_load, 1, 4, 0, 0, x, y);
        run();
    }, "AddressSanitizer", "READ of size", "wide_load");
    caught("dynamic shared", [] { LAUNCH(shared_past, 1, 32, 31 * sizeof(float), 0, device<float>(32)); run(); },
           "AddressSanitizer", "of size 4", "shared_past");
    caught("static shared", [] { LAUNCH(static_past, 1, 32, 0, 0, device<float>(32), 17); run(); },
           "test_mistakes.cc", "index 16 out of bounds", "static_past");
}
#endif

int main()
{
    const struct CMUnitTest tests[] = {
#ifdef __SANITIZE_ADDRESS__
        cmocka_unit_test(address_sanitizer_looks_in_a_sanitized_build),
#else
        cmocka_unit_test(device_memory_out_of_bounds_is_found),
        cmocka_unit_test(memory_of_the_other_side_is_found),
        cmocka_unit_test(shared_memory_out_of_bounds_is_found),
        cmocka_unit_test(races_in_shared_memory_are_found),
        cmocka_unit_test(cp_async_mistakes_are_found),
        cmocka_unit_test(lanes_that_do_not_meet_are_found),
        cmocka_unit_test(undefined_arithmetic_is_found),
#endif
        cmocka_unit_test(shared_memory_begins_as_nan),
        cmocka_unit_test(ordered_accesses_are_no_race),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
