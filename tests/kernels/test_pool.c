/* test_pool.c - the thread pool where helpers come late: more threads run than there are cores. */
#include "tests/check.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>

#include "kernels/cpu/pool.h"

enum { TASKS = 64 };

typedef struct { atomic_int times[TASKS]; atomic_int by_helper; int round; } counts;
static void count(void *ctx, int task, int worker)
{
    counts *c = ctx;
    atomic_fetch_add(&c->times[task], 1);
    if (worker > 0) atomic_fetch_add(&c->by_helper, 1);
}

/* A helper without a core: one that a signal has caught and holds. */
static sem_t      caught, let_go;
static pthread_t  helper_thread;
static atomic_int helper_known;
static void hold(int signal)
{
    (void)signal;
    sem_post(&caught);
    while (sem_wait(&let_go) != 0) { }
}

/* Tasks wait until the helper has had one: then it is known. */
static void learn_helper(void *ctx, int task, int worker)
{
    (void)ctx, (void)task;
    if (worker == 1 && !atomic_load(&helper_known)) {
        helper_thread = pthread_self();
        atomic_store(&helper_known, 1);
    }
    while (!atomic_load(&helper_known)) sched_yield();
}

static void a_run_does_not_wait_for_a_helper_that_has_no_core(void **state)
{
    (void)state;
    err              e = {0};
    pool            *p;
    counts           c = {0};
    struct sigaction act = {.sa_handler = hold};
    assert_int_equal(sem_init(&caught, 0, 0) | sem_init(&let_go, 0, 0) | sigaction(SIGUSR1, &act, NULL), 0);
    OK(pool_open(&p, 2, &e), e);
    pool_run(p, learn_helper, NULL, 2);
    assert_int_equal(pthread_kill(helper_thread, SIGUSR1), 0);
    sem_wait(&caught);
    for (int round = 0; round < 3; round++) pool_run(p, count, &c, TASKS); /* it would hang here */
    for (int i = 0; i < TASKS; i++) assert_int_equal(atomic_load(&c.times[i]), 3);
    assert_int_equal(atomic_load(&c.by_helper), 0);
    sem_post(&let_go);
    while (atomic_load(&c.by_helper) == 0) pool_run(p, count, &c, TASKS); /* and it is of use again */
    pool_close(p);
    sem_destroy(&caught);
    sem_destroy(&let_go);
}

/* A late helper must find the tasks of the run that is, never those of one that was. */
static void check_round(void *ctx, int task, int worker)
{
    counts *c = ctx;
    (void)worker;
    atomic_fetch_add(&c->times[task], c->round);
}

static void runs_that_follow_at_once_are_not_mixed_up(void **state)
{
    (void)state;
    for (int threads = 2; threads <= 4; threads++) {
        err    e = {0};
        pool  *p;
        counts c[2] = {0};
        OK(pool_open(&p, threads, &e), e);
        for (int round = 1; round <= 20000; round++) {
            counts *now = &c[round % 2], *last = &c[(round + 1) % 2];
            int     n = 2 + round % 5;
            for (int i = 0; i < n; i++) atomic_store_explicit(&now->times[i], 0, memory_order_relaxed);
            now->round = round;
            last->round = -1; /* whoever still runs for it adds this */
            pool_run(p, check_round, now, n);
            for (int i = 0; i < n; i++)
                if (atomic_load(&now->times[i]) != round)
                    fail_msg("%d threads, round %d, task %d: %d", threads, round, i, atomic_load(&now->times[i]));
        }
        pool_close(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_run_does_not_wait_for_a_helper_that_has_no_core),
                                       cmocka_unit_test(runs_that_follow_at_once_are_not_mixed_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
