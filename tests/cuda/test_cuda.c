/* test_cuda.c - the GPU as a device: names and refusals, memory of the table, weights as they arrive, and the failure
 * that is kept. */
#include "tests/cuda/gpu.h"

#include "base/memory.h"
#ifdef JOMED_SIMT
#include "tests/simt/control.h"
#endif

static void devices_are_named(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_BF16);
    assert_int_equal(strncmp(k->name, "cuda:0 ", 7), 0);
    assert_non_null(strstr(k->name, ", bf16"));
    assert_int_equal(k->act_bytes, 2);
    k = gpu_table(PRECISION_F32);
    assert_non_null(strstr(k->name, ", f32"));
    assert_int_equal(k->act_bytes, 4);
    err e = {0};
    k = NULL;
    OK(kernels_open(&k, &(kernels_options){.scratch_bytes = 1 << 20}, &e), e); /* auto takes it */
    assert_int_equal(strncmp(k->name, "cuda:", 5), 0);
    k->close(k);
    k = NULL;
    FAILS(kernels_open(&k, &(kernels_options){.device = "cuda:900"}, &e), e, ERR_USAGE,
          "cuda:900: there are cuda:0 to");
    assert_string_equal(e.field, "device");
    FAILS(kernels_open(&k, &(kernels_options){.device = "cuda:"}, &e), e, ERR_USAGE, "auto, cpu and cuda:N");
    FAILS(kernels_open(&k, &(kernels_options){.device = "cuda:0x"}, &e), e, ERR_USAGE, "auto, cpu and cuda:N");
    assert_null(k);
}

static void too_large_a_workspace_says_how_much(void **state)
{
    (void)state;
    (void)gpu_table(PRECISION_BF16); /* or skip */
    kernels *k = NULL;
    err      e;
    FAILS(kernels_open(&k, &(kernels_options){.device = "cuda:0", .scratch_bytes = (size_t)1 << 50}, &e), e,
          ERR_MEMORY, "the workspace needs 1073741824 MiB, ");
    assert_non_null(strstr(e.text, " MiB are free"));
    assert_null(k);
}

static void open_survives_a_failed_allocation(void **state)
{
    (void)state;
    (void)gpu_table(PRECISION_BF16); /* or skip */
    kernels *k = NULL;
    for (long n = 0;; n++) {
        err e = {0};
        mem_fail_after(n);
        bool ok = kernels_open(
            &k, &(kernels_options){.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = 4096}, &e);
        mem_fail_after(-1);
        if (ok) {
            assert_int_equal(n, 3); /* the table, its library of products, and its exact twin */
            k->close(k);
            return;
        }
        assert_int_equal(e.code, ERR_MEMORY);
        assert_null(k);
    }
}

/* A bf16 table has an f32 one beside it for models that must be exact; an f32 table is its own. */
static void exact_table_is_f32(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_BF16), *x = kernels_exact(k);
    float    v[3] = {1.00001f, -2.3f, 0.1f}, got[3];
    assert_ptr_not_equal(x, k);
    assert_int_equal(x->act_bytes, 4);
    act *d = x->alloc(x, sizeof v);
    x->put(x, d, v, 3);
    x->get(x, got, d, 3);
    kern_ok(x);
    assert_memory_equal(v, got, sizeof v);
    x->free_(x, d);
    k = gpu_table(PRECISION_F32);
    assert_ptr_equal(kernels_exact(k), k);
}

static void scratch_is_a_stack_with_an_end(void **state)
{
    (void)state;
    (void)gpu_table(PRECISION_BF16); /* or skip */
    kernels *k = NULL;
    err      e = {0};
    OK(kernels_open(&k, &(kernels_options){.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = 4096},
                    &e),
       e);
    size_t mark = k->mark(k);
    char  *a = k->take(k, 100), *b = k->take(k, 1);
    assert_true(a && b - a == 256); /* 100 x 2 bytes, to the next 256 */
    k->back(k, mark);
    assert_ptr_equal(k->take(k, 2048), a); /* all of it */
    k->back(k, mark);
    assert_null(k->take(k, 2049));
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch");
    k->close(k);
    OK(kernels_open(&k, &(kernels_options){.device = "cuda:0", .scratch_bytes = 4096}, ((e = (err){0}), &e)), e);
    assert_null(k->take(k, SIZE_MAX / 2 + 1)); /* the product would wrap */
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch");
    k->close(k);
}

/* Longer than both halves of the pinned memory, so that each is filled again while the stream goes on; and the host's
 * array changes as soon as put returns. */
static void long_transfers_arrive_whole(void **state)
{
    (void)state;
    enum { N = (int)(20 << 20) / 4 + 3 };
    for (int p = 0; p < 2; p++) {
        kernels *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
        float   *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
        act *d = k->alloc(k, (size_t)N * (size_t)k->act_bytes),
            *copy = k->alloc(k, (size_t)N * (size_t)k->act_bytes);
        assert_true(x && y && d && copy);
        for (int i = 0; i < N; i++) x[i] = (float)(i % 251) - 125; /* whole numbers of eight bits: exact in bf16 */
        k->put(k, d, x, N);
        memset(x, 0xff, N * sizeof *x);
        k->copy(k, copy, d, N);
        k->get(k, y, copy, N);
        kern_ok(k);
        for (int i = 0; i < N; i++)
            if (y[i] != (float)(i % 251) - 125) fail_msg("element %d of %d arrived as %g", i, N, (double)y[i]);
        k->put(k, d, x, 0);
        k->get(k, y, d, 0);
        kern_ok(k);
        k->free_(k, d), k->free_(k, copy);
        free(x), free(y);
    }
}

/* put rounds to nearest, ties to even, and keeps infinities and NaN. */
static void put_rounds_as_the_host_does(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_BF16);
    float x[] = {1.00390625f, 1.01171875f, -0.0f,     3.4e38f, INFINITY, -INFINITY,
                 NAN,         1e-40f,      0x1p-133f, 65504,   0.1f},
          y[11];
    act     *d = k->alloc(k, sizeof x);
    k->put(k, d, x, 11);
    k->get(k, y, d, 11);
    kern_ok(k);
    for (int i = 0; i < 11; i++)
        if (i == 6) assert_true(isnan(y[i]));
        else if (y[i] != bf16_to_f32(bf16_from_f32(x[i]))) fail_msg("%g became %g", (double)x[i], (double)y[i]);
    k->free_(k, d);
}

/* A matrix becomes the table's element type, a vector f32; read back through gather, a row being a row. */
static void weights_arrive_as_the_table_multiplies_them(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 5}, {3, 8}, {4, 13}, {7, 1}, {2, 3000}};
    for (int p = 0; p < 2; p++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int type = DTYPE_F32; type <= DTYPE_BF16; type++) {
                int      rows = shapes[s][0], cols = shapes[s][1], n = rows * cols;
                kernels *k = gpu_table(p ? PRECISION_BF16 : PRECISION_F32);
                float *f = random_floats((size_t)n, 5, true), *want = malloc((size_t)n * sizeof *want),
                      *got = malloc((size_t)n * sizeof *got);
                uint8_t *file = malloc((size_t)n * 4 + 1);
                for (int i = 0; i < n; i++) { /* at an odd address, as in a file with an odd header */
                    uint16_t half = (uint16_t)(0x3c00 + i % 900), b = bf16_from_f32(f[i]);
                    if (type == DTYPE_F32) memcpy(file + 1 + 4 * i, &f[i], 4);
                    else memcpy(file + 1 + 2 * i, type == DTYPE_F16 ? &half : &b, 2);
                    want[i] = type == DTYPE_F32 ? f[i] : type == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(b);
                    if (p && rows > 1) want[i] = bf16_to_f32(bf16_from_f32(want[i]));
                    if (p && rows == 1) f[i] = want[i]; /* gather rounds to an activation */
                }
                tensor t = {.name = "w", .file = "test", .data = file + 1, .type = (dtype)type, .count = n};
                weight w;
                err    e = {0};
                OK(k->weight_open(k, &w, &t, rows, cols, &e), e);
                memset(file, 0xff, (size_t)n * 4 + 1); /* copied: the file is not read again */
                assert_int_equal(w.type, rows == 1 || !p ? DTYPE_F32 : DTYPE_BF16);
                int32_t *id = malloc((size_t)rows * sizeof *id);
                act     *y = k->alloc(k, (size_t)n * (size_t)k->act_bytes);
                for (int r = 0; r < rows; r++) id[r] = rows - 1 - r;
                k->gather(k, y, &w, id, rows, cols);
                k->get(k, got, y, (size_t)n);
                kern_ok(k);
                if (p) ref_round_bf16(want, want, (size_t)n);
                for (int r = 0; r < rows; r++)
                    assert_memory_equal(got + r * cols, want + (rows - 1 - r) * cols, (size_t)cols * sizeof *got);
                k->weight_close(k, &w);
                assert_null(w.owned);
                k->free_(k, y);
                free(f), free(want), free(got), free(file), free(id);
            }
}

static void wrong_weights_are_named(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_BF16);
    uint16_t v[6] = {0};
    weight   w;
    err      e;
    tensor   t = {.name = "block.weight", .file = "model.safetensors", .data = v, .type = DTYPE_BF16, .count = 6};
    FAILS(k->weight_open(k, &w, &t, 2, 4, &e), e, ERR_FILE,
          "model.safetensors: block.weight has 6 elements, not 2 x 4");
    t.type = DTYPE_I64;
    FAILS(k->weight_open(k, &w, &t, 2, 3, &e), e, ERR_FILE, "block.weight is I64");
    kern_ok(k); /* the device is as well as before */
}

static void nothing_is_done_after_a_failure(void **state)
{
    (void)state;
    kernels *k = gpu_table(PRECISION_F32);
    float    x[4] = {5, 6, 7, 8}, y[4] = {1, 2, 3, 4};
    act     *d = gpu_acts(k, x, 4);
    weight   w = gpu_vector(k, x, 2), other;
    err      e;
    int32_t  id = 0;
    tensor   t = {.name = "w", .file = "test", .data = x, .type = DTYPE_F32, .count = 4};
    kernels_fail(k, ERR_GPU, "the first failure");
    kernels_fail(k, ERR_BUG, "the second");
    k->linear(k, d, 1, d, 2, 2, &w, NULL, UNIT_NONE, NULL);
    k->linear_low_rank(k, d, 1, d, 2, 2, &w, NULL, &w, &w, UNIT_NONE, NULL);
    k->layernorm(k, d, d, 2, 2, &w, NULL, 1);
    k->rmsnorm(k, d, d, 2, 2, &w, 1);
    k->glu(k, d, d, d, 2, 1, 2, UNIT_SILU);
    k->rope(k, d, 4, 1, 1, 4, (const float *)d, (const float *)d, 2, false);
    k->gather(k, d, &w, &id, 1, 2);
    k->add(k, d, d, 4);
    k->mean_rows(k, d, d, 1, 2);
    k->put(k, d, y, 4);
    k->copy(k, d, act_at(k, d, 2), 2);
    k->copies(k, &(act_copy){d, act_at(k, d, 2), 2}, 1);
    k->get(k, y, d, 4);
    assert_true(y[0] == 1 && y[1] == 2 && y[2] == 3 && y[3] == 4);
    assert_null(k->take(k, 1));
    assert_null(k->upload(k, x, 4));
    assert_int_equal(k->flops, 0);
    FAILS(k->weight_open(k, &other, &t, 2, 2, &e), e, ERR_GPU, "the first failure");
    FAILS(k->sync(k, &e), e, ERR_GPU, "the first failure");
    k->failed = (err){0};
    k->get(k, y, d, 4);
    kern_ok(k);
    assert_memory_equal(x, y, sizeof x); /* and nothing was */
    k->weight_close(k, &w);
    k->free_(k, d);
}

#ifdef JOMED_SIMT
/* The n-th call to CUDA has no memory to give, for each n of an opening and of a weight's: an error or success, and
 * nothing leaks. */
static void every_call_of_an_opening_may_fail(void **state)
{
    (void)state;
    float  v[6] = {1, 2, 3, 4, 5, 6};
    tensor t = {.name = "block.weight", .file = "model.safetensors", .data = v, .type = DTYPE_F32, .count = 6};
    size_t used = simt_memory_used();
    long   handles = simt_handles_used(), calls = 1;
    for (long n = -1; n < calls; n++) { /* -1: none fails, to count */
        kernels *k = NULL;
        weight   w;
        err      e = {0};
        long     before = simt_calls();
        if (n >= 0) simt_fail(cudaErrorMemoryAllocation, n);
        bool opened = kernels_open(
            &k, &(kernels_options){.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = 4096}, &e);
        bool whole = opened && k->weight_open(k, &w, &t, 2, 3, &e);
        simt_fail(cudaSuccess, 0);
        if (n < 0) calls = simt_calls() - before;
        assert_true(whole == (e.code == ERR_NONE));
        assert_true(opened == (k != NULL));
        assert_true(whole || e.text[0]);
        if (whole) k->weight_close(k, &w);
        if (opened) k->close(k);
        if (simt_memory_used() != used || simt_handles_used() != handles)
            fail_msg("call %ld of %ld failed: %zu bytes and %ld handles are left", n, calls,
                     simt_memory_used() - used, simt_handles_used() - handles);
    }
    assert_true(calls > 20);
}

static void no_gpu_is_said_and_auto_takes_the_cpu(void **state)
{
    (void)state;
    kernels *k = NULL;
    err      e;
    simt_set_devices(0);
    FAILS(kernels_open(&k, &(kernels_options){.device = "cuda:0"}, &e), e, ERR_USAGE,
          "cuda:0: this machine has no NVIDIA GPU");
    e = (err){0};
    OK(kernels_open(&k, &(kernels_options){.threads = 1, .scratch_bytes = 4096}, &e), e);
    simt_set_devices(1);
    assert_int_equal(strncmp(k->name, "cpu ", 4), 0);
    k->close(k);
}

/* A driver that is too old stops auto as well: a machine with a GPU does not quietly compute on its CPU. */
static void an_old_driver_is_said(void **state)
{
    (void)state;
    static const char *const devices[] = {"auto", "cuda:0"};
    for (int i = 0; i < 2; i++) {
        kernels *k = NULL;
        err      e;
        simt_fail(cudaErrorInsufficientDriver, 0);
        FAILS(kernels_open(&k, &(kernels_options){.device = devices[i], .scratch_bytes = 4096}, &e), e, ERR_GPU,
              "the NVIDIA driver supports CUDA up to");
        simt_fail(cudaSuccess, 0);
        assert_string_equal(e.field, "device");
        assert_null(k);
    }
}

/* The device fails in the middle of a pass: sync says so in CUDA's words, and what is asked for later is not done. */
static void a_lost_device_is_kept(void **state)
{
    (void)state;
    kernels *k = NULL;
    err      e = {0};
    float    x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[8] = {0};
    OK(kernels_open(&k, &(kernels_options){.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = 4096},
                    &e),
       e);
    act *d = k->alloc(k, sizeof x);
    k->put(k, d, x, 8);
    simt_fail(cudaErrorLaunchFailure, 1);
    k->add(k, d, d, 8);
    k->add(k, d, d, 8);
    k->get(k, y, d, 8);
    FAILS(k->sync(k, &e), e, ERR_GPU, "cuda:0 ");
    assert_non_null(strstr(e.text, cudaGetErrorString(cudaErrorLaunchFailure)));
    assert_true(y[0] == 0);
    simt_fail(cudaSuccess, 0);
    FAILS(k->sync(k, &e), e, ERR_GPU, "cuda:0 "); /* kept, also when the device seems well again */
    k->free_(k, d);
    k->close(k);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_are_named),              cmocka_unit_test(too_large_a_workspace_says_how_much),
        cmocka_unit_test(open_survives_a_failed_allocation), cmocka_unit_test(exact_table_is_f32),
        cmocka_unit_test(scratch_is_a_stack_with_an_end),
        cmocka_unit_test(long_transfers_arrive_whole),    cmocka_unit_test(put_rounds_as_the_host_does),
        cmocka_unit_test(weights_arrive_as_the_table_multiplies_them), cmocka_unit_test(wrong_weights_are_named),
        cmocka_unit_test(nothing_is_done_after_a_failure),
#ifdef JOMED_SIMT
        cmocka_unit_test(every_call_of_an_opening_may_fail), cmocka_unit_test(no_gpu_is_said_and_auto_takes_the_cpu),
        cmocka_unit_test(an_old_driver_is_said),          cmocka_unit_test(a_lost_device_is_kept),
#endif
    };
    return cmocka_run_group_tests_name("cuda table", tests, NULL, gpu_close_all);
}
