/* .npz arrays: headers, sizes, rows forwards and back, and every lie a file can tell. */
#include "tests/index/sample.h"

#include "index/npz.h"

static void headers_are_read_or_refused(void **state)
{
    (void)state;
    static const struct { const char *s, *why; } bad[] = {
        {"", "malformed"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2)", "malformed"},
        {"{'descr': '|u1', 'fortran_order': False}", "malformed"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2)} x", "malformed"},
        {"{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", "malformed"},
        {"{'descr': '|u1', 'fortran_order': Maybe, 'shape': (3,)}", "malformed"},
        {"{'what': '|u1', 'fortran_order': False, 'shape': (3,)}", "malformed"},
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (3, 2)}", "column-major"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (3,)}", "integers"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "integers"},
        {"{'descr': '>i4', 'fortran_order': False, 'shape': (3,)}", "integers"},
        {"{'descr': '|u2', 'fortran_order': False, 'shape': (3,)}", "integers"},
        {"{'descr': '<u3', 'fortran_order': False, 'shape': (3,)}", "integers"},
        {"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (3,)}", "integers"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}", "rows"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 0)}", "rows are empty"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (-3, 2)}", "shape"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3 2)}", "shape"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "shape"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 2)}", "shape"},
        {"{'descr': '<i8', 'fortran_order': False, 'shape': (281474976710656, 281474976710656)}", "shape too large"},
        {"{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "shape too large"},
    };
    npy_shape   sh;
    const char *why;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (npy_parse_header(&sh, bad[i].s, strlen(bad[i].s), &why)) fail_msg("taken: %s", bad[i].s);
        if (!strstr(why, bad[i].why)) fail_msg("%s: said '%s', wanted '%s'", bad[i].s, why, bad[i].why);
    }
    static const char good[] = "{\"shape\": (5, 28, 28, 3,), 'fortran_order': False, 'descr': '<u2'}   \n";
    assert_true(npy_parse_header(&sh, good, strlen(good), &why));
    assert_int_equal(sh.n_dims, 4);
    assert_int_equal(sh.dim[0], 5);
    assert_int_equal(sh.row_bytes, 28 * 28 * 3 * 2);
    assert_int_equal(sh.item_bytes, 2);
    assert_false(sh.is_signed);
    /* cut anywhere */
    for (size_t n = 0; n < strlen(good) - 5; n++) assert_false(npy_parse_header(&sh, good, n, &why));
}

static void integers_of_all_widths_are_read(void **state)
{
    (void)state;
    static const struct { const char *descr; uint8_t bytes[8]; int64_t want; } t[] = {
        {"|u1", {200}, 200}, {"|i1", {200}, -56}, {"<u2", {0x34, 0x92}, 0x9234}, {"<i2", {0xfe, 0xff}, -2},
        {"<i4", {0xff, 0xff, 0xff, 0xff}, -1}, {"<u4", {0xff, 0xff, 0xff, 0xff}, 4294967295},
        {"<i8", {0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, -3}, {"<u8", {7}, 7}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char        s[128];
        npy_shape   sh;
        const char *why;
        int n = snprintf(s, sizeof s, "{'descr': '%s', 'fortran_order': False, 'shape': (1,)}", t[i].descr);
        assert_true(npy_parse_header(&sh, s, (size_t)n, &why));
        assert_int_equal(npy_int(&sh, t[i].bytes, 0), t[i].want);
    }
}

static void rows_come_in_any_order(void **state)
{
    sample   *s = *state;
    npz_array *z;
    err       e = {0};
    uint8_t   data[7 * 6], row[6];
    for (int i = 0; i < 42; i++) data[i] = (uint8_t)(i * 5);
    const npy_part part = {"a", "|u1", "(7, 2, 3)", data, 42};
    put_npz(at(s, "x.npz"), &part, 1);
    OK(npz_open(&z, at(s, "x.npz"), "a", &e), e);
    assert_int_equal(npz_shape(z)->dim[0], 7);
    static const int order[] = {0, 6, 3, 3, 1};
    for (int i = 0; i < 5; i++) {
        OK(npz_row(z, order[i], row, &e), e);
        assert_memory_equal(row, data + order[i] * 6, 6);
    }
    FAILS(npz_row(z, 7, row, &e), e, ERR_INPUT, "has 7 rows, no row 7");
    FAILS(npz_row(z, -1, row, &e), e, ERR_INPUT, "no row -1");
    npz_close(z);
}

/* Above 64 MB an array is inflated as it is read: 70 rows of 1 MB. */
static void a_large_array_is_streamed(void **state)
{
    enum { ROW = 1 << 20, N = 70 };
    sample    *s = *state;
    npz_array *z;
    err        e = {0};
    uint8_t   *data = malloc((size_t)ROW * N), *row = malloc(ROW);
    for (int i = 0; i < N; i++) memset(data + (size_t)i * ROW, i + 1, ROW);
    const npy_part part = {"a", "|u1", "(70, 1024, 1024)", data, (size_t)ROW * N};
    put_npz(at(s, "big.npz"), &part, 1);
    OK(npz_open(&z, at(s, "big.npz"), "a", &e), e);
    static const int order[] = {0, 1, 40, 69, 2, 3};
    for (int i = 0; i < 6; i++) {
        OK(npz_row(z, order[i], row, &e), e);
        assert_memory_equal(row, data + (size_t)order[i] * ROW, ROW);
    }
    npz_close(z);
    free(data);
    free(row);
}

static void refuse(const sample *s, const char *part, const char *name)
{
    npz_array *z = NULL;
    err        e = {0};
    FAILS(npz_open(&z, at(s, "x.npz"), name, &e), e, ERR_FILE, part);
    assert_null(z);
}

static void files_that_lie_are_refused(void **state)
{
    sample *s = *state;
    uint8_t data[60] = {0};
    refuse(s, "x.npz", "a"); /* no file */
    put_text(at(s, "x.npz"), "this is not a zip");
    refuse(s, "x.npz", "a");
    put_text(at(s, "x.npz"), "");
    refuse(s, "x.npz", "a");
    const npy_part parts[] = {{"less", "|u1", "(7, 9)", data, 60}, {"more", "|u1", "(7, 8)", data, 60},
                              {"wide", "<i8", "(60,)", data, 60}, {"good", "|u1", "(10, 6)", data, 60}};
    put_npz(at(s, "x.npz"), parts, 4);
    refuse(s, "does not match its shape", "less");
    refuse(s, "does not match its shape", "more");
    refuse(s, "does not match its shape", "wide");
    refuse(s, "no such array", "other");

    /* A member that is no .npy at all, and one with a version of the future. */
    zip_t *z = zip_open(at(s, "x.npz"), 0, NULL);
    zip_file_add(z, "text.npy", zip_source_buffer(z, "short", 5, 0), 0);
    zip_file_add(z, "future.npy", zip_source_buffer(z, "\x93NUMPY\x09\x00\x10\x00................", 26, 0), 0);
    zip_file_add(z, "huge.npy", zip_source_buffer(z, "\x93NUMPY\x02\x00\xff\xff\xff\x7f............", 24, 0), 0);
    assert_int_equal(zip_close(z), 0);
    refuse(s, "truncated", "text");
    refuse(s, "not a .npy array", "future");
    refuse(s, "malformed header", "huge");

    /* Every cut of the file, and every damaged byte of its first kilobyte: an error or the right rows, never a
     * crash. */
    char  *bytes;
    size_t n;
    err    e = {0};
    OK(file_read(&bytes, &n, at(s, "x.npz"), 1 << 20, &e), e);
    for (size_t cut = 0; cut < n; cut += 7) {
        npz_array *a = NULL;
        err        why = {0};
        char      *exact = malloc(cut + 1);
        memcpy(exact, bytes, cut);
        assert_false(npz_open_memory(&a, exact, cut, "good", "memory", &why));
        assert_int_equal(why.code, ERR_FILE);
        free(exact);
    }
    for (size_t i = 0; i < n && i < 1024; i++) {
        npz_array *a = NULL;
        err        why = {0};
        uint8_t    row[6];
        bytes[i] = (char)(bytes[i] ^ 0x55);
        if (npz_open_memory(&a, bytes, n, "good", "memory", &why)) {
            if (npz_shape(a)->row_bytes == 6) assert_true(npz_row(a, 0, row, &why));
        } else assert_int_equal(why.code, ERR_FILE);
        npz_close(a);
        bytes[i] = (char)(bytes[i] ^ 0x55);
    }
    free(bytes);
}

static void a_wrong_checksum_is_noticed(void **state)
{
    sample *s = *state;
    uint8_t data[64];
    char   *bytes;
    size_t  n;
    err     e = {0};
    for (int i = 0; i < 64; i++) data[i] = (uint8_t)(i * 37 + 11);
    const npy_part part = {"a", "|u1", "(8, 8)", data, 64};
    put_npz(at(s, "x.npz"), &part, 1);
    OK(file_read(&bytes, &n, at(s, "x.npz"), 1 << 20, &e), e);
    /* The central directory's copy of the CRC stands 16 bytes behind its "PK\1\2". */
    char *dir = memmem(bytes, n, "PK\1\2", 4);
    assert_non_null(dir);
    dir[16] = (char)(dir[16] ^ 1);
    put(at(s, "x.npz"), bytes, n);
    free(bytes);
    refuse(s, "CRC", "a");
}

static void memory_may_run_out(void **state)
{
    sample *s = *state;
    uint8_t data[60] = {0};
    const npy_part part = {"a", "|u1", "(10, 6)", data, 60};
    put_npz(at(s, "x.npz"), &part, 1);
    for (long n = 0;; n++) {
        npz_array *z = NULL;
        err        e = {0};
        mem_fail_after(n);
        bool ok = npz_open(&z, at(s, "x.npz"), "a", &e);
        mem_fail_after(-1);
        npz_close(z);
        if (ok) {
            assert_true(n >= 4); /* the struct, its name, the header, the rows */
            break;
        }
        assert_int_equal(e.code, ERR_MEMORY);
    }
}

static void real_medmnist_files_are_read(void **state)
{
    (void)state;
    static const struct { const char *file, *name; int64_t n; int n_dims; } t[] = {
        {"breastmnist_trainval.npz", "train_images", 546, 3}, {"breastmnist_trainval.npz", "train_labels", 546, 2},
        {"pneumoniamnist_trainval.npz", "val_images", 524, 3}, {"retinamnist.npz", "train_images", 1080, 4},
        {"retinamnist.npz", "test_labels", 400, 2}};
    if (!file_exists(shared_path("data/medmnist/retinamnist.npz"))) SKIP("no shared data/medmnist");
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char       path[600];
        npz_array *z;
        err        e = {0};
        uint8_t    row[28 * 28 * 3];
        snprintf(path, sizeof path, "%s/%s", shared_path("data/medmnist"), t[i].file);
        OK(npz_open(&z, path, t[i].name, &e), e);
        assert_int_equal(npz_shape(z)->dim[0], t[i].n);
        assert_int_equal(npz_shape(z)->n_dims, t[i].n_dims);
        OK(npz_row(z, t[i].n - 1, row, &e), e);
        npz_close(z);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(headers_are_read_or_refused), SAMPLE_TEST(integers_of_all_widths_are_read),
        SAMPLE_TEST(rows_come_in_any_order),      SAMPLE_TEST(a_large_array_is_streamed),
        SAMPLE_TEST(files_that_lie_are_refused),  SAMPLE_TEST(a_wrong_checksum_is_noticed),
        SAMPLE_TEST(memory_may_run_out),          SAMPLE_TEST(real_medmnist_files_are_read),
    };
    return cmocka_run_group_tests_name("npz", tests, NULL, NULL);
}
