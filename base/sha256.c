#include "base/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <nettle/sha2.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

/* nettle 4 dropped the length argument of sha256_digest; 3.x is what every supported release has today. */
#if defined(NETTLE_VERSION_MAJOR) && NETTLE_VERSION_MAJOR >= 4
#define DIGEST(ctx, out) sha256_digest((ctx), (out))
#else
#define DIGEST(ctx, out) sha256_digest((ctx), SHA256_BYTES, (out))
#endif

void sha256(uint8_t out[SHA256_BYTES], const void *p, size_t n)
{
    struct sha256_ctx c;
    sha256_init(&c);
    sha256_update(&c, n, p);
    DIGEST(&c, out);
}

bool sha256_file(char hex[SHA256_HEX], const char *path, err *e)
{
    file_map m;
    uint8_t  h[SHA256_BYTES];
    if (!file_map_open(&m, path, e)) return false;
    sha256(h, m.data, m.bytes);
    file_map_close(&m);
    hex_encode(hex, h, SHA256_BYTES);
    return true;
}

/* The files of a model folder and their hashes, shared by the hashing threads: each takes the next file. */
typedef struct {
    const char *dir;
    char      **name;
    char      (*hex)[SHA256_HEX];
    int         n;
    atomic_int  next;
    pthread_mutex_t lock; /* of e */
    err        *e;
} hashing;

static void *hash_files(void *arg)
{
    hashing *h = arg;
    for (int i; (i = atomic_fetch_add(&h->next, 1)) < h->n;) {
        char path[4096];
        err  mine = {0};
        if (path_join(path, sizeof path, h->dir, h->name[i], &mine) && sha256_file(h->hex[i], path, &mine)) continue;
        pthread_mutex_lock(&h->lock);
        if (h->e->code == ERR_NONE) *h->e = mine;
        pthread_mutex_unlock(&h->lock);
    }
    return NULL;
}

static bool is_model_file(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && dot != name && (!strcmp(dot, ".json") || !strcmp(dot, ".jinja") || !strcmp(dot, ".txt") ||
                                  !strcmp(dot, ".safetensors"));
}

/* Tuned query towers are hashed apart: an index stays valid when they change. */
static bool is_query_tower(const char *name)
{
    return !strcmp(name, "query_image.safetensors") || !strcmp(name, "query_text.safetensors");
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool list_files(char ***names, int *n, const char *dir, err *e)
{
    DIR *d = opendir(dir);
    if (!d) return err_set(e, ERR_FILE, "%s: %s", dir, strerror(errno));
    char **list = NULL;
    int    len = 0;
    bool   ok = true;
    for (struct dirent *f; ok && (f = readdir(d)) != NULL;) {
        if (!is_model_file(f->d_name) || is_query_tower(f->d_name)) continue;
        char **more = mem_realloc(list, (size_t)(len + 1) * sizeof *list);
        if (more) list = more;
        ok = more && (list[len] = mem_strdup(f->d_name)) != NULL;
        len += ok;
    }
    closedir(d);
    *names = list;
    *n = len;
    if (!ok) return err_set(e, ERR_MEMORY, "%s: out of memory", dir);
    if (len == 0) return err_set(e, ERR_FILE, "%s: holds no model files (.json, .jinja, .txt, .safetensors)", dir);
    qsort(list, (size_t)len, sizeof *list, by_name);
    return true;
}

/* Hash all files with as many threads as cores; one is the caller. */
static void hash_all(hashing *h)
{
    enum { MOST = 15 };
    pthread_t t[MOST];
    int       n = 0;
    long      cores = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_mutex_init(&h->lock, NULL);
    while (n < MOST && n < cores - 1 && n < h->n - 1 && pthread_create(&t[n], NULL, hash_files, h) == 0) n++;
    hash_files(h);
    for (int i = 0; i < n; i++) pthread_join(t[i], NULL);
    pthread_mutex_destroy(&h->lock);
}

bool sha256_model(char hex[SHA256_HEX], const char *dir, err *e)
{
    hashing h = {.dir = dir, .e = e};
    text    t = {0};
    bool    ok = false;
    if (!list_files(&h.name, &h.n, dir, e)) goto done;
    h.hex = mem_zalloc((size_t)h.n, sizeof *h.hex);
    if (!h.hex) {
        err_set(e, ERR_MEMORY, "%s: out of memory", dir);
        goto done;
    }
    hash_all(&h);
    if (e->code != ERR_NONE) goto done;
    for (int i = 0; i < h.n; i++) text_printf(&t, "%s %s\n", h.name[i], h.hex[i]);
    if (t.failed) {
        err_set(e, ERR_MEMORY, "%s: out of memory", dir);
        goto done;
    }
    uint8_t digest[SHA256_BYTES];
    sha256(digest, t.s, t.len);
    hex_encode(hex, digest, SHA256_BYTES);
    ok = true;
done:
    text_free(&t);
    free(h.hex);
    for (int i = 0; i < h.n; i++) free(h.name[i]);
    free(h.name);
    return ok;
}
