/* test_host_tier.c - prefixes that go to pinned host memory and come back. Fails when a copy changes a byte, when an
 * answer has other bits cold, warm on the device or warm from the host, or when either tier exceeds its bytes. */
#include "tests/cuda/world.h"
#ifdef JOMED_SIMT
#include "tests/simt/control.h"
#endif

/* Lengths around a block of the tier; the device's memory is overwritten in between. */
static void raw_copies_bring_back_every_byte(void **state)
{
    (void)state;
    static const size_t length[] = {1, 255, 4096, (1 << 20) - 1, (1 << 20) + 3};
    kernels *k = gpu_table(PRECISION_BF16);
    for (int i = 0; i < 5; i++) {
        size_t   n = length[i];
        uint8_t *one = k->alloc_host(k, n), *two = k->alloc_host(k, n), *d = k->alloc(k, n);
        assert_true(one && two && d);
        for (size_t j = 0; j < n; j++) {
            one[j] = (uint8_t)(j * 7 + (j >> 9));
            two[j] = 0xee;
        }
        k->restore(k, d, one, n);
        k->save(k, two, d, n);
        kern_ok(k);
        assert_memory_equal(one, two, n);
        k->free_(k, d);
        k->free_host(k, one);
        k->free_host(k, two);
    }
    k->save(k, NULL, NULL, 0);
    k->restore(k, NULL, NULL, 0);
    kern_ok(k);
}

static void free_memory_is_told(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_BF16);
    size_t   n = (size_t)64 << 20, before = k->free_bytes(k);
    void    *p = k->alloc(k, n);
    assert_true(before > n);
    assert_true(k->free_bytes(k) <= before - n / 2); /* others may use the GPU too */
    k->free_(k, p);
}

/* A request of K passages from passage `first` on. */
static reader_scores read_pair(world *w, int first)
{
    err           e = {0};
    reader_scores y;
    w->q.z = w->z + first;
    OK(reader_score(w->r, w->k, &w->q, w->a, &y, &e), e);
    return y;
}

static reader_cache_stats bounded(world *w)
{
    reader_cache_stats s;
    reader_cache(w->r, &s);
    assert_true(s.bytes <= s.limit_bytes && s.host_bytes <= s.host_limit_bytes);
    return s;
}

static void same_bits(const reader_scores *y, const reader_scores *want)
{
    assert_memory_equal(y->logp, want->logp, K * A * sizeof(float));
    assert_memory_equal(y->logit, want->logit, K * A * sizeof(float));
}

/* The device has room for so many prefixes, the host for all six or for fewer blocks than that. */
static void from_host_memory_the_bits_are_those_of_a_cold_cache(void **state)
{
    (void)state;
    static const struct { int device, blocks, width; } t[] = {
        {2, 6, 1 << 20}, {2, 6, 1}, {1, 6, 1 << 20}, {3, 6, 1 << 20}, {2, 3, 1 << 20}, {1, 1, 1 << 20}};
    world             *w = open_world(CACHE, 0);
    err                e = {0};
    reader_scores      want[N_PASSAGES - 1];
    reader_cache_stats s;
    for (int i = 0; i + K <= N_PASSAGES; i++) {
        reader_cache_clear(w->r);
        want[i] = read_pair(w, i);
        assert_int_equal(want[i].n_cached, 0);
        reader_scores warm = read_pair(w, i);
        assert_int_equal(warm.n_cached, K);
        same_bits(&warm, &want[i]);
    }
    size_t each = bounded(w).bytes / K;
    device_close(w);
    for (int c = 0; c < (int)(sizeof t / sizeof *t); c++) {
        w->o = (reader_options){.cache_bytes = (size_t)t[c].device * each,
                                .cache_host_bytes = (size_t)t[c].blocks << 20};
        OK(device_open(w, &e), e);
        w->k->pass_tokens = t[c].width;
        for (int round = 0; round < 3; round++)
            for (int i = 0; i < N_PASSAGES; i += K) { /* so that the least recently used is asked for next */
                reader_scores y = read_pair(w, i);
                same_bits(&y, &want[i]);
                s = bounded(w);
                if (t[c].device >= K && t[c].blocks == N_PASSAGES) assert_int_equal(y.n_cached, round ? K : 0);
            }
        if (t[c].blocks == N_PASSAGES) assert_true(s.host_hits > 0);
        for (int i = 0; i + K <= N_PASSAGES; i++) { /* one of each pair on the device, the other where it is */
            reader_scores y = read_pair(w, i);
            same_bits(&y, &want[i]);
        }
        reader_cache_clear(w->r);
        s = bounded(w);
        assert_int_equal(s.bytes + s.host_bytes, 0);
        device_close(w);
    }
    close_world(w);
}

/* Two requests in one pass that want the same prefix from host memory: one copy. */
static void a_prefix_that_two_requests_want_is_copied_once(void **state)
{
    (void)state;
    err           e = {0};
    world        *w = open_world(CACHE, 0);
    reader_scores want = read_pair(w, 0), y[2];
    size_t        each = bounded(w).bytes / K;
    device_close(w);
    w->o = (reader_options){.cache_bytes = 2 * K * each, .cache_host_bytes = CACHE};
    OK(device_open(w, &e), e);
    for (int i = 0; i < N_PASSAGES; i += K) read_pair(w, i); /* 0 and 1 go */
    w->q.z = w->z;
    err        why[2] = {{0}};
    reader_job job[2] = {{&w->q, w->a, &y[0], &why[0]}, {&w->q, w->a, &y[1], &why[1]}};
    OK(reader_score_many(w->r, w->k, job, 2, &e), e);
    for (int i = 0; i < 2; i++) {
        OK(why[i].code == ERR_NONE, why[i]);
        same_bits(&y[i], &want);
        assert_int_equal(y[i].n_cached, K);
    }
    reader_cache_stats s = bounded(w);
    assert_int_equal(s.host_hits, 2 * K);
    assert_int_equal(s.evictions, 2 * K); /* room was made for K prefixes, not for 2 K */
    assert_int_equal(s.entries, 2 * K);
    close_world(w);
}

/* The default is half of what is free where that is less than 256 prefixes take, else these. */
static void the_default_size_fits_the_device(void **state)
{
    (void)state;
    world             *w = open_world(CACHE_AUTO, 0);
    size_t             bytes;
    err                e = {0};
    reader_cache_stats s = bounded(w);
    OK(reader_auto_cache(&bytes, FIXTURE("qwen2vl-tiny"), true, PRECISION_BF16, &e), e);
    assert_int_equal(s.limit_bytes, bytes);
#ifdef JOMED_SIMT
    device_close(w);
    simt_set_memory((size_t)80 << 20);
    OK(device_open(w, &e), e);
    s = bounded(w);
    size_t left = w->k->free_bytes(w->k);
    assert_true(left > 0 && left < bytes);
    assert_int_equal(s.limit_bytes, left / 2);
    simt_set_memory((size_t)16 << 30);
#endif
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_copies_bring_back_every_byte),
        cmocka_unit_test(free_memory_is_told),
        cmocka_unit_test(from_host_memory_the_bits_are_those_of_a_cold_cache),
        cmocka_unit_test(a_prefix_that_two_requests_want_is_copied_once),
        cmocka_unit_test(the_default_size_fits_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, gpu_close_all);
}
