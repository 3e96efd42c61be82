/* dtype.h - element types of tensors, and the 16-bit floats. */
#ifndef JOMED_BASE_DTYPE_H
#define JOMED_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I64, DTYPE_I32, DTYPE_U8, DTYPE_OTHER } dtype;
size_t      dtype_bytes(dtype t); /* of one element; 0 for DTYPE_OTHER */
const char *dtype_name(dtype t);  /* as safetensors spells it */

static inline float bf16_to_f32(uint16_t v)
{
    uint32_t b = (uint32_t)v << 16;
    float    f;
    memcpy(&f, &b, 4);
    return f;
}
/* Round to nearest even; NaN stays NaN. */
static inline uint16_t bf16_from_f32(float f)
{
    uint32_t b;
    memcpy(&b, &f, 4);
    if ((b & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fffu + (b >> 16 & 1)) >> 16);
}
float f16_to_f32(uint16_t v); /* IEEE half, denormals included */

/* n elements of type t (F32, F16 or BF16) at p to f32. */
void dtype_widen(float *out, const void *p, dtype t, size_t n);

#endif
