/* test_task.c - task files that are taken for another task than they state, and shipped ones that are wrong. */
#include "tests/check.h"
#include <dirent.h>
#include <unistd.h>
#include "base/memory.h"
#include "diagnose/diagnose.h"
#include "eval/task.h"

static char path[] = "/tmp/jomed-task-XXXXXX";

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}
static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static const char *file_of(const char *s)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(s, f);
    fclose(f);
    return path;
}

static eval_task *opened(const char *s)
{
    eval_task *t = NULL;
    err        e = {0};
    OK(task_open(&t, file_of(s), &e), e);
    return t;
}

static void simple_file_is_not_a_closed_task(void **state)
{
    (void)state;
    eval_task  *t = opened("{\"question\": \"q?\", \"answers\": [\"No\", \"Yes\"], \"label_to_answer\": [1, 0, 1]}");
    const char *asked;
    err         e = {0};
    assert_int_equal(t->kind, EVAL_CLOSED);
    assert_int_equal(t->n_answers, 2);
    assert_string_equal(t->answers[1], "Yes");
    assert_int_equal(t->n_label_to_answer, 3);
    assert_int_equal(t->label_to_answer[2], 1);
    assert_false(t->has_policy);
    OK(task_question(&asked, t, "another", NULL, &e), e);
    assert_string_equal(asked, "q?");
    task_close(t);
}

static void keys_are_read_wrongly(void **state)
{
    (void)state;
    eval_task *t = opened(
        "{\"kind\": \"multilabel\", \"question\": \"q\", \"labels\": [\"a\", \"b\", \"c\"], \"answer_form\": \"generated\","
        " \"max_new_tokens\": 512, \"image_policy\": \"jomed-256\", \"name\": \"set\", \"note\": \"n\"}");
    assert_int_equal(t->kind, EVAL_MULTILABEL);
    assert_int_equal(t->n_labels, 3);
    assert_string_equal(t->labels[2], "c");
    assert_true(t->generated);
    assert_int_equal(t->max_new_tokens, 512);
    assert_true(t->has_policy);
    assert_int_equal(t->policy, IMAGE_JOMED_256);
    assert_string_equal(t->name, "set");
    task_close(t);
    t = opened(
        "{\"kind\": \"vqa\", \"answers\": [\"yes\", \"no\"], \"language\": \"en\", \"image_policy\": \"native\"}");
    assert_int_equal(t->kind, EVAL_VQA);
    assert_string_equal(t->language, "en");
    assert_true(t->has_policy);
    assert_int_equal(t->policy, IMAGE_NATIVE);
    assert_null(t->question);
    task_close(t);
    t = opened("{\"kind\": \"open\"}");
    assert_int_equal(t->kind, EVAL_OPEN);
    assert_false(t->generated);
    task_close(t);
}

static void legend_stands_elsewhere(void **state)
{
    (void)state;
    static const struct { const char *place, *want; } t[] = {
        {"", "0 - x\n\nown?"},
        {", \"legend_place\": \"before-question\"", "0 - x\n\nown?"},
        {", \"legend_place\": \"after-question\"", "own?\n\n0 - x"}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char        s[200];
        const char *asked;
        err         e = {0};
        arena      *a = arena_new(0);
        snprintf(s, sizeof s, "{\"kind\": \"open\", \"legend\": \"0 - x\"%s}", t[i].place);
        eval_task *task = opened(s);
        OK(task_question(&asked, task, "own?", a, &e), e);
        assert_string_equal(asked, t[i].want);
        task_close(task);
        arena_free(a);
    }
}

static void wrong_file_is_taken_or_not_named(void **state)
{
    (void)state;
#define QA "\"question\": \"q\", \"answers\": [\"a\", \"b\"]"
    static const struct { const char *file, *part;
    } t[] = {
        {"[]", "not a JSON object"},
        {"{", "line 1"},
        {"{" QA ", \"question\": \"q\"}", "duplicate"},
        {"{" QA ", \"anwsers\": []}", "\"anwsers\" is not a key of a task file"},
        {"{\"kind\": \"yesno\", " QA "}", "\"kind\" must be one of closed, open, multilabel, vqa"},
        {"{\"kind\": 3, " QA "}", "\"kind\" must be a string"},
        {"{\"answers\": [\"a\", \"b\"], \"label_to_answer\": [0]}",
         "\"question\" is missing, a task of kind closed needs it"},
        {"{\"question\": 1, \"answers\": [\"a\", \"b\"]}", "\"question\" must be a string"},
        {"{\"question\": \" \\n\", \"answers\": [\"a\", \"b\"]}", "\"question\" is empty"},
        {"{\"question\": \"q\"}", "\"answers\" is missing"},
        {"{\"question\": \"q\", \"answers\": \"a\"}", "\"answers\" must be a list of two answers or more"},
        {"{\"question\": \"q\", \"answers\": [\"a\"]}", "two answers or more"},
        {"{\"question\": \"q\", \"answers\": [\"a\", 2]}", "\"answers\"[1] must be a string"},
        {"{\"question\": \"q\", \"answers\": [\"a\", \"\"]}", "\"answers\"[1] is empty"},
        {"{\"question\": \"q\", \"answers\": [\"a\", \"b\", \"a\"]}", "\"answers\"[2] equals [0]"},
        {"{" QA ", \"label_to_answer\": 0}", "\"label_to_answer\" must be a list"},
        {"{" QA ", \"label_to_answer\": []}", "\"label_to_answer\" must be a list"},
        {"{" QA ", \"label_to_answer\": [0, 2]}", "\"label_to_answer\"[1] must be 0 to 1"},
        {"{" QA ", \"label_to_answer\": [-1]}", "\"label_to_answer\"[0] must be 0 to 1"},
        {"{" QA ", \"label_to_answer\": [0.0]}", "\"label_to_answer\"[0] must be 0 to 1"},
        {"{" QA ", \"image_policy\": \"jomed\"}", "\"image_policy\" must be one of native, jomed-256"},
        {"{" QA ", \"legend_place\": \"before-question\"}", "\"legend_place\" goes with \"legend\""},
        {"{" QA ", \"legend\": \"l\", \"legend_place\": \"first\"}",
         "\"legend_place\" must be one of before-question, after-question"},
        {"{" QA ", \"max_new_tokens\": 8}", "\"max_new_tokens\" does not go with kind closed"},
        {"{" QA ", \"labels\": [\"a\"]}", "\"labels\" does not go with kind closed"},
        {"{\"kind\": \"open\", \"max_new_tokens\": 0}", "\"max_new_tokens\" must be 1 to 512"},
        {"{\"kind\": \"open\", \"max_new_tokens\": 513}", "\"max_new_tokens\" must be 1 to 512"},
        {"{\"kind\": \"open\", \"max_new_tokens\": \"8\"}", "\"max_new_tokens\" must be 1 to 512"},
        {"{\"kind\": \"multilabel\", \"question\": \"q\"}",
         "\"labels\" is missing, a task of kind multilabel needs it"},
        {"{\"kind\": \"multilabel\", \"question\": \"q\", \"labels\": []}", "\"labels\" must be a list of labels"},
        {"{\"kind\": \"multilabel\", \"question\": \"q\", \"labels\": [\"a\"], \"max_new_tokens\": 8}",
         "goes with the answer_form generated"},
        {"{\"kind\": \"multilabel\", \"question\": \"q\", \"labels\": [\"a\"], \"answer_form\": \"text\"}",
         "must be one of probabilities, generated"},
        {"{\"kind\": \"vqa\", \"question\": \"q\", \"answers\": [\"yes\", \"no\"]}",
         "\"question\" does not go with kind vqa"},
        {"{\"kind\": \"vqa\"}", "\"answers\" is missing"},
        {"{\"kind\": \"vqa\", \"answers\": [\"yes\", \"no\"], \"language\": [\"en\"]}",
         "\"language\" must be a string"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        eval_task *task;
        err        e;
        FAILS(task_open(&task, file_of(t[i].file), &e), e, ERR_FILE, t[i].part);
        assert_non_null(strstr(e.text, path));
    }
    eval_task *task;
    err        e;
    FAILS(task_open(&task, "tasks/no-such.json", &e), e, ERR_FILE, "tasks/no-such.json");
}

static void limits_are_off_by_one(void **state)
{
    (void)state;
    for (int labels = 0; labels < 2; labels++)
        for (int n = 63; n <= 65; n++) {
            char       s[1200];
            eval_task *t;
            err        e = {0};
            int at = snprintf(s, sizeof s, "{\"question\": \"q\", \"kind\": \"%s\", \"%s\": [",
                              labels ? "multilabel" : "closed", labels ? "labels" : "answers");
            for (int i = 0; i < n; i++) at += snprintf(s + at, sizeof s - (size_t)at, "%s\"%d\"", i ? ", " : "", i);
            snprintf(s + at, sizeof s - (size_t)at, "]}");
            if (n <= 64) {
                OK(task_open(&t, file_of(s), &e), e);
                assert_int_equal(labels ? t->n_labels : t->n_answers, n);
                task_close(t);
            } else {
                FAILS(task_open(&t, file_of(s), &e), e, ERR_FILE, "has 65 entries, at most 64 are taken");
            }
        }
}

/* All that is shipped opens, and is what the published code asks (specs/jomed.md 3.2) or the data set names. */
static void shipped_task_is_wrong(void **state)
{
    (void)state;
    static const struct { const char *file; eval_kind kind; int n; const char *first, *last;
    } want[] = {{"breastmnist", EVAL_CLOSED, 2, "Yes", "No"},
                {"dermamnist", EVAL_CLOSED, 7, "0", "6"},
                {"retinamnist", EVAL_CLOSED, 5, "0", "4"},
                {"vindr-pcxr", EVAL_MULTILABEL, 15, "No finding", "Lung tumor"},
                {"brset", EVAL_MULTILABEL, 14, "diabetic retinopathy", "normal"},
                {"vqa-rad", EVAL_VQA, 2, "yes", "no"},
                {"slake", EVAL_VQA, 2, "yes", "no"},
                {"pathvqa", EVAL_VQA, 2, "yes", "no"},
                {"vindr-pcxr-generated", EVAL_MULTILABEL, 15, "No finding", "Lung tumor"},
                {"brset-generated", EVAL_MULTILABEL, 14, "diabetic retinopathy", "normal"}};
    enum { N = sizeof want / sizeof *want };
    int  files = 0;
    DIR *d = opendir("tasks");
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) files += f->d_name[0] != '.';
    closedir(d);
    assert_int_equal(files, N);
    for (int i = 0; i < N; i++) {
        char       name[80];
        eval_task *t = NULL;
        err        e = {0};
        snprintf(name, sizeof name, "tasks/%s.json", want[i].file);
        OK(task_open(&t, name, &e), e);
        assert_string_equal(t->name, want[i].file);
        assert_int_equal(t->kind, want[i].kind);
        const char *const *said = t->kind == EVAL_MULTILABEL ? t->labels : t->answers;
        int                n = t->kind == EVAL_MULTILABEL ? t->n_labels : t->n_answers;
        assert_int_equal(n, want[i].n);
        assert_string_equal(said[0], want[i].first);
        assert_string_equal(said[n - 1], want[i].last);
        assert_true(t->has_policy && t->policy == IMAGE_JOMED_256);
        if (t->kind == EVAL_CLOSED) {
            assert_int_equal(t->n_label_to_answer, n);
            for (int l = 0; l < n; l++) assert_int_equal(t->label_to_answer[l], l);
        }
        task_close(t);
    }
}

/* What the reader is asked, whole: the published code's strings, legend included. */
static void the_published_question_is_another(void **state)
{
    (void)state;
    static const struct { const char *file, *asked;
    } want[] = {
        {"breastmnist", "Does this breast ultrasound image show signs of cancer?"},
        {"retinamnist", "what is the severity of diabetic retinopathy?"},
        {"dermamnist",
         "Provide answer according to the labels:\n0 - 'Actinic keratoses and intraepithelial carcinoma'\n"
         "1 - 'Basal cell carcinoma'\n2 - 'Benign keratosis-like lesions'\n3 - 'Dermatofibroma'\n4 - 'Melanoma'\n"
         "5 - 'Melanocytic nevi'\n6 - 'Vascular lesions'\n\nWhat type of skin lesion does the patient have?"}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        char        name[80];
        const char *asked;
        eval_task  *t = NULL;
        err         e = {0};
        arena      *a = arena_new(0);
        snprintf(name, sizeof name, "tasks/%s.json", want[i].file);
        OK(task_open(&t, name, &e), e);
        OK(task_question(&asked, t, NULL, a, &e), e);
        assert_string_equal(asked, want[i].asked);
        task_close(t);
        arena_free(a);
    }
}

/* Where the answer is a number, the legend must give each class the number that it has in the list. */
static void legend_numbers_classes_otherwise(void **state)
{
    (void)state;
    static const char *const set[] = {"vindr-pcxr", "brset"};
    for (int i = 0; i < 2; i++) {
        char       name[80];
        eval_task *asked = NULL, *generated = NULL;
        err        e = {0};
        snprintf(name, sizeof name, "tasks/%s.json", set[i]);
        OK(task_open(&asked, name, &e), e);
        snprintf(name, sizeof name, "tasks/%s-generated.json", set[i]);
        OK(task_open(&generated, name, &e), e);
        assert_true(generated->generated && !asked->generated);
        assert_int_equal(generated->n_labels, asked->n_labels);
        for (int l = 0; l < asked->n_labels; l++) {
            char line[100];
            assert_string_equal(generated->labels[l], asked->labels[l]);
            snprintf(line, sizeof line, "\n%d - '%s'", l, asked->labels[l]);
            if (!strstr(generated->legend, line)) fail_msg("%s: no line%s", set[i], line);
        }
        task_close(asked);
        task_close(generated);
    }
}

static void out_of_memory_leaks_or_passes(void **state)
{
    (void)state;
    static const char *const files[] = {"tasks/dermamnist.json", "tasks/vindr-pcxr-generated.json"};
    for (size_t i = 0; i < 2; i++) {
        bool done = false;
        for (long n = 0; !done; n++) {
            eval_task  *t = NULL;
            err         e = {0};
            const char *asked;
            mem_fail_after(n);
            arena *a = arena_new(0);
            done = a && task_open(&t, files[i], &e) && task_question(&asked, t, "own", a, &e);
            mem_fail_after(-1);
            if (!done && a) assert_int_equal(e.code, ERR_MEMORY);
            task_close(t);
            arena_free(a);
            assert_true(n < 1000);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_file_is_not_a_closed_task),
        cmocka_unit_test(keys_are_read_wrongly),
        cmocka_unit_test(legend_stands_elsewhere),
        cmocka_unit_test(wrong_file_is_taken_or_not_named),
        cmocka_unit_test(limits_are_off_by_one),
        cmocka_unit_test(shipped_task_is_wrong),
        cmocka_unit_test(the_published_question_is_another),
        cmocka_unit_test(legend_numbers_classes_otherwise),
        cmocka_unit_test(out_of_memory_leaks_or_passes),
    };
    return cmocka_run_group_tests_name("task", tests, make_file, remove_file);
}
