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

/* ---- copies to host memory and back ---- */

enum { PAIRS = N_PASSAGES / K };

/* A device with room for one pair of passages, and host memory for all. */
static void open_two_tiers(world *w)
{
    err                e = {0};
    reader_cache_stats s;
    reader_cache(w->r, &s);
    size_t pair = s.bytes / (size_t)s.entries * K;
    device_close(w);
    w->o = (reader_options){.cache_bytes = pair, .cache_host_bytes = CACHE};
    OK(device_open(w, &e), e);
}

static bool read_pair(world *w, int pair, reader_scores *y, err *e)
{
    *e = (err){0};
    w->q.z = w->z + pair * K;
    return reader_score(w->r, w->k, &w->q, w->a, y, e);
}

/* The device fails at the n-th call from its next copy on. */
static struct {
    void (*save)(kernels *k, void *host, const void *src, size_t bytes);
    void (*restore)(kernels *k, void *dst, const void *host, size_t bytes);
    cudaError_t status;
    long        n;
} broken;

static void break_device(void)
{
    if (broken.status != cudaSuccess) simt_fail(broken.status, broken.n);
    broken.status = cudaSuccess;
}
static void break_and_save(kernels *k, void *host, const void *src, size_t bytes)
{
    break_device();
    broken.save(k, host, src, bytes);
}
static void break_and_restore(kernels *k, void *dst, const void *host, size_t bytes)
{
    break_device();
    broken.restore(k, dst, host, bytes);
}

/* Pair x is on the device, and for a way up also below; then pair y needs its room, or x comes back, and that breaks
 * at call n. What the tiers hold afterwards is whole. Blocks were others' before, so an unfilled one would show. */
static bool copies_break(world *w, const reader_scores *want, cudaError_t status, bool up, long n)
{
    reader_scores      got;
    err                e;
    int                x = (int)n % PAIRS, y = (x + 1) % PAIRS;
    reader_cache_stats s;
    reader_cache_clear(w->r);
    OK(read_pair(w, x, &got, &e), e);
    if (up) OK(read_pair(w, y, &got, &e), e);

    broken.save = w->k->save, broken.restore = w->k->restore, broken.status = status, broken.n = n;
    if (up) w->k->restore = break_and_restore;
    else w->k->save = break_and_save;
    bool ok = read_pair(w, up ? x : y, &got, &e);
    simt_fail(cudaSuccess, 0);
    w->k->save = broken.save, w->k->restore = broken.restore;
    assert_int_equal(broken.status, cudaSuccess); /* it came to a copy */
    reader_cache(w->r, &s);
    assert_true(s.bytes <= s.limit_bytes && s.host_bytes <= s.host_limit_bytes);
    if (ok) assert_memory_equal(got.logp, want[up ? x : y].logp, K * A * sizeof(float));
    else assert_int_equal(e.code, status == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_GPU);
    if (!ok && status != cudaErrorMemoryAllocation) {
        device_close(w);
        assert_int_equal(simt_memory_used() + (size_t)simt_handles_used(), 0);
        e = (err){0};
        OK(device_open(w, &e), e);
    }
    for (int i = 0; i <= PAIRS; i++) {
        int pair = (x + i) % PAIRS;
        OK(read_pair(w, pair, &got, &e), e);
        assert_memory_equal(got.logp, want[pair].logp, K * A * sizeof(float));
    }
    return ok;
}

static void copies_that_break_leave_no_half_made_prefix(void **state)
{
    (void)state;
    static const cudaError_t status[] = {cudaErrorMemoryAllocation, cudaErrorLaunchFailure};
    reader_scores want[PAIRS];
    err           e;
    world        *w = open_world(CACHE, 0);
    int           failures = 0;
    for (int i = 0; i < PAIRS; i++) OK(read_pair(w, i, &want[i], &e), e);
    open_two_tiers(w);
    for (int i = 0; i < 2; i++)
        for (int up = 0; up < 2; up++)
            for (long n = 0; n < 6; n += 2) failures += !copies_break(w, want, status[i], up, n);
    assert_true(failures >= 3);
    close_whole(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_passes_change_no_bit_on_the_device),
        cmocka_unit_test(a_device_that_is_gone_gives_an_error_and_no_number),
        cmocka_unit_test(memory_that_runs_out_fails_one_request_at_most),
        cmocka_unit_test(copies_that_break_leave_no_half_made_prefix),
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
