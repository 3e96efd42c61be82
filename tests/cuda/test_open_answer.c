/* test_open_answer.c - open answers on the CUDA table: the CPU's words, whichever way they are decoded; the same bits
 * in any order of candidates; and of a device that fails at any call an error, never other words. */
#include "tests/cuda/world.h"
#ifdef JOMED_SIMT
#include "tests/simt/control.h"
#endif

static const float SHARE[K] = {0.625f, 0.375f}, TURNED[K] = {0.375f, 0.625f};
static const reader_decoding WAYS[] = {
    {.weight = SHARE, .max_new_tokens = 4, .beams = 1, .repetition_penalty = 1},
    {.weight = SHARE, .max_new_tokens = 4, .beams = 1, .repetition_penalty = 1.5},
    {.weight = SHARE, .max_new_tokens = 3, .beams = 3, .repetition_penalty = 1.2},
    {.weight = SHARE, .max_new_tokens = 3, .beams = 1, .repetition_penalty = 1.2, .reference = true}};
enum { N_WAYS = sizeof WAYS / sizeof *WAYS };

static reader_text generate(world *w, const reader_decoding *d)
{
    err         e = {0};
    reader_text y;
    OK(reader_generate(w->r, w->k, &w->q, d, w->a, &y, &e), e);
    return y;
}

static void same_words(const reader_text *got, const reader_text *want)
{
    assert_string_equal(got->text, want->text);
    assert_int_equal(got->n_tokens, want->n_tokens);
    assert_memory_equal(got->token, want->token, (size_t)got->n_tokens * sizeof *got->token);
    assert_int_equal(got->ended, want->ended);
}

static void reopen(world *w, const char *device, precision p)
{
    err e = {0};
    device_close(w);
    w->on.device = device;
    w->on.products = p;
    OK(device_open(w, &e), e);
}

static void answers_in_f32_are_the_cpus(void **state)
{
    (void)state;
    world      *w = open_world(CACHE, 0);
    reader_text got[N_WAYS], want;
    reopen(w, "cuda:0", PRECISION_F32);
    for (int i = 0; i < N_WAYS; i++) got[i] = generate(w, &WAYS[i]);
    reopen(w, "cpu", PRECISION_F32);
    for (int i = 0; i < N_WAYS; i++) {
        want = generate(w, &WAYS[i]);
        same_words(&got[i], &want);
        assert_true(want.n_tokens > 1);
        CLOSE(&got[i].logp, &want.logp, 1, 1e-4, "log p");
        CLOSE(got[i].each, want.each, K, 1e-4, "each candidate's log p");
        assert_memory_equal(got[i].agrees, want.agrees, K * sizeof *want.agrees);
    }
    close_world(w);
}

static void candidates_in_another_order_change_no_bit(void **state)
{
    (void)state;
    world *w = open_world(CACHE, 0);
    for (int i = 0; i < N_WAYS; i++) {
        reader_decoding      d = WAYS[i];
        const reader_passage turned[K] = {w->z[1], w->z[0]};
        reader_text          want = generate(w, &d), got;
        d.weight = TURNED;
        w->q.z = turned;
        got = generate(w, &d);
        w->q.z = w->z;
        same_words(&got, &want);
        assert_memory_equal(&got.logp, &want.logp, sizeof got.logp);
        for (int k = 0; k < K; k++) assert_memory_equal(&got.each[k], &want.each[K - 1 - k], sizeof *got.each);
    }
    close_world(w);
}

#ifdef JOMED_SIMT
/* Gone: an error, and a fresh process. Out of memory: an error, or nothing but the cache went without. */
static void a_device_that_fails_gives_an_error_and_no_words(void **state)
{
    (void)state;
    static const cudaError_t status[] = {cudaErrorLaunchFailure, cudaErrorMemoryAllocation};
    world                   *w = open_world(CACHE, 0);
    const reader_decoding   *d = &WAYS[1];
    reader_text              want = generate(w, d), y;
    long                     before, calls;
    reader_cache_clear(w->r);
    before = simt_calls();
    generate(w, d);
    calls = simt_calls() - before;
    for (int i = 0; i < 2; i++)
        for (long n = 0; n < calls; n = 4 * n + 2) {
            long at = calls - 1 - n; /* the last step closely */
            err  e = {0};
            reader_cache_clear(w->r);
            simt_fail(status[i], at);
            bool ok = reader_generate(w->r, w->k, &w->q, d, w->a, &y, &e);
            simt_fail(cudaSuccess, 0);
            if (ok) same_words(&y, &want);
            else assert_int_equal(e.code, i == 0 ? ERR_GPU : ERR_MEMORY);
            if (i == 0) {
                assert_false(ok);
                reopen(w, "cuda:0", PRECISION_BF16);
            }
        }
    y = generate(w, d);
    same_words(&y, &want);
    assert_memory_equal(&y.logp, &want.logp, sizeof y.logp);
    close_world(w);
    assert_int_equal(simt_memory_used(), 0);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_in_f32_are_the_cpus),
        cmocka_unit_test(candidates_in_another_order_change_no_bit),
#ifdef JOMED_SIMT
        cmocka_unit_test(a_device_that_fails_gives_an_error_and_no_words),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
