/* test_lost.c - a device that fails while a request is read: at any call, by running out of memory or by being
 * gone. Fails when that gives a number instead of an error, other bits, a leak, or a reader that does not serve
 * once there is a device again. The emulation alone can do this: a real GPU is not broken on purpose. */
#include "tests/cuda/gpu.h"
#include "tests/reader/golden.h"

#ifdef JOMED_SIMT
#include "tests/simt/control.h"

enum { K = 2, A = 2, SIDE = 28, CACHE = 4 << 20 };

typedef struct { kernels *k; reader *r; arena *a; image img[K + 1]; reader_passage z[K]; reader_query q; } world;

/* Passage id's picture. */
static bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    (void)a, (void)e;
    *out = ((world *)ctx)->img[1 + id];
    return true;
}

static bool device_open(world *w, err *e)
{
    kernels_options o = {.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = (size_t)16 << 20};
    reader_options  ro = {.cache_bytes = CACHE};
    return kernels_open(&w->k, &o, e) && reader_open(&w->r, FIXTURE("qwen2vl-tiny"), &ro, w->k, e);
}

static void device_close(world *w)
{
    reader_close(w->r);
    if (w->k) w->k->close(w->k);
    w->r = NULL;
    w->k = NULL;
}

static world *open_world(void)
{
    static const char *const answers[A] = {"Yes", "No"};
    err    e = {0};
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->a = arena_new(0);
    OK(device_open(w, &e), e);
    for (int i = 0; i <= K; i++) {
        w->img[i] = (image){.width = SIDE, .height = SIDE, .rgb = ARENA_NEW(w->a, uint8_t, 3 * SIDE * SIDE, &e)};
        for (int j = 0; j < 3 * SIDE * SIDE; j++) w->img[i].rgb[j] = (uint8_t)(j * (7 + i) + (j >> 7) * 31);
    }
    for (int i = 0; i < K; i++) w->z[i] = (reader_passage){i, "a finding"};
    w->q = (reader_query){.img = &w->img[0],
                          .question = "Is it?",
                          .answers = answers,
                          .A = A,
                          .z = w->z,
                          .K = K,
                          .load = load,
                          .load_ctx = w};
    return w;
}

static void close_world(world *w)
{
    device_close(w);
    arena_free(w->a);
    free(w);
    assert_int_equal(simt_memory_used(), 0);
    assert_int_equal(simt_handles_used(), 0);
}

static long next_n(long n) { return 2 * n + 3; } /* some eight places in a request of a thousand calls */

static void a_device_that_is_gone_gives_an_error_and_no_number(void **state)
{
    (void)state;
    world        *w = open_world();
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
    close_world(w);
}

/* Once: the next request finds the device whole. Where only the cache went without, the answer is the same. */
static void memory_that_runs_out_fails_one_request_at_most(void **state)
{
    (void)state;
    world        *w = open_world();
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
    close_world(w);
}

/* Packed passes on the device: the same bits one by one, all together, cold and warm. */
static void packed_passes_change_no_bit_on_the_device(void **state)
{
    (void)state;
    static const int width[] = {1, 1 << 20};
    world        *w = open_world();
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
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_passes_change_no_bit_on_the_device),
        cmocka_unit_test(a_device_that_is_gone_gives_an_error_and_no_number),
        cmocka_unit_test(memory_that_runs_out_fails_one_request_at_most),
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
