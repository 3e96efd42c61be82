/* test_stream.c - answers sent as they are made: the framing of events, who sleeps and who is woken, clients
 * that lag, leave or come in crowds, failures before and behind the first event, deadlines, draining. The fake
 * engine emits when a test says so. */
#include "base/json.h"
#include "base/memory.h"
#include "server/stream.h"
#include "tests/server/events.h"
#include "tests/server/serving.h"

static serving S;

/* ---- the stream alone ---- */

typedef struct { int sleeps, wakes; } counts;
static void count_sleep(void *owner) { ((counts *)owner)->sleeps++; }
static void count_wake(void *owner) { ((counts *)owner)->wakes++; }

static stream *new_stream(counts *c, int fd)
{
    err           e = {0};
    stream       *s;
    stream_reader r = {count_sleep, count_wake, c, fd};
    *c = (counts){0};
    OK(stream_new(&s, &r, &e), e);
    return s;
}

/* All that there is, in pieces of so many bytes, until the reader sleeps or the end; what that was. */
static ssize_t take_all(stream *s, text *got, size_t piece)
{
    char    buf[4096];
    ssize_t n;
    while ((n = stream_take(s, buf, piece)) > 0) text_addn(got, buf, (size_t)n);
    return n;
}

static response answer_of(const char *body)
{
    response r = {.status = 200, .media = "application/json"};
    r.bytes = (size_t)snprintf(r.small, sizeof r.small, "%s", body);
    return r;
}

static void events_are_framed_and_escaped_however_they_are_taken(void **state)
{
    (void)state;
    static const size_t piece[] = {1, 2, 7, 4096};
    for (size_t i = 0; i < sizeof piece / sizeof *piece; i++) {
        err      e = {0};
        counts   c;
        stream  *s = new_stream(&c, -1);
        response last = answer_of("{\"answer\":\"x\"}");
        text     got = {0};
        assert_false(stream_begun(s));
        OK(stream_token(s, "a\nb\"\\\r\x01", 7, &e), e);
        OK(stream_token(s, "\xc3\xb6", 2, &e), e);
        assert_true(stream_begun(s));
        assert_int_equal(take_all(s, &got, piece[i]), STREAM_SLEEPS);
        OK(stream_token(s, "", 0, &e), e);
        assert_int_equal(take_all(s, &got, piece[i]), STREAM_SLEEPS);
        stream_close(s, &last);
        assert_int_equal(take_all(s, &got, piece[i]), STREAM_ENDED);
        assert_int_equal(stream_take(s, last.small, 1), STREAM_ENDED);
        assert_string_equal(got.s, "event: token\ndata: {\"text\":\"a\\nb\\\"\\\\\\r\\u0001\"}\n\n"
                                   "event: token\ndata: {\"text\":\"\xc3\xb6\"}\n\n"
                                   "event: token\ndata: {\"text\":\"\"}\n\n"
                                   "event: answer\ndata: {\"answer\":\"x\"}\n\n");
        assert_int_equal(c.wakes, 3); /* it slept at the start, and twice when nothing was there */
        assert_int_equal(c.sleeps, 2);
        text_free(&got);
        stream_free(s);
    }
}

static void a_reader_is_woken_once_for_each_time_it_slept(void **state)
{
    (void)state;
    err      e = {0};
    counts   c;
    stream  *s = new_stream(&c, -1);
    response last = answer_of("{}");
    text     got = {0};
    for (int i = 0; i < 5; i++) OK(stream_token(s, "t", 1, &e), e);
    assert_int_equal(c.wakes, 1);
    take_all(s, &got, 10);
    assert_int_equal(c.sleeps, 1);
    for (int i = 0; i < 5; i++) OK(stream_token(s, "t", 1, &e), e);
    assert_int_equal(c.wakes, 2);
    stream_close(s, &last); /* it is awake */
    assert_int_equal(c.wakes, 2);
    text_free(&got);
    stream_free(s);
}

static void what_ends_a_stream_depends_on_whether_it_has_begun(void **state)
{
    (void)state;
    static const struct { int tokens; bool answered, begun; const char *end;
    } t[] = {{0, false, false, ""},
             {1, false, true, "event: error\ndata: {\"type\":\"urn:jomed:problem:deadline-passed\""},
             {0, true, true, "event: answer\ndata: {}\n\n"},
             {1, true, true, "event: answer\ndata: {}\n\n"}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        err      e = {0};
        counts   c;
        stream  *s = new_stream(&c, -1);
        response last = answer_of("{}");
        text     got = {0};
        if (!t[i].answered) respond_problem(&last, "deadline-passed", NULL, "id");
        for (int k = 0; k < t[i].tokens; k++) OK(stream_token(s, "t", 1, &e), e);
        stream_close(s, &last);
        assert_int_equal(c.wakes, 1);
        assert_int_equal(stream_begun(s), t[i].begun);
        assert_int_equal(take_all(s, &got, 4096), STREAM_ENDED);
        text_add(&got, "");
        const char *end = strstr(got.s, t[i].end);
        if (!end || (!t[i].tokens && end != got.s)) fail_msg("%zu: %s", i, got.s);
        if (t[i].begun) assert_string_equal(got.s + got.len - 2, "\n\n");
        else assert_int_equal(got.len, 0);
        text_free(&got);
        stream_free(s);
    }
}

static void a_reader_that_lags_is_given_up_and_holds_no_more_memory(void **state)
{
    (void)state;
    static char big[1000];
    err      e = {0};
    counts   c;
    stream  *s = new_stream(&c, -1);
    response last = {.status = 499};
    int      n = 0;
    char     buf[16];
    memset(big, 'x', sizeof big);
    while (stream_token(s, big, sizeof big, &e)) assert_true(++n < 100);
    assert_int_equal(e.code, ERR_BUSY);
    assert_non_null(strstr(e.text, "too slow"));
    assert_int_equal(n, STREAM_BYTES / (sizeof big + strlen("event: token\ndata: {\"text\":\"\"}\n\n")));
    assert_true(stream_lost(s));
    e = (err){0};
    FAILS(stream_token(s, "t", 1, &e), e, ERR_BUSY, "has gone");
    assert_int_equal(c.wakes, 1);
    /* not an end: the client must see that something is missing */
    assert_int_equal(stream_take(s, buf, sizeof buf), STREAM_DROPPED);
    stream_close(s, &last);
    assert_int_equal(stream_take(s, buf, sizeof buf), STREAM_DROPPED);
    stream_free(s);
}

/* One that keeps up may take any number of bytes. */
static void a_reader_that_keeps_up_is_never_given_up(void **state)
{
    (void)state;
    static char big[1000];
    err     e = {0};
    counts  c;
    stream *s = new_stream(&c, -1);
    size_t  all = 0;
    memset(big, 'x', sizeof big);
    for (int i = 0; i < 500; i++) {
        text got = {0};
        OK(stream_token(s, big, sizeof big, &e), e);
        if (i % 50 == 49) take_all(s, &got, 4096);
        all += got.len;
        text_free(&got);
    }
    assert_int_equal(all, 500 * (sizeof big + strlen("event: token\ndata: {\"text\":\"\"}\n\n")));
    stream_free(s);
}

static void a_reader_that_left_is_not_woken(void **state)
{
    (void)state;
    err      e = {0};
    counts   c;
    stream  *s = new_stream(&c, -1);
    response last = answer_of("{}");
    OK(stream_token(s, "t", 1, &e), e);
    stream_leave(s);
    FAILS(stream_token(s, "t", 1, &e), e, ERR_BUSY, "has gone");
    stream_close(s, &last);
    assert_int_equal(c.wakes, 1);
    assert_true(stream_lost(s));
    stream_free(s);
}

static void a_client_that_closed_or_half_closed_is_gone(void **state)
{
    (void)state;
    for (int half = 0; half < 2; half++) {
        int      pair[2];
        err      e = {0};
        counts   c;
        response last = {.status = 499};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        stream *s = new_stream(&c, pair[0]);
        OK(stream_token(s, "t", 1, &e), e);
        if (half) shutdown(pair[1], SHUT_WR);
        else close(pair[1]);
        FAILS(stream_token(s, "t", 1, &e), e, ERR_BUSY, "has gone");
        stream_close(s, &last);
        stream_free(s);
        close(pair[0]);
        if (half) close(pair[1]);
    }
}

static void a_token_without_memory_is_whole_or_not_there(void **state)
{
    (void)state;
    json_use_our_memory();
    bool ok = false;
    int  failures = 0;
    for (long n = 0; !ok && n < 100; n++) {
        err      e = {0}, later = {0};
        counts   c;
        stream  *s = new_stream(&c, -1);
        response last = answer_of("{}");
        text     got = {0};
        OK(stream_token(s, "first", 5, &later), later);
        mem_fail_after(n);
        bool token = stream_token(s, "second", 6, &e);
        ok = mem_fail_after(-1) <= n;
        if (!token) {
            assert_int_equal(e.code, ERR_MEMORY);
            failures++;
        }
        OK(stream_token(s, "third", 5, &later), later);
        stream_close(s, &last);
        take_all(s, &got, 4096);
        assert_string_equal(
            got.s, token
                       ? "event: token\ndata: {\"text\":\"first\"}\n\nevent: token\ndata: {\"text\":\"second\"}\n\n"
                         "event: token\ndata: {\"text\":\"third\"}\n\nevent: answer\ndata: {}\n\n"
                       : "event: token\ndata: {\"text\":\"first\"}\n\n"
                         "event: token\ndata: {\"text\":\"third\"}\n\nevent: answer\ndata: {}\n\n");
        text_free(&got);
        stream_free(s);
    }
    assert_true(ok && failures > 0);
}

/* ---- over the wire ---- */

static const char TOKEN[] = "{\"text\":\"w\xc3\xb6rd \\\"1\\\"\\n\"}"; /* what the fake engine emits */
#define TEXT "w\xc3\xb6rd \"1\"\n"

static void begin(int workers)
{
    serving_defaults(&S);
    S.cfg.workers = workers;
    S.cfg.queue = 64;
    S.cfg.http_threads = 2;
    serving_start(&S);
    fake_texts(TEXT, 3, INT_MAX, ERR_NONE);
}

static void end(void)
{
    fake_allow(INT_MAX);
    fake_set(false);
    serving_stop(&S);
    fake_texts(TEXT, 3, INT_MAX, ERR_NONE);
    fake_fail(ERR_NONE, "");
}

static text open_request(const char *headers, const char *extra)
{
    text body = {0};
    text_printf(&body, "{\"image\":\"%s\",\"question\":\"What is it?\"%s}", picture64(), extra);
    text t = post_json("/v1/diagnoses", headers, body.s);
    text_free(&body);
    return t;
}

static int send_open(const char *headers, const char *extra)
{
    int  fd = dial(S.port);
    text t = open_request(headers, extra);
    assert_true(say(fd, t.s, t.len));
    text_free(&t);
    return fd;
}

static void expect_event(events *s, const char *name, const char *data)
{
    event ev = hear_event(s);
    if (strcmp(ev.name, name) != 0 || (data && strcmp(ev.data, data) != 0))
        fail_msg("wanted %s %s, got %s %s", name, data ? data : "", ev.name, ev.data);
    free(ev.data);
}

static void expect_end(events *s)
{
    event ev = hear_event(s);
    if (ev.name[0] || s->broken) fail_msg("the stream does not end: %s %s", ev.name, ev.data);
    free(ev.data);
}

static double metric(const char *name) { return serving_metric(&S, name); }
static void   wait_for(const char *name, double value) { serving_wait_for(&S, name, value); }

static void a_stream_is_the_tokens_and_then_the_answer_that_others_get(void **state)
{
    (void)state;
    static const char id[] = "X-Request-Id: the-same\r\n";
    begin(1);
    int   fd = send_open(id, "");
    reply whole = hear(fd);
    EXPECT(whole, 200, NULL);
    close(fd);
    fd = send_open(id, ",\"stream\":true");
    for (int again = 0; again < 2; again++) { /* the connection lives on */
        events s = hear_stream(fd);
        assert_true(s.chunked);
        for (int i = 0; i < 3; i++) expect_event(&s, "token", TOKEN);
        expect_event(&s, "answer", whole.body);
        expect_end(&s);
        text t = open_request(id, ",\"stream\":true");
        if (again == 0) assert_true(say(fd, t.s, t.len));
        text_free(&t);
    }
    close(fd);
    assert_non_null(strstr(whole.body, "\"answer\":\"w\xc3\xb6rd \\\"1\\\"\\n"));
    free(whole.body);
    wait_for(COUNTED(200), 3);
    assert_true(metric("jomed_streams_total") == 2);
    assert_true(metric("jomed_stream_token_events_total") == 6);
    assert_true(metric("jomed_streams_open") == 0);
    end();
}

static void tokens_arrive_as_they_are_emitted(void **state)
{
    (void)state;
    begin(1);
    fake_texts(TEXT, 4, 0, ERR_NONE);
    int    fd = send_open("", ",\"stream\":true");
    events s = {0};
    for (int i = 1; i <= 4; i++) {
        fake_allow(i); /* the next is not made before this one has been read */
        if (i == 1) s = hear_stream(fd);
        expect_event(&s, "token", TOKEN);
        if (i < 4) assert_true(metric("jomed_streams_open") == 1);
    }
    expect_event(&s, "answer", NULL);
    expect_end(&s);
    close(fd);
    end();
}

static void field_and_accept_header_choose_the_form(void **state)
{
    (void)state;
    static const char yes_no[] = ",\"answers\":[\"Yes\",\"No\"]";
    static const struct { const char *headers, *extra; int status; const char *slug, *field; } c[] = {
        {"", "", 200, NULL, NULL},
        {"Accept: */*\r\n", "", 200, NULL, NULL},
        {"Accept: text/event-stream\r\n", "", 0, NULL, NULL},
        {"Accept: text/event-stream, */*;q=0.1\r\n", "", 0, NULL, NULL},
        {"Accept: application/json, text/event-stream\r\n", "", 200, NULL, NULL},
        {"Accept: text/event-stream;q=0.5, application/json\r\n", "", 200, NULL, NULL},
        {"Accept: text/html\r\n", "", 406, "not-acceptable", NULL},
        /* the field says what is wanted, and Accept only what can be taken */
        {"", ",\"stream\":true", 0, NULL, NULL},
        {"Accept: application/json\r\n", ",\"stream\":true", 0, NULL, NULL},
        {"Accept: text/event-stream\r\n", ",\"stream\":false", 406, "not-acceptable", NULL},
        /* only an open question has a stream */
        {"", ",\"stream\":true,\"answers\":[\"Yes\",\"No\"]", 422, "field-conflict", "stream"},
        {"", ",\"stream\":true,\"labels\":[\"a\"]", 422, "field-conflict", "stream"},
        {"", ",\"stream\":false,\"answers\":[\"Yes\",\"No\"]", 200, NULL, NULL},
        {"Accept: text/event-stream\r\n", yes_no, 406, "not-acceptable", NULL},
        {"Accept: text/event-stream, */*;q=0.1\r\n", yes_no, 200, NULL, NULL},
    };
    begin(1);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int fd = send_open(c[i].headers, c[i].extra);
        if (c[i].status == 0) {
            events s = hear_stream(fd);
            for (int k = 0; k < 3; k++) expect_event(&s, "token", TOKEN);
            expect_event(&s, "answer", NULL);
            expect_end(&s);
        } else {
            reply r = hear(fd);
            char  want[64] = "", type[64];
            EXPECT(r, c[i].status, c[i].slug);
            snprintf(want, sizeof want, "\"field\":\"%s\"", c[i].field ? c[i].field : "");
            if (c[i].field && !strstr(r.body, want)) fail_msg("wanted %s: %s", want, r.body);
            assert_true(header_of(&r, "Content-Type", type, sizeof type));
            assert_string_equal(type, c[i].status == 200 ? "application/json" : "application/problem+json");
            free(r.body);
        }
        close(fd);
    }
    end();
}

static void a_failure_before_the_first_event_is_an_ordinary_problem(void **state)
{
    (void)state;
    begin(1);
    fake_fail(ERR_UNUSABLE, "for a reason");
    int   fd = send_open("", ",\"stream\":true");
    reply r = hear(fd);
    EXPECT(r, 422, "unusable");
    free(r.body);
    close(fd);
    fake_fail(ERR_NONE, "");
    fake_texts(TEXT, 0, 0, ERR_MEMORY); /* not one token, then this */
    fd = send_open("", ",\"stream\":true");
    r = hear(fd);
    EXPECT(r, 503, "out-of-memory");
    char retry[16];
    assert_true(header_of(&r, "Retry-After", retry, sizeof retry));
    free(r.body);
    close(fd);
    wait_for(COUNTED(422), 1);
    wait_for(COUNTED(503), 1);
    assert_true(metric("jomed_streams_total") == 0);
    end();
}

static void a_failure_behind_the_first_event_is_an_error_event(void **state)
{
    (void)state;
    static const struct { err_code code; const char *slug, *status; bool told;
    } c[] = {{ERR_UNUSABLE, "unusable", COUNTED(422), true},
             {ERR_BUG, "internal", COUNTED(500), false},
             {ERR_FILE, "server-data", COUNTED(500), false}};
    begin(1);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        fake_texts(TEXT, 2, INT_MAX, c[i].code);
        fake_fail(ERR_NONE, "/srv/models/secret.safetensors");
        int    fd = send_open("X-Request-Id: mine\r\n", ",\"stream\":true");
        events s = hear_stream(fd);
        for (int k = 0; k < 2; k++) expect_event(&s, "token", TOKEN);
        event ev = hear_event(&s);
        assert_string_equal(ev.name, "error");
        json_t *o = json_loads(ev.data, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(o);
        char type[64];
        snprintf(type, sizeof type, "urn:jomed:problem:%s", c[i].slug);
        assert_string_equal(json_string_value(json_object_get(o, "type")), type);
        assert_string_equal(json_string_value(json_object_get(o, "instance")), "mine");
        assert_int_equal(strstr(ev.data, "/srv") != NULL, c[i].told);
        json_decref(o);
        free(ev.data);
        expect_end(&s);
        close(fd);
        wait_for(c[i].status, i == 2 ? 2 : 1); /* counted as what it was, though its head said 200 */
    }
    end();
}

static void an_answer_without_a_token_is_a_stream_of_one_event(void **state)
{
    (void)state;
    begin(1);
    fake_texts("", 0, 0, ERR_NONE);
    int    fd = send_open("", ",\"stream\":true");
    events s = hear_stream(fd);
    expect_event(&s, "answer", NULL);
    expect_end(&s);
    close(fd);
    end();
}

static void a_deadline_ends_a_stream_with_an_error_event(void **state)
{
    (void)state;
    begin(1);
    fake_texts(TEXT, 3, 1, ERR_NONE);
    int    fd = send_open("", ",\"stream\":true,\"deadline_ms\":500");
    events s = hear_stream(fd);
    expect_event(&s, "token", TOKEN);
    event ev = hear_event(&s);
    assert_string_equal(ev.name, "error");
    assert_non_null(strstr(ev.data, "urn:jomed:problem:deadline-passed"));
    assert_non_null(strstr(ev.data, "\"field\":\"deadline_ms\""));
    free(ev.data);
    expect_end(&s);
    close(fd);
    wait_for(COUNTED(504), 1);
    end();
}

static void a_client_that_leaves_stops_the_work(void **state)
{
    (void)state;
    static const char *const how[] = {"reset", "close", "half-close"};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        begin(1);
        fake_texts(TEXT, 1000000, 1, ERR_NONE);
        int           fd = send_open("", ",\"stream\":true");
        struct linger hard = {1, 0};
        events        s = hear_stream(fd);
        expect_event(&s, "token", TOKEN);
        if (i == 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        if (i == 2) shutdown(fd, SHUT_WR);
        else close(fd);
        fake_allow(INT_MAX);
        fake_wait_stopped(1); /* not all of the million */
        if (i == 2) {
            event ev;
            do { ev = hear_event(&s); free(ev.data); } while (ev.name[0]);
            assert_true(s.broken); /* it sees that the answer is not whole */
            close(fd);
        }
        wait_for("jomed_inflight_requests", 1); /* the one that asks */
        wait_for(COUNTED(499), 1);
        assert_true(metric("jomed_streams_open") == 0);
        fake_texts(TEXT, 3, INT_MAX, ERR_NONE);
        fd = send_open("", ""); /* the worker is free again */
        reply r = hear(fd);
        EXPECT(r, 200, NULL);
        free(r.body);
        close(fd);
        end();
    }
}

static void a_client_that_leaves_before_the_first_token_is_noticed_at_it(void **state)
{
    (void)state;
    begin(1);
    fake_set(true);
    int fd = send_open("", ",\"stream\":true");
    fake_wait_inside(1);
    close(fd);
    usleep(20000); /* until the end has reached the server's socket; earlier, and it is noticed a token later */
    fake_texts(TEXT, 1000000, INT_MAX, ERR_NONE);
    fake_set(false);
    fake_wait_stopped(1);
    wait_for(COUNTED(499), 1);
    wait_for("jomed_inflight_requests", 1);
    end();
}

/* The worker must not wait for it, and what it has not taken must not pile up. */
static void a_client_that_does_not_read_is_given_up(void **state)
{
    (void)state;
    static char big[4001];
    int         small = 4096;
    begin(1);
    memset(big, 'x', sizeof big - 1);
    fake_texts(big, 100000, INT_MAX, ERR_NONE); /* 400 MB: no socket holds that */
    int fd = dial(S.port);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    text t = open_request("", ",\"stream\":true");
    assert_true(say(fd, t.s, t.len));
    text_free(&t);
    fake_wait_stopped(1);
    wait_for("jomed_inflight_requests", 1); /* its connection too has ended, though it never read */
    wait_for(COUNTED(499), 1);
    close(fd);
    end();
}

static void a_stream_is_finished_while_the_server_drains(void **state)
{
    (void)state;
    begin(1);
    fake_texts(TEXT, 3, 1, ERR_NONE);
    int    fd = send_open("", ",\"stream\":true");
    events s = hear_stream(fd);
    expect_event(&s, "token", TOKEN);
    server_drain_begin(S.s);
    for (int i = 0; i < 5; i++) assert_int_equal(server_drain_step(S.s, 1), DRAINING);
    fake_allow(3);
    for (int i = 0; i < 2; i++) expect_event(&s, "token", TOKEN);
    expect_event(&s, "answer", NULL);
    expect_end(&s);
    drain_state d;
    while ((d = server_drain_step(S.s, 1)) == DRAINING) { }
    assert_int_equal(d, DRAINED);
    server_close(S.s);
    close(fd);
}

static void a_client_of_http_1_0_gets_the_events_until_the_end_of_the_connection(void **state)
{
    (void)state;
    begin(1);
    text t = open_request("", ",\"stream\":true");
    memcpy(strstr(t.s, "HTTP/1.1"), "HTTP/1.0", 8);
    int fd = dial(S.port);
    assert_true(say(fd, t.s, t.len));
    text_free(&t);
    events s = hear_stream(fd);
    assert_false(s.chunked);
    for (int i = 0; i < 3; i++) expect_event(&s, "token", TOKEN);
    expect_event(&s, "answer", NULL);
    expect_end(&s);
    close(fd);
    end();
}

static void a_full_queue_refuses_a_stream_like_any_request(void **state)
{
    (void)state;
    serving_defaults(&S);
    S.cfg.workers = 1;
    S.cfg.queue = 1;
    serving_start(&S);
    fake_set(true);
    int running = send_open("", ",\"stream\":true");
    fake_wait_inside(1);
    text t = open_request("", ",\"stream\":true"); /* its head comes while there is room, its end when there is
                                                      none */
    int  late = dial(S.port);
    say(late, t.s, t.len - 1);
    wait_for("jomed_inflight_requests", 3);
    int waiting = send_open("", ",\"stream\":true");
    wait_for("jomed_queue_depth", 1);
    say(late, t.s + t.len - 1, 1);
    reply r = hear(late);
    EXPECT(r, 503, "busy");
    free(r.body);
    text_free(&t);
    close(late);
    fake_set(false);
    int fd[] = {running, waiting};
    for (int i = 0; i < 2; i++) {
        events s = hear_stream(fd[i]);
        for (int k = 0; k < 3; k++) expect_event(&s, "token", TOKEN);
        expect_event(&s, "answer", NULL);
        expect_end(&s);
        close(fd[i]);
    }
    end();
}

enum { CLIENTS = 16, EACH = 10 };

static void *follow(void *arg)
{
    long bad = 0;
    int  fd = dial(S.port);
    (void)arg;
    for (int i = 0; i < EACH; i++) {
        char id[32], line[64], want[64];
        snprintf(id, sizeof id, "c%lu-%d", (unsigned long)pthread_self() % 100000, i);
        snprintf(line, sizeof line, "X-Request-Id: %s\r\n", id);
        snprintf(want, sizeof want, "{\"request_id\":\"%s\"", id);
        text t = open_request(line, ",\"stream\":true");
        say(fd, t.s, t.len);
        text_free(&t);
        events s = hear_stream(fd);
        for (int k = 0;; k++) {
            event ev = hear_event(&s);
            bool  token = strcmp(ev.name, "token") == 0;
            if (token ? strcmp(ev.data, TOKEN) != 0
                      : k != 40 || strcmp(ev.name, "answer") != 0 || strncmp(ev.data, want, strlen(want)) != 0)
                bad++;
            free(ev.data);
            if (!token) break;
        }
        expect_end(&s);
    }
    close(fd);
    return (void *)bad;
}

static void sixteen_clients_get_each_their_own_stream(void **state)
{
    (void)state;
    pthread_t t[CLIENTS];
    begin(4);
    fake_texts(TEXT, 40, INT_MAX, ERR_NONE);
    picture64(); /* made before the threads share it */
    for (int i = 0; i < CLIENTS; i++) assert_int_equal(pthread_create(&t[i], NULL, follow, NULL), 0);
    for (int i = 0; i < CLIENTS; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        assert_ptr_equal(bad, NULL);
    }
    wait_for(COUNTED(200), CLIENTS * EACH);
    wait_for("jomed_inflight_requests", 1);
    assert_true(metric("jomed_streams_open") == 0);
    end();
}

/* Half of them leave in the middle of their streams, each somewhere else. */
static void *follow_a_while(void *arg)
{
    for (int i = 0; i < EACH; i++) {
        int    fd = send_open("", ",\"stream\":true");
        events s = hear_stream(fd);
        for (int k = 0; k < (i * 7 + (int)(intptr_t)arg) % 40; k++) free(hear_event(&s).data);
        close(fd);
    }
    return NULL;
}

static void leaving_in_a_crowd_disturbs_nobody(void **state)
{
    (void)state;
    pthread_t t[CLIENTS];
    begin(4);
    fake_texts(TEXT, 40, INT_MAX, ERR_NONE);
    picture64();
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, i % 2 ? follow : follow_a_while, (void *)(intptr_t)i), 0);
    for (int i = 0; i < CLIENTS; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        assert_ptr_equal(bad, NULL);
    }
    wait_for("jomed_inflight_requests", 1);
    assert_true(metric("jomed_streams_open") == 0);
    assert_true(metric("jomed_request_body_bytes") == 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_are_framed_and_escaped_however_they_are_taken),
        cmocka_unit_test(a_reader_is_woken_once_for_each_time_it_slept),
        cmocka_unit_test(what_ends_a_stream_depends_on_whether_it_has_begun),
        cmocka_unit_test(a_reader_that_lags_is_given_up_and_holds_no_more_memory),
        cmocka_unit_test(a_reader_that_keeps_up_is_never_given_up),
        cmocka_unit_test(a_reader_that_left_is_not_woken),
        cmocka_unit_test(a_client_that_closed_or_half_closed_is_gone),
        cmocka_unit_test(a_token_without_memory_is_whole_or_not_there),
        cmocka_unit_test(a_stream_is_the_tokens_and_then_the_answer_that_others_get),
        cmocka_unit_test(tokens_arrive_as_they_are_emitted),
        cmocka_unit_test(field_and_accept_header_choose_the_form),
        cmocka_unit_test(a_failure_before_the_first_event_is_an_ordinary_problem),
        cmocka_unit_test(a_failure_behind_the_first_event_is_an_error_event),
        cmocka_unit_test(an_answer_without_a_token_is_a_stream_of_one_event),
        cmocka_unit_test(a_deadline_ends_a_stream_with_an_error_event),
        cmocka_unit_test(a_client_that_leaves_stops_the_work),
        cmocka_unit_test(a_client_that_leaves_before_the_first_token_is_noticed_at_it),
        cmocka_unit_test(a_client_that_does_not_read_is_given_up),
        cmocka_unit_test(a_stream_is_finished_while_the_server_drains),
        cmocka_unit_test(a_client_of_http_1_0_gets_the_events_until_the_end_of_the_connection),
        cmocka_unit_test(a_full_queue_refuses_a_stream_like_any_request),
        cmocka_unit_test(sixteen_clients_get_each_their_own_stream),
        cmocka_unit_test(leaving_in_a_crowd_disturbs_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
