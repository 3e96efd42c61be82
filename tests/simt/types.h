/* types.h - CUDA's vector and 16-bit types for g++: the same sizes, alignments and roundings. Included by simt.h. */
#ifndef JOMED_SIMT_TYPES_H
#define JOMED_SIMT_TYPES_H

#include <stdint.h>
#include <string.h>

namespace simt {
/* The whole of a vector at once, so that the checks see one access as a GPU makes it and not one a member. */
template <int BYTES> struct whole;
#define SIMT_WHOLE(n, T) \
    template <> struct whole<n> { typedef T type __attribute__((may_alias)); };
SIMT_WHOLE(2, uint16_t)
SIMT_WHOLE(4, uint32_t)
SIMT_WHOLE(8, uint64_t)
SIMT_WHOLE(16, unsigned __int128)
#undef SIMT_WHOLE
template <class T> static inline void move_whole(T *to, const T *from)
{
    typedef typename whole<sizeof(T)>::type all;
    *reinterpret_cast<all *>(to) = *reinterpret_cast<const all *>(from);
}
} // namespace simt

/* Loads and stores of these are single instructions on a GPU and fault when misaligned, so the alignment is CUDA's
 * and the kernels are compiled with -fsanitize=alignment. */
#define SIMT_COPIES_WHOLE(name) \
    name() = default; \
    name(const name &o) { simt::move_whole(this, &o); } \
    name &operator=(const name &o) { simt::move_whole(this, &o); return *this; }
#define SIMT_VECTOR2(T, name, align) \
    struct alignas(align) name##2 { T x, y; SIMT_COPIES_WHOLE(name##2) name##2(T x_, T y_) : x(x_), y(y_) {} }; \
    static inline name##2 make_##name##2(T x, T y) { return name##2(x, y); }
#define SIMT_VECTOR3(T, name) \
    struct name##3 { T x, y, z; }; \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }
#define SIMT_VECTOR4(T, name, align) \
    struct alignas(align) name##4 { \
        T x, y, z, w; \
        SIMT_COPIES_WHOLE(name##4) name##4(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {} \
    }; \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return name##4(x, y, z, w); }

SIMT_VECTOR2(signed char, char, 2)
SIMT_VECTOR4(signed char, char, 4)
SIMT_VECTOR2(unsigned char, uchar, 2)
SIMT_VECTOR3(unsigned char, uchar)
SIMT_VECTOR4(unsigned char, uchar, 4)
SIMT_VECTOR2(short, short, 4)
SIMT_VECTOR4(short, short, 8)
SIMT_VECTOR2(unsigned short, ushort, 4)
SIMT_VECTOR4(unsigned short, ushort, 8)
SIMT_VECTOR2(int, int, 8)
SIMT_VECTOR3(int, int)
SIMT_VECTOR4(int, int, 16)
SIMT_VECTOR2(unsigned, uint, 8)
SIMT_VECTOR3(unsigned, uint)
SIMT_VECTOR4(unsigned, uint, 16)
SIMT_VECTOR2(float, float, 8)
SIMT_VECTOR3(float, float)
SIMT_VECTOR4(float, float, 16)
SIMT_VECTOR2(double, double, 16)
SIMT_VECTOR2(long long, longlong, 16)
SIMT_VECTOR2(unsigned long long, ulonglong, 16)
#undef SIMT_VECTOR2
#undef SIMT_VECTOR3
#undef SIMT_VECTOR4
#undef SIMT_COPIES_WHOLE

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {

template <class To, class From> static inline To bits_as(From from)
{
    static_assert(sizeof(To) == sizeof(From), "one representation");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

static inline float bf16_to_float(uint16_t b) { return bits_as<float>((uint32_t)b << 16); }

/* Round to nearest even; every NaN becomes 0x7fff, as the GPU's instruction has it. */
static inline uint16_t bf16_from_float(float f)
{
    uint32_t u = bits_as<uint32_t>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* Exact: every half is a float. A subnormal one is its 10 bits times 2^-24. */
static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu, fraction = h & 0x3ffu;
    float    f;
    if (exponent == 0x1fu) f = bits_as<float>(0x7f800000u | fraction << 13);
    else if (exponent == 0) f = (float)fraction * 0x1p-24f;
    else f = bits_as<float>((exponent + 112u) << 23 | fraction << 13);
    return bits_as<float>(bits_as<uint32_t>(f) | sign);
}

/* Round to nearest even, overflow to infinity. Adding 0.5 to |f| < 2^-14 lets the float adder round at 2^-24. */
static inline uint16_t half_from_float(float f)
{
    uint32_t u = bits_as<uint32_t>(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return 0x7fff;
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more */
    if (a < 0x38800000u) return (uint16_t)(sign | (bits_as<uint32_t>(bits_as<float>(a) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((a + 0xfffu + (a >> 13 & 1)) - 0x38000000u) >> 13);
}

} // namespace simt

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float f) : bits(simt::bf16_from_float(f)) {}
    operator float() const { return simt::bf16_to_float(bits); }
};
struct __half {
    uint16_t bits;
    __half() = default;
    __half(float f) : bits(simt::half_from_float(f)) {}
    operator float() const { return simt::half_to_float(bits); }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
struct alignas(4) __half2 { __half x, y; };
typedef __nv_bfloat16  nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

/* On a GPU these round after every operation, here they would silently be float's: say which is meant. */
#define SIMT_NO_ARITHMETIC(T) \
    T operator+(T, T) = delete; T operator-(T, T) = delete; T operator*(T, T) = delete; T operator/(T, T) = delete;
SIMT_NO_ARITHMETIC(__nv_bfloat16)
SIMT_NO_ARITHMETIC(__half)
#undef SIMT_NO_ARITHMETIC

static inline __nv_bfloat16  __float2bfloat16(float f) { return f; }
static inline __nv_bfloat16  __float2bfloat16_rn(float f) { return f; }
static inline float          __bfloat162float(__nv_bfloat16 b) { return b; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 f) { return {f.x, f.y}; }
static inline __nv_bfloat162 __float2bfloat162_rn(float f) { return {f, f}; }
static inline float2         __bfloat1622float2(__nv_bfloat162 b) { return {b.x, b.y}; }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline float          __low2float(__nv_bfloat162 b) { return b.x; }
static inline float          __high2float(__nv_bfloat162 b) { return b.y; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
static inline __nv_bfloat16  __ushort_as_bfloat16(unsigned short u) { return simt::bits_as<__nv_bfloat16>(u); }

static inline __half         __float2half(float f) { return f; }
static inline __half         __float2half_rn(float f) { return f; }
static inline float          __half2float(__half h) { return h; }
static inline __half2        __floats2half2_rn(float x, float y) { return {x, y}; }
static inline __half2        __float22half2_rn(float2 f) { return {f.x, f.y}; }
static inline __half2        __float2half2_rn(float f) { return {f, f}; }
static inline float2         __half22float2(__half2 h) { return {h.x, h.y}; }
static inline __half2        __halves2half2(__half x, __half y) { return {x, y}; }
static inline float          __low2float(__half2 h) { return h.x; }
static inline float          __high2float(__half2 h) { return h.y; }
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline __half         __ushort_as_half(unsigned short u) { return simt::bits_as<__half>(u); }

#endif
