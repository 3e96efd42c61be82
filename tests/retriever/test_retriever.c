/* test_retriever.c - the whole model: its folder, pictures and captions to vectors, tuned query towers, and the
 * demonstration model's embeddings as PyTorch gave them. */
#include "tests/retriever/checkpoint.h"

#include "base/memory.h"
#include "imaging/preprocess.h"
#include "index/npz.h"
#include "retriever/retriever.h"
#include "retriever/towers.h"

#define TINY    FIXTURE("jina-clip-tiny/")
#define GOLDEN  FIXTURE("golden/jina-clip-tiny.safetensors")
#define PICTURE "rgb_97x131.jpg"

enum { E = 96, DEMO_E = 128, N_DEMO = 720 };
static const double EMBEDDING = 2e-5; /* fixtures/README.md, "Tolerances" */

static kernels     *kern;
static arena       *mem;
static safetensors *golden, *decoded;

static kernels *open_kernels(int threads)
{
    kernels        *k = NULL;
    err             e = {0};
    kernels_options o = {
        .device = "cpu", .products = PRECISION_F32, .threads = threads, .scratch_bytes = (size_t)256 << 20};
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
    OK(safetensors_open(&decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    safetensors_close(golden);
    safetensors_close(decoded);
    arena_free(mem);
    kern->close(kern);
    return 0;
}

static retriever *open_folder(const char *dir)
{
    retriever *r = NULL;
    err        e = {0};
    OK(retriever_open(&r, dir, kern, &e), e);
    return r;
}

/* A picture of the fixtures as Pillow decoded it. */
static image picture(const char *name)
{
    const tensor *t = safetensors_find(decoded, name);
    assert_true(t && t->n_dims == 3 && t->dim[2] == 3);
    image img = {.width = (int)t->dim[1], .height = (int)t->dim[0], .rgb = must(arena_take(mem, (size_t)t->count, &(err){0}))};
    memcpy(img.rgb, t->data, (size_t)t->count);
    return img;
}

static const float *gold(const char *owner, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "%s/%s", owner, name);
    return ((const tensor *)must((void *)safetensors_find(golden, key)))->data;
}

/* ---- embeddings of the fixture ---- */

static void pictures_become_their_golden_embeddings(void **state)
{
    (void)state;
    retriever *r = open_folder(TINY);
    float      z[E];
    err        e = {0};
    int        n = 0;
    assert_int_equal(retriever_dim(r), E);
    for (int i = 0; i < safetensors_count(decoded); i++, n++, arena_reset(mem)) {
        const char *name = safetensors_at(decoded, i)->name;
        image       img = picture(name);
        OK(retriever_embed_image(r, kern, &img, z, mem, &e), e);
        CLOSE(z, gold(name, "embedding"), E, EMBEDDING, name);
        double sq = 0;
        for (int d = 0; d < E; d++) sq += (double)z[d] * z[d];
        assert_true(fabs(sq - 1) < 1e-6);
    }
    assert_int_equal(n, 9);
    retriever_close(r);
}

static void texts_become_their_golden_embeddings(void **state)
{
    (void)state;
    retriever *r = open_folder(TINY);
    json_t *j = must(json_load_file(FIXTURE("golden/jina-clip-tiny.json"), 0, NULL)),
           *texts = json_object_get(j, "texts");
    float      z[E];
    err        e = {0};
    assert_int_equal(json_array_size(texts), 9);
    for (size_t i = 0; i < json_array_size(texts); i++, arena_reset(mem)) {
        char owner[32];
        snprintf(owner, sizeof owner, "text.%zu", i);
        OK(retriever_embed_text(r, kern, json_string_value(json_object_get(json_array_get(texts, i), "text")), 512,
                                z, mem, &e),
           e);
        CLOSE(z, gold(owner, "embedding"), E, EMBEDDING, owner);
    }
    json_decref(j);
    retriever_close(r);
}

static void captions_are_cut_to_256_tokens_unless_told_otherwise(void **state)
{
    (void)state;
    retriever *r = open_folder(TINY);
    float      z[3][E];
    err        e = {0};
    char       text[4096] = "";
    for (int i = 0; i < 300; i++) strcat(text, "the sun ");
    OK(retriever_embed_text(r, kern, text, 0, z[0], mem, &e), e);
    OK(retriever_embed_text(r, kern, text, 256, z[1], mem, &e), e);
    OK(retriever_embed_text(r, kern, text, 257, z[2], mem, &e), e);
    assert_memory_equal(z[0], z[1], sizeof z[0]);
    assert_true(memcmp(z[0], z[2], sizeof z[0]) != 0);
    FAILS(retriever_embed_text(r, kern, "\xff", 0, z[0], mem, &e), e, ERR_UNUSABLE, "UTF-8");
    retriever_close(r);
}

/* ---- tuned query towers ---- */

/* The fixture's image tower with every weight matrix a little off, as a query tower file. */
static void write_tuned(model_folder *m, const char *file, float by)
{
    checkpoint c;
    checkpoint_read(&c, TINY "model.safetensors");
    checkpoint_filter(&c, "vision_model.", true);
    for (int i = 0; i < c.n; i++)
        if (c.t[i].n_dims == 2)
            for (size_t j = 0; j < c.t[i].bytes / 4; j++) ((float *)c.t[i].data)[j] *= 1 + by * (float)(j % 7);
    checkpoint_write(&c, folder_file(m, file), 0);
    checkpoint_free(&c);
}

static void fixture_folder(model_folder *m)
{
    checkpoint c;
    folder_make(m);
    checkpoint_read(&c, TINY "model.safetensors");
    checkpoint_write(&c, folder_file(m, "model.safetensors"), 0);
    checkpoint_free(&c);
}

/* What a query tower file alone gives, of unit length. */
static void embed_by(const char *path, const image *img, float z[E])
{
    jina_config       c;
    jina_image_config ic;
    safetensors      *s = NULL;
    vision_tower     *v = NULL;
    pixel_plan        plan;
    err               e = {0};
    double            sq = 0;
    OK(jina_config_open(&c, TINY "config.json", &e), e);
    OK(jina_image_config_open(&ic, TINY, &e), e);
    OK(safetensors_open(&s, path, &e), e);
    OK(vision_tower_open(&v, &c.vision, s, true, kern, &e), e);
    OK(jina_plan(&plan, img, &ic, c.vision.patch, mem, &e), e);
    act *px = kern->take(kern, (size_t)3 * ic.size * ic.size);
    kern->pixels(kern, px, &plan);
    OK(vision_tower_embed(v, kern, px, z, NULL, mem, &e), e);
    kern->back(kern, 0);
    for (int i = 0; i < E; i++) sq += (double)z[i] * z[i];
    for (int i = 0; i < E; i++) z[i] = (float)(z[i] / sqrt(sq));
    vision_tower_close(v);
    safetensors_close(s);
}

static void a_query_without_tuned_towers_is_the_images_embedding(void **state)
{
    (void)state;
    retriever *r = open_folder(TINY);
    image      img = picture(PICTURE);
    float      f0[E], z[N_HEADS][E], both[N_HEADS][E];
    err        e = {0};
    OK(retriever_embed_image(r, kern, &img, f0, mem, &e), e);
    OK(retriever_embed_queries(r, kern, &img, (float *const[]){both[0], both[1]}, mem, &e), e);
    for (int h = 0; h < N_HEADS; h++) {
        OK(retriever_embed_query(r, kern, (head)h, &img, z[h], mem, &e), e);
        assert_memory_equal(z[h], f0, sizeof f0);
        assert_memory_equal(both[h], f0, sizeof f0);
        assert_null(retriever_query_hash(r, (head)h));
    }
    retriever_close(r);
}

static void a_tuned_tower_is_mixed_15_to_85_and_not_normalised_again(void **state)
{
    (void)state;
    static const char *const FILE_OF[] = {"query_image.safetensors", "query_text.safetensors"};
    for (unsigned have = 1; have < 4; have++) { /* bit h: head h has a tuned tower */
        model_folder m;
        image        img = picture(PICTURE);
        float        f0[E], tuned[E], z[N_HEADS][E], both[N_HEADS][E];
        err          e = {0};
        fixture_folder(&m);
        for (int h = 0; h < N_HEADS; h++)
            if (have >> h & 1) write_tuned(&m, FILE_OF[h], h ? 0.02f : -0.03f);
        retriever *r = open_folder(m.dir);
        OK(retriever_embed_image(r, kern, &img, f0, mem, &e), e); /* the index's side stays frozen */
        CLOSE(f0, gold(PICTURE, "embedding"), E, EMBEDDING, "frozen");
        OK(retriever_embed_queries(r, kern, &img, (float *const[]){both[0], both[1]}, mem, &e), e);
        for (int h = 0; h < N_HEADS; h++) {
            OK(retriever_embed_query(r, kern, (head)h, &img, z[h], mem, &e), e);
            assert_memory_equal(z[h], both[h], sizeof z[h]);
            assert_true((retriever_query_hash(r, (head)h) != NULL) == (have >> h & 1));
            if (!(have >> h & 1)) {
                assert_memory_equal(z[h], f0, sizeof f0);
                continue;
            }
            double sq = 0, apart = 0;
            embed_by(folder_file(&m, FILE_OF[h]), &img, tuned);
            for (int i = 0; i < E; i++) {
                float want = 0.15f * tuned[i] + 0.85f * f0[i];
                assert_true(z[h][i] == want);
                sq += (double)want * want;
                apart += fabs((double)tuned[i] - f0[i]);
            }
            assert_true(apart > 0.1); /* the tuned tower really is another one */
            assert_true(sq < 0.9999);
        }
        retriever_close(r);
        folder_remove(&m);
    }
}

static void tuned_towers_do_not_change_what_an_index_is_built_with(void **state)
{
    (void)state;
    model_folder m;
    char         hash[65];
    fixture_folder(&m);
    retriever *r = open_folder(m.dir);
    snprintf(hash, sizeof hash, "%s", retriever_hash(r));
    assert_int_equal(strlen(hash), 64);
    int64_t n = retriever_parameters(r);
    retriever_close(r);

    write_tuned(&m, "query_text.safetensors", 0.02f);
    r = open_folder(m.dir);
    assert_string_equal(retriever_hash(r), hash);
    assert_int_equal(retriever_parameters(r), n);
    assert_string_not_equal(retriever_query_hash(r, HEAD_TEXT), hash);
    retriever_close(r);

    folder_set(&m, "config.json", "transformers_version", "\"9\"");
    r = open_folder(m.dir);
    assert_string_not_equal(retriever_hash(r), hash);
    retriever_close(r);
    folder_remove(&m);
}

/* ---- folders that are wrong ---- */

static void wrong_folders_are_refused_with_the_file_and_the_reason(void **state)
{
    (void)state;
    model_folder m;
    retriever   *r = NULL;
    err          e = {0};
    FAILS(retriever_open(&r, "/nonexistent", kern, &e), e, ERR_FILE, "/nonexistent/config.json");

    static const char *const NEEDED[] = {"config.json", "preprocessor_config.json", "tokenizer.json",
                                         "model.safetensors"};
    for (int i = 0; i < 4; i++) {
        fixture_folder(&m);
        unlink(folder_file(&m, NEEDED[i]));
        FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE, NEEDED[i]);
        folder_remove(&m);
    }

    fixture_folder(&m);
    folder_set(&m, "preprocessor_config.json", "size", "96");
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE, "pictures of 96 pixels, config.json wants 80");
    folder_set(&m, "preprocessor_config.json", "size", "80");
    folder_set(&m, "config.json", "vision_config.layers", "3");
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE, "vision_model.blocks.2");
    folder_set(&m, "config.json", "vision_config.layers", "1");
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE, "vision_model.blocks.1");
    folder_set(&m, "config.json", "vision_config.layers", "2");
    folder_remove(&m);

    fixture_folder(&m);
    assert_int_equal(truncate(folder_file(&m, "model.safetensors"), 100000), 0);
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE, "model.safetensors");
    folder_remove(&m);
    assert_null(r);
}

static void a_tokenizer_larger_than_the_vocabulary_is_refused(void **state)
{
    (void)state;
    checkpoint    c;
    model_folder  m;
    retriever    *r = NULL;
    err           e = {0};
    folder_make(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    saved_tensor *words = checkpoint_find(&c, "text_model.transformer.embeddings.word_embeddings.weight");
    words->dim[0] = 440; /* 441 are in use */
    words->bytes = 440 * E * 4;
    folder_set(&m, "config.json", "text_config.hf_model_config_kwargs.vocab_size", NULL);
    checkpoint_write(&c, folder_file(&m, "model.safetensors"), 0);
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE,
          "tokenizer.json: 441 tokens, but the word embeddings have 440 rows");
    checkpoint_free(&c);
    folder_remove(&m);
}

static void a_wrong_query_tower_names_its_own_file(void **state)
{
    (void)state;
    checkpoint   c;
    model_folder m;
    retriever   *r = NULL;
    err          e = {0};
    fixture_folder(&m);
    checkpoint_read(&c, TINY "model.safetensors");
    checkpoint_write(&c, folder_file(&m, "query_text.safetensors"), 0); /* text tensors do not belong there */
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE, "query_text.safetensors");
    checkpoint_filter(&c, "vision_model.", true);
    checkpoint_drop(&c, "vision_model.blocks.1.mlp.w2.weight");
    checkpoint_write(&c, folder_file(&m, "query_text.safetensors"), 0);
    FAILS(retriever_open(&r, m.dir, kern, &e), e, ERR_FILE,
          "query_text.safetensors: tensor vision_model.blocks.1.mlp.w2.weight is missing");
    checkpoint_free(&c);
    folder_remove(&m);
}

static void weights_that_are_not_numbers_end_in_an_error_not_in_an_embedding(void **state)
{
    (void)state;
    static const char *const NAME[] = {"vision_model.norm.bias", "text_model.transformer.emb_ln.bias"};
    for (int i = 0; i < 2; i++) {
        checkpoint   c;
        model_folder m;
        image        img = picture(PICTURE);
        float        z[E];
        err          e = {0};
        folder_make(&m);
        checkpoint_read(&c, TINY "model.safetensors");
        ((float *)checkpoint_find(&c, NAME[i])->data)[5] = NAN;
        checkpoint_write(&c, folder_file(&m, "model.safetensors"), 0);
        retriever *r = open_folder(m.dir);
        if (i == 0) FAILS(retriever_embed_image(r, kern, &img, z, mem, &e), e, ERR_FILE, "not a number");
        else FAILS(retriever_embed_text(r, kern, "the sun", 0, z, mem, &e), e, ERR_FILE, "not a number");
        retriever_close(r);
        checkpoint_free(&c);
        folder_remove(&m);
    }
}

static void every_failing_allocation_of_opening_is_an_error_without_a_leak(void **state)
{
    (void)state;
    model_folder m;
    fixture_folder(&m);
    write_tuned(&m, "query_image.safetensors", 0.01f);
    bool done = false;
    long total = 0;
    for (long n = 0; !done; n++) {
        retriever *r = NULL;
        err        e = {0};
        mem_fail_after(n);
        done = retriever_open(&r, m.dir, kern, &e);
        total = mem_fail_after(-1);
        if (!done && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
        retriever_close(r);
        assert_true(n < 100000);
        if (n >= 40 / LIST_STEP) n += n / 3 + 1; /* the tokenizer takes many alike */
    }
    assert_true(total > 0);
    folder_remove(&m);
}

/* ---- the demonstration model ---- */

enum { MAX_ROWS = 8192 };
typedef struct { char file[160], caption[256]; } item;

/* The rows of an index's JSON lines: a picture's path below root, and its caption. */
static int read_rows(item **out, const char *path, const char *root)
{
    FILE *f = must(fopen(path, "r"));
    char  line[2048];
    int   n = 0;
    *out = must(calloc(MAX_ROWS, sizeof **out));
    while (fgets(line, sizeof line, f)) {
        json_t *j = must(json_loads(line, 0, NULL));
        assert_true(n < MAX_ROWS);
        const char *caption = json_string_value(json_object_get(j, "text"));
        snprintf((*out)[n].file, sizeof(*out)[n].file, "%s%s", root,
                 json_string_value(json_object_get(j, "img_path")));
        snprintf((*out)[n++].caption, sizeof (*out)[0].caption, "%s", caption ? caption : "");
        json_decref(j);
    }
    fclose(f);
    return n;
}

static image load_picture(const char *path)
{
    char  *bytes;
    size_t n;
    image  img;
    err    e = {0};
    OK(file_read(&bytes, &n, path, 1 << 24, &e), e);
    OK(image_decode(&img, bytes, n, &IMAGE_LIMITS, mem, &e), e);
    free(bytes);
    return img;
}

static void all_demonstration_items_have_pytorchs_embeddings(void **state)
{
    (void)state;
    retriever   *r = open_folder(DEMO("retriever"));
    safetensors *s = NULL;
    item        *row;
    err          e = {0};
    float        z[DEMO_E];
    assert_int_equal(retriever_dim(r), DEMO_E);
    OK(safetensors_open(&s, DEMO("synthetic/embeddings.safetensors"), &e), e);
    const float *zi = safetensors_find(s, "image")->data, *zt = safetensors_find(s, "text")->data;
    assert_int_equal(read_rows(&row, DEMO("synthetic/index.jsonl"), DEMO("synthetic/")), N_DEMO);
    for (int i = 0; i < N_DEMO; i += LIST_STEP, arena_reset(mem)) {
        image img = load_picture(row[i].file);
        OK(retriever_embed_image(r, kern, &img, z, mem, &e), e);
        CLOSE(z, zi + (size_t)i * DEMO_E, DEMO_E, EMBEDDING, row[i].file);
        OK(retriever_embed_text(r, kern, row[i].caption, 0, z, mem, &e), e);
        CLOSE(z, zt + (size_t)i * DEMO_E, DEMO_E, EMBEDDING, row[i].caption);
    }
    free(row);
    safetensors_close(s);
    retriever_close(r);
}

/* One row of a MedMNIST array as RGB: [H,W] or [H,W,3] bytes. */
static image npz_picture(npz_array *z, int64_t row)
{
    const npy_shape *s = npz_shape(z);
    err              e = {0};
    uint8_t          raw[28 * 28 * 3];
    assert_true(s->row_bytes <= sizeof raw && s->dim[1] == 28 && s->dim[2] == 28);
    OK(npz_row(z, row, raw, &e), e);
    image img = {.width = 28, .height = 28, .rgb = must(arena_take(mem, sizeof raw, &e))};
    for (int i = 0; i < 28 * 28; i++)
        for (int c = 0; c < 3; c++) img.rgb[3 * i + c] = s->n_dims == 4 ? raw[3 * i + c] : raw[i];
    return img;
}

/* Every STEP-th of the 6,334 MedMNIST items; the tests of the whole program see them all. */
static void real_items_have_pytorchs_embeddings(void **state)
{
    (void)state;
    enum { STEP = 29 * LIST_STEP };
    retriever   *r = NULL;
    safetensors *s = NULL;
    npz_array   *z = NULL;
    item        *row;
    char         open[160] = "";
    float        v[DEMO_E];
    err          e = {0};
    if (!file_exists(shared_path("data/medmnist/retinamnist.npz")))
        SKIP("%s is not there", shared_path("data/medmnist"));
    r = open_folder(DEMO("retriever"));
    OK(safetensors_open(&s, DEMO("real/embeddings.safetensors"), &e), e);
    const float *zi = safetensors_find(s, "image")->data, *zt = safetensors_find(s, "text")->data;
    int          n = read_rows(&row, DEMO("real/index.jsonl"), "");
    assert_int_equal(n, 6334);
    for (int i = 0; i < n; i += STEP, arena_reset(mem)) {
        char *hash = must(strchr(row[i].file, '#'));
        *hash = 0;
        if (strcmp(open, row[i].file) != 0) {
            npz_close(z);
            z = NULL;
            snprintf(open, sizeof open, "%s", row[i].file);
            char path[256];
            snprintf(path, sizeof path, "data/medmnist/%s", open);
            OK(npz_open(&z, shared_path(path), "train_images", &e), e);
        }
        image img = npz_picture(z, atol((char *)must(strchr(hash + 1, '/')) + 1));
        OK(retriever_embed_image(r, kern, &img, v, mem, &e), e);
        CLOSE(v, zi + (size_t)i * DEMO_E, DEMO_E, EMBEDDING, row[i].file);
        OK(retriever_embed_text(r, kern, row[i].caption, 0, v, mem, &e), e);
        CLOSE(v, zt + (size_t)i * DEMO_E, DEMO_E, EMBEDDING, row[i].caption);
    }
    npz_close(z);
    free(row);
    safetensors_close(s);
    retriever_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_become_their_golden_embeddings),
        cmocka_unit_test(texts_become_their_golden_embeddings),
        cmocka_unit_test(captions_are_cut_to_256_tokens_unless_told_otherwise),
        cmocka_unit_test(a_query_without_tuned_towers_is_the_images_embedding),
        cmocka_unit_test(a_tuned_tower_is_mixed_15_to_85_and_not_normalised_again),
        cmocka_unit_test(tuned_towers_do_not_change_what_an_index_is_built_with),
        cmocka_unit_test(wrong_folders_are_refused_with_the_file_and_the_reason),
        cmocka_unit_test(a_tokenizer_larger_than_the_vocabulary_is_refused),
        cmocka_unit_test(a_wrong_query_tower_names_its_own_file),
        cmocka_unit_test(weights_that_are_not_numbers_end_in_an_error_not_in_an_embedding),
        cmocka_unit_test(every_failing_allocation_of_opening_is_an_error_without_a_leak),
        cmocka_unit_test(all_demonstration_items_have_pytorchs_embeddings),
        cmocka_unit_test(real_items_have_pytorchs_embeddings),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
