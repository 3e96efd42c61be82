/* parity.h - every stage of a reader's vision tower and decoder, its greedy continuation and its answers'
 * log-probabilities against the PyTorch reference. A family's own test says where its goldens are and what is
 * special about them. */
#ifndef JOMED_TESTS_READER_PARITY_H
#define JOMED_TESTS_READER_PARITY_H

#include "tests/reader/golden.h"
#include "reader/generate.h"
#include "reader/trie.h"

/* What differs between the families' goldens. */
typedef struct {
    const char *pixels, *marker;  /* file of the pictures as preprocessed; the token that a picture's rows replace */
    const char *first, *last;     /* names of the tower's stages around its layers */
    golden_case (*open)(const safetensors *g, const safetensors *pixels, const json_t *json, const char *name,
                        int32_t image_id, arena *a);
    void (*check_positions)(const safetensors *g, const golden_case *c, const char *name, const int32_t *pos,
                            int cursor);
} golden_family;

/* Tolerances: fixtures/README.md. */
typedef struct {
    const char          *stem, *dir;
    precision            products;
    double               tol;
    const char          *lora;  /* folder of an adapter; NULL: none */
    bool                 merge; /* it */
    const char          *name;
    const golden_family *family;
} golden_run;

/* All that a test of one case needs. */
typedef struct {
    const golden_run *run;
    kernels     *k;
    reader      *r;
    int          adapter;
    arena       *a;
    safetensors *g, *pixels;
    json_t      *json;
    golden_case  c;
    int          row[8];   /* rows of each stage seen so far: pictures come one by one, the golden has all in a row */
    int          n_stages; /* compared */
} fixture;

static fixture *start(const golden_run *run)
{
    err      e = {0};
    char     path[256];
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->run = run;
    f->k = open_device(TEST_DEVICE, run->products, 1);
    f->r = run->lora ? open_reader_with(run->dir, run->lora, run->merge, f->k) : open_reader(run->dir, 0, f->k);
    f->adapter = run->lora && !run->merge;
    f->a = arena_new(0);
    assert_non_null(f->a);
    snprintf(path, sizeof path, FIXTURE("golden/%s.safetensors"), run->stem);
    OK(safetensors_open(&f->g, path, &e), e);
    snprintf(path, sizeof path, FIXTURE("golden/%s.json"), run->stem);
    OK(json_open(&f->json, path, &e), e);
    OK(safetensors_open(&f->pixels, run->family->pixels, &e), e);
    f->c = run->family->open(f->g, f->pixels, f->json, run->name, bpe_special(f->r->tokens, run->family->marker),
                             f->a);
    return f;
}

static void stop(fixture *f)
{
    json_decref(f->json);
    safetensors_close(f->pixels);
    safetensors_close(f->g);
    arena_free(f->a);
    reader_close(f->r);
    f->k->close(f->k);
    free(f);
}

/* The largest difference of rows [from, from + T) of a golden array, relative to the array's largest value. */
static void compare_rows(fixture *f, const char *stage, const float *x, int from, int T, int D)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->run->name, stage);
    const tensor *t = safetensors_find(f->g, path);
    if (!t) fail_msg("%s is not in the golden file", path);
    assert_int_equal(t->dim[1], D);
    assert_true(from + T <= t->dim[0]);
    float *want = golden_floats(f->g, path, (size_t)t->count, f->a);
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < t->count; i++) largest = fmax(largest, fabs((double)want[i]));
    for (size_t i = 0, at = (size_t)from * (size_t)D; i < (size_t)T * (size_t)D; i++) {
        if (isnan(x[i])) fail_msg("%s: NaN", path);
        worst = fmax(worst, fabs((double)x[i] - (double)want[at + i]));
    }
    if (!(worst <= f->run->tol * largest))
        fail_msg("%s: relative difference %.3g, allowed %.3g", path, worst / largest, f->run->tol);
    f->n_stages++;
}

static void compare_act(fixture *f, const char *stage, kernels *k, const act *x, int from, int T, int D)
{
    err    e = {0};
    float *host = ARENA_NEW(f->a, float, (size_t)T * (size_t)D, &e);
    assert_non_null(host);
    k->get(k, host, x, (size_t)T * (size_t)D);
    OK(k->sync(k, &e), e);
    compare_rows(f, stage, host, from, T, D);
}

static void see(void *ctx, const char *stage, int i, kernels *k, const act *x, int T, int D)
{
    fixture *f = ctx;
    char     name[64];
    int slot = strcmp(stage, f->run->family->first) == 0 ? 0 : strcmp(stage, f->run->family->last) == 0 ? 1 : 2 + i;
    bool     vision = strncmp(stage, "vision", 6) == 0;
    snprintf(name, sizeof name, i < 0 ? "%s" : "%s.%d", stage, i);
    compare_act(f, name, k, x, vision ? f->row[slot] : 0, T, D);
    if (vision) f->row[slot] += T;
}

static act *encode_all(fixture *f, const tap *t)
{
    err    e = {0};
    size_t D = (size_t)decoder_sizes(f->r->m->text)->D, row = 0;
    act   *out = f->k->take(f->k, (size_t)f->c.vision_rows * D + 1);
    for (int i = 0; i < f->c.n_pics; i++) {
        const picture *p = &f->c.pic[i];
        OK(f->r->f->encode(f->r->m, f->k, f->adapter, p, 1, act_at(f->k, out, row * D), t, f->a, &e), e);
        row += (size_t)p->rows * (size_t)p->cols;
    }
    return out;
}

/* pos [3,S] of the case, checked against the golden; the cursor behind it. */
static int32_t *positions(fixture *f, int *cursor)
{
    err      e = {0};
    int      S = f->c.p.n_ids;
    int32_t *pos = ARENA_NEW(f->a, int32_t, 3 * S, &e);
    assert_non_null(pos);
    *cursor = f->r->f->positions(pos, &f->c.p, 0);
    f->run->family->check_positions(f->g, &f->c, f->run->name, pos, *cursor);
    return pos;
}

static void every_stage_matches_the_reference(void **state)
{
    fixture *f = start(*state);
    err      e = {0};
    tap      t = {see, f};
    kernels *k = f->k;
    const decoder_config *c = decoder_sizes(f->r->m->text);
    int      S = f->c.p.n_ids, cursor;
    act     *vision = encode_all(f, &t);
    int32_t *pos = positions(f, &cursor);

    act *x = k->take(k, (size_t)S * (size_t)c->D);
    decoder_embed(f->r->m->text, k, &f->c.p, vision, x);
    compare_act(f, "inputs_embeds", k, x, 0, S, c->D);
    kv           own = {k->take(k, decoder_kv_len(f->r->m->text, S)), S, 0};
    decoder_pass pass = {.own = &own, .pos = pos, .x = x, .T = S, .adapter = f->adapter, .tap = &t};
    OK(decoder_forward(f->r->m->text, k, &pass, f->a, &e), e);
    decoder_norm(f->r->m->text, k, x, S);
    compare_act(f, "text.norm", k, x, 0, S, c->D);

    float *logits = ARENA_NEW(f->a, float, (size_t)S * (size_t)c->V, &e);
    k->logits(k, logits, x, S, decoder_head(f->r->m->text));
    OK(k->sync(k, &e), e);
    compare_rows(f, "logits", logits, 0, S, c->V);
    assert_int_equal(f->n_stages, f->c.n_pics * (1 + 2 + 1) + 1 + c->L + 1 + 1);
    stop(f);
}

/* Greedy decoding: the key/value cache, and positions of new tokens behind pictures (rope_delta). */
static void greedy_continuation_matches_the_reference(void **state)
{
    fixture *f = start(*state);
    err      e = {0};
    const decoder_config *c = decoder_sizes(f->r->m->text);
    enum { STEPS = 8 };
    int32_t  ids[STEPS];
    int      n, cursor;
    char     path[128];
    act     *vision = encode_all(f, NULL);
    int32_t *pos = positions(f, &cursor);
    float   *logits = ARENA_NEW(f->a, float, (size_t)STEPS * (size_t)c->V, &e);
    generate_args g = {.p = &f->c.p,
                       .vision = vision,
                       .pos = pos,
                       .cursor = cursor,
                       .adapter = f->adapter,
                       .max_new = STEPS,
                       .stop = -1,
                       .logits = logits};
    OK(generate_greedy(f->r->m->text, f->k, &g, ids, &n, f->a, &e), e);
    assert_int_equal(n, STEPS);
    snprintf(path, sizeof path, "%s/greedy_ids", f->run->name);
    const int64_t *want = golden_ints(f->g, path, NULL);
    for (int i = 0; i < STEPS; i++) assert_int_equal(ids[i], want[i]);
    compare_rows(f, "greedy_logits", logits, 0, STEPS, c->V);

    g.stop = ids[1]; /* the second token now ends it, unless the first was the same */
    OK(generate_greedy(f->r->m->text, f->k, &g, ids, &n, f->a, &e), e);
    assert_int_equal(n, want[0] == want[1] ? 0 : 1);
    stop(f);
}

/* All answers of a case in one pass behind its prompt, as branches of a tree; log-probability per token. */
static void answers_in_one_pass_have_the_reference_logps(void **state)
{
    fixture *f = start(*state);
    err      e = {0};
    kernels *k = f->k;
    const decoder *d = f->r->m->text;
    size_t   D = (size_t)decoder_sizes(d)->D;
    json_t  *answers = json_object_get(f->c.j, "answers");
    int      A = (int)json_array_size(answers), S = f->c.p.n_ids, cursor;
    const char *texts[8];
    assert_true(A >= 2 && A <= 8);
    for (int i = 0; i < A; i++)
        texts[i] = json_string_value(json_object_get(json_array_get(answers, (size_t)i), "text"));
    trie t;
    OK(trie_of_answers(&t, f->r->tokens, texts, A, f->r->m->end_id, f->a, &e), e);
    assert_false(t.end_token);

    act     *vision = encode_all(f, NULL);
    int32_t *prompt_pos = positions(f, &cursor);
    int      T = S + t.n_tree, rows = 1 + t.n_tree;
    int32_t *ids = ARENA_NEW(f->a, int32_t, T, &e), *pos = ARENA_NEW(f->a, int32_t, 3 * T, &e);
    memcpy(ids, f->c.p.ids, (size_t)S * sizeof *ids);
    for (int i = 0; i < t.n_tree; i++) ids[S + i] = t.node[i];
    for (int x = 0; x < 3; x++) {
        memcpy(pos + x * T, prompt_pos + x * S, (size_t)S * sizeof *pos);
        for (int i = 0; i < t.n_tree; i++) pos[x * T + S + i] = cursor + t.depth[i] - 1;
    }
    prompt all = f->c.p;
    all.ids = ids;
    all.n_ids = T;
    kv   own = {k->take(k, decoder_kv_len(d, T)), T, 0};
    act *x = k->take(k, (size_t)T * D);
    decoder_embed(d, k, &all, vision, x);
    decoder_pass pass = {.own = &own,
                         .pos = pos,
                         .x = x,
                         .T = T,
                         .adapter = f->adapter,
                         .want = T - rows,
                         .n_tree = t.n_tree,
                         .visible = t.visible};
    OK(decoder_forward(d, k, &pass, f->a, &e), e);
    act *scored = act_at(k, x, (size_t)(T - rows) * D);
    decoder_norm(d, k, scored, rows);
    float *logit = ARENA_NEW(f->a, float, t.n_edges, &e), *lse = ARENA_NEW(f->a, float, t.n_edges, &e);
    k->score(k, logit, lse, scored, rows, decoder_head(d), t.row, t.token, t.n_edges);
    OK(k->sync(k, &e), e);

    for (int i = 0; i < A; i++) {
        const json_t *row = json_array_get(answers, (size_t)i);
        const json_t *want = json_object_get(row, "logprobs"), *want_ids = json_object_get(row, "ids");
        assert_int_equal(t.own[i], json_array_size(want));
        for (int j = 0; j < t.own[i]; j++) {
            int    c = t.path[i][j];
            double lp = (double)logit[c] - (double)lse[c], ref = json_number_value(json_array_get(want, (size_t)j));
            assert_int_equal(t.token[c], json_integer_value(json_array_get(want_ids, (size_t)j)));
            if (!(fabs(lp - ref) <= 1e-4)) fail_msg("answer %d token %d: logp %.6f, reference %.6f", i, j, lp, ref);
        }
    }
    stop(f);
}

#endif
