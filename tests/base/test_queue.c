/* test_queue.c - order, the bound, closing, taking one out of the middle; and with threads: every item arrives
 * exactly once, and nobody waits for ever. Runs under ThreadSanitizer too. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>
#include "tests/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/queue.h"

static int item[100];

static void test_order_and_bound(void **state)
{
    (void)state;
    queue *q = queue_new(3);
    assert_int_equal(queue_capacity(q), 3);
    for (int round = 0; round < 5; round++) { /* the ring turns */
        for (int i = 0; i < 3; i++) assert_true(queue_push(q, &item[i]));
        assert_false(queue_push(q, &item[3]));
        assert_int_equal(queue_len(q), 3);
        assert_ptr_equal(queue_pop(q), &item[0]);
        assert_true(queue_push(q, &item[3]));
        for (int i = 1; i <= 3; i++) assert_ptr_equal(queue_pop(q), &item[i]);
        assert_int_equal(queue_len(q), 0);
    }
    queue_free(q);
    queue_free(NULL);
}

static void test_closing_drains(void **state)
{
    (void)state;
    queue *q = queue_new(4);
    queue_push(q, &item[0]);
    queue_push(q, &item[1]);
    queue_close(q);
    assert_false(queue_push(q, &item[2]));
    assert_ptr_equal(queue_pop(q), &item[0]);
    assert_ptr_equal(queue_pop(q), &item[1]);
    assert_null(queue_pop(q));
    assert_null(queue_pop(q));
    queue_free(q);
}

static void test_waiting_has_an_end(void **state)
{
    (void)state;
    queue *q = queue_new(2);
    bool   over = true;
    double began = clock_ms();
    assert_null(queue_pop_within(q, 20, &over));
    assert_true(clock_ms() - began >= 20);
    assert_false(over);
    queue_push(q, &item[0]);
    queue_push(q, &item[1]);
    assert_ptr_equal(queue_pop_within(q, 3600000, &over), &item[0]); /* at once */
    assert_false(over);
    queue_close(q);
    assert_ptr_equal(queue_pop_within(q, 3600000, &over), &item[1]);
    assert_false(over);
    assert_null(queue_pop_within(q, 3600000, &over));
    assert_true(over);
    queue_free(q);
}

static bool is_wanted(void *x, void *ctx) { return x == ctx; }
static bool any(void *x, void *ctx) { return (void)x, (void)ctx, true; }

static void test_taking_one_out(void **state)
{
    (void)state;
    queue *q = queue_new(5);
    for (int shift = 0; shift < 5; shift++) { /* wherever the ring's seam lies */
        for (int out = 0; out < 5; out++) {
            for (int i = 0; i < 5; i++) assert_true(queue_push(q, &item[i]));
            assert_null(queue_take_if(q, is_wanted, &item[9]));
            assert_ptr_equal(queue_take_if(q, is_wanted, &item[out]), &item[out]);
            assert_int_equal(queue_len(q), 4);
            for (int i = 0; i < 5; i++)
                if (i != out) assert_ptr_equal(queue_pop(q), &item[i]);
        }
        queue_push(q, &item[0]);
        queue_push(q, &item[1]);
        assert_ptr_equal(queue_take_if(q, any, NULL), &item[0]); /* the oldest first */
        queue_pop(q);
    }
    assert_null(queue_take_if(q, any, NULL));
    queue_free(q);
}

static void test_without_memory(void **state)
{
    (void)state;
    for (long n = 0; n < 2; n++) {
        mem_fail_after(n);
        queue *q = queue_new(3);
        mem_fail_after(-1);
        assert_null(q);
    }
}

enum { PRODUCERS = 3, CONSUMERS = 3, EACH = 2000 };
typedef struct { queue *q; atomic_int arrived[PRODUCERS * EACH]; } traffic;
typedef struct { traffic *t; int first; } producer;

static void *produce(void *arg)
{
    producer *p = arg;
    for (int i = 0; i < EACH; i++)
        while (!queue_push(p->t->q, &p->t->arrived[p->first + i])) sched_yield();
    return NULL;
}

static void *consume(void *arg)
{
    traffic *t = arg;
    for (atomic_int *x; (x = queue_pop(t->q)) != NULL;) atomic_fetch_add(x, 1);
    return NULL;
}

static void *consume_impatiently(void *arg)
{
    traffic    *t = arg;
    atomic_int *x;
    for (bool over = false; !over;)
        if ((x = queue_pop_within(t->q, 1, &over)) != NULL) atomic_fetch_add(x, 1);
    return NULL;
}

static void test_threads_get_every_item_once(void **state)
{
    (void)state;
    static traffic t;
    pthread_t      in[PRODUCERS], out[CONSUMERS];
    producer       p[PRODUCERS];
    alarm(60);
    t.q = queue_new(7);
    for (int i = 0; i < CONSUMERS; i++)
        pthread_create(&out[i], NULL, i == 0 ? consume_impatiently : consume, &t);
    for (int i = 0; i < PRODUCERS; i++) {
        p[i] = (producer){&t, i * EACH};
        pthread_create(&in[i], NULL, produce, &p[i]);
    }
    for (int i = 0; i < PRODUCERS; i++) pthread_join(in[i], NULL);
    queue_close(t.q);
    for (int i = 0; i < CONSUMERS; i++) pthread_join(out[i], NULL);
    alarm(0);
    for (int i = 0; i < PRODUCERS * EACH; i++) assert_int_equal(atomic_load(&t.arrived[i]), 1);
    assert_int_equal(queue_len(t.q), 0);
    queue_free(t.q);
}

/* Threads that wait on an empty queue all leave when it is closed. */
static void test_closing_wakes_all_waiters(void **state)
{
    (void)state;
    static traffic t;
    pthread_t      out[CONSUMERS];
    alarm(60);
    t.q = queue_new(1);
    for (int i = 0; i < CONSUMERS; i++) pthread_create(&out[i], NULL, consume, &t);
    usleep(20000);
    queue_close(t.q);
    for (int i = 0; i < CONSUMERS; i++) assert_int_equal(pthread_join(out[i], NULL), 0);
    alarm(0);
    queue_free(t.q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_bound), cmocka_unit_test(test_closing_drains),
        cmocka_unit_test(test_taking_one_out),  cmocka_unit_test(test_without_memory),
        cmocka_unit_test(test_waiting_has_an_end),
        cmocka_unit_test(test_threads_get_every_item_once), cmocka_unit_test(test_closing_wakes_all_waiters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
