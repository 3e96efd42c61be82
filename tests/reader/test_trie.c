/* The tree of answers: what is shared, what is scored where, what each node sees, when the end token is needed. */
#include "tests/check.h"
#include "reader/trie.h"

enum { END = 99 };

typedef struct { arena *a; trie t; } built;

static built build(const int32_t *const *ids, const int *len, int A)
{
    err   e = {0};
    built b = {.a = arena_new(0)};
    assert_non_null(b.a);
    OK(trie_build(&b.t, ids, len, NULL, A, END, b.a, &e), e);
    return b;
}

/* Rows and tokens along an answer's path. */
static void path_is(const trie *t, int answer, const int *rows, const int32_t *tokens, int n)
{
    assert_int_equal(t->len[answer], n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(t->row[t->path[answer][i]], rows[i]);
        assert_int_equal(t->token[t->path[answer][i]], tokens[i]);
    }
}

static void one_token_answers_need_no_row(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){5}, (int32_t[]){7}, (int32_t[]){6}};
    built b = build(ids, (int[]){1, 1, 1}, 3);
    assert_int_equal(b.t.n_tree, 0);
    assert_int_equal(b.t.n_edges, 3);
    assert_int_equal(b.t.n_rows, 1);
    assert_false(b.t.end_token);
    for (int i = 0; i < 3; i++) path_is(&b.t, i, (int[]){0}, ids[i], 1);
    assert_int_equal(trie_longest(&b.t), 1);
    arena_free(b.a);
}

static void shared_tokens_are_one_row(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){1, 2, 3}, (int32_t[]){1, 2, 4}, (int32_t[]){1, 5}, (int32_t[]){2, 2},
                            (int32_t[]){6}};
    built b = build(ids, (int[]){3, 3, 2, 2, 1}, 5);
    trie *t = &b.t;
    assert_int_equal(t->n_edges, 8); /* 1, 12, 123, 124, 15, 2, 22, 6 */
    assert_int_equal(t->n_tree, 3);  /* 1, 12, 2 */
    assert_int_equal(t->n_rows, 4);
    path_is(t, 0, (int[]){0, 1, 2}, ids[0], 3);
    path_is(t, 1, (int[]){0, 1, 2}, ids[1], 3);
    path_is(t, 2, (int[]){0, 1}, ids[2], 2);
    path_is(t, 3, (int[]){0, 3}, ids[3], 2);
    path_is(t, 4, (int[]){0}, ids[4], 1);
    assert_int_equal(t->path[0][1], t->path[1][1]);
    assert_memory_equal(t->node, ((int32_t[]){1, 2, 2}), 3 * sizeof(int32_t));
    assert_memory_equal(t->depth, ((int[]){1, 2, 1}), 3 * sizeof(int));
    assert_memory_equal(t->visible, ((uint8_t[]){1, 0, 0, 1, 1, 0, 0, 0, 1}), 9);
    assert_int_equal(trie_longest(t), 3);
    arena_free(b.a);
}

static void end_token_is_added_to_all_when_one_answer_begins_another(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){1}, (int32_t[]){1, 0}, (int32_t[]){2}};
    built b = build(ids, (int[]){1, 2, 1}, 3);
    assert_true(b.t.end_token);
    path_is(&b.t, 0, (int[]){0, 1}, (int32_t[]){1, END}, 2);
    path_is(&b.t, 1, (int[]){0, 1, 2}, (int32_t[]){1, 0, END}, 3);
    path_is(&b.t, 2, (int[]){0, 3}, (int32_t[]){2, END}, 2);
    assert_int_equal(b.t.own[0], 1);
    assert_int_equal(b.t.own[1], 2);
    assert_int_equal(b.t.n_tree, 3);
    arena_free(b.a);
}

/* Two spellings of one text (composed, decomposed) have equal tokens: neither begins the other, both score the
 * same. */
static void equal_token_rows_need_no_end(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){4, 4}, (int32_t[]){4, 4}};
    built b = build(ids, (int[]){2, 2}, 2);
    assert_false(b.t.end_token);
    assert_int_equal(b.t.n_edges, 2);
    assert_memory_equal(b.t.path[0], b.t.path[1], 2 * sizeof(int));
    arena_free(b.a);
}

static void single_answer_is_a_chain(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){3, 1, 4, 1, 5}};
    built b = build(ids, (int[]){5}, 1);
    assert_int_equal(b.t.n_tree, 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) assert_int_equal(b.t.visible[i * 4 + j], j <= i);
    arena_free(b.a);
}

static void trees_past_the_limit_are_refused_by_name(void **state)
{
    (void)state;
    enum { LONG = TRIE_MAX_TREE / 2 };
    static int32_t x[LONG + 2], y[LONG + 2];
    for (int i = 0; i < LONG + 2; i++) x[i] = 10 + i, y[i] = 20000 + i;
    const int32_t *ids[] = {x, y};
    err    e = {0};
    trie   t;
    arena *a = arena_new(0);
    /* the last token of each needs no row */
    OK(trie_build(&t, ids, (int[]){LONG + 1, LONG + 1}, NULL, 2, END, a, &e), e);
    assert_int_equal(t.n_tree, TRIE_MAX_TREE);
    FAILS(trie_build(&t, ids, (int[]){LONG + 2, LONG + 1}, NULL, 2, END, a, &e), e, ERR_UNUSABLE, "4097 tokens");
    assert_string_equal(e.field, "answers");
    FAILS(trie_build(&t, ids, (int[]){LONG + 2, LONG + 1}, (int[]){LONG, LONG}, 2, END, a, &e), e, ERR_UNUSABLE,
          "the labels make 4097 tokens");
    assert_string_equal(e.field, "labels");
    arena_free(a);
}

/* Two labels that begin alike, 1 2 and 1 3, then a closing 8 9, then the answers 4 5 and 6: what is only read
 * comes first. */
static void text_to_read_is_not_scored_and_comes_before_what_is(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){1, 2, 8, 9, 4, 5}, (int32_t[]){1, 2, 8, 9, 6}, (int32_t[]){1, 3, 8, 9, 4, 5},
                            (int32_t[]){1, 3, 8, 9, 6}};
    err    e = {0};
    trie   t;
    arena *a = arena_new(0);
    OK(trie_build(&t, ids, (int[]){6, 5, 6, 5}, (int[]){4, 4, 4, 4}, 4, END, a, &e), e);
    assert_int_equal(t.n_tree, 9);
    assert_memory_equal(t.node, ((int32_t[]){1, 2, 8, 3, 8, 9, 4, 9, 4}), 9 * sizeof(int32_t));
    assert_memory_equal(t.depth, ((int[]){1, 2, 3, 2, 3, 4, 5, 4, 5}), 9 * sizeof(int));
    assert_memory_equal(t.visible + 5 * 9, ((uint8_t[]){1, 1, 1, 0, 0, 1, 0, 0, 0}), 9);
    assert_memory_equal(t.visible + 8 * 9, ((uint8_t[]){1, 0, 0, 1, 1, 0, 0, 1, 1}), 9);
    assert_int_equal(t.n_rows, 4); /* both 9 and both 4 */
    assert_int_equal(t.n_edges, 6);
    path_is(&t, 0, (int[]){0, 1}, ids[0] + 4, 2);
    path_is(&t, 1, (int[]){0}, ids[1] + 4, 1);
    path_is(&t, 2, (int[]){2, 3}, ids[2] + 4, 2);
    path_is(&t, 3, (int[]){2}, ids[3] + 4, 1);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(t.read[i], 4);
        assert_int_equal(t.own[i], 2 - i % 2);
    }
    assert_int_equal(trie_longest(&t), 6);
    arena_free(a);
}

/* The end is compared within a label: answer 7 begins 7 7, whatever was read before. */
static void end_token_follows_answers_behind_text_too(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){1, 8, 7}, (int32_t[]){1, 8, 7, 7}, (int32_t[]){2, 8, 7},
                            (int32_t[]){2, 8, 7, 7}};
    err    e = {0};
    trie   t;
    arena *a = arena_new(0);
    OK(trie_build(&t, ids, (int[]){3, 4, 3, 4}, (int[]){2, 2, 2, 2}, 4, END, a, &e), e);
    assert_true(t.end_token);
    assert_int_equal(t.n_tree, 8);
    assert_int_equal(t.n_rows, 6);
    path_is(&t, 2, (int[]){3, 4}, (int32_t[]){7, END}, 2);
    path_is(&t, 3, (int[]){3, 4, 5}, (int32_t[]){7, 7, END}, 3);
    assert_int_equal(trie_longest(&t), 5);
    arena_free(a);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
    const int32_t *ids[] = {(int32_t[]){1, 2, 3}, (int32_t[]){1, 2, 4}};
    err    e = {0};
    trie   t;
    arena *a = arena_new(64); /* less than the nodes take */
    FAILS(trie_build(&t, ids, (int[]){3, 3}, NULL, 2, END, a, &e), e, ERR_MEMORY, "");
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_token_answers_need_no_row),
        cmocka_unit_test(shared_tokens_are_one_row),
        cmocka_unit_test(end_token_is_added_to_all_when_one_answer_begins_another),
        cmocka_unit_test(equal_token_rows_need_no_end),
        cmocka_unit_test(single_answer_is_a_chain),
        cmocka_unit_test(trees_past_the_limit_are_refused_by_name),
        cmocka_unit_test(text_to_read_is_not_scored_and_comes_before_what_is),
        cmocka_unit_test(end_token_follows_answers_behind_text_too),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
