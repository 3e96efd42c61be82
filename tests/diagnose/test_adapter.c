/* test_adapter.c - fails when a request is answered by another adapter than it asked for, or when the answer
 * does not say by which. The reader is the fixture that has adapters, the retriever the demonstration's. */
#include "tests/diagnose/demo.h"

#include "base/file.h"
#include "diagnose/json.h"

enum { A = 2 };
static const char *const ANSWERS[A] = {"Yes", "No"};

typedef struct { kernels *k; engine en; char *image; diagnose_request q; arena *a; } world;

static engine_options options(void)
{
    engine_options o = demo_options();
    o.reader = FIXTURE("qwen2vl-tiny");
    o.adapter[0] = (reader_adapter){"text", FIXTURE("qwen2vl-tiny-lora")};
    o.adapter[1] = (reader_adapter){"both", FIXTURE("qwen2vl-tiny-lora-vision")};
    o.n_adapters = 2;
    return o;
}

static world start(const engine_options *o)
{
    err   e = {0};
    world w = {.a = arena_new(0), .q = {.question = "Is it malignant?", .answers = ANSWERS, .n_answers = A, .k = 2}};
    demo_engine(&w.en, &w.k, o);
    OK(file_read(&w.image, &w.q.image_bytes, DEMO("synthetic/breast/test/0000.png"), 1 << 20, &e), e);
    w.q.image = (uint8_t *)w.image;
    return w;
}

static void stop(world *w)
{
    engine_close(&w->en);
    w->k->close(w->k);
    arena_free(w->a);
    free(w->image);
}

/* The probability of the first answer; the adapter that the answer's JSON names must be `by` (NULL: null). */
static float asked(world *w, const char *name, const char *by)
{
    err    e = {0};
    answer ans;
    w->q.adapter = name;
    OK(diagnose(&w->en, w->k, &w->q, w->a, &ans, &e), e);
    json_t *o = answer_json(&w->en, &w->q, &ans, "id");
    assert_non_null(o);
    const json_t *adapter = json_object_get(json_object_get(o, "provenance"), "adapter");
    if (by) {
        assert_string_equal(json_string_value(json_object_get(adapter, "name")), by);
        assert_int_equal(strlen(json_string_value(json_object_get(adapter, "sha256"))), 64);
    } else assert_true(json_is_null(adapter));
    json_decref(o);
    float p = ans.prob[0];
    arena_reset(w->a);
    return p;
}

static void each_request_has_the_adapter_it_names(void **state)
{
    (void)state;
    engine_options o = options();
    world          w = start(&o);
    float          base = asked(&w, NULL, NULL), text = asked(&w, "text", "text"), both = asked(&w, "both", "both");
    assert_true(base != text && base != both && text != both);
    assert_true(asked(&w, "none", NULL) == base);
    stop(&w);

    o.use_adapter = "both";
    w = start(&o);
    assert_true(asked(&w, NULL, "both") == both);
    assert_true(asked(&w, "none", NULL) == base);
    assert_true(asked(&w, "text", "text") == text);
    json_t       *m = models_json(&w.en, "cpu");
    const json_t *list = json_object_get(m, "adapters");
    assert_int_equal(json_array_size(list), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *one = json_array_get(list, i);
        assert_string_equal(json_string_value(json_object_get(one, "name")), i ? "both" : "text");
        assert_int_equal(json_is_true(json_object_get(one, "default")), i);
    }
    json_decref(m);
    stop(&w);

    engine_options merged = options();
    merged.n_adapters = 1;
    merged.merge_adapter = true;
    w = start(&merged);
    float again = asked(&w, NULL, "text");
    CLOSE(&again, &text, 1, 1e-4, "merged");
    stop(&w);
}

static void unknown_names_are_refused(void **state)
{
    (void)state;
    err            e;
    answer         ans;
    engine         en = {0};
    engine_options o = options();
    world          w = start(&o);
    w.q.adapter = "retina";
    FAILS(diagnose(&w.en, w.k, &w.q, w.a, &ans, &e), e, ERR_UNUSABLE, "adapter: this reader has text, both");
    assert_string_equal(e.problem, "adapter-unknown");
    o.use_adapter = "retina";
    FAILS(engine_open(&en, &o, w.k, &e), e, ERR_USAGE, "the default adapter: this reader has text, both");
    stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_request_has_the_adapter_it_names),
        cmocka_unit_test(unknown_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
