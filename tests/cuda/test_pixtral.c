/* test_pixtral.c - the goldens of tests/reader/test_pixtral.c on the CUDA table: every stage, greedy continuation and
 * answers, in f32 and in bf16. On a GPU all of them; in the emulation one picture or two of each kind, and the bf16
 * stages with and without the library of products. */
#define TEST_DEVICE "cuda:0"
#define main all_cases
#include "tests/reader/test_pixtral.c"
#undef main
#ifdef JOMED_SIMT
#include "tests/simt/control.h"

static void the_library_had_its_part(void **state)
{
    (void)state;
    assert_true(simt_cublaslt_products() > 0);
}
#endif

int main(void)
{
#ifdef JOMED_SIMT
    const struct CMUnitTest tests[] = {
        TEST(every_stage_matches_the_reference, F32, two_images),
        TESTS(every_stage_matches_the_reference, BF16),
        TEST(greedy_continuation_matches_the_reference, WIDE, one_image),
        TEST(answers_in_one_pass_have_the_reference_logps, F32, one_image),
        cmocka_unit_test(the_library_had_its_part),
    };
    const struct CMUnitTest without[] = {TESTS(every_stage_matches_the_reference, BF16)};
    (void)all_cases;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    simt_cublaslt(NULL);
    return failed + cmocka_run_group_tests_name("without cuBLASLt", without, NULL, NULL);
#else
    return all_cases();
#endif
}
