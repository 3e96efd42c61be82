/* cmd_retrieve.c - `jomed retrieve`: the retrieval half of a diagnosis, for people or as JSON. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "diagnose/json.h"

static const char HELP[] =
    "usage: jomed retrieve --retriever DIR --index DIR [OPTIONS] IMAGE...\n\n"
    "Find the passages nearest to each image (PNG or JPEG) with both heads, and their weights p_R.\n\n"
    "  --retriever DIR    jina-clip-v1 checkpoint\n"
    "  --index DIR        folder made by `jomed index build` with that checkpoint\n"
    "  --k N              candidates per head, 1 to 50 (default 2)\n"
    "  --tau T            temperature of p_R (default 1)\n"
    "  --exclude-study S  leave out passages of this study\n"
    "  --exclude-patient P  leave out passages of this patient\n"
    "  --exclude-self     leave out passages whose image equals the query's\n"
    "  --json             print one JSON object per image\n"
    "  --device NAME      auto (default: the first GPU, else the CPU), cpu or cuda:N\n"
    "  --threads N        threads (default: one per core; 1 for small models)\n"
    "  --help             print this\n";

enum { MAX_IMAGE_FILE = 64 << 20 };

typedef struct {
    engine_options   models;
    diagnose_request q;
    bool             json, help;
    char           **image;
    int              n_images;
} options;

static bool parse(options *o, int argc, char **argv, err *e)
{
    enum { K = 1, STUDY, PATIENT, SELF, JSON, HELP_ };
    static const struct option known[] = {CLI_MODEL_OPTIONS,
                                          {"k", required_argument, NULL, K},
                                          {"exclude-study", required_argument, NULL, STUDY},
                                          {"exclude-patient", required_argument, NULL, PATIENT},
                                          {"exclude-self", no_argument, NULL, SELF},
                                          {"json", no_argument, NULL, JSON},
                                          {"help", no_argument, NULL, HELP_},
                                          {0}};
    long n;
    for (int opt; (opt = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        bool taken;
        if (!cli_model_option(&o->models, opt, optarg, &taken, e)) return false;
        if (taken) continue;
        switch (opt) {
        case K: if (!cli_int(&n, "--k", optarg, 1, MAX_K, e)) return false; o->q.k = (int)n; break;
        case STUDY: o->q.exclude.study = optarg; break;
        case PATIENT: o->q.exclude.patient = optarg; break;
        case SELF: o->q.exclude_self = true; break;
        case JSON: o->json = true; break;
        case HELP_: o->help = true; return true;
        default: return err_set(e, ERR_USAGE, "an option is not known or lacks its value");
        }
    }
    o->image = argv + optind;
    o->n_images = argc - optind;
    return cli_need(o->models.retriever, "--retriever", e) && cli_need(o->models.index, "--index", e)
        && (o->n_images > 0 || err_set(e, ERR_USAGE, "an image file is missing"));
}

static void print_people(const char *path, const answer *ans)
{
    printf("Image     %s\n\n  p_R     passage  image head  text head  caption\n", path);
    for (int k = 0; k < ans->K; k++) {
        const evidence *z = &ans->z[k];
        printf("  %.4f  %7lld", z->c.weight, (long long)z->c.id);
        for (int h = 0; h < N_HEADS; h++)
            if (z->c.heads >> h & 1) printf("  %*.4f", h == HEAD_IMAGE ? 10 : 9, z->c.score[h]);
            else printf("  %*s", h == HEAD_IMAGE ? 10 : 9, "-");
        printf("  %s%s%s\n", z->p.source ? z->p.source : "", z->p.source ? ": " : "",
               z->p.caption ? z->p.caption : "");
    }
    if (ans->clipped) printf("\n  WARNING: " IMAGE_CLIPPED ".\n");
    printf("\n  %.1f ms.  %s\n", ans->total_ms, RESEARCH_USE);
}

static bool print_json(const engine *en, const char *path, const answer *ans, err *e)
{
    json_t *j = retrieval_json(en, ans, NULL);
    bool ok = j && json_object_set_new(j, "file", json_string(path)) == 0
              && json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(j);
    if (!ok)
        return err_set(e, ERR_MEMORY, "cannot print the candidates of a picture as JSON: is its file name UTF-8?");
    putchar('\n');
    return true;
}

static bool retrieve_one(void *ctx, const engine *en, kernels *k, const char *path, arena *a, err *e)
{
    options *o = ctx;
    char  *bytes = NULL;
    answer ans;
    if (!file_read(&bytes, &o->q.image_bytes, path, MAX_IMAGE_FILE, e)) return false;
    o->q.image = (const uint8_t *)bytes;
    bool ok = diagnose_retrieve(en, k, &o->q, a, &ans, e) && (!o->json || print_json(en, path, &ans, e));
    if (ok && !o->json) print_people(path, &ans);
    free(bytes);
    return ok;
}

int cmd_retrieve(int argc, char **argv)
{
    err     e = {0};
    options o = {.q.k = 2};
    if (!parse(&o, argc, argv, &e)) return cli_fail("retrieve", &e);
    if (o.help) return fputs(HELP, stdout), EXIT_DONE;
    o.models.reader = NULL; /* taken, so that the flags of diagnose can be given, and not opened */
    return cli_each_image("retrieve", &o.models, o.image, o.n_images, retrieve_one, &o);
}
