/* test_slow.c - clients that take too long. The limits are set to a fraction of a second; the tests wait for
 * what must happen, and never measure how long it took. */
#include "tests/server/serving.h"

static serving S;

static void begin(void)
{
    serving_defaults(&S);
    S.cfg.read_timeout_ms = 300;
    S.cfg.idle_timeout_ms = 300;
    S.cfg.write_timeout_ms = 60000;
    serving_start(&S);
}

/* Bytes one at a time, at most as fast as one in 20 ms, until the other side has had enough. */
static void trickle(int fd, const char *s)
{
    for (; *s; s++) {
        char c;
        if (!say(fd, s, 1)) return;
        usleep(20000);
        if (recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) return; /* an answer, or the end */
    }
    fail_msg("a request that took for ever was read to its end");
}

static void a_body_that_trickles_is_answered_408_and_closed(void **state)
{
    (void)state;
    begin();
    int fd = dial(S.port);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nX-Request-Id: slow-one\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n");
    char spaces[2001];
    memset(spaces, ' ', 2000), spaces[2000] = 0;
    trickle(fd, spaces);
    reply r = hear(fd);
    char  id[16] = "";
    EXPECT(r, 408, "request-timeout");
    assert_true(header_of(&r, "X-Request-Id", id, sizeof id));
    assert_string_equal(id, "slow-one");
    assert_true(is_ended(fd));
    close(fd);
    free(r.body);
    serving_wait_for(&S, COUNTED(408), 1); /* as what it was */
    serving_stop(&S);
}

static void a_body_that_stops_is_answered_408_and_closed(void **state)
{
    (void)state;
    begin();
    int fd = dial(S.port);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000\r\n\r\n--b\r\n");
    reply r = hear(fd);
    EXPECT(r, 408, "request-timeout");
    assert_true(is_ended(fd));
    close(fd);
    free(r.body);
    serving_stop(&S);
}

/* In the middle of its picture: what had come is given back with the connection. */
static void an_upload_that_stalls_leaves_nothing(void **state)
{
    (void)state;
    size_t      n;
    const char *p = picture(&n);
    begin();
    int fd = dial(S.port);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 90000\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n");
    say(fd, p, n / 2);
    reply r = hear(fd);
    EXPECT(r, 408, "request-timeout");
    assert_true(is_ended(fd));
    close(fd);
    free(r.body);
    serving_wait_for(&S, COUNTED(408), 1);
    serving_wait_for(&S, "jomed_request_body_bytes", 0);
    serving_wait_for(&S, "jomed_inflight_requests", 1); /* the one that asks */
    serving_stop(&S);
}

static void headers_that_trickle_and_silent_connections_are_closed(void **state)
{
    (void)state;
    begin();
    int silent = dial(S.port), fd = dial(S.port);
    says(fd, "GET /livez HTTP/1.1\r\nHost: x\r\n");
    char line[2001];
    for (int i = 0; i < 2000; i++) line[i] = i % 2 ? 'a' : 'X';
    line[2000] = 0;
    trickle(fd, line);
    assert_true(is_ended(fd));
    assert_true(is_ended(silent));
    close(fd);
    close(silent);
    serving_stop(&S);
}

static void an_idle_connection_is_closed_after_its_answer(void **state)
{
    (void)state;
    begin();
    int fd = dial(S.port);
    says(fd, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    reply r = hear(fd);
    EXPECT(r, 200, NULL);
    free(r.body);
    assert_true(is_ended(fd));
    close(fd);
    serving_stop(&S);
}

static void a_request_that_computes_for_longer_than_the_read_limit_is_left_alone(void **state)
{
    (void)state;
    begin();
    fake_set(true);
    int  fd = dial(S.port), quiet = dial(S.port);
    text t = sound_request("", "");
    say(fd, t.s, t.len);
    text_free(&t);
    fake_wait_inside(1);
    assert_true(is_ended(quiet)); /* a whole read limit has passed */
    fake_set(false);
    reply r = hear(fd);
    EXPECT(r, 200, NULL);
    free(r.body);
    close(fd);
    close(quiet);
    serving_stop(&S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_trickles_is_answered_408_and_closed),
        cmocka_unit_test(a_body_that_stops_is_answered_408_and_closed),
        cmocka_unit_test(an_upload_that_stalls_leaves_nothing),
        cmocka_unit_test(headers_that_trickle_and_silent_connections_are_closed),
        cmocka_unit_test(an_idle_connection_is_closed_after_its_answer),
        cmocka_unit_test(a_request_that_computes_for_longer_than_the_read_limit_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
