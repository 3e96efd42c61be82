/* test_pixtral.c - the goldens of tests/reader/test_pixtral.c on the CUDA table: every stage, greedy continuation and
 * answers, in f32 and in bf16. On a GPU all of them; in the emulation one picture or two of each kind. */
#define TEST_DEVICE "cuda:0"
#define main all_cases
#include "tests/reader/test_pixtral.c"
#undef main

int main(void)
{
#ifdef JOMED_SIMT
    const struct CMUnitTest tests[] = {
        TEST(every_stage_matches_the_reference, F32, two_images),
        TESTS(every_stage_matches_the_reference, BF16),
        TEST(greedy_continuation_matches_the_reference, WIDE, one_image),
        TEST(answers_in_one_pass_have_the_reference_logps, F32, one_image),
    };
    (void)all_cases;
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    return all_cases();
#endif
}
