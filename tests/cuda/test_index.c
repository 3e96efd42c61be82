/* test_index.c - an index searched on the device gives what FAISS gives: the same passages, order and scores to the
 * bit, whatever f16 made of the rows; and what cannot be searched so is refused. */
#include "tests/cuda/gpu.h"
#include "tests/index/sample.h"

typedef struct { unsigned (*picture)(int); const char *(*caption)(int); int n; bool near; } corpus;

/* 4 pictures and 2 captions: runs of equal scores longer than what is fetched at once. */
static unsigned    few_pictures(int i) { return (unsigned)(i * 7 % 4 + 1); }
static const char *two_captions(int i) { return i % 3 ? "Normal chest." : "Pneumonia."; }

/* Nearly equal rows: a query's scores differ by less than f16 can tell, so only the bound on its error finds the
 * right ones. */
static bool near_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    uint64_t seed = pixel_seed(img);
    (void)ctx, (void)a, (void)e;
    unit_of(z, 1);
    for (int i = 0; i < DIM; i++) z[i] += 1e-5f * (float)(seed * (unsigned)(2 * i + 1) % 101);
    return true;
}

static passage_index *open_corpus(const sample *s, const corpus *c)
{
    if (!c->near) return build_and_open(s, c->n, c->picture, c->caption, NULL);
    err            e = {0};
    fake           f;
    build_counts   counts;
    passage_index *ix = NULL;
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", c->n, c->picture, c->caption), .images = s->dir};
    build_options  o = fake_options(at(s, "index"), &src, 1, &f);
    o.embed.image = near_image;
    OK(index_build(&o, &counts, &e), e);
    OK(index_open(&ix, at(s, "index"), FAKE_HASH, &e), e);
    return ix;
}

static void same_hits(passage_index *ix, kernels *k, const sample *s, int n, const exclusion *x, const float *z)
{
    static const int ks[] = {1, 2, 10, 50, 120, 1000};
    for (int h = 0; h < N_HEADS; h++)
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
            hits want, got;
            err  e = {0};
            OK(index_use(ix, SEARCH_FAISS, k, &e), e);
            OK(index_search(ix, NULL, (head)h, z, ks[i], x, &want, s->a, &e), e);
            OK(index_use(ix, SEARCH_EXACT, k, &e), e);
            OK(index_search(ix, k, (head)h, z, ks[i], x, &got, s->a, &e), e);
            if (got.n != want.n || memcmp(got.id, want.id, (size_t)got.n * sizeof *got.id) != 0)
                fail_msg("%s head, %d of %d: other passages than FAISS finds", HEAD_NAME[h], ks[i], n);
            assert_memory_equal(got.score, want.score, (size_t)got.n * sizeof *got.score);
        }
}

static void the_device_finds_what_faiss_finds(void **state)
{
    sample      *s = *state;
    kernels     *k = gpu_open(PRECISION_F32);
    const corpus all[] = {{own_picture, own_caption, 1, false}, {own_picture, own_caption, 301, false},
                          {few_pictures, two_captions, 400, false}, {own_picture, own_caption, 600, true}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        passage_index *ix = open_corpus(s, &all[i]);
        float          z[DIM];
        for (uint64_t seed = 5; seed < 8; seed++) {
            unit_of(z, seed);
            same_hits(ix, k, s, all[i].n, NULL, z);
            same_hits(ix, k, s, all[i].n, &(exclusion){.study = "st0", .patient = "p1"}, z);
        }
        unit_of(z, all[i].picture(0)); /* a row itself */
        same_hits(ix, k, s, all[i].n, NULL, z);
        assert_string_equal(index_searcher(ix), "exact");
        index_close(ix);
        remove_tree(at(s, "index"));
    }
    k->close(k);
}

static void what_searches_is_chosen_by_device_and_index(void **state)
{
    sample        *s = *state;
    err            e = {0};
    kernels       *k = gpu_open(PRECISION_BF16), *plain = kern_open(NULL, PRECISION_F32, 1);
    passage_index *ix = build_and_open(s, 40, own_picture, own_caption, NULL);
    FAILS(index_use(ix, SEARCH_EXACT, plain, &e), e, ERR_USAGE, "search: exact runs on a GPU, the device is cpu");
    e = (err){0};
    OK(index_use(ix, SEARCH_AUTO, plain, &e), e);
    assert_string_equal(index_searcher(ix), "faiss");
    OK(index_use(ix, SEARCH_AUTO, k, &e), e);
    assert_string_equal(index_searcher(ix), "exact");
    float z[DIM];
    hits  got;
    unit_of(z, 3);
    FAILS(index_search(ix, NULL, HEAD_IMAGE, z, 2, NULL, &got, s->a, &e), e, ERR_BUG, "needs kernels");
    index_close(ix);
    remove_tree(at(s, "index"));

    ix = build_and_open(s, 40, own_picture, own_caption, "HNSW8");
    e = (err){0};
    OK(index_use(ix, SEARCH_AUTO, k, &e), e);
    assert_string_equal(index_searcher(ix), "faiss");
    FAILS(index_use(ix, SEARCH_EXACT, k, &e), e, ERR_USAGE, "a HNSW8 index does not keep them");
    index_close(ix);
    k->close(k);
    plain->close(plain);
}

/* A device with room for one head's vectors. */
static struct {
    bool (*open)(kernels *, vector_set *, const float *, int64_t, int, err *);
    void (*close)(kernels *, vector_set *);
    int held;
} table;
static bool open_one(kernels *k, vector_set *v, const float *rows, int64_t n, int dim, err *e)
{
    if (table.held == 1) return err_set(e, ERR_MEMORY, "room for one");
    table.held++;
    return table.open(k, v, rows, n, dim, e);
}
static void close_one(kernels *k, vector_set *v)
{
    table.held -= v->rows != NULL;
    table.close(k, v);
}

static void no_head_stays_alone_on_a_device(void **state)
{
    sample        *s = *state;
    err            e = {0};
    kernels       *k = gpu_open(PRECISION_BF16);
    passage_index *ix = build_and_open(s, 40, own_picture, own_caption, NULL);
    float          z[DIM];
    hits           got;
    table.open = k->vectors_open, table.close = k->vectors_close, table.held = 0;
    k->vectors_open = open_one, k->vectors_close = close_one;
    FAILS(index_use(ix, SEARCH_EXACT, k, &e), e, ERR_MEMORY, "room for one");
    assert_int_equal(table.held, 0);
    assert_string_equal(index_searcher(ix), "faiss");
    unit_of(z, 3);
    e = (err){0};
    OK(index_search(ix, NULL, HEAD_IMAGE, z, 2, NULL, &got, s->a, &e), e);
    assert_int_equal(got.n, 2);
    index_close(ix);
    k->close(k);
}

/* Each allocation of a search, in turn: an error, and the next search is whole. */
static void a_failed_allocation_is_an_error(void **state)
{
    sample        *s = *state;
    kernels       *k = gpu_open(PRECISION_BF16);
    passage_index *ix = build_and_open(s, 40, own_picture, own_caption, NULL);
    float          z[DIM];
    hits           got;
    err            e = {0};
    unit_of(z, 3);
    OK(index_use(ix, SEARCH_EXACT, k, &e), e);
    bool ok = false;
    for (long n = 0; !ok && n < 50; n++) {
        kernels *own = gpu_open(PRECISION_BF16); /* a failure stays in its kernels */
        arena   *a = arena_new(0);
        e = (err){0};
        mem_fail_after(n);
        ok = index_search(ix, own, HEAD_TEXT, z, 2, NULL, &got, a, &e);
        mem_fail_after(-1);
        if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        else assert_int_equal(got.n, 2);
        arena_free(a);
        own->close(own);
    }
    assert_true(ok);
    index_close(ix);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(the_device_finds_what_faiss_finds),
        SAMPLE_TEST(what_searches_is_chosen_by_device_and_index),
        SAMPLE_TEST(no_head_stays_alone_on_a_device),
        SAMPLE_TEST(a_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests_name("cuda index", tests, NULL, NULL);
}
