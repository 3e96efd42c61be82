/* test_lost.c - a device that fails while a request is read: at any call, by running out of memory or by being
 * gone. Fails when that gives a number instead of an error, other bits, a leak, or a reader that does not serve
 * once there is a device again. The emulation alone can do this: a real GPU is not broken on purpose. */
#include "tests/cuda/world.h"

#ifdef JOMED_SIMT
#include "tests/simt/control.h"

/* Nothing may be left on the device. */
static void close_whole(world *w)
{
    close_world(w);
    assert_int_equal(simt_memory_used(), 0);
    assert_int_equal(simt_handles_used(), 0);
}

static long next_n(long n) { return 2 * n + 3; } /* some eight places in a request of a thousand calls */

static void a_device_that_is_gone_gives_an_error_and_no_number(void **state)
{
    (void)state;
    world        *w = open_world(CACHE, 0);
    err           e = {0};
    reader_scores want, y;
    OK(reader_score(w->r, w->k, &w->q, w->a, &want, &e), e);
    long n = 0, failures = 0;
    for (;; n = next_n(n)) {
        reader_cache_clear(w->r);
        e = (err){0};
        simt_fail(cudaErrorLaunchFailure, n);
        bool ok = reader_score(w->r, w->k, &w->q, w->a, &y, &e);
        if (ok) break; /* the request has no call number n */
        failures++;
        assert_int_equal(e.code, ERR_GPU);
        assert_non_null(strstr(e.text, "cuda:0"));
        simt_fail(cudaSuccess, 0);
        /* it stays failed: a fresh process must be started */
        FAILS(reader_score(w->r, w->k, &w->q, w->a, &y, &e), e, ERR_GPU, "cuda:0");
        device_close(w);
        assert_int_equal(simt_memory_used(), 0);
        e = (err){0};
        OK(device_open(w, &e), e);
    }
    simt_fail(cudaSuccess, 0);
    assert_true(failures > 4);
    assert_memory_equal(y.logp, want.logp, K * A * sizeof(float));
    close_whole(w);
}

/* Once: the next request finds the device whole. Where only the cache went without, the answer is the same. */
static void memory_that_runs_out_fails_one_request_at_most(void **state)
{
    (void)state;
    world        *w = open_world(CACHE, 0);
    err           e = {0};
    reader_scores want, y;
    long          n = 0, before = simt_calls(), calls;
    OK(reader_score(w->r, w->k, &w->q, w->a, &want, &e), e);
    calls = simt_calls() - before;
    for (; n < calls; n = next_n(n)) {
        reader_cache_clear(w->r);
        e = (err){0};
        simt_fail(cudaErrorMemoryAllocation, n);
        if (reader_score(w->r, w->k, &w->q, w->a, &y, &e))
            assert_memory_equal(y.logp, want.logp, K * A * sizeof(float));
        else assert_int_equal(e.code, ERR_MEMORY);
        simt_fail(cudaSuccess, 0);
        e = (err){0};
        OK(reader_score(w->r, w->k, &w->q, w->a, &y, &e), e);
        assert_memory_equal(y.logp, want.logp, K * A * sizeof(float));
    }
    close_whole(w);
}

/* Packed passes on the device: the same bits one by one, all together, cold and warm. */
static void packed_passes_change_no_bit_on_the_device(void **state)
{
    (void)state;
    static const int width[] = {1, 1 << 20};
    world        *w = open_world(CACHE, 0);
    err           e = {0};
    reader_scores want = {0}, y;
    for (int i = 0; i < 2; i++) {
        w->k->pass_tokens = width[i];
        reader_cache_clear(w->r);
        for (int warm = 0; warm < 2; warm++) {
            OK(reader_score(w->r, w->k, &w->q, w->a, &y, &e), e);
            assert_int_equal(y.n_cached, warm ? K : 0);
            if (!want.logp) want = y;
            assert_memory_equal(y.logp, want.logp, K * A * sizeof(float));
            assert_memory_equal(y.logit, want.logit, K * A * sizeof(float));
        }
    }
    close_whole(w);
}

/* Two pairs of passages in turn, of which the device's cache can hold one: each time the other has gone to host
 * memory and comes back. Calls of the device, or the memory it gives, fail in both directions. */
static world *open_two_tiers(reader_scores want[2])
{
    err                e = {0};
    world             *w = open_world(CACHE, 0);
    reader_cache_stats s;
    OK(reader_score(w->r, w->k, &w->q, w->a, &want[0], &e), e);
    reader_cache(w->r, &s);
    device_close(w);
    w->o = (reader_options){.cache_bytes = s.bytes, .cache_host_bytes = CACHE};
    OK(device_open(w, &e), e);
    for (int i = 0; i < 4; i++) {
        reader_scores y;
        w->q.z = w->z + (i & 1) * K;
        OK(reader_score(w->r, w->k, &w->q, w->a, i < 2 ? &want[i] : &y, &e), e);
        if (i >= 2) assert_memory_equal(y.logp, want[i & 1].logp, K * A * sizeof(float));
    }
    reader_cache(w->r, &s);
    assert_int_equal(s.host_hits, 2 * K);
    return w;
}

/* One turn: the first pair goes down, the second comes up. */
static bool turn(world *w, int i, reader_scores *y, err *e)
{
    *e = (err){0};
    w->q.z = w->z + (i & 1) * K;
    return reader_score(w->r, w->k, &w->q, w->a, y, e);
}

static void memory_that_runs_out_in_the_host_tier_changes_no_bit(void **state)
{
    (void)state;
    reader_scores want[2], y;
    err           e;
    world        *w = open_two_tiers(want);
    long          before = simt_calls(), calls;
    OK(turn(w, 0, &y, &e), e);
    calls = simt_calls() - before;
    for (long n = 0; n < calls; n++) { /* all of them: the copies lie close together */
        simt_fail(cudaErrorMemoryAllocation, n);
        if (turn(w, (int)n + 1, &y, &e))
            assert_memory_equal(y.logp, want[(n + 1) & 1].logp, K * A * sizeof(float));
        else assert_int_equal(e.code, ERR_MEMORY);
        simt_fail(cudaSuccess, 0);
        if (n % 8 == 0) { /* what was left is whole; n goes on with the next pair */
            for (int i = 0; i < 2; i++) {
                OK(turn(w, (int)n + i, &y, &e), e);
                assert_memory_equal(y.logp, want[(n + i) & 1].logp, K * A * sizeof(float));
            }
        }
    }
    close_whole(w);
}

static void a_device_that_is_gone_leaves_nothing_in_the_host_tier(void **state)
{
    (void)state;
    reader_scores want[2], y;
    err           e;
    world        *w = open_two_tiers(want);
    long          n = 0, failures = 0;
    for (;; n = next_n(n)) {
        reader_cache_stats s;
        simt_fail(cudaErrorLaunchFailure, n);
        bool ok = turn(w, 0, &y, &e);
        reader_cache(w->r, &s);
        assert_true(s.bytes <= s.limit_bytes && s.host_bytes <= s.host_limit_bytes);
        simt_fail(cudaSuccess, 0);
        if (ok) break; /* a turn has no call number n */
        failures++;
        assert_int_equal(e.code, ERR_GPU);
        close_whole(w);
        w = open_two_tiers(want);
    }
    assert_true(failures > 4);
    assert_memory_equal(y.logp, want[0].logp, K * A * sizeof(float));
    close_whole(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_passes_change_no_bit_on_the_device),
        cmocka_unit_test(a_device_that_is_gone_gives_an_error_and_no_number),
        cmocka_unit_test(memory_that_runs_out_fails_one_request_at_most),
        cmocka_unit_test(memory_that_runs_out_in_the_host_tier_changes_no_bit),
        cmocka_unit_test(a_device_that_is_gone_leaves_nothing_in_the_host_tier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
static void a_real_device_is_not_broken(void **state)
{
    (void)state;
    SKIP("the emulation alone can lose a device");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_real_device_is_not_broken)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
