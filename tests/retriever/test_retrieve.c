/* test_retrieve.c - retrieve() over real indexes: the demonstration index as the builder makes it, and a small
 * one with studies to exclude. */
#include "tests/retriever/checkpoint.h"

#include "base/memory.h"
#include "index/build.h"
#include "retriever/retriever.h"

enum { N_DEMO = 720 };
static kernels       *kern;
static arena         *mem;
static retriever     *demo;
static passage_index *demo_index, *small_index;
static char           root[] = "/tmp/jomed-retrieve-XXXXXX";

static kernels *open_kernels(int threads)
{
    kernels        *k = NULL;
    err             e = {0};
    kernels_options o = {
        .device = "cpu", .products = PRECISION_F32, .threads = threads, .scratch_bytes = (size_t)64 << 20};
    OK(kernels_open(&k, &o, &e), e);
    return k;
}

/* The demonstration index is built with PyTorch's own embeddings: test_retriever.c compares ours with them.
 * Pictures come in the order of the rows; a caption may come once for all its rows, which have equal
 * embeddings. */
typedef struct { const float *image, *text; json_t *captions; int n_images; } given;
static bool next_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    given *g = ctx;
    (void)img, (void)a, (void)e;
    memcpy(z, g->image + 128 * g->n_images++, 128 * sizeof *z);
    return true;
}
static bool find_text(void *ctx, const char *caption, float *z, arena *a, err *e)
{
    given        *g = ctx;
    const json_t *row = must(json_object_get(g->captions, caption));
    (void)a, (void)e;
    memcpy(z, g->text + 128 * json_integer_value(row), 128 * sizeof *z);
    return true;
}

/* {caption: first row that has it} */
static json_t *read_captions(void)
{
    json_t *map = json_object();
    FILE   *f = must(fopen(DEMO("synthetic/index.jsonl"), "r"));
    char    line[2048];
    for (int i = 0; fgets(line, sizeof line, f); i++) {
        json_t     *j = must(json_loads(line, 0, NULL));
        const char *caption = json_string_value(json_object_get(j, "text"));
        if (!json_object_get(map, caption)) json_object_set_new(map, caption, json_integer(i));
        json_decref(j);
    }
    fclose(f);
    return map;
}

static bool embed_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    return (void)ctx, retriever_embed_image(demo, kern, img, z, a, e);
}
static bool embed_text(void *ctx, const char *s, float *z, arena *a, err *e)
{
    return (void)ctx, retriever_embed_text(demo, kern, s, 0, z, a, e);
}

static const char *below_root(const char *name)
{
    static char path[4][128];
    static int  next;
    char       *p = path[next++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

static passage_index *build(const char *name, const char *jsonl, embedder by)
{
    passage_index *ix = NULL;
    build_counts   n;
    err            e = {0};
    import_source  s = {.kind = SOURCE_JSONL, .path = jsonl, .images = DEMO("synthetic")};
    build_options o = {
        .out = below_root(name), .sources = &s, .n_sources = 1, .embed = by, .tool_version = "test", .quiet = true};
    o.embed.dim = retriever_dim(demo);
    o.embed.hash = retriever_hash(demo);
    OK(index_build(&o, &n, &e), e);
    assert_int_equal(n.bad, 0);
    OK(index_open(&ix, below_root(name), retriever_hash(demo), &e), e);
    return ix;
}

static int setup(void **state)
{
    (void)state;
    static const char SMALL[] =
        "{\"img_path\": \"breast/train/0000.png\", \"text\": \"a\", \"dataset_source\": \"x\", \"study\": \"s1\", \"patient\": \"p\"}\n"
        "{\"img_path\": \"breast/train/0001.png\", \"text\": \"b\", \"dataset_source\": \"x\", \"study\": \"s2\", \"patient\": \"p\"}\n"
        "{\"img_path\": \"breast/train/0002.png\", \"text\": \"c\", \"dataset_source\": \"x\", \"study\": \"s2\", \"patient\": \"p\"}\n";
    err e = {0};
    must(mkdtemp(root));
    kern = open_kernels(1);
    mem = arena_new(0);
    OK(retriever_open(&demo, DEMO("retriever"), kern, &e), e);
    safetensors *s = NULL;
    OK(safetensors_open(&s, DEMO("synthetic/embeddings.safetensors"), &e), e);
    given g = {.image = safetensors_find(s, "image")->data,
               .text = safetensors_find(s, "text")->data,
               .captions = read_captions()};
    demo_index =
        build("demo", DEMO("synthetic/index.jsonl"), (embedder){.image = next_image, .text = find_text, .ctx = &g});
    safetensors_close(s);
    assert_int_equal(index_describe(demo_index)->n_passages, N_DEMO);
    assert_int_equal(g.n_images, N_DEMO);
    json_decref(g.captions);
    OK(file_write(below_root("small.jsonl"), SMALL, sizeof SMALL - 1, &e), e);
    small_index = build("small", below_root("small.jsonl"), (embedder){.image = embed_image, .text = embed_text});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[160];
    index_close(demo_index);
    index_close(small_index);
    retriever_close(demo);
    arena_free(mem);
    kern->close(kern);
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static image load(const char *path, arena *a)
{
    char  *bytes;
    size_t n;
    image  img;
    err    e = {0};
    OK(file_read(&bytes, &n, path, 1 << 24, &e), e);
    OK(image_decode(&img, bytes, n, &IMAGE_LIMITS, a, &e), e);
    free(bytes);
    return img;
}

static const char *case_path(const char *kind, const char *split, int i)
{
    static char path[128];
    snprintf(path, sizeof path, DEMO("synthetic/%s/%s/%04d.png"), kind, split, i);
    return path;
}

static const char *query_path(const char *kind, int i) { return case_path(kind, "test", i); }

/* ---- against PyTorch ---- */

/* Every case of one set: ids by rank (closer scores than 1e-5 may swap), scores and weights within 1e-4. */
static void check_set(const char *task, const char *kind, const char *split, int n)
{
    safetensors *eval = NULL;
    err          e = {0};
    char         set[64], key[96];
    snprintf(set, sizeof set, "synthetic/%s/%s", task, split);
    OK(safetensors_open(&eval, DEMO("eval.safetensors"), &e), e);
    snprintf(key, sizeof key, "%s/candidates", set);
    const tensor  *t = must((void *)safetensors_find(eval, key));
    const int64_t *ids = t->data;
    assert_int_equal(t->dim[0], n);
    snprintf(key, sizeof key, "%s/scores", set);
    const float *scores = safetensors_find(eval, key)->data;
    snprintf(key, sizeof key, "%s/weights", set);
    const float *shares = safetensors_find(eval, key)->data;
    for (int i = 0; i < n; i += LIST_STEP, arena_reset(mem)) {
        image      img = load(case_path(kind, split, i), mem);
        candidate *c;
        int        K, rank[N_HEADS] = {0};
        bool       same = true;
        const int64_t *id = ids + 4 * i;
        const float   *score = scores + 4 * i, *share = shares + 4 * i;
        OK(retrieve(demo, kern, demo_index, &img, 2, NULL, 1, &c, &K, mem, &e), e);
        assert_true(K >= 2 && K <= 4);
        /* Each head's hits best first, found again in the union. */
        for (int h = 0; h < N_HEADS; h++) {
            for (int r = 0; r < 2; r++) {
                const candidate *best = NULL;
                for (int j = 0; j < K; j++)
                    if (c[j].heads >> h & 1 && c[j].id == id[2 * h + r]) best = &c[j];
                if (!best) { /* a tie at the cut: another passage with the same score */
                    same = false;
                    for (int j = 0; j < K; j++)
                        if (c[j].heads >> h & 1 && fabsf(c[j].score[h] - score[2 * h + r]) < 1e-5f) best = &c[j];
                }
                if (!best) fail_msg("%s case %d: candidate %lld is not found", set, i, (long long)id[2 * h + r]);
                if (!(fabsf(best->score[h] - score[2 * h + r]) < 1e-4f))
                    fail_msg("%s case %d: score %.6f", set, i, best->score[h]);
            }
            for (int j = 0; j < K; j++) rank[h] += c[j].heads >> h & 1;
            assert_int_equal(rank[h], 2);
        }
        for (int j = 0; same && j < 4; j++) {
            double want = 0, got = -1;
            for (int l = 0; l < 4; l++) want += id[l] == id[j] ? share[l] : 0;
            for (int l = 0; l < K; l++)
                if (c[l].id == id[j]) got = c[l].weight;
            if (!(fabs(got - want) < 1e-4)) fail_msg("%s case %d: weight %.6f, wanted %.6f", set, i, got, want);
        }
    }
    safetensors_close(eval);
}

static void every_case_retrieves_what_pytorch_retrieves(void **state)
{
    (void)state;
    static const char *const TASK[][2] = {
        {"breastmnist", "breast"}, {"pneumoniamnist", "pneumonia"}, {"retinamnist", "retina"}};
    for (int t = 0; t < 3; t++) {
        check_set(TASK[t][0], TASK[t][1], "val", 30);
        check_set(TASK[t][0], TASK[t][1], "test", 60);
    }
}

/* ---- properties ---- */

static double weight_sum(const candidate *c, int K)
{
    double s = 0;
    for (int i = 0; i < K; i++) s += c[i].weight;
    return s;
}

static void candidates_come_in_the_order_of_the_heads_for_every_k(void **state)
{
    (void)state;
    static const int KS[] = {1, 2, 3, 7, 50};
    image img = load(query_path("retina", 5), mem);
    float z[128];
    err   e = {0};
    OK(retriever_embed_image(demo, kern, &img, z, mem, &e), e);
    for (size_t t = 0; t < sizeof KS / sizeof *KS; t++) {
        int        k = KS[t], K, at = 0;
        candidate *c;
        hits       found[N_HEADS];
        OK(retrieve(demo, kern, demo_index, &img, k, NULL, 1, &c, &K, mem, &e), e);
        for (int h = 0; h < N_HEADS; h++)
            OK(index_search(demo_index, NULL, (head)h, z, k, NULL, &found[h], mem, &e), e);
        for (int i = 0; i < k; i++, at++) {
            assert_int_equal(c[at].id, found[HEAD_IMAGE].id[i]);
            assert_true(c[at].score[HEAD_IMAGE] == found[HEAD_IMAGE].score[i]);
        }
        for (int i = 0; i < k; i++) {
            bool old = false;
            for (int j = 0; j < k; j++) old = old || found[HEAD_TEXT].id[i] == found[HEAD_IMAGE].id[j];
            if (!old) assert_int_equal(c[at++].id, found[HEAD_TEXT].id[i]);
        }
        assert_int_equal(at, K);
        assert_true(fabs(weight_sum(c, K) - 1) < 1e-5);
    }
    arena_reset(mem);
}

static void a_picture_of_the_index_finds_itself_unless_excluded(void **state)
{
    (void)state;
    image      img = load(DEMO("synthetic/breast/train/0007.png"), mem);
    candidate *c;
    int        K;
    err        e = {0};
    uint8_t    own[32];
    OK(retrieve(demo, kern, demo_index, &img, 2, NULL, 1, &c, &K, mem, &e), e);
    assert_int_equal(c[0].id, 7);
    assert_true(c[0].score[HEAD_IMAGE] > 0.999999f);
    image_hash(own, &img);
    OK(retrieve(demo, kern, demo_index, &img, 2, &(exclusion){.image_sha256 = own}, 1, &c, &K, mem, &e), e);
    for (int i = 0; i < K; i++) assert_int_not_equal(c[i].id, 7);
    arena_reset(mem);
}

static void exclusions_that_leave_nothing_are_an_error_with_a_name(void **state)
{
    (void)state;
    image      img = load(query_path("breast", 0), mem);
    candidate *c;
    int        K;
    err        e = {0};
    OK(retrieve(demo, kern, small_index, &img, 2, &(exclusion){.study = "s2"}, 1, &c, &K, mem, &e), e);
    assert_int_equal(K, 1);
    assert_int_equal(c[0].id, 0);
    assert_int_equal(c[0].heads, 3);
    assert_true(c[0].weight == 1);
    FAILS(retrieve(demo, kern, small_index, &img, 2, &(exclusion){.patient = "p"}, 1, &c, &K, mem, &e), e,
          ERR_UNUSABLE, "leave no passage");
    assert_string_equal(e.problem, "no-candidates");
    assert_string_equal(e.field, "exclude");
    arena_reset(mem);
}

static void k_larger_than_the_index_gives_all_of_it(void **state)
{
    (void)state;
    image      img = load(query_path("breast", 0), mem);
    candidate *c;
    int        K;
    err        e = {0};
    OK(retrieve(demo, kern, small_index, &img, 50, NULL, 1, &c, &K, mem, &e), e);
    assert_int_equal(K, 3);
    for (int i = 0; i < K; i++) assert_int_equal(c[i].heads, 3);
    assert_true(fabs(weight_sum(c, K) - 1) < 1e-6);
    arena_reset(mem);
}

static void mistakes_of_the_caller_are_bugs_not_answers(void **state)
{
    (void)state;
    image      img = load(query_path("breast", 0), mem);
    retriever *tiny = NULL;
    candidate *c;
    int        K;
    err        e = {0};
    FAILS(retrieve(demo, kern, small_index, &img, 0, NULL, 1, &c, &K, mem, &e), e, ERR_BUG, "k 0");
    FAILS(retrieve(demo, kern, small_index, &img, 1, NULL, 0, &c, &K, mem, &e), e, ERR_BUG, "tau 0");
    FAILS(retrieve(demo, kern, small_index, &img, 1, NULL, NAN, &c, &K, mem, &e), e, ERR_BUG, "tau nan");
    e = (err){0};
    OK(retriever_open(&tiny, FIXTURE("jina-clip-tiny"), kern, &e), e);
    FAILS(retrieve(tiny, kern, small_index, &img, 1, NULL, 1, &c, &K, mem, &e), e, ERR_BUG,
          "the index has dim 128, the retriever gives 96");
    retriever_close(tiny);
    arena_reset(mem);
}

static void same_query_same_bits_alone_again_and_on_two_threads(void **state)
{
    (void)state;
    kernels   *two = open_kernels(2);
    candidate *a, *b;
    int        K, L;
    err        e = {0};
    for (int i = 0; i < 60; i += 7) {
        image img = load(query_path("pneumonia", i), mem), other = load(query_path("retina", i), mem);
        OK(retrieve(demo, kern, demo_index, &img, 5, NULL, 1, &a, &K, mem, &e), e);
        OK(retrieve(demo, two, demo_index, &other, 5, NULL, 1, &b, &L, mem, &e), e);
        OK(retrieve(demo, two, demo_index, &img, 5, NULL, 1, &b, &L, mem, &e), e);
        assert_int_equal(K, L);
        for (int j = 0; j < K; j++) {
            assert_int_equal(a[j].id, b[j].id);
            assert_int_equal(a[j].heads, b[j].heads);
            assert_memory_equal(a[j].score, b[j].score, sizeof a[j].score);
            assert_memory_equal(&a[j].weight, &b[j].weight, sizeof a[j].weight);
        }
        arena_reset(mem);
    }
    two->close(two);
}

/* The head's own tower is what queries that head. */
static void a_tuned_tower_moves_only_its_own_head(void **state)
{
    (void)state;
    model_folder m = {.dir = "/tmp/jomed-retriever-XXXXXX"};
    static const char *const NAME[] = {"config.json", "preprocessor_config.json", "tokenizer.json",
                                       "model.safetensors"};
    checkpoint   c;
    retriever   *r = NULL;
    err          e = {0};
    must(mkdtemp(m.dir));
    for (int i = 0; i < 4; i++) {
        char   from[128], *bytes;
        size_t n;
        snprintf(from, sizeof from, DEMO("retriever/%s"), NAME[i]);
        OK(file_read(&bytes, &n, from, 1 << 26, &e), e);
        OK(file_write(folder_file(&m, NAME[i]), bytes, n, &e), e);
        free(bytes);
    }
    checkpoint_read(&c, DEMO("retriever/model.safetensors"));
    checkpoint_filter(&c, "vision_model.", true);
    uint16_t *pos = checkpoint_find(&c, "vision_model.pos_embed")->data;
    for (int i = 0; i < 50 * 128; i++) pos[i] ^= 0x8000; /* every sign turned */
    checkpoint_write(&c, folder_file(&m, "query_text.safetensors"), 0);
    OK(retriever_open(&r, m.dir, kern, &e), e);

    image      img = load(query_path("breast", 3), mem);
    candidate *was, *is;
    int        K, L;
    bool       moved = false;
    OK(retrieve(demo, kern, demo_index, &img, 50, NULL, 1, &was, &K, mem, &e), e);
    OK(retrieve(r, kern, demo_index, &img, 50, NULL, 1, &is, &L, mem, &e), e);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(was[i].id, is[i].id); /* the image head's come first */
        assert_true(was[i].score[HEAD_IMAGE] == is[i].score[HEAD_IMAGE]);
        moved = moved || was[i].score[HEAD_TEXT] != is[i].score[HEAD_TEXT];
    }
    for (int i = 50; i < K && i < L; i++) moved = moved || was[i].score[HEAD_TEXT] != is[i].score[HEAD_TEXT];
    assert_true(moved);
    retriever_close(r);
    checkpoint_free(&c);
    folder_remove(&m);
    arena_reset(mem);
}

/* An arena from far too small to large enough: an error each time, and the next query is right. */
static void too_little_memory_is_an_error_each_time(void **state)
{
    (void)state;
    image      img = load(query_path("breast", 1), mem);
    candidate *want, *c;
    int        W, K, failures = 0;
    err        e = {0};
    OK(retrieve(demo, kern, demo_index, &img, 2, NULL, 1, &want, &W, mem, &e), e);
    for (size_t limit = 64; limit < 16 << 20; limit += limit / (LIST_STEP == 1 ? 4 : 1)) {
        arena *a = arena_new(limit);
        e = (err){0};
        if (!retrieve(demo, kern, demo_index, &img, 2, NULL, 1, &c, &K, a, &e)) {
            if (e.code != ERR_MEMORY) fail_msg("limit %zu: %s '%s'", limit, err_code_name(e.code), e.text);
            failures++;
        } else {
            assert_int_equal(K, W);
            assert_memory_equal(c, want, sizeof *c * (size_t)K);
        }
        arena_free(a);
    }
    assert_true(failures > 3);
    arena_reset(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_retrieves_what_pytorch_retrieves),
        cmocka_unit_test(candidates_come_in_the_order_of_the_heads_for_every_k),
        cmocka_unit_test(a_picture_of_the_index_finds_itself_unless_excluded),
        cmocka_unit_test(exclusions_that_leave_nothing_are_an_error_with_a_name),
        cmocka_unit_test(k_larger_than_the_index_gives_all_of_it),
        cmocka_unit_test(mistakes_of_the_caller_are_bugs_not_answers),
        cmocka_unit_test(same_query_same_bits_alone_again_and_on_two_threads),
        cmocka_unit_test(a_tuned_tower_moves_only_its_own_head),
        cmocka_unit_test(too_little_memory_is_an_error_each_time),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
