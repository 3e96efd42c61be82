/* test_vqa.c - questions of VQA-RAD and SLAKE read wrongly, sorted into the wrong half, or bad records that go
 * unnoticed. */
#include "tests/base/temporary.h"
#include <unistd.h>
#include "base/memory.h"
#include "diagnose/diagnose.h"
#include "eval/dataset.h"

static const char *folder;

static const char *text_file(const char *name, const char *s) { return put_file(folder, name, s, strlen(s)); }

static int make_folder(void **state)
{
    (void)state;
    folder = temporary_dir();
    text_file("x.png", "picture");
    return 0;
}
static int remove_folder(void **state)
{
    (void)state;
    remove_dir(folder);
    return 0;
}

static dataset *opened(const char *json, const eval_task *t)
{
    dataset *d = NULL;
    err      e = {0};
    OK(dataset_open_vqa(&d, text_file("a.json", json), folder, t, &e), e);
    return d;
}

#define RAD(answer, type) "{\"image_name\": \"x.png\", \"question\": \"q?\", \"answer\": " answer ", \"answer_type\": " type ", \"qid\": 1}"

/* Closed only if the data set says so and the answer is in the closed set; what it says is kept either way. */
static void question_is_sorted_wrongly(void **state)
{
    (void)state;
    static const struct { const char *record; bool closed; int gold; answer_kind type; const char *text; } t[] = {
        {RAD("\"Yes\"", "\"CLOSED\""), true, 0, ANSWER_CLOSED, "Yes"},
        {RAD("\"no \"", "\"CLOSED\""), true, 1, ANSWER_CLOSED, "no "},
        {RAD("\"No.\"", "\"CLOSED \""), true, 1, ANSWER_CLOSED, "No."}, /* the published file has such a blank */
        {RAD("\"MRI\"", "\"CLOSED\""), false, 0, ANSWER_CLOSED, "MRI"},
        {RAD("\"abnormal\"", "\"closed\""), false, 0, ANSWER_CLOSED, "abnormal"}, /* holds "no" */
        {RAD("\"yes\"", "\"OPEN\""), false, 0, ANSWER_OPEN, "yes"},
        {RAD("\"left lung\"", "\"OPEN\""), false, 0, ANSWER_OPEN, "left lung"},
        {RAD("12", "\"OPEN\""), false, 0, ANSWER_OPEN, "12"}}; /* and such numbers */
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char      all[300];
        eval_case c;
        err       e = {0};
        arena    *a = arena_new(0);
        snprintf(all, sizeof all, "[%s]", t[i].record);
        dataset *d = opened(all, NULL);
        assert_int_equal(dataset_count(d), 1);
        OK(dataset_case(d, 0, &c, a, &e), e);
        assert_int_equal(c.type, t[i].type);
        assert_string_equal(c.gold_text, t[i].text);
        assert_string_equal(c.question, "q?");
        assert_int_equal(c.image_bytes, 7);
        assert_null(c.labels);
        if (t[i].closed) {
            assert_int_equal(c.n_answers, 2);
            assert_string_equal(c.answers[0], "yes");
            assert_int_equal(c.gold, t[i].gold);
        } else {
            assert_null(c.answers);
            assert_int_equal(c.n_answers, 0);
        }
        dataset_close(d);
        arena_free(a);
    }
}

static void questions_of_a_picture_are_not_recognised(void **state)
{
    (void)state;
    dataset *d = opened(
        "[" RAD("\"a\"", "\"OPEN\"") ", {\"image_name\": \"y.png\"}, " RAD("\"b\"", "\"OPEN\"") ", {}]", NULL);
    assert_true(dataset_picture(d, 0) != 0);
    assert_true(dataset_picture(d, 0) == dataset_picture(d, 2));
    assert_true(dataset_picture(d, 0) != dataset_picture(d, 1));
    assert_true(dataset_picture(d, 3) == 0); /* nothing to tell by */
    dataset_close(d);
}

static void task_is_not_heeded(void **state)
{
    (void)state;
    static const char slake[] =
        "[{\"img_name\": \"x.png\", \"question\": \"q?\", \"answer\": \"Yes\", \"answer_type\": \"CLOSED\", \"q_lang\": \"en\"},"
        " {\"img_name\": \"x.png\", \"question\": \"Z\", \"answer\": \"Z\", \"answer_type\": \"OPEN\", \"q_lang\": \"zh\"},"
        " {\"img_name\": \"x.png\", \"question\": \"r?\", \"answer\": \"Lung\", \"answer_type\": \"OPEN\", \"q_lang\": \"en\"}]";
    eval_task *t = NULL, *french = NULL, *closed = NULL;
    eval_case  c;
    err        e = {0};
    arena     *a = arena_new(0);
    OK(task_open(
           &t,
           text_file(
               "task.json",
               "{\"kind\": \"vqa\", \"answers\": [\"no\", \"yes\"], \"language\": \"en\", \"max_new_tokens\": 5,"
               " \"legend\": \"L\", \"legend_place\": \"after-question\"}"),
           &e),
       e);
    OK(task_open(&french,
                 text_file("fr.json", "{\"kind\": \"vqa\", \"answers\": [\"no\", \"yes\"], \"language\": \"fr\"}"),
                 &e),
       e);
    OK(task_open(&closed, "tasks/breastmnist.json", &e), e);
    dataset *d = opened(slake, t);
    assert_int_equal(dataset_count(d), 2);
    OK(dataset_case(d, 0, &c, a, &e), e);
    assert_string_equal(c.question, "q?\n\nL");
    assert_int_equal(c.gold, 1);
    OK(dataset_case(d, 1, &c, a, &e), e);
    assert_string_equal(c.gold_text, "Lung");
    assert_int_equal(c.max_new_tokens, 5);
    dataset_close(d);
    d = opened(slake, NULL);
    assert_int_equal(dataset_count(d), 3); /* without a task that names a language: all */
    dataset_close(d);
    FAILS(dataset_open_vqa(&d, text_file("a.json", slake), folder, french, &e), e, ERR_FILE,
          "a.json: no question in language \"fr\"");
    FAILS(dataset_open_vqa(&d, text_file("a.json", slake), folder, closed, &e), e, ERR_FILE, "a task of kind closed");
    task_close(t);
    task_close(french);
    task_close(closed);
    arena_free(a);
}

static void bad_record_is_read_or_not_named(void **state)
{
    (void)state;
    static const struct { const char *record; err_code code; const char *problem, *part;
    } t[] = {
        {"3", ERR_INPUT, "record-malformed", "a.json[1]: not an object"},
        {"{\"question\": \"SECRET\", \"answer\": \"SECRET\", \"answer_type\": \"OPEN\"}", ERR_INPUT,
         "record-malformed", "a.json[1]: \"image_name\" must be a string"},
        {"{\"image_name\": \"x.png\", \"answer\": \"SECRET\", \"answer_type\": \"OPEN\"}", ERR_INPUT,
         "record-malformed", "\"question\" must be a string"},
        {"{\"image_name\": \"x.png\", \"question\": \"SECRET\", \"answer_type\": \"OPEN\"}", ERR_INPUT,
         "record-malformed", "\"answer\" must be a string"},
        {RAD("1.5", "\"OPEN\""), ERR_INPUT, "record-malformed", "\"answer\" must be a string"},
        {RAD("\"SECRET\"", "\"YES/NO\""), ERR_INPUT, "record-malformed",
         "a.json[1]: \"answer_type\" is neither OPEN nor CLOSED"},
        {RAD("\"SECRET\"", "\"OPEN CLOSED\""), ERR_INPUT, "record-malformed", "neither OPEN nor CLOSED"},
        {RAD("\"SECRET\"", "\"\""), ERR_INPUT, "record-malformed", "neither OPEN nor CLOSED"},
        {RAD("\"SECRET\"", "1"), ERR_INPUT, "record-malformed", "\"answer_type\" must be a string"},
        {"{\"image_name\": \"no.png\", \"question\": \"SECRET\", \"answer\": \"a\", \"answer_type\": \"OPEN\"}",
         ERR_FILE, "image-missing", "a.json[1]: "},
        {"{\"image_name\": \"../x.png\", \"question\": \"q\", \"answer\": \"a\", \"answer_type\": \"OPEN\"}",
         ERR_INPUT, "image-outside", "a.json[1]: the image's path must lie below"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char      all[500];
        eval_case c;
        err       e = {0};
        arena    *a = arena_new(0);
        snprintf(all, sizeof all, "[" RAD("\"yes\"", "\"CLOSED\"") ", %s]", t[i].record);
        dataset *d = opened(all, NULL);
        OK(dataset_case(d, 0, &c, a, &e), e);
        FAILS(dataset_case(d, 1, &c, a, &e), e, t[i].code, t[i].part);
        assert_string_equal(e.problem, t[i].problem);
        if (strstr(e.text, "SECRET")) fail_msg("content in the error: %s", e.text);
        dataset_close(d);
        arena_free(a);
    }
}

static void unusable_file_is_opened(void **state)
{
    (void)state;
    static const struct { const char *file, *part; } t[] = {
        {"{}", "a.json: not a list of questions"},
        {"[]", "a.json: not a list of questions"},
        {"[{\"image_name\": \"x.png\", \"question\": SECRET}]", "a.json: not JSON at line 1, column "},
        {"[{\"question\": \"q\"}]", "a.json[0]: has neither \"image_name\" (VQA-RAD) nor \"img_name\" (SLAKE)"},
        {"[{\"image_name\": \"x.png\", \"img_name\": \"x.png\"}]", "a.json[0]: has both"},
        {"", "a.json: not JSON"},
    };
    dataset *d;
    err      e;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        FAILS(dataset_open_vqa(&d, text_file("a.json", t[i].file), folder, NULL, &e), e, ERR_FILE, t[i].part);
        if (strstr(e.text, "SECRET")) fail_msg("content in the error: %s", e.text);
    }
    FAILS(dataset_open_vqa(&d, inside(folder, "none.json"), folder, NULL, &e), e, ERR_FILE, "none.json");
}

/* A task over lines: which members it takes from them, and what it makes of their answer. */
static void task_over_lines_is_not_heeded(void **state)
{
    (void)state;
#define SETS "{\"kind\": \"multilabel\", \"question\": \"which?\", \"labels\": [\"a\", \"b\", \"c\"]}"
    static const struct { const char *task, *line, *part;
    } t[] = {
        {"{\"question\": \"t?\", \"answers\": [\"A\", \"B\"]}", "\"question\": \"q\", \"answer\": \"b\"", NULL},
        /* as the released code's files have it */
        {"{\"question\": \"t?\", \"answers\": [\"A\", \"B\"]}", "\"answers\": \"B\"", NULL},
        {"{\"question\": \"t?\", \"answers\": [\"A\", \"B\"]}", "\"answer\": \"C\"", "none of \"answers\""},
        {"{\"question\": \"t?\", \"answers\": [\"A\", \"B\"]}", "\"answers\": [\"B\"]",
         "\"answers\" must be a string"},
        {"{\"kind\": \"open\"}", "\"question\": \"q\", \"answer\": \"b\"", NULL},
        {"{\"kind\": \"open\"}", "\"answer\": \"b\"", "\"question\" must be a string"},
        {"{\"kind\": \"vqa\", \"answers\": [\"yes\", \"no\"]}", "\"question\": \"q\", \"answer\": \"No\"", NULL},
        {"{\"kind\": \"vqa\", \"answers\": [\"yes\", \"no\"]}",
         "\"question\": \"q\", \"answer\": \"No\", \"answer_type\": \"OPEN\"", NULL},
        {SETS, "\"answer\": \"2, 0\"", NULL},
        {SETS, "\"answer\": \"\"", NULL},
        {SETS, "\"answer\": \"3\"", "\"answer\" is not a list of label numbers"},
        {SETS, "\"answer\": \"a\"", "\"answer\" is not a list of label numbers"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char       line[300];
        eval_task *task = NULL;
        dataset   *d = NULL;
        eval_case  c;
        err        e = {0};
        arena     *a = arena_new(0);
        snprintf(line, sizeof line, "{\"image_path\": \"x.png\", %s}\n", t[i].line);
        OK(task_open(&task, text_file("task.json", t[i].task), &e), e);
        OK(dataset_open_jsonl(&d, text_file("a.jsonl", line), folder, task, &e), e);
        if (t[i].part) FAILS(dataset_case(d, 0, &c, a, &e), e, ERR_INPUT, t[i].part);
        else OK(dataset_case(d, 0, &c, a, &e), e);
        switch (i) {
        case 0: case 1:
            assert_string_equal(c.question, "t?");
            assert_int_equal(c.n_answers, 2);
            assert_int_equal(c.gold, 1);
            break;
        case 4: case 7:
            assert_string_equal(c.question, "q");
            assert_null(c.answers);
            break;
        case 6: assert_int_equal(c.gold, 1); assert_int_equal(c.n_answers, 2); break;
        case 8:
            assert_int_equal(c.n_labels, 3);
            assert_true(c.present[0] == 1 && c.present[1] == 0 && c.present[2] == 1);
            assert_null(c.answers);
            break;
        case 9: assert_true(c.present[0] == 0 && c.present[1] == 0 && c.present[2] == 0); break;
        default: break;
        }
        dataset_close(d);
        task_close(task);
        arena_free(a);
    }
}

/* Counts of the shared files' own README; each record must be readable. */
static void published_file_is_misread(void **state)
{
    (void)state;
    static const struct { const char *file; int n, closed, pictures; } t[] = {
        {"trainset.json", 2502, 1496, 254}, {"testset.json", 317, 190, 143}};
    if (access(shared_path("data/vqa-rad/testset.json"), R_OK) != 0) SKIP("no shared VQA-RAD data");
    for (size_t f = 0; f < 2; f++) {
        char       path[512], images[512];
        dataset   *d = NULL;
        eval_task *task = NULL;
        err        e = {0};
        arena     *a = arena_new(0);
        uint64_t   seen[256];
        int        closed = 0, decoded = 0, over_set = 0, pictures = 0;
        snprintf(path, sizeof path, "%s/%s", shared_path("data/vqa-rad"), t[f].file);
        snprintf(images, sizeof images, "%s", shared_path("data/vqa-rad/images"));
        OK(task_open(&task, "tasks/vqa-rad.json", &e), e);
        OK(dataset_open_vqa(&d, path, images, task, &e), e);
        assert_int_equal(dataset_count(d), t[f].n);
        for (int64_t i = 0; i < t[f].n; i++) {
            eval_case c;
            OK(dataset_case(d, i, &c, a, &e), e);
            closed += c.type == ANSWER_CLOSED;
            decoded += !c.answers;
            over_set += c.answers && c.type == ANSWER_CLOSED;
            assert_true(c.image_bytes > 1000);
            int p = 0;
            while (p < pictures && seen[p] != dataset_picture(d, i)) p++;
            assert_true(p < 256);
            if (p == pictures) seen[pictures++] = dataset_picture(d, i);
            arena_reset(a);
        }
        assert_int_equal(closed, t[f].closed);
        assert_int_equal(pictures, t[f].pictures);
        assert_int_equal(decoded + over_set, t[f].n);
        assert_true(decoded > t[f].n - t[f].closed); /* some closed ones have another answer than yes or no */
        dataset_close(d);
        task_close(task);
        arena_free(a);
    }
}

static void published_slake_is_misread(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        int all, english;
    } t[] = {{"train.json", 9835, 4919}, {"validate.json", 2099, 1053}};
    if (access(shared_path("data/slake-text/train.json"), R_OK) != 0) SKIP("no shared SLAKE text");
    for (size_t f = 0; f < 2; f++) {
        char       path[512];
        dataset   *d = NULL;
        eval_task *task = NULL;
        eval_case  c;
        err        e = {0};
        arena     *a = arena_new(0);
        snprintf(path, sizeof path, "%s/%s", shared_path("data/slake-text"), t[f].file);
        OK(dataset_open_vqa(&d, path, folder, NULL, &e), e);
        assert_int_equal(dataset_count(d), t[f].all);
        dataset_close(d);
        OK(task_open(&task, "tasks/slake.json", &e), e);
        OK(dataset_open_vqa(&d, path, folder, task, &e), e);
        assert_int_equal(dataset_count(d), t[f].english);
        /* Its pictures are not there: each is an error that names where, and nothing else stands in the way. */
        for (int64_t i = 0; i < t[f].english; i += 97) {
            FAILS(dataset_case(d, i, &c, a, &e), e, ERR_FILE, ".json[");
            assert_string_equal(e.problem, "image-missing");
        }
        dataset_close(d);
        task_close(task);
        arena_free(a);
    }
}

static void out_of_memory_leaks_or_passes(void **state)
{
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s",
             text_file("a.json", "[" RAD("\"Yes.\"", "\"CLOSED\"") ", " RAD("7", "\"CLOSED\"") "]"));
    bool done = false;
    for (long n = 0; !done; n++) {
        dataset  *d = NULL;
        eval_case c;
        err       e = {0};
        mem_fail_after(n);
        arena *a = arena_new(0);
        done = a && dataset_open_vqa(&d, path, folder, NULL, &e) && dataset_case(d, 0, &c, a, &e)
               && dataset_case(d, 1, &c, a, &e);
        mem_fail_after(-1);
        if (!done && a) assert_int_equal(e.code, ERR_MEMORY);
        dataset_close(d);
        arena_free(a);
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(question_is_sorted_wrongly),
        cmocka_unit_test(questions_of_a_picture_are_not_recognised),
        cmocka_unit_test(task_is_not_heeded),
        cmocka_unit_test(bad_record_is_read_or_not_named),
        cmocka_unit_test(unusable_file_is_opened),
        cmocka_unit_test(task_over_lines_is_not_heeded),
        cmocka_unit_test(published_file_is_misread),
        cmocka_unit_test(published_slake_is_misread),
        cmocka_unit_test(out_of_memory_leaks_or_passes),
    };
    return cmocka_run_group_tests_name("vqa", tests, make_folder, remove_folder);
}
