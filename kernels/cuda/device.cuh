/* device.cuh - the CUDA that our kernels are written in, for nvcc and for the emulation alike.
 *
 * Every .cu file includes this and no CUDA header. Under nvcc it takes the real headers and defines the few PTX
 * instructions that C++ has no name for; with JOMED_SIMT defined tests/simt/simt.h gives all of it in plain C++, so
 * that g++ compiles the very same kernels and the tests run them on a CPU.
 *
 *   LAUNCH(kernel, grid, block, shared_bytes, stream, args...)
 *                                  kernel<<<grid, block, shared_bytes, stream>>>(args...);
 *                                  a template with a comma in its arguments goes in parentheses
 *   GRID_CONSTANT(type, name)      a parameter that all threads read in one place and may take pointers into
 *   DYNAMIC_SHARED(type, name)     type *name = the block's dynamic shared memory, aligned to 128
 *   cp_async_16(shared, global, bytes_valid)   16 bytes, both 16-aligned; those from bytes_valid (0..16) on
 *                                              are zeros. Seen by the issuing thread after cp_async_wait, by
 *                                              the others after a barrier behind it
 *   cp_async_commit(), cp_async_wait<N>()      close a group; wait until at most N groups are under way
 *   ldmatrix_x4, _x4_trans, _x2, _x2_trans     8x8 matrices of 16-bit elements; lane i gives the address of
 *                                              row i % 8 of matrix i / 8
 *   mma_m16n8k16_bf16, _f16(d, a, b, c)        d = a b + c: a [16,16] row-major, b [16,8] by columns, c and d f32
 *   exp2_fast(x)                               2^x to 2 units in the last place, as exp2f(); 0 below x = -126, where
 *                                              exp2f() goes on in subnormal numbers for four times the instructions
 *
 * nvcc may not contract a * b + c into a multiply-add by itself (--fmad=false): it would do so in one instance of a
 * template and not in another, and a row's bits would depend on which one served it. Where one is wanted, fmaf() is
 * written. */
#ifndef JOMED_KERNELS_CUDA_DEVICE_CUH
#define JOMED_KERNELS_CUDA_DEVICE_CUH

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef JOMED_SIMT
#include "tests/simt/simt.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define GRID_CONSTANT(type, name) const __grid_constant__ type name
#define DYNAMIC_SHARED(type, name) \
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[]; \
    type *name = reinterpret_cast<type *>(dynamic_shared_memory)

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void cp_async_16(void *shared, const void *global, int bytes_valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(bytes_valid)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> static __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(shared)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(shared)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2(uint32_t r[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(shared)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2_trans(uint32_t r[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(shared)) : "memory");
}

static __device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2],
                                                         const float c[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
          "f"(c[3]));
}
static __device__ __forceinline__ void mma_m16n8k16_f16(float d[4], const uint32_t a[4], const uint32_t b[2],
                                                        const float c[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
          "f"(c[3]));
}
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

/* ----------------------------------------------------------------------------- small things that all kernels need */
typedef __nv_bfloat16 bf16;

static __device__ __forceinline__ float widen(float v) { return v; }
static __device__ __forceinline__ float widen(bf16 v) { return __bfloat162float(v); }
template <class E> static __device__ __forceinline__ E narrow(float v);
template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float v) { return __float2bfloat16_rn(v); }

/* Sum and largest over the 32 lanes of a warp, the same in every lane: lanes pair up by 16, 8, 4, 2, 1. */
template <class T> static __device__ __forceinline__ T warp_sum(T v)
{
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}
static __device__ __forceinline__ float warp_max(float v)
{
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* Two bf16 in a register, lo in the lower half: an operand of mma, or neighbours in memory. */
static __device__ __forceinline__ uint32_t pack_two(float lo, float hi)
{
    __nv_bfloat162 two = __floats2bfloat162_rn(lo, hi);
    uint32_t       bits;
    memcpy(&bits, &two, sizeof bits);
    return bits;
}

/* Eight neighbouring elements, as f32: 16-byte accesses where all eight are there and aligned, else those below n one
 * by one, the others 0. Which it was shows in no sum, since the same thread gets the same elements. */
static __device__ __forceinline__ void load_8(float v[8], const float *p, int n, bool aligned)
{
    if (aligned && n >= 8) {
        float4 a = *reinterpret_cast<const float4 *>(p), b = *reinterpret_cast<const float4 *>(p + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else
        for (int i = 0; i < 8; i++) v[i] = i < n ? p[i] : 0.0f;
}
static __device__ __forceinline__ void load_8(float v[8], const bf16 *p, int n, bool aligned)
{
    if (aligned && n >= 8) {
        uint4    a = *reinterpret_cast<const uint4 *>(p);
        uint32_t two[4] = {a.x, a.y, a.z, a.w};
        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(two[i] << 16);
            v[2 * i + 1] = __uint_as_float(two[i] & 0xffff0000u);
        }
    } else
        for (int i = 0; i < 8; i++) v[i] = i < n ? widen(p[i]) : 0.0f;
}
static __device__ __forceinline__ void store_8(float *p, const float v[8], int n, bool aligned)
{
    if (aligned && n >= 8) {
        *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
        *reinterpret_cast<float4 *>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
    } else
        for (int i = 0; i < 8 && i < n; i++) p[i] = v[i];
}
static __device__ __forceinline__ void store_8(bf16 *p, const float v[8], int n, bool aligned)
{
    if (aligned && n >= 8)
        *reinterpret_cast<uint4 *>(p) =
            make_uint4(pack_two(v[0], v[1]), pack_two(v[2], v[3]), pack_two(v[4], v[5]), pack_two(v[6], v[7]));
    else
        for (int i = 0; i < 8 && i < n; i++) p[i] = narrow<bf16>(v[i]);
}

#endif
