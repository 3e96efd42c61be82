/* cmd_eval.c - `jomed eval`: a data set through the server's path, and what came of it. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "eval/run.h"

static const char HELP[] =
    "usage: jomed eval --reader DIR --retriever DIR --index DIR --jsonl FILE [--images DIR] [--task FILE.json] [OPTIONS]\n"
    "       jomed eval --reader DIR --retriever DIR --index DIR --vqa FILE.json --images DIR [--task FILE.json] [OPTIONS]\n"
    "       jomed eval --reader DIR --retriever DIR --index DIR --medmnist FILE.npz --split S --task FILE.json [OPTIONS]\n\n"
    "Answer every case of a data set as `jomed serve` would, and report accuracy, macro F1, exact match, token recall, each\n"
    "head alone, the cases whose candidates disagree and the any-candidate oracle, with 95 % intervals; for labels subset\n"
    "accuracy, F1, AUROC and average precision.\n\n" CLI_MODEL_HELP CLI_ADAPTER_HELP
    "  --jsonl FILE       cases, one JSON object a line: image_path, question, answer, answers\n"
    "  --vqa FILE         cases as VQA-RAD or SLAKE publish them\n"
    "  --images DIR       where the paths of images start (default: the folder of FILE)\n"
    "  --medmnist FILE    cases from a MedMNIST archive\n"
    "  --split NAME       of the archive: train, val or test\n"
    "  --task FILE        what is asked: tasks/*.json, or {\"question\": \"..\", \"answers\": [..], \"label_to_answer\": [..]}\n"
    "  --k N              candidates per head, 1 to 50 (default 2)\n"
    "  --mode MODE        paper (default) or reference (parity with the released code)\n"
    "  --exclude-self     leave out passages whose image equals the case's\n"
    "  --limit N          the first N cases only\n"
    "  --workers N        cases at a time (default: one per core, of one thread each)\n"
    "  --predictions FILE one JSON line per case, in file order\n"
    "  --json             print one JSON object instead of the table\n\n"
    "Lines without \"answers\" are open questions: their answers are decoded. A case that fails (a bad image, an answer that is\n"
    "not in the set) is listed and counted, not scored, and makes the exit status 1. Ctrl-C ends the run after the cases under\n"
    "way and reports what is there.\n";

typedef struct {
    engine_options models;
    bool           has_policy; /* --image-policy was given */
    const char    *jsonl, *vqa, *images, *medmnist, *split, *task, *predictions;
    long           k, limit, workers;
    score_mode     mode;
    bool           exclude_self, json, help;
} options;

/* Set by Ctrl-C, the one thing a signal handler may do. A second one ends the process as usual. */
static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) { interrupted = sig; }

static bool check(const options *o, err *e)
{
    if (!cli_need(o->models.reader, "--reader", e) || !cli_need(o->models.retriever, "--retriever", e) ||
        !cli_need(o->models.index, "--index", e)) return false;
    if (!!o->jsonl + !!o->vqa + !!o->medmnist != 1)
        return err_set(e, ERR_USAGE, "one data set is needed: --jsonl, --vqa or --medmnist");
    if (!o->medmnist && o->split) return err_set(e, ERR_USAGE, "--split goes with --medmnist");
    if (o->medmnist && o->images) return err_set(e, ERR_USAGE, "--images goes with --jsonl and --vqa");
    return !o->medmnist || (cli_need(o->split, "--split", e) && cli_need(o->task, "--task", e));
}

static bool parse(options *o, int argc, char **argv, err *e)
{
    enum { JSONL = 1, VQA, IMAGES, MEDMNIST, SPLIT, TASK, K, MODE, SELF, LIMIT, WORKERS, PREDICTIONS, JSON, HELP_ };
    static const struct option known[] = {
        CLI_MODEL_OPTIONS,
        CLI_ADAPTER_OPTIONS,
        {"jsonl", required_argument, NULL, JSONL},       {"vqa", required_argument, NULL, VQA},
        {"images", required_argument, NULL, IMAGES},
        {"medmnist", required_argument, NULL, MEDMNIST}, {"split", required_argument, NULL, SPLIT},
        {"task", required_argument, NULL, TASK},         {"k", required_argument, NULL, K},
        {"mode", required_argument, NULL, MODE},         {"exclude-self", no_argument, NULL, SELF},
        {"limit", required_argument, NULL, LIMIT},       {"workers", required_argument, NULL, WORKERS},
        {"predictions", required_argument, NULL, PREDICTIONS},
        {"json", no_argument, NULL, JSON},               {"help", no_argument, NULL, HELP_}, {0}};
    for (int opt; (opt = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        bool taken;
        if (!cli_model_option(&o->models, opt, optarg, &taken, e)) return false;
        o->has_policy = o->has_policy || opt == CLI_POLICY;
        if (taken) continue;
        switch (opt) {
        case JSONL: o->jsonl = optarg; break;
        case VQA: o->vqa = optarg; break;
        case IMAGES: o->images = optarg; break;
        case MEDMNIST: o->medmnist = optarg; break;
        case SPLIT: o->split = optarg; break;
        case TASK: o->task = optarg; break;
        case K: if (!cli_int(&o->k, "--k", optarg, 1, MAX_K, e)) return false; break;
        case MODE:
            if (!mode_parse(&o->mode, optarg)) return err_set(e, ERR_USAGE, "--mode takes paper or reference");
            break;
        case SELF: o->exclude_self = true; break;
        case LIMIT: if (!cli_int(&o->limit, "--limit", optarg, 1, INT32_MAX, e)) return false; break;
        case WORKERS: if (!cli_int(&o->workers, "--workers", optarg, 1, 256, e)) return false; break;
        case PREDICTIONS: o->predictions = optarg; break;
        case JSON: o->json = true; break;
        case HELP_: o->help = true; return true;
        default: return err_set(e, ERR_USAGE, "an option is not known or lacks its value");
        }
    }
    if (optind < argc) return err_set(e, ERR_USAGE, "takes options only");
    return check(o, e) && cli_choose_adapter(&o->models, e);
}

static bool open_dataset(dataset **set, const options *o, const eval_task *task, err *e)
{
    const char *file = o->vqa ? o->vqa : o->jsonl;
    if (o->medmnist) return dataset_open_medmnist(set, o->medmnist, o->split, task, e);
    char *path = mem_strdup(file); /* dirname() may write into it */
    if (!path) return err_set(e, ERR_MEMORY, "out of memory");
    const char *images = o->images ? o->images : dirname(path);
    bool ok = o->vqa ? dataset_open_vqa(set, file, images, task, e) : dataset_open_jsonl(set, file, images, task, e);
    free(path);
    return ok;
}

/* The task says what the reader's pictures go through; a flag that says something else is a mistake in one of
 * the two. */
static bool open_task(eval_task **task, options *o, err *e)
{
    if (!o->task) return true;
    if (!task_open(task, o->task, e)) return false;
    if (!(*task)->has_policy) return true;
    if (o->has_policy && o->models.policy != (*task)->policy)
        return err_set(e, ERR_USAGE, "--image-policy %s, but %s has %s", image_policy_name(o->models.policy), o->task,
                       image_policy_name((*task)->policy));
    o->models.policy = (*task)->policy;
    return true;
}

/* Cores are shared out: as many cases at a time as there are cores, unless one of the two numbers is given. A case by
 * itself on one core is the cheapest way to run many. */
static void share_cores(options *o)
{
    cpu_set_t set;
    long      cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (!o->workers) o->workers = o->models.threads ? cores / o->models.threads : cores;
    if (o->workers < 1) o->workers = 1;
    if (o->workers > 256) o->workers = 256;
    if (!o->models.threads) o->models.threads = cores / o->workers > 0 ? (int)(cores / o->workers) : 1;
}

/* ---- progress: a bar on a terminal, and Ctrl-C ---- */

typedef struct { bool shown; double started, drawn; } progress;

static bool on_progress(void *ctx, int64_t done, int64_t n)
{
    enum { WIDTH = 30 };
    progress *p = ctx;
    double    now = clock_ms(), seconds = (now - p->started) / 1e3, rate = seconds > 0 ? (double)done / seconds : 0;
    if (p->shown && (now - p->drawn >= 100 || done == n)) {
        char bar[WIDTH + 1];
        int  filled = n ? (int)(WIDTH * done / n) : WIDTH;
        for (int i = 0; i < WIDTH; i++) bar[i] = i < filled ? '=' : ' ';
        bar[WIDTH] = 0;
        fprintf(stderr, "\r%lld/%lld [%s]", (long long)done, (long long)n, bar);
        if (done) {
            long left = (long)((double)(n - done) / rate + 0.5);
            fprintf(stderr, " %.1f/s, %ld:%02ld:%02ld left", rate, left / 3600, left / 60 % 60, left % 60);
        }
        fputs(" \033[K", stderr);
        p->drawn = now;
    }
    return !interrupted;
}

/* ---- the run ---- */

typedef struct {
    eval_task *task;
    dataset  *set;
    kernels **kern;
    engine    en;
    report   *report;
    int       predictions;
    int64_t   n_cases;
} session;

/* Open all before the first case: task, data set, one kernels per worker, models, predictions file. */
static bool open_all(session *s, options *o, err *e)
{
    if (!open_task(&s->task, o, e) || !open_dataset(&s->set, o, s->task, e) || !report_new(&s->report, e))
        return false;
    s->n_cases = dataset_count(s->set);
    if (o->limit && o->limit < s->n_cases) s->n_cases = o->limit;
    if (!(s->kern = mem_zalloc((size_t)o->workers, sizeof(kernels *))))
        return err_set(e, ERR_MEMORY, "out of memory");
    for (long w = 0; w < o->workers; w++)
        if (!engine_kernels(&s->kern[w], &o->models, e)) return false;
    if (!engine_open(&s->en, &o->models, s->kern[0], e)) return false;
    cli_tell_merged("eval", &s->en);
    if (!o->predictions) return true;
    s->predictions = open(o->predictions, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return s->predictions >= 0 || err_set(e, ERR_FILE, "%s: %s", o->predictions, strerror(errno));
}

/* false: e is set. A predictions file is complete only if it could be closed without error. */
static bool close_all(session *s, const options *o, err *e)
{
    bool ok = s->predictions < 0 || close(s->predictions) == 0
           || err_set(e, ERR_FILE, "%s: %s", o->predictions, strerror(errno));
    report_free(s->report);
    engine_close(&s->en);
    for (long w = 0; s->kern && w < o->workers; w++)
        if (s->kern[w]) s->kern[w]->close(s->kern[w]);
    free(s->kern);
    dataset_close(s->set);
    task_close(s->task);
    return ok;
}

static bool print_report(const session *s, const options *o, const report_run *run, err *e)
{
    json_t *summary;
    if (!report_json(&summary, s->report, run, &s->en, e)) return false;
    bool ok = o->json
                  ? (json_dumpf(summary, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF && fflush(stdout) == 0)
                        || err_set(e, ERR_FILE, "the report could not be written")
                  : report_print(stdout, summary, e);
    json_decref(summary);
    return ok;
}

static bool run_and_report(session *s, const options *o, err *e)
{
    progress  bar = {.shown = isatty(STDERR_FILENO), .started = clock_ms()};
    run_plan  plan = {.en = &s->en, .set = s->set, .kern = s->kern, .workers = (int)o->workers, .n_cases = s->n_cases,
                      .k = (int)o->k, .mode = o->mode, .exclude_self = o->exclude_self, .predictions = s->predictions,
                      .progress = on_progress, .progress_ctx = &bar};
    struct sigaction on_int = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    int64_t   done;
    sigaction(SIGINT, &on_int, NULL);
    bool ok = run_cases(&plan, s->report, &done, e);
    if (bar.shown) fputs("\r\033[K", stderr);
    if (!ok) return false;

    report_run run = {.dataset = dataset_name(s->set),
                      .task = s->task ? s->task->name : NULL,
                      .kernels = s->kern[0]->name,
                      .k = (int)o->k,
                      .workers = (int)o->workers,
                      .mode = o->mode,
                      .tau = s->en.tau,
                      .seconds = (clock_ms() - bar.started) / 1e3,
                      .n_cases = s->n_cases,
                      .interrupted = done < s->n_cases};
    if (!print_report(s, o, &run, e)) return false;
    if (run.interrupted)
        return err_set(e, ERR_FILE, "interrupted after %lld of %lld cases", (long long)done, (long long)s->n_cases);
    if (report_failed(s->report))
        return err_set(e, ERR_INPUT, "%lld of %lld cases failed, they are in the report",
                       (long long)report_failed(s->report), (long long)done);
    return true;
}

int cmd_eval(int argc, char **argv)
{
    err     e = {0};
    options o = {.models.cache_bytes = CACHE_AUTO, .k = 2};
    session s = {.predictions = -1};
    if (!parse(&o, argc, argv, &e)) return cli_fail("eval", &e);
    if (o.help) return fputs(HELP, stdout), EXIT_DONE;
    share_cores(&o);
    bool ok = open_all(&s, &o, &e) && run_and_report(&s, &o, &e);
    ok = close_all(&s, &o, &e) && ok;
    return ok ? EXIT_DONE : cli_fail("eval", &e);
}
