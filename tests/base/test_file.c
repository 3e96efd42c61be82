/* test_file.c - mapping, reading, atomic writing; what is no regular file; paths that leave their root. */
#include "tests/base/temporary.h"
#include "base/file.h"
#include "base/memory.h"

static void test_reading(void **state)
{
    (void)state;
    const char *dir = temporary_dir(), *path = put_file(dir, "five", "12345", 5),
               *none = put_file(dir, "none", "", 0);
    file_map    m;
    char       *p;
    size_t      n;
    err         e = {0};
    OK(file_map_open(&m, path, &e), e);
    assert_int_equal(m.bytes, 5);
    assert_memory_equal(m.data, "12345", 5);
    file_map_close(&m);
    file_map_close(&m); /* twice is fine */
    OK(file_map_open(&m, none, &e), e);
    assert_true(m.bytes == 0 && m.data != NULL);
    file_map_close(&m);
    OK(file_read(&p, &n, path, 5, &e), e);
    assert_int_equal(n, 5);
    assert_string_equal(p, "12345");
    free(p);
    OK(file_read(&p, &n, none, 0, &e), e);
    assert_string_equal(p, "");
    free(p);
    FAILS(file_read(&p, &n, path, 4, &e), e, ERR_FILE, "five: 5 bytes, at most 4");
    mem_fail_after(0);
    FAILS(file_read(&p, &n, path, 5, &e), e, ERR_MEMORY, "five");
    mem_fail_after(-1);
    assert_true(file_exists(path));
    assert_false(file_exists(inside(dir, "absent")));
    remove_dir(dir);
}

static void test_what_is_no_file(void **state)
{
    (void)state;
    const char *dir = temporary_dir(), *pipe = inside(dir, "pipe");
    file_map    m;
    char       *p;
    size_t      n;
    err         e;
    assert_int_equal(mkfifo(pipe, 0600), 0);
    alarm(20); /* opening a pipe must not wait for its writer */
    FAILS(file_map_open(&m, pipe, &e), e, ERR_FILE, "pipe: not a regular file");
    FAILS(file_read(&p, &n, pipe, 10, &e), e, ERR_FILE, "pipe: not a regular file");
    alarm(0);
    FAILS(file_map_open(&m, dir, &e), e, ERR_FILE, "not a regular file");
    FAILS(file_map_open(&m, inside(dir, "absent"), &e), e, ERR_FILE, "absent: No such file");
    FAILS(file_read(&p, &n, inside(dir, "absent"), 10, &e), e, ERR_FILE, "absent: No such file");
    remove_dir(dir);
}

static void test_writing(void **state)
{
    (void)state;
    const char *dir = temporary_dir(), *path = inside(dir, "out");
    char       *p, longer[5000];
    size_t      n;
    err         e = {0};
    for (int i = 0; i < 2; i++) { /* new, then over the old one */
        OK(file_write(path, i ? "second" : "1st", i ? 6 : 3, &e), e);
        OK(file_read(&p, &n, path, 100, &e), e);
        assert_string_equal(p, i ? "second" : "1st");
        free(p);
    }
    assert_false(file_exists(inside(dir, "out.tmp")));
    FAILS(file_write(inside(dir, "absent/out"), "x", 1, &e), e, ERR_FILE, "absent/out.tmp: No such file");
    mkdir(inside(dir, "folder"), 0700);
    FAILS(file_write(inside(dir, "folder"), "x", 1, &e), e, ERR_FILE, "folder");
    assert_false(file_exists(inside(dir, "folder.tmp"))); /* nothing is left behind */
    memset(longer, 'x', sizeof longer);
    longer[4999] = 0;
    FAILS(file_write(longer, "x", 1, &e), e, ERR_FILE, "path too long");
    remove_dir(dir);
}

static void test_paths(void **state)
{
    (void)state;
    char buf[16];
    err  e = {0};
    OK(path_join(buf, sizeof buf, "a/b", "c", &e), e);
    assert_string_equal(buf, "a/b/c");
    OK(path_join(buf, sizeof buf, "a/", "c", &e), e);
    assert_string_equal(buf, "a/c");
    OK(path_join(buf, sizeof buf, "/", "c", &e), e);
    assert_string_equal(buf, "/c");
    OK(path_join(buf, sizeof buf, "1234567890123", "4", &e), e); /* 15 and the zero */
    FAILS(path_join(buf, sizeof buf, "1234567890123", "45", &e), e, ERR_FILE, "path too long");
    static const char *const below[] = {"a", "a/b", "./a", "a..", "..a", "a/..b", "a/.../b", ".", "a//b", "a/"};
    static const char *const above[] = {"", "/", "/a", "..", "../a", "a/..", "a/../b", "a/b/../../../c", "./.."};
    for (size_t i = 0; i < sizeof below / sizeof *below; i++)
        if (!path_is_below(below[i])) fail_msg("'%s' lies below", below[i]);
    for (size_t i = 0; i < sizeof above / sizeof *above; i++)
        if (path_is_below(above[i])) fail_msg("'%s' does not lie below", above[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reading), cmocka_unit_test(test_what_is_no_file),
                                       cmocka_unit_test(test_writing), cmocka_unit_test(test_paths)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
