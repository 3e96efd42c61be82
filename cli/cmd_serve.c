/* cmd_serve.c - jomed serve: bind, open, warm up, serve, wait, drain, close in reverse order. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"
#include "server/config.h"
#include "server/notify.h"
#include "server/server.h"

static int print_text(text *t)
{
    bool ok = !t->failed && fwrite(t->s, 1, t->len, stdout) == t->len && fflush(stdout) == 0;
    text_free(t);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

static engine_options models(const config *c)
{
    engine_options o = {.reader = c->reader, .retriever = c->retriever, .index = c->index, .device = c->device,
                        .threads = (int)c->threads, .cache_bytes = config_cache_bytes(c),
                        .cache_host_bytes = (size_t)c->cache_host_mb << 20, .tau = (float)c->tau,
                        .max_pixels = c->max_pixels};
    for (int i = 0; i < c->n_adapters; i++)
        o.adapter[o.n_adapters++] = (reader_adapter){c->adapter[i].name, c->adapter[i].dir};
    o.use_adapter = *c->use_adapter ? c->use_adapter : NULL;
    o.merge_adapter = strcmp(c->lora_merge, "yes") == 0;
    products_parse(&o.products, c->products); /* one of their words: config.c saw to that */
    search_parse(&o.search, c->search);
    image_policy_parse(&o.policy, c->image_policy);
    return o;
}

/* One per worker; those opened so far are in kern also after a failure. */
static bool open_kernels(kernels **kern, const engine_options *o, int n, err *e)
{
    for (int i = 0; i < n; i++)
        if (!engine_kernels(&kern[i], o, e)) return false;
    return true;
}

static void report(const config *c, const engine *en, const kernels *k, int port, double seconds)
{
    reader_cache_stats cache;
    reader_cache(en->reader, &cache);
    LOG(LOG_INFO, "ready", LOG_S("version", JOMED_VERSION), LOG_S("host", c->bind), LOG_I("port", port),
        LOG_S("device", k->name), LOG_I("workers", c->workers), LOG_I("threads", c->threads),
        LOG_I("queue", c->queue),
        LOG_I("parameters", reader_parameters(en->reader) + retriever_parameters(en->retriever)),
        LOG_S("reader", reader_hash(en->reader)), LOG_S("retriever", retriever_hash(en->retriever)),
        LOG_S("index", index_describe(en->index)->hash), LOG_I("passages", index_describe(en->index)->n_passages),
        LOG_S("search", index_searcher(en->index)), LOG_I("cache_bytes", (int64_t)cache.limit_bytes),
        LOG_I("cache_host_bytes", (int64_t)cache.host_limit_bytes), LOG_I("arena_bytes", c->arena_bytes),
        LOG_D("seconds", seconds));
    for (int i = 1; i <= reader_adapters(en->reader); i++) {
        reader_adapter_info a = reader_describe_adapter(en->reader, i);
        LOG(LOG_INFO, "adapter", LOG_S("adapter", a.name), LOG_S("sha256", a.hash), LOG_I("parameters", a.parameters),
            LOG_I("merged_bytes", a.merged_bytes));
    }
    if (strncmp(c->bind, "127.", 4) != 0 && strcmp(c->bind, "::1") != 0)
        LOG(LOG_WARN, "exposed", LOG_S("host", c->bind),
            LOG_S("text", "there is no authentication: anyone who reaches this address may use it"));
}

/* Signals come through a pipe. Blocking them and waiting with sigwait() would be simpler, but libraries start
 * threads of their own before main() (OpenBLAS does): those do not block them, and would take them. */
static int stop_pipe[2] = {-1, -1}; /* the one global here: a handler can reach nothing else */

static void on_stop(int sig)
{
    int  before = errno;
    char c = (char)sig;
    (void)!write(stop_pipe[1], &c, 1);
    errno = before;
}

/* Until here a signal ends the process as it would any program: nothing is being served yet. */
static bool catch_signals(err *e)
{
    struct sigaction on = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    if (pipe2(stop_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        return err_set(e, ERR_FILE, "cannot make a pipe: %s", strerror(errno));
    sigaction(SIGTERM, &on, NULL);
    sigaction(SIGINT, &on, NULL);
    return true;
}

/* The next signal, or 0 when timeout_ms (-1: for ever) have passed. */
static int next_signal(int timeout_ms)
{
    struct pollfd f = {.fd = stop_pipe[0], .events = POLLIN};
    char          c = 0;
    int           n;
    do n = poll(&f, 1, timeout_ms);
    while (n < 0 && errno == EINTR);
    return n > 0 && read(stop_pipe[0], &c, 1) == 1 ? c : 0;
}

/* Wait for SIGTERM or SIGINT, then drain. false: a second signal came, or a request would not end. */
static bool serve_until_told(server *s)
{
    int         sig;
    drain_state d = DRAINING;
    while ((sig = next_signal(-1)) == 0) { }
    LOG(LOG_INFO, "stop", LOG_I("signal", sig));
    notify_systemd("STOPPING=1");
    server_drain_begin(s);
    while (d == DRAINING) {
        if (next_signal(0)) {
            LOG(LOG_WARN, "stop_at_once", LOG_S("text", "a second signal came while requests were being finished"));
            return false;
        }
        d = server_drain_step(s, 20);
    }
    if (d == STUCK) LOG(LOG_ERROR, "drain_timeout", LOG_S("text", "a request did not end within drain_timeout_ms"));
    return d == DRAINED;
}

static int run(const config *c)
{
    int            fd = -1, port = 0, status = EXIT_FAILED;
    double         began = clock_ms();
    engine_options o = models(c);
    engine         en = {0};
    server        *s = NULL;
    err            e = {0};
    kernels      **kern = mem_zalloc((size_t)c->workers, sizeof *kern);

    signal(SIGPIPE, SIG_IGN); /* a client that went away is an error of its write, not our end */
    if (!kern) err_set(&e, ERR_MEMORY, "out of memory");
    bool ok = kern && server_bind(&fd, &port, c, &e) && open_kernels(kern, &o, (int)c->workers, &e)
              && engine_open(&en, &o, kern[0], &e) && catch_signals(&e);
    if (ok) {
        ok = server_open(&s, c, &en, kern, fd, &e);
        fd = -1;
    }
    if (ok) {
        report(c, &en, kern[0], port, (clock_ms() - began) / 1e3);
        printf(strchr(c->bind, ':') ? "listening on http://[%s]:%d\n" : "listening on http://%s:%d\n", c->bind, port);
        fflush(stdout);
        notify_systemd("READY=1");
        /* Threads still compute for requests that we will not wait for: returning would tear down what they use. */
        if (!serve_until_told(s)) _exit(EXIT_FAILED);
        status = EXIT_DONE;
    }
    server_close(s);
    engine_close(&en);
    for (int64_t i = 0; kern && i < c->workers; i++)
        if (kern[i]) kern[i]->close(kern[i]);
    free(kern);
    if (fd >= 0) close(fd);
    if (e.code) return cli_fail("serve", &e);
    LOG(LOG_INFO, "stopped", LOG_I("port", port));
    return status;
}

/* --check-config: also how large the cache will be, which the reader decides where it is not set. */
static int tell_valid(const config *c)
{
    engine_options o = models(c);
    err            e = {0};
    size_t         bytes = o.cache_bytes;
    bool           gpu = kernels_on_gpu(o.device), is_auto = bytes == CACHE_AUTO;
    if (is_auto && !reader_auto_cache(&bytes, o.reader, gpu, engine_precision(&o), &e)) return cli_fail("serve", &e);
    printf("the configuration is valid\n");
    printf("cache_mb = %s%zu MiB%s\n", is_auto ? "auto: " : "", bytes >> 20,
           is_auto && gpu ? ", or half of what the GPU has free once the models are there, if that is less" : "");
    return EXIT_DONE;
}

int cmd_serve(int argc, char **argv)
{
    config        c;
    err           e = {0};
    config_action action;
    text          t = {0};
    log_level     level = LOG_INFO;

    if (!config_from_args(&c, argc - 1, argv + 1, environ, &action, &e)) return cli_fail("serve", &e);
    if (action == CONFIG_HELP) return config_usage(&t), print_text(&t);
    if (action == CONFIG_PRINT) return config_print(&c, &t), print_text(&t);
    if (!config_check(&c, (int)sysconf(_SC_NPROCESSORS_ONLN), &e)) return cli_fail("serve", &e);
    if (action == CONFIG_CHECK && !config_check_folders(&c, &e)) return cli_fail("serve", &e);
    if (action == CONFIG_CHECK) return tell_valid(&c);
    log_level_parse(&level, c.level);
    log_threshold(level);
    return run(&c);
}
