/* test_load.c - full queue, deadlines, clients that go away, many at once, draining. The fake engine's gate
 * makes each of these happen when the test says so; nothing here depends on how fast the machine is. */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/server/serving.h"

static serving S;

static void begin(int workers, int queue)
{
    serving_defaults(&S);
    S.cfg.workers = workers;
    S.cfg.queue = queue;
    S.cfg.http_threads = 2;
    serving_start(&S);
}

static void end(void)
{
    fake_set(false);
    fake_fail(ERR_NONE, "");
    fake_fail_own(ERR_NONE);
    serving_stop(&S);
}

static int send_one(const char *headers, const char *extra)
{
    int  fd = dial(S.port);
    text t = sound_request(headers, extra);
    assert_true(say(fd, t.s, t.len));
    text_free(&t);
    return fd;
}

static void finish_one(int fd, int status, const char *slug)
{
    reply r = hear(fd);
    EXPECT(r, status, slug);
    free(r.body);
    close(fd);
}

static double metric(const char *name) { return serving_metric(&S, name); }
static void   wait_for(const char *name, double value) { serving_wait_for(&S, name, value); }

static void a_full_queue_says_no_at_once_and_says_when_to_come_back(void **state)
{
    (void)state;
    begin(1, 2);
    fake_set(true);
    int running = send_one("", "");
    fake_wait_inside(1);
    int waiting[2] = {send_one("", ""), send_one("", "")};
    wait_for("jomed_queue_depth", 2);

    /* refused by the head alone: no byte of the body is sent */
    int fd = dial(S.port);
    says(
        fd,
        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n");
    reply r = hear(fd);
    char  retry[16] = "";
    EXPECT(r, 503, "busy");
    assert_true(header_of(&r, "Retry-After", retry, sizeof retry));
    assert_int_equal(strspn(retry, "0123456789"), strlen(retry));
    assert_true(atoi(retry) >= 1);
    free(r.body);
    close(fd);
    assert_true(metric("jomed_requests_shed_total{reason=\"queue_full\"}") == 1);
    r = ask(S.port, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); /* health has a lane of its own */
    EXPECT(r, 200, NULL);
    free(r.body);

    fake_set(false);
    finish_one(running, 200, NULL);
    for (int i = 0; i < 2; i++) finish_one(waiting[i], 200, NULL);
    end();
}

/* The head of a request got in while there was room; when its body ends the queue is full. */
static void a_queue_that_fills_during_the_upload_refuses_at_its_end(void **state)
{
    (void)state;
    begin(1, 1);
    fake_set(true);
    text t = sound_request("", "");
    int  late = dial(S.port);
    say(late, t.s, t.len - 1);
    wait_for("jomed_inflight_requests", 2); /* it, and the one that asks */
    int running = send_one("", "");
    fake_wait_inside(1);
    int waiting = send_one("", "");
    wait_for("jomed_queue_depth", 1);
    say(late, t.s + t.len - 1, 1);
    finish_one(late, 503, "busy");
    fake_set(false);
    finish_one(running, 200, NULL);
    finish_one(waiting, 200, NULL);
    text_free(&t);
    end();
}

/* One worker, busy: what waits is taken in batches, each request with its own outcome; a retrieval has no
 * passes to share. */
static void waiting_requests_are_read_together(void **state)
{
    (void)state;
    enum { N = 6 };
    serving_defaults(&S);
    S.cfg.workers = 1;
    S.cfg.queue = 16;
    S.cfg.batch = 4;
    serving_start(&S);
    fake.together = 0;
    fake_set(true);
    int running = send_one("", ""), fd[N];
    fake_wait_inside(1);
    text t = {0};
    text_printf(&t, "{\"image\":\"%s\"}", picture64());
    text retrieval = post_json("/v1/retrievals", "", t.s);
    int  apart = dial(S.port);
    assert_true(say(apart, retrieval.s, retrieval.len));
    wait_for("jomed_queue_depth", 1);
    for (int i = 0; i < N; i++) fd[i] = send_one("", i == 2 ? ",\"adapter\":\"unknown\"" : "");
    wait_for("jomed_queue_depth", N + 1);
    assert_int_equal(fake.together, 0);
    fake_set(false);
    finish_one(running, 200, NULL);
    finish_one(apart, 200, NULL);
    for (int i = 0; i < N; i++) finish_one(fd[i], i == 2 ? 422 : 200, i == 2 ? "adapter-unknown" : NULL);
    assert_int_equal(fake.together, 4);
    text_free(&t);
    text_free(&retrieval);
    end();
}

static void a_waiting_request_is_answered_at_its_deadline_and_never_computed(void **state)
{
    (void)state;
    begin(1, 4);
    fake_set(true);
    int running = send_one("", "");
    fake_wait_inside(1);
    int before = fake_calls(), waiting = send_one("", ",\"deadline_ms\":20");
    /* the only worker is still held: the answer can only come from the sweep */
    reply r = hear(waiting);
    EXPECT(r, 504, "deadline-passed");
    EXPECT_FIELD(r, "deadline_ms");
    free(r.body);
    close(waiting);
    assert_true(metric("jomed_queue_depth") == 0); /* its place is free again */
    fake_set(false);
    finish_one(running, 200, NULL);
    assert_int_equal(fake_calls(), before);
    assert_true(metric("jomed_requests_shed_total{reason=\"deadline\"}") == 1);
    end();
}

static void a_deadline_beyond_the_servers_is_refused(void **state)
{
    (void)state;
    serving_defaults(&S);
    S.cfg.deadline_ms = 500;
    S.cfg.deadline_max_ms = 1000;
    serving_start(&S);
    finish_one(send_one("", ",\"deadline_ms\":1001"), 422, "field-out-of-range");
    finish_one(send_one("", ",\"deadline_ms\":1000"), 200, NULL);
    end();
}

static void a_client_that_gives_up_while_waiting_costs_no_work(void **state)
{
    (void)state;
    static const char *const how[] = {"reset", "close", "half-close"};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        begin(1, 4);
        fake_set(true);
        int running = send_one("", "");
        fake_wait_inside(1);
        int           before = fake_calls(), gone = send_one("", "");
        struct linger hard = {1, 0};
        wait_for("jomed_queue_depth", 1);
        if (i == 0) setsockopt(gone, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        if (i == 2) shutdown(gone, SHUT_WR);
        else close(gone);
        wait_for("jomed_queue_depth", 0); /* the only worker is still held: the sweep took it out */
        if (i == 2) assert_true(is_ended(gone));
        if (i == 2) close(gone);
        fake_set(false);
        finish_one(running, 200, NULL);
        if (fake_calls() != before) fail_msg("%s: computed for nobody", how[i]);
        assert_true(metric("jomed_requests_shed_total{reason=\"client_gone\"}") == 1);
        wait_for(COUNTED(499), 1);
        end();
    }
}

static void a_client_that_vanishes_in_the_middle_of_its_body_leaves_nothing(void **state)
{
    (void)state;
    begin(1, 4);
    text t = sound_request("", "");
    for (int i = 0; i < 20; i++) {
        int fd = dial(S.port);
        say(fd, t.s, t.len * (size_t)(i + 1) / 21);
        if (i % 2) shutdown(fd, SHUT_WR); /* half-closed: the rest can never come */
        close(fd);
    }
    /* all of them: before that, none in flight may mean that they have not come yet */
    wait_for(COUNTED(499), 20);
    wait_for("jomed_inflight_requests", 1);
    assert_true(metric("jomed_request_body_bytes") == 0);
    text_free(&t);
    end();
}

/* Half of a body, an end of sending, and then patience: the rest can never come, so the server ends it. */
static void a_client_that_half_closes_its_upload_is_let_go(void **state)
{
    (void)state;
    size_t      n;
    const char *p = picture(&n);
    begin(1, 4);
    for (int form = 0; form < 2; form++) {
        int  fd = dial(S.port);
        text t = {0};
        if (form == 0) t = sound_request("", "");
        else {
            text_printf(&t,
                        "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                        "Content-Length: %zu\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n",
                        2 * n + 1000);
            text_addn(&t, p, n);
        }
        say(fd, t.s, form == 0 ? t.len / 2 : t.len);
        shutdown(fd, SHUT_WR);
        reply r = hear(fd);
        assert_int_equal(r.status, 0); /* ended, with nothing said */
        close(fd);
        text_free(&t);
    }
    wait_for(COUNTED(499), 2);
    wait_for("jomed_inflight_requests", 1);
    assert_true(metric("jomed_request_body_bytes") == 0);
    end();
}

static void failures_of_the_engine_become_problems_without_their_text(void **state)
{
    (void)state;
    static const struct { err_code code; int status; const char *slug; bool shown;
    } c[] = {{ERR_MEMORY, 503, "out-of-memory", false},
             {ERR_FILE, 500, "server-data", false},
             {ERR_BUG, 500, "internal", false},
             {ERR_UNUSABLE, 422, "unusable", true},
             {ERR_DEADLINE, 504, "deadline-passed", true},
             {ERR_USAGE, 500, "internal", false}};
    begin(1, 4);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        fake_fail(c[i].code, "/srv/models/secret.safetensors");
        int   fd = send_one("", "");
        reply r = hear(fd);
        EXPECT(r, c[i].status, c[i].slug);
        assert_int_equal(strstr(r.body, "/srv/models") != NULL, c[i].shown);
        free(r.body);
        close(fd);
    }
    fake_fail(ERR_NONE, "");
    finish_one(send_one("", ""), 200, NULL); /* none of these is lasting */
    end();
}

static void a_failed_device_turns_readiness_red_for_good(void **state)
{
    (void)state;
    begin(1, 4);
    fake_fail(ERR_GPU, "the device fell off the bus");
    finish_one(send_one("", ""), 503, "device-failed");
    fake_fail(ERR_NONE, "");
    reply r = ask(S.port, "GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(r.status, 503);
    assert_non_null(strstr(r.body, "\"device\":false"));
    free(r.body);
    finish_one(send_one("", ""), 503, "device-failed");
    end();
}

/* 200 or 503; *memory: what its check of that name says. */
static int readiness(bool *memory)
{
    reply r = ask(S.port, "GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n");
    int   status = r.status;
    *memory = strstr(r.body, "\"memory\":true") != NULL;
    assert_true(*memory || strstr(r.body, "\"memory\":false"));
    free(r.body);
    return status;
}

static void wait_for_readiness(int status)
{
    for (bool memory; readiness(&memory) != status;) usleep(2000);
}

/* Wait until workers have begun their own case n times since the server was opened first. */
static void wait_for_own_calls(int n)
{
    while (fake_own_calls() < n) usleep(2000);
}

static void memory_that_is_gone_turns_readiness_red_until_it_is_back(void **state)
{
    (void)state;
    bool memory;
    begin(2, 4);
    assert_int_equal(readiness(&memory), 200);
    assert_true(memory);

    fake_fail(ERR_MEMORY, "no memory on the device");
    fake_fail_own(ERR_MEMORY);
    finish_one(send_one("", ""), 503, "out-of-memory");
    wait_for_readiness(503);
    assert_int_equal(readiness(&memory), 503);
    assert_false(memory);
    assert_true(metric("jomed_ready") == 0);
    wait_for_own_calls(fake_own_calls() + 2); /* it has looked again, and stays red */
    assert_int_equal(readiness(&memory), 503);

    fake_fail(ERR_NONE, "");
    fake_fail_own(ERR_NONE);
    wait_for_readiness(200); /* nobody has sent anything */
    assert_true(metric("jomed_ready") == 1);
    finish_one(send_one("", ""), 200, NULL);
    end();
}

static void a_request_that_is_too_large_leaves_the_server_ready(void **state)
{
    (void)state;
    bool memory;
    begin(1, 4);
    int own = fake_own_calls();
    fake_fail(ERR_MEMORY, "a request may use 7 bytes");
    finish_one(send_one("", ""), 503, "out-of-memory");
    finish_one(send_one("", ""), 503, "out-of-memory"); /* taken after the first one's check */
    assert_true(fake_own_calls() > own);
    assert_int_equal(readiness(&memory), 200);
    assert_true(memory);
    fake_fail(ERR_FILE, "");
    finish_one(send_one("", ""), 500, "server-data");
    fake_fail(ERR_NONE, "");
    finish_one(send_one("", ""), 200, NULL);
    assert_int_equal(fake_own_calls(), own + 2); /* only a want of memory is looked into */
    end();
}

static void a_starved_worker_takes_work_and_may_find_its_device_gone(void **state)
{
    (void)state;
    bool memory;
    begin(1, 4);
    fake_fail(ERR_MEMORY, "");
    fake_fail_own(ERR_MEMORY);
    finish_one(send_one("", ""), 503, "out-of-memory");
    wait_for_readiness(503);
    fake_fail(ERR_NONE, "");
    int own = fake_own_calls();
    finish_one(send_one("", ""), 200, NULL); /* answered; but its own case still fails */
    wait_for_own_calls(own + 1);
    assert_int_equal(readiness(&memory), 503);
    fake_fail_own(ERR_GPU);
    wait_for_own_calls(fake_own_calls() + 2); /* the first of these has failed */
    finish_one(send_one("", ""), 503, "device-failed");
    fake_fail_own(ERR_NONE);
    while (readiness(&memory) == 503 && !memory) usleep(2000);
    assert_true(memory);
    assert_int_equal(readiness(&memory), 503); /* memory or not: a device that was lost is lost */
    finish_one(send_one("", ""), 503, "device-failed");
    end();
}

enum { CLIENTS = 16, EACH = 25 };

static void *hammer(void *arg)
{
    int   fd = dial(S.port);
    long  bad = 0;
    (void)arg;
    for (int i = 0; i < EACH; i++) {
        char id[32], got[32] = "", line[64];
        snprintf(id, sizeof id, "c%lu-%d", (unsigned long)pthread_self() % 100000, i);
        snprintf(line, sizeof line, "X-Request-Id: %s\r\n", id);
        text t = sound_request(line, i % 5 == 4 ? ",\"k\":0" : "");
        say(fd, t.s, t.len);
        text_free(&t);
        reply r = hear(fd);
        if (r.status != (i % 5 == 4 ? 422 : 200) || !header_of(&r, "X-Request-Id", got, sizeof got)
            || strcmp(id, got) != 0)
            bad++;
        free(r.body);
    }
    close(fd);
    return (void *)bad;
}

static void sixteen_clients_get_each_their_own_answers(void **state)
{
    (void)state;
    pthread_t t[CLIENTS];
    begin(4, 64);
    picture64(); /* made before the threads share it */
    for (int i = 0; i < CLIENTS; i++) assert_int_equal(pthread_create(&t[i], NULL, hammer, NULL), 0);
    for (int i = 0; i < CLIENTS; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        assert_ptr_equal(bad, NULL);
    }
    assert_true(metric(COUNTED(200)) == CLIENTS * EACH * 4 / 5);
    wait_for("jomed_inflight_requests", 1); /* the one that asks */
    end();
}

/* A question about a picture that a worker had before finds its vision tokens; no other worker's. */
static void each_worker_brings_the_vision_cache_that_it_brought_before(void **state)
{
    (void)state;
    begin(2, 8);
    fake.n_came = 0; /* nothing runs yet */
    for (int round = 0; round < 2; round++) {
        int fd[2];
        fake_set(true);
        for (int i = 0; i < 2; i++) {
            fd[i] = send_one("", "");
            fake_wait_inside(i + 1); /* so that both workers have one */
        }
        fake_set(false);
        for (int i = 0; i < 2; i++) finish_one(fd[i], 200, NULL);
    }
    assert_int_equal(fake.n_came, 4);
    assert_ptr_not_equal(fake.came[0].kern, fake.came[1].kern);
    for (int i = 0; i < 4; i++) {
        assert_non_null(fake.came[i].vision);
        for (int j = 0; j < i; j++)
            assert_int_equal(fake.came[i].kern == fake.came[j].kern, fake.came[i].vision == fake.came[j].vision);
    }
    end();
}

/* ---- draining ---- */

static void draining_finishes_what_runs_and_refuses_what_is_new(void **state)
{
    (void)state;
    begin(1, 4);
    fake_set(true);
    int running = send_one("", "");
    fake_wait_inside(1);
    int waiting = send_one("", ""), kept = dial(S.port);
    says(kept, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    reply r = hear(kept);
    EXPECT(r, 200, NULL);
    free(r.body);
    wait_for("jomed_queue_depth", 1);

    S.cfg.drain_grace_ms = 3600000; /* the grace lasts until the test has seen it */
    server_drain_begin(S.s);
    assert_int_equal(server_drain_step(S.s, 1), DRAINING);
    says(kept, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    r = hear(kept);
    assert_int_equal(r.status, 503);
    char v[16] = "";
    assert_true(header_of(&r, "Connection", v, sizeof v)); /* keep-alive clients are sent elsewhere */
    assert_string_equal(v, "close");
    free(r.body);
    close(kept);
    int during = send_one("", ""), held = dial(S.port); /* work is still taken */
    says(held, "POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
    wait_for("jomed_queue_depth", 2);

    S.cfg.drain_grace_ms = 0;
    assert_int_equal(server_drain_step(S.s, 1), DRAINING);
    says(held, "Content-Length: 500\r\n\r\n"); /* its head was under way: too late for work */
    finish_one(held, 503, "draining");
    fake_set(false);
    finish_one(running, 200, NULL);
    finish_one(waiting, 200, NULL);
    finish_one(during, 200, NULL);
    end();
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)S.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int                fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), -1);
    close(fd);
}

static void a_request_that_will_not_end_makes_draining_give_up(void **state)
{
    (void)state;
    begin(1, 4);
    fake_set(true);
    int running = send_one("", "");
    fake_wait_inside(1);
    S.cfg.drain_timeout_ms = 0;
    server_drain_begin(S.s);
    drain_state d;
    while ((d = server_drain_step(S.s, 1)) == DRAINING) { }
    assert_int_equal(d, STUCK);
    fake_set(false);
    S.cfg.drain_timeout_ms = 60000;
    finish_one(running, 200, NULL);
    end();
}

static void *keep_asking(void *arg)
{
    long bad = 0;
    int  fd = dial(S.port);
    for (atomic_int *stop = arg; !atomic_load(stop);) {
        text t = sound_request("", "");
        if (!say(fd, t.s, t.len)) bad++;
        text_free(&t);
        reply r = hear(fd);
        char  v[16] = "";
        if (r.status != 200) bad++;
        bool last = header_of(&r, "Connection", v, sizeof v) && strcmp(v, "close") == 0;
        free(r.body);
        if (last || r.status == 0) break; /* a balancer would go elsewhere now */
    }
    close(fd);
    return (void *)bad;
}

static void draining_under_load_breaks_no_request(void **state)
{
    (void)state;
    pthread_t  t[CLIENTS];
    atomic_int stop = 0;
    begin(2, 64);
    S.cfg.drain_grace_ms = 200;
    picture64();
    for (int i = 0; i < CLIENTS; i++) assert_int_equal(pthread_create(&t[i], NULL, keep_asking, &stop), 0);
    while (fake_calls() < 200) usleep(1000);
    server_drain_begin(S.s);
    while (server_drain_step(S.s, 5) == DRAINING) { }
    atomic_store(&stop, 1);
    long broken = 0;
    for (int i = 0; i < CLIENTS; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        broken += (long)bad;
    }
    assert_int_equal(broken, 0);
    server_close(S.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_queue_says_no_at_once_and_says_when_to_come_back),
        cmocka_unit_test(a_queue_that_fills_during_the_upload_refuses_at_its_end),
        cmocka_unit_test(waiting_requests_are_read_together),
        cmocka_unit_test(a_waiting_request_is_answered_at_its_deadline_and_never_computed),
        cmocka_unit_test(a_deadline_beyond_the_servers_is_refused),
        cmocka_unit_test(a_client_that_gives_up_while_waiting_costs_no_work),
        cmocka_unit_test(a_client_that_vanishes_in_the_middle_of_its_body_leaves_nothing),
        cmocka_unit_test(a_client_that_half_closes_its_upload_is_let_go),
        cmocka_unit_test(failures_of_the_engine_become_problems_without_their_text),
        cmocka_unit_test(a_failed_device_turns_readiness_red_for_good),
        cmocka_unit_test(memory_that_is_gone_turns_readiness_red_until_it_is_back),
        cmocka_unit_test(a_request_that_is_too_large_leaves_the_server_ready),
        cmocka_unit_test(a_starved_worker_takes_work_and_may_find_its_device_gone),
        cmocka_unit_test(sixteen_clients_get_each_their_own_answers),
        cmocka_unit_test(each_worker_brings_the_vision_cache_that_it_brought_before),
        cmocka_unit_test(draining_finishes_what_runs_and_refuses_what_is_new),
        cmocka_unit_test(a_request_that_will_not_end_makes_draining_give_up),
        cmocka_unit_test(draining_under_load_breaks_no_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
