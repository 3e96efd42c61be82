/* Opening a reader: the spellings of names and configurations that are in the wild give the same model, and
 * whatever is missing, misshapen or not built is refused with the file and the member or tensor at fault. */
#include "tests/reader/copy.h"
#include "base/memory.h"

/* Numbers that depend on every tensor: one picture through the vision tower, placed in a short prompt, last
 * logits. */
enum { PRINT = 640 };
static void fingerprint(reader *r, kernels *k, float out[PRINT])
{
    err          e = {0};
    safetensors *pixels;
    arena       *a = arena_new(0);
    OK(safetensors_open(&pixels, FIXTURE("golden/qwen2vl-preprocess.safetensors"), &e), e);
    const tensor *px = safetensors_find(pixels, "gray_64x48.png/pixel_values");
    const int64_t *grid = golden_ints(pixels, "gray_64x48.png/image_grid_thw", NULL);
    pixel_plan plan = plan_holding(px->data, (int)grid[1], (int)grid[2], 14, 2, 2, a);
    picture    pic = picture_from(&plan);
    prompt     p;
    OK(r->f->query(r->m, "Is it grey?", &pic, &p, a, &e), e);
    int32_t *pos = ARENA_NEW(a, int32_t, 3 * p.n_ids, &e);
    r->f->positions(pos, &p, 0);
    size_t D = (size_t)decoder_sizes(r->m->text)->D, n = (size_t)p.n_ids, mark = k->mark(k);
    act   *vision = k->take(k, (size_t)pic.rows * (size_t)pic.cols * D), *x = k->take(k, n * D);
    OK(r->f->encode(r->m, k, 0, &pic, 1, vision, NULL, a, &e), e);
    decoder_embed(r->m->text, k, &p, vision, x);
    kv           own = {k->take(k, decoder_kv_len(r->m->text, p.n_ids)), p.n_ids, 0};
    decoder_pass pass = {.own = &own, .pos = pos, .x = x, .T = p.n_ids, .want = p.n_ids - 1};
    OK(decoder_forward(r->m->text, k, &pass, a, &e), e);
    act *last = act_at(k, x, (n - 1) * D);
    decoder_norm(r->m->text, k, last, 1);
    assert_int_equal(decoder_sizes(r->m->text)->V, PRINT);
    k->logits(k, out, last, 1, decoder_head(r->m->text));
    OK(k->sync(k, &e), e);
    k->back(k, mark);
    safetensors_close(pixels);
    arena_free(a);
}

static void fingerprint_of(const char *dir, float out[PRINT])
{
    kernels *k = open_cpu(PRECISION_F32, 1);
    reader  *r = open_reader(dir, 0, k);
    fingerprint(r, k, out);
    reader_close(r);
    k->close(k);
}

/* The folder opens and is bit for bit the fixture's model. */
static void is_still(copy *y, const char *fixture)
{
    char  dir[256];
    float want[PRINT], got[PRINT];
    snprintf(dir, sizeof dir, FIXTURE("%s"), fixture);
    save(y);
    fingerprint_of(dir, want);
    fingerprint_of(y->m.dir, got);
    assert_memory_equal(got, want, sizeof got);
}

static void tells_what_it_opened(void **state)
{
    (void)state;
    kernels *k = open_cpu(PRECISION_F32, 1);
    reader  *r = open_reader(FIXTURE("qwen2vl-tiny-bf16-sharded"), 0, k);
    assert_string_equal(reader_family(r), "qwen2_vl");
    assert_int_equal(strlen(reader_hash(r)), 64);
    assert_int_equal(reader_max_tokens(r), 32768);
    int64_t vision =
        64 * 1176 + 2 * (4 * 64 + 192 * 65 + 64 * 65 + 256 * 65 + 64 * 257) + 2 * 64 + 256 * 257 + 128 * 257;
    int64_t layer = 2 * 128 + 128 * 129 + 2 * 64 * 129 + 128 * 128 + 3 * 128 * 192;
    assert_int_equal(reader_parameters(r), vision + 3 * layer + 128 + 2 * 640 * 128);
    reader_close(r);
    k->close(k);
    reader_close(NULL);
}

static void names_of_every_version_are_read(void **state)
{
    (void)state;
    copy *y = copy_of_fixture("qwen2vl-tiny-bf16-sharded"); /* one file now, instead of three */
    is_still(y, "qwen2vl-tiny-bf16-sharded");
    rename_prefix(y, "visual.", "model.visual.");
    is_still(y, "qwen2vl-tiny-bf16-sharded");
    rename_prefix(y, "model.embed", "model.language_model.embed");
    rename_prefix(y, "model.layers", "model.language_model.layers");
    rename_prefix(y, "model.norm", "model.language_model.norm");
    is_still(y, "qwen2vl-tiny-bf16-sharded");
    rename_prefix(y, "model.", ""); /* a base model saved without its head: visual.*, language_model.* */
    is_still(y, "qwen2vl-tiny-bf16-sharded");
    copy_free(y);
}

static void configurations_saved_again_are_read(void **state)
{
    (void)state;
    static const char *const TEXT[] = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings", "hidden_act",
        "use_sliding_window", "vocab_size", NULL};
    copy *y = copy_of_fixture("qwen2vl-tiny");
    folder_set(&y->m, "config.json", "rope_scaling",
               "{\"rope_type\": \"default\", \"type\": \"default\", \"mrope_section\": [4, 6, 6]}");
    is_still(y, "qwen2vl-tiny");

    json_t *c = json_load_file(folder_file(&y->m, "config.json"), 0, NULL), *text = json_object();
    for (int i = 0; TEXT[i]; i++) {
        json_object_set(text, TEXT[i], json_object_get(c, TEXT[i]));
        json_object_del(c, TEXT[i]);
    }
    json_object_set_new(c, "text_config", text);
    json_dump_file(c, folder_file(&y->m, "config.json"), 0);
    json_decref(c);
    is_still(y, "qwen2vl-tiny");

    folder_set(&y->m, "config.json", "text_config.rope_parameters",
               "{\"rope_theta\": 1000000.0, \"rope_type\": \"default\", \"mrope_section\": [4, 6, 6]}");
    folder_set(&y->m, "config.json", "text_config.rope_scaling", NULL);
    folder_set(&y->m, "config.json", "text_config.rope_theta", NULL);
    is_still(y, "qwen2vl-tiny");

    folder_set(&y->m, "preprocessor_config.json", "size", "{\"shortest_edge\": 3136, \"longest_edge\": 12845056}");
    folder_set(&y->m, "preprocessor_config.json", "min_pixels", NULL);
    folder_set(&y->m, "preprocessor_config.json", "max_pixels", NULL);
    /* left out where it is the class's default */
    folder_set(&y->m, "config.json", "vision_config.hidden_size", NULL);
    folder_set(&y->m, "config.json", "vision_config.mlp_ratio", NULL);
    folder_set(&y->m, "config.json", "vision_config.patch_size", NULL);
    folder_set(&y->m, "config.json", "vision_config.spatial_merge_size", NULL);
    folder_set(&y->m, "config.json", "vision_config.temporal_patch_size", NULL);
    is_still(y, "qwen2vl-tiny");
    copy_free(y);
}

/* Whether the head is tied stands in one of two places, or only in the tensors. */
static void tied_and_own_heads_are_told_apart(void **state)
{
    (void)state;
    float tied[PRINT], own[PRINT];
    copy *y = copy_of_fixture("qwen2vl-tiny-bf16-sharded");
    folder_set(&y->m, "config.json", "tie_word_embeddings", NULL);
    is_still(y, "qwen2vl-tiny-bf16-sharded");
    folder_set(&y->m, "config.json", "text_config", "{\"tie_word_embeddings\": false}");
    is_still(y, "qwen2vl-tiny-bf16-sharded");
    /* the library then ignores the head in the file */
    folder_set(&y->m, "config.json", "tie_word_embeddings", "true");
    save(y);
    fingerprint_of(y->m.dir, tied);
    fingerprint_of(FIXTURE("qwen2vl-tiny-bf16-sharded"), own);
    assert_true(memcmp(tied, own, sizeof own) != 0);
    checkpoint_drop(&y->c, "lm_head.weight");
    save(y);
    fingerprint_of(y->m.dir, own);
    assert_memory_equal(own, tied, sizeof own);
    folder_set(&y->m, "config.json", "tie_word_embeddings", "false");
    refused(y, "lm_head.weight");
    copy_free(y);
}

/* F16 weights: rounded to half, the same model as those halves stored as F32. */
static void half_precision_weights_are_widened_exactly(void **state)
{
    (void)state;
    float wide[PRINT], half[PRINT];
    copy *x = copy_of_fixture("qwen2vl-tiny"), *y = copy_of_fixture("qwen2vl-tiny");
    for (int i = 0; i < x->c.n; i++) {
        tensor_round(&x->c.t[i], DTYPE_F16, true);
        tensor_round(&y->c.t[i], DTYPE_F16, false);
    }
    save(x);
    save(y);
    fingerprint_of(x->m.dir, wide);
    fingerprint_of(y->m.dir, half);
    CLOSE(half, wide, PRINT, 1e-6, "logits of F16 weights");
    copy_free(x);
    copy_free(y);
}

static void every_tensor_is_needed(void **state)
{
    (void)state;
    err            e;
    reader        *r = NULL;
    reader_options o = {0};
    kernels       *k = open_cpu(PRECISION_F32, 1);
    copy          *y = copy_of_fixture("qwen2vl-tiny-bf16-sharded");
    for (int i = 0; i < y->c.n; i++) {
        char name[128], full[128];
        snprintf(name, sizeof name, "%s", y->c.t[i].name);
        y->c.t[i].name[0] = '~';
        save(y);
        /* The first name that is looked for when a whole half is gone is the published one. */
        FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, name);
        if (!strstr(e.text, y->m.dir)) fail_msg("'%s' names no file", e.text);
        y->c.t[i].name[0] = name[0];

        y->c.t[i].dim[0]--; /* one row short; the bytes that are left over end the file's check, so shorten them
                               too */
        size_t was = y->c.t[i].bytes;
        y->c.t[i].bytes -= was / (size_t)(y->c.t[i].dim[0] + 1);
        save(y);
        snprintf(full, sizeof full, "%s", name);
        FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, full);
        y->c.t[i].dim[0]++;
        y->c.t[i].bytes = was;
    }
    k->close(k);
    copy_free(y);
}

static void whole_number_tensors_are_refused(void **state)
{
    (void)state;
    copy *y = copy_of_fixture("qwen2vl-tiny");
    saved_tensor *t = checkpoint_find(&y->c, "model.layers.1.mlp.up_proj.weight");
    t->type = DTYPE_I32;
    refused(y, "model.layers.1.mlp.up_proj.weight");
    copy_free(y);
}

static void configurations_that_are_not_built_are_refused_by_member(void **state)
{
    (void)state;
    static const struct { const char *member, *value, *part;
    } wrong[] = {
        {"model_type", "\"qwen3_vl\"", "'qwen3_vl' is not a reader that is supported (qwen2_vl, llava)"},
        {"model_type", "7", "model_type"},
        {"hidden_size", NULL, "hidden_size is missing"},
        {"hidden_size", "\"128\"", "hidden_size is not a whole number"},
        {"hidden_size", "0", "hidden_size must be 1 to"},
        {"num_hidden_layers", "100000", "num_hidden_layers must be 1 to 512"},
        {"num_key_value_heads", "3", "num_key_value_heads"},
        {"rms_norm_eps", "0", "rms_norm_eps must be above 0"},
        {"hidden_act", "\"gelu\"", "hidden_act is 'gelu'"},
        {"use_sliding_window", "true", "use_sliding_window"},
        {"rope_theta", "0.5", "rope_theta"},
        {"rope_scaling", "{\"type\": \"yarn\", \"mrope_section\": [4, 6, 6]}", "rope_scaling.type is 'yarn'"},
        {"rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [4, 6, 7]}",
         "mrope_section must add up to half the head's 32"},
        {"rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [4, 12]}", "mrope_section must be three sizes"},
        {"rope_scaling", NULL, "mrope_section"},
        {"vision_config.hidden_act", "\"gelu\"", "vision_config.hidden_act is 'gelu'"},
        {"vision_config.num_heads", "5", "embed_dim 64 does not split into 5 heads"},
        {"vision_config.hidden_size", "64", "vision_config.hidden_size is 64"},
        {"vision_config.patch_size", "16", "differ in patch"},
        {"image_token_id", "12", "image_token_id is 12"},
        {"vision_config.embed_dim", "32", "visual.patch_embed.proj.weight"},
        {"intermediate_size", "191", "model.layers.0.mlp.gate_proj.weight"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy *y = copy_of_fixture("qwen2vl-tiny");
        folder_set(&y->m, "config.json", wrong[i].member, wrong[i].value);
        refused(y, wrong[i].part);
        copy_free(y);
    }
}

static void an_embedding_shorter_than_the_vocabulary_is_refused(void **state)
{
    (void)state;
    copy         *y = copy_of_fixture("qwen2vl-tiny");
    saved_tensor *t = checkpoint_find(&y->c, "model.embed_tokens.weight");
    t->dim[0] = 635; /* ids 0 .. 639 exist in name, 636 are in use */
    t->bytes = 635 * 128 * 4;
    refused(y, "model.embed_tokens.weight has 635 rows");
    copy_free(y);
}

static void files_that_are_missing_are_named(void **state)
{
    (void)state;
    static const char *const NAME[] = {"config.json", "tokenizer.json", "preprocessor_config.json",
                                       "model.safetensors"};
    for (int i = 0; i < 4; i++) {
        err            e;
        reader        *r = NULL;
        reader_options o = {0};
        kernels       *k = open_cpu(PRECISION_F32, 1);
        copy          *y = copy_of_fixture("qwen2vl-tiny");
        save(y);
        unlink(folder_file(&y->m, NAME[i]));
        FAILS(reader_open(&r, y->m.dir, &o, k, &e), e, ERR_FILE, i == 3 ? "safetensors" : NAME[i]);
        copy_free(y);
        k->close(k);
    }
}

/* Every allocation of opening fails in turn: an error and nothing left behind, or a model that is whole. */
static void no_memory_while_opening_leaks_nothing(void **state)
{
    (void)state;
    kernels       *k = open_cpu(PRECISION_F32, 1);
    reader_options o = {.cache_bytes = 1 << 20};
    float          want[PRINT], got[PRINT];
    fingerprint_of(FIXTURE("qwen2vl-tiny"), want);
    bool reached = true;
    for (long n = 0; reached; n++) {
        err     e = {0};
        reader *r = NULL;
        mem_fail_after(n);
        bool ok = reader_open(&r, FIXTURE("qwen2vl-tiny"), &o, k, &e);
        reached = mem_fail_after(-1) > n;
        if (!ok) {
            if (e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
            assert_null(r);
            assert_true(reached);
            continue;
        }
        fingerprint(r, k, got); /* what the tokenizer can do without, such as compiled patterns, changes nothing */
        assert_memory_equal(got, want, sizeof got);
        reader_close(r);
    }
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_what_it_opened),
        cmocka_unit_test(names_of_every_version_are_read),
        cmocka_unit_test(configurations_saved_again_are_read),
        cmocka_unit_test(tied_and_own_heads_are_told_apart),
        cmocka_unit_test(half_precision_weights_are_widened_exactly),
        cmocka_unit_test(every_tensor_is_needed),
        cmocka_unit_test(whole_number_tensors_are_refused),
        cmocka_unit_test(configurations_that_are_not_built_are_refused_by_member),
        cmocka_unit_test(an_embedding_shorter_than_the_vocabulary_is_refused),
        cmocka_unit_test(files_that_are_missing_are_named),
        cmocka_unit_test(no_memory_while_opening_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
