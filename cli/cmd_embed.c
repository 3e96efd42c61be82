/* cmd_embed.c - `jomed embed`: the vectors that an index holds, one JSON object a line. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"

static const char HELP[] =
    "usage: jomed embed --retriever DIR [OPTIONS] IMAGE...\n"
    "       jomed embed --retriever DIR [OPTIONS] --text T [--text T]...\n\n"
    "Print the unit-length embedding of each image (PNG or JPEG) or text, one JSON object a line:\n"
    "{\"file\": IMAGE or \"text\": T, \"retriever\": SHA-256 of its folder, \"embedding\": [...]}.\n\n"
    "  --retriever DIR    jina-clip-v1 checkpoint\n"
    "  --text T           a text instead of images (repeat it for more)\n"
    "  --max-tokens N     cut texts to N tokens, [CLS] and [SEP] included (default 256, as an index does)\n"
    "  --device NAME      auto (default: the first GPU, else the CPU), cpu or cuda:N\n"
    "  --threads N        threads (default: one per core; 1 for small models)\n"
    "  --help             print this\n";

enum { MAX_IMAGE_FILE = 64 << 20, MAX_TOKENS = 8192 /* what the text tower was made for */ };

typedef struct {
    engine_options models;
    char         **text, **image; /* pointers into argv */
    int            n_texts, n_images, max_tokens;
    bool           help;
} options;

static bool parse(options *o, int argc, char **argv, err *e)
{
    enum { TEXT = 1, TOKENS, HELP_ };
    static const struct option known[] = {
        CLI_MODEL_OPTIONS,
        {"text", required_argument, NULL, TEXT}, {"max-tokens", required_argument, NULL, TOKENS},
        {"help", no_argument, NULL, HELP_}, {0}};
    long n;
    for (int opt; (opt = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        bool taken;
        if (!cli_model_option(&o->models, opt, optarg, &taken, e)) return false;
        if (taken) continue;
        switch (opt) {
        case TEXT: o->text[o->n_texts++] = optarg; break;
        case TOKENS:
            if (!cli_int(&n, "--max-tokens", optarg, 2, MAX_TOKENS, e)) return false;
            o->max_tokens = (int)n;
            break;
        case HELP_: o->help = true; return true;
        default: return err_set(e, ERR_USAGE, "an option is not known or lacks its value");
        }
    }
    o->image = argv + optind;
    o->n_images = argc - optind;
    if (o->n_texts > 0 && o->n_images > 0) return err_set(e, ERR_USAGE, "give images or --text, not both");
    return cli_need(o->models.retriever, "--retriever", e)
        && (o->n_texts + o->n_images > 0 || err_set(e, ERR_USAGE, "an image file or --text is missing"));
}

static bool embed_file(const retriever *r, kernels *k, const char *path, float *z, arena *a, err *e)
{
    char  *bytes = NULL;
    size_t n;
    image  img;
    if (!file_read(&bytes, &n, path, MAX_IMAGE_FILE, e)) return false;
    bool ok = image_decode(&img, bytes, n, &IMAGE_LIMITS, a, e) && retriever_embed_image(r, k, &img, z, a, e);
    free(bytes);
    return ok;
}

/* Nine digits: a float comes back as it was. */
static bool print_vector(const char *kind, const char *what, const char *hash, const float *z, int E, err *e)
{
    json_t *list = json_array();
    for (int i = 0; list && i < E; i++)
        if (json_array_append_new(list, json_real(z[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    json_t *j = list ? json_pack("{s:s, s:s, s:o}", kind, what, "retriever", hash, "embedding", list) : NULL;
    bool    ok = j && json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(j);
    if (!ok) return err_set(e, ERR_MEMORY, "cannot print an embedding as JSON: is the name UTF-8?");
    putchar('\n');
    return true;
}

static bool embed_one(const retriever *r, kernels *k, const options *o, int i, arena *a, err *e)
{
    const int E = retriever_dim(r);
    float    *z = ARENA_NEW(a, float, E, e);
    if (!z) return false;
    if (o->n_texts > 0)
        return (utf8_valid(o->text[i], strlen(o->text[i])) || err_set(e, ERR_UNUSABLE, "it is not valid UTF-8"))
            && retriever_embed_text(r, k, o->text[i], o->max_tokens, z, a, e)
            && print_vector("text", o->text[i], retriever_hash(r), z, E, e);
    return embed_file(r, k, o->image[i], z, a, e) && print_vector("file", o->image[i], retriever_hash(r), z, E, e);
}

static int run(const options *o)
{
    err        e = {0};
    kernels   *k = NULL;
    retriever *r = NULL;
    arena     *a = arena_new(0);
    int        status = EXIT_DONE, n = o->n_texts + o->n_images;
    char       item[32];
    if (!a) err_set(&e, ERR_MEMORY, "out of memory");
    if (!a || !engine_kernels(&k, &o->models, &e) || !retriever_open(&r, o->models.retriever, k, &e))
        status = cli_fail("embed", &e);
    for (int i = 0; r && i < n; i++, arena_reset(a)) {
        e = (err){0};
        if (embed_one(r, k, o, i, a, &e)) continue;
        snprintf(item, sizeof item, "text %d", i + 1);
        cli_item_failed("embed", o->n_texts > 0 ? item : o->image[i], &e);
        status = EXIT_FAILED;
    }
    retriever_close(r);
    if (k) k->close(k);
    arena_free(a);
    return status;
}

int cmd_embed(int argc, char **argv)
{
    err     e = {0};
    int     status = EXIT_DONE;
    options o = {.text = mem_zalloc((size_t)argc, sizeof *o.text)};
    if (!o.text) {
        err_set(&e, ERR_MEMORY, "out of memory");
        return cli_fail("embed", &e);
    }
    if (!parse(&o, argc, argv, &e)) status = cli_fail("embed", &e);
    else if (o.help) fputs(HELP, stdout);
    else {
        o.models.reader = o.models.index = NULL;
        status = run(&o);
    }
    free(o.text);
    return status;
}
