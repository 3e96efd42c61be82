/* test_mixture.c - the GPU's step of decoding: the tokens, likelihoods and orders that the host's arithmetic makes of
 * the device's own logits, in either precision; and that neither other beams nor the tile of the head show in a
 * beam's bits. */
#include "tests/cuda/gpu.h"
#include "tests/kernels/mixture_step.h"

/* exp and log of CUDA's double library are off by at most one unit in the last place, the host's by less. */
static const double ROUNDED = 2;

static void steps_match_the_hosts(void **state)
{
    (void)state;
    for (int i = 0; i < N_STEP_CASES; i++) {
        check_step(gpu_table(PRECISION_BF16), &STEP_CASES[i], ROUNDED);
        check_step(gpu_table(PRECISION_F32), &STEP_CASES[i], ROUNDED);
    }
}

static void scratch_that_runs_out_is_an_error(void **state)
{
    (void)state;
    for (precision p = PRECISION_F32; p <= PRECISION_BF16; p++) {
        kernels        *k = NULL;
        err             e = {0};
        kernels_options o = {.device = "cuda:0", .products = p, .scratch_bytes = 1 << 20};
        if (!kernels_open(&k, &o, &e)) SKIP("%s", e.text);
        check_small_scratch(k, ROUNDED);
        k->close(k);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_match_the_hosts),
        cmocka_unit_test(scratch_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, gpu_close_all);
}
