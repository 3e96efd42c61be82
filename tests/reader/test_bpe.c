#include "tests/vectors.h"

#include "base/file.h"
#include "reader/bpe.h"

typedef struct { bpe *b; arena *a; const char *name; bool post; } run;

static void check_vector(const json_t *v, size_t line, void *ctx)
{
    run        *r = ctx;
    err         e = {0};
    size_t      n, n_want, n_got;
    const char *text = member_text(v, "text", &n), *want = member_text(v, "decoded", &n_want);
    int32_t    *ids;
    int         n_ids;
    char       *got;
    OK(bpe_encode(r->b, text, n, true, false, &ids, &n_ids, r->a, &e), e);
    same_ids(json_object_get(v, "ids"), ids, n_ids, r->name, line);
    OK(bpe_decode(r->b, ids, n_ids, &got, &n_got, r->a, &e), e);
    if (n_got != n_want || memcmp(got, want, n_want) != 0) fail_msg("%s: line %zu: decoded text differs", r->name, line);
    if (json_object_get(v, "ids_special")) {
        OK(bpe_encode(r->b, text, n, true, true, &ids, &n_ids, r->a, &e), e);
        same_ids(json_object_get(v, "ids_special"), ids, n_ids, r->name, line);
    }
    arena_reset(r->a);
}

static void real_vocabulary(const char *name, size_t n_vectors, int n_ids)
{
    char path[128];
    err  e = {0};
    run  r = {.name = name, .a = arena_new(0)};
    snprintf(path, sizeof path, "fixtures/tokenizers/%s/tokenizer.json", name);
    if (!file_exists(shared_path(path))) SKIP("%s is not here", path);
    OK(bpe_open(&r.b, shared_path(path), &e), e);
    assert_int_equal(bpe_vocab(r.b), n_ids);
    snprintf(path, sizeof path, "fixtures/tokenizers/%s/vectors.jsonl", name);
    assert_int_equal(each_vector(shared_path(path), check_vector, &r), n_vectors);
    bpe_close(r.b);
    arena_free(r.a);
}

static void ids_of_qwen2_are_the_librarys(void **s) { (void)s; real_vocabulary("qwen2", 385, 151657); }
static void ids_of_tekken_are_the_librarys(void **s) { (void)s; real_vocabulary("tekken", 379, 131072); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_qwen2_are_the_librarys),
        cmocka_unit_test(ids_of_tekken_are_the_librarys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
