/* resample_avx2.c - the inner loops of bicubic resizing with AVX2: 16-bit multiply-add of byte pairs.
 * With k = high 2^16 + low the sum of p k is (sum of p high) 2^16 + (sum of p low), modulo 2^32, which is where the
 * plain loop computes; so the bits are the same. madd_epi16 takes two taps at once and its own sum of two products
 * fits: 2 * 255 * 32768 < 2^31. */
#include "kernels/resample.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

enum { CHANNELS = 3 };

/* At -O2 the compilers would keep the arrays of sums in memory instead of registers. */
#define UNROLLED _Pragma("GCC unroll 4")

static inline __m256i join(__m256i high, __m256i low)
{
    return _mm256_add_epi32(_mm256_slli_epi32(high, 16), low);
}

/* Four taps a step: 12 bytes R0 G0 B0 R1 .. B3 become, as 16-bit numbers, R0 R1 G0 G1 B0 B1 0 0 in the lower half and
 * the same of pixels 2 and 3 in the upper. 16 bytes are read at each step: the caller's rows have RESAMPLE_PAD. */
static void rows_avx2(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride, const pixel_axis *axis)
{
    enum { ROWS = RESAMPLE_ROWS };
    const __m256i pairs =
        _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, /* pixels 0, 1 */
                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1 /* pixels 2, 3 */);
    const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1); /* weights 0, 1 below; 2, 3 above */
    const __m128i half = _mm_set1_epi32(1 << (RESAMPLE_BITS - 1));
    for (int i = 0; i < axis->n_out; i++, out += CHANNELS) {
        const uint8_t *p = in + (size_t)axis->lo[i] * CHANNELS;
        const int16_t *high = axis->high + (size_t)i * axis->stride, *low = axis->low + (size_t)i * axis->stride;
        const __m256i  zero = _mm256_setzero_si256();
        __m256i        sum_high[ROWS] = {zero, zero, zero, zero}, sum_low[ROWS] = {zero, zero, zero, zero};
        for (int j = 0; j < axis->n[i]; j += 4, p += 4 * CHANNELS) {
            const __m256i kh = _mm256_permutevar8x32_epi32(
                _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(high + j))), spread);
            const __m256i kl = _mm256_permutevar8x32_epi32(
                _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(low + j))), spread);
            UNROLLED
            for (int y = 0; y < ROWS; y++) {
                const __m128i bytes = _mm_loadu_si128((const __m128i *)(p + y * in_stride));
                const __m256i v = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pairs);
                sum_high[y] = _mm256_add_epi32(sum_high[y], _mm256_madd_epi16(v, kh));
                sum_low[y] = _mm256_add_epi32(sum_low[y], _mm256_madd_epi16(v, kl));
            }
        }
        __m128i sum[ROWS];
        UNROLLED
        for (int y = 0; y < ROWS; y++) {
            const __m256i both = join(sum_high[y], sum_low[y]);
            sum[y] = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
            sum[y] = _mm_srai_epi32(_mm_add_epi32(sum[y], half), RESAMPLE_BITS);
        }
        /* R G B 0 of each row; both packs saturate: the clip to 0..255 */
        int rgb[ROWS];
        _mm_storeu_si128((__m128i *)rgb,
                         _mm_packus_epi16(_mm_packs_epi32(sum[0], sum[1]), _mm_packs_epi32(sum[2], sum[3])));
        UNROLLED
        /* the 4th byte: the next pixel's, or padding */
        for (int y = 0; y < ROWS; y++) memcpy(out + y * out_stride, &rgb[y], 4);
    }
}

/* Bytes x .. x+31 of two rows, interleaved and widened; four registers of 8 sums follow unpack's order, which the two
 * packs at the end undo. */
static void column_avx2(uint8_t *out, const uint8_t *in, int64_t stride, int n, int n_rows, const int32_t *k,
                        const int16_t *high, const int16_t *low)
{
    enum { BLOCK = 32, PARTS = 4 };
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (RESAMPLE_BITS - 1));
    int           x = 0;
    for (; x + BLOCK <= n; x += BLOCK) {
        __m256i sum_high[PARTS] = {zero, zero, zero, zero}, sum_low[PARTS] = {half, half, half, half};
        for (int j = 0; j < n_rows; j += 2) {
            const uint8_t *p = in + j * stride + x, *q = j + 1 < n_rows ? p + stride : p; /* odd: weight 0 for q */
            const __m256i  a = _mm256_loadu_si256((const __m256i *)p), b = _mm256_loadu_si256((const __m256i *)q);
            const __m256i  ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpackhi_epi8(a, b);
            const __m256i  v[PARTS] = {_mm256_unpacklo_epi8(ab, zero), _mm256_unpackhi_epi8(ab, zero),
                                       _mm256_unpacklo_epi8(cd, zero), _mm256_unpackhi_epi8(cd, zero)};
            int32_t pair_high, pair_low;
            memcpy(&pair_high, high + j, 4);
            memcpy(&pair_low, low + j, 4);
            const __m256i kh = _mm256_set1_epi32(pair_high), kl = _mm256_set1_epi32(pair_low);
            UNROLLED
            for (int i = 0; i < PARTS; i++) {
                sum_high[i] = _mm256_add_epi32(sum_high[i], _mm256_madd_epi16(v[i], kh));
                sum_low[i] = _mm256_add_epi32(sum_low[i], _mm256_madd_epi16(v[i], kl));
            }
        }
        UNROLLED
        for (int i = 0; i < PARTS; i++) sum_low[i] = _mm256_srai_epi32(join(sum_high[i], sum_low[i]), RESAMPLE_BITS);
        _mm256_storeu_si256((__m256i *)(out + x), _mm256_packus_epi16(_mm256_packs_epi32(sum_low[0], sum_low[1]),
                                                                      _mm256_packs_epi32(sum_low[2], sum_low[3])));
    }
    if (x < n) RESAMPLE_PLAIN.column(out + x, in + x, stride, n - x, n_rows, k, high, low);
}

const resample_loops RESAMPLE_AVX2 = {rows_avx2, column_avx2};
#endif
