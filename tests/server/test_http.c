/* test_http.c - the wire: framing that could smuggle, limits decided before the body, statuses, headers. */
#include "tests/server/serving.h"

static serving S;

static int start(void **state)
{
    (void)state;
    serving_defaults(&S);
    S.cfg.body_bytes = 100000;
    S.cfg.buffered_bytes = 400000;
    serving_start(&S);
    return 0;
}
static int stop(void **state)
{
    (void)state;
    serving_stop(&S);
    return 0;
}

#define SAY(...) do { \
        char buf_[2048]; \
        snprintf(buf_, sizeof buf_, __VA_ARGS__); \
        r = ask(S.port, buf_); \
    } while (0)

/* ---- request smuggling ---- */

/* Whatever the framing trick, the bytes behind must never be answered as a second request. */
static void refused_and_closed(const char *probe, const char *what)
{
    static const char smuggled[] = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    int               fd = dial(S.port);
    says(fd, probe);
    says(fd, smuggled);
    reply r = hear(fd);
    if (r.status != 400) fail_msg("%s: answered %d", what, r.status);
    /* libmicrohttpd 0.9.75 sends the head of its own refusals twice: anything may follow but an answer to the
     * second request */
    char    rest[4096];
    ssize_t n, all = 0;
    while ((n = recv(fd, rest + all, sizeof rest - 1 - (size_t)all, 0)) > 0) all += n;
    rest[all] = 0;
    if (strstr(rest, "HTTP/1.1 200") || strstr(rest, "alive"))
        fail_msg("%s: the bytes behind it were served: %s", what, rest);
    if (n < 0 && errno != ECONNRESET) fail_msg("%s: the connection was kept", what);
    close(fd);
    free(r.body);
}

static void smuggling_probes_are_refused_and_the_connection_closed(void **state)
{
    (void)state;
    static const struct { const char *what, *head;
    } probe[] = {
        {"two different Content-Length",
         "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 38\r\n\r\nabcd"},
        {"two equal Content-Length",
         "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"},
        {"Content-Length and chunked",
         "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {"chunked and Content-Length",
         "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
        {"two Transfer-Encoding",
         "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"},
        {"Transfer-Encoding: xchunked",
         "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
        {"two Host", "GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"},
        {"space before the colon", "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd"},
        {"no Host", "GET /livez HTTP/1.1\r\n\r\n"},
        {"Content-Length: +4", "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd"},
        {"Content-Length: 4,4", "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length: 4,4\r\n\r\nabcd"},
        {"Content-Length: -1", "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nabcd"},
    };
    for (size_t i = 0; i < sizeof probe / sizeof *probe; i++) refused_and_closed(probe[i].head, probe[i].what);
}

/* ---- limits decided by the head ---- */

static void a_too_long_body_is_refused_before_it_is_sent(void **state)
{
    (void)state;
    /* a client that waits for 100 Continue never uploads: it must hear 413, not 100 */
    int fd = dial(S.port);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n");
    char first[64] = "";
    assert_true(recv(fd, first, 12, MSG_WAITALL) == 12);
    assert_string_equal(first, "HTTP/1.1 413");
    close(fd);
    reply r;
    SAY("POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4294967296\r\n\r\n");
    EXPECT(r, 413, "body-too-large");
    free(r.body);
}

static void a_client_that_pushes_a_too_long_body_still_reads_the_413(void **state)
{
    (void)state;
    static char junk[1 << 20];
    int         fd = dial(S.port);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8388608\r\n\r\n");
    for (int i = 0; i < 8 && say(fd, junk, sizeof junk); i++) { }
    reply r = hear(fd);
    EXPECT(r, 413, "body-too-large");
    close(fd);
    free(r.body);
}

static void a_chunked_body_is_stopped_when_it_passes_the_limit(void **state)
{
    (void)state;
    char chunk[8 + 4096 + 2];
    int  fd = dial(S.port), n = snprintf(chunk, sizeof chunk, "1000\r\n");
    memset(chunk + n, ' ', 4096);
    memcpy(chunk + n + 4096, "\r\n", 2);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 400 && say(fd, chunk, (size_t)n + 4098); i++) { } /* 1.6 MB, and never an end */
    reply r = hear(fd);
    EXPECT(r, 413, "body-too-large");
    assert_true(is_ended(fd));
    close(fd);
    free(r.body);
}

/* The first bytes of a picture that is too large, and then nothing: the rest was announced and is never sent. */
static void a_too_large_picture_is_refused_when_its_header_has_come(void **state)
{
    (void)state;
    static const char *const file[] = {"tests/corpus/image/bomb_20000.png", "tests/corpus/image/sides_65535.png",
                                       "tests/corpus/image/sides_65535.jpg"};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        err    e = {0};
        char   first[4096] = {0}, *bytes;
        size_t n;
        OK(file_read(&bytes, &n, file[i], sizeof first, &e), e);
        memcpy(first, bytes, n);
        int fd = dial(S.port);
        says(
            fd,
            "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            "Content-Length: 90000\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n");
        say(fd, first, sizeof first);
        reply r = hear(fd);
        EXPECT(r, 413, "image-too-large");
        EXPECT_FIELD(r, "image");
        assert_true(is_ended(fd));
        close(fd);
        free(r.body);
        free(bytes);
    }
    serving_wait_for(&S, "jomed_request_body_bytes", 0);
}

static void bodies_held_together_are_bounded(void **state)
{
    (void)state;
    /* buffered_bytes is four times body_bytes; buffers double, so eight half-sent bodies are more than it holds */
    static char spaces[99000];
    int         fd[8], refused = 0;
    memset(spaces, ' ', sizeof spaces);
    for (int i = 0; i < 8; i++) {
        fd[i] = dial(S.port);
        says(
            fd[i],
            "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99001\r\n\r\n");
        say(fd[i], spaces, sizeof spaces);
    }
    while (refused == 0) /* the first refusal may take any of them */
        for (int i = 0; i < 8; i++) {
            char c;
            if (recv(fd[i], &c, 1, MSG_PEEK | MSG_DONTWAIT) != 1) continue;
            reply r = hear(fd[i]);
            EXPECT(r, 503, "busy");
            char retry[16];
            assert_true(header_of(&r, "Retry-After", retry, sizeof retry) && atoi(retry) >= 1);
            refused++;
            free(r.body);
        }
    for (int i = 0; i < 8; i++) close(fd[i]);
    /* and it comes back: everything was counted off again */
    serving_wait_for(&S, "jomed_request_body_bytes", 0);
}

static void too_many_headers_are_refused(void **state)
{
    (void)state;
    text t = {0};
    text_add(&t, "GET /livez HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 101; i++) text_printf(&t, "X-%d: y\r\n", i);
    text_add(&t, "\r\n");
    reply r = ask_text(S.port, t);
    EXPECT(r, 431, "headers-too-many");
    free(r.body);
    /* ten thousand do not fit the library's header buffer: it refuses with its own page and closes */
    t = (text){0};
    text_add(&t, "GET /livez HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 10000; i++) text_printf(&t, "X-%d: y\r\n", i);
    text_add(&t, "\r\n");
    r = ask_text(S.port, t);
    if (r.status != 431 && r.status != 413 && r.status != 0) fail_msg("10,000 headers: %d", r.status);
    free(r.body);
    r = ask(S.port, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT(r, 200, NULL);
    free(r.body);
}

static void a_body_in_single_bytes_is_read_like_any_other(void **state)
{
    (void)state;
    text body = sound_json(""), t = {0};
    text_add(
        &t,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (size_t i = 0; i < body.len; i++) text_printf(&t, "1\r\n%c\r\n", body.s[i]);
    text_add(&t, "0\r\n\r\n");
    text_free(&body);
    reply r = ask_text(S.port, t);
    EXPECT(r, 200, NULL);
    free(r.body);
}

/* ---- statuses of the head ---- */

static void resources_and_methods(void **state)
{
    (void)state;
    static const struct { const char *line; int status; const char *slug; } c[] = {
        {"GET / HTTP/1.1", 404, "not-found"},
        {"GET /v1/diagnose HTTP/1.1", 404, "not-found"},
        {"GET /livez/ HTTP/1.1", 404, "not-found"},
        {"GET /v1/diagnoses HTTP/1.1", 405, "method-not-allowed"},
        {"DELETE /livez HTTP/1.1", 405, "method-not-allowed"},
        {"OPTIONS /v1/diagnoses HTTP/1.1", 405, "method-not-allowed"},
        {"GET /v1/passages/7 HTTP/1.1", 200, NULL},
        {"GET /v1/passages/7/image HTTP/1.1", 200, NULL},
        {"GET /v1/passages/6 HTTP/1.1", 404, "passage-unknown"},
        {"GET /v1/passages/-7 HTTP/1.1", 404, "passage-unknown"},
        {"GET /v1/passages/07 HTTP/1.1", 404, "passage-unknown"},
        {"GET /v1/passages/99999999999999999999 HTTP/1.1", 404, "passage-unknown"},
        {"GET /v1/passages/x/image HTTP/1.1", 404, "passage-unknown"},
        {"GET /v1/passages/7/picture HTTP/1.1", 404, "not-found"},
        {"GET /v1/passages// HTTP/1.1", 404, "not-found"},
        {"GET /v1/passages/8/image HTTP/1.1", 500, "passage-image-missing"},
        {"GET /v1/models HTTP/1.1", 200, NULL},
        {"GET /livez HTTP/1.1", 200, NULL},
        {"GET /readyz HTTP/1.1", 200, NULL},
        {"GET /readyz?verbose HTTP/1.1", 200, NULL},
        {"GET /metrics HTTP/1.1", 200, NULL},
        {"GET /openapi.json HTTP/1.1", 200, NULL},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        reply r;
        SAY("%s\r\nHost: x\r\n\r\n", c[i].line);
        if (r.status != c[i].status) fail_msg("%s: %d", c[i].line, r.status);
        EXPECT(r, c[i].status, c[i].slug);
        free(r.body);
    }
}

static void method_not_allowed_names_what_is(void **state)
{
    (void)state;
    char  allow[32] = "";
    reply r;
    SAY("GET /v1/retrievals HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(header_of(&r, "Allow", allow, sizeof allow));
    assert_string_equal(allow, "POST");
    free(r.body);
    SAY("POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    EXPECT(r, 405, "method-not-allowed");
    assert_true(header_of(&r, "Allow", allow, sizeof allow));
    assert_string_equal(allow, "GET, HEAD");
    free(r.body);
}

static void head_has_the_headers_of_get_and_no_body(void **state)
{
    (void)state;
    static const char *const path[] = {
        "/livez", "/readyz", "/metrics", "/openapi.json", "/v1/models", "/v1/passages/7", "/v1/passages/7/image"};
    for (size_t i = 0; i < sizeof path / sizeof *path; i++) {
        char buf[128];
        int  fd = dial(S.port);
        snprintf(buf, sizeof buf, "HEAD %s HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
                 path[i]);
        says(fd, buf);
        reply r = hear_one(fd, true), next = hear(fd);
        if (r.status != 200 || r.body_bytes == 0) fail_msg("HEAD %s: %d, %zu bytes", path[i], r.status, r.body_bytes);
        EXPECT(next, 200, NULL); /* had there been a body, this would not be found */
        close(fd);
        free(r.body);
        free(next.body);
    }
}

static void media_types(void **state)
{
    (void)state;
    static const struct { const char *headers; int status; const char *slug;
    } c[] = {
        {"Content-Length: 2\r\n", 415, "media-type-unsupported"},
        {"Content-Type: text/plain\r\nContent-Length: 2\r\n", 415, "media-type-unsupported"},
        {"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n", 415, "media-type-unsupported"},
        {"Content-Type: application/jsonp\r\nContent-Length: 2\r\n", 415, "media-type-unsupported"},
        {"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n", 415,
         "encoding-unsupported"},
        {"Content-Type: application/json\r\nContent-Encoding: br, gzip\r\nContent-Length: 2\r\n", 415,
         "encoding-unsupported"},
        {"Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n", 400,
         "header-conflict"},
        {"Content-Type: application/json\r\n", 411, "length-required"},
        {"Content-Type: multipart/form-data\r\nContent-Length: 2\r\n", 400, "multipart-malformed"},
        {"Content-Type: multipart/form-data; boundary=\"\r\nContent-Length: 2\r\n", 400, "multipart-malformed"},
        {"Content-Type: application/json\r\nExpect: 200-ok\r\nContent-Length: 2\r\n", 417, "expectation-failed"},
        {"Content-Type: application/json\r\nAccept: text/html\r\nContent-Length: 2\r\n", 406, "not-acceptable"},
        {"Content-Type: application/json\r\nAccept: application/*;q=0, text/*;q=0, */*\r\nContent-Length: 2\r\n",
         406, "not-acceptable"},
        {"Content-Type: APPLICATION/JSON; charset=utf-8\r\nAccept: text/html, application/*;q=0.1\r\nContent-Length: 2\r\n",
         400, "field-missing"},
        {"Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n", 400,
         "field-missing"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        reply r;
        SAY("POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\n%s\r\n{}", c[i].headers);
        if (r.status != c[i].status) fail_msg("%s: %d", c[i].headers, r.status);
        EXPECT(r, c[i].status, c[i].slug);
        char types[64];
        if (c[i].slug && strcmp(c[i].slug, "media-type-unsupported") == 0) {
            assert_true(header_of(&r, "Accept-Post", types, sizeof types));
            assert_string_equal(types, "application/json, multipart/form-data");
        }
        free(r.body);
    }
}

static void a_query_string_on_a_post_is_not_ignored(void **state)
{
    (void)state;
    text body = sound_json(""), t = post_json("/v1/diagnoses?k=3", "", body.s);
    text_free(&body);
    reply r = ask_text(S.port, t);
    EXPECT(r, 400, "field-unknown");
    free(r.body);
}

static void a_get_with_a_body_is_refused(void **state)
{
    (void)state;
    reply r;
    SAY("GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    EXPECT(r, 400, "body-unexpected");
    free(r.body);
}

/* ---- headers of answers ---- */

static void request_ids_are_echoed_when_sane_and_made_otherwise(void **state)
{
    (void)state;
    char  id[128] = "";
    reply r;
    SAY("GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a-B.9_z\r\n\r\n");
    assert_true(header_of(&r, "X-Request-Id", id, sizeof id));
    assert_string_equal(id, "a-B.9_z");
    free(r.body);
    static const char *const odd[] = {"a b", "<script>", "",
                                      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        SAY("GET /nowhere HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n", odd[i]);
        assert_true(header_of(&r, "X-Request-Id", id, sizeof id));
        assert_int_equal(strlen(id), 16);
        assert_int_equal(strspn(id, "0123456789abcdef"), 16);
        char instance[160];
        snprintf(instance, sizeof instance, "\"instance\":\"%s\"", id);
        assert_non_null(strstr(r.body, instance));
        free(r.body);
    }
}

static void answers_are_not_stored_and_not_sniffed(void **state)
{
    (void)state;
    char  v[64] = "";
    reply r = ask_text(S.port, sound_request("", ""));
    EXPECT(r, 200, NULL);
    assert_true(header_of(&r, "Cache-Control", v, sizeof v));
    assert_string_equal(v, "no-store");
    assert_true(header_of(&r, "X-Content-Type-Options", v, sizeof v));
    assert_true(header_of(&r, "Content-Type", v, sizeof v));
    assert_string_equal(v, "application/json");
    free(r.body);
    SAY("GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(header_of(&r, "Content-Type", v, sizeof v));
    assert_string_equal(v, "application/problem+json");
    free(r.body);
}

static void a_passage_keeps_its_patient_to_itself(void **state)
{
    (void)state;
    reply r;
    SAY("GET /v1/passages/7 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(r.body, "\"caption\":\"a caption\""));
    assert_null(strstr(r.body, "SECRET"));
    free(r.body);
    SAY("GET /v1/passages/8/image HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_null(strstr(r.body, "/srv/")); /* our own failures stay in the log */
    free(r.body);
}

static void connections_live_on_after_an_answer_and_after_a_bad_field(void **state)
{
    (void)state;
    int  fd = dial(S.port);
    text good = sound_request("", ""), bad = sound_request("", ",\"k\":51");
    for (int i = 0; i < 3; i++) {
        say(fd, good.s, good.len);
        reply r = hear(fd);
        EXPECT(r, 200, NULL);
        free(r.body);
        say(fd, bad.s, bad.len);
        r = hear(fd);
        EXPECT(r, 422, "k-out-of-range");
        EXPECT_FIELD(r, "k");
        free(r.body);
    }
    close(fd);
    text_free(&good);
    text_free(&bad);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    text one = sound_request("X-Request-Id: one\r\n", ""), all = {0};
    text_addn(&all, one.s, one.len);
    text_add(&all, "GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: two\r\n\r\n");
    int fd = dial(S.port);
    say(fd, all.s, all.len);
    reply first = hear(fd), second = hear(fd);
    char  id[16] = "";
    assert_true(header_of(&first, "X-Request-Id", id, sizeof id));
    assert_string_equal(id, "one");
    assert_true(header_of(&second, "X-Request-Id", id, sizeof id));
    assert_string_equal(id, "two");
    close(fd);
    free(first.body);
    free(second.body);
    text_free(&one);
    text_free(&all);
}

static void an_answer_to_an_expecting_client_comes_after_100_continue(void **state)
{
    (void)state;
    text  t = sound_request("Expect: 100-continue\r\n", "");
    char *body = strstr(t.s, "\r\n\r\n") + 4;
    int   fd = dial(S.port);
    char  go[32] = "";
    say(fd, t.s, (size_t)(body - t.s));
    assert_true(recv(fd, go, 25, MSG_WAITALL) == 25);
    assert_string_equal(go, "HTTP/1.1 100 Continue\r\n\r\n");
    says(fd, body);
    reply r = hear(fd);
    EXPECT(r, 200, NULL);
    close(fd);
    free(r.body);
    text_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smuggling_probes_are_refused_and_the_connection_closed),
        cmocka_unit_test(a_too_long_body_is_refused_before_it_is_sent),
        cmocka_unit_test(a_client_that_pushes_a_too_long_body_still_reads_the_413),
        cmocka_unit_test(a_chunked_body_is_stopped_when_it_passes_the_limit),
        cmocka_unit_test(a_too_large_picture_is_refused_when_its_header_has_come),
        cmocka_unit_test(bodies_held_together_are_bounded),
        cmocka_unit_test(too_many_headers_are_refused),
        cmocka_unit_test(a_body_in_single_bytes_is_read_like_any_other),
        cmocka_unit_test(resources_and_methods),
        cmocka_unit_test(method_not_allowed_names_what_is),
        cmocka_unit_test(head_has_the_headers_of_get_and_no_body),
        cmocka_unit_test(media_types),
        cmocka_unit_test(a_query_string_on_a_post_is_not_ignored),
        cmocka_unit_test(a_get_with_a_body_is_refused),
        cmocka_unit_test(request_ids_are_echoed_when_sane_and_made_otherwise),
        cmocka_unit_test(answers_are_not_stored_and_not_sniffed),
        cmocka_unit_test(a_passage_keeps_its_patient_to_itself),
        cmocka_unit_test(connections_live_on_after_an_answer_and_after_a_bad_field),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(an_answer_to_an_expecting_client_comes_after_100_continue),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
