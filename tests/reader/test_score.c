/* Answers' likelihoods on the demonstration model: PyTorch's values, the same bits whatever surrounds a case,
 * the least arithmetic, and an error instead of a wrong number when something fails. */
#include "tests/reader/demo_world.h"

#include <pthread.h>

#include "base/memory.h"
#include "imaging/preprocess.h"

enum { CACHE = 64 << 20 };

static void same_bits(const reader_scores *x, const reader_scores *y, int n)
{
    assert_memory_equal(x->logp, y->logp, (size_t)n * sizeof(float));
    assert_memory_equal(x->logit, y->logit, (size_t)n * sizeof(float));
}

static void differs_at_most(const char *what, const float *got, const float *want, int n, double tol)
{
    for (int i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tol))
            fail_msg("%s[%d] is %.6f, PyTorch has %.6f, allowed difference %.0e", what, i, got[i], want[i], tol);
}

static void likelihoods_are_those_of_pytorch(void **state)
{
    (void)state;
    static const struct { const char *task, *split; int n; } set[] = {{"breast", "val", 30}, {"breast", "test", 60},
        {"pneumonia", "val", 30}, {"pneumonia", "test", 60}, {"retina", "val", 30}, {"retina", "test", 60}};
    world w = open_world(CACHE, 1);
    for (size_t s = 0; s < sizeof set / sizeof *set; s++)
        for (int i = (int)s; i < set[s].n; i += 13) {
            demo_case    *c = demo_case_open(w.d, set[s].task, set[s].split, i);
            reader_scores y = score(&w, &c->q);
            differs_at_most("logp", y.logp, c->logp, DEMO_K * c->q.A, 2e-3);
            differs_at_most("logit", y.logit, c->logit, DEMO_K * c->q.A, 2e-3);
            assert_false(y.end_token);
            for (int j = 0; j < c->q.A; j++)
                assert_int_equal(y.answer_tokens[j], strcmp(set[s].task, "retina") == 0 ? 1 : 2);
            demo_case_close(c);
        }
    close_world(&w);
}

/* Alone, repeated, with every mixture of cached and computed prefixes, in another order, with another number of
 * threads. */
static void a_case_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    world      w = open_world(CACHE, 1), two = open_world(0, 2);
    demo_case *c = demo_case_open(w.d, "retina", "test", 11), *other = demo_case_open(w.d, "breast", "test", 5);
    int        A = c->q.A, n = DEMO_K * A;
    reader_scores cold = score(&w, &c->q), warm = score(&w, &c->q);
    assert_int_equal(cold.n_cached, 0);
    assert_int_equal(warm.n_cached, DEMO_K);
    same_bits(&cold, &warm, n);

    reader_cache_clear(w.r);
    score(&w, &other->q);
    for (int i = 0; i < DEMO_K; i++) { /* each candidate alone, and by that in the cache for the next one's turn */
        reader_query q = c->q;
        q.z = &c->z[i];
        q.K = 1;
        reader_scores one = score(&w, &q);
        assert_memory_equal(one.logp, cold.logp + i * A, (size_t)A * sizeof(float));
        reader_scores all = score(&w, &c->q);
        same_bits(&all, &cold, n);
    }

    const reader_passage turned[DEMO_K] = {c->z[2], c->z[0], c->z[3], c->z[1]};
    const int            from[DEMO_K] = {2, 0, 3, 1};
    reader_query q = c->q;
    q.z = turned;
    for (int round = 0; round < 2; round++) {
        reader_scores y = score(&w, &q);
        for (int i = 0; i < DEMO_K; i++)
            assert_memory_equal(y.logp + i * A, cold.logp + from[i] * A, (size_t)A * sizeof(float));
        reader_cache_clear(w.r);
    }
    q = c->q;
    q.load_ctx = two.d;
    reader_scores threads = score(&two, &q);
    same_bits(&threads, &cold, n);
    demo_case_close(c);
    demo_case_close(other);
    close_world(&w);
    close_world(&two);
}

/* Room for one prefix and a half: every request evicts, nothing is lost but time. */
static void a_cache_that_is_too_small_changes_no_bit(void **state)
{
    (void)state;
    world         big = open_world(CACHE, 1);
    demo_case    *c = demo_case_open(big.d, "pneumonia", "val", 3);
    reader_scores want = score(&big, &c->q);
    reader_cache_stats s;
    reader_cache(big.r, &s);
    assert_int_equal(s.entries, DEMO_K);
    const size_t limits[] = {0, s.bytes / DEMO_K / 2, s.bytes / DEMO_K + s.bytes / DEMO_K / 2, s.bytes - 1, s.bytes};
    for (int i = 0; i < 5; i++) {
        world        small = open_world(limits[i], 1);
        reader_query q = c->q;
        q.load_ctx = small.d;
        for (int round = 0; round < 2; round++) {
            reader_scores y = score(&small, &q);
            same_bits(&y, &want, DEMO_K * q.A);
            reader_cache(small.r, &s);
            assert_true(s.bytes <= limits[i]);
        }
        /* They are looked for together: what had room the first time is found the second. */
        const int kept[] = {0, 0, 1, DEMO_K - 1, DEMO_K};
        assert_int_equal(s.hits, kept[i]);
        close_world(&small);
    }
    demo_case_close(c);
    close_world(&big);
}

/* The picture of a passage is asked for, and its vision tokens made, only when its prefix is not cached. */
static void pictures_are_loaded_once_per_prefix(void **state)
{
    (void)state;
    world      w = open_world(CACHE, 1);
    demo_case *c = demo_case_open(w.d, "breast", "val", 0);
    reader_scores cold = score(&w, &c->q);
    assert_int_equal(w.d->loads, DEMO_K);
    reader_scores warm = score(&w, &c->q);
    assert_int_equal(w.d->loads, DEMO_K);
    assert_true(warm.flops < cold.flops / 2);
    demo_case_close(c);
    close_world(&w);
}

/* The demonstration reader's cost by hand, from its sizes: fixtures/README.md. */
static uint64_t by_hand(int n_prefix, int n_query, const int *depth, int n_tree, int K)
{
    const uint64_t P = 64, E = 128, D = 192, KV = 64, F = 512, L = 5, V = 1472;
    uint64_t vision = 2 * P * 1176 * E + 4 * (2 * P * 12 * E * E + 4 * P * P * E) + 2 * 16 * (512 * 512 + 512 * D);
    uint64_t keys = 2 * 2 * D * KV, rest = 2 * (2 * D * D + 3 * D * F);
    uint64_t n = (uint64_t)n_prefix, T = (uint64_t)n_query, rows = 1 + (uint64_t)n_tree;
    uint64_t before = n * L * keys + n * (L - 1) * rest + (L - 1) * 4 * D * (n * (n + 1) / 2);
    uint64_t tree_keys = 0, query_keys = T * n + T * (T + 1) / 2;
    for (int i = 0; i < n_tree; i++) tree_keys += n + T + (uint64_t)depth[i];
    uint64_t query = (T + (uint64_t)n_tree) * (L * keys + (L - 1) * rest) + rows * rest
                   + 4 * D * ((L - 1) * (query_keys + tree_keys) + n + T + tree_keys) + 2 * rows * V * D;
    return vision + (uint64_t)K * (vision + before + query);
}

static void the_work_is_the_minimum(void **state)
{
    (void)state;
    static const char *const task[] = {"breast", "retina"}; /* "Yes", "No": two tokens each; digits: one */
    for (int i = 0; i < 2; i++) {
        err        e = {0};
        world      w = open_world(CACHE, 1);
        demo_case *c = demo_case_open(w.d, task[i], "test", 7);
        uint64_t   least = reader_minimum_flops(w.r, &c->q, w.a, &e);
        OK(least > 0, e);
        reader_scores cold = score(&w, &c->q);
        assert_true(cold.flops <= least + least * 3 / 100);
        assert_int_equal(cold.flops, least);

        reader_query one = c->q;
        one.K = 1;
        picture pic;
        prompt  pair, ask;
        image   img;
        OK(demo_load(w.d, c->z[0].id, &img, w.a, &e), e);
        OK(w.r->f->prepare(w.r->m, &pic, &img, IMAGE_NATIVE, w.a, &e), e);
        OK(w.r->f->prefix(w.r->m, c->z[0].caption, &pic, &pair, w.a, &e), e);
        OK(w.r->f->query(w.r->m, c->q.question, &pic, &ask, w.a, &e), e);
        assert_int_equal(reader_minimum_flops(w.r, &one, w.a, &e),
                         by_hand(pair.n_ids, ask.n_ids, (int[]){1, 1}, i ? 0 : 2, 1));
        demo_case_close(c);
        close_world(&w);
    }
}

/* "1" begins "12": without an end after each, the longer could never win. */
static void end_token_is_scored_when_one_answer_begins_another(void **state)
{
    (void)state;
    world        w = open_world(CACHE, 1);
    demo_case   *c = demo_case_open(w.d, "retina", "val", 2);
    reader_query both = c->q, alone = c->q;
    both.answers = (const char *const[]){"1", "12", "2"};
    both.A = 3;
    both.K = alone.K = 1;
    reader_scores y = score(&w, &both);
    assert_true(y.end_token);
    assert_int_equal(y.answer_tokens[0], 1);
    assert_int_equal(y.answer_tokens[1], 2);
    for (int i = 0; i < 3; i++) {
        alone.answers = &both.answers[i];
        alone.A = 1;
        reader_scores x = score(&w, &alone);
        assert_false(x.end_token);
        assert_true(y.logp[i] < x.logp[0]);                        /* one factor more */
        assert_float_equal(y.logit[i], x.logit[0], 1e-4);          /* the answer's own tokens only */
    }
    demo_case_close(c);
    close_world(&w);
}

/* Each token given the ones before it: the chain of an answer, token by token, is the sum of single steps. */
static void a_long_answer_is_the_product_of_its_tokens(void **state)
{
    (void)state;
    world        w = open_world(CACHE, 1);
    demo_case   *c = demo_case_open(w.d, "breast", "val", 4);
    reader_query q = c->q;
    q.answers = (const char *const[]){"No finding of cancer", "No", "Nothing", "Yes, cancer"};
    q.A = 4;
    q.K = 2;
    reader_scores y = score(&w, &q);
    for (int i = 0; i < 4; i++) {
        reader_query alone = q;
        alone.answers = &q.answers[i];
        alone.A = 1;
        reader_scores x = score(&w, &alone);
        for (int k = 0; k < 2; k++) {
            assert_float_equal(y.logit[k * 4 + i], x.logit[k], 1e-4);
            if (!y.end_token) assert_float_equal(y.logp[k * 4 + i], x.logp[k], 1e-4);
            else assert_true(y.logp[k * 4 + i] < x.logp[k]);
        }
    }
    demo_case_close(c);
    close_world(&w);
}

/* qwen-vl-utils, JOMED's step and the processor, in that order; prefixes of the two policies do not mix in the
 * cache. */
static void a_policy_has_its_own_pixels_and_prefixes(void **state)
{
    (void)state;
    err        e = {0};
    world      w = open_world(CACHE, 1), fresh = open_world(0, 1);
    demo_case *c = demo_case_open(w.d, "breast", "test", 3);
    enum { W = 700, H = 300 };
    image      img = {.width = W, .height = H, .rgb = arena_take(w.a, W * H * 3, &e)}, first, small;
    for (int i = 0; i < W * H * 3; i++) img.rgb[i] = (uint8_t)(i * 7 + (i >> 9) * 31);
    picture              got;
    pixel_plan           want;
    qwen2vl_image_config q;
    OK(qwen2vl_image_config_open(&q, DEMO("reader"), &e), e);
    OK(qwen_vl_utils_image(&first, &img, w.a, &e) && jomed_256(&small, &first, w.a, &e), e);
    assert_true(first.width == 700 && first.height == 308 && small.width == 256 && small.height == 112);
    OK(qwen2vl_plan(&want, &small, &q, w.a, &e), e);
    OK(w.r->f->prepare(w.r->m, &got, &img, IMAGE_JOMED_256, w.a, &e), e);
    const float *px = pixels_of(w.k, &want, w.a);
    assert_memory_equal(pixels_of(w.k, &got.plan, w.a), px, n_pixels(&want) * sizeof *px);
    OK(w.r->f->prepare(w.r->m, &got, &img, IMAGE_NATIVE, w.a, &e), e);
    assert_true(memcmp(pixels_of(w.k, &got.plan, w.a), px, n_pixels(&want) * sizeof *px) != 0);

    reader_query jomed = c->q, alone = c->q;
    jomed.policy = alone.policy = IMAGE_JOMED_256;
    alone.load_ctx = fresh.d;
    reader_scores native = score(&w, &c->q), other = score(&w, &jomed), again = score(&w, &c->q),
                  apart = score(&fresh, &alone);
    assert_int_equal(other.n_cached, 0);
    assert_int_equal(again.n_cached, DEMO_K);
    same_bits(&again, &native, DEMO_K * c->q.A);
    same_bits(&other, &apart, DEMO_K * c->q.A);
    assert_true(memcmp(other.logp, native.logp, sizeof(float)) != 0);
    demo_case_close(c);
    close_world(&w);
    close_world(&fresh);
}

static bool stop_at(void *ctx, err *e)
{
    int *left = ctx;
    return (*left)-- > 0 || err_set(e, ERR_DEADLINE, "out of time");
}

static void what_cannot_be_scored_is_an_error_that_names_the_field(void **state)
{
    (void)state;
    world         w = open_world(CACHE, 1);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 1);
    reader_query  q = c->q;
    reader_scores y;
    err           e;

    enum { LONG = 60000 };
    char *text = malloc(2 * LONG + 1);
    for (int i = 0; i < LONG; i++) memcpy(text + 2 * i, "7 ", 2);
    text[2 * LONG] = 0;
    q.question = text;
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_UNUSABLE, "at most 32768");
    assert_string_equal(e.field, "question");
    assert_int_equal(w.d->loads, 0); /* seen before anything is computed */
    q = c->q;
    reader_passage z = {c->z[0].id, text};
    q.z = &z;
    q.K = 1;
    char passage[64];
    snprintf(passage, sizeof passage, "caption of retrieved passage %d make", (int)z.id);
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_UNUSABLE, passage);
    assert_non_null(strstr(e.text, "at most 32768: a smaller k"));
    assert_string_equal(e.problem, "prompt-too-long");
    assert_string_equal(e.field, "k");
    free(text);

    q = c->q;
    q.answers = (const char *const[]){"Yes", ""};
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_UNUSABLE, "answer 2 of 2");
    assert_string_equal(e.field, "answers");
    q.answers = (const char *const[]){"Yes", "\xff"};
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_UNUSABLE, "");
    assert_string_equal(e.field, "answers");

    q = c->q;
    w.d->loads = 0;
    w.d->fail_load = 2;
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_FILE, "passage picture is gone");
    w.d->fail_load = -1;
    reader_scores after = score(&w, &c->q); /* still serves */
    differs_at_most("logp", after.logp, c->logp, DEMO_K * c->q.A, 2e-3);
    demo_case_close(c);
    close_world(&w);
}

/* Asked before every picture and every pass; wherever it says no, what was finished is kept and the next
 * request is served. */
static void a_deadline_is_asked_for_before_each_step(void **state)
{
    (void)state;
    world         w = open_world(CACHE, 1);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 1);
    reader_query  q = c->q;
    reader_scores want = score(&w, &c->q), y;
    int           n = 0;
    q.go_on = stop_at;
    for (;; n++) {
        err e = {0};
        int left = n;
        reader_cache_clear(w.r);
        q.go_on_ctx = &left;
        if (reader_score(w.r, w.k, &q, w.a, &y, &e)) break;
        assert_int_equal(e.code, ERR_DEADLINE);
        assert_int_equal(left, -1);
    }
    assert_true(n > DEMO_K);
    same_bits(&y, &want, DEMO_K * q.A);

    err e = {0};
    int left = n - 1; /* the last question, before the query parts: prefixes are done by then */
    reader_cache_clear(w.r);
    q.go_on_ctx = &left;
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_DEADLINE, "out of time");
    reader_scores after = score(&w, &c->q);
    assert_int_equal(after.n_cached, DEMO_K);
    same_bits(&after, &want, DEMO_K * q.A);
    demo_case_close(c);
    close_world(&w);
}

/* One by one, a few at a time, all at once; nothing, some or all of them cached; 1 to 50 candidates. */
static void packed_passes_change_no_bit(void **state)
{
    (void)state;
    enum { MOST = 50 };
    static const int count[] = {1, 2, 3, 7, MOST}, width[] = {1, 100, 333, 1 << 20};
    reader_passage z[MOST];
    world          one = open_world(0, 1), w = open_world(CACHE, 2);
    demo_case     *c = demo_case_open(w.d, "retina", "test", 4);
    reader_query   q = c->q;
    for (int i = 0; i < MOST; i++) {
        int64_t id = i * 14 + 3;
        z[i] = (reader_passage){id, json_string_value(json_object_get(w.d->line[id], "text"))};
    }
    q.z = z;
    q.K = MOST;
    one.k->pass_tokens = 1;
    reader_query alone = q;
    alone.load_ctx = one.d;
    reader_scores want = score(&one, &alone);
    for (size_t i = 0; i < sizeof count / sizeof *count; i++)
        for (size_t j = 0; j < sizeof width / sizeof *width; j++) {
            if (count[i] == MOST && j < 2) continue; /* the many in few passes only: sanitizers take their time */
            w.k->pass_tokens = width[j];
            q.K = count[i];
            reader_cache_clear(w.r);
            for (int round = 0; round < 2; round++) {
                reader_scores y = score(&w, &q);
                same_bits(&y, &want, q.K * q.A);
                assert_int_equal(y.n_cached, round ? q.K : 0);
            }
            if (q.K < 3) continue;
            reader_cache_clear(w.r);
            reader_query some = q; /* of every mixture of cached and computed: what is between these two is not
                                      cached */
            some.K = 1;
            score(&w, &some);
            some.z = &z[q.K - 1];
            score(&w, &some);
            reader_scores y = score(&w, &q);
            same_bits(&y, &want, q.K * q.A);
            assert_int_equal(y.n_cached, 2);
        }
    demo_case_close(c);
    close_world(&w);
    close_world(&one);
}

/* Three requests and a repeated one, read together: each has the bits it has alone, a prefix that two need is
 * computed once, and the parts add up to what the device counted. */
static void requests_read_together_have_their_bits(void **state)
{
    (void)state;
    enum { N = 4 };
    static const int width[] = {1, 150, 1 << 20};
    world        w = open_world(CACHE, 1);
    demo_case   *c[N] = {demo_case_open(w.d, "retina", "test", 4), demo_case_open(w.d, "breast", "test", 4),
                         demo_case_open(w.d, "pneumonia", "val", 9), demo_case_open(w.d, "breast", "test", 4)};
    reader_scores want[N], y[N];
    reader_job    job[N];
    err           e = {0}, why[N];
    for (int i = 0; i < N; i++) {
        reader_cache_clear(w.r);
        want[i] = score(&w, &c[i]->q);
        job[i] = (reader_job){&c[i]->q, w.a, &y[i], &why[i]};
    }
    for (size_t j = 0; j < sizeof width / sizeof *width; j++)
        for (int warm = 0; warm < 2; warm++) {
            w.k->pass_tokens = width[j];
            if (!warm) reader_cache_clear(w.r);
            uint64_t before = w.k->flops, parts = 0;
            OK(reader_score_many(w.r, w.k, job, N, &e), e);
            for (int i = 0; i < N; i++) {
                OK(why[i].code == ERR_NONE, why[i]);
                same_bits(&y[i], &want[i], DEMO_K * c[i]->q.A);
                assert_int_equal(y[i].prompt_tokens, want[i].prompt_tokens);
                if (warm) assert_int_equal(y[i].n_cached, DEMO_K);
                parts += y[i].flops;
            }
            assert_int_equal(parts, w.k->flops - before);
            if (!warm) assert_int_equal(y[0].flops, want[0].flops);
        }
    for (int i = 0; i < N; i++) demo_case_close(c[i]);
    close_world(&w);
}

/* What is wrong with one is not its neighbours' concern. */
static void a_request_that_fails_does_not_fail_its_neighbours(void **state)
{
    (void)state;
    enum { N = 5 };
    world         w = open_world(CACHE, 1);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 2);
    reader_scores want = score(&w, &c->q), y[N];
    reader_query  q[N];
    reader_job    job[N];
    err           e = {0}, why[N];
    int           left = 3;
    for (int i = 0; i < N; i++) {
        q[i] = c->q;
        job[i] = (reader_job){&q[i], w.a, &y[i], &why[i]};
    }
    reader_passage gone[DEMO_K] = {
        c->z[0], {c->z[1].id, "another caption, so that its picture is asked for"}, c->z[2], c->z[3]};
    q[1].answers = (const char *const[]){"Yes", ""};
    q[2].z = gone;
    q[3].go_on = stop_at;
    q[3].go_on_ctx = &left;
    w.d->loads = 0;
    w.d->fail_load = 0; /* all else is cached */
    OK(reader_score_many(w.r, w.k, job, N, &e), e);
    assert_int_equal(why[1].code, ERR_UNUSABLE);
    assert_string_equal(why[1].field, "answers");
    assert_int_equal(why[2].code, ERR_FILE);
    assert_non_null(strstr(why[2].text, "passage picture is gone"));
    assert_int_equal(why[3].code, ERR_DEADLINE);
    OK(why[0].code == ERR_NONE, why[0]);
    OK(why[4].code == ERR_NONE, why[4]);
    same_bits(&y[0], &want, DEMO_K * c->q.A);
    same_bits(&y[4], &want, DEMO_K * c->q.A);

    kernels_fail(w.k, ERR_GPU, "the device is gone");
    OK(reader_score_many(w.r, w.k, job, N, &e), e);
    assert_int_equal(why[0].code, ERR_GPU);
    assert_int_equal(why[4].code, ERR_GPU);
    demo_case_close(c);
    close_world(&w);
}

/* The n-th allocation fails, n = 0, 1, 2, ...: an error, or (where only the cache went without) the same bits. */
static void every_failed_allocation_is_an_error_or_harmless(void **state)
{
    (void)state;
    world         w = open_world(CACHE, 1);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 6);
    reader_query  q = c->q;
    err           none = {0};
    /* the weights of its resize are larger than an arena's block */
    image         wide = {.width = 9000, .height = 200, .rgb = arena_take(w.a, 9000 * 200 * 3, &none)};
    assert_non_null(wide.rgb);
    q.img = &wide;
    q.K = 2;
    reader_scores want = score(&w, &q);
    int errors = 0, uncached = 0;
    for (long n = 0;; n++) {
        err           e = {0};
        reader_scores y;
        arena        *fresh = arena_new(0);
        reader_cache_clear(w.r);
        mem_fail_after(n);
        bool ok = reader_score(w.r, w.k, &q, fresh, &y, &e);
        bool reached = mem_fail_after(-1) > n;
        if (!ok) {
            if (e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
            errors++;
        } else same_bits(&y, &want, 2 * q.A);
        reader_cache_stats s;
        reader_cache(w.r, &s);
        uncached += ok && s.entries < 2;
        arena_free(fresh);
        if (!reached) { assert_true(ok); break; }
    }
    assert_true(errors > 0);
    assert_true(uncached > 0);
    reader_scores after = score(&w, &q);
    same_bits(&after, &want, 2 * q.A);
    demo_case_close(c);
    close_world(&w);
}

/* A prompt that scratch cannot hold is one failed request, not a worker that is gone. */
static void scratch_that_ran_out_serves_the_next_request(void **state)
{
    (void)state;
    err             e = {0};
    world           w = {.d = demo_open(), .a = arena_new(0)};
    kernels_options o = {.device = "cpu", .products = PRECISION_F32, .threads = 1, .scratch_bytes = 8 << 20};
    OK(kernels_open(&w.k, &o, &e), e);
    w.r = open_reader(DEMO("reader"), CACHE, w.k);
    demo_case    *c = demo_case_open(w.d, "breast", "val", 8);
    reader_query  q = c->q;
    reader_scores y;
    char          text[6001];
    for (int i = 0; i < 3000; i++) memcpy(text + 2 * i, "7 ", 3);
    q.question = text;
    FAILS(reader_score(w.r, w.k, &q, w.a, &y, &e), e, ERR_MEMORY, "");
    reader_scores after = score(&w, &c->q);
    differs_at_most("logp", after.logp, c->logp, DEMO_K * c->q.A, 2e-3);
    demo_case_close(c);
    close_world(&w);
}

typedef struct {
    reader *r;
    kernels *k;
    const demo_case *c;
    demo *d;
    const reader_scores *want;
    const char *wrong;
} job;

static void *work(void *arg)
{
    job   *j = arg;
    arena *a = arena_new(0);
    for (int i = 0; i < 6 && !j->wrong; i++) {
        err           e = {0};
        reader_scores y;
        reader_query  q = j->c->q;
        q.load_ctx = j->d;
        if (!reader_score(j->r, j->k, &q, a, &y, &e)) j->wrong = "failed";
        else if (memcmp(y.logp, j->want->logp, (size_t)(DEMO_K * q.A) * sizeof(float)) != 0) j->wrong = "other bits";
        arena_reset(a);
        if (i % 2) reader_cache_clear(j->r);
    }
    arena_free(a);
    return NULL;
}

static void two_workers_share_a_reader(void **state)
{
    (void)state;
    world         w = open_world(400 << 10, 1); /* two prefixes: workers evict each other's */
    demo_case    *c = demo_case_open(w.d, "breast", "test", 9);
    reader_scores want = score(&w, &c->q);
    pthread_t     t[2];
    job           j[2];
    for (int i = 0; i < 2; i++) j[i] = (job){w.r, open_cpu(PRECISION_F32, 1), c, demo_open(), &want, NULL};
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, work, &j[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
        if (j[i].wrong) fail_msg("worker %d: %s", i, j[i].wrong);
    }
    reader_cache_clear(w.r);
    reader_cache_stats s;
    reader_cache(w.r, &s);
    assert_int_equal(s.bytes, 0);
    for (int i = 0; i < 2; i++) {
        j[i].k->close(j[i].k);
        demo_close(j[i].d);
    }
    demo_case_close(c);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(likelihoods_are_those_of_pytorch),
        cmocka_unit_test(a_case_has_the_same_bits_in_any_company),
        cmocka_unit_test(a_cache_that_is_too_small_changes_no_bit),
        cmocka_unit_test(pictures_are_loaded_once_per_prefix),
        cmocka_unit_test(the_work_is_the_minimum),
        cmocka_unit_test(end_token_is_scored_when_one_answer_begins_another),
        cmocka_unit_test(a_long_answer_is_the_product_of_its_tokens),
        cmocka_unit_test(a_policy_has_its_own_pixels_and_prefixes),
        cmocka_unit_test(what_cannot_be_scored_is_an_error_that_names_the_field),
        cmocka_unit_test(a_deadline_is_asked_for_before_each_step),
        cmocka_unit_test(packed_passes_change_no_bit),
        cmocka_unit_test(requests_read_together_have_their_bits),
        cmocka_unit_test(a_request_that_fails_does_not_fail_its_neighbours),
        cmocka_unit_test(every_failed_allocation_is_an_error_or_harmless),
        cmocka_unit_test(scratch_that_ran_out_serves_the_next_request),
        cmocka_unit_test(two_workers_share_a_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
