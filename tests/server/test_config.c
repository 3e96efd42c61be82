/* test_config.c - settings from four places, and every way to get one wrong. */
#include "base/file.h"
#include "server/config.h"
#include <unistd.h>

#include "tests/check.h"

#define FILE_PATH "/tmp/jomed-test-config.ini"

static void write_ini(const char *s)
{
    FILE *f = fopen(FILE_PATH, "w");
    assert_non_null(f);
    fputs(s, f);
    fclose(f);
}

static bool from(config *c, const char *const *argv, const char *const *env, config_action *action, err *e)
{
    int argc = 0;
    while (argv[argc]) argc++;
    return config_from_args(c, argc, (char *const *)argv, (char *const *)env, action, e);
}
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_ENV ((const char *const[]){NULL})

static void each_place_wins_over_the_one_before(void **state)
{
    (void)state;
    config        c;
    config_action action;
    err           e = {0};
    write_ini(
        "; comment\n[server]\nport = 1001\nbind=::1\n\n[work]\nqueue = 11 ; behind\nworkers = 3\n[models]\nreader = /r/f\nretriever = /t/f\nindex = /i/f\ntau = 0.5\n");
    OK(from(&c, ARGS("--port", "1003", "--config", FILE_PATH, "--index=/i/a"),
            ARGS("JOMED_SERVER_PORT=1002", "JOMED_WORK_QUEUE=12", "HOME=/x", "JOMED_SHARED=/y",
                 "JOMED_MODELS_RETRIEVER=/t/e"),
            &action, &e),
       e);
    assert_int_equal(action, CONFIG_RUN);
    assert_int_equal(c.port, 1003);             /* flag, though it stands before --config */
    assert_int_equal(c.queue, 12);              /* environment */
    assert_int_equal(c.workers, 3);             /* file */
    assert_int_equal(c.body_bytes, 33554432);   /* default */
    assert_string_equal(c.bind, "::1");
    assert_string_equal(c.reader, "/r/f");
    assert_string_equal(c.retriever, "/t/e");
    assert_string_equal(c.index, "/i/a");
    assert_true(c.tau == 0.5);
    OK(config_check(&c, 2, &e), e);
}

static void actions(void **state)
{
    (void)state;
    static const struct { const char *flag; config_action want;
    } t[] = {{"--check-config", CONFIG_CHECK},
             {"--print-config", CONFIG_PRINT},
             {"--help", CONFIG_HELP},
             {"-h", CONFIG_HELP}};
    for (int i = 0; i < 4; i++) {
        config        c;
        config_action action;
        err           e = {0};
        OK(from(&c, ARGS(t[i].flag), NO_ENV, &action, &e), e);
        assert_int_equal(action, t[i].want);
    }
}

static void wrong_files_name_their_line(void **state)
{
    (void)state;
    static const struct { const char *ini, *part;
    } t[] = {
        {"[server]\nport = 80a\n", FILE_PATH ":2: port is a whole number from 0 to 65535"},
        {"[server]\n\nport = 65536\n", ":3: port is"},
        {"[server]\nport =\n", ":2: port is"},
        {"[server]\nprot = 80\n", ":2: no setting is called [server] prot"},
        {"port = 80\n", ":1: no setting is called [] port"},
        {"[work]\nport = 80\n", ":2: no setting is called [work] port"},
        {"[server]\nport = 1\nport = 2\n", ":3: [server] port is set twice"},
        {"[server]\nport = 1\n  bind = x\n", ":3: a line must not be indented"},
        {"[server\nport = 1\n", ":1: a section's name"},
        {"[server]\nnonsense\n", "neither [section] nor key"},
        {"[models]\nproducts = fp8\n", ":2: products is one of auto|f32|bf16|own"},
        {"[models]\nproducts = f\n", ":2: products is one of"},
        {"[models]\nimage_policy = jomed\n", ":2: image_policy is one of native|jomed-256"},
        {"[models]\ntau = 0\n", ":2: tau is a number from 0.001"},
        {"[models]\ntau = nan\n", ":2: tau is a number"},
        {"[models]\nlora_merge = maybe\n", ":2: lora_merge is one of no|yes"},
        {"[adapters]\na = /a\na = /b\n", ":3: [adapters] a is set twice"},
        {"[adapters]\na =\n", ":2: an adapter's folder is"},
        {"[adapters]\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa = /b\n",
         ":2: an adapter's name has 1 to 64"},
        {"[adapters]\nnone = /b\n", ":2: an adapter's name has 1 to 64 letters, digits"},
        {"[adapters]\na b = /b\n", ":2: an adapter's name has 1 to 64 letters, digits"},
        {"[log]\nlevel = loud\n", ":2: level is one of"},
        {"[models]\nreader = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
         ":2: a line has at most 190 bytes"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        config        c;
        config_action action;
        err           e = {0};
        write_ini(t[i].ini);
        FAILS(from(&c, ARGS("--config", FILE_PATH), NO_ENV, &action, &e), e, ERR_USAGE, t[i].part);
    }
}

static void wrong_flags_and_variables_are_named(void **state)
{
    (void)state;
    config        c;
    config_action action;
    err           e;
    FAILS(from(&c, ARGS("--prot", "1"), NO_ENV, &action, &e), e, ERR_USAGE, "--prot is no option");
    FAILS(from(&c, ARGS("--adapter", "; x=/tmp"), NO_ENV, &action, &e), e, ERR_USAGE,
          "--adapter: an adapter's name has");
    FAILS(from(&c, ARGS("--adapter", "[x]=/tmp"), NO_ENV, &action, &e), e, ERR_USAGE,
          "--adapter: an adapter's name has");
    FAILS(from(&c, ARGS("--adapter", "a\nb=/tmp"), NO_ENV, &action, &e), e, ERR_USAGE,
          "--adapter: an adapter's name has");
    FAILS(from(&c, ARGS("port"), NO_ENV, &action, &e), e, ERR_USAGE, "port is no option");
    FAILS(from(&c, ARGS("--port"), NO_ENV, &action, &e), e, ERR_USAGE, "--port needs a value");
    FAILS(from(&c, ARGS("--config"), NO_ENV, &action, &e), e, ERR_USAGE, "--config needs a value");
    FAILS(from(&c, ARGS("--port", "x"), NO_ENV, &action, &e), e, ERR_USAGE, "--port: port is a whole number");
    FAILS(from(&c, ARGS("--port= 1"), NO_ENV, &action, &e), e, ERR_USAGE, "--port: port is");
    FAILS(from(&c, ARGS("--config", "/nonexistent/jomed.ini"), NO_ENV, &action, &e), e, ERR_USAGE,
          "/nonexistent/jomed.ini");
    FAILS(from(&c, ARGS("--port", "1"), ARGS("JOMED_SERVER_PROT=1"), &action, &e), e, ERR_USAGE,
          "JOMED_SERVER_PROT is no setting");
    FAILS(from(&c, ARGS("--adapter", "a"), NO_ENV, &action, &e), e, ERR_USAGE, "--adapter takes NAME=DIR");
    FAILS(from(&c, ARGS("--adapter"), NO_ENV, &action, &e), e, ERR_USAGE, "--adapter needs a value");
    FAILS(from(&c, ARGS("--adapter=a="), NO_ENV, &action, &e), e, ERR_USAGE, "an adapter's folder is");
    FAILS(from(&c, ARGS("--adapter==/a"), NO_ENV, &action, &e), e, ERR_USAGE, "an adapter's name has");
    FAILS(from(&c, ARGS("--lora-merge=2"), NO_ENV, &action, &e), e, ERR_USAGE,
          "--lora-merge: lora_merge is one of no|yes");
    FAILS(from(&c, ARGS("--port", "1"), ARGS("JOMED_ADAPTERS_A=/a"), &action, &e), e, ERR_USAGE,
          "JOMED_ADAPTERS_A is no setting");
    FAILS(from(&c, ARGS("--port", "1"), ARGS("JOMED_WORK_QUEUE=0"), &action, &e), e, ERR_USAGE,
          "JOMED_WORK_QUEUE: queue is");
}

static void what_single_settings_cannot_say(void **state)
{
    (void)state;
    static const struct { const char *flag, *value, *part;
    } t[] = {{"--bind", "localhost", "bind is a numeric address"},
             {"--body-bytes", "4294967296", "buffered_bytes must be at least"},
             {"--deadline-ms", "300001", "deadline_ms must be at most"},
             {"--reader", "", "reader is not set"},
             {"--index", "", "index is not set"},
             {"--use-adapter", "a", "use_adapter is 'a', which is no adapter"},
             {"--lora-merge=yes", "--port=1", "exactly one adapter, 0 are set"},
             {"--device=cpu", "--cache-host-mb=1", "cache_host_mb: on a CPU the cache is host memory already"},
             {"--device=cuda:0", "--cache-host-mb=1", NULL}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        config        c;
        config_action action;
        err           e = {0};
        OK(from(&c, ARGS("--reader", "r", "--retriever", "t", "--index", "i", t[i].flag, t[i].value), NO_ENV,
                &action, &e),
           e);
        if (t[i].part) FAILS(config_check(&c, 2, &e), e, ERR_USAGE, t[i].part);
        else OK(config_check(&c, 2, &e), e);
    }
}

static void the_size_of_the_cache_is_a_number_or_auto(void **state)
{
    (void)state;
    static const struct { const char *value; size_t bytes; const char *printed;
    } t[] = {{"auto", CACHE_AUTO, "\ncache_mb = auto\n"},
             {"0", 0, "\ncache_mb = 0\n"},
             {"5", 5 << 20, "\ncache_mb = 5\n"}};
    static const char *const wrong[] = {"-1", "automatic", "", "1048577"};
    config        c;
    config_action action;
    err           e = {0};
    config_defaults(&c);
    assert_true(config_cache_bytes(&c) == CACHE_AUTO);
    assert_int_equal(c.cache_host_mb, 0);
    for (int i = 0; i < 3; i++) {
        text out = {0};
        OK(from(&c, ARGS("--cache-mb", t[i].value), NO_ENV, &action, &e), e);
        assert_true(config_cache_bytes(&c) == t[i].bytes);
        config_print(&c, &out);
        assert_non_null(strstr(out.s, t[i].printed));
        text_free(&out);
    }
    for (int i = 0; i < 4; i++)
        FAILS(from(&c, ARGS("--cache-mb", wrong[i]), NO_ENV, &action, &e), e, ERR_USAGE,
              "--cache-mb: cache_mb is auto or a whole number from 0 to 1048576");
    e = (err){0};
    OK(from(&c, ARGS("--reader=r", "--retriever=t", "--index=i", "--device=cuda:0", "--cache-mb=0",
                     "--cache-host-mb=1"), NO_ENV, &action, &e), e);
    FAILS(config_check(&c, 2, &e), e, ERR_USAGE, "cache_mb is 0");
}

static void workers_and_threads_share_the_cores(void **state)
{
    (void)state;
    static const struct { int workers, threads, cores, want_workers, want_threads;
    } t[] = {{0, 0, 8, 8, 1}, {0, 0, 1, 1, 1}, {1, 0, 8, 1, 8}, {3, 0, 8, 3, 2}, {16, 0, 8, 16, 1},
             {0, 4, 8, 2, 4}, {0, 9, 8, 1, 9}, {2, 3, 8, 2, 3}, {0, 0, -1, 1, 1}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        config c;
        err    e = {0};
        config_defaults(&c);
        strcpy(c.reader, "r"), strcpy(c.retriever, "t"), strcpy(c.index, "i");
        c.workers = t[i].workers, c.threads = t[i].threads;
        OK(config_check(&c, t[i].cores, &e), e);
        assert_int_equal(c.workers, t[i].want_workers);
        assert_int_equal(c.threads, t[i].want_threads);
    }
}

static void missing_folders_are_named(void **state)
{
    (void)state;
    config c;
    err    e = {0};
    config_defaults(&c);
    strcpy(c.reader, "models/demo/reader"), strcpy(c.retriever, "models/demo/retriever"),
        strcpy(c.index, "/nonexistent/index");
    FAILS(config_check_folders(&c, &e), e, ERR_FILE, "index: /nonexistent/index:");
    strcpy(c.index, "Makefile");
    FAILS(config_check_folders(&c, &e), e, ERR_FILE, "index: Makefile is no folder");
}

static void adapters_come_from_file_and_flags(void **state)
{
    (void)state;
    config        c;
    config_action action;
    err           e = {0};
    write_ini("[adapters]\nretina = /a/r\nbreast = /a/b\n[models]\nuse_adapter = breast\n");
    OK(from(&c,
            ARGS("--adapter", "retina=/a/new=1", "--config", FILE_PATH, "--adapter=skin=/a/s", "--lora-merge",
                 "--port", "9"),
            NO_ENV, &action, &e),
       e);
    static const char *const want[][2] = {{"retina", "/a/new=1"}, {"breast", "/a/b"}, {"skin", "/a/s"}};
    assert_int_equal(c.n_adapters, 3);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(c.adapter[i].name, want[i][0]);
        assert_string_equal(c.adapter[i].dir, want[i][1]);
    }
    assert_string_equal(c.use_adapter, "breast");
    assert_string_equal(c.lora_merge, "yes");
    assert_int_equal(c.port, 9);
    config_defaults(&c);
    assert_int_equal(c.n_adapters, 0);
    assert_string_equal(c.lora_merge, "no");
}

static void what_is_printed_reads_back_the_same(void **state)
{
    (void)state;
    config        c, back;
    config_action action;
    err           e = {0};
    text          t = {0}, again = {0};
    OK(from(&c,
            ARGS("--reader", "/models/r", "--adapter", "a=/models/a", "--use-adapter", "a", "--lora-merge", "--tau",
                 "0.1", "--log-level", "debug", "--port=0"),
            NO_ENV, &action, &e),
       e);
    config_print(&c, &t);
    assert_false(t.failed);
    write_ini(t.s);
    OK(from(&back, ARGS("--config", FILE_PATH), NO_ENV, &action, &e), e);
    config_print(&back, &again);
    assert_string_equal(again.s, t.s);
    text_free(&t);
    text_free(&again);
}

static void the_example_file_is_the_defaults(void **state)
{
    (void)state;
    config c;
    err    e = {0};
    text   t = {0};
    char  *s;
    size_t n;
    config_defaults(&c);
    config_print(&c, &t);
    OK(file_read(&s, &n, "deploy/jomed.ini", 1 << 16, &e), e);
    const char *body = strstr(s, "[server]"); /* behind its own introduction */
    assert_non_null(body);
    assert_string_equal(body, t.s);
    free(s);
    text_free(&t);
}

static int remove_file(void **state) { return (void)state, unlink(FILE_PATH), 0; }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_place_wins_over_the_one_before),
        cmocka_unit_test(actions),
        cmocka_unit_test(wrong_files_name_their_line),
        cmocka_unit_test(wrong_flags_and_variables_are_named),
        cmocka_unit_test(adapters_come_from_file_and_flags),
        cmocka_unit_test(what_single_settings_cannot_say),
        cmocka_unit_test(the_size_of_the_cache_is_a_number_or_auto),
        cmocka_unit_test(workers_and_threads_share_the_cores),
        cmocka_unit_test(missing_folders_are_named),
        cmocka_unit_test(what_is_printed_reads_back_the_same),
        cmocka_unit_test(the_example_file_is_the_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
