/* test_open.c - fails when an open request does not come back in words with its evidence, or says that pairs
 * agree which do not. The decoding itself: tests/reader/test_open_answer.c. */
#include "tests/diagnose/demo.h"

#include "base/file.h"
#include "diagnose/json.h"

typedef struct { kernels *k; engine en; arena *a; } world;

static int set_up(void **state)
{
    engine_options o = demo_options();
    world *w = calloc(1, sizeof *w);
    *state = w;
    w->a = arena_new(0);
    demo_engine(&w->en, &w->k, &o);
    return 0;
}

static int tear_down(void **state)
{
    world *w = *state;
    engine_close(&w->en);
    if (w->k) w->k->close(w->k);
    arena_free(w->a);
    free(w);
    return 0;
}

typedef struct { char text[256]; size_t n; } heard;

static bool hear(void *ctx, const char *text, size_t n, err *e)
{
    heard *h = ctx;
    (void)e;
    assert_true(h->n + n < sizeof h->text);
    memcpy(h->text + h->n, text, n);
    h->n += n;
    return true;
}

static answer ask(world *w, const diagnose_request *q, const char *picture)
{
    err              e = {0};
    answer           y;
    char            *bytes;
    diagnose_request full = *q;
    OK(file_read(&bytes, &full.image_bytes, picture, 1 << 20, &e), e);
    full.image = (const uint8_t *)bytes;
    OK(diagnose(&w->en, w->k, &full, w->a, &y, &e), e);
    free(bytes);
    return y;
}

/* What is said of the pairs together is what each of them says. */
static void check_agreement(const answer *y)
{
    float behind = 0;
    bool  all = true;
    for (int k = 0; k < y->K; k++) {
        const evidence *z = &y->z[k];
        assert_true(z->open_logp < 0 && z->open_logp >= -100);
        assert_null(z->prob);
        if (z->agrees) behind += z->c.weight;
        all = all && z->agrees;
    }
    assert_int_equal(y->consistent, all);
    assert_float_equal(y->agreement, behind, 1e-6);
}

/* Digits are one token each, so that the likeliest word is the likeliest answer of the set, if the reader keeps
 * to it. */
static void words_are_the_answer_of_the_set(void **state)
{
    world           *w = *state;
    diagnose_request q = {.question = "what is the severity of diabetic retinopathy?", .k = 2}, closed = q;
    closed.answers = (const char *const[]){"0", "1", "2", "3", "4"};
    closed.n_answers = 5;
    for (int i = 0; i < 60; i += 7) {
        char path[128];
        snprintf(path, sizeof path, DEMO("synthetic/retina/test/%04d.png"), i);
        heard h = {0};
        q.open.on_text = hear;
        q.open.on_text_ctx = &h;
        answer y = ask(w, &q, path), set = ask(w, &closed, path);
        assert_int_equal(y.task, TASK_OPEN);
        assert_int_equal(set.task, TASK_CLOSED);
        assert_string_equal(y.open.text, closed.answers[set.answer]);
        assert_string_equal(h.text, y.open.text);
        assert_int_equal(y.open.n_tokens, 1);
        assert_true(y.open.ended);
        check_agreement(&y);
        assert_int_equal(y.consistent, set.consistent);
        assert_int_equal(y.prompt_tokens, set.prompt_tokens);
        assert_true(y.flops > 0 && y.n_cached <= y.K);
        arena_reset(w->a);
    }
}

static void an_answer_that_was_cut_off_says_so(void **state)
{
    world           *w = *state;
    diagnose_request q = {
        .question = "Does this breast ultrasound image show signs of cancer?", .k = 1, .open.max_new_tokens = 1};
    answer           cut = ask(w, &q, DEMO("synthetic/breast/test/0003.png"));
    assert_int_equal(cut.open.n_tokens, 1);
    assert_false(cut.open.ended);
    q.open.max_new_tokens = 0; /* the default */
    for (q.mode = MODE_PAPER; q.mode <= MODE_REFERENCE; q.mode++) {
        answer whole = ask(w, &q, DEMO("synthetic/breast/test/0003.png"));
        assert_true(whole.open.ended);
        assert_true(strcmp(whole.open.text, "Yes") == 0 || strcmp(whole.open.text, "No") == 0);
        check_agreement(&whole);
    }
}

static void json_has_what_an_open_answer_has(void **state)
{
    world           *w = *state;
    diagnose_request q = {.question = "what is the severity of diabetic retinopathy?", .k = 2, .open.beams = 3};
    answer           y = ask(w, &q, DEMO("synthetic/retina/test/0028.png"));
    json_t          *j = answer_json(&w->en, &q, &y, "id");
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "answer")), y.open.text);
    assert_int_equal(json_integer_value(json_object_get(j, "tokens")), y.open.n_tokens);
    assert_int_equal(json_is_true(json_object_get(j, "ended")), y.open.ended);
    assert_true((float)json_real_value(json_object_get(j, "log_likelihood")) == y.open.logp);
    static const char *const none[] = {"probability", "probabilities", "entropy_nats"};
    for (int i = 0; i < 3; i++) assert_null(json_object_get(j, none[i]));
    const json_t *list = json_object_get(j, "evidence");
    assert_int_equal(json_array_size(list), y.K);
    for (int k = 0; k < y.K; k++) {
        const json_t *z = json_array_get(list, (size_t)k);
        assert_true((float)json_real_value(json_object_get(z, "log_likelihood")) == y.z[k].open_logp);
        assert_int_equal(json_is_true(json_object_get(z, "agrees")), y.z[k].agrees);
        assert_null(json_object_get(z, "answer"));
    }
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_the_answer_of_the_set),
        cmocka_unit_test(an_answer_that_was_cut_off_says_so),
        cmocka_unit_test(json_has_what_an_open_answer_has),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
