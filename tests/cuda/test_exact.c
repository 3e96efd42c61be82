/* test_exact.c - the retriever on a bf16 table computes in its exact twin: the same bits as on an f32 table, its work
 * counted by the table that was asked, its failure that table's, and scratch that ran out is no failure of the next
 * request. */
#include "tests/cuda/gpu.h"

#include "retriever/retriever.h"

enum { E = 96, SIDE = 40 };
typedef struct { kernels *k; retriever *r; arena *a; image img; } world;

static world open_world(kernels *k)
{
    world w = {.k = k, .a = arena_new(0), .img = {SIDE, SIDE, NULL}};
    err   e = {0};
    OK(retriever_open(&w.r, FIXTURE("jina-clip-tiny"), k, &e), e);
    assert_int_equal(retriever_dim(w.r), E);
    w.img.rgb = arena_take(w.a, 3 * SIDE * SIDE, &e);
    assert_non_null(w.img.rgb);
    for (int i = 0; i < 3 * SIDE * SIDE; i++) w.img.rgb[i] = (uint8_t)(i * 7 + (i >> 6) * 31);
    return w;
}

static void close_world(world *w)
{
    retriever_close(w->r);
    arena_free(w->a);
}

static void embeddings_are_those_of_an_f32_table(void **state)
{
    (void)state;
    float    z[2][E], t[2][E];
    uint64_t flops[2];
    for (int p = 0; p < 2; p++) {
        world w = open_world(gpu_table(p ? PRECISION_BF16 : PRECISION_F32));
        err   e = {0};
        w.k->flops = 0;
        OK(retriever_embed_image(w.r, w.k, &w.img, z[p], w.a, &e), e);
        OK(retriever_embed_text(w.r, w.k, "chest x-ray, no finding", 0, t[p], w.a, &e), e);
        flops[p] = w.k->flops;
        assert_int_equal(kernels_exact(w.k)->flops, p ? 0 : flops[p]);
        close_world(&w);
    }
    assert_memory_equal(z[0], z[1], sizeof z[0]);
    assert_memory_equal(t[0], t[1], sizeof t[0]);
    assert_true(flops[0] > 0 && flops[0] == flops[1]);
}

static void failures_are_the_tables_own(void **state)
{
    (void)state;
    world    w = open_world(gpu_open(PRECISION_BF16));
    kernels *x = kernels_exact(w.k);
    float    want[E], z[E];
    err      e = {0};
    OK(retriever_embed_image(w.r, w.k, &w.img, want, w.a, &e), e);

    kernels_fail(x, ERR_MEMORY, "scratch of an earlier request");
    OK(retriever_embed_image(w.r, w.k, &w.img, z, w.a, &e), e);
    assert_memory_equal(z, want, sizeof z);

    kernels_fail(x, ERR_GPU, "the device is gone");
    FAILS(retriever_embed_image(w.r, w.k, &w.img, z, w.a, &e), e, ERR_GPU, "the device is gone");
    FAILS(w.k->sync(w.k, &e), e, ERR_GPU, "the device is gone"); /* so that the worker sees it */
    kernels *k = w.k;
    close_world(&w);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embeddings_are_those_of_an_f32_table), cmocka_unit_test(failures_are_the_tables_own),
    };
    return cmocka_run_group_tests_name("cuda exact", tests, NULL, gpu_close_all);
}
