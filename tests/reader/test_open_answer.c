/* Open answers: PyTorch's tokens and likelihoods, the same bits whatever surrounds a case, text that streams in
 * whole characters, the least arithmetic, and an error instead of an answer when something fails. */
#include "tests/reader/copy.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "reader/candidate.h"
#include "reader/generate.h"

enum { MAX_CANDIDATES = 8, CACHE = 64 << 20 };

/* A case of golden/open.json, and the reader it is about. */
typedef struct {
    json_t         *file;
    const json_t   *j;      /* the case */
    kernels        *k;
    reader         *r;
    arena          *a, *pictures;
    image           img, of[MAX_CANDIDATES];
    reader_passage  z[MAX_CANDIDATES];
    float           w[MAX_CANDIDATES];
    unsigned        heads[MAX_CANDIDATES];
    reader_query    q;
    int             loads, steps_left;
    char            said[4096];
    size_t          n_said;
    int             calls, calls_left;
} world;

static const char *text_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    world *w = ctx;
    (void)a;
    w->loads++;
    for (int k = 0; k < w->q.K; k++)
        if (w->z[k].id == id) return *out = w->of[k], true;
    return err_set(e, ERR_FILE, "no such passage");
}

static void open_picture(world *w, image *out, const char *name)
{
    err    e = {0};
    char   path[256], *bytes;
    size_t n;
    snprintf(path, sizeof path, "%s%s", text_of(w->j, "folder"), name);
    OK(file_read(&bytes, &n, path, 1 << 20, &e), e);
    OK(image_decode(out, bytes, n, &IMAGE_LIMITS, w->pictures, &e), e);
    free(bytes);
}

static const char *checkpoint_of(const json_t *c)
{
    static char path[256];
    if (strcmp(text_of(c, "checkpoint"), "demo") == 0) return DEMO("reader");
    snprintf(path, sizeof path, FIXTURE("%s"), text_of(c, "checkpoint"));
    return path;
}

static world *open_world(size_t i, size_t cache, int threads)
{
    err    e = {0};
    size_t k;
    json_t *one;
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    OK(json_open(&w->file, FIXTURE("golden/open.json"), &e), e);
    w->j = json_array_get(w->file, i);
    assert_non_null(w->j);
    w->k = open_cpu(PRECISION_F32, threads);
    w->r = open_reader(checkpoint_of(w->j), cache, w->k);
    w->a = arena_new(0);
    w->pictures = arena_new(0);
    open_picture(w, &w->img, text_of(w->j, "query"));
    json_array_foreach(json_object_get(w->j, "candidates"), k, one) {
        assert_true(k < MAX_CANDIDATES);
        w->z[k] = (reader_passage){json_integer_value(json_object_get(one, "id")), text_of(one, "caption")};
        w->w[k] = (float)json_number_value(json_object_get(one, "weight"));
        w->heads[k] = (unsigned)json_integer_value(json_object_get(one, "heads"));
        open_picture(w, &w->of[k], text_of(one, "image"));
    }
    w->q = (reader_query){
        .img = &w->img, .question = text_of(w->j, "question"), .z = w->z, .K = (int)k, .load = load, .load_ctx = w};
    return w;
}

static void close_world(world *w)
{
    reader_close(w->r);
    w->k->close(w->k);
    arena_free(w->a);
    arena_free(w->pictures);
    json_decref(w->file);
    free(w);
}

static bool say(void *ctx, const char *words, size_t n, err *e)
{
    world *w = ctx;
    assert_true(n > 0 && w->n_said + n < sizeof w->said);
    assert_true(utf8_valid(words, n));
    memcpy(w->said + w->n_said, words, n);
    w->said[w->n_said += n] = 0;
    w->calls++;
    return w->calls_left-- != 0 || err_set(e, ERR_BUSY, "the client is gone");
}

/* How a run of the golden decodes; its end tokens become the reader's. */
static reader_decoding decoding_of(world *w, const json_t *run)
{
    generation_config *g = &w->r->generation;
    const json_t      *ends = json_object_get(run, "ends");
    for (g->n_end = 0; g->n_end < (int)json_array_size(ends); g->n_end++)
        g->end[g->n_end] = (int32_t)json_integer_value(json_array_get(ends, (size_t)g->n_end));
    w->n_said = 0;
    w->said[0] = 0;
    w->calls = 0;
    w->calls_left = -1;
    return (reader_decoding){.weight = w->w,
                             .heads = w->heads,
                             .reference = strcmp(text_of(run, "mode"), "reference") == 0,
                             .beams = (int)json_integer_value(json_object_get(run, "beams")),
                             .max_new_tokens = (int)json_integer_value(json_object_get(run, "max_new_tokens")),
                             .repetition_penalty = json_number_value(json_object_get(run, "repetition_penalty")),
                             .on_text = say,
                             .on_text_ctx = w};
}

static reader_text generate(world *w, const reader_query *q, const reader_decoding *d)
{
    err         e = {0};
    reader_text y;
    OK(reader_generate(w->r, w->k, q, d, w->a, &y, &e), e);
    assert_true(y.flops > 0);
    return y;
}

static void near(double got, double want, int n_tokens, const char *what)
{
    if (!(fabs(got - want) <= 1e-4 * n_tokens)) fail_msg("%s is %.6f, PyTorch has %.6f", what, got, want);
}

/* ---- the golden ---- */

static double sum_of_best(const json_t *tops, int n)
{
    double sum = 0;
    for (int t = 0; t < n; t++)
        sum += json_number_value(json_array_get(json_array_get(json_array_get(tops, (size_t)t), 0), 1));
    return sum;
}

/* Step by step: an answer that is cut after t tokens tells the likelihood so far. */
static void each_step_is_right(world *w, const json_t *run)
{
    const json_t   *tops = json_object_get(run, "top");
    reader_decoding d = decoding_of(w, run);
    for (int t = 0; t < (int)json_array_size(tops); t += LIST_STEP) {
        d.max_new_tokens = t + 1;
        near(generate(w, &w->q, &d).logp, sum_of_best(tops, t + 1), t + 1, "log p so far");
    }
}

static void check_run(world *w, const json_t *run)
{
    const json_t *tokens = json_object_get(run, "tokens"), *each = json_object_get(run, "each"),
                 *agrees = json_object_get(run, "agrees");
    reader_decoding d = decoding_of(w, run);
    reader_text     y = generate(w, &w->q, &d);
    int             n = (int)json_array_size(tokens);
    assert_int_equal(y.n_tokens, n);
    for (int i = 0; i < n; i++) assert_int_equal(y.token[i], json_integer_value(json_array_get(tokens, (size_t)i)));
    assert_string_equal(y.text, text_of(run, "text"));
    assert_string_equal(y.text, w->said);
    if (d.beams > 1) assert_true(w->calls <= 1);
    assert_int_equal(y.ended, json_is_true(json_object_get(run, "ended")));
    near(y.logp, json_number_value(json_object_get(run, "logp")), n + 1, "log p");
    for (int k = 0; k < w->q.K; k++) {
        near(y.each[k], json_number_value(json_array_get(each, (size_t)k)), n + 1, "a candidate's log p");
        assert_int_equal(y.agrees[k], json_is_true(json_array_get(agrees, (size_t)k)));
    }
    if (d.beams == 1 && !d.reference) each_step_is_right(w, run);
}

static void answers_are_those_of_pytorch(void **state)
{
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        world *w = open_world(i, CACHE, 1);
        size_t r;
        json_t *run;
        json_array_foreach(json_object_get(w->j, "runs"), r, run) check_run(w, run);
        close_world(w);
    }
}

/* ---- the same bits ---- */

static void same_bits(const reader_text *x, const reader_text *y, int K, const int *from)
{
    assert_int_equal(x->n_tokens, y->n_tokens);
    assert_memory_equal(x->token, y->token, (size_t)x->n_tokens * sizeof *x->token);
    assert_string_equal(x->text, y->text);
    assert_int_equal(x->ended, y->ended);
    assert_memory_equal(&x->logp, &y->logp, sizeof x->logp);
    for (int k = 0; k < K; k++) {
        assert_memory_equal(&x->each[from[k]], &y->each[k], sizeof *x->each);
        assert_int_equal(x->agrees[from[k]], y->agrees[k]);
    }
}

/* Cold, warm, without a cache, in another order, with another number of threads: for each way of decoding. */
static void an_answer_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i += 2) { /* three candidates of the tiny reader, four of the demonstration's */
        world  *w = open_world(i, CACHE, 1), *bare = open_world(i, 0, 2);
        size_t  r;
        json_t *run;
        int     K = w->q.K, from[MAX_CANDIDATES], turned[MAX_CANDIDATES];
        for (int k = 0; k < K; k++) {
            from[k] = k;
            turned[k] = (k + 2) % K;
        }
        json_array_foreach(json_object_get(w->j, "runs"), r, run) {
            reader_decoding d = decoding_of(w, run), other = d;
            d.on_text = NULL;
            reader_cache_clear(w->r);
            reader_text cold = generate(w, &w->q, &d), warm = generate(w, &w->q, &d);
            assert_int_equal(cold.n_cached, 0);
            assert_int_equal(warm.n_cached, K);
            same_bits(&cold, &warm, K, from);

            reader_passage z[MAX_CANDIDATES];
            float          weights[MAX_CANDIDATES];
            unsigned       heads[MAX_CANDIDATES];
            for (int k = 0; k < K; k++) {
                z[k] = w->z[turned[k]];
                weights[k] = w->w[turned[k]];
                heads[k] = w->heads[turned[k]];
            }
            reader_query q = w->q;
            q.z = z;
            other.weight = weights;
            other.heads = heads;
            other.on_text = NULL;
            reader_text moved = generate(w, &q, &other);
            same_bits(&cold, &moved, K, turned);

            d.on_text = NULL;
            bare->r->generation = w->r->generation;
            reader_text alone = generate(bare, &bare->q, &d);
            assert_int_equal(alone.n_cached, 0);
            same_bits(&cold, &alone, K, from);
        }
        close_world(w);
        close_world(bare);
    }
}

/* ---- the slow, obvious twin ---- */

/* One candidate's whole prompt as one piece, for generate_greedy. */
static void whole_prompt(world *w, prompt *p, int32_t **pos, int *cursor, act **vision)
{
    err           e = {0};
    const reader *r = w->r;
    picture       pic[2];
    prompt        z, ask;
    OK(query_prepare(r, &w->q, &pic[1], &ask, w->a, &e), e);
    OK(prefix_render(r, &w->q, &w->z[0], &pic[0], &z, w->a, &e), e);
    int n = z.n_ids + ask.n_ids;
    *p = (prompt){ARENA_NEW(w->a, int32_t, n, &e), n, ARENA_NEW(w->a, image_span, z.n_spans + ask.n_spans, &e),
                  z.n_spans + ask.n_spans};
    memcpy(p->ids, z.ids, (size_t)z.n_ids * sizeof *p->ids);
    memcpy(p->ids + z.n_ids, ask.ids, (size_t)ask.n_ids * sizeof *p->ids);
    memcpy(p->span, z.span, (size_t)z.n_spans * sizeof *p->span);
    for (int i = 0; i < ask.n_spans; i++) {
        p->span[z.n_spans + i] = ask.span[i];
        p->span[z.n_spans + i].start += z.n_ids;
    }
    *pos = ARENA_NEW(w->a, int32_t, 3 * (size_t)n, &e);
    *cursor = r->f->positions(*pos, p, 0);
    OK(pictures_encode(r, w->k, w->q.adapter, pic, 2, vision, w->a, &e), e);
}

/* Of both families, and of one with an adapter. */
static void one_candidate_alone_is_plain_greedy_decoding(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        enum { STEPS = 20 };
        err      e = {0};
        world   *w = open_world(i % 2, CACHE, 1);
        if (i == 2) {
            reader_close(w->r);
            w->r = open_reader_with(FIXTURE("qwen2vl-tiny"), FIXTURE("qwen2vl-tiny-lora"), false, w->k);
            w->q.adapter = 1;
        }
        prompt   p;
        int32_t *pos, ids[STEPS];
        int      cursor, n;
        act     *vision;
        whole_prompt(w, &p, &pos, &cursor, &vision);
        generate_args g = {.p = &p, .vision = vision, .pos = pos, .cursor = cursor, .adapter = w->q.adapter,
                           .max_new = STEPS, .stop = -1};
        OK(generate_greedy(w->r->m->text, w->k, &g, ids, &n, w->a, &e), e);
        w->q.K = 1;
        reader_decoding d = {
            .weight = (const float[]){1}, .max_new_tokens = STEPS, .beams = 1, .repetition_penalty = 1};
        reader_text     y = generate(w, &w->q, &d);
        int             same = 0;
        while (same < STEPS && !generation_ends(&w->r->generation, ids[same])) same++;
        assert_int_equal(y.n_tokens, same);
        assert_memory_equal(y.token, ids, (size_t)same * sizeof *ids);
        assert_true(y.agrees[0]);
        assert_memory_equal(&y.logp, &y.each[0], sizeof y.logp);
        assert_int_equal(y.ended, same < STEPS);
        d.reference = true; /* of one candidate there is but one branch */
        reader_text z = generate(w, &w->q, &d);
        assert_int_equal(z.n_tokens, y.n_tokens);
        assert_memory_equal(z.token, y.token, (size_t)same * sizeof *ids);
        near(z.logp, y.logp, same + 1, "log p of the only branch");
        close_world(w);
    }
}

/* Cut short, an answer is scored as reader_score scores it: the beams' tree of keys against a pass over the
 * whole answer. */
static void likelihoods_are_those_of_scoring(void **state)
{
    (void)state;
    err    e = {0};
    world *w = open_world(2, CACHE, 1);
    for (int beams = 1; beams <= 3; beams += 2) {
        reader_decoding d = {.weight = w->w, .max_new_tokens = 6, .beams = beams, .repetition_penalty = 1};
        reader_text     y = generate(w, &w->q, &d);
        int32_t        *ids;
        int             n;
        reader_query    q = w->q;
        reader_scores   s;
        assert_true(y.ended && y.n_tokens > 0);
        OK(bpe_encode(w->r->tokens, y.text, strlen(y.text), false, false, &ids, &n, w->a, &e), e);
        assert_int_equal(n, y.n_tokens); /* the text's own tokens are those that were emitted */
        assert_memory_equal(ids, y.token, (size_t)n * sizeof *ids);
        /* so that the end is scored */
        q.answers = (const char *const[]){y.text, arena_printf(w->a, &e, "%s or not", y.text)};
        q.A = 2;
        OK(reader_score(w->r, w->k, &q, w->a, &s, &e), e);
        assert_true(s.end_token);
        for (int k = 0; k < q.K; k++) near(y.each[k], s.logp[2 * k], n + 1, "a candidate's log p");
    }
    close_world(w);
}

/* ---- streaming, stopping, failing ---- */

static void a_listener_that_leaves_stops_the_work(void **state)
{
    (void)state;
    for (size_t mode = 0; mode < 4; mode += 3) {
        err             e;
        world          *w = open_world(0, CACHE, 1);
        const json_t   *run = json_array_get(json_object_get(w->j, "runs"), mode);
        reader_decoding d = decoding_of(w, run);
        reader_text     y, want = generate(w, &w->q, &d);
        int             calls = w->calls;
        assert_true(calls > 3);
        d = decoding_of(w, run);
        w->calls_left = 1;
        FAILS(reader_generate(w->r, w->k, &w->q, &d, w->a, &y, &e), e, ERR_BUSY, "the client is gone");
        assert_int_equal(w->calls, 2);
        d = decoding_of(w, run);
        y = generate(w, &w->q, &d);
        assert_int_equal(w->calls, calls);
        same_bits(&want, &y, w->q.K, (const int[]){0, 1, 2});
        close_world(w);
    }
}

static bool time_left(void *ctx, err *e)
{
    int *left = ctx;
    return (*left)-- > 0 || err_at(e, ERR_DEADLINE, "deadline-passed", "deadline_ms", "out of time");
}

/* Asked before prefixes, before the query parts and before each token. */
static void a_deadline_stops_between_steps(void **state)
{
    (void)state;
    world          *w = open_world(0, CACHE, 1);
    const json_t   *run = json_array_get(json_object_get(w->j, "runs"), 0);
    reader_decoding d = decoding_of(w, run);
    int             left = 1 << 20;
    w->q.go_on = time_left;
    w->q.go_on_ctx = &left;
    reader_text y = generate(w, &w->q, &d);
    int         asked = (1 << 20) - left;
    assert_true(asked >= d.max_new_tokens + 2);
    for (int n = 0; n < asked; n += LIST_STEP / 4 + 1) {
        err e;
        d = decoding_of(w, run);
        left = n;
        FAILS(reader_generate(w->r, w->k, &w->q, &d, w->a, &y, &e), e, ERR_DEADLINE, "out of time");
        assert_int_equal(left, -1);
        assert_memory_equal(w->said, text_of(run, "text"), w->n_said); /* what was said stays true */
    }
    close_world(w);
}

static void too_long_an_answer_is_refused_before_any_work(void **state)
{
    (void)state;
    err             e;
    reader_text     y;
    world          *w = open_world(0, CACHE, 1);
    reader_decoding d = {.weight = w->w, .max_new_tokens = 32768, .beams = 1, .repetition_penalty = 1};
    uint64_t        flops = w->k->flops;
    FAILS(reader_generate(w->r, w->k, &w->q, &d, w->a, &y, &e), e, ERR_UNUSABLE, "tokens, at most 32768");
    assert_string_equal(e.problem, "prompt-too-long");
    assert_string_equal(e.field, "question");
    assert_int_equal(w->loads, 0);
    w->q.K = 1;
    prompt   p;
    int32_t *pos;
    int      cursor;
    act     *vision;
    whole_prompt(w, &p, &pos, &cursor, &vision);
    d.max_new_tokens = 32768 - p.n_ids + 1; /* by one */
    char numbers[64];
    snprintf(numbers, sizeof numbers, "make 32769 tokens, at most 32768");
    FAILS(reader_generate(w->r, w->k, &w->q, &d, w->a, &y, &e), e, ERR_UNUSABLE, numbers);
    assert_true(w->k->flops > flops); /* only the pair told its length */
    close_world(w);
}

/* A row of the head that no prompt names: every step has its logit. */
static void weights_that_are_no_numbers_give_no_answer(void **state)
{
    (void)state;
    err          e;
    reader_text  y;
    copy        *broken = copy_of_fixture("qwen2vl-tiny");
    saved_tensor *head = checkpoint_find(&broken->c, "model.embed_tokens.weight");
    ((float *)head->data)[head->bytes / sizeof(float) - 1] = NAN;
    save(broken);
    world *w = open_world(0, CACHE, 1);
    reader_close(w->r);
    w->r = open_reader(broken->m.dir, CACHE, w->k);
    for (int reference = 0; reference < 2; reference++) {
        reader_decoding d = {
            .weight = w->w, .max_new_tokens = 1, .beams = 1, .repetition_penalty = 1, .reference = reference};
        FAILS(reader_generate(w->r, w->k, &w->q, &d, w->a, &y, &e), e, ERR_BUG, "are the weights sound?");
    }
    close_world(w);
    copy_free(broken);
}

static void what_makes_no_sense_is_our_own_mistake(void **state)
{
    (void)state;
    err                   e;
    reader_text           y;
    world                *w = open_world(0, 0, 1);
    const reader_decoding good = {.weight = w->w, .max_new_tokens = 1, .beams = 1, .repetition_penalty = 1};
    reader_decoding       d[5] = {good, good, good, good, good};
    d[0].max_new_tokens = 0;
    d[1].beams = 0;
    d[2].repetition_penalty = 0;
    d[3].repetition_penalty = NAN;
    d[4].reference = true, d[4].beams = 2;
    for (int i = 0; i < 5; i++)
        FAILS(reader_generate(w->r, w->k, &w->q, &d[i], w->a, &y, &e), e, ERR_BUG, "open answer");
    w->q.adapter = 1;
    FAILS(reader_generate(w->r, w->k, &w->q, &good, w->a, &y, &e), e, ERR_BUG, "adapter 1 of 0");
    close_world(w);
}

/* One way of decoding on fresh memory of at most so many bytes, with a cold cache. */
static bool attempt(world *w, const reader_decoding *d, size_t limit, const reader_text *want, err *e)
{
    static const int order[] = {0, 1, 2};
    reader_text      y;
    arena           *fresh = arena_new(limit);
    *e = (err){0};
    reader_cache_clear(w->r);
    bool ok = fresh && reader_generate(w->r, w->k, &w->q, d, fresh, &y, e);
    mem_fail_after(-1);
    if (ok) same_bits(want, &y, w->q.K, order);
    arena_free(fresh);
    return ok;
}

/* The request's memory ends at any place: an error each time. The n-th allocation fails: an error, or nothing
 * but the cache went without. */
static void memory_may_end_anywhere(world *w, const json_t *run)
{
    err             e;
    reader_decoding d = decoding_of(w, run);
    d.on_text = NULL;
    d.max_new_tokens = 3;
    reader_text want = generate(w, &w->q, &d);
    arena      *a = arena_new(0);
    reader_text y;
    e = (err){0};
    OK(reader_generate(w->r, w->k, &w->q, &d, a, &y, &e), e);
    size_t high = arena_high_water(a);
    arena_free(a);
    int errors = 0;
    for (size_t limit = 64; limit < 2 * high; limit += high / 97 * LIST_STEP) {
        if (attempt(w, &d, limit, &want, &e)) continue;
        if (e.code != ERR_MEMORY) fail_msg("%zu bytes: %s '%s'", limit, err_code_name(e.code), e.text);
        errors++;
    }
    assert_true(errors > 90 / LIST_STEP);
    int uncached = 0;
    for (long n = 0; n < 40; n += LIST_STEP / 2 + 1) {
        mem_fail_after(n + 1); /* the arena's own comes first */
        reader_cache_stats s;
        bool               ok = attempt(w, &d, 0, &want, &e);
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
        reader_cache(w->r, &s);
        uncached += ok && s.entries < w->q.K;
    }
    assert_true(uncached > 0);
    assert_true(attempt(w, &d, 0, &want, &e));
}

static void memory_that_ends_is_an_error_or_harmless(void **state)
{
    (void)state;
    world  *w = open_world(0, CACHE, 1);
    size_t  r;
    json_t *run;
    json_array_foreach(json_object_get(w->j, "runs"), r, run) memory_may_end_anywhere(w, run);
    close_world(w);
}

/* Scratch for a prompt but not for what beams would need behind it. */
static void scratch_that_ran_out_serves_the_next_request(void **state)
{
    (void)state;
    err             e;
    reader_text     y;
    world          *w = open_world(0, 0, 1);
    kernels_options o = {.device = "cpu", .products = PRECISION_F32, .threads = 1, .scratch_bytes = 16 << 20};
    kernels        *small = NULL;
    e = (err){0};
    OK(kernels_open(&small, &o, &e), e);
    reader_decoding d = {.weight = w->w, .max_new_tokens = 2000, .beams = 8, .repetition_penalty = 1};
    FAILS(reader_generate(w->r, small, &w->q, &d, w->a, &y, &e), e, ERR_MEMORY, "");
    d = decoding_of(w, json_array_get(json_object_get(w->j, "runs"), 0));
    e = (err){0};
    OK(reader_generate(w->r, small, &w->q, &d, w->a, &y, &e), e);
    small->close(small);
    close_world(w);
}

/* ---- the work ---- */

/* The same prompts scored with one answer of one token cost all but the steps: these are one row a branch and
 * token. */
static void the_work_is_the_minimum(void **state)
{
    (void)state;
    enum { STEPS = 5 };
    err             e = {0};
    world          *w = open_world(0, CACHE, 1);
    reader_query    q = w->q;
    const decoder_config *c = decoder_sizes(w->r->m->text);
    reader_decoding d = {.weight = w->w, .max_new_tokens = STEPS, .beams = 1, .repetition_penalty = 1};
    q.answers = (const char *const[]){"x"};
    q.A = 1;
    uint64_t    least = reader_minimum_flops(w->r, &q, w->a, &e);
    reader_text y = generate(w, &w->q, &d);
    assert_int_equal(y.n_tokens, STEPS);
    assert_false(y.ended);
    prompt  ask, z;
    picture pic;
    OK(query_prepare(w->r, &w->q, &pic, &ask, w->a, &e), e);
    for (int k = 0; k < q.K; k++) {
        OK(prefix_render(w->r, &w->q, &w->z[k], &pic, &z, w->a, &e), e);
        for (int t = 1; t < STEPS; t++) { /* the last token is emitted, not read */
            int seen = z.n_ids + ask.n_ids + t;
            least += decoder_flops(c, &seen, 1, 1) + 2 * (uint64_t)c->V * (uint64_t)c->D;
        }
    }
    assert_int_equal(y.flops, least);
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_pytorch),
        cmocka_unit_test(an_answer_has_the_same_bits_in_any_company),
        cmocka_unit_test(one_candidate_alone_is_plain_greedy_decoding),
        cmocka_unit_test(likelihoods_are_those_of_scoring),
        cmocka_unit_test(a_listener_that_leaves_stops_the_work),
        cmocka_unit_test(a_deadline_stops_between_steps),
        cmocka_unit_test(too_long_an_answer_is_refused_before_any_work),
        cmocka_unit_test(weights_that_are_no_numbers_give_no_answer),
        cmocka_unit_test(what_makes_no_sense_is_our_own_mistake),
        cmocka_unit_test(memory_that_ends_is_an_error_or_harmless),
        cmocka_unit_test(scratch_that_ran_out_serves_the_next_request),
        cmocka_unit_test(the_work_is_the_minimum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
