/* simt.h - the CUDA of tests/simt/README.md for g++: what a kernel sees. kernels/cuda/device.cuh includes it instead
 * of CUDA's headers when JOMED_SIMT is defined.
 *
 * Memory    Kernels are compiled with -fsanitize=thread, but linked with our own __tsan_* functions (check.cc), which
 *           see every load and store: bounds of device and shared memory, host memory touched by a kernel, and races.
 * Lanes     A warp function stops its thread until the other lanes of the mask have called the same one (block.cc).
 * By value  mma and ldmatrix pass fragments in registers: a pointer would make each access to a fragment a call. */
#ifndef JOMED_SIMT_H
#define JOMED_SIMT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>
#include "tests/simt/types.h"
#include "tests/simt/intrinsics.h"
#include "tests/simt/runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__
/* One object that all threads of a grid read. */
#define GRID_CONSTANT(type, name) const type &name
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* Blocks run one at a time, so an object of the program serves each in turn. A kernel that has some must have
 * internal linkage (static): g++ refuses to mix others in one section. */
#define __shared__ static __attribute__((section("simt_shared")))
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(simt_dynamic_shared())

/* Who runs. Constant to g++ as it is to the thread, so that reading it is no memory access to be checked; the
 * emulation writes it between threads. */
struct simt_position { uint3 thread, block; dim3 block_dim, grid_dim; };
#ifdef SIMT_INNER
extern "C" simt_position simt_here;
#else
extern "C" const simt_position simt_here;
#endif
#define threadIdx (simt_here.thread)
#define blockIdx  (simt_here.block)
#define blockDim  (simt_here.block_dim)
#define gridDim   (simt_here.grid_dim)
enum { warpSize = 32 };

typedef uint32_t simt_u32x4 __attribute__((vector_size(16)));
typedef float    simt_f32x4 __attribute__((vector_size(16)));

extern "C" {
typedef enum { SIMT_SHFL, SIMT_SHFL_UP, SIMT_SHFL_DOWN, SIMT_SHFL_XOR } simt_shuffle;
typedef enum { SIMT_ADD, SIMT_SUB, SIMT_MIN, SIMT_MAX, SIMT_EXCH, SIMT_AND, SIMT_OR, SIMT_XOR } simt_arith;
typedef enum { SIMT_SYNC, SIMT_SYNC_OR, SIMT_SYNC_AND, SIMT_SYNC_COUNT } simt_barrier;

void      *simt_dynamic_shared(void);
int        simt_syncthreads(simt_barrier kind, int predicate);
void       simt_syncwarp(unsigned mask);
uint64_t   simt_shfl(simt_shuffle kind, unsigned mask, uint64_t value, int arg, int width);
unsigned   simt_ballot(unsigned mask, int predicate);
unsigned   simt_match_any(unsigned mask, uint64_t value);
uint32_t   simt_reduce(simt_arith op, unsigned mask, uint32_t value, int is_signed);
uint64_t   simt_atomic(simt_arith op, void *p, uint64_t value, int bytes, int is_signed);
uint64_t   simt_cas(void *p, uint64_t expected, uint64_t desired, int bytes);
void       simt_cp_async(void *dst, const void *src, int bytes_valid);
void       simt_cp_async_commit(void);
void       simt_cp_async_wait(int n_left);
simt_u32x4 simt_ldmatrix(const void *row, int n_matrices, int transposed);
simt_f32x4 simt_mma_bf16(simt_u32x4 a, uint64_t b, simt_f32x4 c);
simt_f32x4 simt_mma_f16(simt_u32x4 a, uint64_t b, simt_f32x4 c);

/* Run kernel in the stream's turn. invoke(params) calls it for one thread; params are copied. */
void simt_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                 cudaStream_t stream, void (*invoke)(const void *kernel, const void *params), const void *params,
                 size_t params_bytes);
}

static inline void __syncthreads(void) { simt_syncthreads(SIMT_SYNC, 0); }
static inline int  __syncthreads_or(int p) { return simt_syncthreads(SIMT_SYNC_OR, p); }
static inline int  __syncthreads_and(int p) { return simt_syncthreads(SIMT_SYNC_AND, p); }
static inline int  __syncthreads_count(int p) { return simt_syncthreads(SIMT_SYNC_COUNT, p); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { simt_syncwarp(mask); }
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

static inline unsigned __ballot_sync(unsigned mask, int p) { return simt_ballot(mask, p); }
static inline int      __any_sync(unsigned mask, int p) { return simt_ballot(mask, p) != 0; }
static inline int      __all_sync(unsigned mask, int p) { return simt_ballot(mask, p) == mask; }

namespace simt {
template <class T> static inline uint64_t widen(T v)
{
    static_assert(std::is_trivially_copyable<T>::value && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8),
                  "a register");
    uint64_t u = 0;
    __builtin_memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> static inline T narrow(uint64_t u)
{
    T v;
    __builtin_memcpy(&v, &u, sizeof v);
    return v;
}
} // namespace simt

#define SIMT_SHUFFLE(name, kind, arg_type) \
    template <class T> static inline T name(unsigned mask, T v, arg_type arg, int width = 32) \
    { return simt::narrow<T>(simt_shfl(kind, mask, simt::widen(v), (int)arg, width)); }
SIMT_SHUFFLE(__shfl_sync, SIMT_SHFL, int)
SIMT_SHUFFLE(__shfl_up_sync, SIMT_SHFL_UP, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, SIMT_SHFL_DOWN, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, SIMT_SHFL_XOR, int)
#undef SIMT_SHUFFLE
template <class T> static inline unsigned __match_any_sync(unsigned mask, T v)
{
    return simt_match_any(mask, simt::widen(v));
}

#define SIMT_REDUCE(name, op, T)                                                                                   \
    static inline T name(unsigned mask, T v)                                                                       \
    {                                                                                                              \
        return (T)simt_reduce(op, mask, (uint32_t)v, std::is_signed<T>::value);                                    \
    }
SIMT_REDUCE(__reduce_add_sync, SIMT_ADD, int)
SIMT_REDUCE(__reduce_add_sync, SIMT_ADD, unsigned)
SIMT_REDUCE(__reduce_min_sync, SIMT_MIN, int)
SIMT_REDUCE(__reduce_min_sync, SIMT_MIN, unsigned)
SIMT_REDUCE(__reduce_max_sync, SIMT_MAX, int)
SIMT_REDUCE(__reduce_max_sync, SIMT_MAX, unsigned)
SIMT_REDUCE(__reduce_and_sync, SIMT_AND, unsigned)
SIMT_REDUCE(__reduce_or_sync, SIMT_OR, unsigned)
SIMT_REDUCE(__reduce_xor_sync, SIMT_XOR, unsigned)
#undef SIMT_REDUCE

#define SIMT_ATOMIC(name, op, T)                                                                                   \
    static inline T name(T *p, T v)                                                                                \
    {                                                                                                              \
        return (T)simt_atomic(op, p, (uint64_t)v, sizeof(T), std::is_signed<T>::value);                            \
    }
#define SIMT_ATOMICS(T) \
    SIMT_ATOMIC(atomicAdd, SIMT_ADD, T) SIMT_ATOMIC(atomicSub, SIMT_SUB, T) SIMT_ATOMIC(atomicMin, SIMT_MIN, T) \
    SIMT_ATOMIC(atomicMax, SIMT_MAX, T) SIMT_ATOMIC(atomicExch, SIMT_EXCH, T) SIMT_ATOMIC(atomicAnd, SIMT_AND, T) \
    SIMT_ATOMIC(atomicOr, SIMT_OR, T) SIMT_ATOMIC(atomicXor, SIMT_XOR, T) \
    static inline T atomicCAS(T *p, T expected, T desired) \
    { return (T)simt_cas(p, (uint64_t)expected, (uint64_t)desired, sizeof(T)); }
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
#undef SIMT_ATOMICS
#undef SIMT_ATOMIC

/* The operations that device.cuh makes of PTX under nvcc. */
static inline void cp_async_16(void *dst_shared, const void *src_global, int bytes_valid)
{
    simt_cp_async(dst_shared, src_global, bytes_valid);
}
static inline void cp_async_commit(void) { simt_cp_async_commit(); }
template <int N> static inline void cp_async_wait(void) { simt_cp_async_wait(N); }

#define SIMT_LDMATRIX(name, n, transposed) \
    static inline void name(uint32_t *r, const void *shared) \
    { \
        simt_u32x4 m = simt_ldmatrix(shared, n, transposed); \
        for (int i_ = 0; i_ < n; i_++) r[i_] = m[i_]; \
    }
SIMT_LDMATRIX(ldmatrix_x4, 4, 0)
SIMT_LDMATRIX(ldmatrix_x4_trans, 4, 1)
SIMT_LDMATRIX(ldmatrix_x2, 2, 0)
SIMT_LDMATRIX(ldmatrix_x2_trans, 2, 1)
SIMT_LDMATRIX(ldmatrix_x1, 1, 0)
SIMT_LDMATRIX(ldmatrix_x1_trans, 1, 1)
#undef SIMT_LDMATRIX

#define SIMT_MMA(name, product) \
    static inline void name(float *d, const uint32_t *a, const uint32_t *b, const float *c) \
    { \
        simt_f32x4 r = product((simt_u32x4){a[0], a[1], a[2], a[3]}, (uint64_t)b[1] << 32 | b[0], \
                               (simt_f32x4){c[0], c[1], c[2], c[3]}); \
        for (int i_ = 0; i_ < 4; i_++) d[i_] = r[i_]; \
    }
SIMT_MMA(mma_m16n8k16_bf16, simt_mma_bf16)
SIMT_MMA(mma_m16n8k16_f16, simt_mma_f16)
#undef SIMT_MMA

static inline float exp2_fast(float x) { return x < -126 ? 0 : exp2f(x); }

static inline int nvtxRangePushA(const char *) { return 0; }
static inline int nvtxRangePop(void) { return 0; }

namespace simt {
template <class... P> struct kernel_call {
    typedef std::tuple<std::decay_t<P>...> params;
    static void invoke(const void *kernel, const void *p)
    {
        auto k = reinterpret_cast<void (*)(P...)>(const_cast<void *>(kernel));
        std::apply(k, *static_cast<const params *>(p));
    }
};
template <class... P, class... A>
static inline void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, A... args)
{
    static_assert((std::is_trivially_copyable<std::decay_t<P>>::value && ...),
                  "a kernel's parameters are copied as bytes");
    typename kernel_call<P...>::params params(static_cast<const std::decay_t<P> &>(args)...);
    simt_launch(name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream,
                kernel_call<P...>::invoke, &params, sizeof params);
}
} // namespace simt
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    simt::launch(#kernel, kernel, grid, block, (size_t)(shared_bytes), stream, ##__VA_ARGS__)

#endif
