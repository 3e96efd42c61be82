/* test_vision_cache.c - a query picture whose tokens are computed twice, or are taken for another picture's. */
#include "tests/reader/demo_world.h"

#include "base/memory.h"
#include "reader/vision_cache.h"

enum { CACHE = 64 << 20 };

/* One request with the cache and one without it: the same bits, and a run of the tower less if it was kept. */
static void ask(world *w, vision_cache *v, const reader_query *q, uint64_t encoded, uint64_t reused)
{
    err          e = {0};
    picture      p;
    reader_query with = *q, without = *q;
    assert_non_null(v);
    with.vision = v;
    without.vision = NULL;
    score(w, &without); /* prefixes are cached from here on: only the query's tower is left to tell apart */
    vision_cache_stats before = vision_cache_read_stats(v);
    reader_scores      want = score(w, &without), got = score(w, &with);
    vision_cache_stats after = vision_cache_read_stats(v);
    OK(w->r->f->prepare(w->r->m, &p, q->img, q->policy, w->a, &e), e);
    uint64_t saved = after.reused > before.reused ? w->r->f->encode_flops(w->r->m, 0, &p) : 0;
    assert_memory_equal(got.logp, want.logp, (size_t)q->K * (size_t)q->A * sizeof(float));
    assert_memory_equal(got.logit, want.logit, (size_t)q->K * (size_t)q->A * sizeof(float));
    assert_int_equal(got.flops, want.flops - saved);
    assert_int_equal(after.encoded, encoded);
    assert_int_equal(after.reused, reused);
}

static void questions_about_one_picture_run_its_tower_again(void **state)
{
    (void)state;
    world         w = open_world(CACHE, 1);
    vision_cache *v = vision_cache_new(w.k);
    demo_case    *x = demo_case_open(w.d, "breast", "val", 0), *y = demo_case_open(w.d, "retina", "test", 3),
                 *z = demo_case_open(w.d, "pneumonia", "val", 5);
    reader_query other = x->q;
    other.question = "Is it a mass?";
    ask(&w, v, &x->q, 1, 0);
    ask(&w, v, &x->q, 1, 1);
    ask(&w, v, &other, 1, 2);
    ask(&w, v, &y->q, 2, 2);
    ask(&w, v, &x->q, 2, 3); /* two are kept, */
    ask(&w, v, &y->q, 2, 4);
    ask(&w, v, &z->q, 3, 4); /* the third takes the place of x, which was not used for longest */
    ask(&w, v, &y->q, 3, 5);
    ask(&w, v, &x->q, 4, 5);
    ask(&w, v, &y->q, 4, 6);
    ask(&w, v, &z->q, 5, 6);
    demo_case_close(x);
    demo_case_close(y);
    demo_case_close(z);
    vision_cache_free(v);
    close_world(&w);
}

/* The same bytes as another shape, another policy, one pixel changed: each has tokens of its own. */
static void another_picture_is_taken_for_it(void **state)
{
    (void)state;
    world         w = open_world(CACHE, 1);
    vision_cache *v = vision_cache_new(w.k);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 1);
    err           e = {0};
    enum { W = 128, H = 32 };
    uint8_t *rgb = arena_take(w.a, W * H * 3, &e);
    assert_non_null(rgb);
    for (int i = 0; i < W * H * 3; i++) rgb[i] = (uint8_t)(i * 11 + (i >> 7));
    image        wide = {.width = W, .height = H, .rgb = rgb}, tall = {.width = H, .height = W, .rgb = rgb};
    reader_query q = c->q;
    q.K = 1;
    q.img = &wide;
    ask(&w, v, &q, 1, 0);
    q.img = &tall;
    ask(&w, v, &q, 2, 0);
    q.policy = IMAGE_JOMED_256;
    ask(&w, v, &q, 3, 0);
    q.policy = IMAGE_NATIVE;
    ask(&w, v, &q, 3, 1);
    rgb[5] ^= 1;
    ask(&w, v, &q, 4, 1);
    demo_case_close(c);
    vision_cache_free(v);
    close_world(&w);
}

static void adapters_share_tokens(void **state)
{
    (void)state;
    err              e = {0};
    kernels         *k = open_cpu(PRECISION_F32, 1);
    vision_cache    *v = vision_cache_new(k);
    reader          *r;
    arena           *a = arena_new(0);
    demo            *d = demo_open();
    demo_case       *c = demo_case_open(d, "breast", "val", 2);
    reader_adapter   both = {"both", FIXTURE("qwen2vl-tiny-lora-vision")};
    reader_options   o = {.adapters = &both, .n_adapters = 1};
    OK(reader_open(&r, FIXTURE("qwen2vl-tiny"), &o, k, &e), e);
    reader_query q = c->q;
    q.K = 1;
    for (int round = 0; round < 2; round++)
        for (int adapter = 0; adapter < 2; adapter++) {
            reader_scores with, without;
            q.adapter = adapter;
            q.vision = v;
            OK(reader_score(r, k, &q, a, &with, &e), e);
            q.vision = NULL;
            OK(reader_score(r, k, &q, a, &without, &e), e);
            assert_memory_equal(with.logp, without.logp, (size_t)q.A * sizeof(float));
        }
    vision_cache_stats s = vision_cache_read_stats(v);
    assert_int_equal(s.encoded, 2);
    assert_int_equal(s.reused, 2);
    demo_case_close(c);
    demo_close(d);
    vision_cache_free(v);
    reader_close(r);
    arena_free(a);
    k->close(k);
}

static bool half_fill(void *ctx, act *tokens, err *e)
{
    (void)tokens;
    int *left = ctx;
    return (*left)-- > 0 || err_set(e, ERR_GPU, "the device is lost");
}

static void tokens_that_were_not_made_are_kept(void **state)
{
    (void)state;
    kernels      *k = open_cpu(PRECISION_F32, 1);
    vision_cache *v = vision_cache_new(k);
    uint8_t       rgb[12] = {0};
    image         img = {.width = 2, .height = 2, .rgb = rgb};
    act          *out;
    err           e;
    int           left = 0;
    FAILS(vision_cache_take(v, k, &img, IMAGE_NATIVE, 0, 8, half_fill, &left, &out, &e), e, ERR_GPU,
          "the device is lost");
    e = (err){0};
    left = 1;
    OK(vision_cache_take(v, k, &img, IMAGE_NATIVE, 0, 8, half_fill, &left, &out, &e), e);
    assert_int_equal(left, 0); /* it was filled, not found */
    OK(vision_cache_take(v, k, &img, IMAGE_NATIVE, 0, 8, half_fill, &left, &out, &e), e);
    assert_int_equal(vision_cache_read_stats(v).encoded, 2);
    assert_int_equal(vision_cache_read_stats(v).reused, 1);
    vision_cache_free(v);
    vision_cache_free(NULL);
    k->close(k);
}

/* 32 MiB are kept, one activation more is not; and what was kept before it stays. */
static void a_picture_has_no_bound(void **state)
{
    (void)state;
    kernels      *k = open_cpu(PRECISION_F32, 1);
    vision_cache *v = vision_cache_new(k);
    uint8_t       rgb[12] = {0}, other[12] = {1};
    image         img = {.width = 2, .height = 2, .rgb = rgb}, large = {.width = 2, .height = 2, .rgb = other};
    size_t        most = ((size_t)32 << 20) / sizeof(float);
    act          *out;
    err           e = {0};
    int           left = 9;
    OK(vision_cache_take(v, k, &img, IMAGE_NATIVE, 0, most, half_fill, &left, &out, &e), e);
    assert_non_null(out);
    assert_int_equal(left, 8);
    for (int i = 0; i < 3; i++) {
        OK(vision_cache_take(v, k, &large, IMAGE_NATIVE, 0, most + 1, half_fill, &left, &out, &e), e);
        assert_null(out);
    }
    OK(vision_cache_take(v, k, &img, IMAGE_NATIVE, 0, most, half_fill, &left, &out, &e), e);
    assert_non_null(out);
    assert_int_equal(left, 8); /* found; and nothing was filled for the larger one */
    assert_int_equal(vision_cache_read_stats(v).encoded, 4);
    assert_int_equal(vision_cache_read_stats(v).reused, 1);
    vision_cache_free(v);
    k->close(k);
}

/* Each allocation fails in turn: an error or the same bits, and the next request is right. */
static void lost_memory_changes_an_answer(void **state)
{
    (void)state;
    world         w = open_world(CACHE, 1);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 3);
    c->q.K = 1; /* the tower is the query's; candidates have faults of their own in test_score.c */
    reader_scores want = score(&w, &c->q);
    size_t        bytes = (size_t)c->q.A * sizeof(float);
    bool          untouched = false;
    for (long n = 0; !untouched; n++) {
        err           e = {0};
        reader_scores got;
        vision_cache *v = vision_cache_new(w.k);
        reader_query  q = c->q;
        arena        *a = arena_new(0);
        q.vision = v;
        mem_fail_after(n);
        bool ok = reader_score(w.r, w.k, &q, a, &got, &e);
        untouched = mem_fail_after(-1) <= n;
        if (ok) assert_memory_equal(got.logp, want.logp, bytes);
        else assert_int_equal(e.code, ERR_MEMORY);
        if (!ok) { /* nothing half-made was kept */
            e = (err){0};
            OK(reader_score(w.r, w.k, &q, a, &got, &e), e);
            assert_memory_equal(got.logp, want.logp, bytes);
        }
        arena_free(a);
        vision_cache_free(v);
        assert_true(n < 3000);
    }
    demo_case_close(c);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(questions_about_one_picture_run_its_tower_again),
        cmocka_unit_test(another_picture_is_taken_for_it),
        cmocka_unit_test(adapters_share_tokens),
        cmocka_unit_test(tokens_that_were_not_made_are_kept),
        cmocka_unit_test(a_picture_has_no_bound),
        cmocka_unit_test(lost_memory_changes_an_answer),
    };
    return cmocka_run_group_tests_name("vision_cache", tests, NULL, NULL);
}
