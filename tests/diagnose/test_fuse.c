/* test_fuse.c - fails when the marginalisation is not the paper's equation, or its bits depend on the
 * candidates' order. */
#include "tests/check.h"

#include "diagnose/diagnose.h"

static void paper_mode_mixes_probabilities(void **state)
{
    (void)state;
    /* Two candidates over two answers: p_1 = (0.9, 0.1), p_2 = (0.2, 0.8), p_R = (0.25, 0.75):
     * mixture = (0.25*0.9 + 0.75*0.2, 0.25*0.1 + 0.75*0.8) = (0.375, 0.625) */
    float logp[4] = {logf(0.9f) - 3, logf(0.1f) - 3, logf(0.2f), logf(0.8f)}, p_r[2] = {0.25f, 0.75f}, each[4],
          prob[2];
    int64_t id[2] = {7, 3};
    fuse(MODE_PAPER, 2, 2, id, p_r, logp, NULL, each, prob);
    assert_float_equal(each[0], 0.9, 1e-6);
    assert_float_equal(each[3], 0.8, 1e-6);
    assert_float_equal(prob[0], 0.375, 1e-6);
    assert_float_equal(prob[1], 0.625, 1e-6);
}

static void reference_mode_pools_logits(void **state)
{
    (void)state;
    /* pooled logits = (0.25*4 + 0.75*0, 0.25*0 + 0.75*1) = (1, 0.75); softmax = 1 / (1 + exp(-0.25)) */
    float   logit[4] = {4, 0, 0, 1}, p_r[2] = {0.25f, 0.75f}, each[4], prob[2];
    int64_t id[2] = {0, 1};
    fuse(MODE_REFERENCE, 2, 2, id, p_r, NULL, logit, each, prob);
    assert_float_equal(prob[0], 1 / (1 + exp(-0.25)), 1e-6);
    assert_float_equal(prob[0] + prob[1], 1, 1e-6);
    assert_float_equal(each[0], 1 / (1 + exp(-4.0)), 1e-6);
}

/* The two modes can disagree about the answer: the same evidence, one very sure candidate. */
static void modes_differ_where_one_candidate_is_very_sure(void **state)
{
    (void)state;
    float   x[6] = {20, 0, 0, 1, 0, 1}, p_r[3] = {0.2f, 0.4f, 0.4f}, each[6], paper[2], reference[2];
    int64_t id[3] = {0, 1, 2};
    fuse(MODE_PAPER, 3, 2, id, p_r, x, NULL, each, paper);
    fuse(MODE_REFERENCE, 3, 2, id, p_r, NULL, x, each, reference);
    assert_int_equal(argmax(paper, 2), 1);
    assert_int_equal(argmax(reference, 2), 0);
}

static void extreme_scores_stay_finite(void **state)
{
    (void)state;
    float   logp[4] = {-5000, -5001, -1e30f, 0}, p_r[2] = {0.5f, 0.5f}, each[4], prob[2];
    int64_t id[2] = {0, 1};
    fuse(MODE_PAPER, 2, 2, id, p_r, logp, NULL, each, prob);
    assert_float_equal(each[0], 1 / (1 + exp(-1.0)), 1e-6);
    assert_true(each[2] == 0 && each[3] == 1);
    assert_float_equal(prob[0] + prob[1], 1, 1e-6);
}

static void order_of_candidates_changes_no_bit(void **state)
{
    (void)state;
    enum { K = 7, A = 5 };
    float   logp[K * A], p_r[K], each[K * A], want[A], got[A], logp2[K * A], p_r2[K];
    int64_t id[K], id2[K];
    unsigned s = 1;
    for (int i = 0; i < K * A; i++) logp[i] = -(float)((s = s * 1664525u + 1013904223u) >> 8) / 1e6f;
    float sum = 0;
    for (int k = 0; k < K; k++) sum += p_r[k] = 1 + (float)(k * 37 % 11) / 7, id[k] = k * 13 % 29;
    for (int k = 0; k < K; k++) p_r[k] /= sum;
    for (score_mode m = MODE_PAPER; m <= MODE_REFERENCE; m++) {
        fuse(m, K, A, id, p_r, logp, logp, each, want);
        for (int turn = 1; turn < K; turn++) {
            for (int k = 0; k < K; k++) {
                int from = (k * 3 + turn) % K; /* 3 and 7 are coprime: a permutation */
                id2[k] = id[from];
                p_r2[k] = p_r[from];
                memcpy(logp2 + k * A, logp + from * A, A * sizeof *logp);
            }
            fuse(m, K, A, id2, p_r2, logp2, logp2, each, got);
            assert_memory_equal(want, got, sizeof want);
        }
    }
}

static void ties_go_to_the_first_answer(void **state)
{
    (void)state;
    float x[4] = {0.25f, 0.5f, 0.5f, 0.1f};
    assert_int_equal(argmax(x, 4), 1);
    assert_int_equal(argmax(x, 1), 0);
}

static void modes_have_names(void **state)
{
    (void)state;
    score_mode m;
    assert_true(mode_parse(&m, "paper") && m == MODE_PAPER);
    assert_true(mode_parse(&m, "reference") && m == MODE_REFERENCE);
    assert_false(mode_parse(&m, "Paper"));
    assert_false(mode_parse(&m, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paper_mode_mixes_probabilities),
        cmocka_unit_test(reference_mode_pools_logits),
        cmocka_unit_test(modes_differ_where_one_candidate_is_very_sure),
        cmocka_unit_test(extreme_scores_stay_finite),
        cmocka_unit_test(order_of_candidates_changes_no_bit),
        cmocka_unit_test(ties_go_to_the_first_answer),
        cmocka_unit_test(modes_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
