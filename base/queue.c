#include "base/queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/memory.h"

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t  filled;
    void          **item; /* a ring */
    int             capacity, head, len;
    bool            closed;
};

queue *queue_new(int capacity)
{
    queue *q = mem_zalloc(1, sizeof *q);
    if (!q) return NULL;
    q->item = mem_zalloc((size_t)capacity, sizeof *q->item);
    if (!q->item || pthread_mutex_init(&q->lock, NULL) != 0) {
        free(q->item);
        free(q);
        return NULL;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* a wait must not end when the day's time is set */
    pthread_cond_init(&q->filled, &attr);              /* none of these can fail on Linux */
    pthread_condattr_destroy(&attr);
    q->capacity = capacity;
    return q;
}

void queue_free(queue *q)
{
    if (!q) return;
    pthread_cond_destroy(&q->filled);
    pthread_mutex_destroy(&q->lock);
    free(q->item);
    free(q);
}

bool queue_push(queue *q, void *item)
{
    pthread_mutex_lock(&q->lock);
    bool room = !q->closed && q->len < q->capacity;
    if (room) {
        q->item[(q->head + q->len++) % q->capacity] = item;
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&q->lock);
    return room;
}

/* The oldest, under the lock; NULL: none. */
static void *pop(queue *q)
{
    if (q->len == 0) return NULL;
    void *item = q->item[q->head];
    q->head = (q->head + 1) % q->capacity;
    q->len--;
    return item;
}

void *queue_pop(queue *q)
{
    pthread_mutex_lock(&q->lock);
    while (q->len == 0 && !q->closed) pthread_cond_wait(&q->filled, &q->lock);
    void *item = pop(q);
    pthread_mutex_unlock(&q->lock);
    return item;
}

void *queue_pop_within(queue *q, int timeout_ms, bool *over)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) until.tv_sec++, until.tv_nsec -= 1000000000L;
    pthread_mutex_lock(&q->lock);
    while (q->len == 0 && !q->closed && pthread_cond_timedwait(&q->filled, &q->lock, &until) == 0) { }
    void *item = pop(q);
    *over = !item && q->closed;
    pthread_mutex_unlock(&q->lock);
    return item;
}

void *queue_take_if(queue *q, bool (*want)(void *item, void *ctx), void *ctx)
{
    void *item = NULL;
    pthread_mutex_lock(&q->lock);
    for (int i = 0; i < q->len && !item; i++) {
        if (!want(q->item[(q->head + i) % q->capacity], ctx)) continue;
        item = q->item[(q->head + i) % q->capacity];
        for (int j = i; j + 1 < q->len; j++) /* close the gap: the others keep their order */
            q->item[(q->head + j) % q->capacity] = q->item[(q->head + j + 1) % q->capacity];
        q->len--;
    }
    pthread_mutex_unlock(&q->lock);
    return item;
}

void queue_close(queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->filled);
    pthread_mutex_unlock(&q->lock);
}

int queue_len(queue *q)
{
    pthread_mutex_lock(&q->lock);
    int n = q->len;
    pthread_mutex_unlock(&q->lock);
    return n;
}

int queue_capacity(const queue *q) { return q->capacity; }
