/* test_demo.c - the demonstration model's reader on the CUDA table: PyTorch's answers, numbers close to those of the
 * CPU's path of that precision, and in bf16, as larger models are served, the same bits for a case alone, among
 * others, with cached prefixes and with its candidates in any order. */
#include "tests/reader/demo_world.h"
#ifdef JOMED_SIMT
#include "tests/simt/control.h"
#endif

enum { CACHE = 64 << 20, K = 2 /* of DEMO_K, where bits are compared */ };

/* The likeliest answer by the mixture of the candidates' distributions, all of one weight; *margin to the next
 * one. */
static int answer_of(const float *logp, int A, double *margin)
{
    double p[8] = {0};
    assert_true(A <= 8);
    for (int i = 0; i < DEMO_K; i++) {
        double sum = 0;
        for (int j = 0; j < A; j++) sum += exp((double)logp[i * A + j]);
        for (int j = 0; j < A; j++) p[j] += exp((double)logp[i * A + j]) / sum / DEMO_K;
    }
    int best = 0;
    for (int j = 1; j < A; j++) best = p[j] > p[best] ? j : best;
    *margin = 1;
    for (int j = 0; j < A; j++)
        if (j != best) *margin = fmin(*margin, p[best] - p[j]);
    return best;
}

/* of_cpu, of_pytorch: what a log-likelihood may be off by. */
static void compare_all(precision p, double of_cpu, double of_pytorch)
{
    static const struct { const char *task, *split; int first, step, n; } set[] = {
#ifdef JOMED_SIMT
        {"retina", "test", 0, 1, 1}, {"pneumonia", "val", 1, 1, 1}, {"breast", "test", 0, 1, 1}};
    const size_t n_sets = p == PRECISION_F32 ? 1 : sizeof set / sizeof *set; /* ten seconds a case */
#else
        {"breast", "val", 0, 1, 30},     {"breast", "test", 0, 1, 60}, {"pneumonia", "val", 0, 1, 30},
        {"pneumonia", "test", 0, 1, 60}, {"retina", "val", 0, 1, 30},  {"retina", "test", 0, 1, 60}};
    const size_t n_sets = sizeof set / sizeof *set;
#endif
    world gpu = open_world_on("cuda:0", p, CACHE, 1), host = open_world_on("cpu", p, CACHE, 1);
    for (size_t s = 0; s < n_sets; s++)
        for (int i = set[s].first, n = 0; n < set[s].n; n++, i += set[s].step) {
            demo_case    *c = demo_case_open(gpu.d, set[s].task, set[s].split, i);
            int           A = c->q.A;
            double        margin, ignored;
            reader_scores y = score(&gpu, &c->q), near = score(&host, &c->q);
            CLOSE(y.logp, near.logp, (size_t)(DEMO_K * A), of_cpu, "logp against the CPU's");
            CLOSE(y.logp, c->logp, (size_t)(DEMO_K * A), of_pytorch, "logp against PyTorch's");
            int want = answer_of(c->logp, A, &margin);
            if (margin > of_cpu && answer_of(y.logp, A, &ignored) != want)
                fail_msg("%s %s %d: another answer", set[s].task, set[s].split, i);
            demo_case_close(c);
        }
    close_world(&gpu);
    close_world(&host);
}

/* The CPU's bf16 path rounds what it multiplies, the GPU's all activations. */
static void answers_in_bf16_are_pytorchs(void **state) { (void)state, compare_all(PRECISION_BF16, 1e-2, 3e-2); }
static void answers_in_f32_are_pytorchs(void **state) { (void)state, compare_all(PRECISION_F32, 1e-4, 1e-4); }

static void a_case_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    world      w = open_world_on("cuda:0", PRECISION_BF16, CACHE, 1);
    demo_case *c = demo_case_open(w.d, "retina", "test", 11), *other = demo_case_open(w.d, "breast", "test", 5);
    int        A = c->q.A;
    c->q.K = other->q.K = K;
    size_t     n = (size_t)(K * A), one = (size_t)A;
    reader_scores cold = score(&w, &c->q), warm = score(&w, &c->q);
    assert_int_equal(cold.n_cached, 0);
    assert_int_equal(warm.n_cached, K);
    assert_memory_equal(warm.logp, cold.logp, n * sizeof(float));

    reader_cache_clear(w.r);
    for (int i = 0; i < K; i++) { /* each candidate alone */
        reader_query q = c->q;
        q.z = &c->z[i];
        q.K = 1;
        reader_scores y = score(&w, &q);
        assert_memory_equal(y.logp, cold.logp + i * A, one * sizeof(float));
    }

    const reader_passage turned[K] = {c->z[1], c->z[0]};
    reader_query q = c->q;
    q.z = turned;
    reader_cache_clear(w.r);
    reader_scores y = score(&w, &q);
    for (int i = 0; i < K; i++) assert_memory_equal(y.logp + i * A, cold.logp + (K - 1 - i) * A, one * sizeof(float));

    reader_cache_clear(w.r); /* packed with another request's candidates */
    err           e[2] = {{0}, {0}}, all = {0};
    reader_scores out[2];
    reader_job    job[2] = {{&other->q, w.a, &out[0], &e[0]}, {&c->q, w.a, &out[1], &e[1]}};
    OK(reader_score_many(w.r, w.k, job, 2, &all), all);
    assert_int_equal(e[0].code, ERR_NONE);
    assert_int_equal(e[1].code, ERR_NONE);
    assert_memory_equal(out[1].logp, cold.logp, n * sizeof(float));
#ifdef JOMED_SIMT
    assert_true(simt_cublaslt_products() > 0); /* the library had its part in them */
#endif
    demo_case_close(c);
    demo_case_close(other);
    close_world(&w);
}

#ifdef JOMED_SIMT
/* Steps of decoding have our own kernels, whatever the library would give: more tokens, no more products by it. */
static void steps_are_not_the_librarys(void **state)
{
    (void)state;
    world       w = open_world_on("cuda:0", PRECISION_BF16, CACHE, 1);
    demo_case  *c = demo_case_open(w.d, "breast", "test", 0);
    const float half[K] = {0.5f, 0.5f};
    long        done[2];
    int         tokens[2];
    err         e = {0};
    c->q.K = K;
    for (int i = 0; i < 2; i++) {
        reader_decoding d = {.weight = half, .max_new_tokens = 1 + 2 * i, .beams = 1 + i, .repetition_penalty = 1};
        reader_text     y;
        long            before = simt_cublaslt_products();
        reader_cache_clear(w.r);
        OK(reader_generate(w.r, w.k, &c->q, &d, w.a, &y, &e), e);
        done[i] = simt_cublaslt_products() - before;
        tokens[i] = y.n_tokens;
        assert_false(w.k->decoding);
    }
    assert_true(done[0] > 0 && tokens[1] > tokens[0]);
    assert_int_equal(done[0], done[1]);
    demo_case_close(c);
    close_world(&w);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_in_bf16_are_pytorchs),
        cmocka_unit_test(answers_in_f32_are_pytorchs),
        cmocka_unit_test(a_case_has_the_same_bits_in_any_company),
#ifdef JOMED_SIMT
        cmocka_unit_test(steps_are_not_the_librarys),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
