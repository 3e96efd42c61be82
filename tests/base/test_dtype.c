/* test_dtype.c - the 16-bit floats, every one of them, and bfloat16's rounding at every boundary. */
#include "tests/check.h"
#include "base/dtype.h"

static uint32_t bits_of(float f)
{
    uint32_t b;
    memcpy(&b, &f, 4);
    return b;
}

/* By the definition: (-1)^s 2^(e-15) (1 + m/1024), or 2^-14 (m/1024) where e is 0. [IEEE 754-2019, 3.4] */
static void test_every_half(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < 65536; v++) {
        const int   e = v >> 10 & 31, m = v & 1023;
        const float got = f16_to_f32((uint16_t)v);
        if (e == 31) {
            if (m ? !isnan(got) : !isinf(got)) fail_msg("%04x", v);
        } else {
            const double want = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
            if ((double)fabsf(got) != want) fail_msg("%04x: %g, wanted %g", v, (double)got, want);
        }
        if (!isnan(got) && (bits_of(got) >> 31) != v >> 15) fail_msg("%04x: sign", v);
    }
}

/* Back to itself; half-way to the next goes to even; one f32 step to either side of half-way goes to the nearer. */
static void test_every_bfloat16(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < 65536; v++) {
        const float f = bf16_to_f32((uint16_t)v);
        if (bits_of(f) != v << 16) fail_msg("%04x widens wrongly", v);
        if (isnan(f)) {
            if (!isnan(bf16_to_f32(bf16_from_f32(f)))) fail_msg("%04x: NaN is lost", v);
            continue;
        }
        if (bf16_from_f32(f) != v) fail_msg("%04x does not come back", v);
        if (isinf(f)) continue;
        const uint32_t half = v << 16 | 0x8000u, tie = v & 1 ? v + 1 : v;
        float          at[3];
        for (int i = 0; i < 3; i++) {
            uint32_t b = half - 1 + (uint32_t)i;
            memcpy(&at[i], &b, 4);
        }
        if (bf16_from_f32(at[0]) != v || bf16_from_f32(at[1]) != tie || bf16_from_f32(at[2]) != v + 1)
            fail_msg("%04x rounds wrongly", v);
    }
}

static void test_nan_with_low_bits_only_stays_nan(void **state)
{
    (void)state;
    for (uint32_t low = 1; low < 65536; low += 77)
        for (uint32_t sign = 0; sign < 2; sign++) {
            uint32_t b = sign << 31 | 0x7f800000u | low;
            float    f;
            memcpy(&f, &b, 4);
            assert_true(isnan(bf16_to_f32(bf16_from_f32(f))));
        }
    assert_true(isinf(bf16_to_f32(bf16_from_f32(3.4028235e38f)))); /* the largest f32 is past the largest bfloat16 */
}

static void test_widening_from_odd_addresses(void **state)
{
    (void)state;
    unsigned char raw[64] = {0};
    float         out[3];
    const float    f[3] = {1.5f, -2.25f, 1e-30f};
    const uint16_t h[3] = {0x3e00, 0xc080, 0x0001}, b[3] = {0x3fc0, 0xc010, 0x0001};
    memcpy(raw + 1, f, sizeof f);
    dtype_widen(out, raw + 1, DTYPE_F32, 3);
    assert_memory_equal(out, f, sizeof f);
    memcpy(raw + 3, h, sizeof h);
    dtype_widen(out, raw + 3, DTYPE_F16, 3);
    assert_true(out[0] == 1.5f && out[1] == -2.25f && out[2] == 5.9604644775390625e-8f);
    memcpy(raw + 5, b, sizeof b);
    dtype_widen(out, raw + 5, DTYPE_BF16, 3);
    assert_true(out[0] == 1.5f && out[1] == -2.25f && bits_of(out[2]) == 0x10000);
}

static void test_names_and_sizes(void **state)
{
    (void)state;
    static const struct { dtype t; const char *name; size_t bytes;
    } row[] = {
        {DTYPE_F32, "F32", 4}, {DTYPE_F16, "F16", 2}, {DTYPE_BF16, "BF16", 2},          {DTYPE_I64, "I64", 8},
        {DTYPE_I32, "I32", 4}, {DTYPE_U8, "U8", 1},   {DTYPE_OTHER, "another type", 0},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        assert_string_equal(dtype_name(row[i].t), row[i].name);
        assert_int_equal(dtype_bytes(row[i].t), row[i].bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half), cmocka_unit_test(test_every_bfloat16),
        cmocka_unit_test(test_nan_with_low_bits_only_stays_nan), cmocka_unit_test(test_widening_from_odd_addresses),
        cmocka_unit_test(test_names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
