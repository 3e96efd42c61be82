#include "server/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum { TICK_MS = 50, LINGER_MS = 2000, LINGERERS = 256, GIVEN_UP = -1, GONE = -2 };

typedef struct { int fd; double until_ms; } lingerer;

struct watch {
    pthread_mutex_t lock;    /* of all below */
    pthread_cond_t  stop;
    bool            stopping, started;
    pthread_t       thread;
    watched        *first;
    lingerer        linger[LINGERERS]; /* that have come since the last round */
    int             n_linger;
    lingerer        reading[LINGERERS]; /* the thread's own, without the lock */
    int             n_reading;
    void (*tick)(void *ctx);
    void *ctx;
};

/* Tell the client of a half-read body, if its socket takes it, then shut it: the HTTP library sees an end of
 * input and closes. Nothing else has been sent for this request, because its answer needs a watch_move()
 * first. */
static void shut(watched *c, bool reading_body)
{
    if (reading_body) {
        response r = {0};
        char     raw[2048];
        respond_problem(&r, "request-timeout", "the body did not arrive in time", c->request_id);
        size_t n = response_raw(&r, c->request_id, raw, sizeof raw);
        if (send(c->fd, raw, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) { /* it has gone: nothing is lost */ }
    }
    shutdown(c->fd, SHUT_RDWR);
}

bool watch_peer_gone(int fd)
{
    struct pollfd f = {.fd = fd, .events = POLLRDHUP};
    return fd >= 0 && poll(&f, 1, 0) == 1 && (f.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* The other side has ended its half, and all it sent has been read: the rest of its body can never come. The HTTP
 * library misses this end when it comes together with data (it waits for an edge that has passed). */
static bool has_ended(int fd)
{
    int unread = 0;
    return watch_peer_gone(fd) && (ioctl(fd, FIONREAD, &unread) != 0 || unread == 0);
}

static void look_at_connections(watch *w, int64_t now)
{
    for (watched *c = w->first; c; c = c->next) {
        int64_t state = atomic_load(&c->state);
        bool    body = state > 0 && (state & 1);
        if (state > 0 && now > state / 2 && atomic_compare_exchange_strong(&c->state, &state, GIVEN_UP))
            shut(c, body);
        else if (body && has_ended(c->fd) && atomic_compare_exchange_strong(&c->state, &state, GONE))
            shutdown(c->fd, SHUT_RDWR);
    }
}

/* Throw away what has come, at most a megabyte a round, so that one client cannot hold the thread. */
static bool still_talking(int fd)
{
    char sink[16384];
    for (int i = 0; i < 64; i++) {
        ssize_t n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
        if (n == 0) return false;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    }
    return true;
}

static void take_lingerers(watch *w)
{
    while (w->n_linger > 0 && w->n_reading < LINGERERS) w->reading[w->n_reading++] = w->linger[--w->n_linger];
}

/* Without the lock: what they still send may be megabytes, and whoever refuses the next upload needs the lock. */
static void look_at_lingerers(watch *w, double now)
{
    int kept = 0;
    for (int i = 0; i < w->n_reading; i++) {
        lingerer l = w->reading[i];
        if (now < l.until_ms && still_talking(l.fd)) w->reading[kept++] = l;
        else close(l.fd);
    }
    w->n_reading = kept;
}

static void *watch_main(void *arg)
{
    watch *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        double now = clock_ms();
        look_at_connections(w, (int64_t)now);
        take_lingerers(w);
        pthread_mutex_unlock(&w->lock);
        look_at_lingerers(w, now);
        w->tick(w->ctx); /* without the lock: it may answer requests, which ends in watch_move() and more */
        pthread_mutex_lock(&w->lock);
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += TICK_MS * 1000000L;
        if (t.tv_nsec >= 1000000000L) {
            t.tv_nsec -= 1000000000L;
            t.tv_sec++;
        }
        if (!w->stopping) pthread_cond_timedwait(&w->stop, &w->lock, &t);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

bool watch_open(watch **out, void (*tick)(void *ctx), void *ctx, err *e)
{
    watch *w = mem_zalloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_MEMORY, "out of memory for the connection watch");
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->stop, &monotonic);
    pthread_condattr_destroy(&monotonic);
    w->tick = tick;
    w->ctx = ctx;
    sigset_t all, before; /* signals are for the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    w->started = pthread_create(&w->thread, NULL, watch_main, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!w->started) {
        watch_close(w);
        return err_set(e, ERR_MEMORY, "cannot start the thread that watches connections");
    }
    *out = w;
    return true;
}

void watch_close(watch *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->stop);
    pthread_mutex_unlock(&w->lock);
    if (w->started) pthread_join(w->thread, NULL);
    for (int i = 0; i < w->n_linger; i++) close(w->linger[i].fd);
    for (int i = 0; i < w->n_reading; i++) close(w->reading[i].fd);
    pthread_cond_destroy(&w->stop);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

watched *watch_add(watch *w, int fd, double until_ms)
{
    watched *c = mem_zalloc(1, sizeof *c);
    if (!c) return NULL;
    c->fd = fd;
    atomic_store(&c->state, 2 * (int64_t)until_ms);
    pthread_mutex_lock(&w->lock);
    c->next = w->first;
    if (c->next) c->next->prev = c;
    w->first = c;
    pthread_mutex_unlock(&w->lock);
    return c;
}

void watch_remove(watch *w, watched *c)
{
    pthread_mutex_lock(&w->lock);
    if (c->prev) c->prev->next = c->next;
    else w->first = c->next;
    if (c->next) c->next->prev = c->prev;
    pthread_mutex_unlock(&w->lock);
    free(c);
}

bool watch_gave_up(const watched *c) { return atomic_load(&((watched *)c)->state) == GIVEN_UP; }

bool watch_move(watched *c, double until_ms, bool reading_body)
{
    int64_t old = atomic_load(&c->state);
    do
        if (old < 0) return false;
    while (!atomic_compare_exchange_weak(&c->state, &old, 2 * (int64_t)until_ms + reading_body));
    return true;
}

void watch_linger(watch *w, int fd)
{
    pthread_mutex_lock(&w->lock);
    int copy = w->n_linger < LINGERERS ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy >= 0) w->linger[w->n_linger++] = (lingerer){copy, clock_ms() + LINGER_MS};
    pthread_mutex_unlock(&w->lock);
}
