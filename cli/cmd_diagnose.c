/* cmd_diagnose.c - `jomed diagnose`: the server's path for one or more image files, as text or as JSON. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "diagnose/json.h"

static const char HELP[] =
    "usage: jomed diagnose --reader DIR --retriever DIR --index DIR --question Q\n"
    "                      [--answers A,B[,..] | --labels A[,B..]] IMAGE...\n\n"
    "Answer a question about each image (PNG or JPEG), with the retrieved pairs it rests on. Without answers and\n"
    "labels the question is an open one, and the reader's own words are printed as they come.\n\n"
    CLI_MODEL_HELP
    CLI_ADAPTER_HELP
    "  --question Q       the question\n"
    "  --answers A,B      the closed set of answers, separated by commas\n"
    "  --answer A         one answer (repeat it; for answers that hold a comma)\n"
    "  --labels A,B       labels, each present or not by itself; --label A: one label, as --answer\n"
    "  --k N              candidates per head, 1 to 50 (default 2)\n"
    "  --mode MODE        paper (default) or reference (parity with the released code)\n"
    "  --exclude-study S  leave out passages of this study\n"
    "  --exclude-patient P  leave out passages of this patient\n"
    "  --exclude-self     leave out passages whose image equals the query's\n"
    "  --max-new-tokens N of an open answer, 1 to 512 (default 64)\n"
    "  --beams N          search for the likeliest open answer, 1 to 8 beams (default 1: greedy)\n"
    "  --repetition-penalty R  divide the logits of tokens that are there already, 1 to 10 (default 1: none)\n"
    "  --json             print one JSON object per image\n";

enum { MAX_IMAGE_FILE = 64 << 20 };

typedef struct {
    engine_options    models;
    diagnose_request  q;
    const char       *answer[MAX_ANSWERS], *label[MAX_LABELS];
    bool              json, help;
    char            **image;
    int               n_images;
} options;

/* A list that options fill. */
typedef struct { const char **text; int *n, most; const char *flag; } texts;

static bool add(const texts *to, const char *s, err *e)
{
    if (*to->n == to->most) return err_set(e, ERR_USAGE, "%s: at most %d are taken", to->flag, to->most);
    to->text[(*to->n)++] = s;
    return true;
}

/* Cut the list in place: argv's strings are ours to change. An empty piece stays, so that diagnose_check names it. */
static bool add_all(const texts *to, char *list, err *e)
{
    for (char *s = list; s;) {
        char *comma = strchr(s, ',');
        if (comma) *comma = 0;
        if (!add(to, s, e)) return false;
        s = comma ? comma + 1 : NULL;
    }
    return true;
}

static bool set_penalty(open_options *o, const char *value, err *e)
{
    char *end;
    o->repetition_penalty = strtod(value, &end);
    return (end != value && !*end && o->repetition_penalty >= 1 && o->repetition_penalty <= MAX_REPETITION_PENALTY)
        || err_set(e, ERR_USAGE, "--repetition-penalty takes a number from 1 to %d", MAX_REPETITION_PENALTY);
}

/* Options of an open question must not be lost on another. */
static bool one_kind(options *o, err *e)
{
    const open_options *w = &o->q.open;
    o->q.answers = o->q.n_answers > 0 ? o->answer : NULL;
    o->q.labels = o->q.n_labels > 0 ? o->label : NULL;
    if (o->q.answers && o->q.labels)
        return err_set(e, ERR_USAGE, "--answers and --labels: a question has one or the other");
    if (diagnose_task(&o->q) == TASK_OPEN || !(w->max_new_tokens || w->beams || w->repetition_penalty != 0))
        return true;
    return err_set(
        e, ERR_USAGE,
        "--max-new-tokens, --beams and --repetition-penalty are for open questions, which have no answers and no labels");
}

static bool parse(options *o, int argc, char **argv, err *e)
{
    enum {
        QUESTION = 1,
        ANSWERS,
        ANSWER,
        LABELS,
        LABEL,
        K,
        MODE,
        STUDY,
        PATIENT,
        SELF,
        TOKENS,
        BEAMS,
        PENALTY,
        JSON,
        HELP_
    };
    static const struct option known[] = {
        CLI_MODEL_OPTIONS,
        CLI_ADAPTER_OPTIONS,
        {"question", required_argument, NULL, QUESTION}, {"answers", required_argument, NULL, ANSWERS},
        {"answer", required_argument, NULL, ANSWER},     {"labels", required_argument, NULL, LABELS},
        {"label", required_argument, NULL, LABEL},       {"k", required_argument, NULL, K},
        {"mode", required_argument, NULL, MODE},         {"exclude-study", required_argument, NULL, STUDY},
        {"exclude-patient", required_argument, NULL, PATIENT}, {"exclude-self", no_argument, NULL, SELF},
        {"max-new-tokens", required_argument, NULL, TOKENS}, {"beams", required_argument, NULL, BEAMS},
        {"repetition-penalty", required_argument, NULL, PENALTY},
        {"json", no_argument, NULL, JSON},               {"help", no_argument, NULL, HELP_}, {0}};
    const texts answers = {o->answer, &o->q.n_answers, MAX_ANSWERS, "--answers"};
    const texts labels = {o->label, &o->q.n_labels, MAX_LABELS, "--labels"};
    long n;
    for (int opt; (opt = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        bool taken;
        if (!cli_model_option(&o->models, opt, optarg, &taken, e)) return false;
        if (taken) continue;
        switch (opt) {
        case QUESTION: o->q.question = optarg; break;
        case ANSWERS: if (!add_all(&answers, optarg, e)) return false; break;
        case ANSWER: if (!add(&answers, optarg, e)) return false; break;
        case LABELS: if (!add_all(&labels, optarg, e)) return false; break;
        case LABEL: if (!add(&labels, optarg, e)) return false; break;
        case K: if (!cli_int(&n, "--k", optarg, 1, MAX_K, e)) return false; o->q.k = (int)n; break;
        case MODE:
            if (!mode_parse(&o->q.mode, optarg)) return err_set(e, ERR_USAGE, "--mode takes paper or reference");
            break;
        case STUDY: o->q.exclude.study = optarg; break;
        case PATIENT: o->q.exclude.patient = optarg; break;
        case SELF: o->q.exclude_self = true; break;
        case TOKENS:
            if (!cli_int(&n, "--max-new-tokens", optarg, 1, MAX_NEW_TOKENS, e)) return false;
            o->q.open.max_new_tokens = (int)n;
            break;
        case BEAMS:
            if (!cli_int(&n, "--beams", optarg, 1, MAX_BEAMS, e)) return false;
            o->q.open.beams = (int)n;
            break;
        case PENALTY: if (!set_penalty(&o->q.open, optarg, e)) return false; break;
        case JSON: o->json = true; break;
        case HELP_: o->help = true; return true;
        default: return err_set(e, ERR_USAGE, "an option is not known or lacks its value");
        }
    }
    o->image = argv + optind;
    o->n_images = argc - optind;
    return cli_need(o->models.reader, "--reader", e) && cli_need(o->models.retriever, "--retriever", e)
           && cli_choose_adapter(&o->models, e) && cli_need(o->models.index, "--index", e)
           && cli_need(o->q.question, "--question", e) && one_kind(o, e)
           && (o->n_images > 0 || err_set(e, ERR_USAGE, "an image file is missing"));
}

static void print_heading(const options *o, const char *path)
{
    printf("%sImage     %s\n", o->n_images > 1 ? "\n" : "", path);
}

/* Words of an open answer as they come, below their question. */
typedef struct { const options *o; const char *path; bool begun; } speaking;

static bool speak(void *ctx, const char *words, size_t n, err *e)
{
    speaking *s = ctx;
    if (!s->begun) {
        print_heading(s->o, s->path);
        printf("Question  %s\nAnswer    ", s->o->q.question);
    }
    s->begun = true;
    return (fwrite(words, 1, n, stdout) == n && fflush(stdout) == 0)
           || err_set(e, ERR_FILE, "standard output cannot be written");
}

static bool print_json(const engine *en, const options *o, const answer *ans, const char *path, err *e)
{
    json_t *j = answer_json(en, &o->q, ans, NULL);
    bool    ok = j && json_object_set_new(j, "file", json_string(path)) == 0
           && json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(j);
    return ok ? putchar('\n') != EOF : err_set(e, ERR_MEMORY, "out of memory");
}

/* One image, start to end. The arena is reset by the caller. */
static bool answer_one(void *ctx, const engine *en, kernels *k, const char *path, arena *a, err *e)
{
    options *o = ctx;
    char    *bytes = NULL;
    answer   ans;
    speaking spoken = {o, path, false};
    if (!file_read(&bytes, &o->q.image_bytes, path, MAX_IMAGE_FILE, e)) return false;
    o->q.image = (const uint8_t *)bytes;
    o->q.open.on_text = o->json ? NULL : speak;
    o->q.open.on_text_ctx = &spoken;
    bool ok = diagnose(en, k, &o->q, a, &ans, e);
    free(bytes);
    if (spoken.begun) putchar('\n');
    if (!ok) return false;
    if (o->json) return print_json(en, o, &ans, path, e);
    if (!spoken.begun) print_heading(o, path);
    if (ans.adapter) printf("Adapter   %s\n", reader_describe_adapter(en->reader, ans.adapter).name);
    if (!spoken.begun) cli_print_answer(stdout, &o->q, &ans);
    else cli_print_reasons(stdout, &o->q, &ans);
    return true;
}

int cmd_diagnose(int argc, char **argv)
{
    err     e = {0};
    options o = {.models.cache_bytes = CACHE_AUTO, .q.k = 2};
    if (!parse(&o, argc, argv, &e)) return cli_fail("diagnose", &e);
    if (o.help) return fputs(HELP, stdout), EXIT_DONE;
    return cli_each_image("diagnose", &o.models, o.image, o.n_images, answer_one, &o);
}
