/* vecmath.h - exp, erf and the activation functions on vectors. Error bounds are checked by
 * tests/kernels/test_math.c. */
#ifndef JOMED_KERNELS_CPU_VECMATH_H
#define JOMED_KERNELS_CPU_VECMATH_H

#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

/* e^x within 2 units in the last place; results below 2^-126 are 0, above the largest float infinity; NaN stays.
 * x = n ln 2 + r with |r| <= ln 2 / 2, and e^r by its Taylor series to r^7: the next term is 5e-9 of the result.
 * ln 2 is taken off in two parts, the first with 9 trailing zero bits so that n times it is exact. */
INLINE vf v_exp(vf x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number, to even at halves */
    vf c = v_min(v_all(88.8f), v_max(v_all(-104.0f), x));
    vf n = (c * v_all(1.44269504f) + v_all(round)) - v_all(round);
    vf r = v_fma(n, v_all(-0.693359375f), c);
    r    = v_fma(n, v_all(2.12194440e-4f), r);
    vf p = v_all(1.0f / 5040);
    p    = v_fma(p, r, v_all(1.0f / 720));
    p    = v_fma(p, r, v_all(1.0f / 120));
    p    = v_fma(p, r, v_all(1.0f / 24));
    p    = v_fma(p, r, v_all(1.0f / 6));
    p    = v_fma(p, r, v_all(0.5f));
    p    = v_fma(p * r, r, r) + v_all(1.0f);
    return v_zero_below(v_scale2(p, n), x, v_all(-87.3365f));
}

INLINE vf v_sigmoid(vf x) { return v_all(1.0f) / (v_all(1.0f) + v_exp(v_zero() - x)); }

/* erf within 3e-7 absolute [Abramowitz and Stegun 1964, 7.1.26: 1.5e-7 before rounding]. */
INLINE vf v_erf(vf x)
{
    vf a = v_abs(x), t = v_all(1.0f) / v_fma(a, v_all(0.3275911f), v_all(1.0f));
    vf p = v_all(1.061405429f);
    p    = v_fma(p, t, v_all(-1.453152027f));
    p    = v_fma(p, t, v_all(1.421413741f));
    p    = v_fma(p, t, v_all(-0.284496736f));
    p    = v_fma(p, t, v_all(0.254829592f));
    vf e = v_all(1.0f) - p * t * v_exp(v_zero() - a * a);
    return v_negate_where_below_zero(v_max(v_zero(), e), x);
}

INLINE vf v_unit(vf x, unit u)
{
    switch (u) {
    case UNIT_GELU: return v_all(0.5f) * x * (v_all(1.0f) + v_erf(x * v_all(0.70710678f)));
    case UNIT_QUICK_GELU: return x * v_sigmoid(x * v_all(1.702f));
    case UNIT_SILU: return x * v_sigmoid(x);
    case UNIT_NONE: break;
    }
    return x;
}

#endif
