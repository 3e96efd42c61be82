/* test_towers.c - both towers against the original's tensors at every stage, and what a checkpoint may and may
 * not hold. Goldens: ../fixtures/golden/jina-clip-tiny (six ALiBi heads; a rotary grid of 7 stretched over 5
 * patches). */
#include "tests/retriever/checkpoint.h"

#include "base/memory.h"
#include "retriever/towers.h"

#define TINY   FIXTURE("jina-clip-tiny/")
#define GOLDEN FIXTURE("golden/jina-clip-tiny.safetensors")
#define WORDS  "text_model.transformer.embeddings.word_embeddings.weight"

enum { E = 96, S = 80 };
/* fixtures/README.md, "Tolerances", would allow 1e-4 at stages; tanh GELU in the text tower moves a layer by
 * 1.35e-4 and correct sums by 2e-6, so 2e-5 throughout. */
static const double STAGE = 2e-5, EMBEDDING = 2e-5;

static const char *const PICTURE[] = {
    "gray_64x48.png",  "gray_81x120.jpg",           "palette_60x44.png", "rgb_17x300.png", "rgb_224x224.png",
    "rgb_300x180.jpg", "rgb_53x40_progressive.jpg", "rgb_97x131.jpg",    "rgba_71x59.png"};
enum { N_PICTURES = sizeof PICTURE / sizeof *PICTURE, N_TEXTS = 9 };

static kernels     *kern;
static arena       *mem;
static safetensors *golden, *tiny;
static jina_config  config;

static const tensor *gold(const char *owner, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "%s%s%s", owner, *owner ? "/" : "", name);
    const tensor *t = safetensors_find(golden, key);
    if (!t) fail_msg("no golden %s", key);
    return t;
}

#ifndef TEST_DEVICE /* tests/cuda has the same cases on another one */
#define TEST_DEVICE "cpu"
#endif

static kernels *open_kernels(int threads)
{
    kernels        *k = NULL;
    err             e = {0};
    kernels_options o = {
        .device = TEST_DEVICE, .products = PRECISION_F32, .threads = threads, .scratch_bytes = (size_t)64 << 20};
    OK(kernels_open(&k, &o, &e), e);
    return k;
}

static int setup(void **state)
{
    (void)state;
    err e = {0};
    kern = open_kernels(1);
    mem = arena_new(0);
    OK(safetensors_open(&golden, GOLDEN, &e), e);
    OK(safetensors_open(&tiny, TINY "model.safetensors", &e), e);
    OK(jina_config_open(&config, TINY "config.json", &e), e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    safetensors_close(golden);
    safetensors_close(tiny);
    arena_free(mem);
    kern->close(kern);
    return 0;
}

static vision_tower *vision(const safetensors *file)
{
    vision_tower *v = NULL;
    err           e = {0};
    OK(vision_tower_open(&v, &config.vision, file, false, kern, &e), e);
    return v;
}

static text_tower *text_of(const safetensors *file)
{
    text_tower *t = NULL;
    err         e = {0};
    OK(text_tower_open(&t, &config.text, file, kern, &e), e);
    return t;
}

static void to_unit(float *z)
{
    double sq = 0;
    for (int i = 0; i < E; i++) sq += (double)z[i] * z[i];
    for (int i = 0; i < E; i++) z[i] = (float)(z[i] / sqrt(sq));
}

/* By pixels [3,S,S]: cut into patches and put where k has its activations. */
static bool embed_planes(float *z, const vision_tower *v, kernels *k, const float *planes, const tower_tap *tap,
                         err *e)
{
    const int    side = config.vision.patch, g = S / side;
    const size_t n = (size_t)3 * (size_t)S * (size_t)S, mark = k->mark(k);
    float       *patches = malloc(n * sizeof *patches), *to = patches;
    assert_non_null(patches);
    for (int p = 0; p < g * g; p++)
        for (int c = 0; c < 3; c++)
            for (int row = 0; row < side; row++, to += side)
                memcpy(to, planes + ((size_t)c * S + (size_t)(p / g) * side + row) * S + (size_t)(p % g) * side,
                       (size_t)side * sizeof *to);
    act *px = k->take(k, n);
    k->put(k, px, patches, n);
    bool ok = vision_tower_embed(v, k, px, z, tap, mem, e);
    k->back(k, mark);
    free(patches);
    return ok;
}

static void embed_picture(float z[E], const vision_tower *v, kernels *k, int i, const tower_tap *tap)
{
    err e = {0};
    OK(embed_planes(z, v, k, gold(PICTURE[i], "pixel_values")->data, tap, &e), e);
}

static void embed_words(float z[E], const text_tower *t, kernels *k, int i, const tower_tap *tap)
{
    char    owner[32];
    int32_t ids[512];
    err     e = {0};
    snprintf(owner, sizeof owner, "text.%d", i);
    const tensor  *g = gold(owner, "input_ids");
    const int64_t *id = g->data;
    for (int64_t j = 0; j < g->count; j++) ids[j] = (int32_t)id[j];
    OK(text_tower_embed(t, k, ids, (int)g->count, z, tap, mem, &e), e);
}

/* Compares every stage with the golden of the same name. */
typedef struct { const char *owner; int seen; } watch;

static void compare_stage(void *ctx, const char *name, const float *x, int T, int D)
{
    watch        *w = ctx;
    const tensor *g = gold(w->owner, name);
    assert_int_equal(g->n_dims, 2);
    assert_int_equal(g->dim[0], T);
    assert_int_equal(g->dim[1], D);
    char what[96];
    snprintf(what, sizeof what, "%s %s", w->owner, name);
    CLOSE(x, (const float *)g->data, (size_t)g->count, STAGE, what);
    w->seen++;
}

static void image_tower_agrees_at_every_stage(void **state)
{
    (void)state;
    vision_tower *v = vision(tiny);
    float         z[E];
    for (int i = 0; i < N_PICTURES; i++, arena_reset(mem)) {
        watch w = {.owner = PICTURE[i]};
        embed_picture(z, v, kern, i, &(tower_tap){compare_stage, &w});
        assert_int_equal(w.seen, 3); /* vision.embed and two blocks */
        to_unit(z);
        CLOSE(z, (const float *)gold(PICTURE[i], "embedding")->data, E, EMBEDDING, PICTURE[i]);
    }
    vision_tower_close(v);
}

static void text_tower_agrees_at_every_stage(void **state)
{
    (void)state;
    text_tower *t = text_of(tiny);
    float       z[E];
    for (int i = 0; i < N_TEXTS; i++, arena_reset(mem)) {
        char owner[32];
        snprintf(owner, sizeof owner, "text.%d", i);
        watch w = {.owner = owner};
        bool  all = gold(owner, "input_ids")->count <= 64; /* long texts have a golden for the embedding alone */
        embed_words(z, t, kern, i, all ? &(tower_tap){compare_stage, &w} : NULL);
        assert_int_equal(w.seen, all ? 3 : 0);
        to_unit(z);
        CLOSE(z, (const float *)gold(owner, "embedding")->data, E, EMBEDDING, owner);
    }
    text_tower_close(t);
}

static void scores_between_the_towers_agree(void **state)
{
    (void)state;
    vision_tower *v = vision(tiny);
    text_tower   *t = text_of(tiny);
    float         zi[N_PICTURES][E], zt[N_TEXTS][E], logits[N_PICTURES][N_TEXTS];
    /* The golden's rows follow images.json, whose order is that of the golden's JSON. */
    json_t *j = must(json_load_file(FIXTURE("golden/jina-clip-tiny.json"), 0, NULL)),
           *list = json_object_get(j, "images");
    assert_int_equal(json_array_size(list), N_PICTURES);
    float scale = expf(*(const float *)safetensors_find(tiny, "logit_scale")->data);
    for (int i = 0; i < N_TEXTS; i++) embed_words(zt[i], t, kern, i, NULL), to_unit(zt[i]);
    for (int i = 0; i < N_PICTURES; i++) {
        const char *file = json_string_value(json_object_get(json_array_get(list, (size_t)i), "image"));
        int         p = 0;
        while (p < N_PICTURES && strcmp(PICTURE[p], file) != 0) p++;
        assert_true(p < N_PICTURES);
        embed_picture(zi[i], v, kern, p, NULL);
        to_unit(zi[i]);
        for (int n = 0; n < N_TEXTS; n++) {
            double dot = 0;
            for (int d = 0; d < E; d++) dot += (double)zi[i][d] * zt[n][d];
            logits[i][n] = (float)(scale * dot);
        }
    }
    CLOSE(&logits[0][0], (const float *)gold("", "logits_per_image")->data, N_PICTURES * N_TEXTS, STAGE,
          "logits_per_image");
    json_decref(j);
    vision_tower_close(v);
    text_tower_close(t);
}

/* The original repeats each angle for both channels of a pair. */
static void rope_tables_turn_rows_then_columns_by_stretched_positions(void **state)
{
    (void)state;
    const tensor *c = gold("", "rope.cos"), *s = gold("", "rope.sin");
    float         cos_[25 * 8], sin_[25 * 8], want_cos[25 * 8], want_sin[25 * 8];
    vision_rope_tables(&config.vision, cos_, sin_);
    for (int i = 0; i < 25 * 8; i++) {
        want_cos[i] = ((const float *)c->data)[2 * i];
        want_sin[i] = ((const float *)s->data)[2 * i];
        assert_true(want_cos[i] == ((const float *)c->data)[2 * i + 1]);
    }
    CLOSE(cos_, want_cos, 25 * 8, 1e-6, "rope.cos");
    CLOSE(sin_, want_sin, 25 * 8, 1e-6, "rope.sin");

    /* Without interpolation positions are the plain integers: patch (1, 2) of a 3 x 3 grid, two pairs a half. */
    vision_config plain = {.grid = 3, .head_width = 8, .trained_grid = 3, .interpolate = false};
    vision_rope_tables(&plain, cos_, sin_);
    const float *p = cos_ + (1 * 3 + 2) * 4, want[4] = {cosf(1), cosf(0.01f), cosf(2), cosf(0.02f)};
    for (int i = 0; i < 4; i++) assert_true(fabsf(p[i] - want[i]) < 1e-6f);
}

static void alibi_slopes_of_head_counts_that_are_no_power_of_two(void **state)
{
    (void)state;
    float s[16];
    for (int n = 6; n <= 12; n += 6) {
        alibi_slopes(s, n);
        CLOSE(s, (const float *)gold("", n == 6 ? "alibi.slopes.6" : "alibi.slopes.12")->data, (size_t)n, 1e-7,
              "slopes");
    }
    alibi_slopes(s, 1);
    assert_true(s[0] == 1.0f / 256);
    alibi_slopes(s, 8);
    for (int i = 0; i < 8; i++) assert_true(s[i] == 1.0f / (float)(2 << i));
}

static void same_picture_same_bits_alone_again_watched_and_on_more_threads(void **state)
{
    (void)state;
    vision_tower *v = vision(tiny);
    text_tower   *t = text_of(tiny);
    kernels      *two = open_kernels(2);
    float         z[N_PICTURES][E], y[E], w[N_TEXTS][E];
    watch         seen = {0};
    for (int i = 0; i < N_PICTURES; i++) embed_picture(z[i], v, kern, i, NULL);
    for (int i = 0; i < N_TEXTS; i++) embed_words(w[i], t, kern, i, NULL);
    for (int i = N_PICTURES - 1; i >= 0; i--) {
        embed_picture(y, v, kern, i, NULL);
        assert_memory_equal(y, z[i], sizeof y);
        embed_picture(y, v, two, i, NULL);
        assert_memory_equal(y, z[i], sizeof y);
        seen.owner = PICTURE[i]; /* a tap makes the last block compute all rows */
        embed_picture(y, v, kern, i, &(tower_tap){compare_stage, &seen});
        assert_memory_equal(y, z[i], sizeof y);
        embed_words(y, t, two, i, NULL);
        assert_memory_equal(y, w[i], sizeof y);
        embed_words(y, t, kern, i, NULL);
        assert_memory_equal(y, w[i], sizeof y);
    }
    two->close(two);
    vision_tower_close(v);
    text_tower_close(t);
}

/* ---- checkpoints in other shapes ---- */

static safetensors *written(const checkpoint *c, model_folder *m, int pad)
{
    safetensors *s = NULL;
    err          e = {0};
    const char  *path = folder_file(m, "model.safetensors");
    checkpoint_write(c, path, pad);
    OK(safetensors_open(&s, path, &e), e);
    return s;
}

/* Embeddings of one picture and one text by the checkpoint as written. */
static void both(float zi[E], float zt[E], const checkpoint *c, model_folder *m, int pad)
{
    safetensors  *s = written(c, m, pad);
    vision_tower *v = vision(s);
    text_tower   *t = text_of(s);
    embed_picture(zi, v, kern, 7, NULL);
    embed_words(zt, t, kern, 3, NULL);
    vision_tower_close(v);
    text_tower_close(t);
    safetensors_close(s);
}

static void half_and_bfloat_weights_give_the_bits_of_their_f32_values(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++)
        for (int pad = 0; pad < 2; pad++) { /* tensors at odd addresses */
            dtype        to = d ? DTYPE_BF16 : DTYPE_F16;
            checkpoint   a, b;
            model_folder m;
            float        z[4][E];
            folder_make(&m);
            checkpoint_read(&a, TINY "model.safetensors");
            checkpoint_read(&b, TINY "model.safetensors");
            for (int i = 0; i < a.n; i++) {
                tensor_round(&a.t[i], to, true);
                tensor_round(&b.t[i], to, false);
            }
            both(z[0], z[1], &a, &m, pad);
            both(z[2], z[3], &b, &m, pad);
            assert_memory_equal(z[0], z[2], sizeof z[0]);
            assert_memory_equal(z[1], z[3], sizeof z[1]);
            checkpoint_free(&a);
            checkpoint_free(&b);
            folder_remove(&m);
        }
}

static void the_older_spelling_of_text_tensors_gives_the_same_bits(void **state)
{
    (void)state;
    safetensors *s = NULL;
    err          e = {0};
    float        z[E], y[E];
    OK(safetensors_open(&s, TINY "text_model.split-names.safetensors", &e), e);
    text_tower *a = text_of(tiny), *b = text_of(s);
    for (int i = 0; i < N_TEXTS; i++) {
        embed_words(z, a, kern, i, NULL);
        embed_words(y, b, kern, i, NULL);
        assert_memory_equal(z, y, sizeof z);
    }
    text_tower_close(a);
    text_tower_close(b);
    safetensors_close(s);
}

static void stored_rope_tables_are_ignored(void **state)
{
    (void)state;
    checkpoint   c;
    model_folder m;
    float        zero[25 * 16] = {0}, z[2][E], y[2][E];
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    both(z[0], z[1], &c, &m, 0);
    checkpoint_add(&c, "vision_model.rope.freqs_cos", DTYPE_F32, 2, (int64_t[]){25, 16}, zero);
    checkpoint_add(&c, "vision_model.blocks.0.attn.rope.freqs_sin", DTYPE_F32, 2, (int64_t[]){25, 16}, zero);
    both(y[0], y[1], &c, &m, 0);
    assert_memory_equal(z, y, sizeof z);
    checkpoint_free(&c);
    folder_remove(&m);
}

/* head.weight is 2 x identity with the rows in reverse, and head.bias counts: each output is easy to foretell. */
static void a_head_is_applied_after_the_last_norm(void **state)
{
    (void)state;
    checkpoint   c;
    model_folder m;
    float        head[E * E] = {0}, bias[E], z[E], y[E], zt[E];
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    both(z, zt, &c, &m, 0);
    for (int i = 0; i < E; i++) head[i * E + (E - 1 - i)] = 2, bias[i] = (float)i;
    checkpoint_add(&c, "vision_model.head.weight", DTYPE_F32, 2, (int64_t[]){E, E}, head);
    both(y, zt, &c, &m, 0);
    for (int i = 0; i < E; i++) assert_true(y[i] == 2 * z[E - 1 - i]);
    checkpoint_add(&c, "vision_model.head.bias", DTYPE_F32, 1, (int64_t[]){E}, bias);
    both(y, zt, &c, &m, 0);
    for (int i = 0; i < E; i++) assert_true(y[i] == 2 * z[E - 1 - i] + (float)i);
    checkpoint_free(&c);
    folder_remove(&m);
}

/* A width that is not the embedding's needs the head. */
static void a_head_maps_to_an_embedding_of_another_size(void **state)
{
    (void)state;
    enum { SMALL = 40 };
    checkpoint    c;
    model_folder  m;
    vision_config narrow = config.vision;
    vision_tower *v = NULL;
    float         head[SMALL * E] = {0}, z[E], y[SMALL], zt[E];
    err           e = {0};
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    both(z, zt, &c, &m, 0);
    narrow.embed = SMALL;
    FAILS(vision_tower_open(&v, &narrow, tiny, false, kern, &e), e, ERR_FILE, "vision_model.head.weight is missing");
    for (int i = 0; i < SMALL; i++) head[i * E + 2 * i] = 1;
    checkpoint_add(&c, "vision_model.head.weight", DTYPE_F32, 2, (int64_t[]){SMALL, E}, head);
    safetensors *s = written(&c, &m, 0);
    e = (err){0};
    OK(vision_tower_open(&v, &narrow, s, false, kern, &e), e);
    OK(embed_planes(y, v, kern, gold(PICTURE[7], "pixel_values")->data, NULL, &e), e);
    for (int i = 0; i < SMALL; i++) assert_true(y[i] == z[2 * i]);
    vision_tower_close(v);
    safetensors_close(s);
    checkpoint_free(&c);
    folder_remove(&m);
}

static bool open_both(const checkpoint *c, model_folder *m, err *e)
{
    safetensors  *s = NULL;
    vision_tower *v = NULL;
    text_tower   *t = NULL;
    checkpoint_write(c, folder_file(m, "model.safetensors"), 0);
    bool ok = safetensors_open(&s, folder_file(m, "model.safetensors"), e)
              && vision_tower_open(&v, &config.vision, s, false, kern, e)
              && text_tower_open(&t, &config.text, s, kern, e);
    vision_tower_close(v);
    text_tower_close(t);
    safetensors_close(s);
    return ok;
}

static void every_tensor_is_needed_and_named_when_it_is_missing(void **state)
{
    (void)state;
    checkpoint   c;
    model_folder m;
    err          e = {0};
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    OK(open_both(&c, &m, &e), e);
    for (int i = 0; i < c.n; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s", c.t[i].name);
        if (strcmp(name, "logit_scale") == 0) continue; /* no part of an embedding */
        c.t[i].name[0] = '_';
        FAILS(open_both(&c, &m, &e), e, ERR_FILE, name);
        assert_non_null(strstr(e.text, "model.safetensors"));
        assert_non_null(strstr(e.text, "missing"));
        c.t[i].name[0] = name[0];
    }
    checkpoint_free(&c);
    folder_remove(&m);
}

static void a_wrong_shape_or_dtype_names_file_tensor_and_both_shapes(void **state)
{
    (void)state;
    checkpoint   c;
    model_folder m;
    err          e = {0};
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    for (int i = 0; i < c.n; i++) {
        if (c.t[i].n_dims == 0) continue;
        saved_tensor *t = &c.t[i];
        /* [96, 96] becomes [48, 192] and so on: as many values, another shape. The vocabulary may be of any size only
         * where the configuration does not give it. */
        bool odd = t->dim[0] % 2;
        if (odd) t->n_dims++, t->dim[t->n_dims - 1] = 1;
        else if (t->n_dims == 1) t->n_dims = 2, t->dim[1] = 2, t->dim[0] /= 2;
        else t->dim[0] /= 2, t->dim[1] *= 2;
        FAILS(open_both(&c, &m, &e), e, ERR_FILE, t->name);
        assert_non_null(strstr(e.text, "model.safetensors"));
        assert_non_null(strstr(e.text, "wanted ["));
        if (odd) t->n_dims--;
        else if (t->n_dims == 2 && t->dim[1] == 2) t->n_dims = 1, t->dim[0] *= 2;
        else t->dim[0] *= 2, t->dim[1] /= 2;
    }
    saved_tensor *t = checkpoint_find(&c, "vision_model.norm.bias");
    t->type = DTYPE_I32;
    FAILS(open_both(&c, &m, &e), e, ERR_FILE, "vision_model.norm.bias: dtype I32");
    t->type = DTYPE_F32;
    OK(open_both(&c, &m, &e), e);
    checkpoint_free(&c);
    folder_remove(&m);
}

static void a_tensor_that_nobody_reads_is_refused(void **state)
{
    (void)state;
    static const char *const NAME[] = {"vision_model.blocks.0.gamma_1", "vision_model.blocks.2.norm1.weight",
                                       "text_model.transformer.encoder.layers.0.mixer.norm_q.weight",
                                       "text_model.proj.weight"};
    checkpoint   c;
    model_folder m;
    err          e = {0};
    float        one[E] = {0};
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    for (size_t i = 0; i < sizeof NAME / sizeof *NAME; i++) {
        checkpoint_add(&c, NAME[i], DTYPE_F32, 1, (int64_t[]){E}, one);
        FAILS(open_both(&c, &m, &e), e, ERR_FILE, NAME[i]);
        assert_non_null(strstr(e.text, "not a tensor of this model"));
        checkpoint_drop(&c, NAME[i]);
    }
    checkpoint_add(&c, "something.else", DTYPE_F32, 1, (int64_t[]){E}, one); /* neither tower's */
    OK(open_both(&c, &m, &e), e);
    checkpoint_free(&c);
    folder_remove(&m);
}

static void vocabulary_size_comes_from_the_file_where_the_configuration_has_none(void **state)
{
    (void)state;
    text_config c = config.text;
    text_tower *t = NULL;
    err         e = {0};
    c.vocab = 0;
    OK(text_tower_open(&t, &c, tiny, kern, &e), e);
    assert_int_equal(text_tower_vocab(t), 448);
    text_tower_close(t);
    t = NULL;
    c.vocab = 447;
    FAILS(text_tower_open(&t, &c, tiny, kern, &e), e, ERR_FILE, WORDS ": shape [448,96], wanted [447,96]");
    assert_null(t);
}

static void ids_outside_the_vocabulary_are_errors_not_reads(void **state)
{
    (void)state;
    text_tower *t = text_of(tiny);
    float       z[E];
    err         e = {0};
    FAILS(text_tower_embed(t, kern, (int32_t[]){2, 448, 3}, 3, z, NULL, mem, &e), e, ERR_UNUSABLE, "token 448");
    FAILS(text_tower_embed(t, kern, (int32_t[]){-1}, 1, z, NULL, mem, &e), e, ERR_UNUSABLE, "token -1");
    FAILS(text_tower_embed(t, kern, (int32_t[]){0, 0}, 2, z, NULL, mem, &e), e, ERR_UNUSABLE, "no token");
    text_tower_close(t);
}

/* Padding is on the right in the original, and changes nothing. */
static void padding_changes_no_bit(void **state)
{
    (void)state;
    text_tower *t = text_of(tiny);
    float       z[E], y[E];
    err         e = {0};
    OK(text_tower_embed(t, kern, (int32_t[]){2, 17, 93, 440, 3}, 5, z, NULL, mem, &e), e);
    OK(text_tower_embed(t, kern, (int32_t[]){2, 17, 93, 440, 3, 0, 0, 0}, 8, y, NULL, mem, &e), e);
    assert_memory_equal(z, y, sizeof z);
    OK(text_tower_embed(t, kern, (int32_t[]){2, 93, 17, 440, 3}, 5, y, NULL, mem, &e), e);
    assert_true(memcmp(z, y, sizeof z) != 0); /* order matters */
    text_tower_close(t);
}

/* ---- epsilons: the fixture's variances are near 1, where no epsilon shows, so these make them small ---- */

static void scale_tensors(checkpoint *c, const char *const *stems, int n, float by)
{
    for (int i = 0; i < c->n; i++)
        for (int s = 0; s < n; s++)
            if (strstr(c->t[i].name, stems[s]))
                for (size_t j = 0; j < c->t[i].bytes / 4; j++) ((float *)c->t[i].data)[j] *= by;
}

/* Token embeddings 2^-10 as large have a variance of about 1e-6: 1e-12 does not show in it, 1e-5 swallows it. */
static void text_layernorm_epsilon_is_far_below_a_variance_of_1e_6(void **state)
{
    (void)state;
    static const char *const STEM[] = {"embeddings.word", "embeddings.token_type"};
    checkpoint   c;
    model_folder m;
    float        z[E];
    watch        w = {.owner = "text.0"};
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    scale_tensors(&c, STEM, 2, 1.0f / 1024);
    safetensors *s = written(&c, &m, 0);
    text_tower  *t = text_of(s);
    embed_words(z, t, kern, 0, &(tower_tap){compare_stage, &w});
    assert_int_equal(w.seen, 3);
    text_tower_close(t);
    safetensors_close(s);
    checkpoint_free(&c);
    folder_remove(&m);
}

static void keep_class_row(void *ctx, const char *name, const float *x, int T, int D)
{
    (void)name;
    (void)T;
    memcpy(ctx, x, (size_t)D * sizeof *x); /* the last stage is what stays */
}

/* A residual stream 2^-10 as large: the last norm of the class token by the formula, with an epsilon of 1e-6. */
static void vision_layernorm_epsilon_is_1e_6(void **state)
{
    (void)state;
    static const char *const STEM[] = {"cls_token", "pos_embed", "patch_embed.proj", "attn.proj", "mlp.w3"};
    checkpoint   c;
    model_folder m;
    float        z[E], x[E], want[E];
    double       mean = 0, var = 0;
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    scale_tensors(&c, STEM, 5, 1.0f / 1024);
    safetensors  *s = written(&c, &m, 0);
    vision_tower *v = vision(s);
    embed_picture(z, v, kern, 7, &(tower_tap){keep_class_row, x});
    for (int i = 0; i < E; i++) mean += x[i] / (double)E;
    for (int i = 0; i < E; i++) var += (x[i] - mean) * (x[i] - mean) / E;
    assert_true(var > 1e-8 && var < 1e-5); /* the epsilon shows */
    const float *g = checkpoint_find(&c, "vision_model.norm.weight")->data,
                *b = checkpoint_find(&c, "vision_model.norm.bias")->data;
    for (int i = 0; i < E; i++) want[i] = (float)((x[i] - mean) / sqrt(var + 1e-6) * g[i] + b[i]);
    CLOSE(z, want, E, EMBEDDING, "last norm");
    vision_tower_close(v);
    safetensors_close(s);
    checkpoint_free(&c);
    folder_remove(&m);
}

/* ---- faults ---- */

static void every_failing_allocation_of_opening_is_an_error_without_a_leak(void **state)
{
    (void)state;
    bool done = false;
    for (long n = 0; !done; n++) {
        safetensors  *s = NULL;
        vision_tower *v = NULL;
        text_tower   *t = NULL;
        err           e = {0};
        mem_fail_after(n);
        done = safetensors_open(&s, TINY "model.safetensors", &e)
               && vision_tower_open(&v, &config.vision, s, false, kern, &e)
               && text_tower_open(&t, &config.text, s, kern, &e);
        mem_fail_after(-1);
        if (!done && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
        vision_tower_close(v);
        text_tower_close(t);
        safetensors_close(s);
        assert_true(n < 10000);
    }
}

/* The request's memory is the arena: from far too little up to enough. (The image tower takes none of it.) */
static void an_arena_too_small_is_an_error_and_the_next_call_works(void **state)
{
    (void)state;
    text_tower *t = text_of(tiny);
    float       want[E], z[E];
    int32_t     ids[40] = {2};
    int         failures = 0;
    err         first = {0};
    for (int i = 1; i < 40; i++) ids[i] = 10 + i;
    OK(text_tower_embed(t, kern, ids, 40, want, NULL, mem, &first), first);
    for (size_t limit = 64; limit < 1 << 20; limit *= 2) {
        arena *a = arena_new(limit);
        err    e = {0}, again = {0};
        bool   ok = text_tower_embed(t, kern, ids, 40, z, NULL, a, &e);
        if (!ok && e.code != ERR_MEMORY) fail_msg("limit %zu: %s '%s'", limit, err_code_name(e.code), e.text);
        failures += !ok;
        OK(text_tower_embed(t, kern, ids, 40, z, NULL, mem, &again), again);
        assert_memory_equal(z, want, sizeof z);
        arena_free(a);
    }
    assert_true(failures > 0 && failures < 14);
    text_tower_close(t);
}

/* Scratch too small for the tower: an error, and no write through NULL. */
static void exhausted_scratch_is_an_error(void **state)
{
    (void)state;
    vision_tower   *v = vision(tiny);
    kernels        *small = NULL;
    err             e = {0};
    float           z[E];
    kernels_options o = {.device = TEST_DEVICE, .threads = 1, .scratch_bytes = 65536};
    OK(kernels_open(&small, &o, &e), e);
    FAILS(embed_planes(z, v, small, gold(PICTURE[0], "pixel_values")->data, NULL, &e), e, ERR_MEMORY, "");
    small->close(small);
    vision_tower_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_tower_agrees_at_every_stage),
        cmocka_unit_test(text_tower_agrees_at_every_stage),
        cmocka_unit_test(scores_between_the_towers_agree),
        cmocka_unit_test(rope_tables_turn_rows_then_columns_by_stretched_positions),
        cmocka_unit_test(alibi_slopes_of_head_counts_that_are_no_power_of_two),
        cmocka_unit_test(same_picture_same_bits_alone_again_watched_and_on_more_threads),
        cmocka_unit_test(half_and_bfloat_weights_give_the_bits_of_their_f32_values),
        cmocka_unit_test(the_older_spelling_of_text_tensors_gives_the_same_bits),
        cmocka_unit_test(stored_rope_tables_are_ignored),
        cmocka_unit_test(a_head_is_applied_after_the_last_norm),
        cmocka_unit_test(a_head_maps_to_an_embedding_of_another_size),
        cmocka_unit_test(every_tensor_is_needed_and_named_when_it_is_missing),
        cmocka_unit_test(a_wrong_shape_or_dtype_names_file_tensor_and_both_shapes),
        cmocka_unit_test(a_tensor_that_nobody_reads_is_refused),
        cmocka_unit_test(vocabulary_size_comes_from_the_file_where_the_configuration_has_none),
        cmocka_unit_test(ids_outside_the_vocabulary_are_errors_not_reads),
        cmocka_unit_test(padding_changes_no_bit),
        cmocka_unit_test(text_layernorm_epsilon_is_far_below_a_variance_of_1e_6),
        cmocka_unit_test(vision_layernorm_epsilon_is_1e_6),
        cmocka_unit_test(every_failing_allocation_of_opening_is_an_error_without_a_leak),
        cmocka_unit_test(an_arena_too_small_is_an_error_and_the_next_call_works),
        cmocka_unit_test(exhausted_scratch_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
