/* verify: silent about a whole index, and names each kind of damage. */
#include "tests/index/sample.h"

#include <jansson.h>
#include <sqlite3.h>

#include "base/sha256.h"
#include "index/vectors.h"
#include "index/verify.h"

typedef struct { int n; char all[2000]; } told;

static void tell(void *ctx, const char *problem)
{
    told *t = ctx;
    t->n++;
    strncat(t->all, problem, sizeof t->all - strlen(t->all) - 2);
    strcat(t->all, "\n");
}

static void expect(const sample *s, bool images, int n, const char *part)
{
    told    t = {0};
    int64_t problems;
    err     e = {0};
    OK(index_verify(at(s, "index"), images, tell, &t, &problems, &e), e);
    assert_int_equal(problems, t.n);
    if (t.n != n || !strstr(t.all, part)) fail_msg("wanted %d problems with '%s', got %d:\n%s", n, part, t.n, t.all);
}

/* Change bytes of a file of the index and let the manifest agree. */
static void patch(const sample *s, const char *file, long offset, const void *bytes, size_t n)
{
    err         e = {0};
    char        hex[SHA256_HEX];
    struct stat st;
    int         fd = open(at(s, "index/%s", file), O_RDWR);
    assert_int_equal(pwrite(fd, bytes, n, offset), n);
    close(fd);
    OK(sha256_file(hex, at(s, "index/%s", file), &e), e);
    assert_int_equal(stat(at(s, "index/%s", file), &st), 0);
    json_t *m = json_load_file(at(s, "index/manifest.json"), 0, NULL);
    json_object_set_new(json_object_get(m, "files"), file,
                        json_pack("{s:I, s:s}", "bytes", (json_int_t)st.st_size, "sha256", hex));
    assert_int_equal(json_dump_file(m, at(s, "index/manifest.json"), 0), 0);
    json_decref(m);
}

static void run_sql(const sample *s, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(at(s, "index/passages.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    char first;
    int  fd = open(at(s, "index/passages.db"), O_RDONLY);
    assert_int_equal(pread(fd, &first, 1, 0), 1);
    close(fd);
    patch(s, "passages.db", 0, &first, 1);
}

static void a_whole_index_has_no_problem(void **state)
{
    sample *s = *state;
    index_close(build_and_open(s, 20, own_picture, own_caption, NULL));
    expect(s, false, 0, "");
    expect(s, true, 0, "");
}

static void damaged_files_are_named(void **state)
{
    sample *s = *state;
    index_close(build_and_open(s, 20, own_picture, own_caption, NULL));
    int fd = open(at(s, "index/image.faiss"), O_RDWR);
    assert_int_equal(pwrite(fd, "xx", 2, 100), 2);
    close(fd);
    expect(s, true, 1, "image.faiss: damaged");
    assert_int_equal(truncate(at(s, "index/text.faiss"), 100), 0);
    unlink(at(s, "index/report.jsonl"));
    expect(s, true, 3, "report.jsonl: No such file");
    unlink(at(s, "index/manifest.json"));
    expect(s, false, 1, "no index here");
}

static void wrong_contents_are_named(void **state)
{
    sample     *s = *state;
    const float five = 5;
    index_close(build_and_open(s, 20, own_picture, own_caption, NULL));
    /* IndexFlat's header is 45 bytes with the vector's length; row 3 begins 3 * 19 floats behind. */
    patch(s, "text.faiss", 45 + 3 * DIM * 4, &five, 4);
    expect(s, false, 1, "1 vectors have not length 1, the first is that of passage 3");
    run_sql(s, "UPDATE passages SET id = 40 WHERE id = 19");
    expect(s, false, 2, "holds 20 passages with ids 0..40, the manifest says 20");
    run_sql(s, "UPDATE passages SET id = 19 WHERE id = 40; UPDATE passages SET root = NULL WHERE id = 4");
    expect(s, false, 2, "1 passages lack their embedded image");
}

static void say_nothing(void *ctx, const char *line) { (void)ctx, (void)line; }
static bool go_on(void *ctx) { (void)ctx; return false; }

/* A file of vectors of another dimension, its checksum right; then a manifest with another than both files. */
static void a_wrong_dimension_is_named(void **state)
{
    sample      *s = *state;
    float        rows[20 * (DIM + 1)] = {0};
    bool         stopped;
    err          e = {0};
    char         first;
    vectors_plan plan = {.factory = "Flat", .dim = DIM + 1, .n = 20, .what = "text", .note = say_nothing,
                         .stop = go_on};
    index_close(build_and_open(s, 20, own_picture, own_caption, NULL));
    for (int i = 0; i < 20; i++) rows[i * (DIM + 1)] = 1;
    OK(vectors_build(&plan, rows, at(s, "index/text.faiss"), &stopped, &e), e);
    int fd = open(at(s, "index/text.faiss"), O_RDONLY);
    assert_int_equal(pread(fd, &first, 1, 0), 1);
    close(fd);
    patch(s, "text.faiss", 0, &first, 1);
    expect(s, false, 1, "text.faiss: holds 20 vectors of dimension 20, the manifest says 20 of 19");
    json_t *m = json_load_file(at(s, "index/manifest.json"), 0, NULL);
    json_object_set_new(m, "dim", json_integer(DIM + 2));
    assert_int_equal(json_dump_file(m, at(s, "index/manifest.json"), 0), 0);
    json_decref(m);
    expect(s, true, 2, "image.faiss: holds 20 vectors of dimension 19, the manifest says 20 of 21");
}

static void missing_and_changed_images_are_named(void **state)
{
    sample *s = *state;
    index_close(build_and_open(s, 20, own_picture, own_caption, NULL));
    unlink(at(s, "pictures/%06u.png", own_picture(5)));
    expect(s, false, 0, "");
    expect(s, true, 1, "passage 5: image ");
    /* Same size, other pixels: only the pixel hash can tell. */
    put_png(s, at(s, "pictures/%06u.png", own_picture(7)), 3, 2, own_picture(7) ^ 1);
    struct stat a, b;
    assert_int_equal(stat(at(s, "pictures/%06u.png", own_picture(7)), &a), 0);
    assert_int_equal(stat(at(s, "pictures/%06u.png", own_picture(8)), &b), 0);
    expect(s, true, 2, "passage 7: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(a_whole_index_has_no_problem),
        SAMPLE_TEST(damaged_files_are_named),
        SAMPLE_TEST(wrong_contents_are_named),
        SAMPLE_TEST(a_wrong_dimension_is_named),
        SAMPLE_TEST(missing_and_changed_images_are_named),
    };
    return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
