/* cmd_index.c - `jomed index build|info|verify`. */
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/cli.h"
#include "index/build.h"
#include "index/manifest.h"
#include "index/verify.h"

static const char HELP[] =
    "usage: jomed index build --retriever DIR --out DIR SOURCE... [OPTIONS]\n"
    "       jomed index info [--json] DIR\n"
    "       jomed index verify [--images] DIR\n\n"
    "Build an index of (image, caption) pairs, describe one, or check that one is whole.\n"
    "`jomed index build --help` lists the sources and options.\n";

static const char BUILD_HELP[] =
    "usage: jomed index build --retriever DIR --out DIR SOURCE... [OPTIONS]\n\n"
    "Embed every pair of the sources, in their order, and write the index. Items that cannot be used are skipped, counted\n"
    "and listed in DIR/report.jsonl. An interrupted build leaves DIR.partial and goes on when started again the same way.\n\n"
    "Sources, repeatable; the options in brackets belong to the source before them:\n"
    "  --jsonl FILE [--images DIR]     lines with img_path, text, id, dataset_source; optional study, patient, license.\n"
    "                                  img_path is a file below DIR, or FILE.npz#SPLIT/ROW\n"
    "  --medmnist FILE.npz [--split train] --captions FILE.json\n"
    "                                  item i with label y gets caption number i mod n of the n under y\n"
    "  --roco DIR                      ROCO: DIR/captions.txt, DIR/images/, DIR/licences.txt\n"
    "  --pmc-oa FILE.jsonl --images DIR  PMC-OA: lines with image, caption\n"
    "  --mimic DIR [--reports DIR]     MIMIC-CXR-JPG: frontal views, caption = FINDINGS of the report\n"
    "  [--name NAME]                   name of the source, for items that bring none\n\n"
    "Options:\n"
    "  --retriever DIR    jina-clip-v1 checkpoint that embeds; the index serves only this one\n"
    "  --out DIR          folder to make\n"
    "  --factory STRING   FAISS index_factory string (default Flat: exact)\n"
    "  --dedupe           leave out items with the pixels and the caption of an earlier one\n"
    "  --embed-images     keep the images in the index, so that it can be moved or the files deleted;\n"
    "                     otherwise manifest.json (image_roots) names the folders and they must stay\n"
    "  --force            replace an index at --out\n"
    "  --device NAME      auto (default: the first GPU, else the CPU), cpu or cuda:N\n"
    "  --threads N        threads (default: one per core; 1 for small models)\n"
    "  --quiet            no progress\n";

enum { MAX_SOURCES = 64 };

typedef struct {
    engine_options models;
    build_options  build;
    import_source  source[MAX_SOURCES];
    import_source  early; /* source options that came before any source */
    bool           has_early, help;
} options;

/* ---- build: the command line ---- */

enum {
    JSONL = 1,
    MEDMNIST,
    ROCO,
    PMC_OA,
    MIMIC,
    IMAGES,
    SPLIT,
    CAPTIONS,
    REPORTS,
    NAME,
    OUT,
    FACTORY,
    DEDUPE,
    EMBED,
    FORCE,
    QUIET,
    HELP_
};

static bool add_source(options *o, source_kind kind, const char *path, err *e)
{
    if (o->build.n_sources == MAX_SOURCES) return err_set(e, ERR_USAGE, "at most %d sources are taken", MAX_SOURCES);
    o->source[o->build.n_sources++] = (import_source){.kind = kind, .path = path};
    return true;
}

static bool set_source_option(options *o, int opt, const char *value, err *e)
{
    import_source *s = o->build.n_sources ? &o->source[o->build.n_sources - 1] : &o->early;
    const char   **slot = opt == IMAGES ? &s->images : opt == SPLIT ? &s->split : opt == CAPTIONS ? &s->captions
                        : opt == REPORTS ? &s->reports : &s->name;
    static const char *const flag[] = {"--images", "--split", "--captions", "--reports", "--name"};
    if (*slot) return err_set(e, ERR_USAGE, "%s is given twice for one source", flag[opt - IMAGES]);
    *slot = value;
    o->has_early = o->has_early || o->build.n_sources == 0;
    return true;
}

static const char *pick(const char *a, const char *b) { return a ? a : b; }

/* With one source, its options may stand before it; with several that would be a guess. */
static bool settle_early(options *o, err *e)
{
    import_source *s = o->source;
    if (!o->has_early) return true;
    if (o->build.n_sources > 1)
        return err_set(e, ERR_USAGE,
                       "with several sources, --images and the like come after the source that they belong to");
    if ((s->images && o->early.images) || (s->split && o->early.split) || (s->captions && o->early.captions) ||
        (s->reports && o->early.reports) || (s->name && o->early.name))
        return err_set(e, ERR_USAGE, "an option is given twice for one source");
    s->images = pick(s->images, o->early.images);
    s->split = pick(s->split, o->early.split);
    s->captions = pick(s->captions, o->early.captions);
    s->reports = pick(s->reports, o->early.reports);
    s->name = pick(s->name, o->early.name);
    return true;
}

static bool take_option(options *o, int opt, const char *value, err *e)
{
    switch (opt) {
    case JSONL: return add_source(o, SOURCE_JSONL, value, e);
    case MEDMNIST: return add_source(o, SOURCE_MEDMNIST, value, e);
    case ROCO: return add_source(o, SOURCE_ROCO, value, e);
    case PMC_OA: return add_source(o, SOURCE_PMC_OA, value, e);
    case MIMIC: return add_source(o, SOURCE_MIMIC, value, e);
    case IMAGES: case SPLIT: case CAPTIONS: case REPORTS: case NAME: return set_source_option(o, opt, value, e);
    case OUT: o->build.out = value; return true;
    case FACTORY: o->build.factory = value; return true;
    case DEDUPE: o->build.dedupe = true; return true;
    case EMBED: o->build.embed_images = true; return true;
    case FORCE: o->build.force = true; return true;
    case QUIET: o->build.quiet = true; return true;
    case HELP_: o->help = true; return true;
    default: return err_set(e, ERR_USAGE, "an option is not known or lacks its value");
    }
}

static bool parse_build(options *o, int argc, char **argv, err *e)
{
    static const struct option known[] = {
        {"jsonl", required_argument, NULL, JSONL},       {"medmnist", required_argument, NULL, MEDMNIST},
        {"roco", required_argument, NULL, ROCO},         {"pmc-oa", required_argument, NULL, PMC_OA},
        {"mimic", required_argument, NULL, MIMIC},       {"images", required_argument, NULL, IMAGES},
        {"split", required_argument, NULL, SPLIT},       {"captions", required_argument, NULL, CAPTIONS},
        {"reports", required_argument, NULL, REPORTS},   {"name", required_argument, NULL, NAME},
        {"out", required_argument, NULL, OUT},           {"factory", required_argument, NULL, FACTORY},
        {"dedupe", no_argument, NULL, DEDUPE},           {"embed-images", no_argument, NULL, EMBED},
        {"force", no_argument, NULL, FORCE},             {"quiet", no_argument, NULL, QUIET},
        {"retriever", required_argument, NULL, CLI_RETRIEVER}, {"device", required_argument, NULL, CLI_DEVICE},
        {"threads", required_argument, NULL, CLI_THREADS}, {"help", no_argument, NULL, HELP_},
        {0}};
    o->build.sources = o->source;
    for (int opt; (opt = getopt_long(argc, argv, "", known, NULL)) != -1 && !o->help;) {
        bool taken;
        if (!cli_model_option(&o->models, opt, optarg, &taken, e)) return false;
        if (!taken && !take_option(o, opt, optarg, e)) return false;
    }
    if (o->help) return true;
    if (optind < argc) return err_set(e, ERR_USAGE, "only options are taken");
    if (!cli_need(o->models.retriever, "--retriever", e) || !cli_need(o->build.out, "--out", e)) return false;
    if (o->build.n_sources == 0)
        return err_set(e, ERR_USAGE, "no source is given: --jsonl, --medmnist, --roco, --pmc-oa or --mimic");
    return settle_early(o, e);
}

/* ---- build: the work ---- */

typedef struct { const retriever *r; kernels *k; } towers;

static bool embed_image(void *ctx, const image *img, float *z, arena *a, err *e)
{
    const towers *t = ctx;
    return retriever_embed_image(t->r, t->k, img, z, a, e);
}

static bool embed_text(void *ctx, const char *caption, float *z, arena *a, err *e)
{
    const towers *t = ctx;
    return retriever_embed_text(t->r, t->k, caption, 0, z, a, e);
}

static volatile sig_atomic_t stop; /* set by the handler alone: a signal has no other way to tell */

static void on_signal(int n)
{
    (void)n;
    stop = 1;
}

/* The first SIGINT or SIGTERM asks for a stop after the item at hand; a second one ends the program as usual. */
static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

static void tell_result(const build_options *o, const build_counts *c)
{
    if (c->resumed_at) printf("continued after %lld items\n", (long long)c->resumed_at);
    printf("%s: %lld passages of %lld items", o->out, (long long)c->passages, (long long)c->items);
    if (c->bad) printf(", %lld skipped (see %s/report.jsonl)", (long long)c->bad, o->out);
    if (c->duplicates)
        printf(", %lld exact duplicates%s", (long long)c->duplicates, c->merged ? ", merged" : " kept");
    printf("\n");
}

static int cmd_build(int argc, char **argv)
{
    options      o = {0};
    build_counts c;
    err          e = {0};
    kernels     *k = NULL;
    retriever   *r = NULL;
    towers       t;
    bool         ok = false;
    if (!parse_build(&o, argc, argv, &e)) goto done;
    if (o.help) return fputs(BUILD_HELP, stdout), EXIT_DONE;
    if (!engine_kernels(&k, &o.models, &e) || !retriever_open(&r, o.models.retriever, k, &e)) goto done;

    t = (towers){r, k};
    o.build.embed = (embedder){embed_image, embed_text, &t, retriever_dim(r), retriever_hash(r)};
    o.build.tool_version = JOMED_VERSION;
    o.build.stop = &stop;
    catch_signals();
    if (!index_build(&o.build, &c, &e)) goto done;
    if (c.stopped) {
        fprintf(stderr, "jomed index build: stopped after %lld items; run the same command again to continue\n",
                (long long)c.items);
        goto done;
    }
    tell_result(&o.build, &c);
    ok = true;
done:
    retriever_close(r);
    if (k) k->close(k);
    if (e.code) return cli_fail("index build", &e);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

/* ---- info, verify ---- */

/* One folder and at most one flag. */
static bool parse_folder(int argc, char **argv, const char *flag, bool *on, const char **dir, bool *help, err *e)
{
    *on = *help = false;
    *dir = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) return *help = true;
        if (strcmp(argv[i], flag) == 0) *on = true;
        else if (strcmp(argv[i], "--index") == 0 && i + 1 < argc && !*dir) *dir = argv[++i];
        else if (argv[i][0] == '-') return err_set(e, ERR_USAGE, "%.40s is not known", argv[i]);
        else if (*dir) return err_set(e, ERR_USAGE, "one folder is taken");
        else *dir = argv[i];
    }
    return *dir || err_set(e, ERR_USAGE, "the index folder is missing");
}

static void print_info(const manifest *m, const char *dir)
{
    const char *key;
    json_t     *n;
    printf("index        %s\nhash         %s\nformat       %d, made %s by jomed %s\nretriever    %s\n", dir,
           m->hash, m->format, m->created, m->tool_version, m->retriever_hash);
    printf("passages     %lld of %lld items (%lld skipped, %lld exact duplicates, %lld of them merged)\n",
           (long long)m->n_passages, (long long)m->items, (long long)m->bad, (long long)m->duplicates,
           (long long)m->merged);
    printf("vectors      2 x %lld x %d, %s, inner product\n", (long long)m->n_passages, m->dim, m->factory);
    json_object_foreach((json_t *)m->sources, key, n)
        printf("source       %s: %lld\n", key, (long long)json_integer_value(n));
    for (int i = 0; i < m->n_roots; i++) printf("images       %s\n", manifest_root(m, i));
    for (int i = 0; i < N_INDEX_FILES; i++)
        printf("file         %-12s %12lld bytes  %s\n", INDEX_FILE[i], (long long)m->file[i].bytes,
               m->file[i].sha256);
}

static int cmd_info(int argc, char **argv)
{
    const char *dir;
    bool        as_json, help;
    manifest    m;
    err         e = {0};
    if (!parse_folder(argc, argv, "--json", &as_json, &dir, &help, &e)) return cli_fail("index", &e);
    if (help) return fputs(HELP, stdout), EXIT_DONE;
    if (!manifest_open(&m, dir, &e)) return cli_fail("index info", &e);
    if (as_json) {
        json_object_set_new(m.json, "hash", json_string(m.hash));
        json_dumpf(m.json, stdout, JSON_INDENT(2));
        putchar('\n');
    } else print_info(&m, dir);
    manifest_close(&m);
    return EXIT_DONE;
}

static void print_problem(void *ctx, const char *problem)
{
    (void)ctx;
    printf("problem: %s\n", problem);
}

static int cmd_verify(int argc, char **argv)
{
    const char *dir;
    bool        images, help;
    int64_t     problems;
    err         e = {0};
    if (!parse_folder(argc, argv, "--images", &images, &dir, &help, &e)) return cli_fail("index", &e);
    if (help) return fputs(HELP, stdout), EXIT_DONE;
    if (!index_verify(dir, images, print_problem, NULL, &problems, &e)) return cli_fail("index verify", &e);
    if (problems) printf("%s: %lld problems\n", dir, (long long)problems);
    else printf("%s: whole%s\n", dir, images ? ", every image is there" : "");
    return problems ? EXIT_FAILED : EXIT_DONE;
}

int cmd_index(int argc, char **argv)
{
    err e = {0};
    if (argc > 1 && strcmp(argv[1], "build") == 0) return cmd_build(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "info") == 0) return cmd_info(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "verify") == 0) return cmd_verify(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "--help") == 0) return fputs(HELP, stdout), EXIT_DONE;
    if (argc > 1) err_set(&e, ERR_USAGE, "%.40s is not known: build, info or verify", argv[1]);
    else err_set(&e, ERR_USAGE, "build, info or verify is missing");
    return cli_fail("index", &e);
}
