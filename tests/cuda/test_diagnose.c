/* test_diagnose.c - the demonstration's cases over the whole path, from a picture's bytes to the posterior: the
 * device answers what the CPU answers in f32, and a case has the same bits alone, with a warm cache, and among
 * others with a cold one. On a GPU all 270 synthetic cases in f32 and in bf16, in the emulation one and two. */
#include "tests/diagnose/demo.h"

#include "base/file.h"
#include "base/json.h"
#ifdef JOMED_SIMT
#include "tests/simt/control.h"
#endif

enum { MOST = 60, MAX_A = 8 };
#ifdef JOMED_SIMT
static const struct { const char *task, *split; int n; } SET[] = {{"retina", "val", 2}};
enum { F32_CASES = 1 };
#else
static const struct { const char *task, *split; int n; } SET[] = {
    {"breast", "val", 30},     {"breast", "test", 60}, {"pneumonia", "val", 30},
    {"pneumonia", "test", 60}, {"retina", "val", 30},  {"retina", "test", 60}};
enum { F32_CASES = MOST };
#endif
enum { N_SETS = sizeof SET / sizeof *SET };

/* What a posterior may differ by from the CPU's in f32. f32: the same sums in another order, 2^-24 a step, over a
 * few hundred terms and nine layers (PyTorch's differ by 2.4e-7). bf16: activations are rounded to 2^-9 between
 * operations, which moves a log-likelihood by up to 1e-2 (test_demo.c), and p by p (1 - p) times as much for each
 * of two answers that move apart. No answer may turn: of the 270 posteriors the closest has 1.04e-2 between its
 * two likeliest answers, and half of that, from each, would turn it. */
static const double POSTERIOR[] = {[PRECISION_F32] = 1e-5, [PRECISION_BF16] = 5e-3};
/* The retriever is f32 on either device. A head's second and third candidate are 1.05e-5 apart or more, or equal. */
static const double SCORE = 4e-6, WEIGHT = 1e-4;

typedef struct { kernels *k; engine en; arena *a[MAX_TOGETHER]; } side;
typedef struct {
    diagnose_request q;
    char            *image;
    json_t          *line;
    const char      *answers[MAX_A];
} asked;

static side open_side(const char *device, products_choice p)
{
    engine_options o = demo_options();
    side           s = {0};
    err            e = {0};
    o.device = device;
    o.products = p;
    if (!engine_kernels(&s.k, &o, &e)) {
        if (e.code == ERR_USAGE) SKIP("%s", e.text);
        fail_msg("%s", e.text);
    }
    OK(engine_open(&s.en, &o, s.k, &e), e);
    for (int i = 0; i < MAX_TOGETHER; i++) s.a[i] = arena_new(0);
    return s;
}

static void close_side(side *s)
{
    for (int i = 0; i < MAX_TOGETHER; i++) arena_free(s->a[i]);
    engine_close(&s->en);
    s->k->close(s->k);
}

/* The first n cases of set i. */
static void open_cases(asked *c, int i, int n)
{
    char   path[128], *lines, *at;
    size_t bytes;
    err    e = {0};
    snprintf(path, sizeof path, DEMO("synthetic/%s_%s.jsonl"), SET[i].task, SET[i].split);
    OK(file_read(&lines, &bytes, path, 1 << 20, &e), e);
    at = lines;
    for (int j = 0; j < n; j++, at += strcspn(at, "\n") + 1) {
        json_t       *line = json_loadb(at, strcspn(at, "\n"), 0, NULL);
        const json_t *answers = json_object_get(line, "answers");
        assert_non_null(line);
        c[j] = (asked){.line = line};
        c[j].q = (diagnose_request){.question = json_string_value(json_object_get(line, "question")),
                                    .answers = c[j].answers,
                                    .n_answers = (int)json_array_size(answers),
                                    .k = 2};
        assert_in_range(c[j].q.n_answers, 2, MAX_A);
        for (int a = 0; a < c[j].q.n_answers; a++)
            c[j].answers[a] = json_string_value(json_array_get(answers, (size_t)a));
        snprintf(path, sizeof path, DEMO("synthetic/%s"), json_string_value(json_object_get(line, "image_path")));
        OK(file_read(&c[j].image, &c[j].q.image_bytes, path, 1 << 20, &e), e);
        c[j].q.image = (const uint8_t *)c[j].image;
    }
#ifndef JOMED_SIMT
    assert_true(*at == 0); /* all of them */
#endif
    free(lines);
}

static void close_cases(asked *c, int n)
{
    for (int j = 0; j < n; j++) {
        json_decref(c[j].line);
        free(c[j].image);
    }
}

/* n cases together, 1 <= n <= MAX_TOGETHER; what out holds lives until the side is asked again. */
static void answer_them(side *s, const asked *c, int n, answer *out)
{
    diagnose_job job[MAX_TOGETHER];
    err          e[MAX_TOGETHER] = {0};
    for (int i = 0; i < n; i++) {
        arena_reset(s->a[i]);
        job[i] = (diagnose_job){&c[i].q, s->a[i], &out[i], &e[i]};
    }
    diagnose_many(&s->en, s->k, job, n);
    for (int i = 0; i < n; i++)
        if (e[i].code) fail_msg("%s", e[i].text);
}

static const evidence *of_passage(const answer *x, int64_t id)
{
    for (int k = 0; k < x->K; k++)
        if (x->z[k].c.id == id) return &x->z[k];
    fail_msg("passage %lld is not retrieved", (long long)id);
    return NULL;
}

/* The same candidates and answer; the largest difference between the posteriors goes to *worst. */
static void agree(const answer *got, const answer *want, double *worst)
{
    assert_int_equal(got->K, want->K);
    for (int k = 0; k < want->K; k++) {
        const evidence *w = &want->z[k], *g = of_passage(got, w->c.id);
        assert_int_equal(g->c.heads, w->c.heads);
        for (int h = 0; h < N_HEADS; h++) assert_true(fabs((double)g->c.score[h] - w->c.score[h]) <= SCORE);
        assert_true(fabs((double)g->c.weight - w->c.weight) <= WEIGHT);
    }
    for (int a = 0; a < want->A; a++) {
        double d = fabs((double)got->prob[a] - want->prob[a]);
        assert_false(isnan(d));
        *worst = fmax(*worst, d);
    }
    assert_int_equal(got->answer, want->answer);
}

/* The first n cases of set i on the device: each alone against the CPU's, then once more, then all together. */
static void run_set(side *gpu, side *host, int i, int n, double *worst)
{
    asked  c[MOST];
    answer out[MAX_TOGETHER], want;
    float  alone[MOST][MAX_A];
    open_cases(c, i, n);
    for (int j = 0; j < n; j++) {
        size_t bytes = (size_t)c[j].q.n_answers * sizeof(float);
        answer_them(host, &c[j], 1, &want);
        answer_them(gpu, &c[j], 1, out);
        agree(out, &want, worst);
        memcpy(alone[j], out->prob, bytes);
        answer_them(gpu, &c[j], 1, out);
        assert_int_equal(out->n_cached, out->K);
        assert_memory_equal(out->prob, alone[j], bytes);
    }
    reader_cache_clear(gpu->en.reader);
    for (int j = 0; j < n; j += MAX_TOGETHER) {
        int m = n - j < MAX_TOGETHER ? n - j : MAX_TOGETHER;
        answer_them(gpu, c + j, m, out);
        for (int x = 0; x < m; x++)
            assert_memory_equal(out[x].prob, alone[j + x], (size_t)c[j + x].q.n_answers * sizeof(float));
    }
    close_cases(c, n);
}

static void every_case(products_choice choice, precision p, int most)
{
    side   gpu = open_side("cuda:0", choice), host = open_side("cpu", PRODUCTS_F32);
    double worst = 0;
    int    n = 0;
    for (int i = 0; i < N_SETS; i++) {
        int m = SET[i].n < most ? SET[i].n : most;
        run_set(&gpu, &host, i, m, &worst);
        n += m;
    }
    printf("# %s: %d cases, posteriors differ from the CPU's by at most %.2g\n", gpu.k->name, n, worst);
    if (!(worst <= POSTERIOR[p])) fail_msg("posteriors differ by %.3g, allowed %.3g", worst, POSTERIOR[p]);
    close_side(&gpu);
    close_side(&host);
}

static void every_case_in_f32(void **state) { (void)state, every_case(PRODUCTS_F32, PRECISION_F32, F32_CASES); }
static void every_case_in_bf16(void **state) { (void)state, every_case(PRODUCTS_BF16, PRECISION_BF16, MOST); }

#ifdef JOMED_SIMT
/* In the retriever's table and in the reader's: what a server's worker relies on when it asks its own case again. */
static void memory_that_runs_out_fails_one_request(void **state)
{
    (void)state;
    side     gpu = open_side("cuda:0", PRODUCTS_BF16);
    asked    c;
    answer   out;
    float    want[MAX_A];
    open_cases(&c, 0, 1);
    size_t   bytes = (size_t)c.q.n_answers * sizeof(float);
    answer_them(&gpu, &c, 1, &out); /* the passages' prefixes are cached from here on */
    memcpy(want, out.prob, bytes);
    long     before = simt_calls();
    answer_them(&gpu, &c, 1, &out);
    long     calls = simt_calls() - before, n[] = {20, calls - 8};
    for (int i = 0; i < 2; i++) {
        err e = {0};
        simt_fail(cudaErrorMemoryAllocation, n[i]);
        assert_false(diagnose(&gpu.en, gpu.k, &c.q, gpu.a[0], &out, &e));
        assert_int_equal(e.code, ERR_MEMORY);
        assert_non_null(strstr(e.text, i == 0 ? ", f32, " : ", bf16, ")); /* the retriever's table, the reader's */
        answer_them(&gpu, &c, 1, &out);
        assert_memory_equal(out.prob, want, bytes);
    }
    close_cases(&c, 1);
    close_side(&gpu);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_in_f32),
        cmocka_unit_test(every_case_in_bf16),
#ifdef JOMED_SIMT
        cmocka_unit_test(memory_that_runs_out_fails_one_request),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
