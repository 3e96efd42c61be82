/* vec.h - vectors of VL floats for the instruction set that this file is compiled for (the Makefile's suffix rule).
 *
 * Only what the kernels need, so that every kernel is written once: f32 arithmetic, 32-bit integers of the same
 * count, loads and stores of the first n lanes, a VL x VL transpose of 32-bit elements. Loads and stores need no
 * alignment. Sums over lanes have one fixed order.
 *
 *   base       VL 4   SSE2, multiply and add rounded separately
 *   avx2       VL 8   with fused multiply-add
 *   avx512     VL 16  avx512bf16 adds v_dot: two bf16 products a lane, accumulated in f32 */
#ifndef JOMED_KERNELS_CPU_VEC_H
#define JOMED_KERNELS_CPU_VEC_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* UNROLL: loops over registers. VARIANT: a function compiled once for each of its constant arguments. Not so under
 * AddressSanitizer, with which the compiler would take minutes a file, and which would make memory of the registers and
 * look at every access to it. There it is one plain function that is not looked into; it begins by telling in_bounds()
 * what it reads and writes. */
#if defined __SANITIZE_ADDRESS__
#define SANITIZED
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef SANITIZED
#include <sanitizer/asan_interface.h>
#define UNROLL
#define PLAIN no_sanitize("address"), no_sanitize("undefined")
#define VARIANT static __attribute__((noinline, PLAIN))
/* What is inlined is looked into where it comes to stand; its own locals' scopes must not be marked in a VARIANT. */
#define INLINE static inline __attribute__((always_inline, unused, PLAIN))
static __attribute__((noinline, unused)) void in_bounds(const void *p, size_t bytes)
{
    const char *bad = __asan_region_is_poisoned((void *)p, bytes);
    if (bad) (void)*(const volatile char *)bad; /* which AddressSanitizer reports */
}
#else
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define VARIANT static inline __attribute__((always_inline))
#define INLINE static inline __attribute__((always_inline, unused))
INLINE void in_bounds(const void *p, size_t bytes) { (void)p, (void)bytes; }
#endif

#if defined __AVX512F__
/* ------------------------------------------------------------------------------------------------ 16 lanes */
enum { VL = 16 };
typedef __m512  vf;
typedef __m512i vi;
INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE __mmask16 v_first(int n) { return (__mmask16)((1u << n) - 1); } /* n < 16 */
INLINE vf v_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(v_first(n), p); }
INLINE void v_store_n(float *p, vf a, int n) { _mm512_mask_storeu_ps(p, v_first(n), a); }
INLINE vf v_all(float x) { return _mm512_set1_ps(x); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b where either is NaN */
INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf v_zero_below(vf a, vf x, vf limit) /* x < limit ? 0 : a */
{
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), _mm512_setzero_ps());
}
INLINE vf v_negate_where_below_zero(vf a, vf x) /* a >= 0: copysign(a, x) */
{
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a),
                               _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN))));
}
INLINE vf v_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); } /* a 2^n, n whole */

INLINE vi v_load_u32(const void *p) { return _mm512_loadu_si512(p); }
INLINE vi v_load_u32_n(const void *p, int n) { return _mm512_maskz_loadu_epi32(v_first(n), p); }
INLINE void v_store_u32(void *p, vi a) { _mm512_storeu_si512(p, a); }
INLINE vi v_zero_u32(void) { return _mm512_setzero_si512(); }
INLINE vi v_all_u32(uint32_t x) { return _mm512_set1_epi32((int)x); }
INLINE vf v_as_f32(vi a) { return _mm512_castsi512_ps(a); }
/* A lane holds two neighbouring bf16: the even one in its low half. */
INLINE vf v_even_bf16(vi a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
INLINE vf v_odd_bf16(vi a) { return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000))); }
INLINE vf v_load_bf16(const uint16_t *p) /* VL of them */
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}

/* r[i] lane j becomes r[j] lane i: 4 x 4 inside the 128-bit lanes, then the lanes as a 4 x 4. */
INLINE void v_transpose(vi r[VL])
{
    vi t[VL];
    UNROLL for (int i = 0; i < 16; i += 4) {
        vi a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        vi c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i]     = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        vi a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        vi c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
        r[i]      = _mm512_shuffle_i32x4(a, c, 0x88);
        r[i + 4]  = _mm512_shuffle_i32x4(b, d, 0x88);
        r[i + 8]  = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}
#ifdef __AVX512BF16__
INLINE vf v_dot(vf acc, vi x, vi w) { return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w); }
#endif

#elif defined __AVX2__
/* ------------------------------------------------------------------------------------------------- 8 lanes */
enum { VL = 8 };
typedef __m256  vf;
typedef __m256i vi;
INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
INLINE vi v_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf v_load_n(const float *p, int n) { return _mm256_maskload_ps(p, v_first(n)); }
INLINE void v_store_n(float *p, vf a, int n) { _mm256_maskstore_ps(p, v_first(n), a); }
INLINE vf v_all(float x) { return _mm256_set1_ps(x); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf v_zero_below(vf a, vf x, vf limit) { return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), a); }
INLINE vf v_negate_where_below_zero(vf a, vf x) { return _mm256_or_ps(a, _mm256_and_ps(x, _mm256_set1_ps(-0.0f))); }
INLINE vf v_scale2(vf a, vf n) /* in two steps, so that n = 128 does not overflow the exponent */
{
    vi i = _mm256_cvtps_epi32(n), h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    vf p = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, bias), 23));
    vf q = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, p), q);
}
INLINE vi v_load_u32(const void *p) { return _mm256_loadu_si256(p); }
INLINE vi v_load_u32_n(const void *p, int n) { return _mm256_maskload_epi32(p, v_first(n)); }
INLINE void v_store_u32(void *p, vi a) { _mm256_storeu_si256(p, a); }
INLINE vi v_zero_u32(void) { return _mm256_setzero_si256(); }
INLINE vf v_as_f32(vi a) { return _mm256_castsi256_ps(a); }
INLINE vf v_even_bf16(vi a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
INLINE vf v_odd_bf16(vi a) { return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32((int)0xffff0000))); }
INLINE vf v_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
INLINE void v_transpose(vi r[VL])
{
    vi t[VL];
    UNROLL for (int i = 0; i < 8; i += 4) {
        vi a = _mm256_unpacklo_epi32(r[i], r[i + 1]), b = _mm256_unpackhi_epi32(r[i], r[i + 1]);
        vi c = _mm256_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm256_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i]     = _mm256_unpacklo_epi64(a, c);
        t[i + 1] = _mm256_unpackhi_epi64(a, c);
        t[i + 2] = _mm256_unpacklo_epi64(b, d);
        t[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        r[i]     = _mm256_permute2x128_si256(t[i], t[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x31);
    }
}

#else
/* ------------------------------------------------------------------------------------------- 4 lanes, SSE2 */
enum { VL = 4 };
typedef __m128  vf;
typedef __m128i vi;
INLINE vf v_load(const float *p) { return _mm_loadu_ps(p); }
INLINE void v_store(float *p, vf a) { _mm_storeu_ps(p, a); }
INLINE vf v_load_n(const float *p, int n)
{
    float b[4] = {0};
    memcpy(b, p, (size_t)n * 4);
    return _mm_loadu_ps(b);
}
INLINE void v_store_n(float *p, vf a, int n)
{
    float b[4];
    _mm_storeu_ps(b, a);
    memcpy(p, b, (size_t)n * 4);
}
INLINE vf v_all(float x) { return _mm_set1_ps(x); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
INLINE vf v_max(vf a, vf b) { return _mm_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
INLINE vf v_zero_below(vf a, vf x, vf limit) { return _mm_andnot_ps(_mm_cmplt_ps(x, limit), a); }
INLINE vf v_negate_where_below_zero(vf a, vf x) { return _mm_or_ps(a, _mm_and_ps(x, _mm_set1_ps(-0.0f))); }
INLINE vf v_scale2(vf a, vf n)
{
    vi i = _mm_cvtps_epi32(n), h = _mm_srai_epi32(i, 1), bias = _mm_set1_epi32(127);
    vf p = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(h, bias), 23));
    vf q = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(_mm_sub_epi32(i, h), bias), 23));
    return _mm_mul_ps(_mm_mul_ps(a, p), q);
}
INLINE vi v_load_u32(const void *p) { return _mm_loadu_si128(p); }
INLINE vi v_load_u32_n(const void *p, int n)
{
    uint32_t b[4] = {0};
    memcpy(b, p, (size_t)n * 4);
    return _mm_loadu_si128((const void *)b);
}
INLINE void v_store_u32(void *p, vi a) { _mm_storeu_si128(p, a); }
INLINE vi v_zero_u32(void) { return _mm_setzero_si128(); }
INLINE vf v_as_f32(vi a) { return _mm_castsi128_ps(a); }
INLINE vf v_even_bf16(vi a) { return _mm_castsi128_ps(_mm_slli_epi32(a, 16)); }
INLINE vf v_odd_bf16(vi a) { return _mm_castsi128_ps(_mm_and_si128(a, _mm_set1_epi32((int)0xffff0000))); }
INLINE vf v_load_bf16(const uint16_t *p)
{
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const void *)p)));
}
INLINE void v_transpose(vi r[VL])
{
    vi a = _mm_unpacklo_epi32(r[0], r[1]), b = _mm_unpackhi_epi32(r[0], r[1]);
    vi c = _mm_unpacklo_epi32(r[2], r[3]), d = _mm_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm_unpacklo_epi64(a, c);
    r[1] = _mm_unpackhi_epi64(a, c);
    r[2] = _mm_unpacklo_epi64(b, d);
    r[3] = _mm_unpackhi_epi64(b, d);
}
#endif

INLINE vf v_zero(void) { return v_all(0); }

/* The first m of VL rows of VL elements, row_bytes apart; the others are zero. */
INLINE void v_load_rows(vi r[VL], const void *p, size_t row_bytes, int m)
{
    const uint8_t *b = p;
    if (m == VL) {
        UNROLL for (int i = 0; i < VL; i++) r[i] = v_load_u32(b + (size_t)i * row_bytes);
    } else {
        UNROLL for (int i = 0; i < VL; i++) r[i] = i < m ? v_load_u32(b + (size_t)i * row_bytes) : v_zero_u32();
    }
}

/* Over the lanes by halves: lane i with lane i + VL/2, then i with i + VL/4, and so on. */
INLINE float v_sum4(__m128 a)
{
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
INLINE float v_largest4(__m128 a)
{
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}
#if defined __AVX512F__
INLINE __m256 v_upper8(vf a) { return _mm512_extractf32x8_ps(a, 1); }
INLINE __m256 v_lower8(vf a) { return _mm512_castps512_ps256(a); }
#endif
#if defined __AVX2__
INLINE float v_sum8(__m256 a) { return v_sum4(_mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1))); }
INLINE float v_largest8(__m256 a)
{
    return v_largest4(_mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)));
}
#endif
#if defined __AVX512F__
INLINE float v_sum(vf a) { return v_sum8(_mm256_add_ps(v_lower8(a), v_upper8(a))); }
INLINE float v_largest(vf a) { return v_largest8(_mm256_max_ps(v_lower8(a), v_upper8(a))); }
#elif defined __AVX2__
INLINE float v_sum(vf a) { return v_sum8(a); }
INLINE float v_largest(vf a) { return v_largest8(a); }
#else
INLINE float v_sum(vf a) { return v_sum4(a); }
INLINE float v_largest(vf a) { return v_largest4(a); }
#endif

#endif
