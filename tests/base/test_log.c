/* test_log.c - one JSON object a line, whatever is in the strings; a field that is not on the list never shows
 * its value. */
#include <fcntl.h>
#include <jansson.h>
#include <unistd.h>
#include "tests/check.h"
#include "base/clock.h"
#include "base/log.h"

/* What f() writes to stderr. Static storage. */
static const char *captured(void (*f)(void))
{
    static char buf[20000];
    int         ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    f();
    dup2(saved, STDERR_FILENO); /* closes the last writer */
    close(saved);
    size_t n = 0;
    for (ssize_t r; (r = read(ends[0], buf + n, sizeof buf - 1 - n)) > 0;) n += (size_t)r;
    close(ends[0]);
    buf[n] = 0;
    return buf;
}

/* The only line, parsed. */
static json_t *parsed(const char *line)
{
    json_error_t je;
    const char  *end = strchr(line, '\n');
    assert_non_null(end);
    assert_int_equal(end[1], 0);
    json_t *v = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, &je);
    if (!v) fail_msg("%s in %s", je.text, line);
    return v;
}

static void write_all_kinds(void)
{
    LOG(LOG_WARN, "request", LOG_S("route", "/v1/diagnoses"), LOG_I("status", 200), LOG_D("total_ms", 12.3456),
        LOG_D("read_ms", NAN), LOG_S("problem", NULL));
}

static void test_all_kinds(void **state)
{
    (void)state;
    json_t *v = parsed(captured(write_all_kinds));
    assert_string_equal(json_string_value(json_object_get(v, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(v, "event")), "request");
    assert_string_equal(json_string_value(json_object_get(v, "route")), "/v1/diagnoses");
    assert_int_equal(json_integer_value(json_object_get(v, "status")), 200);
    assert_true(fabs(json_real_value(json_object_get(v, "total_ms")) - 12.346) < 1e-9);
    assert_true(json_is_null(json_object_get(v, "read_ms"))); /* JSON has no NaN */
    assert_string_equal(json_string_value(json_object_get(v, "problem")), "");
    assert_int_equal(strlen(json_string_value(json_object_get(v, "time"))), 24);
    json_decref(v);
}

static void write_private(void)
{
    LOG(LOG_ERROR, "request", LOG_S("question", "does Mrs Smith have pneumonia?"), LOG_I("k", 2));
}

static void test_the_list_keeps_values_out(void **state)
{
    (void)state;
    const char *line = captured(write_private);
    assert_null(strstr(line, "Smith"));
    json_t *v = parsed(line);
    assert_string_equal(json_string_value(json_object_get(v, "dropped_field")), "question");
    assert_null(json_object_get(v, "question"));
    assert_int_equal(json_integer_value(json_object_get(v, "k")), 2);
    json_decref(v);
}

static const char *nasty;
static void write_nasty(void)
{
    LOG(LOG_ERROR, "start", LOG_S("text", nasty), LOG_S("file", nasty), LOG_I("port", 8080));
}

/* Quotes, controls, broken UTF-8, and strings around the size of the buffer: always one line of valid ASCII JSON. */
static void test_any_string_gives_one_line(void **state)
{
    (void)state;
    static char s[6000];
    for (int c = 1; c < 256; c++) s[c - 1] = (char)c;
    nasty = s;
    const char *line = captured(write_nasty);
    for (const char *p = line; *p; p++) assert_true(*p == '\n' || (*p >= 0x20 && *p < 0x7f));
    json_decref(parsed(line));
    for (int kind = 0; kind < 3; kind++)
        for (size_t n = kind == 2 ? 500 : 3000; n < 5900; n += kind == 2 ? 13 : 1) {
            if (n > 4300 && n % 50) continue;
            memset(s, "x\"\x01"[kind], n);
            s[n] = 0;
            json_decref(parsed(captured(write_nasty)));
        }
}

static void write_levels(void)
{
    for (int l = LOG_DEBUG; l <= LOG_ERROR; l++) log_line((log_level)l, "start", NULL, 0);
}

static int lines_of(const char *s)
{
    int n = 0;
    for (; *s; s++) n += *s == '\n';
    return n;
}

static void test_threshold(void **state)
{
    (void)state;
    assert_int_equal(lines_of(captured(write_levels)), 3); /* debug is off at start */
    log_threshold(LOG_ERROR);
    assert_int_equal(lines_of(captured(write_levels)), 1);
    log_threshold(LOG_DEBUG);
    assert_int_equal(lines_of(captured(write_levels)), 4);
    log_threshold(LOG_INFO);
    log_level l = LOG_INFO;
    assert_true(log_level_parse(&l, "debug") && l == LOG_DEBUG);
    assert_true(log_level_parse(&l, "error") && l == LOG_ERROR);
    assert_false(log_level_parse(&l, "Error"));
    assert_false(log_level_parse(&l, ""));
    assert_int_equal(l, LOG_ERROR);
}

static void write_err(void)
{
    err e = {0};
    err_at(&e, ERR_UNUSABLE, "image-undecodable", "image", "the PNG does not decode: %s", "it ends early");
    log_err("request", &e);
}

static void test_errors(void **state)
{
    (void)state;
    json_t *v = parsed(captured(write_err));
    assert_string_equal(json_string_value(json_object_get(v, "code")), err_code_name(ERR_UNUSABLE));
    assert_string_equal(json_string_value(json_object_get(v, "problem")), "image-undecodable");
    assert_string_equal(json_string_value(json_object_get(v, "field")), "image");
    assert_string_equal(json_string_value(json_object_get(v, "text")), "the PNG does not decode: it ends early");
    json_decref(v);
}

static void test_clock(void **state)
{
    (void)state;
    char   s[32];
    int    y, mo, d, h, mi, sec, ms, used = 0;
    double before = clock_ms();
    clock_rfc3339(s);
    assert_int_equal(sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &y, &mo, &d, &h, &mi, &sec, &ms, &used), 7);
    assert_int_equal(used, 24);
    assert_true(y >= 2024 && mo <= 12 && d <= 31 && h < 24 && mi < 60 && sec <= 60);
    assert_true(clock_ms() >= before);
    assert_true(clock_unix() > 1700000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_the_list_keeps_values_out),
        cmocka_unit_test(test_any_string_gives_one_line),
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
