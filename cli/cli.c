#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int cli_fail(const char *command, const err *e)
{
    fprintf(stderr, "jomed %s: %s\n", command, e->text);
    if (e->code != ERR_USAGE) return EXIT_FAILED;
    fprintf(stderr, "`jomed %s --help` lists the options.\n", command);
    return EXIT_USAGE;
}

void cli_item_failed(const char *command, const char *item, const err *e)
{
    if (strstr(e->text, item)) fprintf(stderr, "jomed %s: %s\n", command, e->text); /* errors of files name them */
    else fprintf(stderr, "jomed %s: %s: %s\n", command, item, e->text);
}

bool cli_int(long *out, const char *flag, const char *value, long least, long most, err *e)
{
    char *end;
    errno = 0;
    long v = strtol(value, &end, 10);
    if (end == value || *end || errno || v < least || v > most)
        return err_set(e, ERR_USAGE, "%s takes a whole number from %ld to %ld", flag, least, most);
    *out = v;
    return true;
}

bool cli_need(const char *value, const char *flag, err *e)
{
    return value ? true : err_set(e, ERR_USAGE, "%s is missing", flag);
}

/* NAME=DIR, cut in place: argv's strings are ours to change. */
static bool add_adapter(engine_options *o, const char *value, err *e)
{
    char *eq = strchr(value, '=');
    if (!eq || eq == value || !eq[1]) return err_set(e, ERR_USAGE, "--adapter takes NAME=DIR");
    if (o->n_adapters == MAX_ADAPTERS) return err_set(e, ERR_USAGE, "--adapter: at most %d are taken", MAX_ADAPTERS);
    *eq = 0;
    o->adapter[o->n_adapters++] = (reader_adapter){value, eq + 1};
    return true;
}

bool cli_model_option(engine_options *o, int opt, const char *value, bool *taken, err *e)
{
    long  n;
    char *end;
    *taken = true;
    switch (opt) {
    case CLI_READER: o->reader = value; return true;
    case CLI_RETRIEVER: o->retriever = value; return true;
    case CLI_INDEX: o->index = value; return true;
    case CLI_DEVICE: o->device = value; return true;
    case CLI_PRODUCTS:
        return products_parse(&o->products, value)
            || err_set(e, ERR_USAGE, "--products takes auto, f32, bf16 or own");
    case CLI_SEARCH:
        return search_parse(&o->search, value)
               || err_set(e, ERR_USAGE, "--search takes auto, faiss, faiss-gpu or exact");
    case CLI_THREADS:
        if (!cli_int(&n, "--threads", value, 1, 1024, e)) return false;
        o->threads = (int)n;
        return true;
    case CLI_CACHE:
        if (!cli_int(&n, "--cache-mb", value, 0, 1 << 20, e)) return false;
        o->cache_bytes = (size_t)n << 20;
        return true;
    case CLI_CACHE_HOST:
        if (!cli_int(&n, "--cache-host-mb", value, 0, 1 << 20, e)) return false;
        o->cache_host_bytes = (size_t)n << 20;
        return true;
    case CLI_TAU:
        o->tau = strtof(value, &end);
        if (end == value || *end || !(o->tau > 0) || !isfinite(o->tau))
            return err_set(e, ERR_USAGE, "--tau takes a number above 0");
        return true;
    case CLI_ADAPTER: return add_adapter(o, value, e);
    case CLI_USE_ADAPTER: o->use_adapter = value; return true;
    case CLI_LORA_MERGE: o->merge_adapter = true; return true;
    case CLI_POLICY:
        return image_policy_parse(&o->policy, value)
               || err_set(e, ERR_USAGE, "--image-policy takes native or jomed-256");
    default: *taken = false; return true;
    }
}

bool cli_choose_adapter(engine_options *o, err *e)
{
    if (o->use_adapter || o->n_adapters == 0) return true;
    if (o->n_adapters > 1)
        return err_set(e, ERR_USAGE, "--use-adapter is missing: %d adapters are given", o->n_adapters);
    o->use_adapter = o->adapter[0].name;
    return true;
}

void cli_tell_merged(const char *command, const engine *en)
{
    if (!en->reader || !en->adapter) return;
    reader_adapter_info a = reader_describe_adapter(en->reader, en->adapter);
    if (a.merged)
        fprintf(stderr, "jomed %s: adapter %s is merged: %.1f MB of weights are in memory of their own\n", command,
                a.name, (double)a.merged_bytes / 1e6);
}

int cli_each_image(const char *command, const engine_options *o, char *const *path, int n, cli_image each, void *ctx)
{
    err      e = {0};
    kernels *k = NULL;
    engine   en = {0};
    arena   *a = arena_new(0);
    int      status = EXIT_DONE;
    if (!a) err_set(&e, ERR_MEMORY, "out of memory");
    if (!a || !engine_kernels(&k, o, &e) || !engine_open(&en, o, k, &e)) status = cli_fail(command, &e);
    cli_tell_merged(command, &en);
    for (int i = 0; en.index && i < n; i++, arena_reset(a)) {
        e = (err){0};
        if (each(ctx, &en, k, path[i], a, &e)) continue;
        cli_item_failed(command, path[i], &e);
        status = EXIT_FAILED;
    }
    engine_close(&en);
    if (k) k->close(k);
    arena_free(a);
    return status;
}

static void print_heads(FILE *f, const candidate *c)
{
    const char *sep = "";
    for (int h = 0; h < N_HEADS; h++)
        if (c->heads >> h & 1) {
            fprintf(f, "%s%s %.4f", sep, HEAD_NAME[h], c->score[h]);
            sep = ", ";
        }
}

static void print_bars(FILE *f, const char *heading, const float *prob, const char *const *name, int n)
{
    fprintf(f, "\n  %s\n", heading);
    for (int i = 0; i < n; i++) {
        char bar[31] = "";
        int  width = (int)lroundf(prob[i] * 30);
        memset(bar, '#', (size_t)width);
        bar[width] = 0;
        fprintf(f, "  %.4f  %-30s  %s\n", prob[i], bar, name[i]);
    }
}

static int count_present(const float *prob, int L)
{
    int n = 0;
    for (int l = 0; l < L; l++) n += label_present(prob[l]);
    return n;
}

static void print_present(FILE *f, const diagnose_request *q, const answer *ans)
{
    const char *sep = "Present   ";
    for (int l = 0; l < ans->L; l++)
        if (label_present(ans->label_prob[l])) {
            fprintf(f, "%s%s", sep, q->labels[l]);
            sep = ", ";
        }
    fprintf(f, "%s\n", count_present(ans->label_prob, ans->L) ? "" : "Present   none of the labels");
}

/* What a pair says, in the columns below this heading. */
static const char *heading(task_kind task)
{
    switch (task) {
    case TASK_OPEN: return "  weight  the same    log p   passage  similarity\n";
    case TASK_LABELS: return "  weight  present     passage  similarity\n";
    case TASK_CLOSED: break;
    }
    return "  weight  says        p       passage  similarity\n";
}

static void print_saying(FILE *f, const diagnose_request *q, const answer *ans, const evidence *z)
{
    if (ans->task == TASK_OPEN) fprintf(f, "%-10s  %8.3f", z->agrees ? "yes" : "no", z->open_logp);
    else if (ans->task == TASK_LABELS) fprintf(f, "%2d of %-4d", count_present(z->label_prob, ans->L), ans->L);
    else fprintf(f, "%-10.10s  %.4f", q->answers[z->answer], z->prob[z->answer]);
}

void cli_print_reasons(FILE *f, const diagnose_request *q, const answer *ans)
{
    const open_answer *y = &ans->open;
    if (ans->task == TASK_OPEN)
        fprintf(f, "          log p %.3f, %d token%s%s\n", y->logp, y->n_tokens, y->n_tokens == 1 ? "" : "s",
                y->ended ? "" : ", cut off: no end came");
    fprintf(f, "\n  Evidence: %d retrieved pairs, each read with the query on its own\n%s", ans->K,
            heading(ans->task));
    for (int k = 0; k < ans->K; k++) {
        const evidence *z = &ans->z[k];
        fprintf(f, "  %.4f  ", z->c.weight);
        print_saying(f, q, ans, z);
        fprintf(f, "  %7lld  ", (long long)z->c.id);
        print_heads(f, &z->c);
        fprintf(f, "\n          %s%s%s\n", z->p.source ? z->p.source : "", z->p.source ? ": " : "",
                z->p.caption ? z->p.caption : "");
    }
    if (ans->clipped) fprintf(f, "\n  WARNING: " IMAGE_CLIPPED ".\n");
    if (ans->consistent) fprintf(f, "\n  The pairs agree.");
    else
        fprintf(f, "\n  THE PAIRS DISAGREE: %.0f %% of the weight stands behind the answer.",
                100 * (double)ans->agreement);
    if (ans->task == TASK_OPEN) fprintf(f, "  Mode %s,", mode_name(q->mode));
    else fprintf(f, "  Entropy %.3f nats, mode %s,", ans->entropy, mode_name(q->mode));
    fprintf(f, " %.1f ms.\n  %s\n", ans->total_ms, RESEARCH_USE);
}

void cli_print_answer(FILE *f, const diagnose_request *q, const answer *ans)
{
    if (q->question) fprintf(f, "Question  %s\n", q->question);
    if (ans->task == TASK_OPEN) {
        fprintf(f, "Answer    %s\n", ans->open.text);
    } else if (ans->task == TASK_LABELS) {
        print_present(f, q, ans);
        print_bars(f, "p(label|q)", ans->label_prob, q->labels, ans->L);
    } else {
        fprintf(f, "Answer    %s  (p = %.4f)\n", q->answers[ans->answer], ans->prob[ans->answer]);
        print_bars(f, "p(a|q)", ans->prob, q->answers, ans->A);
    }
    cli_print_reasons(f, q, ans);
}
