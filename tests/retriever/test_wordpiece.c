#include "tests/vectors.h"

#include "base/file.h"
#include "retriever/wordpiece.h"

typedef struct { wordpiece *w; arena *a; } run;

static void check_vector(const json_t *v, size_t line, void *ctx)
{
    run        *r = ctx;
    err         e = {0};
    size_t      n;
    const char *said = member_text(v, "text", &n);
    int32_t    *ids;
    int         n_ids;
    OK(wordpiece_encode(r->w, said, n, false, 0, &ids, &n_ids, r->a, &e), e);
    same_ids(json_object_get(v, "ids"), ids, n_ids, "bert-uncased", line);
    OK(wordpiece_encode(r->w, said, n, true, 0, &ids, &n_ids, r->a, &e), e);
    same_ids(json_object_get(v, "ids_special"), ids, n_ids, "bert-uncased", line);
    arena_reset(r->a);
}

static void ids_of_bert_uncased_are_the_librarys(void **s)
{
    (void)s;
    const char *path = shared_path("fixtures/tokenizers/bert-uncased/tokenizer.json");
    err         e = {0};
    run         r = {.a = arena_new(0)};
    if (!file_exists(path)) SKIP("%s is not here", path);
    OK(wordpiece_open(&r.w, path, &e), e);
    assert_int_equal(wordpiece_vocab(r.w), 30522);
    assert_int_equal(each_vector(shared_path("fixtures/tokenizers/bert-uncased/vectors.jsonl"), check_vector, &r), 375);
    wordpiece_close(r.w);
    arena_free(r.a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_bert_uncased_are_the_librarys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
