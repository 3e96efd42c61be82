/* test_multipart.c - the streaming parser: wherever the body is cut it must say the same. */
#include "base/text.h"
#include "server/multipart.h"
#include "tests/check.h"

/* What the parser told, written down: "<name|data>" a part. */
static text told;
static bool on_begin(void *ctx, const char *name, err *e)
{
    return (void)ctx, (void)e, text_printf(&told, "<%s|", name), true;
}
static bool on_data(void *ctx, const char *p, size_t n, err *e)
{
    return (void)ctx, (void)e, text_addn(&told, p, n), true;
}
static bool on_end(void *ctx, err *e) { return (void)ctx, (void)e, text_add(&told, ">"), true; }
static const multipart_sink SINK = {on_begin, on_data, on_end};

/* Parse in pieces of at most `piece` bytes. */
static bool parse(const char *type, const char *body, size_t n, size_t piece, err *e)
{
    multipart m;
    text_free(&told);
    told = (text){0};
    if (!multipart_init(&m, type, &SINK, NULL, e)) return false;
    for (size_t i = 0; i < n; i += piece)
        if (!multipart_feed(&m, body + i, n - i < piece ? n - i : piece, e)) return false;
    return multipart_end(&m, e);
}

#define TYPE "multipart/form-data; boundary=xyz"
#define PART(name, data) "--xyz\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" data "\r\n"

static void data_that_looks_like_a_delimiter_comes_through_however_it_is_cut(void **state)
{
    (void)state;
    static const char *const data[] = {"",
                                       "a",
                                       "\r",
                                       "\n",
                                       "\r\n",
                                       "\r\r\n",
                                       "\r\n-",
                                       "\r\n--",
                                       "\r\n--x",
                                       "\r\n--xy",
                                       "\r\n--x\r\n--xy",
                                       "\r\n\r\n--xy-",
                                       "--xyz",
                                       "-\r\n--xy\r",
                                       "\r\r\r\n--x",
                                       "\n--xyz",
                                       "line\r\n\r\nline\r\n"};
    for (size_t i = 0; i < sizeof data / sizeof *data; i++) {
        char body[512], want[64];
        int  n = snprintf(body, sizeof body, PART("f", "%s") PART("g", "2") "--xyz--\r\n", data[i]);
        snprintf(want, sizeof want, "<f|%s><g|2>", data[i]);
        for (size_t piece = 1; piece <= (size_t)n; piece++) {
            err e = {0};
            OK(parse(TYPE, body, (size_t)n, piece, &e), e);
            assert_string_equal(told.s, want);
        }
    }
}

static void bytes_of_every_value_come_through(void **state)
{
    (void)state;
    char body[1024], want[300] = "<f|";
    int  n = snprintf(body, sizeof body, "--xyz\r\nContent-Disposition: form-data; name=f\r\n\r\n");
    for (int c = 0; c < 256; c++) body[n + c] = want[3 + c] = (char)c;
    memcpy(body + n + 256, "\r\n--xyz--", 9);
    want[259] = '>';
    for (size_t piece = 1; piece < 40; piece += 6) {
        err e = {0};
        OK(parse(TYPE, body, (size_t)n + 265, piece, &e), e);
        assert_int_equal(told.len, 260);
        assert_memory_equal(told.s, want, 260);
    }
}

static void boundaries_and_parameters_as_clients_send_them(void **state)
{
    (void)state;
    char long_ok[201], long_bad[202];
    memset(long_ok, 'b', 200), long_ok[200] = 0;
    memset(long_bad, 'b', 201), long_bad[201] = 0;
    const struct { const char *before, *boundary, *after; bool ok;
    } c[] = {
        {"multipart/form-data; boundary=", "x", "", true},
        {"multipart/form-data; boundary=\"", "a b", "\"", true},
        {"multipart/form-data;boundary=", "----WebKitFormBoundary7MA4YWxkTrZu0gW", "", true},
        {"multipart/form-data; charset=utf-8; BOUNDARY=", "x'()+_,-./:=?", " ; q=1", true},
        {"multipart/form-data; boundary=",
         "5d1d7c1e-6e35-4b5c-8d1e-7e6f0f6f6b6a-5d1d7c1e-6e35-4b5c-8d1e-7e6f0f6f6b", "", true},
        {"multipart/form-data; boundary=", long_ok, "", true},
        {"multipart/form-data; boundary=", long_bad, "", false},
        {"multipart/form-data; boundary=", "", "", false},
        {"multipart/form-data; boundary=\"", "", "\"", false},
        {"multipart/form-data; boundary=\"", "open", "", false},
        {"multipart/form-data; boundary=", "x", "; boundary=y", false},
        {"multipart/form-data; boundary", "", "", false},
        {"multipart/form-data", "", "", false},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char type[320], body[1024];
        err  e = {0};
        snprintf(type, sizeof type, "%s%s%s", c[i].before, c[i].boundary, c[i].after);
        int n = snprintf(body, sizeof body,
                         "--%s\r\ncontent-disposition:form-data; filename=\"a;b\\\"c\"; name=f\r\n\r\nv\r\n--%s--",
                         c[i].boundary, c[i].boundary);
        bool ok = parse(type, body, (size_t)n, 7, &e);
        if (ok != c[i].ok) fail_msg("%s: %s", type, ok ? "taken" : e.text);
        if (ok) assert_string_equal(told.s, "<f|v>");
        else assert_string_equal(e.problem, "multipart-malformed");
    }
}

static void preamble_padding_and_epilogue_are_passed_over(void **state)
{
    (void)state;
    static const char body[] =
        "hello\r\n--xy no\r\n--xyz  \t\r\nContent-Disposition: form-data; name=a\r\nX-Other: y\r\n\r\n1\r\n--xyz--\r\nbye --xyz\r\n";
    for (size_t piece = 1; piece < sizeof body; piece++) {
        err e = {0};
        OK(parse(TYPE, body, sizeof body - 1, piece, &e), e);
        assert_string_equal(told.s, "<a|1>");
    }
}

static void malformed_bodies_are_refused(void **state)
{
    (void)state;
    static const struct { const char *body, *part;
    } c[] = {
        {"", "does not occur"},
        {"xyz", "does not occur"},
        {"--xyz", "ends before"},
        {"--xyz\r\n", "ends before"},
        {PART("a", "1"), "ends before"},
        {PART("a", "1") "--xyz", "ends before"},
        {PART("a", "1") "--xyz-", "ends before"},
        {PART("a", "1") "--xyz-x", "single dash"},
        {PART("a", "1") "--xyzz\r\n", "other text"},
        {"--xyz\rx", "without LF"},
        {"--xyz\r\n\r\nv\r\n--xyz--", "no Content-Disposition"},
        {"--xyz\r\nContent-Disposition: form-data\r\n\r\nv\r\n--xyz--", "no name"},
        {"--xyz\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\nv\r\n--xyz--", "two names"},
        {"--xyz\r\nContent-Disposition: attachment; name=a\r\n\r\nv\r\n--xyz--", "not form-data"},
        {"--xyz\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b\r\n\r\nv\r\n--xyz--",
         "two Content-Disposition"},
        {"--xyz\r\nContent-Disposition: form-data; name=a\r\n more\r\n\r\nv\r\n--xyz--", "folded"},
        {"--xyz\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\nv\r\n--xyz--",
         "Transfer-Encoding"},
        {"--xyz\r\nContent-Disposition: form-data; name=a\n\r\nv\r\n--xyz--", "without CR"},
        {"--xyz\r\nContent-Disposition : form-data; name=a\r\n\r\nv\r\n--xyz--", "header line"},
        {"--xyz\r\nno colon\r\n\r\nv\r\n--xyz--", "header line"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        for (size_t piece = 1; piece < 200; piece += 13) {
            err e = {0};
            FAILS(parse(TYPE, c[i].body, strlen(c[i].body), piece, &e), e, ERR_INPUT, c[i].part);
        }
}

static void long_headers_and_many_parts_are_bounded(void **state)
{
    (void)state;
    err  e = {0};
    text t = {0};
    text_add(&t, "--xyz\r\nX: ");
    for (int i = 0; i < PART_HEADER_BYTES; i++) text_add(&t, "y");
    FAILS(parse(TYPE, t.s, t.len, 1000, &e), e, ERR_INPUT, "longer than 4096");
    text_free(&t);
    t = (text){0};
    for (int i = 0; i < PARTS_MAX; i++) text_add(&t, PART("a", ""));
    text_add(&t, "--xyz--");
    e = (err){0};
    OK(parse(TYPE, t.s, t.len, 1000, &e), e);
    t.len -= 7;
    text_add(&t, PART("a", "") "--xyz--");
    FAILS(parse(TYPE, t.s, t.len, 1000, &e), e, ERR_INPUT, "more than 256");
    text_free(&t);
    text_free(&told);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_that_looks_like_a_delimiter_comes_through_however_it_is_cut),
        cmocka_unit_test(bytes_of_every_value_come_through),
        cmocka_unit_test(boundaries_and_parameters_as_clients_send_them),
        cmocka_unit_test(preamble_padding_and_epilogue_are_passed_over),
        cmocka_unit_test(malformed_bodies_are_refused),
        cmocka_unit_test(long_headers_and_many_parts_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
