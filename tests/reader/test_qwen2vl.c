/* Golden parity of Qwen2-VL: every stage of the vision tower and of the decoder against the PyTorch reference,
 * for two checkpoints (one F32 file with a tied head, BF16 shards with a head of their own), in f32 and in bf16
 * products; and for two adapters (F32 on the text in old names; BF16 on both towers, rank-stabilised, in new
 * names), beside and inside the weights. */
#include "tests/reader/parity.h"

/* M-RoPE's three axes, and how far the next token stands behind its index. */
static void check_positions(const safetensors *g, const golden_case *c, const char *name, const int32_t *pos,
                            int cursor)
{
    char path[128];
    snprintf(path, sizeof path, "%s/position_ids", name);
    const int64_t *want = golden_ints(g, path, NULL);
    for (int i = 0; i < 3 * c->p.n_ids; i++) assert_int_equal(pos[i], want[i]);
    assert_int_equal(cursor - c->p.n_ids, json_integer_value(json_object_get(c->j, "rope_delta")));
}

static const golden_family QWEN2VL = {FIXTURE("golden/qwen2vl-preprocess.safetensors"),
                                      "<|image_pad|>",
                                      "vision.patch_embed",
                                      "vision.merger",
                                      golden_open,
                                      check_positions};

#define F32_RUN  "qwen2vl-tiny.f32", FIXTURE("qwen2vl-tiny"), PRECISION_F32, 1e-4, NULL, false
#define WIDE_RUN "qwen2vl-tiny-bf16.f32", FIXTURE("qwen2vl-tiny-bf16-sharded"), PRECISION_F32, 1e-4, NULL, false
#define BF16_RUN "qwen2vl-tiny-bf16.bf16", FIXTURE("qwen2vl-tiny-bf16-sharded"), PRECISION_BF16, 3e-2, NULL, false
#define LORA_RUN(stem, merge) stem ".f32", FIXTURE("qwen2vl-tiny"), PRECISION_F32, 1e-4, FIXTURE(stem), merge
#define TEXT_RUN   LORA_RUN("qwen2vl-tiny-lora", false)
#define TEXTM_RUN  LORA_RUN("qwen2vl-tiny-lora", true)
#define BOTH_RUN   LORA_RUN("qwen2vl-tiny-lora-vision", false)
#define BOTHM_RUN  LORA_RUN("qwen2vl-tiny-lora-vision", true)

#define CASE(run, name) static const golden_run run##_##name = {run##_RUN, #name, &QWEN2VL};
#define CASES(run) CASE(run, one_image) CASE(run, two_images) CASE(run, text_only) CASE(run, square_image) CASE(run, multi_turn)
CASES(F32)
CASES(WIDE)
CASES(BF16)
CASES(TEXT)
CASES(TEXTM)
CASES(BOTH)
CASES(BOTHM)

#define TEST(test, run, name) {#test " " #run " " #name, test, NULL, NULL, (void *)&run##_##name}
#define TESTS(test, run) TEST(test, run, one_image), TEST(test, run, two_images), TEST(test, run, text_only), \
                         TEST(test, run, square_image), TEST(test, run, multi_turn)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TESTS(every_stage_matches_the_reference, F32),
        TESTS(every_stage_matches_the_reference, WIDE),
        TESTS(every_stage_matches_the_reference, BF16),
        TESTS(every_stage_matches_the_reference, TEXT),
        TESTS(every_stage_matches_the_reference, TEXTM),
        TESTS(every_stage_matches_the_reference, BOTH),
        TESTS(every_stage_matches_the_reference, BOTHM),
        TESTS(greedy_continuation_matches_the_reference, F32),
        TESTS(greedy_continuation_matches_the_reference, WIDE),
        TESTS(greedy_continuation_matches_the_reference, TEXT),
        TESTS(greedy_continuation_matches_the_reference, TEXTM),
        TESTS(greedy_continuation_matches_the_reference, BOTH),
        TESTS(greedy_continuation_matches_the_reference, BOTHM),
        TESTS(answers_in_one_pass_have_the_reference_logps, F32),
        TESTS(answers_in_one_pass_have_the_reference_logps, WIDE),
        TESTS(answers_in_one_pass_have_the_reference_logps, TEXT),
        TESTS(answers_in_one_pass_have_the_reference_logps, TEXTM),
        TESTS(answers_in_one_pass_have_the_reference_logps, BOTH),
        TESTS(answers_in_one_pass_have_the_reference_logps, BOTHM),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
