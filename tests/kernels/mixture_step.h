/* mixture_step.h - steps of decoding on any table: kernels->mixture against mixture_of_logits() on that table's own
 * logits, and a beam's bits alone against those among others. */
#ifndef JOMED_TESTS_KERNELS_MIXTURE_STEP_H
#define JOMED_TESTS_KERNELS_MIXTURE_STEP_H

#include "tests/kernels/kern.h"
#include "kernels/mixture.h"

/* What is special: every row of the head the same; logits far apart, so that most probabilities are 0; and of the
 * last beam in its last branch all logits -inf but some of the last 200, all of them, one NaN, one +inf. */
typedef enum { STEP_PLAIN, STEP_EQUAL, STEP_WIDE, STEP_SOME_OUT, STEP_ALL_OUT, STEP_NAN, STEP_INF } step_kind;
typedef struct { int n, K, V, top; bool penalty; step_kind kind; } step_case;

enum { STEP_D = 8 };

/* Rows of the head come again every now and then, so that there are equal logits far apart. The first two elements
 * are 0 but where two large ones shall meet. */
static inline test_weight step_head(const step_case *c)
{
    test_weight w = random_weight(c->V, STEP_D, DTYPE_F32, 71);
    for (int v = 0; v < c->V; v++) {
        float *row = w.f32 + v * STEP_D;
        if (v % 5 == 4 || c->kind == STEP_EQUAL)
            memcpy(row, w.f32 + (c->kind == STEP_EQUAL ? 0 : v / 3) * STEP_D, STEP_D * sizeof *row);
        bool some = v % 3 == 0 || v < c->V - 200, one = v == c->V / 2;
        row[0] = row[1] = 0;
        if (c->kind == STEP_ALL_OUT || (c->kind == STEP_SOME_OUT && some)) row[0] = -1e30f;
        if (one && c->kind >= STEP_NAN) row[0] = 1e30f;
        if (one && c->kind == STEP_NAN) row[1] = -1e30f;
    }
    return w;
}

static inline float *step_rows(const step_case *c)
{
    size_t n = (size_t)c->n * (size_t)c->K * STEP_D;
    float *x = random_floats(n, 72, false);
    for (size_t i = 0; i < n; i++) x[i] = i % STEP_D < 2 ? 0 : c->kind == STEP_WIDE ? 100 * x[i] : x[i];
    if (c->kind >= STEP_SOME_OUT) x[n - STEP_D] = x[n - STEP_D + 1] = 1e30f;
    return x;
}

/* A tenth of the ids, others for each row. */
static inline uint64_t *step_seen(const step_case *c)
{
    size_t    words = id_set_words(c->V);
    uint64_t *seen = calloc((size_t)(c->n * c->K) * words, sizeof *seen);
    uint32_t  s = 73;
    assert_non_null(seen);
    for (int r = 0; r < c->n * c->K; r++)
        for (int32_t v = 0; v < c->V; v++)
            if (random_next(&s) % 10 == 0) id_set_add(seen + (size_t)r * words, &v, 1);
    return seen;
}

/* m with results of its own. */
static inline mixture_args step_args(const step_case *c, const float *w, const uint64_t *seen)
{
    size_t n = (size_t)c->n, top = (size_t)c->top, K = (size_t)c->K;
    return (mixture_args){.n = c->n,
                          .K = c->K,
                          .top = c->top,
                          .w = w,
                          .seen = seen,
                          .penalty = 1.3,
                          .token = calloc(n * top, sizeof(int32_t)),
                          .p = calloc(n * top, sizeof(double)),
                          .each = calloc(n * top * K, sizeof(double)),
                          .likeliest = calloc(n * K, sizeof(int32_t))};
}
static inline void step_free(mixture_args *m) { free(m->token), free(m->p), free(m->each), free(m->likeliest); }

static inline void step_near(const char *what, int b, int i, double got, double want, double bound)
{
    if (!(got == want || fabs(got - want) <= bound))
        fail_msg("beam %d, token %d: %s is %.17g, should be %.17g within %.3g", b, i, what, got, want, bound);
}

/* rounded: this many units in the last place of a double a term may be off, 0: the same bits. A row's sum has V
 * terms, none negative, each an exponential; log p is a logit less its logarithm. */
static inline void step_compare(const step_case *c, const mixture_args *got, const mixture_args *want, double largest,
                                double rounded)
{
    double relative = rounded * (c->V + 8) * 0x1p-52, of_log = relative + rounded * 4 * largest * 0x1p-52;
    for (int b = 0; b < c->n; b++) {
        int at = b * c->top;
        assert_int_equal(isnan(got->p[at]), isnan(want->p[at]));
        if (isnan(want->p[at])) continue;
        for (int i = at; i < at + c->top; i++) {
            if (got->token[i] != want->token[i])
                fail_msg("beam %d: token %d is %d, should be %d", b, i - at, got->token[i], want->token[i]);
            /* the last term: where numbers are no longer normal ones */
            step_near("p", b, i - at, got->p[i], want->p[i], relative * want->p[i] + rounded * 0x1p-1070);
            for (int k = i * c->K; k < (i + 1) * c->K; k++)
                step_near("log p", b, i - at, got->each[k], want->each[k], of_log);
        }
        for (int k = b * c->K; k < (b + 1) * c->K; k++) assert_int_equal(got->likeliest[k], want->likeliest[k]);
    }
}

/* Beam b by itself: what it is among others, to the bit. */
static inline void step_alone(kernels *k, const step_case *c, const mixture_args *all, int b, const act *x,
                              const weight *w)
{
    step_case    one = *c;
    size_t       words = id_set_words(c->V), top = (size_t)c->top, K = (size_t)c->K, mark = k->mark(k);
    uint64_t    *seen = all->seen ? malloc(K * words * sizeof *seen) : NULL;
    act         *rows = k->take(k, K * STEP_D);
    one.n = 1;
    mixture_args m = step_args(&one, all->w, seen);
    for (size_t i = 0; i < K; i++) {
        size_t row = i * (size_t)c->n + (size_t)b;
        k->copy(k, act_at(k, rows, i * STEP_D), act_at(k, x, row * STEP_D), STEP_D);
        if (seen) memcpy(seen + i * words, all->seen + row * words, words * sizeof *seen);
    }
    k->mixture(k, &m, rows, w);
    kern_ok(k);
    const double *p = all->p + (size_t)b * top;
    assert_int_equal(isnan(*m.p), isnan(*p));
    if (!isnan(*p)) {
        assert_memory_equal(m.p, p, top * sizeof *p);
        assert_memory_equal(m.token, all->token + (size_t)b * top, top * sizeof *m.token);
        assert_memory_equal(m.each, all->each + (size_t)b * top * K, top * K * sizeof *m.each);
        assert_memory_equal(m.likeliest, all->likeliest + (size_t)b * K, K * sizeof *m.likeliest);
    }
    k->back(k, mark);
    step_free(&m);
    free(seen);
}

static inline void check_step(kernels *k, const step_case *c, double rounded)
{
    size_t        R = (size_t)(c->n * c->K), V = (size_t)c->V;
    test_weight   head = step_head(c);
    float        *x = step_rows(c), *logit = malloc(R * V * sizeof *logit);
    float        *weights = malloc((size_t)c->K * sizeof *weights);
    uint64_t     *seen = c->penalty ? step_seen(c) : NULL;
    double       *p = malloc(V * sizeof *p), *part = malloc(V * sizeof *part), largest = 0;
    row_facts    *facts = malloc((size_t)c->K * sizeof *facts);
    act          *dx = k->alloc(k, R * STEP_D * (size_t)k->act_bytes);
    weight        w;
    err           e = {0};
    tensor        t = {.name = "w", .file = "test", .data = head.f32, .type = DTYPE_F32};
    t.count = (int64_t)c->V * STEP_D;
    for (int i = 0; i < c->K; i++) weights[i] = (float)(i + 1) / (float)(c->K * (c->K + 1) / 2);
    mixture_args got = step_args(c, weights, seen), want = step_args(c, weights, seen);

    OK(k->weight_open(k, &w, &t, c->V, STEP_D, &e), e);
    k->put(k, dx, x, R * STEP_D);
    k->logits(k, logit, dx, (int)R, &w);
    kern_ok(k);
    for (size_t i = 0; i < R * V; i++)
        if (isfinite(logit[i])) largest = fmax(largest, 1.3 * fabs((double)logit[i]));
    uint64_t flops = k->flops;
    k->mixture(k, &got, dx, &w);
    kern_ok(k);
    assert_int_equal(k->flops - flops, product_flops((int)R, &w));
    mixture_of_logits(&want, logit, c->V, facts, p, part);
    step_compare(c, &got, &want, largest, rounded);
    for (int b = 0; b < c->n; b++) /* what a case is made for is in it */
        assert_int_equal(isnan(want.p[b * c->top]), c->kind > STEP_SOME_OUT && b == c->n - 1);
    if (c->kind == STEP_WIDE && c->top == c->V) assert_true(want.p[c->V - 1] == 0);
    step_alone(k, c, &got, 0, dx, &w);
    step_alone(k, c, &got, c->n - 1, dx, &w);

    k->free_(k, dx);
    k->weight_close(k, &w);
    step_free(&got);
    step_free(&want);
    free(x), free(logit), free(weights), free(seen), free(p), free(part), free(facts);
    random_weight_free(&head);
}

/* Scratch that does not hold the logits: an error, and then the table serves a smaller step. k has 1 MiB. */
static inline void check_small_scratch(kernels *k, double rounded)
{
    enum { N = 3, K = 4, V = 30000, TOP = 2 };
    static const float w[K] = {0.25f, 0.25f, 0.25f, 0.25f};
    test_weight        head = random_weight(V, STEP_D, DTYPE_F32, 74);
    tensor             t = {.name = "w", .file = "test", .data = head.f32, .type = DTYPE_F32, .count = V * STEP_D};
    weight             on;
    err                e = {0};
    step_case          c = {N, K, V, TOP, false, STEP_PLAIN};
    mixture_args       m = step_args(&c, w, NULL);
    size_t             mark = k->mark(k);
    act               *x = k->take(k, N * K * STEP_D);
    OK(k->weight_open(k, &on, &t, V, STEP_D, &e), e);
    k->mixture(k, &m, x, &on);
    FAILS(k->sync(k, &e), e, ERR_MEMORY, "scratch");
    k->back(k, mark);
    kernels_recover(k);
    k->weight_close(k, &on);
    check_step(k, &(step_case){2, 2, 3000, TOP, true, STEP_PLAIN}, rounded);
    step_free(&m);
    random_weight_free(&head);
}

/* Odd vocabularies around the sizes of tiles and chunks; one beam and one branch, and several; more rows than a
 * small tile has; all of the vocabulary wanted. */
static const step_case STEP_CASES[] = {
    {1, 1, 1, 1, false, STEP_PLAIN},       {1, 1, 127, 127, true, STEP_PLAIN},   {1, 3, 128, 5, false, STEP_PLAIN},
    {2, 2, 129, 129, true, STEP_PLAIN},    {1, 2, 1023, 7, true, STEP_PLAIN},    {3, 2, 1025, 12, false, STEP_PLAIN},
    {2, 2, 1100, 1100, true, STEP_PLAIN},  {1, 10, 3001, 3, false, STEP_PLAIN},  {8, 4, 2200, 24, true, STEP_PLAIN},
    {2, 2, 1500, 40, false, STEP_EQUAL},   {1, 1, 34000, 2, false, STEP_EQUAL},  {3, 1, 2500, 60, true, STEP_WIDE},
    {1, 2, 1040, 1040, false, STEP_WIDE},
    {2, 3, 1300, 9, false, STEP_SOME_OUT}, {1, 1, 300, 300, true, STEP_SOME_OUT}, {2, 2, 1300, 4, true, STEP_ALL_OUT},
    {3, 2, 1300, 4, false, STEP_NAN},      {1, 1, 1, 1, false, STEP_NAN},        {2, 2, 1300, 4, true, STEP_INF}};
enum { N_STEP_CASES = sizeof STEP_CASES / sizeof *STEP_CASES };

#endif
