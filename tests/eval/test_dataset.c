/* test_dataset.c - cases read wrongly, or bad lines that go unnoticed. */
#include "tests/base/temporary.h"
#include <unistd.h>
#include <zip.h>
#include "base/memory.h"
#include "eval/dataset.h"
#include "imaging/image.h"

static const char *folder;

static const char *in(const char *name) { return inside(folder, name); }
static const char *text_file(const char *name, const char *s) { return put_file(folder, name, s, strlen(s)); }

static int make_folder(void **state)
{
    (void)state;
    folder = temporary_dir();
    return 0;
}
static int remove_folder(void **state)
{
    (void)state;
    remove_dir(folder);
    return 0;
}

/* ---- JSONL ---- */

static void demo_set_reads_wrong(void **state)
{
    (void)state;
    dataset  *d;
    eval_case c;
    image     img;
    err       e = {0};
    arena    *a = arena_new(0);
    OK(dataset_open_jsonl(&d, DEMO("synthetic/retina_test.jsonl"), DEMO("synthetic"), NULL, &e), e);
    assert_int_equal(dataset_count(d), 60);
    assert_string_equal(dataset_name(d), DEMO("synthetic/retina_test.jsonl"));
    for (int64_t i = 59; i >= 0; i--) {
        OK(dataset_case(d, i, &c, a, &e), e);
        assert_int_equal(c.n_answers, 5);
        assert_int_equal(c.gold, i % 5); /* as train_demo.py labels them */
        assert_string_equal(c.answers[c.gold], c.gold_text);
        assert_string_equal(c.question, "what is the severity of diabetic retinopathy?");
        OK(image_decode(&img, c.image, c.image_bytes, &IMAGE_LIMITS, a, &e), e);
        assert_int_equal(img.width, 64);
    }
    dataset_close(d);
    arena_free(a);
}

static void lines_are_miscounted(void **state)
{
    (void)state;
    static const char all[] =
        "\n{\"image_path\": \"x.png\", \"question\": \"q\", \"answer\": \"YES.\", \"answers\": [\"No\", \"Yes\"], \"study\": \"s1\"}\r\n"
        "  \t\n{\"image_path\": \"x.png\", \"question\": \"open?\", \"answer\": \"a mass\", \"target\": 3}";
    dataset  *d;
    eval_case c;
    err       e = {0};
    arena    *a = arena_new(0);
    text_file("x.png", "not a picture, which is diagnose()'s to say");
    OK(dataset_open_jsonl(&d, text_file("a.jsonl", all), folder, NULL, &e), e);
    assert_int_equal(dataset_count(d), 2);
    OK(dataset_case(d, 0, &c, a, &e), e);
    assert_int_equal(c.gold, 1); /* "YES." is "Yes" when normalised */
    assert_string_equal(c.gold_text, "YES.");
    assert_string_equal(c.study, "s1");
    assert_null(c.patient);
    assert_int_equal(c.image_bytes, 43);
    assert_memory_equal(c.image, "not a", 5);
    OK(dataset_case(d, 1, &c, a, &e), e); /* no answers: open */
    assert_null(c.answers);
    assert_string_equal(c.gold_text, "a mass");
    assert_int_equal(c.image_bytes, 43);
    assert_true(dataset_picture(d, 0) != 0);
    assert_true(dataset_picture(d, 0) == dataset_picture(d, 1));
    dataset_close(d);
    arena_free(a);
}

/* The same bytes win over an earlier answer that is equal only when normalised. */
static void gold_is_the_wrong_one_of_two_alike(void **state)
{
    (void)state;
    dataset  *d;
    eval_case c;
    err       e = {0};
    arena    *a = arena_new(0);
    text_file("x.png", "x");
    OK(dataset_open_jsonl(
           &d,
           text_file(
               "a.jsonl",
               "{\"image_path\": \"x.png\", \"question\": \"q\", \"answer\": \"+\", \"answers\": [\"-\", \"+\"]}"),
           folder, NULL, &e),
       e);
    OK(dataset_case(d, 0, &c, a, &e), e);
    assert_int_equal(c.gold, 1);
    dataset_close(d);
    arena_free(a);
}

static void bad_line_is_read_or_named_wrongly(void **state)
{
    (void)state;
#define REST ", \"question\": \"q\", \"answer\": \"Yes\", \"answers\": [\"Yes\", \"No\"]}"
    static const struct { const char *line; err_code code; const char *problem, *part;
    } t[] = {
        {"{\"image_path\": \"x.png\"" REST "}", ERR_INPUT, "line-malformed", "a.jsonl:2: not a JSON object"},
        {"[1]", ERR_INPUT, "line-malformed", "a.jsonl:2: not a JSON object"},
        {"{\"image_path\": \"SECRET\", \"image_path\": \"x.png\"" REST, ERR_INPUT, "line-malformed",
         "a member occurs twice"},
        {"{\"image_path\": 3" REST, ERR_INPUT, "line-malformed", "\"image_path\" must be a string"},
        {"{\"image_path\": null" REST, ERR_INPUT, "line-malformed", "\"image_path\" must be a string"},
        {"{\"image_path\": \"../SECRET.png\"" REST, ERR_INPUT, "image-outside",
         "a.jsonl:2: the image's path must lie below"},
        {"{\"image_path\": \"/SECRET.png\"" REST, ERR_INPUT, "image-outside",
         "a.jsonl:2: the image's path must lie below"},
        {"{\"image_path\": \"y.png\"" REST, ERR_FILE, "image-missing", "a.jsonl:2: "},
        {"{\"image_path\": \"\"" REST, ERR_INPUT, "image-outside", "a.jsonl:2: the image's path must lie below"},
        {"{\"image_path\": \"x.png\", \"answer\": \"Yes\", \"answers\": [\"Yes\"]}", ERR_INPUT, "line-malformed",
         "\"question\" must be a string"},
        {"{\"image_path\": \"x.png\", \"question\": \"q\", \"answers\": [\"Yes\"]}", ERR_INPUT, "line-malformed",
         "\"answer\" must be a string"},
        {"{\"image_path\": \"x.png\", \"question\": \"q\", \"answer\": \"Yes\", \"answers\": \"Yes\"}", ERR_INPUT,
         "line-malformed", "\"answers\" must be a list"},
        {"{\"image_path\": \"x.png\", \"question\": \"q\", \"answer\": \"Yes\", \"answers\": []}", ERR_INPUT,
         "line-malformed", "\"answers\" must be a list"},
        {"{\"image_path\": \"x.png\", \"question\": \"q\", \"answer\": \"Yes\", \"answers\": [\"Yes\", 1]}",
         ERR_INPUT, "line-malformed", "\"answers\"[1] must be"},
        {"{\"image_path\": \"x.png\", \"question\": \"q\", \"answer\": \"SECRET\", \"answers\": [\"Yes\", \"No\"]}",
         ERR_INPUT, "gold-not-an-answer", "is none of"},
        {"{\"image_path\": \"x.png\", \"answer_type\": \"YES/NO\"" REST, ERR_INPUT, "line-malformed",
         "\"answer_type\" is neither OPEN nor CLOSED"},
        {"{\"image_path\": \"x.png\", \"study\": 7" REST, ERR_INPUT, "line-malformed",
         "\"study\" must be a string"},
        {"{\"image_path\": \"x.png\\u0000\"" REST, ERR_INPUT, "line-malformed", "not a JSON object"},
        {"{\"image_path\": \"x\xff.png\"" REST, ERR_INPUT, "line-malformed", "not a JSON object"},
    };
    text_file("x.png", "x");
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char      all[600];
        dataset  *d;
        eval_case c;
        err       e = {0};
        arena    *a = arena_new(0);
        snprintf(all, sizeof all, "{\"image_path\": \"x.png\"" REST "\n%s\n", t[i].line);
        OK(dataset_open_jsonl(&d, text_file("a.jsonl", all), folder, NULL, &e), e);
        assert_int_equal(dataset_count(d), 2);
        OK(dataset_case(d, 0, &c, a, &e), e);
        FAILS(dataset_case(d, 1, &c, a, &e), e, t[i].code, t[i].part);
        assert_string_equal(e.problem, t[i].problem);
        if (strstr(e.text, "SECRET")) fail_msg("content in the error: %s", e.text);
        dataset_close(d);
        arena_free(a);
    }
}

static void overlong_line_is_read(void **state)
{
    (void)state;
    size_t    n = (1 << 20) + 2;
    char     *s = malloc(n);
    dataset  *d;
    eval_case c;
    err       e = {0};
    arena    *a = arena_new(0);
    memset(s, 'x', n);
    OK(dataset_open_jsonl(&d, put_file(folder, "a.jsonl", s, n), folder, NULL, &e), e);
    FAILS(dataset_case(d, 0, &c, a, &e), e, ERR_INPUT, ":1: longer than 1048576 bytes");
    dataset_close(d);
    arena_free(a);
    free(s);
}

static void unusable_file_is_opened(void **state)
{
    (void)state;
    dataset *d;
    err      e;
    FAILS(dataset_open_jsonl(&d, in("none.jsonl"), folder, NULL, &e), e, ERR_FILE, "none.jsonl");
    FAILS(dataset_open_jsonl(&d, text_file("a.jsonl", ""), folder, NULL, &e), e, ERR_FILE, "no case in it");
    FAILS(dataset_open_jsonl(&d, text_file("a.jsonl", "\n \n\t\r\n"), folder, NULL, &e), e, ERR_FILE,
          "no case in it");
    FAILS(dataset_open_jsonl(&d, folder, folder, NULL, &e), e, ERR_FILE, folder);
}

/* ---- MedMNIST ---- */

/* A member NAME.npy of bytes with this shape, "(3, 2, 2)". */
static void add_npy(zip_t *z, const char *name, const char *shape, const uint8_t *data, size_t n)
{
    char   head[118], *all = malloc(128 + n);
    size_t text =
        (size_t)snprintf(head, sizeof head, "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }", shape);
    memset(head + text, ' ', sizeof head - text);
    head[sizeof head - 1] = '\n';
    memcpy(all, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(all + 10, head, sizeof head);
    memcpy(all + 128, data, n);
    assert_true(zip_file_add(z, name, zip_source_buffer(z, all, 128 + n, 1), ZIP_FL_ENC_UTF_8) >= 0);
}

static const char *archive(const char *images, size_t n_images, const char *labels, const uint8_t *label,
                           size_t n_labels)
{
    uint8_t     pixel[64];
    int         why;
    const char *path = in("set.npz");
    zip_t      *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &why);
    assert_non_null(z);
    for (int i = 0; i < 64; i++) pixel[i] = (uint8_t)(i * 4);
    add_npy(z, "val_images.npy", images, pixel, n_images);
    add_npy(z, "val_labels.npy", labels, label, n_labels);
    assert_int_equal(zip_close(z), 0);
    return path;
}

static eval_task *task_of(const char *path)
{
    eval_task *t = NULL;
    err        e = {0};
    OK(task_open(&t, path, &e), e);
    return t;
}

static const char TASK[] = "{\"question\": \"q\", \"answers\": [\"No\", \"Yes\"], \"label_to_answer\": [1, 0]}";

static void medmnist_pixels_or_labels_differ(void **state)
{
    (void)state;
    static const struct {
        const char *shape, *labels;
        int channels;
    } shapes[] = {{"(3, 2, 3)", "(3, 1)", 1}, {"(3, 2, 3, 3)", "(3,)", 3}};
    static const uint8_t label[] = {0, 1, 2};
    for (int k = 0; k < 2; k++) {
        dataset    *d;
        eval_case   c;
        image       img;
        err         e = {0};
        arena      *a = arena_new(0);
        size_t      bytes = 18 * (size_t)shapes[k].channels;
        const char *npz = archive(shapes[k].shape, bytes, shapes[k].labels, label, 3);
        eval_task  *t = task_of(text_file("task.json", TASK));
        OK(dataset_open_medmnist(&d, npz, "val", t, &e), e);
        assert_true(dataset_picture(d, 1) == 0);
        assert_int_equal(dataset_count(d), 3);
        assert_non_null(strstr(dataset_name(d), "set.npz#val"));
        for (int i = 0; i < 2; i++) {
            OK(dataset_case(d, i, &c, a, &e), e);
            assert_int_equal(c.gold, 1 - i);
            assert_string_equal(c.gold_text, i ? "No" : "Yes");
            assert_string_equal(c.question, "q");
            OK(image_decode(&img, c.image, c.image_bytes, &IMAGE_LIMITS, a, &e), e);
            assert_int_equal(img.width, 3);
            assert_int_equal(img.height, 2);
            for (int p = 0; p < 6; p++)
                for (int ch = 0; ch < 3; ch++)
                    assert_int_equal(img.rgb[3 * p + ch],
                                     4 * (shapes[k].channels == 3 ? i * 18 + 3 * p + ch : i * 6 + p));
        }
        FAILS(dataset_case(d, 2, &c, a, &e), e, ERR_INPUT, "val/2: its label");
        assert_string_equal(e.problem, "gold-not-an-answer");
        dataset_close(d);
        task_close(t);
        arena_free(a);
    }
}

static void bad_archive_or_task_is_opened(void **state)
{
    (void)state;
    static const uint8_t label[4] = {0};
    dataset   *d;
    eval_task *t = task_of(text_file("task.json", TASK)),
              *decoded = task_of(text_file("open.json", "{\"kind\": \"open\"}"));
    eval_task *classless = task_of(text_file("classless.json", "{\"question\": \"q\", \"answers\": [\"a\", \"b\"]}"));
    err        e;
    char       npz[256];
    snprintf(npz, sizeof npz, "%s", archive("(4, 2, 2)", 16, "(4,)", label, 4));
    FAILS(dataset_open_medmnist(&d, npz, "val", decoded, &e), e, ERR_FILE,
          "open.json: a task of kind open, a MedMNIST archive takes closed");
    FAILS(dataset_open_medmnist(&d, npz, "val", classless, &e), e, ERR_FILE,
          "classless.json: \"label_to_answer\" is missing");
    FAILS(dataset_open_medmnist(&d, npz, "test", t, &e), e, ERR_FILE, "test_images");
    FAILS(dataset_open_medmnist(&d, in("no.npz"), "val", t, &e), e, ERR_FILE, "no.npz");
    FAILS(dataset_open_medmnist(&d, archive("(4, 4)", 16, "(4,)", label, 4), "val", t, &e), e, ERR_FILE,
          "val_images must be");
    FAILS(dataset_open_medmnist(&d, archive("(4, 1, 1, 4)", 16, "(4,)", label, 4), "val", t, &e), e, ERR_FILE,
          "val_images must be");
    FAILS(dataset_open_medmnist(&d, archive("(4, 2, 2)", 16, "(2, 2)", label, 4), "val", t, &e), e, ERR_FILE,
          "val_labels must be");
    FAILS(dataset_open_medmnist(&d, archive("(4, 2, 2)", 16, "(3,)", label, 3), "val", t, &e), e, ERR_FILE,
          "4 val_images but 3 val_labels");
    task_close(t);
    task_close(decoded);
    task_close(classless);
}

static void real_medmnist_is_misread(void **state)
{
    (void)state;
    const char *npz = shared_path("data/medmnist/breastmnist_trainval.npz");
    dataset    *d;
    eval_case   c;
    err         e = {0};
    int         yes = 0;
    if (access(npz, R_OK) != 0) SKIP("no shared MedMNIST data");
    arena     *a = arena_new(0);
    eval_task *t = task_of("tasks/breastmnist.json");
    OK(dataset_open_medmnist(&d, npz, "val", t, &e), e);
    assert_int_equal(dataset_count(d), 78);
    for (int64_t i = 0; i < 78; i++) {
        OK(dataset_case(d, i, &c, a, &e), e);
        yes += !strcmp(c.gold_text, "Yes");
    }
    assert_int_equal(yes, 21); /* malignant ones of its README */
    dataset_close(d);
    task_close(t);
    arena_free(a);
}

static void out_of_memory_leaks_or_passes(void **state)
{
    (void)state;
    static const uint8_t label[3] = {0};
    char npz[256], task[256];
    snprintf(npz, sizeof npz, "%s", archive("(3, 2, 3)", 18, "(3,)", label, 3));
    snprintf(task, sizeof task, "%s", text_file("task.json", TASK));
    for (int kind = 0; kind < 2; kind++) {
        bool done = false;
        for (long n = 0; !done; n++) {
            dataset   *d = NULL;
            eval_task *t = NULL;
            eval_case  c;
            err        e = {0};
            mem_fail_after(n);
            arena *a = arena_new(0);
            bool opened =
                a
                && (kind ? task_open(&t, task, &e) && dataset_open_medmnist(&d, npz, "val", t, &e)
                         : dataset_open_jsonl(&d, DEMO("synthetic/breast_val.jsonl"), DEMO("synthetic"), NULL, &e));
            done = opened && dataset_case(d, 2, &c, a, &e);
            mem_fail_after(-1);
            if (!done && a && e.code != ERR_MEMORY)
                fail_msg("kind %d, allocation %ld: %s '%s'", kind, n, err_code_name(e.code), e.text);
            dataset_close(d);
            task_close(t);
            arena_free(a);
            assert_true(n < 1000);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_set_reads_wrong),              cmocka_unit_test(lines_are_miscounted),
        cmocka_unit_test(gold_is_the_wrong_one_of_two_alike), cmocka_unit_test(bad_line_is_read_or_named_wrongly),
        cmocka_unit_test(overlong_line_is_read),             cmocka_unit_test(unusable_file_is_opened),
        cmocka_unit_test(medmnist_pixels_or_labels_differ),  cmocka_unit_test(bad_archive_or_task_is_opened),
        cmocka_unit_test(real_medmnist_is_misread),          cmocka_unit_test(out_of_memory_leaks_or_passes),
    };
    return cmocka_run_group_tests_name("dataset", tests, make_folder, remove_folder);
}
