/* test_many.c - fails when requests that are answered together get other bits than alone, or one's failure is
 * another's. */
#include "tests/diagnose/demo.h"

#include "base/clock.h"
#include "base/file.h"

enum { N = 5, A = 2 };
static const char *const ANSWERS[A] = {"Yes", "No"}, *const LABELS[2] = {"Mass", "Cyst"},
                         *const PICTURE[N] = {"breast/test/0000.png", "breast/test/0001.png",
                                              "breast/test/0002.png", "breast/test/0000.png",
                                              "breast/test/0003.png"};

typedef struct { kernels *k; engine en; char *image[N]; diagnose_request q[N]; arena *a[N]; } world;

static int set_up(void **state)
{
    err            e = {0};
    engine_options o = demo_options();
    world *w = calloc(1, sizeof *w);
    *state = w;
    demo_engine(&w->en, &w->k, &o);
    for (int i = 0; i < N; i++) {
        char path[128];
        snprintf(path, sizeof path, DEMO("synthetic/%s"), PICTURE[i]);
        w->q[i] = (diagnose_request){.question = "Does this breast ultrasound image show signs of cancer?",
                                     .answers = ANSWERS,
                                     .n_answers = A,
                                     .k = 1 + i % 2,
                                     .exclude_self = true};
        OK(file_read(&w->image[i], &w->q[i].image_bytes, path, 1 << 20, &e), e);
        w->q[i].image = (uint8_t *)w->image[i];
        w->a[i] = arena_new(0);
    }
    w->q[1].mode = MODE_REFERENCE;
    w->q[2].answers = NULL; /* labels among closed questions */
    w->q[2].n_answers = 0;
    w->q[2].labels = LABELS;
    w->q[2].n_labels = 2;
    w->q[4].answers = NULL; /* and an open one */
    w->q[4].n_answers = 0;
    w->q[4].open.max_new_tokens = 3;
    return 0;
}

static int tear_down(void **state)
{
    world *w = *state;
    engine_close(&w->en);
    w->k->close(w->k);
    for (int i = 0; i < N; i++) {
        free(w->image[i]);
        arena_free(w->a[i]);
    }
    free(w);
    return 0;
}

static void answer_all(world *w, answer *out, err *e)
{
    diagnose_job job[N];
    for (int i = 0; i < N; i++) {
        e[i] = (err){0};
        job[i] = (diagnose_job){&w->q[i], w->a[i], &out[i], &e[i]};
    }
    diagnose_many(&w->en, w->k, job, N);
}

static void same(const answer *x, const answer *y)
{
    assert_int_equal(x->task, y->task);
    assert_int_equal(x->K, y->K);
    for (int k = 0; k < x->K; k++) assert_int_equal(x->z[k].c.id, y->z[k].c.id);
    if (x->task == TASK_CLOSED) assert_memory_equal(x->prob, y->prob, A * sizeof(float));
    if (x->task == TASK_LABELS) assert_memory_equal(x->label_prob, y->label_prob, 2 * sizeof(float));
    if (x->task == TASK_OPEN) assert_string_equal(x->open.text, y->open.text);
}

static void together_as_alone(void **state)
{
    world   *w = *state;
    err      e[N] = {0};
    answer   alone[N], out[N];
    uint64_t sum = 0, work;
    for (int i = 0; i < N; i++) {
        reader_cache_clear(w->en.reader);
        OK(diagnose(&w->en, w->k, &w->q[i], w->a[i], &alone[i], &e[i]), e[i]);
    }
    for (int warm = 0; warm < 2; warm++) {
        if (!warm) reader_cache_clear(w->en.reader);
        work = w->k->flops;
        answer_all(w, out, e);
        work = w->k->flops - work;
        sum = 0;
        for (int i = 0; i < N; i++) {
            OK(e[i].code == ERR_NONE, e[i]);
            same(&out[i], &alone[i]);
            assert_true(out[i].stage_ms[STAGE_READ] > 0 && out[i].total_ms > 0);
            sum += out[i].flops;
        }
        assert_int_equal(sum, work);
    }
    assert_int_equal(out[3].n_cached, out[3].K);
}

static void one_that_fails_is_the_only_one(void **state)
{
    world           *w = *state;
    err              e[N] = {0};
    answer           want[N], out[N];
    diagnose_request sound[N];
    memcpy(sound, w->q, sizeof sound);
    answer_all(w, want, e);

    w->q[0].deadline_at = clock_ms() - 1;
    w->q[1].image_bytes = 40; /* cut off */
    w->q[3].k = 0;
    answer_all(w, out, e);
    assert_int_equal(e[0].code, ERR_DEADLINE);
    assert_int_equal(e[1].code, ERR_UNUSABLE);
    assert_string_equal(e[3].field, "k");
    for (int i = 2; i <= 4; i += 2) {
        OK(e[i].code == ERR_NONE, e[i]);
        same(&out[i], &want[i]);
    }
    memcpy(w->q, sound, sizeof sound);
    answer_all(w, out, e); /* and leaves nothing behind */
    for (int i = 0; i < N; i++) {
        OK(e[i].code == ERR_NONE, e[i]);
        same(&out[i], &want[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(together_as_alone),
                                       cmocka_unit_test(one_that_fails_is_the_only_one)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
