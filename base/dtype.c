#include "base/dtype.h"

#include <assert.h>

size_t dtype_bytes(dtype t)
{
    static const size_t bytes[] = {[DTYPE_F32] = 4, [DTYPE_F16] = 2, [DTYPE_BF16] = 2, [DTYPE_I64] = 8,
                                   [DTYPE_I32] = 4, [DTYPE_U8] = 1,  [DTYPE_OTHER] = 0};
    return bytes[t];
}

const char *dtype_name(dtype t)
{
    static const char *const name[] = {
        [DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16",         [DTYPE_I64] = "I64",
        [DTYPE_I32] = "I32", [DTYPE_U8] = "U8",   [DTYPE_OTHER] = "another type"};
    return name[t];
}

float f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = v >> 10 & 31, fraction = v & 1023, bits;
    if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
    else if (!fraction) bits = sign;
    else { /* denormal: shift until the leading one is where f32 hides it */
        exponent = 113;
        while (!(fraction & 1024)) fraction <<= 1, exponent--;
        bits = sign | exponent << 23 | (fraction & 1023) << 13;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

void dtype_widen(float *out, const void *p, dtype t, size_t n)
{
    assert(t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16);
    const unsigned char *b = p; /* a mapped tensor need not be aligned to its element */
    if (t == DTYPE_F32) {
        memcpy(out, p, 4 * n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, b + 2 * i, 2);
        out[i] = t == DTYPE_BF16 ? bf16_to_f32(v) : f16_to_f32(v);
    }
}
