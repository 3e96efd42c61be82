/* The builder: what it makes, what it skips, that it survives being killed anywhere, and what it refuses. */
#include "tests/index/sample.h"

#include <jansson.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "base/sha256.h"
#include "index/manifest.h"
#include "index/verify.h"

/* ---- Helpers ---- */

static json_t *manifest_of(const sample *s, const char *name)
{
    json_t *m = json_load_file(at(s, "%s/manifest.json", name), 0, NULL);
    assert_non_null(m);
    return m;
}

static int64_t field(const sample *s, const char *name, const char *key)
{
    json_t *m = manifest_of(s, name), *v = json_object_get(m, key);
    assert_true(json_is_integer(v));
    int64_t n = json_integer_value(v);
    json_decref(m);
    return n;
}

static void same_file(const char *a, const char *b)
{
    char ha[SHA256_HEX], hb[SHA256_HEX];
    err  e = {0};
    OK(sha256_file(ha, a, &e), e);
    OK(sha256_file(hb, b, &e), e);
    assert_string_equal(ha, hb);
}

static char *read_text(const char *path)
{
    char  *s;
    size_t n;
    err    e = {0};
    OK(file_read(&s, &n, path, 1 << 20, &e), e);
    return s;
}

static void no_problem(void *ctx, const char *problem)
{
    (void)ctx;
    print_error("%s\n", problem);
}

static void is_whole(const char *dir)
{
    int64_t problems;
    err     e = {0};
    OK(index_verify(dir, true, no_problem, NULL, &problems, &e), e);
    assert_int_equal(problems, 0);
}

static bool build(const build_options *o, build_counts *c, err *e)
{
    *c = (build_counts){0};
    *e = (err){0};
    return index_build(o, c, e);
}

/* Ten items with every kind of trouble among them. */
static const char *put_troubled(const sample *s)
{
    put_png(s, at(s, "a.png"), 4, 5, 11);
    put_png(s, at(s, "b.png"), 5, 4, 12);
    put_png(s, at(s, "c.png"), 4, 5, 11); /* a's pixels in another file */
    put_text(at(s, "broken.png"), "\x89PNG\r\n\x1a\n and then nothing");
    put_text(
        at(s, "items.jsonl"),
        "{\"img_path\": \"a.png\", \"text\": \"One.\", \"id\": 7, \"study\": \"s1\"}\n"
        "{\"img_path\": \"missing.png\", \"text\": \"Two.\"}\n"
        "\n"
        "{\"img_path\": \"broken.png\", \"text\": \"Three.\"}\n"
        "{\"img_path\": \"../outside.png\", \"text\": \"Four.\"}\n"
        "not JSON\n"
        "{\"img_path\": \"b.png\", \"text\": \" \"}\n"
        "{\"img_path\": \"b.png\"}\n"
        "{\"img_path\": \"b.png\", \"text\": \"unembeddable\"}\n"
        "{\"img_path\": \"c.png\", \"text\": \"One.\", \"id\": \"seven\", \"study\": \"s2\", \"patient\": \"p2\"}\n"
        "{\"img_path\": \"b.png\", \"text\": \"Six.\", \"id\": 9, \"license\": \"CC BY\"}");
    return at(s, "items.jsonl");
}

/* ---- What it makes ---- */

static void bad_items_are_skipped_counted_and_listed(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {.kind = SOURCE_JSONL, .path = put_troubled(s), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    OK(build(&o, &c, &e), e);
    assert_int_equal(c.items, 10);
    assert_int_equal(c.bad, 7);
    assert_int_equal(c.passages, 3);
    assert_int_equal(c.duplicates, 1);
    assert_int_equal(c.merged, 0);
    assert_false(file_exists(at(s, "index.partial")));
    assert_int_equal(field(s, "index", "n_passages"), 3);
    assert_int_equal(field(s, "index", "bad"), 7);

    char *report = read_text(at(s, "index/report.jsonl"));
    static const char *const lines[] = {
        "\"item\":\"line 2\"",         "missing.png",        "\"item\":\"line 4\"",
        "leaves the images folder",    "not a JSON object",  "the caption is empty",
        "img_path or text is missing", "cannot be embedded", "\"duplicate_of\":0,\"merged\":false"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(report, lines[i])) fail_msg("report lacks %s:\n%s", lines[i], report);
    free(report);
    is_whole(at(s, "index"));
}

static void a_merged_duplicate_keeps_its_keys(void **state)
{
    sample        *s = *state;
    fake           f;
    build_counts   c;
    err            e = {0};
    passage_index *ix;
    hits           got;
    float          z[DIM];
    import_source  src = {.kind = SOURCE_JSONL, .path = put_troubled(s), .images = s->dir};
    build_options  o = fake_options(at(s, "index"), &src, 1, &f);
    o.dedupe = true;
    OK(build(&o, &c, &e), e);
    assert_int_equal(c.passages, 2);
    assert_int_equal(c.merged, 1);
    assert_int_equal(c.items, c.passages + c.bad + c.merged);
    OK(index_open(&ix, at(s, "index"), FAKE_HASH, &e), e);
    unit_of(z, 11);
    /* Passage 0 stands for studies s1 and s2: excluding either must exclude it. */
    static const exclusion x[] = {{.study = "s1"}, {.study = "s2"}, {.patient = "p2"}};
    for (int i = 0; i < 3; i++) {
        OK(index_search(ix, NULL, HEAD_IMAGE, z, 2, &x[i], &got, s->a, &e), e);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.id[0], 1);
    }
    index_close(ix);
    is_whole(at(s, "index"));
}

static void several_sources_make_one_index_in_order(void **state)
{
    sample        *s = *state;
    fake           f;
    build_counts   c;
    err            e = {0};
    passage_index *ix;
    passage        p;
    uint8_t        pixels[5 * 6], labels[5] = {1, 0, 1, 1, 0};
    for (int i = 0; i < 30; i++) pixels[i] = (uint8_t)(i * 8);
    const npy_part parts[] = {{"train_images", "|u1", "(5, 3, 2)", pixels, 30},
                              {"train_labels", "|u1", "(5, 1)", labels, 5}};
    put_npz(at(s, "tiny.npz"), parts, 2);
    put_text(at(s, "captions.json"), "{\"0\": [\"No.\"], \"1\": [\"Yes.\", \"Surely.\"]}");
    import_source src[] = {
        {.kind = SOURCE_MEDMNIST, .path = at(s, "tiny.npz"), .captions = at(s, "captions.json")},
        {.kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 4, own_picture, own_caption), .images = s->dir},
        {.kind = SOURCE_MEDMNIST, .path = at(s, "tiny.npz"), .captions = at(s, "captions.json"), .name = "again"}};
    char          out[128];
    snprintf(out, sizeof out, "%s/index/", s->dir); /* a slash at the end is no other folder */
    build_options o = fake_options(out, src, 3, &f);
    OK(build(&o, &c, &e), e);
    assert_int_equal(c.passages, 14);
    assert_int_equal(c.duplicates, 5);
    OK(index_open(&ix, at(s, "index"), FAKE_HASH, &e), e);
    static const char *const caption[] = {"Yes.", "No.", "Yes.", "Surely.", "No.", "Finding number 0."};
    for (int i = 0; i < 6; i++) {
        OK(index_passage(ix, i, &p, s->a, &e), e);
        assert_string_equal(p.caption, caption[i]);
    }
    OK(index_passage(ix, 9, &p, s->a, &e), e);
    assert_string_equal(p.source, "again");
    index_close(ix);
    json_t *m = manifest_of(s, "index"), *sources = json_object_get(m, "sources");
    assert_int_equal(json_integer_value(json_object_get(sources, "tiny")), 5);
    assert_int_equal(json_integer_value(json_object_get(sources, "set1")), 2);
    assert_int_equal(json_integer_value(json_object_get(sources, "again")), 5);
    json_decref(m);
    is_whole(at(s, "index"));
}

static void embedded_images_need_no_files(void **state)
{
    sample        *s = *state;
    fake           f;
    build_counts   c;
    err            e = {0};
    passage_index *ix;
    const uint8_t *bytes;
    size_t         n, n_file;
    media_type     type;
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 6, own_picture, own_caption), .images = s->dir};
    build_options  o = fake_options(at(s, "index"), &src, 1, &f);
    o.embed_images = true;
    OK(build(&o, &c, &e), e);
    char *file = NULL;
    OK(file_read(&file, &n_file, at(s, "pictures/%06u.png", own_picture(2)), 1 << 20, &e), e);
    remove_tree(at(s, "pictures"));
    rename(at(s, "index"), at(s, "moved"));
    OK(index_open(&ix, at(s, "moved"), FAKE_HASH, &e), e);
    OK(index_passage_image(ix, 2, &bytes, &n, &type, s->a, &e), e);
    assert_int_equal(n, n_file); /* the original bytes, not a new encoding */
    assert_memory_equal(bytes, file, n);
    free(file);
    index_close(ix);
    is_whole(at(s, "moved"));
}

static void same_input_gives_the_same_bytes(void **state)
{
    static const char *const factory[] = {"Flat", "IVF4,Flat", "HNSW8"};
    sample       *s = *state;
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 180, own_picture, own_caption), .images = s->dir};
    for (int i = 0; i < 3; i++) {
        fake         f;
        build_counts c;
        err          e = {0};
        for (int run = 0; run < 2; run++) {
            build_options o = fake_options(at(s, "index%d", run), &src, 1, &f);
            o.factory = factory[i];
            o.force = true;
            OK(build(&o, &c, &e), e);
        }
        same_file(at(s, "index0/image.faiss"), at(s, "index1/image.faiss"));
        same_file(at(s, "index0/text.faiss"), at(s, "index1/text.faiss"));
        assert_false(file_exists(at(s, "index0.old")));
    }
}

/* ---- Interruption ---- */

enum { N_ITEMS = 83, EVERY = 10 };

static unsigned few_pictures_of(int i) { return (unsigned)(i % 37 + 1); }

/* Build in a child that is killed in its kill_at-th embedding. True when it lived to the end. */
static bool build_killed(const sample *s, const import_source *src, long kill_at)
{
    pid_t child = fork();
    if (child == 0) {
        fake          f;
        build_counts  c;
        err           e = {0};
        build_options o = fake_options(at(s, "index"), src, 1, &f);
        o.checkpoint = EVERY;
        f.kill_at = kill_at;
        _exit(index_build(&o, &c, &e) ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) return false;
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}

static void a_killed_build_continues_to_the_same_index(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {.kind = SOURCE_JSONL,
                         .path = put_items(s, "items.jsonl", N_ITEMS, few_pictures_of, own_caption),
                         .images = s->dir};
    build_options o = fake_options(at(s, "whole"), &src, 1, &f);
    OK(build(&o, &c, &e), e);

    /* First item, inside a batch, on both sides of a checkpoint, in the last one; and killed time after time. */
    static const long kill_at[] = {0, 3, EVERY - 1, EVERY, EVERY + 1, 47, N_ITEMS - 1};
    for (size_t i = 0; i < sizeof kill_at / sizeof *kill_at; i++) {
        assert_false(build_killed(s, &src, kill_at[i]));
        assert_false(file_exists(at(s, "index")));
        o = fake_options(at(s, "index"), &src, 1, &f);
        OK(build(&o, &c, &e), e);
        assert_int_equal(c.resumed_at, kill_at[i] / EVERY * EVERY);
        assert_int_equal(f.calls, N_ITEMS - c.resumed_at); /* what was done is not done again */
        assert_int_equal(c.passages, N_ITEMS);
        same_file(at(s, "index/image.faiss"), at(s, "whole/image.faiss"));
        same_file(at(s, "index/text.faiss"), at(s, "whole/text.faiss"));
        same_file(at(s, "index/report.jsonl"), at(s, "whole/report.jsonl"));
        is_whole(at(s, "index"));
        remove_tree(at(s, "index"));
    }
    int runs = 1;
    while (!build_killed(s, &src, EVERY + 5)) runs++;
    assert_int_equal(runs, 8); /* ten a run, then the rest: 83 = 7 * 10 + 13 */
    same_file(at(s, "index/image.faiss"), at(s, "whole/image.faiss"));
    is_whole(at(s, "index"));
}

static void a_build_killed_before_its_rename_only_renames(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 12, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    OK(build(&o, &c, &e), e);
    rename(at(s, "index"), at(s, "index.partial"));
    put_text(at(s, "index.partial/image.f32"), "left over");
    OK(build(&o, &c, &e), e);
    assert_int_equal(f.calls, 12);
    assert_int_equal(c.passages, 12);
    assert_false(file_exists(at(s, "index/image.f32")));
    is_whole(at(s, "index"));
}

static void stop_keeps_a_checkpoint(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 30, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    f.stop_at = 16;
    OK(build(&o, &c, &e), e);
    assert_true(c.stopped);
    assert_int_equal(c.items, 17); /* the item at hand is finished */
    assert_false(file_exists(at(s, "index")));
    f.stop = 0;
    OK(build(&o, &c, &e), e);
    assert_false(c.stopped);
    assert_int_equal(c.resumed_at, 17);
    assert_int_equal(f.calls, 30);
    is_whole(at(s, "index"));
}

static void other_arguments_do_not_resume(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src[2] = {
        {.kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 30, own_picture, own_caption), .images = s->dir},
        {.kind = SOURCE_JSONL, .path = at(s, "items.jsonl"), .images = s->dir, .name = "second"}};
    build_options o = fake_options(at(s, "index"), src, 2, &f), other;
    f.stop_at = 5;
    OK(build(&o, &c, &e), e);
    f.stop = 0;
    other = o, other.factory = "IVF4,Flat";
    FAILS(build(&other, &c, &e), e, ERR_FILE, "begun with another factory");
    other = o, other.dedupe = true;
    FAILS(build(&other, &c, &e), e, ERR_FILE, "begun with another dedupe");
    other = o, other.embed.hash = "0000";
    FAILS(build(&other, &c, &e), e, ERR_FILE, "begun with another retriever");
    other = o, other.n_sources = 1;
    FAILS(build(&other, &c, &e), e, ERR_FILE, "begun with another source");
    src[1].name = "third";
    FAILS(build(&o, &c, &e), e, ERR_FILE, "begun with another source 2");
    src[1].name = "second";
    FILE *grow = fopen(at(s, "items.jsonl"), "a");
    fputs("\n", grow);
    fclose(grow);
    FAILS(build(&o, &c, &e), e, ERR_FILE, "source 1 (or its file's size)");
}

static void lost_rows_are_noticed(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 30, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    f.stop_at = 20;
    OK(build(&o, &c, &e), e);
    f.stop = 0;
    assert_int_equal(truncate(at(s, "index.partial/text.f32"), 100), 0);
    FAILS(build(&o, &c, &e), e, ERR_FILE, "text.f32: shorter than the build's log says");
}

static void two_builds_do_not_share_a_folder(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 3, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    int           fd = open(at(s, "index.partial/"), O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    FAILS(build(&o, &c, &e), e, ERR_BUSY, "another build is at work here");
    close(fd);
}

/* ---- Captions ---- */

static unsigned long texts; /* embedded in this test */

static bool counted_text(void *ctx, const char *caption, float *z, arena *a, err *e)
{
    texts++;
    return fake_text(ctx, caption, z, a, e);
}

static const char *three_captions(int i)
{
    static const char *const c[] = {"Normal.", "Pneumonia.", "Effusion."};
    return c[i * 5 % 3];
}

static void a_repeated_caption_is_embedded_once_and_right(void **state)
{
    sample        *s = *state;
    fake           f;
    build_counts   c;
    err            e = {0};
    passage_index *ix;
    hits           got;
    float          z[DIM];
    import_source src = {.kind = SOURCE_JSONL,
                         .path = put_items(s, "items.jsonl", 90, own_picture, three_captions),
                         .images = s->dir};
    build_options  o = fake_options(at(s, "index"), &src, 1, &f);
    o.embed.text = counted_text;
    texts = 0;
    OK(build(&o, &c, &e), e);
    assert_int_equal(texts, 3);
    OK(index_open(&ix, at(s, "index"), FAKE_HASH, &e), e);
    for (int i = 0; i < 3; i++) {
        unit_of(z, text_seed(three_captions(i)));
        OK(index_search(ix, NULL, HEAD_TEXT, z, 31, NULL, &got, s->a, &e), e);
        for (int j = 0; j < 31; j++) {
            assert_int_equal(got.score[j] > 0.9999f, j < 30);
            if (j < 30) assert_string_equal(three_captions((int)got.id[j]), three_captions(i));
        }
    }
    index_close(ix);
}

static void captions_share_places_without_mixing(void **state)
{
    sample *s = *state;
    /* more captions than the cache has places */
    index_close(build_and_open(s, 700, few_pictures_of, own_caption, NULL));
    is_whole(at(s, "index"));
    passage_index *ix;
    err            e = {0};
    hits           got;
    float          z[DIM];
    OK(index_open(&ix, at(s, "index"), FAKE_HASH, &e), e);
    for (int i = 0; i < 700; i += 13) {
        unit_of(z, text_seed(own_caption(i)));
        OK(index_search(ix, NULL, HEAD_TEXT, z, 1, NULL, &got, s->a, &e), e);
        assert_int_equal(got.id[0], i);
    }
    index_close(ix);
}

/* ---- Refusals ---- */

static void nothing_is_overwritten(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 3, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    OK(build(&o, &c, &e), e);
    FAILS(build(&o, &c, &e), e, ERR_FILE, "exists; --force replaces an index");
    o.force = true;
    OK(build(&o, &c, &e), e);
    put_text(at(s, "precious/thesis.txt"), "years of work");
    o.out = at(s, "precious");
    FAILS(build(&o, &c, &e), e, ERR_FILE, "exists and is not an index: it is left alone");
    assert_true(file_exists(at(s, "precious/thesis.txt")));
}

static void what_cannot_be_built_is_said(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {.kind = SOURCE_JSONL, .path = at(s, "none.jsonl"), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    FAILS(build(&o, &c, &e), e, ERR_FILE, "none.jsonl: No such file");
    remove_tree(at(s, "index.partial")); /* so that the next one is seen to make none */
    o.factory = "Flattened";
    FAILS(build(&o, &c, &e), e, ERR_USAGE, "--factory: Flattened");
    assert_false(file_exists(at(s, "index.partial")));
    o.factory = NULL;
    o.n_sources = 0;
    FAILS(build(&o, &c, &e), e, ERR_USAGE, "no source");
    o.n_sources = 1;
    o.out = at(s, "no/such/folder");
    remove_tree(at(s, "no"));
    FAILS(build(&o, &c, &e), e, ERR_FILE, "folder.partial: No such file");
    o.out = "";
    FAILS(build(&o, &c, &e), e, ERR_USAGE, "--out");

    put_text(at(s, "none.jsonl"), "{\"img_path\": \"gone.png\", \"text\": \"x\"}\n");
    o.out = at(s, "index");
    FAILS(build(&o, &c, &e), e, ERR_FILE, "no item could be used (1 were refused)");
}

/* The report stays where the message says; what was mended, be it the list or a picture, is read again, without
 * --force and without removing anything. */
static void a_build_of_bad_items_can_be_mended(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {.kind = SOURCE_JSONL, .path = at(s, "items.jsonl"), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    o.checkpoint = 1;
    put_text(at(s, "items.jsonl"), "{\"img_path\": \"gone.png\", \"text\": \"One.\"}\nnot JSON\n");
    FAILS(build(&o, &c, &e), e, ERR_FILE, "(2 were refused): see");
    assert_non_null(strstr(e.text, "index.partial/report.jsonl"));
    char *report = read_text(at(s, "index.partial/report.jsonl"));
    assert_true(strstr(report, "gone.png") && strstr(report, "not a JSON object"));
    free(report);
    assert_false(file_exists(at(s, "index")));

    put_text(at(s, "items.jsonl"), "{\"img_path\": \"gone.png\", \"text\": \"One.\"}\n"); /* another size */
    FAILS(build(&o, &c, &e), e, ERR_FILE, "(1 were refused)");
    put_png(s, at(s, "gone.png"), 4, 5, 11); /* the same list */
    OK(build(&o, &c, &e), e);
    assert_int_equal(c.resumed_at, 0);
    assert_int_equal(c.passages, 1);
    assert_int_equal(c.bad, 0);
    report = read_text(at(s, "index/report.jsonl"));
    assert_string_equal(report, "");
    free(report);
    assert_false(file_exists(at(s, "index.partial")));
    is_whole(at(s, "index"));
}

/* What Pillow's clipping did to a 16-bit radiograph is told: such a passage is in the index, and in the report. */
static void a_clipped_picture_is_reported(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {.kind = SOURCE_JSONL, .path = at(s, "items.jsonl"), .images = "tests/fixtures/variants"};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    put_text(at(s, "items.jsonl"), "{\"img_path\": \"gray8.png\", \"text\": \"One.\"}\n"
                                   "{\"img_path\": \"gray16.png\", \"text\": \"Two.\"}\n");
    OK(build(&o, &c, &e), e);
    assert_int_equal(c.passages, 2);
    assert_int_equal(c.bad, 0);
    char *report = read_text(at(s, "index/report.jsonl"));
    assert_non_null(strstr(report, "line 2"));
    assert_null(strstr(report, "line 1"));
    assert_non_null(strstr(report, "\"warning\":\"" IMAGE_CLIPPED));
    free(report);
}

static bool long_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    bool ok = fake_image(ctx, img, z, a, e);
    for (int i = 0; i < DIM; i++) z[i] *= 1.01f;
    return ok;
}

static bool broken_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    (void)ctx, (void)img, (void)z, (void)a;
    return err_set(e, ERR_GPU, "the device is gone");
}

static void a_broken_embedder_ends_the_build(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    err           e = {0};
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 3, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    o.embed.image = long_image;
    FAILS(build(&o, &c, &e), e, ERR_BUG, "has not length 1");
    o.embed.image = broken_image;
    FAILS(build(&o, &c, &e), e, ERR_GPU, "the device is gone");
    o.embed.image = fake_image;
    OK(build(&o, &c, &e), e);
    assert_int_equal(c.passages, 3);
}

static void running_out_of_memory_is_an_error_and_leaks_nothing(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c = {0};
    import_source src = {.kind = SOURCE_JSONL, .path = put_troubled(s), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    /* Our own allocations: jansson 2.14 itself frees what it never allocated when it runs out while parsing a
     * string. */
    bool done = false;
    long n = 0;
    for (; !done; n++) {
        err e = {0};
        remove_tree(at(s, "index.partial"));
        remove_tree(at(s, "index"));
        mem_fail_after(n);
        bool ok = index_build(&o, &c, &e);
        done = mem_fail_after(-1) <= n; /* none was refused; a refused one may also have been made good */
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
        if (ok && (c.bad != 7 || c.passages != 3))
            fail_msg("allocation %ld: %lld bad items:\n%s", n, (long long)c.bad,
                     read_text(at(s, "index/report.jsonl")));
        assert_true(n < 20000);
    }
    assert_true(n > 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(bad_items_are_skipped_counted_and_listed),
        SAMPLE_TEST(a_merged_duplicate_keeps_its_keys),
        SAMPLE_TEST(several_sources_make_one_index_in_order),
        SAMPLE_TEST(embedded_images_need_no_files),
        SAMPLE_TEST(same_input_gives_the_same_bytes),
        SAMPLE_TEST(a_killed_build_continues_to_the_same_index),
        SAMPLE_TEST(a_build_killed_before_its_rename_only_renames),
        SAMPLE_TEST(stop_keeps_a_checkpoint),
        SAMPLE_TEST(other_arguments_do_not_resume),
        SAMPLE_TEST(lost_rows_are_noticed),
        SAMPLE_TEST(two_builds_do_not_share_a_folder),
        SAMPLE_TEST(a_repeated_caption_is_embedded_once_and_right),
        SAMPLE_TEST(captions_share_places_without_mixing),
        SAMPLE_TEST(nothing_is_overwritten),
        SAMPLE_TEST(what_cannot_be_built_is_said),
        SAMPLE_TEST(a_build_of_bad_items_can_be_mended),
        SAMPLE_TEST(a_clipped_picture_is_reported),
        SAMPLE_TEST(a_broken_embedder_ends_the_build),
        SAMPLE_TEST(running_out_of_memory_is_an_error_and_leaks_nothing),
    };
    return cmocka_run_group_tests_name("build", tests, NULL, NULL);
}
