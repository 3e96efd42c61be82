/* Labels of a request: each must come to what it would as a closed question of its own, to the last bit, whatever
 * other labels, candidates and caches there are; and to PyTorch's values (tests/oracle/make_labels.py). */
#include "tests/reader/golden.h"

#include "base/file.h"
#include "base/memory.h"
#include "imaging/image.h"
#include "reader/chat.h"
#include "reader/labels.h"

enum { K = 4, MOST_LABELS = 8 };
static const char *const YES_NO[2] = {"Yes", "No"};

/* A case of golden/labels.json, ready to be asked. */
typedef struct {
    kernels       *k;
    reader        *r;
    arena         *a;
    json_t        *root;
    const json_t  *j;
    safetensors   *decoded;
    image          img, pic[K];
    reader_passage z[K];
    const char    *label[MOST_LABELS];
    reader_query   q;
    int            loads;
} world;

static image picture_of(world *w, const char *folder, const char *name)
{
    err   e = {0};
    image img;
    char  path[256], *bytes;
    if (strstr(folder, "fixtures")) { /* Pillow's pixels */
        const tensor *t = safetensors_find(w->decoded, name);
        assert_non_null(t);
        return (image){.width = (int)t->dim[1], .height = (int)t->dim[0], .rgb = (uint8_t *)(uintptr_t)t->data};
    }
    size_t n;
    snprintf(path, sizeof path, "%s%s", folder, name);
    OK(file_read(&bytes, &n, path, 1 << 20, &e), e);
    OK(image_decode(&img, bytes, n, &IMAGE_LIMITS, w->a, &e), e);
    free(bytes);
    return img;
}

static bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    world *w = ctx;
    (void)a, (void)e;
    w->loads++;
    *out = w->pic[id];
    return true;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    assert_non_null(s);
    return s;
}

static world *open_world(const char *checkpoint, precision p, size_t cache, int threads)
{
    err     e = {0};
    size_t  i;
    json_t *one;
    char    dir[128];
    world  *w = calloc(1, sizeof *w);
    assert_non_null(w);
    OK(json_open(&w->root, FIXTURE("golden/labels.json"), &e), e);
    OK(safetensors_open(&w->decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    json_array_foreach(w->root, i, one)
        if (strcmp(text_of(one, "checkpoint"), checkpoint) == 0) w->j = one;
    assert_non_null(w->j);
    snprintf(dir, sizeof dir, FIXTURE("%s"), checkpoint);
    w->k = open_cpu(p, threads);
    w->r = open_reader(strcmp(checkpoint, "demo") == 0 ? DEMO("reader") : dir, cache, w->k);
    w->a = arena_new(0);

    const char   *folder = text_of(w->j, "folder");
    const json_t *z = json_object_get(w->j, "candidates"), *labels = json_object_get(w->j, "labels");
    w->img = picture_of(w, folder, text_of(w->j, "query"));
    w->q = (reader_query){.img = &w->img,
                          .question = text_of(w->j, "question"),
                          .answers = YES_NO,
                          .A = 2,
                          .labels = w->label,
                          .L = (int)json_array_size(labels),
                          .z = w->z,
                          .K = (int)json_array_size(z),
                          .load = load,
                          .load_ctx = w};
    assert_true(w->q.K <= K && w->q.L <= MOST_LABELS);
    for (int l = 0; l < w->q.L; l++) w->label[l] = json_string_value(json_array_get(labels, (size_t)l));
    for (int k = 0; k < w->q.K; k++) {
        const json_t *c = json_array_get(z, (size_t)k);
        w->pic[k] = picture_of(w, folder, text_of(c, "image"));
        w->z[k] = (reader_passage){k, text_of(c, "caption")};
    }
    return w;
}

static void close_world(world *w)
{
    safetensors_close(w->decoded);
    json_decref(w->root);
    arena_free(w->a);
    reader_close(w->r);
    w->k->close(w->k);
    free(w);
}

static reader_scores score(world *w, const reader_query *q)
{
    err           e = {0};
    reader_scores s;
    OK(reader_score(w->r, w->k, q, w->a, &s, &e), e);
    return s;
}

static void is_that_of_pytorch(const world *w, const char *what, const float *got, double tol)
{
    const json_t *all = json_object_get(w->j, what);
    for (int k = 0; k < w->q.K; k++)
        for (int l = 0; l < w->q.L; l++)
            for (int i = 0; i < 2; i++) {
                const json_t *one = json_array_get(json_array_get(all, (size_t)k), (size_t)l);
                double        want = json_number_value(json_array_get(one, (size_t)i));
                double x = (double)got[(k * w->q.L + l) * 2 + i];
                if (!(fabs(x - want) <= tol))
                    fail_msg("%s, candidate %d, label %d, %s: %.7f, PyTorch has %.7f", what, k, l, YES_NO[i], x,
                             want);
            }
}

static void labels_are_those_of_pytorch(void **state)
{
    (void)state;
    static const char *const checkpoint[] = {"qwen2vl-tiny", "pixtral-tiny", "demo"};
    for (int c = 0; c < 3; c++) {
        world        *w = open_world(checkpoint[c], PRECISION_F32, 0, 1);
        reader_scores y = score(w, &w->q);
        int           most = y.answer_tokens[0] > y.answer_tokens[1] ? y.answer_tokens[0] : y.answer_tokens[1];
        is_that_of_pytorch(w, "logp", y.logp, 1e-4 * most); /* per token */
        is_that_of_pytorch(w, "logit", y.logit, 1e-4 * 10); /* relative, of logits around 10 */
        assert_false(y.end_token);
        close_world(w);
    }
}

/* Label l of y against the closed question of its own. */
static void is_the_closed_question(world *w, const reader_query *q, const reader_scores *y, int l)
{
    err          e = {0};
    reader_query one = *q;
    one.question = label_question(q->question, q->labels[l], w->a, &e);
    one.labels = NULL;
    one.L = 0;
    reader_scores x = score(w, &one);
    assert_int_equal(x.answer_tokens[1], y->answer_tokens[2 * l + 1]);
    for (int k = 0; k < q->K; k++) {
        size_t at = ((size_t)k * (size_t)q->L + (size_t)l) * 2;
        assert_memory_equal(x.logp + 2 * k, y->logp + at, 2 * sizeof(float));
        assert_memory_equal(x.logit + 2 * k, y->logit + at, 2 * sizeof(float));
    }
}

static void a_label_has_the_bits_of_its_question_alone(void **state)
{
    (void)state;
    static const char *const checkpoint[] = {"qwen2vl-tiny", "pixtral-tiny", "demo"};
    for (int c = 0; c < 3; c++)
        for (precision p = PRECISION_F32; p <= PRECISION_BF16; p++) {
            world        *w = open_world(checkpoint[c], p, 1 << 22, 1);
            reader_scores y = score(w, &w->q);
            for (int l = 0; l < w->q.L; l++) is_the_closed_question(w, &w->q, &y, l);
            close_world(w);
        }
}

/* Alone, fewer, in another order, with candidates in another order, cold, warm, without a cache, by two threads. */
static void a_label_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    world        *w = open_world("demo", PRECISION_F32, 1 << 22, 1), *two = open_world("demo", PRECISION_F32, 0, 2);
    int           L = w->q.L, n = w->q.K * L * 2;
    reader_scores cold = score(w, &w->q), warm = score(w, &w->q), threads = score(two, &two->q);
    assert_int_equal(cold.n_cached, 0);
    assert_int_equal(warm.n_cached, w->q.K);
    assert_int_equal(w->loads, w->q.K);
    assert_memory_equal(warm.logp, cold.logp, (size_t)n * sizeof(float));
    assert_memory_equal(warm.logit, cold.logit, (size_t)n * sizeof(float));
    assert_memory_equal(threads.logp, cold.logp, (size_t)n * sizeof(float));

    for (int l = 0; l < L; l++) { /* the only label is all of the query part: no tree but the answers' */
        reader_query q = w->q;
        q.labels = &w->label[l];
        q.L = 1;
        reader_scores y = score(w, &q);
        for (int k = 0; k < q.K; k++)
            assert_memory_equal(y.logp + 2 * k, cold.logp + (k * L + l) * 2, 2 * sizeof(float));
    }
    static const int     label_from[] = {2, 0, 3, 1}, from[K] = {3, 1, 0, 2};
    const char          *turned_label[4];
    reader_passage       turned[K];
    reader_query         q = w->q;
    assert_true(L == 4 && q.K == K);
    for (int i = 0; i < 4; i++) turned_label[i] = w->label[label_from[i]], turned[i] = w->z[from[i]];
    q.labels = turned_label;
    q.z = turned;
    reader_scores y = score(w, &q);
    for (int k = 0; k < K; k++)
        for (int l = 0; l < L; l++)
            assert_memory_equal(y.logp + (k * L + l) * 2, cold.logp + (from[k] * L + label_from[l]) * 2,
                                2 * sizeof(float));
    close_world(w);
    close_world(two);
}

/* Read together with a closed question, in the same passes. */
static void labels_and_other_questions_do_not_show_in_each_other(void **state)
{
    (void)state;
    err           e = {0}, why[2] = {{0}};
    world        *w = open_world("demo", PRECISION_F32, 0, 1);
    reader_query  closed = w->q;
    closed.L = 0;
    closed.K = 2;
    closed.answers = (const char *const[]){"Yes", "No", "Perhaps"};
    closed.A = 3;
    reader_scores labels = score(w, &w->q), answers = score(w, &closed), got[2];
    reader_job    job[2] = {{&closed, w->a, &got[0], &why[0]}, {&w->q, w->a, &got[1], &why[1]}};
    OK(reader_score_many(w->r, w->k, job, 2, &e), e);
    OK(!why[0].code, why[0]);
    OK(!why[1].code, why[1]);
    assert_memory_equal(got[0].logp, answers.logp, 2 * 3 * sizeof(float));
    assert_memory_equal(got[1].logp, labels.logp, (size_t)(w->q.K * w->q.L * 2) * sizeof(float));
    assert_memory_equal(got[1].logit, labels.logit, (size_t)(w->q.K * w->q.L * 2) * sizeof(float));
    close_world(w);
}

/* Labels that a tokenizer joins with what stands in front of them, that begin or equal one another, that are
 * strange. */
static void awkward_labels_are_still_their_own_question(void **state)
{
    (void)state;
    static const char *const label[] = {"\n",           " ",         "?",        "a", "a?", "a? a", "\xcc\x81",
                                        "\xe2\x80\x8b", "e\xcc\x81", "\xc3\xa9", "1", "12", "'s",   "<|im_end|>"};
    static const char *const question[] = {"Which?", "Which? ", "Which\n", "Which:\n\n"};
    static const char *const checkpoint[] = {"qwen2vl-tiny", "pixtral-tiny"};
    for (int c = 0; c < 2; c++) {
        world *w = open_world(checkpoint[c], PRECISION_F32, 1 << 22, 1);
        for (int i = 0; i < 4; i++) {
            reader_query q = w->q;
            q.question = question[i];
            q.labels = label;
            q.L = sizeof label / sizeof *label;
            q.K = 1;
            reader_scores y = score(w, &q);
            for (int l = 0; l < q.L; l++) is_the_closed_question(w, &q, &y, l);
        }
        close_world(w);
    }
}

static void an_adapter_answers_for_labels_too(void **state)
{
    (void)state;
    world *w = open_world("qwen2vl-tiny", PRECISION_F32, 0, 1);
    reader_scores base = score(w, &w->q);
    reader_close(w->r);
    w->r = open_reader_with(FIXTURE("qwen2vl-tiny"), FIXTURE("qwen2vl-tiny-lora"), false, w->k);
    w->q.adapter = 1;
    reader_scores y = score(w, &w->q);
    assert_true(memcmp(y.logp, base.logp, (size_t)w->q.K * (size_t)w->q.L * 2 * sizeof(float)) != 0);
    for (int l = 0; l < w->q.L; l++) is_the_closed_question(w, &w->q, &y, l);
    close_world(w);
}

/* If one answer begins another the end token is scored for all, and a label is still its closed question. */
static void answers_that_begin_one_another_are_ended(void **state)
{
    (void)state;
    world       *w = open_world("demo", PRECISION_F32, 1 << 22, 1);
    reader_query q = w->q;
    q.answers = (const char *const[]){"Yes", "Yes, it is"};
    reader_scores y = score(w, &q);
    assert_true(y.end_token);
    for (int l = 0; l < q.L; l++) is_the_closed_question(w, &q, &y, l);
    close_world(w);
}

/* The demonstration reader's cost by hand, from its sizes (fixtures/README.md): the query part once a candidate,
 * each token of a label once, rows of the vocabulary's head only where an answer is scored. */
static uint64_t by_hand(int n_prefix, int n_query, const int *depth, int n_tree, int n_rows)
{
    const uint64_t P = 64, E = 128, D = 192, KV = 64, F = 512, L = 5, V = 1472;
    uint64_t vision = 2 * P * 1176 * E + 4 * (2 * P * 12 * E * E + 4 * P * P * E) + 2 * 16 * (512 * 512 + 512 * D);
    uint64_t keys = 2 * 2 * D * KV, rest = 2 * (2 * D * D + 3 * D * F);
    uint64_t n = (uint64_t)n_prefix, T = (uint64_t)n_query, N = (uint64_t)n_tree, rows = (uint64_t)n_rows;
    uint64_t before = n * L * keys + n * (L - 1) * rest + (L - 1) * 4 * D * (n * (n + 1) / 2);
    uint64_t query_pairs = T * n + T * (T + 1) / 2, tree_pairs = 0, last_pairs = 0;
    for (int i = 0; i < n_tree; i++) {
        tree_pairs += n + T + (uint64_t)depth[i];
        if (i >= n_tree - n_rows) last_pairs += n + T + (uint64_t)depth[i];
    }
    uint64_t query = (T + N) * (L * keys + (L - 1) * rest) + rows * rest
                   + 4 * D * ((L - 1) * (query_pairs + tree_pairs) + last_pairs) + 2 * rows * V * D;
    return 2 * vision + before + query;
}

static void the_work_is_the_minimum(void **state)
{
    (void)state;
    err           e = {0};
    world        *w = open_world("demo", PRECISION_F32, 0, 1);
    uint64_t      least = reader_minimum_flops(w->r, &w->q, w->a, &e);
    OK(least > 0, e);
    reader_scores y = score(w, &w->q);
    assert_int_equal(y.flops, least);

    reader_query one = w->q;
    picture      pic, query;
    prompt       pair, ask;
    trie         t;
    one.K = 1;
    OK(w->r->f->prepare(w->r->m, &pic, &w->pic[0], IMAGE_NATIVE, w->a, &e), e);
    OK(w->r->f->prepare(w->r->m, &query, &w->img, IMAGE_NATIVE, w->a, &e), e);
    OK(w->r->f->prefix(w->r->m, w->z[0].caption, &pic, &pair, w->a, &e), e);
    OK(labels_prepare(w->r, &w->q, &query, &ask, &t, w->a, &e), e);
    assert_int_equal(t.n_rows, w->q.L * 3); /* "Yes" and "No" are two tokens each: the row before them, and one
                                               within each */
    assert_int_equal(reader_minimum_flops(w->r, &one, w->a, &e),
                     by_hand(pair.n_ids, ask.n_ids, t.depth, t.n_tree, t.n_rows));

    uint64_t apart = 0; /* asked one by one */
    for (int l = 0; l < w->q.L; l++) {
        one = w->q;
        one.question = label_question(w->q.question, w->q.labels[l], w->a, &e);
        one.L = 0;
        apart += reader_minimum_flops(w->r, &one, w->a, &e);
    }
    assert_true(least < apart / 2);
    close_world(w);
}

/* With the tokenizer of a published family every token of "QUESTION\n" is shared, although "?\n" is one token of
 * Qwen2's, and what is left of a label is what it is tokenised to by itself. */
static void is_shared_whole(const bpe *b, const char *question, const json_t *labels)
{
    err     e = {0};
    arena  *a = arena_new(0);
    char   *line = arena_printf(a, &e, "%s\n", question);
    int32_t *shared;
    int      n;
    size_t   i;
    json_t  *label;
    OK(bpe_encode(b, line, strlen(line), false, false, &shared, &n, a, &e), e);
    json_array_foreach((json_t *)(uintptr_t)labels, i, label)
    {
        const char *name = json_string_value(label), *whole = label_question(question, name, a, &e);
        const char *rest = arena_printf(a, &e, "%s?", name);
        int32_t    *ids, *own;
        int         n_ids, n_own;
        OK(bpe_encode(b, whole, strlen(whole), false, false, &ids, &n_ids, a, &e), e);
        OK(bpe_encode(b, rest, strlen(rest), false, false, &own, &n_own, a, &e), e);
        if (n_ids != n + n_own || memcmp(ids, shared, (size_t)n * sizeof *ids) != 0
            || memcmp(ids + n, own, (size_t)n_own * sizeof *ids) != 0)
            fail_msg("label '%s' is not tokenised as by itself behind '%s'", name, question);
    }
    arena_free(a);
}

static void the_question_is_shared_whole_with_the_published_tokenizers(void **state)
{
    (void)state;
    static const char *const tokenizer[] = {"fixtures/tokenizers/qwen2/tokenizer.json",
                                            "fixtures/tokenizers/tekken/tokenizer.json"};
    static const char *const task[] = {"tasks/vindr-pcxr.json", "tasks/brset.json"};
    if (!file_exists(shared_path(tokenizer[0]))) SKIP("the published tokenizers are not here");
    json_t *odd = json_pack("[s,s,s,s,s,s]", "0", "14", "(none)", "T1/T2", "-", "\xe5\x9b\xbe");
    for (int t = 0; t < 2; t++) {
        err  e = {0};
        bpe *b;
        OK(bpe_open(&b, shared_path(tokenizer[t]), &e), e);
        for (int i = 0; i < 2; i++) {
            json_t *j;
            OK(json_open(&j, task[i], &e), e);
            assert_true(json_array_size(json_object_get(j, "labels")) >= 14);
            is_shared_whole(b, text_of(j, "question"), json_object_get(j, "labels"));
            json_decref(j);
        }
        is_shared_whole(b, "Findings:", odd);
        is_shared_whole(b, "Is this in the picture", odd);
        is_shared_whole(b, "\xe5\x9b\xbe?", odd);
        bpe_close(b);
    }
    json_decref(odd);
}

static void what_cannot_be_asked_names_the_field(void **state)
{
    (void)state;
    enum { WORDS = 1500 };
    static char long_label[3][2 * WORDS + 2];
    world        *w = open_world("demo", PRECISION_F32, 0, 1);
    reader_query  q = w->q;
    reader_scores y;
    err           e;
    for (int l = 0; l < 3; l++) {
        for (int i = 0; i < WORDS; i++) memcpy(long_label[l] + 2 * i, "7 ", 2);
        long_label[l][2 * WORDS] = (char)('a' + l);
        long_label[l][0] = (char)('a' + l);
    }
    q.labels = (const char *const[]){long_label[0], long_label[1], long_label[2]};
    q.L = 3;
    FAILS(reader_score(w->r, w->k, &q, w->a, &y, &e), e, ERR_UNUSABLE, "at most 4096");
    assert_string_equal(e.field, "labels");
    assert_string_equal(e.problem, "labels-too-long");
    q.labels = (const char *const[]){"fine", "caf\xe9"};
    q.L = 2;
    FAILS(reader_score(w->r, w->k, &q, w->a, &y, &e), e, ERR_UNUSABLE, "");
    assert_string_equal(e.field, "labels");
    q = w->q;
    q.answers = (const char *const[]){"Yes", ""};
    FAILS(reader_score(w->r, w->k, &q, w->a, &y, &e), e, ERR_UNUSABLE, "answer 2 of 2");
    assert_string_equal(e.field, "answers");
    assert_int_equal(w->loads, 0); /* seen before anything is computed */
    score(w, &w->q);
    close_world(w);
}

/* The n-th allocation fails, n = 0, 1, 2, ...: an error, or (where only the cache went without) the same bits. */
static void every_failed_allocation_is_an_error_or_harmless(void **state)
{
    (void)state;
    world        *w = open_world("demo", PRECISION_F32, 1 << 22, 1);
    reader_query  q = w->q;
    err           none = {0};
    /* the weights of its resize are larger than an arena's block */
    image         wide = {.width = 9000, .height = 200, .rgb = arena_take(w->a, 9000 * 200 * 3, &none)};
    assert_non_null(wide.rgb);
    q.img = &wide;
    q.K = 2;
    reader_scores want = score(w, &q);
    size_t        bytes = (size_t)q.K * (size_t)q.L * 2 * sizeof(float);
    int           errors = 0;
    for (long n = 0;; n++) {
        err           e = {0};
        reader_scores y;
        arena        *fresh = arena_new(0);
        reader_cache_clear(w->r);
        mem_fail_after(n);
        bool ok = reader_score(w->r, w->k, &q, fresh, &y, &e);
        bool reached = mem_fail_after(-1) > n;
        if (!ok) {
            if (e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
            errors++;
        } else assert_memory_equal(y.logp, want.logp, bytes);
        arena_free(fresh);
        if (!reached) break;
    }
    assert_true(errors > 0);
    reader_scores after = score(w, &q);
    assert_memory_equal(after.logp, want.logp, bytes);
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_those_of_pytorch),
        cmocka_unit_test(a_label_has_the_bits_of_its_question_alone),
        cmocka_unit_test(a_label_has_the_same_bits_in_any_company),
        cmocka_unit_test(labels_and_other_questions_do_not_show_in_each_other),
        cmocka_unit_test(awkward_labels_are_still_their_own_question),
        cmocka_unit_test(an_adapter_answers_for_labels_too),
        cmocka_unit_test(answers_that_begin_one_another_are_ended),
        cmocka_unit_test(the_work_is_the_minimum),
        cmocka_unit_test(the_question_is_shared_whole_with_the_published_tokenizers),
        cmocka_unit_test(what_cannot_be_asked_names_the_field),
        cmocka_unit_test(every_failed_allocation_is_an_error_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
