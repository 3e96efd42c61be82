/* Golden parity of Pixtral: every stage of the vision tower and of the decoder against the PyTorch reference, for two
 * checkpoints (one F32 file, BF16 shards), in f32 and in bf16 products; reader_score on such a checkpoint; and
 * adapters of it. */
#include "tests/reader/copy.h"
#include "tests/reader/parity.h"

#include "base/text.h"
#include "imaging/preprocess.h"

/* ---- goldens -------------------------------------------------------------------------------------------------- */

enum { PATCH = 16 };

/* [3,H,W] as the library preprocessed it -> patches in raster order, [channel, row, column] in a patch. */
static picture patches_of(const tensor *t, arena *a)
{
    err     e = {0};
    int     H = (int)t->dim[1], W = (int)t->dim[2], gh = H / PATCH, gw = W / PATCH;
    float  *px = ARENA_NEW(a, float, t->count, &e), *to = px;
    const float *from = t->data;
    assert_non_null(px);
    for (int r = 0; r < gh; r++)
        for (int k = 0; k < gw; k++)
            for (int c = 0; c < 3; c++)
                for (int y = 0; y < PATCH; y++)
                    for (int x = 0; x < PATCH; x++) *to++ = from[(c * H + r * PATCH + y) * W + k * PATCH + x];
    pixel_plan plan = plan_holding(px, gh, gw, PATCH, 1, 1, a);
    return picture_from(&plan);
}

/* One span a row: the marker's runs, between break tokens. */
static golden_case open_case(const safetensors *g, const safetensors *pixels, const json_t *json, const char *name,
                             int32_t image_id, arena *a)
{
    err         e = {0};
    golden_case c = {0};
    char        path[128];
    size_t      i;
    json_t     *row;
    json_array_foreach(json_object_get(json, "cases"), i, row)
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0) c.j = row;
    assert_non_null(c.j);

    int64_t n;
    int     rows = 0;
    snprintf(path, sizeof path, "%s/input_ids", name);
    const int64_t *ids = golden_ints(g, path, &n);
    const json_t  *files = json_object_get(c.j, "images");
    c.n_pics = (int)json_array_size(files);
    for (i = 0; i < (size_t)c.n_pics; i++) {
        snprintf(path, sizeof path, "%s/pixel_values", json_string_value(json_array_get(files, i)));
        const tensor *px = safetensors_find(pixels, path);
        assert_non_null(px);
        c.pic[i] = patches_of(px, a);
        snprintf(path, sizeof path, "%s/image_sizes", name);
        const int64_t *size = golden_ints(g, path, NULL) + 2 * i;
        assert_true(size[0] == c.pic[i].grid_h * PATCH && size[1] == c.pic[i].grid_w * PATCH);
        c.vision_rows += c.pic[i].rows * c.pic[i].cols;
        rows += c.pic[i].rows;
    }
    assert_int_equal(n, json_integer_value(json_object_get(c.j, "n_tokens")));
    assert_int_equal(c.vision_rows, json_integer_value(json_object_get(c.j, "n_image_tokens")));
    c.p = (prompt){ARENA_NEW(a, int32_t, n, &e), (int)n, ARENA_NEW(a, image_span, rows + 1, &e), 0};
    for (int t = 0, len = 0; t < (int)n; t++) {
        c.p.ids[t] = (int32_t)ids[t];
        if (ids[t] != image_id) { len = 0; continue; }
        assert_true(len || c.p.n_spans < rows);
        if (!len++) c.p.span[c.p.n_spans++] = (image_span){t, 1, 0};
        c.p.span[c.p.n_spans - 1].cols = len;
    }
    assert_int_equal(c.p.n_spans, rows);
    for (int k = 0, s = 0; k < c.n_pics; k++)
        for (int r = 0; r < c.pic[k].rows; r++) assert_int_equal(c.p.span[s++].cols, c.pic[k].cols);
    return c;
}

/* Plain: a picture's tokens and breaks count like text, on all axes. */
static void check_positions(const safetensors *g, const golden_case *c, const char *name, const int32_t *pos,
                            int cursor)
{
    (void)g, (void)name;
    for (int i = 0; i < 3 * c->p.n_ids; i++) assert_int_equal(pos[i], i % c->p.n_ids);
    assert_int_equal(cursor, c->p.n_ids);
}

static const golden_family PIXTRAL = {FIXTURE("golden/pixtral-preprocess.safetensors"),
                                      "[IMG]",
                                      "vision.ln_pre",
                                      "vision.projector",
                                      open_case,
                                      check_positions};

/* What the eight greedy tokens spell, added tokens written out. Where a character is cut, the library puts
 * U+FFFD and we the bytes, so only the whole texts are compared. */
static int texts_compared(const char *golden, const bpe *b)
{
    err     e = {0};
    size_t  i;
    int     n_compared = 0;
    json_t *root, *row, *id;
    arena  *a = arena_new(0);
    OK(json_open(&root, golden, &e), e);
    json_array_foreach(json_object_get(root, "cases"), i, row)
    {
        int32_t       ids[8];
        char         *s;
        size_t        n, k;
        const json_t *want = json_object_get(row, "greedy_text");
        assert_int_equal(json_array_size(json_object_get(row, "greedy_ids")), 8);
        json_array_foreach(json_object_get(row, "greedy_ids"), k, id) ids[k] = (int32_t)json_integer_value(id);
        OK(bpe_decode(b, ids, 8, &s, &n, a, &e), e);
        if (!utf8_valid(s, n)) continue;
        assert_int_equal(n, json_string_length(want));
        assert_memory_equal(s, json_string_value(want), n);
        n_compared++;
    }
    json_decref(root);
    arena_free(a);
    return n_compared;
}

static void greedy_text_is_the_librarys(void **state)
{
    (void)state;
    static const char *const golden[] = {FIXTURE("golden/pixtral-tiny.f32.json"),
                                         FIXTURE("golden/pixtral-tiny-bf16.f32.json"),
                                         FIXTURE("golden/pixtral-tiny-bf16.bf16.json")};
    err  e = {0};
    bpe *b;
    OK(bpe_open(&b, FIXTURE("pixtral-tiny/tokenizer.json"), &e), e);
    for (int i = 0; i < 3; i++) assert_int_equal(texts_compared(golden[i], b), 1);
    bpe_close(b);
}

#define F32_RUN  "pixtral-tiny.f32", FIXTURE("pixtral-tiny"), PRECISION_F32, 1e-4, NULL, false
#define WIDE_RUN "pixtral-tiny-bf16.f32", FIXTURE("pixtral-tiny-bf16-sharded"), PRECISION_F32, 1e-4, NULL, false
#define BF16_RUN "pixtral-tiny-bf16.bf16", FIXTURE("pixtral-tiny-bf16-sharded"), PRECISION_BF16, 3e-2, NULL, false

#define CASE(run, name) static const golden_run run##_##name = {run##_RUN, #name, &PIXTRAL};
#define CASES(run) CASE(run, one_image) CASE(run, two_images) CASE(run, text_only) CASE(run, shrunk_image) CASE(run, multi_turn)
CASES(F32)
CASES(WIDE)
CASES(BF16)

/* ---- reader_score --------------------------------------------------------------------------------------------- */

enum { K = 3, A = 3 };
static const char *const PICTURE[] = {"gray_64x48.png", "rgb_97x131.jpg", "rgba_71x59.png", "rgb_300x180.jpg"};
static const char *const ANSWERS[] = {"yes", "no", "not sure"};

/* A query on the first fixture picture, and the others as its retrieved pairs. */
typedef struct {
    kernels       *k;
    reader        *r;
    arena         *a;
    safetensors   *decoded;
    image          img;
    reader_passage z[K];
    reader_query   q;
    int            loads;
} world;

static image picture_of(const world *w, const char *name)
{
    const tensor *t = safetensors_find(w->decoded, name);
    assert_non_null(t);
    return (image){.width = (int)t->dim[1], .height = (int)t->dim[0], .rgb = (uint8_t *)(uintptr_t)t->data};
}

static bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    world *w = ctx;
    (void)a, (void)e;
    w->loads++;
    *out = picture_of(w, PICTURE[id]);
    return true;
}

static world *open_world(const char *dir, size_t cache, int threads)
{
    static const char *const CAPTION[] = {"", "A house.", "[IMG] is text here", "Hills with\n\ntwo breaks"};
    err    e = {0};
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->k = open_cpu(PRECISION_F32, threads);
    w->r = open_reader(dir, cache, w->k);
    w->a = arena_new(0);
    OK(safetensors_open(&w->decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    w->img = picture_of(w, PICTURE[0]);
    for (int i = 0; i < K; i++) w->z[i] = (reader_passage){i + 1, CAPTION[i + 1]};
    w->q = (reader_query){.img = &w->img,
                          .question = "Is there a house?",
                          .answers = ANSWERS,
                          .A = A,
                          .z = w->z,
                          .K = K,
                          .load = load,
                          .load_ctx = w};
    return w;
}

static void close_world(world *w)
{
    safetensors_close(w->decoded);
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

/* The whole prompt as one, through the family's parts and one causal pass without cache or trie. */
static float logp_by_hand(world *w, int z, const char *answer)
{
    err      e = {0};
    kernels *k = w->k;
    const model   *m = w->r->m;
    const decoder *d = m->text;
    size_t   D = (size_t)decoder_sizes(d)->D, V = (size_t)decoder_sizes(d)->V;
    picture  pic[2];
    prompt   part[2], all = {0};
    image    img = picture_of(w, PICTURE[w->z[z].id]);
    int32_t *own;
    int      n_own;
    OK(w->r->f->prepare(m, &pic[0], &img, w->q.policy, w->a, &e), e);
    OK(w->r->f->prepare(m, &pic[1], &w->img, w->q.policy, w->a, &e), e);
    OK(w->r->f->prefix(m, w->z[z].caption, &pic[0], &part[0], w->a, &e), e);
    OK(w->r->f->query(m, w->q.question, &pic[1], &part[1], w->a, &e), e);
    OK(bpe_encode(w->r->tokens, answer, strlen(answer), false, false, &own, &n_own, w->a, &e), e);

    all.n_ids = part[0].n_ids + part[1].n_ids + n_own;
    all.ids = ARENA_NEW(w->a, int32_t, all.n_ids, &e);
    all.span = ARENA_NEW(w->a, image_span, part[0].n_spans + part[1].n_spans, &e);
    for (int i = 0, at = 0; i < 2; at += part[i++].n_ids) {
        memcpy(all.ids + at, part[i].ids, (size_t)part[i].n_ids * sizeof *all.ids);
        for (int s = 0; s < part[i].n_spans; s++)
            all.span[all.n_spans++] =
                (image_span){part[i].span[s].start + at, part[i].span[s].rows, part[i].span[s].cols};
    }
    int S = all.n_ids - n_own;
    memcpy(all.ids + S, own, (size_t)n_own * sizeof *own);
    int32_t *pos = ARENA_NEW(w->a, int32_t, 3 * all.n_ids, &e);
    w->r->f->positions(pos, &all, 0);

    size_t mark = k->mark(k), n0 = (size_t)pic[0].rows * (size_t)pic[0].cols,
           n1 = (size_t)pic[1].rows * (size_t)pic[1].cols;
    act   *vision = k->take(k, (n0 + n1) * D), *x = k->take(k, (size_t)all.n_ids * D);
    OK(w->r->f->encode(m, k, 0, &pic[0], 1, vision, NULL, w->a, &e), e);
    OK(w->r->f->encode(m, k, 0, &pic[1], 1, act_at(k, vision, n0 * D), NULL, w->a, &e), e);
    decoder_embed(d, k, &all, vision, x);
    kv           keys = {k->take(k, decoder_kv_len(d, all.n_ids)), all.n_ids, 0};
    decoder_pass pass = {.own = &keys, .pos = pos, .x = x, .T = all.n_ids};
    OK(decoder_forward(d, k, &pass, w->a, &e), e);
    decoder_norm(d, k, x, all.n_ids);
    float *logits = ARENA_NEW(w->a, float, (size_t)n_own * V, &e);
    k->logits(k, logits, act_at(k, x, (size_t)(S - 1) * D), n_own, decoder_head(d));
    OK(k->sync(k, &e), e);
    k->back(k, mark);
    double sum = 0;
    for (int i = 0; i < n_own; i++) {
        const float *row = logits + (size_t)i * V;
        double       top = row[0], total = 0;
        for (size_t v = 1; v < V; v++) top = fmax(top, (double)row[v]);
        for (size_t v = 0; v < V; v++) total += exp((double)row[v] - top);
        sum += (double)row[own[i]] - top - log(total);
    }
    return (float)sum;
}

static void scores_are_those_of_the_whole_prompt(void **state)
{
    (void)state;
    world        *w = open_world(FIXTURE("pixtral-tiny"), 1 << 20, 1);
    reader_scores y = score(w, &w->q);
    assert_false(y.end_token);
    for (int z = 0; z < K; z++)
        for (int i = 0; i < A; i++) {
            float want = logp_by_hand(w, z, ANSWERS[i]);
            if (!(fabsf(y.logp[z * A + i] - want) <= 1e-4f * (float)y.answer_tokens[i]))
                fail_msg("candidate %d, answer %d: %.6f, as one prompt %.6f", z, i, (double)y.logp[z * A + i],
                         (double)want);
        }
    close_world(w);
}

static void a_case_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    const char *dir = FIXTURE("pixtral-tiny-bf16-sharded");
    world *w = open_world(dir, 1 << 20, 1), *two = open_world(dir, 0, 2);
    reader_scores cold = score(w, &w->q), warm = score(w, &w->q), threads = score(two, &two->q);
    assert_int_equal(cold.n_cached, 0);
    assert_int_equal(warm.n_cached, K);
    assert_int_equal(w->loads, K);
    assert_true(warm.flops < cold.flops);
    assert_memory_equal(warm.logp, cold.logp, K * A * sizeof(float));
    assert_memory_equal(warm.logit, cold.logit, K * A * sizeof(float));
    assert_memory_equal(threads.logp, cold.logp, K * A * sizeof(float));

    static const int     from[K] = {2, 0, 1};
    const reader_passage turned[K] = {w->z[2], w->z[0], w->z[1]};
    reader_query         q = w->q;
    q.z = turned;
    for (int round = 0; round < 2; round++) {
        reader_scores y = score(w, &q);
        for (int i = 0; i < K; i++) assert_memory_equal(y.logp + i * A, cold.logp + from[i] * A, A * sizeof(float));
        reader_cache_clear(w->r);
    }
    q.z = &w->z[1];
    q.K = 1;
    reader_scores one = score(w, &q);
    assert_memory_equal(one.logp, cold.logp + A, A * sizeof(float));
    close_world(w);
    close_world(two);
}

/* The policy's step, then the processor; prefixes of the two policies do not mix in the cache. */
static void a_policy_has_its_own_pixels_and_prefixes(void **state)
{
    (void)state;
    err      e = {0};
    world   *w = open_world(FIXTURE("pixtral-tiny"), 1 << 20, 1), *fresh = open_world(FIXTURE("pixtral-tiny"), 0, 1);
    image    img = picture_of(w, "rgb_300x180.jpg"), small;
    picture  got;
    pixel_plan want;
    pixtral_image_config c;
    OK(pixtral_image_config_open(&c, FIXTURE("pixtral-tiny"), &e), e);
    OK(jomed_256(&small, &img, w->a, &e), e);
    assert_true(small.width == 256 && small.height == 153);
    OK(pixtral_plan(&want, &small, &c, w->a, &e), e);
    OK(w->r->f->prepare(w->r->m, &got, &img, IMAGE_JOMED_256, w->a, &e), e);
    assert_true(got.rows == want.y.n_out / want.patch && got.cols == want.x.n_out / want.patch);
    assert_memory_equal(pixels_of(w->k, &got.plan, w->a), pixels_of(w->k, &want, w->a),
                        n_pixels(&want) * sizeof(float));

    reader_query jomed = w->q, alone = fresh->q;
    jomed.policy = alone.policy = IMAGE_JOMED_256;
    reader_scores native = score(w, &w->q), other = score(w, &jomed), again = score(w, &w->q),
                  apart = score(fresh, &alone);
    assert_int_equal(other.n_cached, 0);
    assert_int_equal(again.n_cached, K);
    assert_memory_equal(again.logp, native.logp, K * A * sizeof(float));
    assert_memory_equal(other.logp, apart.logp, K * A * sizeof(float));
    assert_true(memcmp(other.logp + 2 * A, native.logp + 2 * A, A * sizeof(float)) != 0); /* the one above 256 */
    assert_memory_equal(other.logp, native.logp, A * sizeof(float));                      /* one that is below */
    close_world(w);
    close_world(fresh);
}

/* By hand, from the fixture's sizes: fixtures/README.md. */
static uint64_t vision_by_hand(uint64_t P)
{
    return 2 * P * 768 * 64 + 2 * (2 * P * (4 * 64 * 64 + 3 * 64 * 128) + 4 * P * P * 64)
           + 2 * P * (64 * 96 + 96 * 96);
}

static void the_work_is_the_formulas(void **state)
{
    (void)state;
    err           e = {0};
    world        *w = open_world(FIXTURE("pixtral-tiny"), 1 << 20, 1);
    uint64_t      least = reader_minimum_flops(w->r, &w->q, w->a, &e);
    OK(least > 0, e);
    reader_scores cold = score(w, &w->q);
    assert_int_equal(cold.flops, least);

    picture pic;
    OK(w->r->f->prepare(w->r->m, &pic, &w->img, IMAGE_NATIVE, w->a, &e), e);
    assert_int_equal(w->r->f->encode_flops(w->r->m, 0, &pic), vision_by_hand(3 * 4));
    uint64_t before = w->k->flops;
    act     *out = w->k->take(w->k, 12 * 96);
    OK(w->r->f->encode(w->r->m, w->k, 0, &pic, 1, out, NULL, w->a, &e) && w->k->sync(w->k, &e), e);
    assert_int_equal(w->k->flops - before, vision_by_hand(3 * 4));
    close_world(w);
}

/* ---- adapters ------------------------------------------------------------------------------------------------- */

/* Every linear of a vision layer, the projector's and one of the text's; in an adapter by old names and by new
 * ones. */
#define VISION "vision_tower.transformer.layers."
static const char *const ADAPTED[][2] = {
    {VISION "0.attention.q_proj", VISION "0.attention.q_proj"},
    {VISION "0.attention.k_proj", "model." VISION "0.attention.k_proj"},
    {VISION "1.attention.v_proj", VISION "1.attention.v_proj"},
    {VISION "1.attention.o_proj", "model." VISION "1.attention.o_proj"},
    {VISION "0.feed_forward.gate_proj", VISION "0.feed_forward.gate_proj"},
    {VISION "1.feed_forward.up_proj", VISION "1.feed_forward.up_proj"},
    {VISION "1.feed_forward.down_proj", VISION "1.feed_forward.down_proj"},
    {"multi_modal_projector.linear_1", "multi_modal_projector.linear_1"},
    {"multi_modal_projector.linear_2", "model.multi_modal_projector.linear_2"},
    {"language_model.model.layers.1.self_attn.q_proj", "language_model.model.layers.1.self_attn.q_proj"},
    {"language_model.model.layers.0.mlp.down_proj", "model.language_model.layers.0.mlp.down_proj"},
};
enum { N_ADAPTED = sizeof ADAPTED / sizeof *ADAPTED, RANK = 4 };

/* Add A [RANK, in] and B [out, RANK] for one layer to an adapter; and 2 B A, as its alpha of 2 RANK says, to
 * the layer's W. */
static void adapt(checkpoint *c, copy *base, const char *const name[2], float b_size)
{
    char          s[128];
    uint32_t      seed = 1;
    snprintf(s, sizeof s, "%s.weight", name[0]);
    saved_tensor *t = checkpoint_find(&base->c, s);
    int64_t       out = t->dim[0], in = t->dim[1];
    float        *w = t->data, *a = must(malloc((size_t)in * RANK * 4)), *b = must(malloc((size_t)out * RANK * 4));
    assert_int_equal(t->type, DTYPE_F32);
    for (int64_t i = 0; i < in * RANK; i++)
        a[i] = (float)((seed = seed * 1664525 + 1013904223) >> 8) / (1 << 24) - 0.5f;
    for (int64_t i = 0; i < out * RANK; i++)
        b[i] = b_size * ((float)((seed = seed * 1664525 + 1013904223) >> 8) / (1 << 24) - 0.5f);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            for (int r = 0; r < RANK; r++) w[o * in + i] += 2 * b[o * RANK + r] * a[r * in + i];
    snprintf(s, sizeof s, "base_model.model.%s.lora_A.weight", name[1]);
    checkpoint_add(c, s, DTYPE_F32, 2, (int64_t[]){RANK, in}, a);
    snprintf(s, sizeof s, "base_model.model.%s.lora_B.weight", name[1]);
    checkpoint_add(c, s, DTYPE_F32, 2, (int64_t[]){out, RANK}, b);
    free(a);
    free(b);
}

/* A world whose reader has the adapter of layers [from, to); *same: the checkpoint that has it in its weights. */
static world *open_adapted(int from, int to, float b_size, copy **same)
{
    static const char CONFIG[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8}";
    err          e = {0};
    world       *w = open_world(FIXTURE("pixtral-tiny"), 0, 1);
    checkpoint  *c = must(calloc(1, sizeof *c));
    model_folder m = {.dir = "/tmp/jomed-adapter-XXXXXX"};
    must(mkdtemp(m.dir));
    *same = copy_of_fixture("pixtral-tiny");
    for (int i = from; i < to; i++) adapt(c, *same, ADAPTED[i], b_size);
    save(*same);
    OK(file_write(folder_file(&m, "adapter_config.json"), CONFIG, strlen(CONFIG), &e), e);
    checkpoint_write(c, folder_file(&m, "adapter_model.safetensors"), 0);
    reader_close(w->r);
    w->r = open_reader_with(FIXTURE("pixtral-tiny"), m.dir, false, w->k);
    folder_remove(&m);
    checkpoint_free(c);
    free(c);
    return w;
}

static void an_adapter_of_any_layer_scores_as_its_sum_with_the_weights(void **state)
{
    (void)state;
    err           e = {0};
    world        *base = open_world(FIXTURE("pixtral-tiny"), 0, 1);
    reader_scores plain = score(base, &base->q);
    for (int i = 0; i < N_ADAPTED; i++) {
        copy         *y;
        world        *w = open_adapted(i, i + 1, 2, &y), *merged = open_world(y->m.dir, 0, 1);
        reader_query  q = w->q;
        reader_scores without = score(w, &q);
        q.adapter = 1;
        reader_scores with = score(w, &q), want = score(merged, &merged->q);
        uint64_t      least = reader_minimum_flops(w->r, &q, w->a, &e);
        OK(least > 0, e);
        assert_memory_equal(without.logp, plain.logp, K * A * sizeof(float));
        CLOSE(with.logp, want.logp, K * A, 1e-4, ADAPTED[i][0]);
        double moved = 0;
        for (int j = 0; j < K * A; j++) moved = fmax(moved, fabs((double)with.logp[j] - (double)plain.logp[j]));
        if (moved < 1e-3) fail_msg("%s: an adapter moves the log-likelihoods by only %.3g", ADAPTED[i][0], moved);
        assert_int_equal(with.flops, least);
        assert_true(with.flops > plain.flops);
        copy_free(y);
        close_world(merged);
        close_world(w);
    }
    close_world(base);
}

static void an_adapter_whose_b_is_zero_keeps_the_bits(void **state)
{
    (void)state;
    copy         *y;
    world        *w = open_adapted(0, N_ADAPTED, 0, &y);
    reader_query  q = w->q;
    reader_scores without = score(w, &q);
    q.adapter = 1;
    reader_scores with = score(w, &q);
    assert_memory_equal(with.logp, without.logp, K * A * sizeof(float));
    assert_memory_equal(with.logit, without.logit, K * A * sizeof(float));
    copy_free(y);
    close_world(w);
}

#define TEST(test, run, name) {#test " " #run " " #name, test, NULL, NULL, (void *)&run##_##name}
#define TESTS(test, run) TEST(test, run, one_image), TEST(test, run, two_images), TEST(test, run, text_only), \
                         TEST(test, run, shrunk_image), TEST(test, run, multi_turn)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TESTS(every_stage_matches_the_reference, F32),
        TESTS(every_stage_matches_the_reference, WIDE),
        TESTS(every_stage_matches_the_reference, BF16),
        TESTS(greedy_continuation_matches_the_reference, F32),
        TESTS(greedy_continuation_matches_the_reference, WIDE),
        TESTS(answers_in_one_pass_have_the_reference_logps, F32),
        TESTS(answers_in_one_pass_have_the_reference_logps, WIDE),
        cmocka_unit_test(greedy_text_is_the_librarys),
        cmocka_unit_test(scores_are_those_of_the_whole_prompt),
        cmocka_unit_test(a_case_has_the_same_bits_in_any_company),
        cmocka_unit_test(a_policy_has_its_own_pixels_and_prefixes),
        cmocka_unit_test(the_work_is_the_formulas),
        cmocka_unit_test(an_adapter_of_any_layer_scores_as_its_sum_with_the_weights),
        cmocka_unit_test(an_adapter_whose_b_is_zero_keeps_the_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
