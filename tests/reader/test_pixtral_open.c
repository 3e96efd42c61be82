/* Opening a Pixtral: spellings of names and configurations, what the class's defaults fill in, and what is
 * refused. */
#include "tests/reader/copy.h"

#include "base/memory.h"
#include "reader/pixtral.h"

/* Numbers that depend on every tensor: one pair and one query through everything. */
enum { A = 3, PRINT = 2 * A };

static bool load(void *ctx, int64_t id, image *out, arena *a, err *e)
{
    (void)id, (void)a, (void)e;
    *out = *(const image *)ctx;
    return true;
}

/* fail: the allocation within reader_score that fails; -1: none. *reached: it was asked for. */
static bool print_with(reader *r, kernels *k, float out[PRINT], long fail, bool *reached, err *e)
{
    static const char *const ANSWERS[A] = {"yes", "no", "not sure"};
    err            ignored = {0};
    safetensors   *decoded;
    arena         *a = arena_new(0);
    OK(safetensors_open(&decoded, FIXTURE("images/decoded.safetensors"), &ignored), ignored);
    const tensor  *t = safetensors_find(decoded, "rgb_224x224.png");
    image          img = {.width = (int)t->dim[1], .height = (int)t->dim[0], .rgb = (uint8_t *)(uintptr_t)t->data};
    reader_passage z = {1, "A drawing."};
    reader_query q = {.img = &img,
                      .question = "Is it a house?",
                      .answers = ANSWERS,
                      .A = A,
                      .z = &z,
                      .K = 1,
                      .load = load,
                      .load_ctx = &img};
    reader_scores  y;
    mem_fail_after(fail);
    bool ok = reader_score(r, k, &q, a, &y, e);
    *reached = mem_fail_after(-1) > fail;
    if (ok) {
        memcpy(out, y.logp, A * sizeof *out);
        memcpy(out + A, y.logit, A * sizeof *out);
    }
    safetensors_close(decoded);
    arena_free(a);
    return ok;
}

static bool print_of(reader *r, kernels *k, float out[PRINT], err *e)
{
    bool reached;
    return print_with(r, k, out, -1, &reached, e);
}

static void fingerprint_of(const char *dir, float out[PRINT])
{
    err      e = {0};
    kernels *k = open_cpu(PRECISION_F32, 1);
    reader  *r = open_reader(dir, 0, k);
    OK(print_of(r, k, out, &e), e);
    reader_close(r);
    k->close(k);
}

/* The folder opens and is bit for bit the fixture's model, or is not. */
static bool same_model(copy *y, const char *fixture)
{
    char  dir[256];
    float want[PRINT], got[PRINT];
    snprintf(dir, sizeof dir, FIXTURE("%s"), fixture);
    save(y);
    fingerprint_of(dir, want);
    fingerprint_of(y->m.dir, got);
    return memcmp(got, want, sizeof got) == 0;
}

static void tells_what_it_opened(void **state)
{
    (void)state;
    kernels *k = open_cpu(PRECISION_F32, 1);
    reader  *r = open_reader(FIXTURE("pixtral-tiny-bf16-sharded"), 0, k);
    assert_string_equal(reader_family(r), "llava");
    assert_int_equal(strlen(reader_hash(r)), 64);
    assert_int_equal(reader_max_tokens(r), 1024000);
    int64_t vision = 64 * 768 + 64 + 2 * (2 * 64 + 4 * 64 * 64 + 3 * 64 * 128), projector = 96 * 65 + 96 * 97;
    int64_t layer = 2 * 96 + 2 * 96 * 128 + 2 * 96 * 64 + 3 * 96 * 192;
    assert_int_equal(reader_parameters(r), vision + projector + 2 * layer + 96 + 2 * 768 * 96);
    reader_close(r);
    k->close(k);
}

static void names_of_every_version_are_read(void **state)
{
    (void)state;
    copy *y = copy_of_fixture("pixtral-tiny-bf16-sharded"); /* one file now, instead of two */
    assert_true(same_model(y, "pixtral-tiny-bf16-sharded"));
    rename_prefix(y, "vision_tower.", "model.vision_tower.");
    assert_true(same_model(y, "pixtral-tiny-bf16-sharded"));
    rename_prefix(y, "multi_modal_projector.", "model.multi_modal_projector.");
    rename_prefix(y, "language_model.lm_head.", "lm_head.");
    rename_prefix(y, "language_model.model.", "model.language_model.");
    assert_true(same_model(y, "pixtral-tiny-bf16-sharded"));
    copy_free(y);
}

/* The published file, by its members [models.md 4.1]: all that it leaves out comes from the classes. */
static void the_published_configuration_is_completed_by_defaults(void **state)
{
    (void)state;
    static const char FILE_TEXT[] =
        "{\"architectures\": [\"LlavaForConditionalGeneration\"], \"ignore_index\": -100, \"image_seq_length\": 1,"
        " \"image_token_index\": 10, \"model_type\": \"llava\", \"projector_hidden_act\": \"gelu\", \"torch_dtype\": \"bfloat16\","
        " \"vision_feature_layer\": -1, \"vision_feature_select_strategy\": \"full\","
        " \"text_config\": {\"head_dim\": 128, \"hidden_size\": 5120, \"intermediate_size\": 14336, \"max_position_embeddings\": 1024000,"
        "   \"model_type\": \"mistral\", \"num_hidden_layers\": 40, \"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-05,"
        "   \"rope_theta\": 1000000000.0, \"sliding_window\": null, \"vocab_size\": 131072},"
        " \"vision_config\": {\"head_dim\": 64, \"hidden_act\": \"silu\", \"image_size\": 1024, \"model_type\": \"pixtral\","
        "   \"patch_size\": 16, \"rope_theta\": 10000.0}}";
    err            e = {0};
    json_t        *root = json_loads(FILE_TEXT, 0, NULL);
    model_files    f = {.config = root, .config_name = "config.json"};
    pixtral_config c;
    assert_non_null(root);
    OK(pixtral_config_open(&c, &f, &e), e);
    const decoder_config *t = &c.text;
    assert_true(t->L == 40 && t->D == 5120 && t->N == 32 && t->kv_heads == 8 && t->head_dim == 128 && t->F == 14336);
    assert_true(t->eps == 1e-5f && t->theta == 1e9 && !t->qkv_bias && !t->tied);
    assert_true(t->section[0] == 64 && t->section[1] == 0 && t->section[2] == 0);
    assert_true(c.depth == 24 && c.E == 1024 && c.heads == 16 && c.F == 4096 && c.patch == 16 && c.side == 64
                && c.theta == 10000);
    assert_true(c.act == UNIT_SILU && c.projector_act == UNIT_GELU && c.image_id == 10 && c.max_tokens == 1024000);

    json_t *text = json_object_get(root, "text_config"), *vision = json_object_get(root, "vision_config");
    json_object_del(vision, "hidden_act"); /* TRAP: the class says gelu */
    json_object_set_new(text, "sliding_window", json_integer(300));
    json_object_del(text, "rms_norm_eps");
    json_object_del(text, "head_dim");
    json_object_set_new(root, "image_token_id", json_integer(11));
    OK(pixtral_config_open(&c, &f, &e), e);
    assert_true(c.act == UNIT_GELU && c.max_tokens == 300 && t->eps == 1e-6f && t->head_dim == 160
                && c.image_id == 11);
    json_object_del(text, "sliding_window"); /* and the class has a window */
    json_object_set_new(root, "tie_word_embeddings", json_true());
    OK(pixtral_config_open(&c, &f, &e), e);
    assert_int_equal(c.max_tokens, 4096);
    assert_true(t->tied);
    json_decref(root);
}

static void configurations_saved_again_are_read(void **state)
{
    (void)state;
    copy *y = copy_of_fixture("pixtral-tiny");
    folder_set(&y->m, "config.json", "text_config.rope_parameters",
               "{\"rope_theta\": 1000000000.0, \"rope_type\": \"default\"}");
    folder_set(&y->m, "config.json", "text_config.rope_theta", NULL);
    folder_set(&y->m, "config.json", "vision_config.rope_parameters",
               "{\"rope_theta\": 10000.0, \"rope_type\": \"default\"}");
    folder_set(&y->m, "config.json", "vision_config.rope_theta", NULL);
    folder_set(&y->m, "config.json", "image_token_id", "10");
    folder_set(&y->m, "config.json", "image_token_index", NULL);
    folder_set(&y->m, "config.json", "vision_config.head_dim", NULL);
    folder_set(&y->m, "config.json", "vision_config.image_size", NULL);
    folder_set(&y->m, "config.json", "vision_config.patch_size", NULL);
    folder_set(&y->m, "config.json", "projector_hidden_act", NULL);
    folder_set(&y->m, "preprocessor_config.json", "patch_size", "16");
    assert_true(same_model(y, "pixtral-tiny"));
    folder_set(&y->m, "config.json", "text_config.rope_parameters.rope_theta", "10000.0");
    assert_false(same_model(y, "pixtral-tiny"));
    copy_free(y);
}

/* Early copies of the published file say gelu: the file is believed. */
static void activations_are_those_of_the_file(void **state)
{
    (void)state;
    static const char *const member[] = {"vision_config.hidden_act", "projector_hidden_act"}, *const other[] = {
                                                                                                  "\"gelu\"",
                                                                                                  "\"silu\""};
    for (int i = 0; i < 2; i++) {
        copy *y = copy_of_fixture("pixtral-tiny");
        folder_set(&y->m, "config.json", member[i], other[i]);
        assert_false(same_model(y, "pixtral-tiny"));
        copy_free(y);
    }
}

static void a_tied_head_is_the_embedding(void **state)
{
    (void)state;
    copy *y = copy_of_fixture("pixtral-tiny");
    checkpoint_drop(&y->c, "language_model.lm_head.weight");
    refused(y, "language_model.lm_head.weight");
    folder_set(&y->m, "config.json", "text_config.tie_word_embeddings", "true");
    assert_false(same_model(y, "pixtral-tiny"));
    copy_free(y);
}

/* Patches so faint that the epsilon weighs as much as they do: x / sqrt(mean(x^2) + 1e-5) * gain, here in
 * double. The goldens' values are too large to feel it. */
static void see_ln_pre(void *ctx, const char *stage, int i, kernels *k, const act *x, int T, int D)
{
    (void)i;
    if (strcmp(stage, "vision.ln_pre") == 0) k->get(k, ctx, x, (size_t)T * (size_t)D);
}

enum { P = 4, E = 64, F = 768 };

/* x[E] of one patch px[F]; the sum of its squares. */
static double conv_by_hand(double *x, const float *conv, const float *px)
{
    double sum = 0;
    for (int j = 0; j < E; j++) {
        x[j] = 0;
        for (int f = 0; f < F; f++) x[j] += (double)conv[j * F + f] * (double)px[f];
        sum += x[j] * x[j];
    }
    return sum;
}

static void the_towers_norm_has_its_epsilon(void **state)
{
    (void)state;
    err    e = {0};
    float  px[P * F], got[P * E], want[P * E];
    double x[E];
    copy  *y = copy_of_fixture("pixtral-tiny");
    float *conv = checkpoint_find(&y->c, "vision_tower.patch_conv.weight")->data;
    float *gain = checkpoint_find(&y->c, "vision_tower.ln_pre.weight")->data;
    for (int i = 0; i < P * F; i++) px[i] = (float)((i * 37) % 101) / 50.0f - 1;
    float scale = (float)sqrt(1e-5 * E / conv_by_hand(x, conv, px)); /* to a mean square of 1e-5 */
    for (int i = 0; i < E * F; i++) conv[i] *= scale;
    for (int t = 0; t < P; t++) {
        double sum = conv_by_hand(x, conv, px + t * F);
        for (int j = 0; j < E; j++) want[t * E + j] = (float)(x[j] / sqrt(sum / E + 1e-5) * (double)gain[j]);
    }
    save(y);
    kernels *k = open_cpu(PRECISION_F32, 1);
    reader  *r = open_reader(y->m.dir, 0, k);
    arena   *a = arena_new(0);
    pixel_plan plan = plan_holding(px, 2, 2, 16, 1, 1, a);
    picture    pic = picture_from(&plan);
    tap      t = {see_ln_pre, got};
    OK(r->f->encode(r->m, k, 0, &pic, 1, k->take(k, P * 96), &t, a, &e) && k->sync(k, &e), e);
    CLOSE(got, want, P * E, 1e-5, "vision.ln_pre of faint patches");
    arena_free(a);
    reader_close(r);
    k->close(k);
    copy_free(y);
}

static void every_tensor_is_needed(void **state)
{
    (void)state;
    err            e;
    reader        *r = NULL;
    reader_options o = {0};
    kernels       *k = open_cpu(PRECISION_F32, 1);
    copy          *y = copy_of_fixture("pixtral-tiny-bf16-sharded");
    assert_int_equal(y->c.n, 2 + 2 * 9 + 4 + 2 * 9 + 3);
    for (int i = 0; i < y->c.n; i++) {
        saved_tensor *t = &y->c.t[i];
        char          name[128];
        snprintf(name, sizeof name, "%s", t->name);
        t->name[0] = '~';
        save(y);
        FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, name);
        if (!strstr(e.text, y->m.dir)) fail_msg("'%s' names no file", e.text);
        t->name[0] = name[0];

        if (strstr(name, "embed_tokens")) continue; /* its rows are the vocabulary: the next test but one */
        size_t was = t->bytes; /* one row short */
        t->bytes -= was / (size_t)t->dim[0]--;
        save(y);
        FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, name);
        t->dim[0]++;
        t->bytes = was;
    }
    k->close(k);
    copy_free(y);
}

static void configurations_that_are_not_built_are_refused_by_member(void **state)
{
    (void)state;
    static const struct { const char *file, *member, *value, *part;
    } wrong[] = {
        {"config", "text_config.model_type", "\"llama\"", "text_config.model_type is 'llama', only 'mistral'"},
        {"config", "vision_config.model_type", "\"clip_vision_model\"",
         "vision_config.model_type is 'clip_vision_model', only 'pixtral'"},
        {"config", "text_config.hidden_size", "\"96\"", "text_config.hidden_size is not a whole number"},
        {"config", "text_config.hidden_size", "0", "text_config.hidden_size must be 1 to"},
        {"config", "text_config.num_hidden_layers", "513", "text_config.num_hidden_layers must be 1 to 512"},
        {"config", "text_config.num_key_value_heads", "3", "num_key_value_heads"},
        {"config", "text_config.num_attention_heads", NULL,
         "language_model.model.layers.0.self_attn.q_proj.weight"},
        {"config", "text_config.head_dim", "33", "4 heads of size 33"},
        {"config", "text_config.rms_norm_eps", "0", "text_config.rms_norm_eps must be above 0"},
        {"config", "text_config.hidden_act", "\"gelu\"", "text_config.hidden_act is 'gelu'"},
        {"config", "text_config.rope_theta", "1", "text_config.rope_theta must be above 1"},
        {"config", "text_config.rope_scaling", "{\"rope_type\": \"yarn\"}",
         "text_config.rope_scaling.rope_type is 'yarn'"},
        {"config", "text_config.rope_scaling", "{\"type\": \"linear\"}",
         "text_config.rope_scaling.type is 'linear'"},
        {"config", "text_config.rope_parameters", "{\"rope_type\": \"llama3\"}",
         "text_config.rope_parameters.rope_type is 'llama3'"},
        {"config", "text_config.sliding_window", "0", "text_config.sliding_window must be 1"},
        {"config", "text_config.sliding_window", "true", "text_config.sliding_window is not a whole number"},
        {"config", "vision_config.hidden_act", "\"quick_gelu\"",
         "vision_config.hidden_act is 'quick_gelu', only 'gelu' and 'silu'"},
        {"config", "projector_hidden_act", "\"relu\"", "projector_hidden_act is 'relu'"},
        {"config", "vision_config.num_channels", "1", "vision_config.num_channels must be 3"},
        {"config", "vision_config.num_attention_heads", "5", "hidden_size 64 does not split into 5 heads"},
        {"config", "vision_config.num_attention_heads", "32", "hidden_size 64 does not split into 32 heads"},
        {"config", "vision_config.head_dim", "64", "vision_config.head_dim is 64"},
        {"config", "vision_config.patch_size", "14",
         "patch_size is 16 in preprocessor_config.json, 14 in config.json"},
        {"config", "vision_config.image_size", "144",
         "size.longest_edge 160 of preprocessor_config.json is above vision_config.image_size"},
        {"config", "vision_config.intermediate_size", "127",
         "vision_tower.transformer.layers.0.feed_forward.gate_proj.weight"},
        {"config", "vision_feature_layer", "-2", "vision_feature_layer is -2"},
        {"config", "vision_feature_layer", NULL, "vision_feature_layer is -2"},
        {"config", "vision_feature_select_strategy", NULL, "vision_feature_select_strategy is 'default'"},
        {"config", "multimodal_projector_bias", "false", "multimodal_projector_bias"},
        {"config", "image_token_index", "11", "image_token_index is 11, tokenizer.json has [IMG] at 10"},
        {"preprocessor_config", "patch_size", "{\"height\": 16, \"width\": 14}",
         "patch_size.height and patch_size.width differ"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy *y = copy_of_fixture("pixtral-tiny");
        char  file[64];
        snprintf(file, sizeof file, "%s.json", wrong[i].file);
        folder_set(&y->m, file, wrong[i].member, wrong[i].value);
        refused(y, wrong[i].part);
        copy_free(y);
    }
}

static void an_embedding_shorter_than_the_vocabulary_is_refused(void **state)
{
    (void)state;
    copy         *y = copy_of_fixture("pixtral-tiny");
    saved_tensor *t = checkpoint_find(&y->c, "language_model.model.embed_tokens.weight");
    t->dim[0] = 759; /* 760 ids are in use */
    t->bytes = 759 * 96 * 4;
    refused(y, "language_model.model.embed_tokens.weight has 759 rows");
    copy_free(y);
}

/* With or without the other files of that layout; a folder that has both layouts is read in ours. */
static void mistrals_own_layout_is_refused_by_name(void **state)
{
    (void)state;
    err            e = {0};
    reader        *r = NULL;
    reader_options o = {0};
    kernels       *k = open_cpu(PRECISION_F32, 1);
    copy          *y = copy_of_fixture("pixtral-tiny");
    OK(file_write(folder_file(&y->m, "consolidated.safetensors"), "x", 1, &e), e);
    assert_true(same_model(y, "pixtral-tiny"));
    unlink(folder_file(&y->m, "model.safetensors"));
    FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE,
          "consolidated.safetensors: this is Mistral's own layout");
    unlink(folder_file(&y->m, "config.json"));
    FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, "Hugging Face layout");
    k->close(k);
    copy_free(y);
}

/* Every allocation of opening fails in turn: an error and nothing left behind, or a model that is whole. */
static void no_memory_while_opening_leaks_nothing(void **state)
{
    (void)state;
    kernels       *k = open_cpu(PRECISION_F32, 1);
    reader_options o = {.cache_bytes = 1 << 20};
    float          want[PRINT], got[PRINT];
    fingerprint_of(FIXTURE("pixtral-tiny"), want);
    bool reached = true;
    int  errors = 0;
    for (long n = 0; reached; n++) {
        err     e = {0};
        reader *r = NULL;
        mem_fail_after(n);
        bool ok = reader_open(&r, FIXTURE("pixtral-tiny"), &o, k, &e);
        reached = mem_fail_after(-1) > n;
        if (!ok) {
            if (e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
            assert_null(r);
            assert_true(reached);
            errors++;
            continue;
        }
        OK(print_of(r, k, got, &e), e);
        assert_memory_equal(got, want, sizeof got);
        reader_close(r);
    }
    assert_true(errors > 50);
    k->close(k);
}

/* The same on the request's path. */
static void no_memory_while_scoring_is_an_error_or_harmless(void **state)
{
    (void)state;
    kernels *k = open_cpu(PRECISION_F32, 1);
    reader  *r = open_reader(FIXTURE("pixtral-tiny"), 1 << 20, k);
    err      e = {0};
    float    want[PRINT], got[PRINT];
    OK(print_of(r, k, want, &e), e);
    bool reached = true;
    long n = 0;
    for (; reached; n++) {
        e = (err){0};
        reader_cache_clear(r);
        bool ok = print_with(r, k, got, n, &reached, &e);
        if (ok) { assert_memory_equal(got, want, sizeof got); continue; }
        if (e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
    }
    assert_true(n > 5); /* arena blocks, and an entry of the cache */
    reader_close(r);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_what_it_opened),
        cmocka_unit_test(names_of_every_version_are_read),
        cmocka_unit_test(the_published_configuration_is_completed_by_defaults),
        cmocka_unit_test(configurations_saved_again_are_read),
        cmocka_unit_test(activations_are_those_of_the_file),
        cmocka_unit_test(a_tied_head_is_the_embedding),
        cmocka_unit_test(the_towers_norm_has_its_epsilon),
        cmocka_unit_test(every_tensor_is_needed),
        cmocka_unit_test(configurations_that_are_not_built_are_refused_by_member),
        cmocka_unit_test(an_embedding_shorter_than_the_vocabulary_is_refused),
        cmocka_unit_test(mistrals_own_layout_is_refused_by_name),
        cmocka_unit_test(no_memory_while_opening_leaks_nothing),
        cmocka_unit_test(no_memory_while_scoring_is_an_error_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
