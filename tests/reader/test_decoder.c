/* The decoder's promises beyond the goldens: a row's bits do not depend on how its prompt was cut into passes, on what
 * follows it, or on which rows of the last layer were asked for. */
#include "tests/reader/golden.h"

enum { D = 128, LONG = 700 }; /* longer than one block of the feed-forward */

typedef struct { kernels *k; reader *r; const decoder *d; arena *a; int32_t ids[LONG], pos[3 * LONG]; } world;

static world *open_world(int threads, size_t scratch)
{
    err             e = {0};
    world          *w = calloc(1, sizeof *w);
    kernels_options o = {.device = "cpu", .products = PRECISION_F32, .threads = threads, .scratch_bytes = scratch};
    assert_non_null(w);
    OK(kernels_open(&w->k, &o, &e), e);
    w->r = open_reader(FIXTURE("qwen2vl-tiny"), 0, w->k);
    w->d = w->r->m->text;
    w->a = arena_new(0);
    for (int i = 0; i < LONG; i++) w->ids[i] = (i * 7919 + i / 3) % 600;
    return w;
}

static void close_world(world *w)
{
    arena_free(w->a);
    reader_close(w->r);
    w->k->close(w->k);
    free(w);
}

static kv new_kv(world *w, int n) { return (kv){w->k->take(w->k, decoder_kv_len(w->d, n)), n, 0}; }

/* Tokens [from, from + T) of the long text on top of what own and before hold; the last layer's rows from want on. */
static float *run(world *w, int from, int T, int want, const kv *before, kv *own)
{
    err      e = {0};
    prompt   p = {.ids = w->ids + from, .n_ids = T};
    int32_t *pos = ARENA_NEW(w->a, int32_t, 3 * T, &e);
    float   *out = ARENA_NEW(w->a, float, (size_t)T * D, &e);
    act     *x = w->k->take(w->k, (size_t)T * D);
    assert_non_null(out);
    for (int i = 0; i < 3 * T; i++) pos[i] = from + i % T;
    decoder_embed(w->d, w->k, &p, NULL, x);
    decoder_pass pass = {.prefix = before, .own = own, .pos = pos, .x = x, .T = T, .want = want};
    OK(decoder_forward(w->d, w->k, &pass, w->a, &e), e);
    w->k->get(w->k, out, x, (size_t)T * D);
    OK(w->k->sync(w->k, &e), e);
    return out;
}

static void rows_do_not_depend_on_what_follows(void **state)
{
    (void)state;
    world *w = open_world(1, 0);
    kv     whole = new_kv(w, LONG);
    float *want = run(w, 0, LONG, 0, NULL, &whole);
    const int lengths[] = {1, 2, 63, 511, 512, 513};
    for (int i = 0; i < 6; i++) {
        kv     part = new_kv(w, lengths[i]);
        float *got = run(w, 0, lengths[i], 0, NULL, &part);
        assert_memory_equal(got, want, (size_t)lengths[i] * D * sizeof(float));
    }
    close_world(w);
}

static void rows_do_not_depend_on_the_passes_they_came_in(void **state)
{
    (void)state;
    enum { T = 40 };
    world *w = open_world(1, 0);
    kv     whole = new_kv(w, T), single = new_kv(w, T), blocks = new_kv(w, T);
    float *want = run(w, 0, T, 0, NULL, &whole);
    for (int t = 0; t < T; t++) { /* as decoding does */
        float *got = run(w, t, 1, 0, NULL, &single);
        assert_memory_equal(got, want + (size_t)t * D, D * sizeof(float));
    }
    for (int t = 0, n = 1; t < T; t += n, n = n % 7 + 3) { /* 1, 4, 7, 3, 6, ... */
        if (t + n > T) n = T - t;
        float *got = run(w, t, n, 0, NULL, &blocks);
        assert_memory_equal(got, want + (size_t)t * D, (size_t)n * D * sizeof(float));
    }
    assert_int_equal(single.n, T);
    close_world(w);
}

static void rows_of_the_last_layer_are_the_same_when_fewer_are_asked_for(void **state)
{
    (void)state;
    enum { T = 33 };
    world *w = open_world(2, 0);
    kv     all = new_kv(w, T);
    float *want = run(w, 0, T, 0, NULL, &all);
    const int from[] = {1, 16, T - 1, T};
    for (int i = 0; i < 4; i++) {
        kv     some = new_kv(w, T);
        float *got = run(w, 0, T, from[i], NULL, &some);
        size_t n = (size_t)(T - from[i]) * D;
        if (n) assert_memory_equal(got + (size_t)from[i] * D, want + (size_t)from[i] * D, n * sizeof(float));
        float *x = ARENA_NEW(w->a, float, 2 * decoder_kv_len(w->d, T), &(err){0}), *y = x + decoder_kv_len(w->d, T);
        w->k->get(w->k, x, all.data, decoder_kv_len(w->d, T));
        w->k->get(w->k, y, some.data, decoder_kv_len(w->d, T));
        assert_memory_equal(y, x, decoder_kv_len(w->d, T) * sizeof(float)); /* keys and values of every layer */
    }
    close_world(w);
}

/* A prefix lies elsewhere in memory, and its length need not be a multiple of anything. */
static void a_cached_prefix_is_as_good_as_own_keys(void **state)
{
    (void)state;
    enum { T = 90 };
    world *w = open_world(1, 0);
    kv     whole = new_kv(w, T);
    float *want = run(w, 0, T, 0, NULL, &whole);
    const int cuts[] = {1, 15, 16, 17, 64, 89};
    for (int i = 0; i < 6; i++) {
        kv before = new_kv(w, cuts[i]), own = new_kv(w, T - cuts[i] + 5); /* capacity is not what is used */
        run(w, 0, cuts[i], cuts[i], NULL, &before);
        float *got = run(w, cuts[i], T - cuts[i], 0, &before, &own);
        CLOSE(got, want + (size_t)cuts[i] * D, (size_t)(T - cuts[i]) * D, 1e-5, "rows behind a cached prefix");
    }
    close_world(w);
}

static void keys_that_do_not_fit_are_our_mistake(void **state)
{
    (void)state;
    world       *w = open_world(1, 0);
    err          e;
    kv           own = new_kv(w, 2);
    int32_t      pos[9] = {0};
    act         *x = w->k->take(w->k, 3 * D);
    decoder_pass pass = {.own = &own, .pos = pos, .x = x, .T = 3};
    FAILS(decoder_forward(w->d, w->k, &pass, w->a, &e), e, ERR_BUG, "do not fit");
    pass.T = 0;
    e = (err){0};
    OK(decoder_forward(w->d, w->k, &pass, w->a, &e), e);
    arena *small = arena_new(16);
    pass.T = 2;
    FAILS(decoder_forward(w->d, w->k, &pass, small, &e), e, ERR_MEMORY, "");
    arena_free(small);
    close_world(w);
}

/* Scratch that is too small shows at sync, after operations that did nothing; nothing is written past it. */
static void scratch_that_runs_out_is_reported_at_sync(void **state)
{
    (void)state;
    world   *w = open_world(1, 1 << 16);
    err      e = {0};
    prompt   p = {.ids = w->ids, .n_ids = LONG};
    kv       own = new_kv(w, LONG);
    act     *x = w->k->take(w->k, (size_t)LONG * D);
    decoder_embed(w->d, w->k, &p, NULL, x);
    decoder_pass pass = {.own = &own, .pos = w->pos, .x = x, .T = LONG};
    OK(decoder_forward(w->d, w->k, &pass, w->a, &e), e);
    FAILS(w->k->sync(w->k, &e), e, ERR_MEMORY, "");
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_do_not_depend_on_what_follows),
        cmocka_unit_test(rows_do_not_depend_on_the_passes_they_came_in),
        cmocka_unit_test(rows_of_the_last_layer_are_the_same_when_fewer_are_asked_for),
        cmocka_unit_test(a_cached_prefix_is_as_good_as_own_keys),
        cmocka_unit_test(keys_that_do_not_fit_are_our_mistake),
        cmocka_unit_test(scratch_that_runs_out_is_reported_at_sync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
