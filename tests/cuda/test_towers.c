/* test_towers.c - the goldens of tests/retriever/test_towers.c on the CUDA table, in f32 as the retriever opens it:
 * both towers at every stage. On a GPU with all that a checkpoint may and may not hold; in the emulation the goldens
 * alone. */
#define TEST_DEVICE "cuda:0"
#define main all_cases
#include "tests/retriever/test_towers.c"
#undef main

int main(void)
{
#ifdef JOMED_SIMT
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_tower_agrees_at_every_stage),
        cmocka_unit_test(text_tower_agrees_at_every_stage),
        cmocka_unit_test(a_head_is_applied_after_the_last_norm),
        cmocka_unit_test(ids_outside_the_vocabulary_are_errors_not_reads),
        cmocka_unit_test(padding_changes_no_bit),
        cmocka_unit_test(exhausted_scratch_is_an_error),
    };
    (void)all_cases;
    return cmocka_run_group_tests(tests, setup, teardown);
#else
    return all_cases();
#endif
}
