/* test_cublaslt.c - products by the library: against the double reference and our own kernels; a row's bits; and in
 * the emulation each way in which the library may disappoint. On a GPU without cuBLASLt the same cases show our
 * own. */
#define main all_linear_cases
#include "tests/cuda/test_linear.c"
#undef main
#include "base/memory.h"


#ifdef JOMED_SIMT
#include "tests/simt/control.h"
static long products(void) { return simt_cublaslt_products(); }
enum { COUNTED = 1 };
#else
static long products(void) { return 0; }
enum { COUNTED = 0 };
#endif

/* N, K of a weight whose bare products are the library's, and of one that it also makes sums for. */
enum { N = 72, K = 64, DEEP = 2056 };

static void products_match_reference(void **state)
{
    (void)state;
    static const struct { linear_case c; int library; } set[] = {
        {{1, N, K, DTYPE_BF16, UNIT_NONE, false, false, false, 0}, 1},
        {{17, N, K, DTYPE_BF16, UNIT_NONE, false, false, false, 8}, 1},
        {{131, N, K, DTYPE_F32, UNIT_NONE, false, true, false, 0}, 1},
        {{16, N, K, DTYPE_BF16, UNIT_NONE, false, true, true, 16}, 1},
        {{16, N, K, DTYPE_BF16, UNIT_NONE, false, true, true, 3}, 0},   /* y's rows are not aligned */
        {{16, N, K, DTYPE_BF16, UNIT_GELU, false, false, false, 0}, 0}, /* sums would cost more than they save */
        {{16, N, K, DTYPE_BF16, UNIT_NONE, true, false, false, 0}, 0},
        {{16, N - 8, K - 8, DTYPE_BF16, UNIT_NONE, false, false, false, 0}, 0}, /* too small; not eighths */
        {{16, N - 1, K, DTYPE_BF16, UNIT_NONE, false, false, false, 0}, 0},
        {{16, N, K + 1, DTYPE_BF16, UNIT_NONE, false, false, false, 0}, 0},
        {{1, N, DEEP, DTYPE_BF16, UNIT_NONE, true, false, false, 0}, 1},
        {{17, N, DEEP, DTYPE_BF16, UNIT_GELU, false, true, true, 8}, 1},
        {{66, N, DEEP, DTYPE_BF16, UNIT_QUICK_GELU, true, true, false, 3}, 1}, /* our kernel writes y */
        {{131, N, DEEP, DTYPE_F32, UNIT_SILU, true, false, false, 0}, 1},
        {{131, N, DEEP, DTYPE_BF16, UNIT_NONE, false, true, true, 0}, 1},
    };
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        compare(PRECISION_BF16, &set[i].c); /* its shape has been tried from here on */
        long before = products();
        compare(PRECISION_BF16, &set[i].c);
        if (COUNTED && products() - before != set[i].library)
            fail_msg("case %zu: %ld products by the library", i, products() - before);
    }
}

static void branches_go_on_from_the_librarys_sums(void **state)
{
    (void)state;
    static const low_rank_case cases[] = {{9, N, DEEP, 8, UNIT_NONE, true}, {70, N, DEEP, 65, UNIT_GELU, false},
                                          {131, N, DEEP, 64, UNIT_QUICK_GELU, true}, {13, N, K, 8, UNIT_NONE, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) compare_low_rank(PRECISION_BF16, &cases[i]);
}

/* A product of `most` rows, and the operands that all tests below share. */
typedef struct { kernels *k; int n, depth; act *x, *y, *residual; weight w, bias; test_weight host; } operands;
enum { MOST = 300 };

static operands operands_on(kernels *k, int depth)
{
    operands o = {.k = k, .n = N, .depth = depth};
    float   *x = random_floats((size_t)MOST * depth, 11, true), *r = random_floats((size_t)MOST * N, 12, true),
          *bias = random_floats(N, 13, false);
    o.host = random_weight(N, depth, DTYPE_BF16, 14);
    o.x = gpu_acts(k, x, (size_t)MOST * depth), o.residual = gpu_acts(k, r, (size_t)MOST * N);
    o.y = k->alloc(k, (size_t)MOST * N * (size_t)k->act_bytes);
    o.w = gpu_weight(k, &o.host), o.bias = gpu_vector(k, bias, N);
    free(x), free(r), free(bias);
    return o;
}

static void operands_close(operands *o)
{
    o->k->weight_close(o->k, &o->w), o->k->weight_close(o->k, &o->bias);
    o->k->free_(o->k, o->x), o->k->free_(o->k, o->y), o->k->free_(o->k, o->residual);
    random_weight_free(&o->host);
}

/* Rows from .. from + T - 1, as floats [T,N] for the caller to free. kind: bare, with a residual, with everything. */
static float *rows_of(const operands *o, int kind, int from, int T)
{
    float *got = malloc((size_t)T * N * sizeof *got);
    assert_non_null(got);
    o->k->linear(o->k, o->y, N, act_at(o->k, o->x, (size_t)from * (size_t)o->depth), o->depth, T, &o->w,
                 kind == 2 ? &o->bias : NULL, kind == 2 ? UNIT_QUICK_GELU : UNIT_NONE,
                 kind ? act_at(o->k, o->residual, (size_t)from * N) : NULL);
    o->k->get(o->k, got, o->y, (size_t)T * N);
    return got;
}

static void same(const float *a, const float *b, int T, const char *what)
{
    if (memcmp(a, b, (size_t)T * N * sizeof *a) != 0) fail_msg("%s: other bits", what);
}

static void library_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    static const int Ts[] = {1, 2, 8, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257};
    kernels *k = gpu_table(PRECISION_BF16);
    for (int kind = 0; kind < 3; kind++) {
        operands o = operands_on(k, DEEP);
        float   *all = rows_of(&o, kind, 0, MOST);
        for (size_t i = 0; i < sizeof Ts / sizeof *Ts; i++) {
            int    from = (MOST - Ts[i]) / 2;
            float *some = rows_of(&o, kind, from, Ts[i]);
            kern_ok(k);
            same(some, all + (size_t)from * N, Ts[i], "rows of a smaller batch");
            free(some);
        }
        free(all);
        operands_close(&o);
    }
}

/* Steps of decoding, and a table that was told so, multiply by our own kernels: to the same bits. */
static void decoding_and_own_products_are_our_kernels(void **state)
{
    (void)state;
    kernels        *k = gpu_table(PRECISION_BF16), *own = NULL;
    kernels_options ko = {.device = "cuda:0", .products = PRECISION_BF16, .scratch_bytes = (size_t)16 << 20,
                          .own_products = true};
    err e = {0};
    OK(kernels_open(&own, &ko, &e), e);
    assert_non_null(strstr(own->name, ", own products"));
    for (int kind = 0; kind < 3; kind++) {
        operands o = operands_on(k, DEEP), p = operands_on(own, DEEP);
        float   *prefill = rows_of(&o, kind, 0, MOST);
        long     before = products();
        k->decoding = true;
        float *step = rows_of(&o, kind, 0, MOST);
        k->decoding = false;
        float *ours = rows_of(&p, kind, 0, MOST);
        kern_ok(k), kern_ok(own);
        same(step, ours, MOST, "a step of decoding");
        weight both = p.w; /* opened by another table, used by one that was told so */
        p.w = o.w;
        float *told = rows_of(&p, kind, 0, MOST);
        p.w = both;
        same(told, ours, MOST, "own products of a library's weight");
        assert_int_equal(products(), before);
        if (COUNTED) assert_memory_not_equal(prefill, step, (size_t)MOST * N * sizeof *step);
        free(prefill), free(step), free(ours), free(told);
        operands_close(&o), operands_close(&p);
    }
    own->close(own);
}

#ifdef JOMED_SIMT
static kernels *open_with(const char *algorithms, size_t scratch_bytes)
{
    kernels *k = NULL;
    err      e = {0};
    simt_cublaslt(algorithms);
    OK(kernels_open(&k, &(kernels_options){.device = "cuda:0", .products = PRECISION_BF16,
                                           .scratch_bytes = scratch_bytes}, &e), e);
    simt_cublaslt("s");
    return k;
}

/* What a library offers, and whether it is taken. */
static void an_algorithm_must_hold_before_it_is_used(void **state)
{
    (void)state;
    static const struct { const char *algorithms; bool used, narrow; } set[] = {
        {.algorithms = "s", .used = true}, {.algorithms = "t"}, {.algorithms = "w"}, {.algorithms = "n"},
        {.algorithms = "x"}, {.algorithms = "k"}, {.algorithms = "r"}, {.algorithms = "m"}, {.algorithms = "?"},
        {.algorithms = ""}, {.algorithms = NULL}, {.algorithms = "tw?kxs", .used = true},
        {.algorithms = "twnxkrm?s" /* eight are asked for */}, {.algorithms = "s", .narrow = true /* for a trial */},
    };
    size_t used = simt_memory_used();
    long   handles = simt_handles_used();
    kernels *own = open_with(NULL, (size_t)16 << 20);
    for (int kind = 0; kind < 3; kind++) {
        operands q = operands_on(own, kind == 2 ? DEEP : K);
        float   *ours = rows_of(&q, kind, 0, 40);
        for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
            size_t   room = (size_t)(!set[i].narrow ? 16 << 10 : kind == 2 ? 2500 : 150) << 10;
            kernels *k = open_with(set[i].algorithms, room);
            simt_cublaslt(set[i].algorithms ? set[i].algorithms : "s");
            assert_non_null(strstr(k->name, set[i].algorithms ? ", cuBLASLt 13.1.0" : ", own products"));
            operands o = operands_on(k, kind == 2 ? DEEP : K);
            simt_cublaslt("s");
            long     before = products();
            float   *got = rows_of(&o, kind, 0, 40);
            kern_ok(k);
            if (products() - before != set[i].used)
                fail_msg("\"%s\": %ld products by the library", set[i].algorithms, products() - before);
            if (!set[i].used) same(got, ours, 40, "our own kernel");
            free(got);
            operands_close(&o);
            k->close(k);
        }
        free(ours);
        operands_close(&q);
    }
    own->close(own);
    assert_int_equal(simt_memory_used(), used);
    assert_int_equal(simt_handles_used(), handles);
}

static void a_library_that_does_not_start_is_not_used(void **state)
{
    (void)state;
    simt_cublaslt_start(1);
    kernels *k = open_with("s", 1 << 20);
    simt_cublaslt_start(0);
    assert_non_null(strstr(k->name, ", own products"));
    k->close(k);
}

/* A product that fails is an error, since our own kernel would give other bits; memory that ran out is the
 * request's. */
static void a_failed_product_is_no_other_number(void **state)
{
    (void)state;
    err      e;
    kernels *k = open_with("s", (size_t)16 << 20);
    for (int kind = 0; kind < 3; kind++) {
        operands o = operands_on(k, kind == 2 ? DEEP : K);
        float   *good = rows_of(&o, kind, 0, 20);
        simt_cublaslt_fail(3);
        free(rows_of(&o, kind, 0, 20));
        FAILS(k->sync(k, &e), e, ERR_MEMORY, "cuBLASLt 13.1.0: a product of 20 x 72 x ");
        kernels_recover(k);
        float *again = rows_of(&o, kind, 0, 20);
        kern_ok(k);
        same(again, good, 20, "after memory ran out");
        simt_cublaslt_fail(15);
        free(rows_of(&o, kind, 0, 20));
        FAILS(k->sync(k, &e), e, ERR_GPU, ": status 15");
        memset(&k->failed, 0, sizeof k->failed);

        kernels *without = open_with(NULL, (size_t)16 << 20);
        operands p = operands_on(without, kind == 2 ? DEEP : K);
        weight   mine = p.w;
        p.w = o.w;
        free(rows_of(&p, kind, 0, 20));
        FAILS(without->sync(without, &e), e, ERR_GPU, "own products: a product of");
        memset(&without->failed, 0, sizeof without->failed);
        p.w = mine;
        operands_close(&p);
        without->close(without);
        free(good), free(again);
        operands_close(&o);
    }
    k->close(k);
}

/* Sums that find no room in the scratch are an error, and the next product is sound. */
static void sums_want_room(void **state)
{
    (void)state;
    err      e;
    kernels *k = open_with("s", (size_t)6 << 20);
    operands o = operands_on(k, DEEP);
    float   *good = rows_of(&o, 2, 0, MOST);
    kern_ok(k);
    size_t mark = k->mark(k);
    assert_non_null(k->take(k, ((size_t)6 << 20) / 2 - 4096));
    long before = products();
    free(rows_of(&o, 2, 0, MOST));
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch");
    k->back(k, mark);
    kernels_recover(k);
    assert_int_equal(products(), before);
    float *again = rows_of(&o, 2, 0, MOST);
    kern_ok(k);
    same(again, good, MOST, "after scratch ran out");
    free(good), free(again);
    operands_close(&o);
    k->close(k);
}

/* The n-th call to CUDA or the library, or the n-th allocation, fails while a weight opens: it opens, by our own
 * kernel perhaps, or says why; and nothing leaks. */
static void every_call_of_a_trial_may_fail(void **state)
{
    (void)state;
    test_weight h = random_weight(N, K, DTYPE_BF16, 3);
    tensor      t = {.name = "w", .file = "test", .data = h.w.data, .type = DTYPE_BF16, .count = N * K};
    size_t      used = simt_memory_used();
    long        handles = simt_handles_used(), calls = 1, opened = 0;
    for (long n = -1; n < calls; n += n < 40 ? 1 : 7) { /* -1: none fails, to count */
        kernels *k = open_with("ts", (size_t)16 << 20);
        weight   w;
        err      e = {0};
        simt_cublaslt("ts");
        long before = simt_calls();
        if (n >= 0) simt_fail(cudaErrorMemoryAllocation, n);
        bool ok = k->weight_open(k, &w, &t, N, K, &e);
        simt_fail(cudaSuccess, 0);
        if (n < 0) calls = simt_calls() - before;
        assert_true(ok == (e.code == ERR_NONE));
        if (ok) k->weight_close(k, &w);
        opened += ok;
        k->close(k);
        if (simt_memory_used() != used || simt_handles_used() != handles)
            fail_msg("call %ld of %ld failed: something is left", n, calls);
    }
    assert_true(calls > 100 && opened > 1);
    for (long n = 0;; n++) {
        kernels *k = open_with("s", (size_t)16 << 20);
        weight   w;
        err      e = {0};
        mem_fail_after(n);
        bool ok = k->weight_open(k, &w, &t, N, K, &e);
        mem_fail_after(-1);
        if (ok) {
            assert_int_equal(n, 2); /* the table's plan and the weight's */
            k->weight_close(k, &w);
        } else
            assert_int_equal(e.code, ERR_MEMORY);
        k->close(k);
        if (ok) break;
    }
    simt_cublaslt("s");
    assert_int_equal(simt_memory_used(), used);
    random_weight_free(&h);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_reference),
        cmocka_unit_test(branches_go_on_from_the_librarys_sums),
        cmocka_unit_test(library_rows_do_not_depend_on_the_batch),
        cmocka_unit_test(decoding_and_own_products_are_our_kernels),
#ifdef JOMED_SIMT
        cmocka_unit_test(an_algorithm_must_hold_before_it_is_used),
        cmocka_unit_test(a_library_that_does_not_start_is_not_used),
        cmocka_unit_test(a_failed_product_is_no_other_number),
        cmocka_unit_test(sums_want_room),
        cmocka_unit_test(every_call_of_a_trial_may_fail),
#endif
    };
    (void)all_linear_cases;
    return cmocka_run_group_tests_name("cuda cublaslt", tests, NULL, gpu_close_all);
}
