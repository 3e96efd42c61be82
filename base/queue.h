/* queue.h - bounded queue of pointers between threads. Full means no, at once.
 * Threads  any. queue_close() lets queue_pop() drain what is left and then return NULL. */
#ifndef JOMED_BASE_QUEUE_H
#define JOMED_BASE_QUEUE_H

#include "base/err.h"

typedef struct queue queue;
queue *queue_new(int capacity); /* NULL: out of memory */
void   queue_free(queue *q);    /* must be empty and without waiters */
bool   queue_push(queue *q, void *item); /* false: full or closed */
void  *queue_pop(queue *q);              /* waits; NULL: closed and empty */
/* The same, but NULL also when nothing came for timeout_ms; *over: closed and empty. */
void  *queue_pop_within(queue *q, int timeout_ms, bool *over);
void   queue_close(queue *q);
/* Take out one waiting item that want() says yes to, the oldest first; NULL: none. want() runs under the lock. */
void  *queue_take_if(queue *q, bool (*want)(void *item, void *ctx), void *ctx);
int    queue_len(queue *q);
int    queue_capacity(const queue *q);

#endif
