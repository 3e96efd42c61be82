/* config.h - every setting of `jomed serve`, from four places, each over the one before:
 *     built-in default < INI file (--config FILE) < environment (JOMED_SECTION_KEY) < flag (--key VALUE)
 * One table in config.c names them all: it parses, checks bounds, prints (--print-config), writes the help text and
 * the example file, so that none of these can forget a setting. */
#ifndef JOMED_SERVER_CONFIG_H
#define JOMED_SERVER_CONFIG_H

#include <limits.h>
#include <stdint.h>
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "reader/reader.h"

typedef struct {
    /* [server] */
    char    bind[64];            /* a numeric address; loopback by default, because there is no authentication */
    int64_t port;                /* 0: any free one, printed at start */
    int64_t http_threads;
    int64_t connections;         /* open at once; more wait in the kernel's backlog */
    int64_t connections_per_ip;  /* 0: no limit of its own */
    int64_t read_timeout_ms;     /* for the whole of a request's headers, then for the whole of its body */
    int64_t write_timeout_ms;    /* for the whole of an answer */
    int64_t idle_timeout_ms;     /* from an answer to the end of the next request's headers */
    int64_t drain_grace_ms;      /* after SIGTERM: still serving, readiness already 503, so balancers can turn away */
    int64_t drain_timeout_ms;    /* after the grace: for what runs to finish */
    /* [limits] */
    int64_t body_bytes;          /* of one request */
    int64_t buffered_bytes;      /* of all requests being held, together */
    int64_t headers;             /* fields of one request */
    int64_t max_pixels, max_side;
    /* [work] */
    int64_t workers;             /* 0: by the models and the device */
    int64_t threads;             /* of each worker; 0: cores / workers */
    int64_t queue;               /* requests that may wait */
    int64_t batch;               /* of those, read in the same passes; 0: by the device */
    int64_t arena_bytes;         /* memory of one request in a worker; 0: no bound */
    int64_t deadline_ms;         /* of a request that names none */
    int64_t deadline_max_ms;     /* the most it may name */
    /* [models] */
    char    reader[PATH_MAX], retriever[PATH_MAX], index[PATH_MAX];
    char    device[32], products[8], search[12], image_policy[12];
    int64_t cache_mb;            /* of candidate prefixes' keys and values, on the device; -1: CACHE_AUTO */
    int64_t cache_host_mb;       /* of those that it has no more room for */
    double  tau;                 /* temperature of p_R */
    char    use_adapter[MAX_ADAPTER_NAME + 1]; /* of requests that name none; empty: the base model alone */
    char    lora_merge[8];       /* "yes": add the one adapter to the weights */
    /* [adapters] NAME = folder; --adapter NAME=DIR */
    struct { char name[MAX_ADAPTER_NAME + 1], dir[PATH_MAX]; } adapter[MAX_ADAPTERS];
    int     n_adapters;
    /* [log] */
    char level[8];
} config;

void config_defaults(config *c);
size_t config_cache_bytes(const config *c); /* cache_mb, or CACHE_AUTO */

/* The steps in order. ERR_USAGE names file and line, variable or flag, and what would be taken. */
bool config_file(config *c, const char *path, err *e);
/* Every JOMED_SECTION_KEY in env (as environ, NULL at its end). A name that starts like one of our sections but is
 * no setting is refused: a misspelt limit must not be ignored in silence. */
bool config_environment(config *c, char *const env[], err *e);
/* Takes --config, --check-config, --print-config, --help, --adapter and every setting's flag, in one or two
 * words ("--port=0", "--port 0"; a flag for yes or no alone means yes); the whole ladder in its right order. A
 * flag's adapter replaces the file's of the same name. */
typedef enum { CONFIG_RUN, CONFIG_CHECK, CONFIG_PRINT, CONFIG_HELP } config_action;
bool config_from_args(config *c, int argc, char *const argv[], char *const env[], config_action *what, err *e);

/* What bounds of single settings cannot say: a reader is named, body <= buffered, deadline <= its maximum, the
 * address is an address, the adapter to use is one of those that are set, there is a GPU where the cache has host
 * memory behind it. Fills in what 0 leaves open (workers, threads, batch) for the device, and a machine of so many
 * cores. */
bool config_check(config *c, int cores, err *e);
/* For --check-config: do the named folders exist? ERR_FILE. What is in them is checked when they are opened. */
bool config_check_folders(const config *c, err *e);

/* The INI text of c, every key with its comment before it (deploy/jomed.ini is this, of the defaults). */
void config_print(const config *c, text *out);
/* The flags, for --help. */
void config_usage(text *out);

#endif
