/* test_passages.c - SQLite without memory: every allocation of its own fails in turn, and all behind it, while an
 * index is opened, searched and built. Each time: out of memory or the whole result, and the next run is sound. */
#include "tests/index/sample.h"

#include <sqlite3.h>

#include "index/verify.h"

/* SQLite's allocator with a counter before it. left: allocations still granted; below 0: all. */
static sqlite3_mem_methods real;
static long                left = -1, refused;

static bool granted(void)
{
    if (left < 0) return true;
    if (left > 0) return left--, true;
    refused++;
    return false;
}
static void *take(int n) { return granted() ? real.xMalloc(n) : NULL; }
static void *resize(void *p, int n) { return granted() ? real.xRealloc(p, n) : NULL; }

static int count_allocations(void **state)
{
    (void)state;
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real) != SQLITE_OK) return -1;
    sqlite3_mem_methods counted = real;
    counted.xMalloc = take;
    counted.xRealloc = resize;
    return sqlite3_config(SQLITE_CONFIG_MALLOC, &counted) == SQLITE_OK ? 0 : -1;
}

/* What is read of an index, as one number: all 40 passages but those of one study, and the best of them. */
static bool read_index(const char *dir, uint64_t *sum, arena *a, err *e)
{
    passage_index *ix = NULL;
    hits           got;
    passage        p;
    const uint8_t *bytes;
    size_t         n;
    media_type     type;
    float          z[DIM];
    unit_of(z, 3);
    bool ok = index_open(&ix, dir, FAKE_HASH, e)
              && index_search(ix, NULL, HEAD_TEXT, z, 40, &(exclusion){.study = "st1"}, &got, a, e)
              && index_passage(ix, got.id[0], &p, a, e) && index_passage_image(ix, got.id[0], &bytes, &n, &type, a, e);
    if (ok) {
        *sum = text_seed(p.caption) ^ text_seed(p.source) ^ n;
        for (int i = 0; i < got.n; i++) *sum = *sum * 31 + (uint64_t)got.id[i];
    }
    index_close(ix);
    return ok;
}

static void reading_gives_all_or_out_of_memory(void **state)
{
    sample  *s = *state;
    uint64_t want, sum;
    long     n = 0;
    err      e = {0};
    index_close(build_and_open(s, 40, own_picture, own_caption, NULL));
    OK(read_index(at(s, "index"), &want, s->a, &e), e);
    for (refused = 1; refused > 0; n++) {
        arena *a = arena_new(0);
        e = (err){0};
        left = n;
        refused = 0;
        bool ok = read_index(at(s, "index"), &sum, a, &e);
        left = -1;
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
        if (ok) assert_true(sum == want); /* SQLite did without */
        arena_free(a);
        assert_true(n < 10000);
    }
    assert_true(n > 20);
}

static void quiet(void *ctx, const char *problem) { (void)ctx, (void)problem; }

static void building_gives_an_index_or_out_of_memory(void **state)
{
    sample       *s = *state;
    fake          f;
    build_counts  c;
    int64_t       problems;
    long          n = 0, ended = 0;
    import_source src = {
        .kind = SOURCE_JSONL, .path = put_items(s, "items.jsonl", 6, own_picture, own_caption), .images = s->dir};
    build_options o = fake_options(at(s, "index"), &src, 1, &f);
    o.embed_images = true;
    for (refused = 1; refused > 0; n += 1 + n / 16) {
        err e = {0};
        left = n;
        refused = 0;
        bool ok = index_build(&o, &c, &e);
        left = -1;
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
        ended += !ok;
        e = (err){0};
        if (!ok) OK(index_build(&o, &c, &e), e); /* goes on from what the failed one left */
        assert_int_equal(c.passages, 6);
        OK(index_verify(at(s, "index"), true, quiet, NULL, &problems, &e), e);
        assert_int_equal(problems, 0);
        remove_tree(at(s, "index"));
        assert_true(n < 100000);
    }
    assert_true(ended > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(reading_gives_all_or_out_of_memory),
        SAMPLE_TEST(building_gives_an_index_or_out_of_memory),
    };
    return cmocka_run_group_tests_name("passages", tests, count_allocations, NULL);
}
