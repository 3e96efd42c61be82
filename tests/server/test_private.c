/* test_private.c - what a request held is nowhere afterwards: not in the log, not in metrics, not in what errors say.
 * And every allocation on the way of a request made to fail: an error each time, and the server serves on. */
#include <fcntl.h>

#include "base/json.h"
#include "base/memory.h"
#include "tests/server/events.h"
#include "tests/server/serving.h"

static serving S;

#define CANARY "c4n4ry"

/* Requests that hold the canary wherever a patient's data could be. */
static text canary_multipart(const char *extra_part)
{
    size_t      n;
    const char *png = picture(&n);
    text        body = {0}, t = {0};
    text_add(&body, "--" CANARY "\r\nContent-Disposition: form-data; name=image; filename=\"" CANARY
                    "-name.png\"\r\n\r\n");
    text_addn(&body, png, n);
    text_add(&body, "\r\n--" CANARY "\r\nContent-Disposition: form-data; name=question\r\n\r\n" CANARY " question\r\n"
                    "--" CANARY "\r\nContent-Disposition: form-data; name=answers\r\n\r\n" CANARY " one\r\n"
                    "--" CANARY "\r\nContent-Disposition: form-data; name=answers\r\n\r\n" CANARY " two\r\n"
                    "--" CANARY "\r\nContent-Disposition: form-data; name=exclude.study\r\n\r\n" CANARY "-study\r\n");
    text_printf(&body, "%s--" CANARY "--\r\n", extra_part);
    text_printf(&t,
                "POST /v1/diagnoses HTTP/1.1\r\nHost: " CANARY ".example\r\nUser-Agent: " CANARY
                "\r\nAuthorization: Bearer " CANARY "\r\nCookie: " CANARY "\r\n"
                "X-Request-Id: " CANARY " not sane\r\ntraceparent: " CANARY "\r\nReferer: http://x/" CANARY "\r\n"
                "Content-Type: multipart/form-data; boundary=" CANARY "\r\nContent-Length: %zu\r\n\r\n",
                body.len);
    text_addn(&t, body.s, body.len);
    text_free(&body);
    return t;
}

static void must_be_silent(int status, text t)
{
    reply r = ask_text(S.port, t);
    if (r.status != status) fail_msg("wanted %d: %d %s", status, r.status, r.body);
    if (status != 200 && (strstr(r.body, CANARY) || strstr(r.head, CANARY)))
        fail_msg("an error repeats the request: %s", r.body);
    free(r.body);
}

/* An open question whose answer is sent as it is made, and how that must end. */
static void follow_stream(const char *last)
{
    text body = {0};
    text_printf(&body, "{\"image\":\"%s\",\"question\":\"" CANARY "?\",\"stream\":true}", picture64());
    text t = post_json("/v1/diagnoses", "", body.s);
    int  fd = dial(S.port);
    say(fd, t.s, t.len);
    text_free(&body);
    text_free(&t);
    events s = hear_stream(fd);
    event  ev = hear_event(&s);
    for (; strcmp(ev.name, "token") == 0; ev = hear_event(&s)) free(ev.data);
    assert_string_equal(ev.name, last);
    if (strcmp(last, "error") == 0) assert_null(strstr(ev.data, CANARY));
    free(ev.data);
    close(fd);
}

static void nothing_a_request_held_is_written_anywhere(void **state)
{
    (void)state;
    char path[] = "/tmp/jomed-test-log-XXXXXX";
    int  log = mkstemp(path), before = dup(STDERR_FILENO);
    serving_defaults(&S);
    serving_start(&S);
    fflush(stderr);
    dup2(log, STDERR_FILENO);
    log_threshold(LOG_DEBUG);

    must_be_silent(200, canary_multipart(""));
    must_be_silent(422, canary_multipart("--" CANARY "\r\nContent-Disposition: form-data; name=k\r\n\r\n99\r\n"));
    must_be_silent(
        400, canary_multipart("--" CANARY "\r\nContent-Disposition: form-data; name=k\r\n\r\n" CANARY "\r\n"));
    must_be_silent(400, canary_multipart("--" CANARY "\r\nContent-Disposition: form-data; name=\"" CANARY
                                         " name\"\r\n\r\n\r\n"));
    must_be_silent(400, canary_multipart(CANARY));
    must_be_silent(400, post_json("/v1/diagnoses", "", "{\"question\": \"" CANARY "\", " CANARY "}"));
    must_be_silent(400, post_json("/v1/diagnoses", "", "{\"image\": \"" CANARY "??\"}"));
    must_be_silent(400, post_json("/v1/diagnoses?patient=" CANARY, "", "{}"));
    must_be_silent(404, post_json("/" CANARY, "", "{}"));
    fake_texts(CANARY " answered", 2, INT_MAX, ERR_NONE);
    follow_stream("answer");
    fake_texts(CANARY " answered", 2, INT_MAX, ERR_BUG);
    follow_stream("error");
    fake_texts("text", 2, INT_MAX, ERR_NONE);
    fake_fail(ERR_BUG, "a failure");
    must_be_silent(500, canary_multipart(""));
    fake_fail(ERR_NONE, "");
    reply m = ask(S.port, "GET /metrics?" CANARY "=" CANARY " HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_null(strstr(m.body, CANARY));
    free(m.body);
    serving_stop(&S);

    dup2(before, STDERR_FILENO);
    close(before);
    log_threshold((log_level)(LOG_ERROR + 1));
    char  *s;
    size_t n;
    err    e = {0};
    OK(file_read(&s, &n, path, 1 << 20, &e), e);
    close(log);
    unlink(path);
    if (strstr(s, CANARY)) fail_msg("the log holds request content: %s", s);
    assert_null(strstr(s, "dropped_field")); /* every field that is logged is on the list of log.c */
    int lines = 0;
    for (char *l = s, *nl; (nl = strchr(l, '\n')) != NULL; l = nl + 1) {
        json_t *o = json_loadb(l, (size_t)(nl - l), JSON_REJECT_DUPLICATES, NULL);
        if (!o) fail_msg("not JSON: %.*s", (int)(nl - l), l);
        if (strcmp(json_string_value(json_object_get(o, "event")), "request") == 0) {
            assert_true(json_is_string(json_object_get(o, "request")) && json_is_string(json_object_get(o, "route")));
            assert_true(json_is_integer(json_object_get(o, "status"))
                        && json_is_number(json_object_get(o, "total_ms")));
            lines++;
        }
        json_decref(o);
    }
    assert_int_equal(lines, 13);
    free(s);
}

static void every_failed_allocation_is_an_answer_and_the_server_serves_on(void **state)
{
    (void)state;
    json_use_our_memory();
    serving_defaults(&S);
    S.cfg.workers = 1;
    S.cfg.http_threads = 1;
    serving_start(&S);
    text good = sound_request("", ""), form = canary_multipart("");
    static const char *const gets[] = {
        "GET /v1/passages/7 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/passages/7/image HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",     "GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",       "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"};
    for (int kind = 0; kind < 8; kind++) {
        bool ok = false;
        int  failures = 0;
        for (long n = 0; !ok && n < 2000; n++) {
            int fd = dial(S.port);
            mem_fail_after(n);
            if (kind == 0) say(fd, good.s, good.len);
            else if (kind == 1) say(fd, form.s, form.len);
            else says(fd, gets[kind - 2]);
            reply r = hear(fd);
            long  calls = mem_fail_after(-1);
            close(fd);
            free(r.body);
            ok = r.status == 200 && calls <= n; /* none was refused */
            if (r.status != 200) {
                failures++;
                if (r.status != 503) fail_msg("kind %d, allocation %ld: %d", kind, n, r.status);
            }
        }
        if (!ok || failures == 0) fail_msg("kind %d: %d failures, and never an answer", kind, failures);
        reply r = ask(S.port, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        EXPECT(r, 200, NULL);
        free(r.body);
    }
    text_free(&good);
    text_free(&form);
    serving_stop(&S);
}

/* The same for an answer that is sent as it is made: before its first event a 503, behind it an error event,
 * never half an event and never an end without a last one. */
static void every_failed_allocation_of_a_stream_is_told(void **state)
{
    (void)state;
    json_use_our_memory();
    serving_defaults(&S);
    S.cfg.workers = 1;
    S.cfg.http_threads = 1;
    serving_start(&S);
    text body = {0};
    text_printf(&body, "{\"image\":\"%s\",\"question\":\"q\",\"stream\":true}", picture64());
    text t = post_json("/v1/diagnoses", "", body.s);
    bool ok = false;
    int  before = 0, behind = 0;
    for (long n = 0; !ok && n < 2000; n++) {
        int   fd = dial(S.port);
        reply r = {0};
        char  type[64] = "";
        mem_fail_after(n);
        say(fd, t.s, t.len);
        assert_true(hear_head(fd, &r));
        header_of(&r, "Content-Type", type, sizeof type);
        if (strcmp(type, "text/event-stream") == 0) {
            events s = {.fd = fd, .chunked = true};
            event  ev = hear_event(&s);
            for (; strcmp(ev.name, "token") == 0; ev = hear_event(&s)) free(ev.data);
            if (strcmp(ev.name, "answer") == 0) ok = mem_fail_after(-1) <= n;
            else if (strcmp(ev.name, "error") == 0 && strstr(ev.data, "out-of-memory")) behind++;
            else fail_msg("allocation %ld: '%s' %s", n, ev.name, ev.data);
            free(ev.data);
            ev = hear_event(&s);
            assert_true(!ev.name[0] && !s.broken);
            free(ev.data);
        } else {
            hear_body(fd, &r, false);
            EXPECT(r, 503, "out-of-memory");
            before++;
            free(r.body);
        }
        mem_fail_after(-1);
        close(fd);
    }
    if (!ok || before == 0 || behind == 0)
        fail_msg("%d failures before and %d behind the first event", before, behind);
    text_free(&body);
    text_free(&t);
    serving_stop(&S);
}

static void a_server_that_cannot_get_its_memory_does_not_start(void **state)
{
    (void)state;
    bool ok = false;
    serving_defaults(&S);
    signal(SIGPIPE, SIG_IGN);
    json_use_our_memory();
    for (long n = 0; !ok && n < 5000; n++) {
        err e = {0};
        int fd;
        OK(server_bind(&fd, &S.port, &S.cfg, &e), e);
        mem_fail_after(n);
        ok = server_open(&S.s, &S.cfg, &S.en, S.kerns, fd, &e);
        mem_fail_after(-1);
        if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
    }
    assert_true(ok);
    serving_stop(&S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_a_request_held_is_written_anywhere),
        cmocka_unit_test(every_failed_allocation_is_an_answer_and_the_server_serves_on),
        cmocka_unit_test(every_failed_allocation_of_a_stream_is_told),
        cmocka_unit_test(a_server_that_cannot_get_its_memory_does_not_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
