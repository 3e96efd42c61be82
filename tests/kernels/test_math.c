/* test_math.c - error bounds of exp and of the activation functions, over their whole range, on every
 * instruction set. */
#include "tests/kernels/kern.h"

enum { BLOCK = 4096 };

static double ulp_of(double x) /* the spacing of floats at |x| */
{
    int e;
    frexp(x, &e);
    return ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

/* Every 61st float with |x| < 128, positive and negative: 35 million each would take half a minute a set. */
static void exp_is_within_two_ulp(void **state)
{
    (void)state;
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    float      x[BLOCK], y[BLOCK];
    for (int s = 0; s < n_sets; s++)
        for (uint32_t sign = 0; sign < 2; sign++)
            for (uint64_t b = 0; b < 0x43000000u; b += (uint64_t)61 * BLOCK) {
                for (uint32_t i = 0; i < BLOCK; i++) {
                    uint64_t bits = b + (uint64_t)i * 61;
                    uint32_t u = (uint32_t)(bits < 0x43000000u ? bits : 0x43000000u) | sign << 31;
                    memcpy(&x[i], &u, 4);
                }
                sets[s]->exp_n(y, x, BLOCK);
                for (int i = 0; i < BLOCK; i++) {
                    double want = exp(x[i]);
                    bool   good = want > 0x1.fffffep127 + 0x1p103 ? isinf(y[i]) && y[i] > 0
                                  : want < 0x1p-126             ? y[i] >= 0 && y[i] <= 0x1p-126f
                                                                : fabs(y[i] - want) <= 2 * ulp_of(want);
                    if (!good)
                        fail_msg("%s: exp(%.9g) is %.9g, should be %.9g", sets[s]->name, (double)x[i], (double)y[i],
                                 want);
                }
            }
}

static void exp_of_what_is_not_a_number(void **state)
{
    (void)state;
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    for (int s = 0; s < n_sets; s++) {
        float x[5] = {-INFINITY, INFINITY, NAN, 0, -1e30f}, y[5];
        sets[s]->exp_n(y, x, 5);
        assert_true(y[0] == 0 && !signbit(y[0]));
        assert_true(isinf(y[1]) && y[1] > 0);
        assert_true(isnan(y[2]));
        assert_true(y[3] == 1);
        assert_true(y[4] == 0);
    }
}

static void units_are_within_1e6_of_x(void **state)
{
    (void)state;
    const isa *sets[4];
    int        n_sets = cpu_isas(sets);
    float      x[BLOCK], y[BLOCK];
    for (int s = 0; s < n_sets; s++)
        for (int u = UNIT_NONE; u <= UNIT_SILU; u++)
            for (int b = -60; b < 60; b++) {
                for (int i = 0; i < BLOCK; i++) x[i] = (float)b + (float)i / BLOCK;
                sets[s]->unit_n(y, x, BLOCK, (unit)u);
                for (int i = 0; i < BLOCK; i++) {
                    double want = ref_unit(x[i], (unit)u);
                    if (!(fabs(y[i] - want) <= 1e-6 * fabs((double)x[i])))
                        fail_msg("%s: unit %d of %.9g is %.9g, should be %.9g", sets[s]->name, u, (double)x[i],
                                 (double)y[i], want);
                }
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp),
        cmocka_unit_test(exp_of_what_is_not_a_number),
        cmocka_unit_test(units_are_within_1e6_of_x),
    };
    return cmocka_run_group_tests_name("kernels math", tests, NULL, NULL);
}
