#include "diagnose/engine.h"

#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

/* Below this a reader is a small one: float32 products cost little there, and keep four more digits. */
static const int64_t SMALL_READER_BYTES = (int64_t)512 << 20;
/* Below this both models' products are so short that a second thread costs more in waiting than it takes over, above
 * all on a machine that does other things (measured: docs/PERF.md, "Retriever"). */
static const int64_t ONE_THREAD_BYTES = (int64_t)64 << 20;

bool products_parse(products_choice *out, const char *name)
{
    static const char *const known[] = {"auto", "f32", "bf16", "own"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, known[i]) == 0) return *out = (products_choice)i, true;
    return false;
}

/* Bytes of the .safetensors files in dir; a folder that cannot be read counts 0 and fails when it is opened. */
static int64_t weight_bytes(const char *dir)
{
    int64_t sum = 0;
    DIR    *d = opendir(dir);
    if (!d) return 0;
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        char        path[PATH_MAX];
        struct stat st;
        err         ignored = {0};
        const char *dot = strrchr(f->d_name, '.');
        if (dot && strcmp(dot, ".safetensors") == 0 && path_join(path, sizeof path, dir, f->d_name, &ignored) &&
            stat(path, &st) == 0)
            sum += st.st_size;
    }
    closedir(d);
    return sum;
}

precision engine_precision(const engine_options *o)
{
    if (o->products != PRODUCTS_AUTO) return o->products == PRODUCTS_F32 ? PRECISION_F32 : PRECISION_BF16;
    return o->reader && weight_bytes(o->reader) > SMALL_READER_BYTES ? PRECISION_BF16 : PRECISION_F32;
}

bool engine_small(const engine_options *o)
{
    return (o->reader ? weight_bytes(o->reader) : 0) + (o->retriever ? weight_bytes(o->retriever) : 0)
           < ONE_THREAD_BYTES;
}

bool engine_kernels(kernels **out, const engine_options *o, err *e)
{
    kernels_options k = {.device = o->device ? o->device : "auto",
                         .products = engine_precision(o),
                         .own_products = o->products == PRODUCTS_OWN,
                         .threads = o->threads};
    if (k.threads == 0 && engine_small(o)) k.threads = 1;
    return kernels_open(out, &k, e);
}

static bool use_adapter(engine *en, const char *name, err *e)
{
    err why = {0};
    return reader_find_adapter(en->reader, name, &en->adapter, &why)
           || err_set(e, ERR_USAGE, "the default %s", why.text);
}

bool engine_open(engine *out, const engine_options *o, kernels *k, err *e)
{
    engine en = {.tau = o->tau > 0 ? o->tau : 1, .limits = IMAGE_LIMITS, .policy = o->policy};
    if (o->max_pixels > 0) en.limits.max_pixels = o->max_pixels;
    reader_options ro = {.cache_bytes = o->cache_bytes,
                         .cache_host_bytes = o->cache_host_bytes,
                         .adapters = o->adapter,
                         .n_adapters = o->n_adapters,
                         .merge = o->merge_adapter};
    bool ok =
        retriever_open(&en.retriever, o->retriever, k, e)
        && (!o->index
            || (index_open(&en.index, o->index, retriever_hash(en.retriever), e)
                && index_use(en.index, o->search, k, e)))
        && (!o->reader || (reader_open(&en.reader, o->reader, &ro, k, e) && use_adapter(&en, o->use_adapter, e)));
    if (ok && en.index && index_describe(en.index)->dim != retriever_dim(en.retriever))
        ok = err_set(
            e, ERR_FILE,
            "%s: its vectors have %d dimensions, the retriever gives %d: build the index anew with this retriever",
            o->index, index_describe(en.index)->dim, retriever_dim(en.retriever));
    if (ok) *out = en;
    else engine_close(&en);
    return ok;
}

void engine_close(engine *en)
{
    reader_close(en->reader);
    index_close(en->index);
    retriever_close(en->retriever);
    *en = (engine){0};
}
