/* test_faults.c - fails when an allocation that fails on the request's path crashes, leaks (under ASan), gives
 * a wrong answer, or leaves models, cache or index unusable for the next request. */
#include "tests/diagnose/demo.h"

#include "base/file.h"
#include "base/memory.h"
#include "diagnose/json.h"

/* Under AddressSanitizer a request takes thirty times as long, so there every third allocation fails; as
 * shipped every one does. */
#ifdef __SANITIZE_ADDRESS__
enum { STRIDE = 3 };
#else
enum { STRIDE = 1 };
#endif
enum { A = 2 };
static const char *const ANSWERS[A] = {"Yes", "No"};

typedef struct {
    kernels         *k;
    engine           en;
    char            *image;
    diagnose_request q;
    float            want[A];
} world;

static int set_up(void **state)
{
    err            e = {0};
    engine_options o = demo_options();
    world *w = calloc(1, sizeof *w);
    *state = w;
    demo_engine(&w->en, &w->k, &o);
    OK(file_read(&w->image, &w->q.image_bytes, DEMO("synthetic/breast/test/0000.png"), 1 << 20, &e), e);
    w->q.image = (uint8_t *)w->image;
    w->q.question = "Does this breast ultrasound image show signs of cancer?";
    w->q.answers = ANSWERS;
    w->q.n_answers = A;
    w->q.k = 1; /* two candidates: the path is the same, and it is walked hundreds of times */
    w->q.exclude_self = true;
    return 0;
}

static int tear_down(void **state)
{
    world *w = *state;
    engine_close(&w->en);
    if (w->k) w->k->close(w->k);
    free(w->image);
    free(w);
    return 0;
}

/* A whole request with its response, on fresh memory. The probabilities go to prob; of an open answer its
 * likelihood and length. */
static bool whole_request(world *w, float *prob, err *e)
{
    answer ans;
    bool   ok = false;
    arena *a = arena_new(0);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    if (diagnose(&w->en, w->k, &w->q, a, &ans, e)) {
        json_t *j = answer_json(&w->en, &w->q, &ans, "id");
        char   *s = j ? json_dumps(j, JSON_COMPACT) : NULL;
        if (ans.task == TASK_OPEN)
            memcpy(prob, (const float[A]){ans.open.logp, (float)ans.open.n_tokens}, sizeof w->want);
        else memcpy(prob, ans.prob, sizeof w->want);
        ok = s || err_set(e, ERR_MEMORY, "out of memory");
        if (s) mem_free(s);
        json_decref(j);
    }
    arena_free(a);
    return ok;
}

static void each_allocation_may_fail(world *w, bool cold)
{
    float prob[A];
    err   e = {0};
    OK(whole_request(w, w->want, &e), e);
    long n = 0, failures = 0;
    for (int turn = 0;; n += STRIDE, turn++) {
        e = (err){0};
        if (cold) reader_cache_clear(w->en.reader);
        mem_fail_after(n);
        bool ok = whole_request(w, prob, &e);
        bool none_failed = mem_fail_after(-1) <= n;
        if (none_failed) {
            OK(ok, e);
            break;
        }
        /* a cache that could not keep an entry changes no answer */
        if (ok) assert_memory_equal(prob, w->want, sizeof prob);
        else {
            assert_int_equal(e.code, ERR_MEMORY);
            failures++;
        }
        if (turn % 16) continue;
        e = (err){0};
        OK(whole_request(w, prob, &e), e);
        assert_memory_equal(prob, w->want, sizeof prob);
    }
    print_message("# of %ld allocations each of stride %d failed in turn, %ld ended the request\n", n, STRIDE,
                  failures);
    assert_true(failures > 20);
}

static void cold_cache(void **state) { each_allocation_may_fail(*state, true); }
static void warm_cache(void **state) { each_allocation_may_fail(*state, false); }

/* The same picture, answered in words; with a penalty, which needs more of each prompt. */
static void open_question(void **state)
{
    world           *w = *state;
    diagnose_request closed = w->q;
    w->q.answers = NULL;
    w->q.n_answers = 0;
    w->q.open = (open_options){.max_new_tokens = 2, .beams = 2, .repetition_penalty = 1.5};
    each_allocation_may_fail(w, false); /* with a cold one the closed question's test has been there */
    w->q = closed;
}

int main(void)
{
    json_set_alloc_funcs(mem_alloc, mem_free); /* as the program does: the response's JSON may fail too */
    const struct CMUnitTest tests[] = {cmocka_unit_test(cold_cache), cmocka_unit_test(warm_cache),
                                       cmocka_unit_test(open_question)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
