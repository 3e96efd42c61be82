/* intrinsics.h - CUDA's arithmetic intrinsics for g++. The approximate ones (__expf, ..) are exact here: a tolerance
 * that holds on a GPU holds here too, not the reverse. Included by simt.h. */
#ifndef JOMED_SIMT_INTRINSICS_H
#define JOMED_SIMT_INTRINSICS_H

#include <math.h>
#include <stdint.h>
#include "tests/simt/types.h"

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
/* glibc declares functions of these names for its own use. */
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanhf(x) tanhf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __fmul_rn(float x, float y) { return x * y; } /* -ffp-contract=off: never fused */
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; } /* NaN: 0 */

#define SIMT_MIN_MAX(T) \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
static inline float  min(float a, float b) { return fminf(a, b); } /* a NaN gives the other one */
static inline float  max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

static inline unsigned  __float_as_uint(float f) { return simt::bits_as<unsigned>(f); }
static inline int       __float_as_int(float f) { return simt::bits_as<int>(f); }
static inline float     __uint_as_float(unsigned u) { return simt::bits_as<float>(u); }
static inline float     __int_as_float(int i) { return simt::bits_as<float>(i); }
static inline long long __double_as_longlong(double d) { return simt::bits_as<long long>(d); }
static inline double    __longlong_as_double(long long i) { return simt::bits_as<double>(i); }

namespace simt {
/* Float to int saturates on a GPU and is undefined in C++. */
static inline int to_int(float f)
{
    return f != f ? 0 : f >= 0x1p31f ? INT32_MAX : f < -0x1p31f ? INT32_MIN : (int)f;
}
static inline unsigned to_uint(float f) { return !(f > 0) ? 0 : f >= 0x1p32f ? UINT32_MAX : (unsigned)f; }
} // namespace simt
static inline int      __float2int_rn(float f) { return simt::to_int(nearbyintf(f)); }
static inline int      __float2int_rd(float f) { return simt::to_int(floorf(f)); }
static inline int      __float2int_ru(float f) { return simt::to_int(ceilf(f)); }
static inline int      __float2int_rz(float f) { return simt::to_int(f); }
static inline unsigned __float2uint_rn(float f) { return simt::to_uint(nearbyintf(f)); }
static inline unsigned __float2uint_rz(float f) { return simt::to_uint(f); }
static inline float    __int2float_rn(int i) { return (float)i; }
static inline float    __uint2float_rn(unsigned u) { return (float)u; }

static inline int      __popc(unsigned u) { return __builtin_popcount(u); }
static inline int      __popcll(unsigned long long u) { return __builtin_popcountll(u); }
static inline int      __clz(int i) { return i ? __builtin_clz((unsigned)i) : 32; }
static inline int      __clzll(long long i) { return i ? __builtin_clzll((unsigned long long)i) : 64; }
static inline int      __ffs(int i) { return __builtin_ffs(i); }
static inline int      __ffsll(long long i) { return __builtin_ffsll(i); }
static inline int      __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __brev(unsigned u)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (u >> i & 1u) << (31 - i);
    return r;
}
/* Byte i of the result is byte (nibble i of the selector) of {y, x}; its high bit repeats the sign instead. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned n = selector >> 4 * i & 0xfu, b = (unsigned)(both >> 8 * (n & 7u)) & 0xffu;
        if (n & 8u) b = b & 0x80u ? 0xffu : 0;
        r |= b << 8 * i;
    }
    return r;
}

template <class T> static inline T    __ldg(const T *p) { return *p; }
template <class T> static inline T    __ldca(const T *p) { return *p; }
template <class T> static inline T    __ldcg(const T *p) { return *p; }
template <class T> static inline T    __ldcs(const T *p) { return *p; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }
template <class T> static inline void __stwt(T *p, T v) { *p = v; }

#endif
