/* Adapters: what they change and what they must not, the least arithmetic, and that none is loaded in part.
 * Parity with PyTorch, stage by stage, is in test_qwen2vl.c. */
#include "tests/reader/demo.h"
#include "tests/retriever/checkpoint.h"

#include <pthread.h>

#include "base/memory.h"

#define BASE FIXTURE("qwen2vl-tiny")
#define WIDE FIXTURE("qwen2vl-tiny-bf16-sharded") /* the same sizes in BF16 */
enum { CACHE = 64 << 20, K = 2, SCORES = K * 2 };

/* A writable copy of one of the two adapters. */
typedef struct { model_folder m; checkpoint c; } copy;

static copy *copy_of_adapter(const char *fixture)
{
    err    e = {0};
    char   from[256], *bytes;
    size_t n;
    copy  *y = must(calloc(1, sizeof *y));
    y->m = (model_folder){.dir = "/tmp/jomed-adapter-XXXXXX"};
    must(mkdtemp(y->m.dir));
    snprintf(from, sizeof from, FIXTURE("%s/adapter_config.json"), fixture);
    OK(file_read(&bytes, &n, from, 1 << 16, &e), e);
    OK(file_write(folder_file(&y->m, "adapter_config.json"), bytes, n, &e), e);
    free(bytes);
    snprintf(from, sizeof from, FIXTURE("%s/adapter_model.safetensors"), fixture);
    checkpoint_read(&y->c, from);
    return y;
}
static copy *text_adapter(void) { return copy_of_adapter("qwen2vl-tiny-lora"); }
static copy *both_adapter(void) { return copy_of_adapter("qwen2vl-tiny-lora-vision"); }

static const char *save_padded(copy *y, int pad)
{
    checkpoint_write(&y->c, folder_file(&y->m, "adapter_model.safetensors"), pad);
    return y->m.dir;
}
static const char *save(copy *y) { return save_padded(y, 0); }
static void set(copy *y, const char *member, const char *value)
{
    folder_set(&y->m, "adapter_config.json", member, value);
}

static void copy_free(copy *y)
{
    folder_remove(&y->m);
    checkpoint_free(&y->c);
    free(y);
}

/* A reader with these adapters, a question to it, and its answers' scores. */
typedef struct { kernels *k; reader *r; demo *d; demo_case *c; arena *a; } world;

static world open_world(const char *base, const reader_adapter *adapters, int n, bool merge, precision p)
{
    err            e = {0};
    world          w = {.k = open_cpu(p, 1), .d = demo_open(), .a = arena_new(0)};
    reader_options o = {.cache_bytes = CACHE, .adapters = adapters, .n_adapters = n, .merge = merge};
    OK(reader_open(&w.r, base, &o, w.k, &e), e);
    w.c = demo_case_open(w.d, "breast", "test", 3);
    w.c->q.K = K;
    return w;
}

static void close_world(world *w)
{
    demo_case_close(w->c);
    arena_free(w->a);
    reader_close(w->r);
    w->k->close(w->k);
    demo_close(w->d);
}

static reader_scores score(world *w, int adapter)
{
    err           e = {0};
    reader_scores s;
    reader_query  q = w->c->q;
    assert_int_equal(q.A, 2);
    q.adapter = adapter;
    OK(reader_score(w->r, w->k, &q, w->a, &s, &e), e);
    return s;
}

typedef struct { float logp[SCORES], logit[SCORES]; } scores;
static scores copied(const reader_scores *s)
{
    scores y;
    memcpy(y.logp, s->logp, sizeof y.logp);
    memcpy(y.logit, s->logit, sizeof y.logit);
    return y;
}

/* The scores of one adapter (NULL: none) on a base, in a reader of its own. */
static scores alone_on(const char *base, const char *dir, bool merge, precision p)
{
    reader_adapter one = {"one", dir};
    world          w = open_world(base, &one, dir ? 1 : 0, merge, p);
    reader_scores  s = score(&w, dir ? 1 : 0);
    scores         y = copied(&s);
    close_world(&w);
    return y;
}
static scores alone(const char *dir, bool merge) { return alone_on(BASE, dir, merge, PRECISION_F32); }

#define SAME(x, y) assert_memory_equal(&(x), &(y), sizeof(scores))
static void close_to(const scores *x, const scores *y, double tol)
{
    CLOSE(x->logit, y->logit, SCORES, tol, "logits");
    CLOSE(x->logp, y->logp, SCORES, tol, "log-likelihoods");
}
static double apart(const scores *x, const scores *y) { return rel_max(x->logit, y->logit, SCORES); }

static const reader_adapter TWO[] = {{"text", FIXTURE("qwen2vl-tiny-lora")},
                                     {"both", FIXTURE("qwen2vl-tiny-lora-vision")}};

/* Also with prefixes in the cache, where each adapter has its own. */
static void an_adapter_changes_only_what_names_it(void **state)
{
    (void)state;
    const scores want[] = {alone(NULL, false), alone(TWO[0].dir, false), alone(TWO[1].dir, false)};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < i; j++) assert_true(apart(&want[i], &want[j]) > 1e-2);
    world w = open_world(BASE, TWO, 2, false, PRECISION_F32);
    for (int i = 0; i < 9; i++) {
        reader_scores s = score(&w, i % 3);
        scores        got = copied(&s);
        SAME(got, want[i % 3]);
        assert_int_equal(s.n_cached, i < 3 ? 0 : K);
    }
    close_world(&w);
}

static void a_zero_adapter_changes_no_bit(void **state)
{
    (void)state;
    copy  *y = both_adapter();
    scores base = alone(NULL, false);
    for (int i = 0; i < y->c.n; i++)
        if (strstr(y->c.t[i].name, "lora_B")) memset(y->c.t[i].data, 0, y->c.t[i].bytes);
    save(y);
    for (int merge = 0; merge < 2; merge++) {
        scores got = alone(y->m.dir, merge);
        SAME(got, base);
    }
    copy_free(y);
}

static void merged_and_beside_agree(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        scores beside = alone(TWO[i].dir, false), merged = alone(TWO[i].dir, true);
        close_to(&merged, &beside, 1e-4);
        assert_true(memcmp(&merged, &beside, sizeof beside) != 0); /* two ways of computing, not one twice */
        for (int p = 0; p < 2; p++) { /* a BF16 base: branch and merged weights are rounded to its type */
            precision products = p ? PRECISION_BF16 : PRECISION_F32;
            scores    b = alone_on(WIDE, TWO[i].dir, false, products), m = alone_on(WIDE, TWO[i].dir, true, products);
            scores    base = alone_on(WIDE, NULL, false, products);
            close_to(&m, &b, 3e-2);
            assert_true(apart(&b, &base) > 3e-2);
        }
    }
}

static void spellings_of_names_are_one_adapter(void **state)
{
    (void)state;
    copy  *y = text_adapter();
    scores want = alone(save(y), false);
    for (int i = 0; i < y->c.n; i++) {
        char old[128];
        snprintf(old, sizeof old, "%s", y->c.t[i].name + strlen("base_model.model.model."));
        snprintf(y->c.t[i].name, sizeof y->c.t[i].name, "base_model.model.model.language_model.%.80s", old);
    }
    scores got = alone(save(y), false);
    SAME(got, want);
    copy_free(y);
}

static void types_and_alignment_do_not_matter(void **state)
{
    (void)state;
    for (int type = 0; type < 3; type++) {
        static const dtype TYPE[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
        copy  *y = text_adapter(), *wide = text_adapter();
        for (int i = 0; type && i < y->c.n; i++) {
            tensor_round(&y->c.t[i], TYPE[type], false);
            tensor_round(&wide->c.t[i], TYPE[type], true);
        }
        scores want = alone(save(wide), false), want_merged = alone(wide->m.dir, true);
        for (int pad = 0; pad < 2; pad++) {
            scores got = alone(save_padded(y, pad), false), merged = alone(y->m.dir, true);
            SAME(got, want);
            SAME(merged, want_merged);
        }
        copy_free(y);
        copy_free(wide);
    }
}

static void multiply(copy *y, const char *half, float by)
{
    for (int i = 0; i < y->c.n; i++)
        for (size_t j = 0; strstr(y->c.t[i].name, half) && j < y->c.t[i].bytes / 4; j++)
            ((float *)y->c.t[i].data)[j] *= by;
}

/* r is 8, alpha 16: s = 2, or rank-stabilised 16 / sqrt(8). Powers of two in B are exact. */
static void the_scale_is_read_from_the_file(void **state)
{
    (void)state;
    copy  *y = text_adapter();
    scores want = alone(save(y), false);
    multiply(y, "lora_B", 4);
    set(y, "lora_alpha", "4.0");
    scores got = alone(save(y), false);
    SAME(got, want);

    set(y, "lora_alpha", "8");
    set(y, "use_rslora", "true");
    scores stabilised = alone(y->m.dir, false), merged = alone(y->m.dir, true);
    multiply(y, "lora_B", sqrtf(8)); /* what stabilising does to s = alpha / r */
    set(y, "use_rslora", "false");
    scores by_hand = alone(save(y), false);
    close_to(&stabilised, &by_hand, 1e-5);
    close_to(&merged, &stabilised, 1e-4);
    assert_true(apart(&stabilised, &want) > 1e-3);
    copy_free(y);
}

/* Of rank 1, with A a single row: a matrix that kernels take for a vector. */
static void rank_one(void **state)
{
    (void)state;
    copy *y = text_adapter();
    for (int i = 0; i < y->c.n; i++) {
        saved_tensor *t = &y->c.t[i];
        bool          a = strstr(t->name, "lora_A") != NULL;
        if (!a) /* the first column of B */
            for (int64_t r = 0; r < t->dim[0]; r++) ((float *)t->data)[r] = ((float *)t->data)[r * 8];
        t->bytes /= 8;
        t->dim[a ? 0 : 1] = 1;
    }
    set(y, "r", "1");
    scores beside = alone(save(y), false), merged = alone(y->m.dir, true), base = alone(NULL, false);
    close_to(&merged, &beside, 1e-4);
    assert_true(apart(&beside, &base) > 1e-2);
    scores wide = alone_on(WIDE, y->m.dir, false, PRECISION_BF16),
           wide_merged = alone_on(WIDE, y->m.dir, true, PRECISION_BF16);
    close_to(&wide, &wide_merged, 3e-2);
    copy_free(y);
}

/* An adapter may leave layers alone (layers_to_transform): one pair is the least that is an adapter. */
static void one_pair_is_an_adapter(void **state)
{
    (void)state;
    copy *y = text_adapter();
    checkpoint_filter(&y->c, "base_model.model.model.layers.1.self_attn.v_proj.", true);
    assert_int_equal(y->c.n, 2);
    scores got = alone(save(y), false), merged = alone(y->m.dir, true), base = alone(NULL, false);
    close_to(&merged, &got, 1e-4);
    assert_true(apart(&got, &base) > 1e-5);
    copy_free(y);
}

/* 2 r (in + out) per row and layer: by hand from the fixture's sizes, and as counted. */
static void the_work_is_counted_in_full(void **state)
{
    (void)state;
    world    w = open_world(BASE, TWO, 2, false, PRECISION_F32);
    err      e = {0};
    image    z;
    picture  query, pair;
    prompt   before, ask;
    uint64_t least[3], rows = 3; /* of the last layer: "Yes" and "No" are two tokens each in this vocabulary */
    w.c->q.K = 1;
    for (int i = 0; i < 3; i++) {
        reader_query q = w.c->q;
        q.adapter = i;
        least[i] = reader_minimum_flops(w.r, &q, w.a, &e);
        reader_cache_clear(w.r);
        reader_scores s = score(&w, i);
        assert_int_equal(s.flops, least[i]);
        rows = 1;
        for (int a = 0; a < q.A; a++) rows += (uint64_t)(s.answer_tokens[a] - 1); /* no shared beginnings */
    }
    OK(demo_load(w.d, w.c->z[0].id, &z, w.a, &e), e);
    OK(w.r->f->prepare(w.r->m, &pair, &z, IMAGE_NATIVE, w.a, &e)
       && w.r->f->prepare(w.r->m, &query, &w.c->img, IMAGE_NATIVE, w.a, &e), e);
    OK(w.r->f->prefix(w.r->m, w.c->z[0].caption, &pair, &before, w.a, &e), e);
    OK(w.r->f->query(w.r->m, w.c->q.question, &query, &ask, w.a, &e), e);

    enum { D = 128, KV = 64, F = 192, L = 3, E = 64 };
    uint64_t n = (uint64_t)before.n_ids, T = (uint64_t)ask.n_ids + rows - 1;
    uint64_t keys = 2 * (D + KV), rest = 2 * (D + D) + 3 * (D + F);
    uint64_t text = L * keys * (n + T) + rest * ((L - 1) * (n + T) + rows);
    uint64_t P = (uint64_t)(pair.grid_h * pair.grid_w + query.grid_h * query.grid_w);
    uint64_t vision = 2 * P * ((E + 3 * E) + (E + E) + 2 * (E + 4 * E)) + P / 4 * ((4 * E + 4 * E) + (4 * E + D));
    assert_int_equal(least[1] - least[0], 2 * 8 * text);
    assert_int_equal(least[2] - least[0], 2 * 4 * (text + vision));
    close_world(&w);

    world m = open_world(BASE, TWO, 1, true, PRECISION_F32); /* merged: no work at all */
    m.c->q.K = 1;
    assert_int_equal(score(&m, 1).flops, least[0]);
    close_world(&m);
}

static void tells_what_it_holds(void **state)
{
    (void)state;
    int     i = -1;
    err     e;
    world   w = open_world(BASE, TWO, 2, false, PRECISION_F32);
    reader *r = w.r;
    assert_int_equal(reader_adapters(r), 2);
    reader_adapter_info text = reader_describe_adapter(r, 1), both = reader_describe_adapter(r, 2);
    assert_string_equal(text.name, "text");
    assert_int_equal(text.rank, 8);
    assert_float_equal(text.scale, 2, 0);
    assert_int_equal(text.parameters, 3 * 8 * (2 * (128 + 64) + 2 * 256 + 3 * 320));
    assert_false(text.merged);
    assert_int_equal(text.merged_bytes, 0);
    assert_int_equal(strlen(text.hash), 64);
    assert_string_not_equal(text.hash, both.hash);
    assert_float_equal(both.scale, 4, 0); /* 8 / sqrt(4) */
    OK(reader_find_adapter(r, NULL, &i, &e) && i == 0, e);
    OK(reader_find_adapter(r, "none", &i, &e) && i == 0, e);
    OK(reader_find_adapter(r, "both", &i, &e) && i == 2, e);
    FAILS(reader_find_adapter(r, "retina", &i, &e), e, ERR_UNUSABLE, "has text, both");
    assert_string_equal(e.problem, "adapter-unknown");
    assert_string_equal(e.field, "adapter");
    if (strstr(e.text, "retina")) fail_msg("'%s' holds what the request said", e.text);
    close_world(&w);

    w = open_world(BASE, NULL, 0, false, PRECISION_F32);
    FAILS(reader_find_adapter(w.r, "text", &i, &e), e, ERR_UNUSABLE, "has none");
    close_world(&w);

    w = open_world(BASE, TWO, 1, true, PRECISION_F32);
    OK(reader_find_adapter(w.r, NULL, &i, &e) && i == 1, e);
    OK(reader_find_adapter(w.r, "text", &i, &e) && i == 1, e);
    FAILS(reader_find_adapter(w.r, "none", &i, &e), e, ERR_UNUSABLE, "has text, merged into it");
    text = reader_describe_adapter(w.r, 1);
    assert_true(text.merged);
    assert_int_equal(text.merged_bytes, 4 * 3 * (2 * 128 * 64 + 2 * 128 * 128 + 3 * 128 * 192));
    close_world(&w);
}

/* ---- refusals ---- */

static void opening_fails(const char *base, const reader_adapter *a, int n, bool merge, err_code code,
                          const char *part)
{
    err            e;
    reader        *r = NULL;
    kernels       *k = open_cpu(PRECISION_F32, 1);
    reader_options o = {.adapters = a, .n_adapters = n, .merge = merge};
    FAILS(reader_open(&r, base, &o, k, &e), e, code, part);
    assert_null(r);
    k->close(k);
}

static void refused(copy *y, const char *part)
{
    reader_adapter a = {"a", save(y)};
    opening_fails(BASE, &a, 1, false, ERR_FILE, part);
    opening_fails(BASE, &a, 1, true, ERR_FILE, part);
}

static void features_that_are_not_built_are_refused_by_name(void **state)
{
    (void)state;
    static const struct { const char *member, *value, *part;
    } bad[] = {{"use_dora", "true", "use_dora is set"},
               {"modules_to_save", "[\"lm_head\"]", "modules_to_save is set"},
               {"bias", "\"all\"", "bias is 'all'"},
               {"bias", "\"lora_only\"", "bias is 'lora_only'"},
               {"fan_in_fan_out", "true", "fan_in_fan_out is set"},
               {"trainable_token_indices", "[3]", "trainable_token_indices is set"},
               {"layer_replication", "[[0, 2]]", "layer_replication is set"},
               {"lora_bias", "true", "lora_bias is set"},
               {"rank_pattern", "{\"q_proj\": 4}", "rank_pattern is set"},
               {"alpha_pattern", "{\"q_proj\": 4}", "alpha_pattern is set"},
               {"target_parameters", "[\"experts\"]", "target_parameters is set"},
               {"use_qalora", "true", "use_qalora is set"},
               {"a_later_invention", "1", "a_later_invention is set"},
               {"peft_type", "\"IA3\"", "peft_type is 'IA3'"},
               {"peft_type", NULL, "peft_type is ''"},
               {"init_lora_weights", "\"pissa_niter_16\"", "init_lora_weights is 'pissa_niter_16'"},
               {"r", "0", "r must be 1 to"},
               {"r", "1000000", "r must be 1 to"},
               {"r", NULL, "r "},
               {"r", "\"8\"", "r "},
               {"r", "4", "has rank 8, adapter_config.json says 4"},
               {"lora_alpha", "\"16\"", "lora_alpha"},
               {"lora_alpha", "1e300", "lora_alpha is out of range"},
               {"use_rslora", "\"yes\"", "use_rslora"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        copy *y = text_adapter();
        set(y, bad[i].member, bad[i].value);
        refused(y, bad[i].part);
        copy_free(y);
    }
    /* off, or without a say in the result */
    static const struct { const char *member, *value;
    } fine[] = {{"use_dora", NULL},
                {"modules_to_save", "[]"},
                {"a_later_invention", "false"},
                {"qalora_group_size", "16"},
                {"target_modules", "\"^(?!.*patch_embed).*(?:q_proj).*\""},
                {"init_lora_weights", "\"gaussian\""},
                {"peft_version", "\"0.17\""}};
    copy  *y = text_adapter();
    scores want = alone(save(y), false);
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) set(y, fine[i].member, fine[i].value);
    scores got = alone(y->m.dir, false);
    SAME(got, want);
    copy_free(y);
}

static void every_tensor_must_find_its_layer(void **state)
{
    (void)state;
    copy *y = both_adapter();
    for (int i = 0; i < y->c.n; i += 5) { /* one half alone */
        char name[128], *half;
        snprintf(name, sizeof name, "%s", y->c.t[i].name);
        copy *z = both_adapter();
        checkpoint_drop(&z->c, name);
        refused(z, strstr(name, "lora_A") ? "has no lora_A" : "has no lora_B");
        half = strstr(name, "lora_");
        name[half - name] = 0;
        refused(z, name); /* the other half's name */
        copy_free(z);
    }
    copy_free(y);

    static const struct { const char *from, *to, *part; } names[] = {
        {"layers.2.", "layers.3.", "layers.3.mlp.down_proj.lora_A.weight: the reader has no such layer"},
        {"blocks.1.", "blocks.2.", "blocks.2.attn.proj.lora_A.weight: the reader has no such layer"},
        {"self_attn.o_proj", "self_attn.out_proj", "self_attn.out_proj.lora_A.weight: the reader has no such layer"},
        {"base_model.model.", "base.model.", "is not base_model.model.*"},
        {".lora_A.weight", ".lora_A.default.weight", "lora_A.default.weight is not base_model.model.*"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        copy *z = both_adapter();
        for (int j = 0; j < z->c.n; j++) {
            char  old[128], *at;
            snprintf(old, sizeof old, "%s", z->c.t[j].name);
            if (!(at = strstr(old, names[i].from))) continue;
            snprintf(z->c.t[j].name, sizeof z->c.t[j].name, "%.*s%s%.60s", (int)(at - old), old, names[i].to,
                     at + strlen(names[i].from));
        }
        refused(z, names[i].part);
        copy_free(z);
    }

    copy *more = text_adapter(); /* what belongs to DoRA, whatever the configuration says */
    checkpoint_add(&more->c, "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector", DTYPE_F32, 1,
                   (int64_t[]){8}, more->c.t[0].data);
    refused(more, "lora_magnitude_vector is not base_model.model.*");
    copy_free(more);

    copy *twice = text_adapter(); /* one layer under both spellings: the second would be left out */
    for (int half = 0; half < 2; half++) {
        char          name[128];
        saved_tensor *t;
        snprintf(name, sizeof name, "base_model.model.model.layers.0.mlp.up_proj.lora_%c.weight", "AB"[half]);
        t = checkpoint_find(&twice->c, name);
        snprintf(name, sizeof name, "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_%c.weight",
                 "AB"[half]);
        checkpoint_add(&twice->c, name, t->type, 2, t->dim, t->data);
    }
    refused(twice, "language_model.layers.0.mlp.up_proj.lora_A.weight: the reader has no such layer");
    copy_free(twice);
}

static void shapes_must_be_those_of_the_base(void **state)
{
    (void)state;
    static const struct { const char *name; int dim, size; const char *part;
    } bad[] = {{"q_proj.lora_A.weight", 1, 127,
                "q_proj.lora_A.weight: the adapter takes 127 and gives 128, the reader's layer 128 and 128"},
               {"k_proj.lora_B.weight", 0, 63,
                "k_proj.lora_B.weight: the adapter takes 128 and gives 63, the reader's layer 128 and 64"},
               {"q_proj.lora_A.weight", 0, 7, "q_proj.lora_A.weight has rank 7, adapter_config.json says 8"},
               {"q_proj.lora_B.weight", 1, 7, "q_proj.lora_B.weight has rank 7, adapter_config.json says 8"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char  name[128];
        copy *y = text_adapter();
        snprintf(name, sizeof name, "base_model.model.model.layers.1.self_attn.%s", bad[i].name);
        saved_tensor *t = checkpoint_find(&y->c, name);
        t->bytes = t->bytes / (size_t)t->dim[bad[i].dim] * (size_t)bad[i].size;
        t->dim[bad[i].dim] = bad[i].size;
        refused(y, bad[i].part);
        copy_free(y);
    }
    copy         *y = text_adapter();
    saved_tensor *t = &y->c.t[0];
    t->n_dims = 4; /* as of a convolution */
    t->dim[2] = t->dim[3] = 1;
    refused(y, "is no matrix");
    t->n_dims = 2;
    t->type = DTYPE_I32;
    refused(y, "dtype I32");
    checkpoint_free(&y->c);
    refused(y, "no tensor");
    copy_free(y);
}

static void files_and_names(void **state)
{
    (void)state;
    err            e = {0};
    copy          *y = text_adapter();
    reader_adapter a[MAX_ADAPTERS + 1] = {{"a", y->m.dir}, {"a", y->m.dir}};
    opening_fails(BASE, a, 1, false, ERR_FILE, "adapter_model.safetensors");
    save(y);
    opening_fails(BASE, a, 2, false, ERR_USAGE, "'a' is named twice");
    static const char *const name[] = {"", "none", "a b", "a/b", "n\xc3\xa4me",
                                       "01234567890123456789012345678901234567890123456789012345678901234"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        a[0].name = name[i];
        opening_fails(BASE, a, 1, false, ERR_USAGE, "a name has 1 to 64");
    }
    a[0].name = name[5] + 1; /* 64 letters */
    a[1].name = "b";
    opening_fails(BASE, a, 2, true, ERR_USAGE, "exactly one can be merged");
    opening_fails(BASE, a, 0, true, ERR_USAGE, "exactly one can be merged");
    opening_fails(BASE, a, MAX_ADAPTERS + 1, false, ERR_USAGE, "at most 32");
    world w = open_world(BASE, a, 2, false, PRECISION_F32);
    close_world(&w);

    OK(file_write(folder_file(&y->m, "config.json"), "{}", 2, &e), e); /* a reader's folder with an adapter in it */
    opening_fails(y->m.dir, NULL, 0, false, ERR_FILE, "adapter_config.json is there");
    unlink(folder_file(&y->m, "adapter_config.json"));
    a[0].name = "a";
    opening_fails(BASE, a, 1, false, ERR_FILE, "adapter_config.json");
    copy_free(y);
}

static void no_memory_while_opening_leaks_nothing(void **state)
{
    (void)state;
    const scores want[] = {alone(TWO[1].dir, false), alone(TWO[1].dir, true)};
    for (int merge = 0; merge < 2; merge++) {
        world          w = open_world(BASE, NULL, 0, false, PRECISION_F32);
        reader        *base = w.r;
        reader_options o = {.cache_bytes = CACHE, .adapters = TWO + 1, .n_adapters = 1, .merge = merge};
        bool           reached = true;
        int            errors = 0;
        for (long n = 0; reached; n++) {
            err     e = {0};
            reader *r = NULL;
            mem_fail_after(n);
            bool ok = reader_open(&r, BASE, &o, w.k, &e);
            reached = mem_fail_after(-1) > n;
            if (!ok) {
                if (e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
                assert_null(r);
                errors++;
                continue;
            }
            if (!reached) {
                w.r = r;
                reader_scores s = score(&w, 1);
                scores        got = copied(&s);
                SAME(got, want[merge]);
            }
            reader_close(r);
        }
        assert_true(errors > 20);
        w.r = base;
        close_world(&w);
    }
}

/* ---- several workers, each with an adapter of its own, on one reader ---- */

typedef struct {
    reader *r;
    kernels *k;
    demo *d;
    demo_case *c;
    const scores *want;
    int first;
    const char *wrong;
} job;

static void *work(void *arg)
{
    job   *j = arg;
    arena *a = arena_new(0);
    for (int i = 0; i < 9 && !j->wrong; i++) {
        err           e = {0};
        reader_scores s;
        reader_query  q = j->c->q;
        q.K = K;
        q.adapter = (j->first + i) % 3;
        if (!reader_score(j->r, j->k, &q, a, &s, &e)) j->wrong = "failed";
        else {
            scores got = copied(&s);
            if (memcmp(&got, &j->want[q.adapter], sizeof got) != 0) j->wrong = "other bits";
        }
        arena_reset(a);
        if (i % 4 == 3) reader_cache_clear(j->r);
    }
    arena_free(a);
    return NULL;
}

static void workers_with_different_adapters_do_not_mix(void **state)
{
    (void)state;
    enum { WORKERS = 3 };
    const scores want[] = {alone(NULL, false), alone(TWO[0].dir, false), alone(TWO[1].dir, false)};
    world        w = open_world(BASE, TWO, 2, false, PRECISION_F32);
    pthread_t    t[WORKERS];
    job          j[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        j[i] = (job){.r = w.r, .k = open_cpu(PRECISION_F32, 1), .d = demo_open(), .want = want, .first = i};
        j[i].c = demo_case_open(j[i].d, "breast", "test", 3);
    }
    for (int i = 0; i < WORKERS; i++) assert_int_equal(pthread_create(&t[i], NULL, work, &j[i]), 0);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(t[i], NULL);
        if (j[i].wrong) fail_msg("worker %d: %s", i, j[i].wrong);
        demo_case_close(j[i].c);
        j[i].k->close(j[i].k);
        demo_close(j[i].d);
    }
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_changes_only_what_names_it),
        cmocka_unit_test(a_zero_adapter_changes_no_bit),
        cmocka_unit_test(merged_and_beside_agree),
        cmocka_unit_test(spellings_of_names_are_one_adapter),
        cmocka_unit_test(types_and_alignment_do_not_matter),
        cmocka_unit_test(the_scale_is_read_from_the_file),
        cmocka_unit_test(rank_one),
        cmocka_unit_test(one_pair_is_an_adapter),
        cmocka_unit_test(the_work_is_counted_in_full),
        cmocka_unit_test(tells_what_it_holds),
        cmocka_unit_test(features_that_are_not_built_are_refused_by_name),
        cmocka_unit_test(every_tensor_must_find_its_layer),
        cmocka_unit_test(shapes_must_be_those_of_the_base),
        cmocka_unit_test(files_and_names),
        cmocka_unit_test(no_memory_while_opening_leaks_nothing),
        cmocka_unit_test(workers_with_different_adapters_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
