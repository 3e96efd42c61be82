/* test_cpu.c - opening a device, its memory, its sticky failure, its weights, and its worker threads. */
#include "tests/kernels/kern.h"

#include <stdatomic.h>
#include <time.h>
#include "base/memory.h"

static void unknown_device_is_named(void **state)
{
    (void)state;
    kernels *k = NULL;
    err      e;
    FAILS(kernels_open(&k, &(kernels_options){.device = "gpu"}, &e), e, ERR_USAGE, "auto, cpu and cuda:N");
    assert_string_equal(e.field, "device");
    /* no CUDA, no GPU, or fewer */
    FAILS(kernels_open(&k, &(kernels_options){.device = "cuda:1023"}, &e), e, ERR_USAGE, "cuda:1023");
    assert_string_equal(e.field, "device");
    FAILS(kernels_open(&k, &(kernels_options){.device = "cpu", .threads = -1}, &e), e, ERR_USAGE, "threads: -1");
    FAILS(kernels_open(&k, &(kernels_options){.device = "cpu", .threads = 257}, &e), e, ERR_USAGE, "0..256");
    assert_null(k);
    e = (err){0};
    /* NULL is auto, 0 threads is one a core */
    OK(kernels_open(&k, &(kernels_options){.scratch_bytes = 1 << 20}, &e), e);
    assert_true(strstr(k->name, "cpu ") || strstr(k->name, "cuda:"));
    k->close(k);
}

static void open_survives_every_failed_allocation(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        kernels *k = NULL;
        err      e = {0};
        mem_fail_after(n);
        bool ok = kernels_open(&k, &(kernels_options){.device = "cpu", .threads = 3}, &e);
        mem_fail_after(-1);
        if (ok) {
            assert_true(n > 3);
            k->close(k);
            return;
        }
        assert_int_equal(e.code, ERR_MEMORY);
        assert_null(k);
    }
}

static void scratch_is_a_stack_with_an_end(void **state)
{
    (void)state;
    kernels *k = NULL;
    err      e = {0};
    OK(kernels_open(&k, &(kernels_options){.device = "cpu", .threads = 1, .scratch_bytes = 4096}, &e), e);
    size_t mark = k->mark(k);
    float *a = k->take(k, 100), *b = k->take(k, 1);
    assert_non_null(a);
    assert_true(b - a >= 100 && (uintptr_t)b % 64 == 0);
    k->back(k, mark);
    assert_ptr_equal(k->take(k, 1024), a); /* all of it */
    k->back(k, mark);
    assert_null(k->take(k, 1025));
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch");
    k->close(k);
    OK(kernels_open(&k, &(kernels_options){.device = "cpu", .threads = 1, .scratch_bytes = 4096},
                    ((e = (err){0}), &e)),
       e);
    assert_null(k->take(k, SIZE_MAX / 4 + 1)); /* the product would wrap */
    k->close(k);
}

static void nothing_is_done_after_a_failure(void **state)
{
    (void)state;
    kernels *k = kern_open(NULL, PRECISION_F32, 1);
    err      e;
    float    y[4] = {1, 2, 3, 4}, x[4] = {5, 6, 7, 8};
    weight   w = {.data = x, .type = DTYPE_F32, .rows = 2, .cols = 2};
    kernels_fail(k, ERR_GPU, "the first failure");
    kernels_fail(k, ERR_BUG, "the second");
    k->linear(k, y, 2, x, 2, 2, &w, NULL, UNIT_NONE, NULL);
    k->add(k, y, x, 4);
    k->put(k, y, x, 4);
    k->rmsnorm(k, y, x, 2, 2, &w, 1e-6f);
    assert_null(k->take(k, 1));
    assert_true(y[0] == 1 && y[1] == 2 && y[2] == 3 && y[3] == 4);
    assert_int_equal(k->flops, 0);
    FAILS(k->sync(k, &e), e, ERR_GPU, "the first failure");
    k->close(k);
}

static void weights_borrow_what_they_can(void **state)
{
    (void)state;
    kernels *k = kern_open(NULL, PRECISION_F32, 1);
    _Alignas(64) uint8_t bytes[64];
    for (int i = 0; i < 64; i++) bytes[i] = (uint8_t)(i * 3 + 1);
    err    e = {0};
    weight w;
    tensor t = {
        .name = "block.weight", .file = "model.safetensors", .data = bytes + 2, .type = DTYPE_BF16, .count = 6};

    OK(k->weight_open(k, &w, &t, 2, 3, &e), e);
    assert_ptr_equal(w.data, bytes + 2);
    assert_null(w.owned);
    k->weight_close(k, &w);

    t.data = bytes + 1; /* an odd address: copied, unchanged */
    OK(k->weight_open(k, &w, &t, 2, 3, &e), e);
    assert_ptr_equal(w.data, w.owned);
    assert_int_equal(w.type, DTYPE_BF16);
    assert_memory_equal(w.data, bytes + 1, 12);
    k->weight_close(k, &w);

    t.type = DTYPE_F32;
    t.data = bytes + 2; /* 2 bytes off */
    OK(k->weight_open(k, &w, &t, 2, 3, &e), e);
    assert_non_null(w.owned);
    assert_memory_equal(w.data, bytes + 2, 24);
    k->weight_close(k, &w);
    t.data = bytes + 4; /* aligned to 4, not to 64: borrowed */
    OK(k->weight_open(k, &w, &t, 2, 3, &e), e);
    assert_null(w.owned);
    k->weight_close(k, &w);

    const uint16_t half[6] = {0x3c00, 0xc000, 0x0001, 0x3555, 0x7bff, 0};
    t.type = DTYPE_F16;
    t.data = half;
    OK(k->weight_open(k, &w, &t, 3, 2, &e), e);
    assert_int_equal(w.type, DTYPE_F32);
    assert_float_equal(((const float *)w.data)[1], -2, 0);
    assert_float_equal(((const float *)w.data)[2], 0x1p-24, 0);
    k->weight_close(k, &w);

    const uint16_t vector[6] = {0x3f80, 0x4000, 0, 0, 0, 0xbf80};
    t.type = DTYPE_BF16;
    t.data = vector;
    OK(k->weight_open(k, &w, &t, 1, 6, &e), e); /* one row: f32 whatever it was */
    assert_int_equal(w.type, DTYPE_F32);
    assert_float_equal(((const float *)w.data)[5], -1, 0);
    k->weight_close(k, &w);
    assert_null(w.owned);

    FAILS(k->weight_open(k, &w, &t, 2, 4, &e), e, ERR_FILE,
          "model.safetensors: block.weight has 6 elements, not 2 x 4");
    t.type = DTYPE_I64;
    FAILS(k->weight_open(k, &w, &t, 2, 3, &e), e, ERR_FILE, "block.weight is I64");
    t.type = DTYPE_BF16;
    mem_fail_after(0);
    FAILS(k->weight_open(k, &w, &t, 1, 6, &e), e, ERR_MEMORY, "block.weight");
    mem_fail_after(-1);
    k->close(k);
}

static atomic_int calls[300];
static void count_task(void *ctx, int task, int worker)
{
    /* no assert off the main thread */
    atomic_fetch_add(&calls[task], worker >= 0 && worker < *(int *)ctx ? 1 : 1000);
}

static void every_task_runs_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        pool *p = NULL;
        err   e = {0};
        OK(pool_open(&p, threads, &e), e);
        for (int round = 0; round < 200; round++) {
            int n = round % 7 == 0 ? 0 : round + 100;
            for (int i = 0; i < 300; i++) atomic_store(&calls[i], 0);
            /* helpers have gone to sleep */
            if (round % 50 == 49) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            pool_run(p, count_task, &threads, n);
            for (int i = 0; i < 300; i++) assert_int_equal(atomic_load(&calls[i]), i < n);
        }
        pool_close(p);
    }
}

/* Idle helpers must not burn their cores: 100 ms of doing nothing costs the process well under 20 ms of
 * processor time. */
static void idle_helpers_sleep(void **state)
{
    (void)state;
    pool *p = NULL;
    err   e = {0};
    int   threads = 3;
    OK(pool_open(&p, threads, &e), e);
    pool_run(p, count_task, &threads, 100);
    clock_t before = clock();
    nanosleep(&(struct timespec){.tv_nsec = 100 * 1000000}, NULL);
    assert_true((double)(clock() - before) / CLOCKS_PER_SEC < 0.02);
    pool_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_device_is_named),         cmocka_unit_test(open_survives_every_failed_allocation),
        cmocka_unit_test(scratch_is_a_stack_with_an_end),  cmocka_unit_test(nothing_is_done_after_a_failure),
        cmocka_unit_test(weights_borrow_what_they_can),    cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(idle_helpers_sleep),
    };
    return cmocka_run_group_tests_name("kernels cpu", tests, NULL, NULL);
}
