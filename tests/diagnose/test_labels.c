/* test_labels.c - fails when a multi-label request that cannot be answered is let through or blames the wrong
 * field, when what is concluded from the scores is not the formula, or when a label is not the closed question
 * that it stands for. */
#include "tests/diagnose/demo.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "diagnose/json.h"
#include "diagnose/labels.h"

/* ---- what is refused ---- */

static diagnose_request good(void)
{
    static const uint8_t     bytes[] = {1};
    static const char *const labels[] = {"Effusion", "Nodule"};
    return (diagnose_request){
        .image = bytes, .image_bytes = 1, .question = "Is it?", .labels = labels, .n_labels = 2, .k = 2};
}

static void refused(const diagnose_request *q, const char *problem, const char *part)
{
    err e = {0};
    assert_false(diagnose_check(q, &e));
    assert_int_equal(e.code, ERR_UNUSABLE);
    assert_string_equal(e.problem, problem);
    assert_string_equal(e.field, "labels");
    if (!strstr(e.text, part)) fail_msg("'%s' lacks '%s'", e.text, part);
}

static void labels_that_cannot_be_asked_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const answers[] = {"Yes", "No"};
    static char              number[MAX_LABELS + 1][12], longest[MAX_LABEL_BYTES + 2];
    const char              *list[MAX_LABELS + 1] = {"a", "b"};
    err                      e = {0};
    diagnose_request         q = good();
    OK(diagnose_check(&q, &e), e);
    assert_int_equal(diagnose_task(&q), TASK_LABELS);
    q.answers = answers;
    q.n_answers = 2;
    refused(&q, "field-conflict", "both given");
    q = good();
    q.n_labels = 0; /* [] is not an open question */
    refused(&q, "labels-too-few", "at least 1");
    q.labels = list;
    q.n_labels = 2;
    list[1] = "";
    refused(&q, "label-empty", "labels[1] is empty");
    list[1] = " \t\r\n";
    refused(&q, "label-empty", "labels[1] is empty");
    list[1] = "a";
    refused(&q, "label-duplicate", "labels[1] equals labels[0]");
    list[1] = "caf\xe9";
    refused(&q, "text-not-utf8", "labels[1]");
    memset(longest, 'x', MAX_LABEL_BYTES + 1);
    list[1] = longest;
    refused(&q, "label-too-long", "201 bytes, at most 200");
    longest[MAX_LABEL_BYTES] = 0;
    OK(diagnose_check(&q, &e), e);
    q.n_labels = 1;
    OK(diagnose_check(&q, &e), e);
    for (int i = 0; i <= MAX_LABELS; i++) {
        snprintf(number[i], sizeof number[i], "%d", i);
        list[i] = number[i];
    }
    q.n_labels = MAX_LABELS;
    OK(diagnose_check(&q, &e), e);
    q.n_labels = MAX_LABELS + 1;
    refused(&q, "labels-too-many", "65 given, at most 64");
    q = good();
    q.question = "";
    assert_false(diagnose_check(&q, &e));
    assert_string_equal(e.field, "question");
}

/* ---- what is concluded ---- */

enum { K = 2, L = 3 };

/* Two candidates, weights 0.75 and 0.25; log-likelihoods of Yes and No chosen so that p_k(label) is a round
 * number. */
typedef struct {
    answer ans;
    evidence z[K];
    reader_scores s;
    float logp[K * L * 2], logit[K * L * 2];
    diagnose_request q;
} made;

static void make(made *m, const double p[K][L])
{
    static const char *const label[] = {"x", "y", "z"};
    *m = (made){.q = {.labels = label, .n_labels = L}, .s = {.n_cached = 1, .prompt_tokens = 77}};
    m->s.logp = m->logp;
    m->s.logit = m->logit;
    m->z[0].c = (candidate){.id = 9, .weight = 0.75f};
    m->z[1].c = (candidate){.id = 4, .weight = 0.25f};
    m->ans = (answer){.task = TASK_LABELS, .K = K, .z = m->z};
    for (int i = 0; i < K * L; i++) {
        double odds = log(p[i / L][i % L] / (1 - p[i / L][i % L]));
        m->logp[2 * i] = (float)(odds - 3);
        m->logp[2 * i + 1] = -3;
        m->logit[2 * i] = (float)odds + 5;
        m->logit[2 * i + 1] = 5;
    }
}

static void marginals_differ_from_the_formula(void **state)
{
    (void)state;
    static const double p[K][L] = {{0.8, 0.4, 0.1}, {0.6, 0.8, 0.2}};
    made   m;
    err    e = {0};
    arena *a = arena_new(0);
    make(&m, p);
    OK(labels_conclude(&m.q, &m.s, &m.ans, a, &e), e);
    double entropy = 0;
    for (int l = 0; l < L; l++) {
        double want = 0.75 * p[0][l] + 0.25 * p[1][l]; /* 0.75, 0.5, 0.125 */
        assert_float_equal(m.ans.label_prob[l], want, 1e-6);
        entropy -= want * log(want) + (1 - want) * log(1 - want);
        for (int k = 0; k < K; k++) assert_float_equal(m.z[k].label_prob[l], p[k][l], 1e-6);
    }
    assert_float_equal(m.ans.entropy, entropy, 1e-5);
    assert_int_equal(m.ans.L, L);
    assert_false(m.ans.consistent); /* {x} and {x, y} */
    assert_int_equal(m.ans.n_cached, 1);
    assert_int_equal(m.ans.prompt_tokens, 77);
    assert_ptr_equal(m.z[1].logp, m.logp + 2 * L);

    m.q.mode = MODE_REFERENCE; /* log-odds are averaged */
    OK(labels_conclude(&m.q, &m.s, &m.ans, a, &e), e);
    for (int l = 0; l < L; l++) {
        double odds = 0.75 * log(p[0][l] / (1 - p[0][l])) + 0.25 * log(p[1][l] / (1 - p[1][l]));
        assert_float_equal(m.ans.label_prob[l], 1 / (1 + exp(-odds)), 1e-6);
    }
    arena_free(a);
}

/* PyTorch's marginals of all three checkpoints from PyTorch's own log-likelihoods and logits; that the reader's
 * are these is tests/reader/test_labels.c. */
enum { GOLD_K = 4, GOLD_L = 16 };

static void read_pairs(float *out, const json_t *all, int n_k, int n_l)
{
    for (int k = 0; k < n_k; k++)
        for (int l = 0; l < n_l; l++)
            for (int i = 0; i < 2; i++)
                out[(k * n_l + l) * 2 + i] = (float)json_number_value(
                    json_array_get(json_array_get(json_array_get(all, (size_t)k), (size_t)l), (size_t)i));
}

static void is_list(const json_t *want, const float *got, int n, const char *what)
{
    assert_int_equal(json_array_size(want), n);
    for (int i = 0; i < n; i++) {
        double x = json_number_value(json_array_get(want, (size_t)i));
        if (fabs(x - (double)got[i]) > 1e-5) fail_msg("%s[%d]: %.8f, PyTorch has %.8f", what, i, (double)got[i], x);
    }
}

static void marginals_differ_from_those_of_pytorch(void **state)
{
    (void)state;
    err     e = {0};
    json_t *root, *one;
    size_t  at;
    OK(json_open(&root, FIXTURE("golden/labels.json"), &e), e);
    assert_int_equal(json_array_size(root), 3);
    json_array_foreach(root, at, one) {
        static float     logp[GOLD_K * GOLD_L * 2], logit[GOLD_K * GOLD_L * 2];
        const json_t    *z = json_object_get(one, "candidates"), *each = json_object_get(one, "each");
        int              n_k = (int)json_array_size(z), n_l = (int)json_array_size(json_object_get(one, "labels"));
        evidence         found[GOLD_K] = {0};
        reader_scores    s = {.logp = logp, .logit = logit};
        diagnose_request q = {.n_labels = n_l};
        answer           ans = {.task = TASK_LABELS, .K = n_k, .z = found};
        arena           *a = arena_new(0);
        assert_in_range(n_k, 2, GOLD_K);
        assert_in_range(n_l, 2, GOLD_L);
        read_pairs(logp, json_object_get(one, "logp"), n_k, n_l);
        read_pairs(logit, json_object_get(one, "logit"), n_k, n_l);
        for (int k = 0; k < n_k; k++)
            found[k].c = (candidate){
                .id = k,
                .weight = (float)json_number_value(json_object_get(json_array_get(z, (size_t)k), "weight"))};
        OK(labels_conclude(&q, &s, &ans, a, &e), e);
        is_list(json_object_get(one, "paper"), ans.label_prob, n_l, "paper");
        for (int k = 0; k < n_k; k++) is_list(json_array_get(each, (size_t)k), found[k].label_prob, n_l, "each");
        q.mode = MODE_REFERENCE;
        OK(labels_conclude(&q, &s, &ans, a, &e), e);
        is_list(json_object_get(one, "reference"), ans.label_prob, n_l, "reference");
        arena_free(a);
    }
    json_decref(root);
}

static void agreement_counts_the_whole_set(void **state)
{
    (void)state;
    made   m;
    err    e = {0};
    arena *a = arena_new(0);
    make(&m, (const double[K][L]){{0.9, 0.2, 0.1}, {0.6, 0.3, 0.7}}); /* fused {x}: the first one's set */
    OK(labels_conclude(&m.q, &m.s, &m.ans, a, &e), e);
    assert_float_equal(m.ans.agreement, 0.75, 1e-7);
    assert_false(m.ans.consistent);
    make(&m, (const double[K][L]){{0.9, 0.2, 0.1}, {0.6, 0.3, 0.4}});
    OK(labels_conclude(&m.q, &m.s, &m.ans, a, &e), e);
    assert_float_equal(m.ans.agreement, 1, 1e-7);
    assert_true(m.ans.consistent);
    /* fused 0.475, 0.575: {y}, which only the second says */
    make(&m, (const double[K][L]){{0.6, 0.45, 0.1}, {0.1, 0.95, 0.1}});
    OK(labels_conclude(&m.q, &m.s, &m.ans, a, &e), e);
    assert_float_equal(m.ans.agreement, 0.25, 1e-7);
    assert_false(label_present(0.5f)); /* as likely as not is not present */
    m.logp[0] = NAN;
    FAILS(labels_conclude(&m.q, &m.s, &m.ans, a, &e), e, ERR_BUG, "not finite");
    arena_free(a);
}

/* ---- a whole request ---- */

typedef struct {
    kernels         *k;
    engine           en;
    char            *image;
    diagnose_request q;
    arena           *a;
} world;

static const char *const ASKED[] = {"Pneumonia", "Pleural effusion", "Cardiomegaly"};

static int set_up(void **state)
{
    err            e = {0};
    engine_options o = demo_options();
    world *w = calloc(1, sizeof *w);
    *state = w;
    demo_engine(&w->en, &w->k, &o);
    OK(file_read(&w->image, &w->q.image_bytes, DEMO("synthetic/pneumonia/test/0003.png"), 1 << 20, &e), e);
    w->a = arena_new(0);
    w->q.image = (uint8_t *)w->image;
    w->q.question = "Does this chest X-ray show this finding?";
    w->q.labels = ASKED;
    w->q.n_labels = 3;
    w->q.k = 2;
    return 0;
}

static int tear_down(void **state)
{
    world *w = *state;
    engine_close(&w->en);
    if (w->k) w->k->close(w->k);
    arena_free(w->a);
    free(w->image);
    free(w);
    return 0;
}

static answer answered(world *w, const diagnose_request *q)
{
    err    e = {0};
    answer ans;
    OK(diagnose(&w->en, w->k, q, w->a, &ans, &e), e);
    return ans;
}

static void a_label_is_the_closed_question_that_it_stands_for(void **state)
{
    world *w = *state;
    for (score_mode m = MODE_PAPER; m <= MODE_REFERENCE; m++) {
        diagnose_request q = w->q;
        q.mode = m;
        answer all = answered(w, &q);
        assert_int_equal(all.task, TASK_LABELS);
        assert_int_equal(all.L, 3);
        for (int l = 0; l < 3; l++) {
            char             question[200];
            diagnose_request one = w->q;
            snprintf(question, sizeof question, "%s\n%s?", w->q.question, ASKED[l]);
            one.mode = m;
            one.question = question;
            one.labels = NULL;
            one.n_labels = 0;
            one.answers = LABEL_ANSWERS;
            one.n_answers = 2;
            answer x = answered(w, &one);
            assert_memory_equal(&x.prob[0], &all.label_prob[l], sizeof(float));
            assert_int_equal(x.K, all.K);
            for (int k = 0; k < x.K; k++) {
                assert_memory_equal(&x.z[k].prob[0], &all.z[k].label_prob[l], sizeof(float));
                assert_memory_equal(x.z[k].logp, all.z[k].logp + 2 * l, 2 * sizeof(float));
            }
        }
    }
}

static void the_json_says_what_was_concluded(void **state)
{
    world  *w = *state;
    answer  ans = answered(w, &w->q);
    json_t *j = answer_json(&w->en, &w->q, &ans, "id"), *labels = json_object_get(j, "labels"), *one;
    size_t  i;
    int     n_present = 0;
    assert_non_null(j);
    assert_int_equal(json_array_size(labels), 3);
    json_array_foreach(labels, i, one)
    {
        assert_string_equal(json_string_value(json_object_get(one, "label")), ASKED[i]);
        assert_float_equal(json_number_value(json_object_get(one, "probability")), (double)ans.label_prob[i], 0);
        if (!label_present(ans.label_prob[i])) continue;
        assert_string_equal(json_string_value(json_array_get(json_object_get(j, "present"), (size_t)n_present++)),
                            ASKED[i]);
    }
    assert_int_equal(json_array_size(json_object_get(j, "present")), n_present);
    assert_float_equal(json_number_value(json_object_get(j, "entropy_nats")), (double)ans.entropy, 0);
    assert_null(json_object_get(j, "answer"));
    assert_null(json_object_get(j, "probabilities"));
    json_array_foreach(json_object_get(j, "evidence"), i, one)
    {
        const json_t *logp = json_object_get(one, "log_likelihoods");
        assert_int_equal(json_array_size(json_object_get(one, "probabilities")), 3);
        assert_int_equal(json_array_size(logp), 3);
        for (int l = 0; l < 3; l++) {
            double no = json_number_value(json_array_get(json_array_get(logp, (size_t)l), 1));
            assert_float_equal(no, (double)ans.z[i].logp[2 * l + 1], 0);
        }
        assert_int_equal(json_array_size(json_object_get(one, "mean_logits")), 3);
        assert_true(json_is_array(json_object_get(one, "present")));
    }
    json_decref(j);
}

static bool on_fresh_memory(world *w, const diagnose_request *q, float *prob, err *e)
{
    answer ans;
    arena *a = arena_new(0);
    if (!a) return err_set(e, ERR_MEMORY, "out of memory");
    bool ok = diagnose(&w->en, w->k, q, a, &ans, e);
    if (ok) memcpy(prob, ans.label_prob, 3 * sizeof *prob);
    arena_free(a);
    return ok;
}

static void each_allocation_of_a_request_may_fail(void **state)
{
    world           *w = *state;
    diagnose_request q = w->q;
    float            want[3], prob[3];
    err              e = {0};
    long             n = 0, failures = 0;
    q.k = 1;
    OK(on_fresh_memory(w, &q, want, &e), e);
    for (bool none_failed = false; !none_failed; n++) {
        e = (err){0};
        mem_fail_after(n);
        bool ok = on_fresh_memory(w, &q, prob, &e);
        none_failed = mem_fail_after(-1) <= n;
        if (ok) assert_memory_equal(prob, want, sizeof want);
        else {
            assert_int_equal(e.code, ERR_MEMORY);
            failures++;
        }
    }
    print_message("# %ld allocations failed in turn, %ld of them ended the request\n", n - 1, failures);
    assert_true(failures > 5);
    OK(on_fresh_memory(w, &q, prob, &e), e);
    assert_memory_equal(prob, want, sizeof want);
}

static void each_allocation_of_the_json_may_fail(void **state)
{
    world  *w = *state;
    answer  ans = answered(w, &w->q);
    json_t *j = NULL;
    long    n = 0;
    for (; !j; n++) {
        mem_fail_after(n);
        j = answer_json(&w->en, &w->q, &ans, "id");
        if (mem_fail_after(-1) <= n) assert_non_null(j); /* none failed */
        else assert_null(j);
    }
    assert_true(n > 100);
    json_decref(j);
}

int main(void)
{
    json_set_alloc_funcs(mem_alloc, mem_free); /* as the program does: the response's JSON may fail too */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_that_cannot_be_asked_are_refused_by_name),
        cmocka_unit_test(marginals_differ_from_the_formula), cmocka_unit_test(marginals_differ_from_those_of_pytorch),
        cmocka_unit_test(agreement_counts_the_whole_set),
        cmocka_unit_test(a_label_is_the_closed_question_that_it_stands_for),
        cmocka_unit_test(the_json_says_what_was_concluded),
        cmocka_unit_test(each_allocation_of_a_request_may_fail),
        cmocka_unit_test(each_allocation_of_the_json_may_fail),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
