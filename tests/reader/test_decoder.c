/* The decoder's promises beyond the goldens: a row's bits do not depend on how its prompt was cut into passes,
 * on what follows it, or on which rows of the last layer were asked for. */
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

/* Sequences of a packed pass: tokens [from, from + T) of the long text behind a prefix of `before` others; the
 * last n_tree are a chain or siblings. */
typedef struct { int from, T, want, before, n_tree; bool chain; } sequence;
enum { N_SEQ = 6 };
static const sequence SEQUENCES[N_SEQ] = {{0, 40, 39, 0, 0, false},   {50, 1, 0, 17, 0, false},
                                          {100, 33, 29, 64, 3, true}, {150, 513, 513, 0, 0, false},
                                          {5, 16, 0, 3, 5, false},    {300, 70, 69, 130, 0, false}};

/* The pass of s on its own keys; x is where its embeddings go. */
static decoder_pass make_pass(world *w, const sequence *s, const kv *before, kv *own, act *x)
{
    err      e = {0};
    int32_t *pos = ARENA_NEW(w->a, int32_t, 3 * s->T, &e);
    uint8_t *visible = ARENA_NEW(w->a, uint8_t, s->n_tree * s->n_tree + 1, &e);
    assert_non_null(visible);
    for (int i = 0; i < 3 * s->T; i++) pos[i] = s->before + i % s->T + (i >= s->T) * (i % 5); /* axes that differ */
    for (int i = 0; i < s->n_tree; i++)
        for (int j = 0; j < s->n_tree; j++) visible[i * s->n_tree + j] = i == j || (s->chain && j < i);
    prompt p = {.ids = w->ids + s->from, .n_ids = s->T};
    decoder_embed(w->d, w->k, &p, NULL, x);
    return (decoder_pass){.prefix = s->before ? before : NULL,
                          .own = own,
                          .pos = pos,
                          .x = x,
                          .T = s->T,
                          .want = s->want,
                          .n_tree = s->n_tree,
                          .visible = visible};
}

/* Keys and values of every layer, rows [0, n). */
static float *keys_of(world *w, const kv *c, int n)
{
    err    e = {0};
    int    planes = 2 * decoder_sizes(w->d)->L;
    size_t row = decoder_kv_len(w->d, 1) / (size_t)planes;
    float *out = ARENA_NEW(w->a, float, decoder_kv_len(w->d, n), &e);
    assert_non_null(out);
    for (int i = 0; i < planes; i++)
        w->k->get(w->k, out + (size_t)i * (size_t)n * row,
                  act_at(w->k, c->data, (size_t)i * (size_t)c->capacity * row), (size_t)n * row);
    return out;
}

/* Alone and packed, keys in line or each in memory of its own: rows that are wanted, and keys and values. */
static void a_packed_sequence_has_the_bits_of_a_pass_alone(void **state)
{
    (void)state;
    for (int in_line = 0; in_line < 2; in_line++)
        for (int threads = 1; threads <= 2; threads++) {
            err          e = {0};
            world       *w = open_world(threads, 0);
            kv           before[N_SEQ], alone[N_SEQ], packed[N_SEQ], whole;
            float       *want[N_SEQ];
            decoder_pass pass[N_SEQ];
            int          T = 0, rows = 0;
            for (int i = 0; i < N_SEQ; i++) {
                const sequence *s = &SEQUENCES[i];
                before[i] = new_kv(w, s->before + 1);
                if (s->before) run(w, 500, s->before, s->before, NULL, &before[i]);
                alone[i] = new_kv(w, s->T);
                act         *x = w->k->take(w->k, (size_t)s->T * D);
                decoder_pass one = make_pass(w, s, &before[i], &alone[i], x);
                OK(decoder_forward(w->d, w->k, &one, w->a, &e), e);
                want[i] = ARENA_NEW(w->a, float, (size_t)(s->T - s->want) * D + 1, &e);
                w->k->get(w->k, want[i], act_at(w->k, x, (size_t)s->want * D), (size_t)(s->T - s->want) * D);
                T += s->T;
                rows += s->T - s->want;
            }
            uint64_t flops = w->k->flops;
            act     *x = w->k->take(w->k, (size_t)T * D), *out = w->k->take(w->k, (size_t)rows * D);
            whole = new_kv(w, T);
            for (int i = 0, t = 0; i < N_SEQ; t += SEQUENCES[i++].T) {
                packed[i] = in_line ? decoder_kv_from(w->d, w->k, &whole, t) : new_kv(w, SEQUENCES[i].T + i);
                pass[i] = make_pass(w, &SEQUENCES[i], &before[i], &packed[i], act_at(w->k, x, (size_t)t * D));
            }
            OK(decoder_forward_packed(w->d, w->k, pass, N_SEQ, out, w->a, &e), e);
            OK(w->k->sync(w->k, &e), e);
            uint64_t together = w->k->flops - flops;
            for (int i = 0, r = 0; i < N_SEQ; r += SEQUENCES[i].T - SEQUENCES[i].want, i++) {
                size_t n = (size_t)(SEQUENCES[i].T - SEQUENCES[i].want) * D,
                       len = decoder_kv_len(w->d, SEQUENCES[i].T);
                float *got = ARENA_NEW(w->a, float, n + 1, &e);
                w->k->get(w->k, got, act_at(w->k, out, (size_t)r * D), n);
                assert_memory_equal(got, want[i], n * sizeof(float));
                assert_memory_equal(keys_of(w, &packed[i], SEQUENCES[i].T), keys_of(w, &alone[i], SEQUENCES[i].T),
                                    len * sizeof(float));
                assert_int_equal(packed[i].n, SEQUENCES[i].T);
            }
            w->k->flops = 0;
            for (int i = 0; i < N_SEQ; i++) {
                alone[i].n = 0;
                decoder_pass one = make_pass(w, &SEQUENCES[i], &before[i], &alone[i], act_at(w->k, x, 0));
                OK(decoder_forward(w->d, w->k, &one, w->a, &e), e);
            }
            assert_int_equal(together, w->k->flops); /* of one by one */
            close_world(w);
        }
}

/* Decoding several branches: a row each, behind keys that grow apart from each other's. */
static void steps_of_branches_can_be_packed(void **state)
{
    (void)state;
    enum { BRANCHES = 5, STEPS = 4 };
    err    e = {0};
    world *w = open_world(1, 0);
    kv     own[BRANCHES], single[BRANCHES];
    act   *x = w->k->take(w->k, BRANCHES * D), *out = w->k->take(w->k, BRANCHES * D);
    float  got[BRANCHES * D];
    for (int i = 0; i < BRANCHES; i++) {
        own[i] = new_kv(w, 10 * i + STEPS + 1);
        single[i] = new_kv(w, 10 * i + STEPS + 1);
        run(w, 7 * i, 10 * i + 1, 0, NULL, &own[i]);
        run(w, 7 * i, 10 * i + 1, 0, NULL, &single[i]);
    }
    for (int step = 0; step < STEPS; step++) {
        decoder_pass pass[BRANCHES];
        for (int i = 0; i < BRANCHES; i++) {
            const sequence s = {.from = 400 + step, .T = 1, .before = own[i].n};
            /* no prefix: what is before is own */
            pass[i] = make_pass(w, &s, NULL, &own[i], act_at(w->k, x, (size_t)i * D));
        }
        OK(decoder_forward_packed(w->d, w->k, pass, BRANCHES, out, w->a, &e), e);
        w->k->get(w->k, got, out, BRANCHES * D);
        for (int i = 0; i < BRANCHES; i++) {
            const sequence s = {.from = 400 + step, .T = 1, .before = single[i].n};
            decoder_pass   one = make_pass(w, &s, NULL, &single[i], x);
            float          want[D];
            OK(decoder_forward(w->d, w->k, &one, w->a, &e), e);
            w->k->get(w->k, want, x, D);
            assert_memory_equal(got + (size_t)i * D, want, sizeof want);
        }
    }
    OK(w->k->sync(w->k, &e), e);
    close_world(w);
}

static void sequences_that_cannot_be_packed_are_our_mistake(void **state)
{
    (void)state;
    world         *w = open_world(1, 0);
    err            e = {0};
    kv             own[2] = {new_kv(w, 4), new_kv(w, 4)};
    act           *x = w->k->take(w->k, 8 * D);
    const sequence s = {.T = 4, .want = 4};
    for (int wrong = 0; wrong < 2; wrong++) {
        decoder_pass pass[2] = {make_pass(w, &s, NULL, &own[0], x),
                                make_pass(w, &s, NULL, &own[1], act_at(w->k, x, 4 * D))};
        if (wrong == 0) pass[1].x = act_at(w->k, x, 3 * D);
        else pass[1].adapter = 1;
        FAILS(decoder_forward_packed(w->d, w->k, pass, 2, NULL, w->a, &e), e, ERR_BUG, "cannot be packed");
    }
    e = (err){0};
    OK(decoder_forward_packed(w->d, w->k, NULL, 0, NULL, w->a, &e), e);
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
        cmocka_unit_test(a_packed_sequence_has_the_bits_of_a_pass_alone),
        cmocka_unit_test(steps_of_branches_can_be_packed),
        cmocka_unit_test(sequences_that_cannot_be_packed_are_our_mistake),
        cmocka_unit_test(keys_that_do_not_fit_are_our_mistake),
        cmocka_unit_test(scratch_that_runs_out_is_reported_at_sync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
