#include "server/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "diagnose/engine.h"
#include "base/file.h"

/* KIND_AUTO: a whole number, or the word auto, which is kept as -1. */
typedef enum { KIND_INT, KIND_AUTO, KIND_NUM, KIND_TEXT, KIND_CHOICE } kind;
typedef struct {
    const char *section, *key, *flag; /* flag: key with '-' for '_', but where that would be unclear */
    kind        kind;
    size_t      offset, size; /* size: of a text, with its zero */
    double      min, max;     /* of a number; exact below 2^53 */
    const char *def;          /* default; also the choices' first word */
    const char *choices;      /* "auto|f32|bf16" */
    const char *help;
} setting;

#define AT(member) offsetof(config, member), sizeof(((config *)0)->member)
#define INT(sec, key, flag, min, max, def, help) {sec, #key, flag, KIND_INT, AT(key), min, max, def, NULL, help}
#define TEXT(sec, key, flag, def, help) {sec, #key, flag, KIND_TEXT, AT(key), 0, 0, def, NULL, help}
#define CHOICE(sec, key, flag, choices, def, help) {sec, #key, flag, KIND_CHOICE, AT(key), 0, 0, def, choices, help}

static const setting SETTINGS[] = {
    TEXT("server", bind, "bind", "127.0.0.1",
         "numeric address to listen on; there is no authentication: keep it on loopback or behind a proxy"),
    INT("server", port, "port", 0, 65535, "8080", "0 takes a free port; the one taken is printed"),
    INT("server", http_threads, "http-threads", 1, 64, "2", "threads that read requests and write answers"),
    INT("server", connections, "connections", 1, 100000, "512", "open connections; more wait in the backlog"),
    INT("server", connections_per_ip, "connections-per-ip", 0, 100000, "0",
        "of one client address; 0: no such limit"),
    INT("server", read_timeout_ms, "read-timeout-ms", 100, 3600e3, "30000",
        "for all headers of a request, then for all of its body"),
    INT("server", write_timeout_ms, "write-timeout-ms", 100, 3600e3, "60000", "for all of an answer"),
    INT("server", idle_timeout_ms, "idle-timeout-ms", 100, 3600e3, "60000",
        "from an answer to the next request's headers on the same connection"),
    INT("server", drain_grace_ms, "drain-grace-ms", 0, 3600e3, "1000",
        "after SIGTERM /readyz says 503 and work is still taken this long"),
    INT("server", drain_timeout_ms, "drain-timeout-ms", 0, 3600e3, "30000",
        "after the grace, for running work to finish"),
    INT("limits", body_bytes, "body-bytes", 1024, 4294967296.0, "33554432",
        "of one request; more is refused before it is read"),
    INT("limits", buffered_bytes, "buffered-bytes", 1024, 1099511627776.0, "536870912",
        "of all request bodies held at once"),
    INT("limits", headers, "headers", 8, 1000, "100", "header fields of one request"),
    INT("limits", max_pixels, "max-pixels", 1, 4294967296.0, "67108864", "width times height of a query image"),
    INT("limits", max_side, "max-side", 1, 65535, "32767", "width or height of a query image"),
    INT("work", workers, "workers", 0, 1024, "0",
        "requests computed at once; 0: one per core for small models, else one; on a GPU two"),
    INT("work", threads, "threads", 0, 1024, "0", "of each worker; 0: cores / workers"),
    INT("work", batch, "batch", 0, MAX_TOGETHER, "0",
        "waiting requests that a worker reads in the same passes; 0: 8 on a GPU, 1 on a CPU"),
    INT("work", queue, "queue", 1, 100000, "64", "requests that may wait; more are answered 503 at once"),
    INT("work", arena_bytes, "arena-bytes", 0, 1099511627776.0, "2147483648",
        "memory of one request inside a worker; 0: no bound"),
    INT("work", deadline_ms, "deadline-ms", 1, 86400e3, "30000", "of a request that names none"),
    INT("work", deadline_max_ms, "deadline-max-ms", 1, 86400e3, "300000", "the most that a request may name"),
    TEXT("models", reader, "reader", "", "folder of the vision-language reader"),
    TEXT("models", retriever, "retriever", "", "folder of the retriever"),
    TEXT("models", index, "index", "", "folder made by jomed index build"),
    TEXT("models", device, "device", "auto", "auto (the first GPU, else the CPU), cpu or cuda:N"),
    CHOICE("models", products, "products", "auto|f32|bf16|own", "auto", "arithmetic of matrix products"),
    CHOICE("models", search, "search", "auto|faiss|faiss-gpu|exact", "auto",
           "what searches the index; exact: all its vectors on the GPU"),
    CHOICE("models", image_policy, "image-policy", "native|jomed-256", "native",
           "what the reader's pictures go through first"),
    {"models", "cache_mb", "cache-mb", KIND_AUTO, AT(cache_mb), 0, 1048576, "auto", NULL,
     "MiB on the device for the keys and values of retrieved pairs; 0: no cache; auto: for 256 pairs (a CPU: 64)"},
    INT("models", cache_host_mb, "cache-host-mb", 0, 1048576, "0",
        "MiB of pinned host memory for those that a GPU's cache has no more room for"),
    TEXT("models", use_adapter, "use-adapter", "",
         "adapter of requests that name none; empty: the base model alone"),
    CHOICE("models", lora_merge, "lora-merge", "no|yes", "no",
           "add the one adapter to the weights at start: saves its arithmetic, takes memory for them"),
    {"models", "tau", "tau", KIND_NUM, AT(tau), 1e-3, 1e3, "1", NULL,
     "temperature of the softmax over retrieval scores"},
    CHOICE("log", level, "log-level", "debug|info|warn|error", "info",
           "least level written; debug adds health checks"),
};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS, LINE_MAX_BYTES = 190 /* inih's own line is 200 */ };

static bool is_choice(const char *choices, const char *v)
{
    size_t n = strlen(v);
    for (const char *c = choices; n && c; c = strchr(c, '|')) {
        if (*c == '|') c++;
        if (strncmp(c, v, n) == 0 && (c[n] == '|' || c[n] == 0)) return true;
    }
    return false;
}

static bool is_switch(const setting *s) { return s->choices && strcmp(s->choices, "no|yes") == 0; }

/* where: "jomed.ini:12" or "--port" or "JOMED_SERVER_PORT". */
static bool assign(config *c, const setting *s, const char *v, const char *where, err *e)
{
    void *p = (char *)c + s->offset;
    char *end;
    errno = 0;
    switch (s->kind) {
    case KIND_AUTO:
        if (strcmp(v, "auto") == 0) return *(int64_t *)p = -1, true;
        /* fall through */
    case KIND_INT: {
        long long n = strtoll(v, &end, 10);
        if (errno || end == v || *end || isspace((unsigned char)*v) || (double)n < s->min || (double)n > s->max)
            return err_at(e, ERR_USAGE, NULL, s->key, "%s: %s is %sa whole number from %.0f to %.0f", where, s->key,
                          s->kind == KIND_AUTO ? "auto or " : "", s->min, s->max);
        *(int64_t *)p = n;
        return true;
    }
    case KIND_NUM: {
        double d = strtod(v, &end);
        if (errno || end == v || *end || isspace((unsigned char)*v) || !(d >= s->min && d <= s->max))
            return err_at(e, ERR_USAGE, NULL, s->key, "%s: %s is a number from %g to %g", where, s->key, s->min,
                          s->max);
        *(double *)p = d;
        return true;
    }
    case KIND_CHOICE:
        if (!is_choice(s->choices, v))
            return err_at(e, ERR_USAGE, NULL, s->key, "%s: %s is one of %s", where, s->key, s->choices);
        break;
    case KIND_TEXT:
        if (strlen(v) >= s->size || strpbrk(v, "\r\n"))
            return err_at(e, ERR_USAGE, NULL, s->key, "%s: %s takes one line of at most %zu bytes", where, s->key,
                          s->size - 1);
        break;
    }
    snprintf(p, s->size, "%s", v);
    return true;
}

void config_defaults(config *c)
{
    err e = {0};
    *c = (config){0};
    for (int i = 0; i < N_SETTINGS; i++) assign(c, &SETTINGS[i], SETTINGS[i].def, "default", &e);
}

size_t config_cache_bytes(const config *c) { return c->cache_mb < 0 ? CACHE_AUTO : (size_t)c->cache_mb << 20; }

/* ---- adapters: a list, so not in the table ---- */

static const char ADAPTERS_HELP[] = "NAME = folder of a PEFT LoRA adapter; requests choose it by its name";

static bool set_adapter(config *c, const char *name, size_t n, const char *dir, bool replace, const char *where,
                        err *e)
{
    int  i = 0;
    char own[MAX_ADAPTER_NAME + 2]; /* room for one too many, so that it is seen to be */
    snprintf(own, sizeof own, "%.*s", (int)(n < sizeof own ? n : sizeof own - 1), name);
    if (!reader_adapter_name(own)) /* others would not even come back from the file that --print-config writes */
        return err_at(e, ERR_USAGE, NULL, "adapter",
                      "%s: an adapter's name has 1 to %d letters, digits, '_', '-' or '.', and is not 'none'",
                      where, MAX_ADAPTER_NAME);
    if (strlen(dir) >= sizeof c->adapter[0].dir || *dir == 0 || strpbrk(dir, "\r\n"))
        return err_at(e, ERR_USAGE, NULL, "adapter", "%s: an adapter's folder is one line of 1 to %zu bytes", where,
                      sizeof c->adapter[0].dir - 1);
    while (i < c->n_adapters && strcmp(c->adapter[i].name, own) != 0) i++;
    if (i < c->n_adapters && !replace)
        return err_at(e, ERR_USAGE, NULL, "adapter", "%s: [adapters] %s is set twice", where, own);
    if (i == MAX_ADAPTERS)
        return err_at(e, ERR_USAGE, NULL, "adapter", "%s: at most %d adapters are taken", where, MAX_ADAPTERS);
    if (i == c->n_adapters) c->n_adapters++;
    memcpy(c->adapter[i].name, own, strlen(own) + 1);
    snprintf(c->adapter[i].dir, sizeof c->adapter[i].dir, "%s", dir);
    return true;
}

/* "NAME=DIR" */
static bool adapter_flag(config *c, const char *v, err *e)
{
    const char *eq = strchr(v, '=');
    if (!eq) return err_at(e, ERR_USAGE, NULL, "adapter", "--adapter takes NAME=DIR");
    return set_adapter(c, v, (size_t)(eq - v), eq + 1, true, "--adapter", e);
}

static const setting *find_key(const char *section, const char *key)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(SETTINGS[i].section, section) == 0 && strcmp(SETTINGS[i].key, key) == 0) return &SETTINGS[i];
    return NULL;
}

/* inih reads lines through read_line(), which counts them, because Debian's build does not pass line numbers on. */
typedef struct { config *c; const char *path, *p; int line; bool seen[N_SETTINGS]; err *e; } ini_state;

static char *read_line(char *buf, int size, void *stream)
{
    ini_state  *s = stream;
    const char *nl = strchrnul(s->p, '\n');
    size_t      n = (size_t)(nl - s->p);
    if (*s->p == 0 || s->e->code) return NULL;
    s->line++;
    if (n > LINE_MAX_BYTES || n + 2 > (size_t)size) {
        err_set(s->e, ERR_USAGE, "%s:%d: a line has at most %d bytes", s->path, s->line, LINE_MAX_BYTES);
        return NULL;
    }
    /* inih takes an indented line for more of the value above it: that hides mistakes, and no value here has
     * two lines */
    if (isspace((unsigned char)*s->p) && strspn(s->p, " \t\r") < n) {
        err_set(s->e, ERR_USAGE, "%s:%d: a line must not be indented", s->path, s->line);
        return NULL;
    }
    if (*s->p == '[' && !memchr(s->p, ']', n)) { /* inih would go on, and blame the next lines */
        err_set(s->e, ERR_USAGE, "%s:%d: a section's name ends with ]", s->path, s->line);
        return NULL;
    }
    memcpy(buf, s->p, n);
    buf[n] = '\n';
    buf[n + 1] = 0;
    s->p = *nl ? nl + 1 : nl;
    return buf;
}

static int take_pair(void *user, const char *section, const char *key, const char *value)
{
    ini_state *s = user;
    char       where[PATH_MAX + 32];
    snprintf(where, sizeof where, "%s:%d", s->path, s->line);
    if (strcmp(section, "adapters") == 0) return set_adapter(s->c, key, strlen(key), value, false, where, s->e);
    const setting *set = find_key(section, key);
    if (!set) {
        err_set(s->e, ERR_USAGE, "%s: no setting is called [%s] %s (jomed serve --print-config lists all)", where,
                section, key);
        return 0;
    }
    if (s->seen[set - SETTINGS]) {
        err_set(s->e, ERR_USAGE, "%s: [%s] %s is set twice", where, section, key);
        return 0;
    }
    s->seen[set - SETTINGS] = true;
    return assign(s->c, set, value, where, s->e);
}

bool config_file(config *c, const char *path, err *e)
{
    char     *s;
    size_t    n;
    err       why = {0};
    if (!file_read(&s, &n, path, 1 << 20, &why)) return err_set(e, ERR_USAGE, "%s", why.text);
    ini_state st = {.c = c, .path = path, .p = s, .e = &why};
    if (strlen(s) != n) err_set(&why, ERR_USAGE, "%s: a zero byte: this is not a text file", path);
    int bad = why.code ? 0 : ini_parse_stream(read_line, &st, take_pair, &st);
    free(s);
    if (!why.code && bad > 0) err_set(&why, ERR_USAGE, "%s:%d: neither [section] nor key = value", path, bad);
    if (!why.code && bad < 0) err_set(&why, ERR_MEMORY, "%s: out of memory", path);
    if (!why.code) return true;
    err_at(e, why.code, why.problem, why.field, "%s", why.text);
    return false;
}

static void variable_name(char out[64], const setting *s)
{
    snprintf(out, 64, "JOMED_%s_%s", s->section, s->key);
    for (char *p = out; *p; p++) *p = (char)toupper((unsigned char)*p);
}

static bool looks_like_ours(const char *name)
{
    char prefix[64];
    if (strncmp(name, "JOMED_ADAPTERS_", 15) == 0) return true; /* names are the file's and the flags' alone */
    for (int i = 0; i < N_SETTINGS; i++) {
        variable_name(prefix, &SETTINGS[i]);
        size_t n = strlen("JOMED_") + strlen(SETTINGS[i].section) + 1;
        if (strncmp(name, prefix, n) == 0) return true;
    }
    return false;
}

bool config_environment(config *c, char *const env[], err *e)
{
    for (; env && *env; env++) {
        const char *eq = strchr(*env, '=');
        if (!eq || !looks_like_ours(*env)) continue;
        char           name[64];
        const setting *found = NULL;
        for (int i = 0; i < N_SETTINGS && !found; i++) {
            variable_name(name, &SETTINGS[i]);
            if (strlen(name) == (size_t)(eq - *env) && strncmp(name, *env, strlen(name)) == 0) found = &SETTINGS[i];
        }
        if (!found) return err_set(e, ERR_USAGE, "environment: %.*s is no setting", (int)(eq - *env), *env);
        if (!assign(c, found, eq + 1, name, e)) return false;
    }
    return true;
}

/* One flag at argv[*i]; its value is behind '=' or the next word. */
static const setting *find_flag(const char *arg, const char **value)
{
    const char *eq = strchrnul(arg, '=');
    size_t      n = (size_t)(eq - arg);
    for (int i = 0; i < N_SETTINGS; i++) {
        if (strlen(SETTINGS[i].flag) + 2 != n || strncmp(arg + 2, SETTINGS[i].flag, n - 2) != 0) continue;
        *value = *eq ? eq + 1 : NULL;
        return &SETTINGS[i];
    }
    return NULL;
}

/* Walk the flags. pass 0 takes --config and the actions, pass 1 the settings, because flags win over the file. */
static bool walk_flags(config *c, int argc, char *const argv[], int pass, const char **file, config_action *what,
                       err *e)
{
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i], *v = NULL;
        if (strcmp(a, "--check-config") == 0) { *what = CONFIG_CHECK; continue; }
        if (strcmp(a, "--print-config") == 0) { *what = CONFIG_PRINT; continue; }
        if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) { *what = CONFIG_HELP; return true; }
        bool           is_file = strcmp(a, "--config") == 0 || strncmp(a, "--config=", 9) == 0;
        bool           is_adapter = strcmp(a, "--adapter") == 0 || strncmp(a, "--adapter=", 10) == 0;
        const setting *s = is_file || is_adapter || strncmp(a, "--", 2) != 0 ? NULL : find_flag(a, &v);
        if (!is_file && !is_adapter && !s)
            return err_set(e, ERR_USAGE, "serve: %.60s is no option (jomed serve --help lists all)", a);
        if (is_file && a[8] == '=') v = a + 9;
        if (is_adapter && a[9] == '=') v = a + 10;
        if (!v && s && is_switch(s)) v = "yes";
        if (!v && ++i == argc) return err_set(e, ERR_USAGE, "serve: %.60s needs a value", a);
        if (!v) v = argv[i];
        if (is_file) *file = v;
        if (is_adapter && pass == 1 && !adapter_flag(c, v, e)) return false;
        char where[64];
        if (s) snprintf(where, sizeof where, "--%s", s->flag);
        if (s && pass == 1 && !assign(c, s, v, where, e)) return false;
    }
    return true;
}

bool config_from_args(config *c, int argc, char *const argv[], char *const env[], config_action *what, err *e)
{
    const char *file = NULL;
    config_defaults(c);
    *what = CONFIG_RUN;
    if (!walk_flags(c, argc, argv, 0, &file, what, e)) return false;
    if (*what == CONFIG_HELP) return true;
    return (!file || config_file(c, file, e)) && config_environment(c, env, e)
           && walk_flags(c, argc, argv, 1, &file, what, e);
}

static const struct { size_t at; const char *key;
} FOLDERS[] = {{offsetof(config, reader), "reader"},
               {offsetof(config, retriever), "retriever"},
               {offsetof(config, index), "index"}};

static bool folder_is_there(const char *key, const char *dir, err *e)
{
    struct stat st;
    if (stat(dir, &st) != 0) return err_at(e, ERR_FILE, NULL, key, "%s: %s: %s", key, dir, strerror(errno));
    return S_ISDIR(st.st_mode) || err_at(e, ERR_FILE, NULL, key, "%s: %s is no folder", key, dir);
}

bool config_check_folders(const config *c, err *e)
{
    for (int i = 0; i < 3; i++)
        if (!folder_is_there(FOLDERS[i].key, (const char *)c + FOLDERS[i].at, e)) return false;
    for (int i = 0; i < c->n_adapters; i++)
        if (!folder_is_there("adapter", c->adapter[i].dir, e)) return false;
    return true;
}

static bool adapters_agree(const config *c, err *e)
{
    int i = 0;
    if (strcmp(c->lora_merge, "yes") == 0 && c->n_adapters != 1)
        return err_at(e, ERR_USAGE, NULL, "lora_merge", "lora_merge takes exactly one adapter, %d are set",
                      c->n_adapters);
    while (i < c->n_adapters && strcmp(c->adapter[i].name, c->use_adapter) != 0) i++;
    return i < c->n_adapters || !*c->use_adapter || strcmp(c->use_adapter, "none") == 0
           || err_at(e, ERR_USAGE, NULL, "use_adapter", "use_adapter is '%s', which is no adapter that is set",
                     c->use_adapter);
}

bool config_check(config *c, int cores, err *e)
{
    struct in6_addr six;
    struct in_addr  four;
    if (inet_pton(AF_INET, c->bind, &four) != 1 && inet_pton(AF_INET6, c->bind, &six) != 1)
        return err_at(e, ERR_USAGE, NULL, "bind", "bind is a numeric address, such as 127.0.0.1 or ::1");
    if (c->body_bytes > c->buffered_bytes)
        return err_at(e, ERR_USAGE, NULL, "buffered_bytes", "buffered_bytes must be at least body_bytes (%lld)",
                      (long long)c->body_bytes);
    if (c->deadline_ms > c->deadline_max_ms)
        return err_at(e, ERR_USAGE, NULL, "deadline_ms", "deadline_ms must be at most deadline_max_ms (%lld)",
                      (long long)c->deadline_max_ms);
    for (int i = 0; i < 3; i++)
        if (((const char *)c)[FOLDERS[i].at] == 0)
            return err_at(e, ERR_USAGE, NULL, FOLDERS[i].key, "%s is not set: give --%s DIR, or %s in [models]",
                          FOLDERS[i].key, FOLDERS[i].key, FOLDERS[i].key);
    if (!adapters_agree(c, e)
        || !reader_cache_agrees(config_cache_bytes(c), (size_t)c->cache_host_mb << 20, kernels_on_gpu(c->device), e))
        return false;
    if (cores < 1) cores = 1;
    if (kernels_on_gpu(c->device)) {
        /* Two, so that one decodes pictures and searches while the other's passes run. */
        if (c->workers == 0) c->workers = 2;
        if (c->threads == 0) c->threads = 1;
        if (c->batch == 0) c->batch = 8;
    }
    if (c->batch == 0) c->batch = 1;
    /* Small models: a core a request. Large ones: all cores on one request, which is as much work done and each
     * sooner. */
    engine_options o = {.reader = c->reader, .retriever = c->retriever};
    int64_t        each = c->threads > 0 ? c->threads : engine_small(&o) ? 1 : cores;
    if (c->workers == 0) c->workers = each < cores ? cores / each : 1;
    if (c->threads == 0) c->threads = c->workers < cores ? cores / c->workers : 1;
    return true;
}

static void print_value(const config *c, const setting *s, text *out)
{
    const char *p = (const char *)c + s->offset;
    if (s->kind == KIND_AUTO && *(const int64_t *)(const void *)p < 0) text_add(out, "auto");
    else if (s->kind == KIND_INT || s->kind == KIND_AUTO)
        text_printf(out, "%lld", (long long)*(const int64_t *)(const void *)p);
    else if (s->kind == KIND_NUM) text_printf(out, "%.17g", *(const double *)(const void *)p);
    else text_add(out, p);
}

void config_print(const config *c, text *out)
{
    const char *section = "";
    for (int i = 0; i < N_SETTINGS; i++) {
        const setting *s = &SETTINGS[i];
        if (strcmp(s->section, section) != 0) text_printf(out, "%s[%s]\n", *section ? "\n" : "", s->section);
        section = s->section;
        text_printf(out, "; %s%s%s\n", s->help, s->choices ? ": " : "", s->choices ? s->choices : "");
        text_printf(out, "%s = ", s->key);
        print_value(c, s, out);
        text_add(out, "\n");
    }
    text_printf(out, "\n[adapters]\n; %s\n", ADAPTERS_HELP);
    for (int i = 0; i < c->n_adapters; i++) text_printf(out, "%s = %s\n", c->adapter[i].name, c->adapter[i].dir);
}

void config_usage(text *out)
{
    text_add(
        out,
        "usage: jomed serve --reader DIR --retriever DIR --index DIR [option ...]\n\n"
        "Answers requests over HTTP until SIGTERM. Every option may also stand in a file or in the environment:\n"
        "default < file < environment (JOMED_SECTION_KEY) < option.\n\n"
        "  --config FILE              read settings from an INI file\n"
        "  --check-config             check the settings, then exit\n"
        "  --print-config             print the settings that would be used as an INI file, then exit\n"
        "  --adapter NAME=DIR         folder of a PEFT LoRA adapter, which requests choose by its name (repeat it; [adapters] in a file)\n");
    for (int i = 0; i < N_SETTINGS; i++) {
        const setting *s = &SETTINGS[i];
        char           name[40];
        snprintf(name, sizeof name, "--%s %s", s->flag,
                 is_switch(s)             ? ""
                 : s->kind == KIND_TEXT   ? "X"
                 : s->kind == KIND_CHOICE ? "WORD"
                                          : "N");
        text_printf(out, "  %-26s %s%s%s%s%s%s\n", name, s->help, s->choices ? ": " : "",
                    s->choices ? s->choices : "", *s->def ? " [" : "", s->def, *s->def ? "]" : "");
    }
}
