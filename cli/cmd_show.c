/* cmd_show.c - `jomed show`: an answer of POST /v1/diagnoses as the text that `jomed diagnose` prints.
 * The JSON is read back into an answer and goes to the one renderer, so that the two cannot differ. */
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"

static const char HELP[] =
    "usage: jomed show [--question Q] [FILE]\n\n"
    "Print an answer of POST /v1/diagnoses, or a line of `jomed diagnose --json`, for people. Reads FILE, or standard\n"
    "input. An answer does not repeat its question: --question Q puts it back.\n";

static bool malformed(const char *what, err *e)
{
    return err_set(e, ERR_FILE, "not an answer of /v1/diagnoses: %s is missing or has another type", what);
}

static float number(const json_t *o, const char *key, bool *ok)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v)) *ok = false;
    return (float)json_number_value(v);
}

/* Where text stands among the answers; -1. */
static int place(const diagnose_request *q, const char *s)
{
    for (int i = 0; s && i < q->n_answers; i++)
        if (strcmp(q->answers[i], s) == 0) return i;
    return -1;
}

/* What may be said, with the probability of each: o's list under key, at most most, each item's text under name. */
static bool read_choices(const json_t *o, const char *key, const char *name, size_t most, const char **names,
                         float **prob, int *n, arena *a, err *e)
{
    const json_t *list = json_object_get(o, key);
    size_t        len = json_array_size(list);
    bool          ok = true;
    if (len < 1 || len > most) return malformed(key, e);
    *n = (int)len;
    if (!(*prob = ARENA_NEW(a, float, len, e))) return false;
    for (size_t i = 0; i < len; i++) {
        const json_t *p = json_array_get(list, i);
        (*prob)[i] = number(p, "probability", &ok);
        names[i] = json_string_value(json_object_get(p, name));
        if (!names[i] || !ok || !((*prob)[i] >= 0 && (*prob)[i] <= 1)) return malformed(key, e);
    }
    return true;
}

static bool read_distribution(const json_t *o, diagnose_request *q, answer *ans, const char **names, arena *a, err *e)
{
    if (!read_choices(o, "probabilities", "answer", MAX_ANSWERS, names, &ans->prob, &ans->A, a, e)) return false;
    q->answers = names;
    q->n_answers = ans->A;
    ans->answer = place(q, json_string_value(json_object_get(o, "answer")));
    return ans->answer >= 0 || malformed("answer", e);
}

static bool read_labels(const json_t *o, diagnose_request *q, answer *ans, const char **names, arena *a, err *e)
{
    ans->task = TASK_LABELS;
    if (!read_choices(o, "labels", "label", MAX_LABELS, names, &ans->label_prob, &ans->L, a, e)) return false;
    q->labels = names;
    q->n_labels = ans->L;
    return true;
}

static bool read_open(const json_t *o, answer *ans, err *e)
{
    const json_t *n = json_object_get(o, "tokens");
    bool          ok = json_is_boolean(json_object_get(o, "ended")) && json_is_integer(n);
    open_answer  *y = &ans->open;
    ans->task = TASK_OPEN;
    y->text = json_string_value(json_object_get(o, "answer"));
    y->n_tokens = (int)json_integer_value(n);
    y->ended = json_is_true(json_object_get(o, "ended"));
    y->logp = number(o, "log_likelihood", &ok);
    return (ok && y->text) || malformed("answer, tokens, ended or log_likelihood", e);
}

/* What the answer is and how sure, by the kind of question: only an open answer counts its tokens, only one of
 * labels has some. */
static bool read_answer(const json_t *o, diagnose_request *q, answer *ans, const char **names, arena *a, err *e)
{
    if (json_object_get(o, "labels")) return read_labels(o, q, ans, names, a, e);
    return json_object_get(o, "tokens") ? read_open(o, ans, e) : read_distribution(o, q, ans, names, a, e);
}

/* What a pair gives each of the n answers or labels. */
static bool read_probabilities(const json_t *o, float **prob, int n, arena *a, err *e)
{
    const json_t *list = json_object_get(o, "probabilities");
    if (json_array_size(list) != (size_t)n) return malformed("evidence", e);
    if (!(*prob = ARENA_NEW(a, float, n, e))) return false;
    for (int i = 0; i < n; i++) (*prob)[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return true;
}

static bool read_saying(const json_t *o, const diagnose_request *q, const answer *ans, evidence *z, arena *a, err *e)
{
    bool ok = true;
    switch (ans->task) {
    case TASK_OPEN:
        z->agrees = json_is_true(json_object_get(o, "agrees"));
        z->open_logp = number(o, "log_likelihood", &ok);
        return ok || malformed("evidence", e);
    case TASK_LABELS: return read_probabilities(o, &z->label_prob, ans->L, a, e);
    case TASK_CLOSED: break;
    }
    z->answer = place(q, json_string_value(json_object_get(o, "answer")));
    return z->answer >= 0 ? read_probabilities(o, &z->prob, ans->A, a, e) : malformed("evidence", e);
}

static bool read_candidate(const json_t *o, const diagnose_request *q, const answer *ans, evidence *z, arena *a,
                           err *e)
{
    const json_t *scores = json_object_get(o, "scores");
    bool          ok = json_is_integer(json_object_get(o, "id"));
    z->c.id = json_integer_value(json_object_get(o, "id"));
    z->c.weight = number(o, "weight", &ok);
    for (int h = 0; h < N_HEADS; h++) {
        const json_t *s = json_object_get(scores, HEAD_NAME[h]);
        if (!s) continue;
        z->c.heads |= 1u << h;
        z->c.score[h] = number(scores, HEAD_NAME[h], &ok);
    }
    z->p = (passage){.id = z->c.id, .source = json_string_value(json_object_get(o, "source")),
                     .caption = json_string_value(json_object_get(o, "caption"))};
    if (!ok || !z->c.heads) return malformed("evidence", e);
    return read_saying(o, q, ans, z, a, e);
}

static bool read_evidence(const json_t *o, const diagnose_request *q, answer *ans, arena *a, err *e)
{
    const json_t *list = json_object_get(o, "evidence");
    size_t        n = json_array_size(list);
    if (n < 1 || n > 2 * MAX_K) return malformed("evidence", e);
    ans->K = (int)n;
    if (!(ans->z = ARENA_NEW(a, evidence, n, e))) return false;
    for (size_t k = 0; k < n; k++)
        if (!read_candidate(json_array_get(list, k), q, ans, &ans->z[k], a, e)) return false;
    return true;
}

enum { MAX_NAMES = 64 };
_Static_assert(MAX_NAMES >= (int)MAX_ANSWERS && MAX_NAMES >= (int)MAX_LABELS, "room for the answers or the labels");

static bool show(const json_t *o, const char *question, arena *a, err *e)
{
    const char      *names[MAX_NAMES], *mode = json_string_value(json_object_get(o, "mode"));
    diagnose_request q = {.question = question};
    answer           ans = {0};
    bool             ok = true;
    if (!read_answer(o, &q, &ans, names, a, e) || !read_evidence(o, &q, &ans, a, e)) return false;
    ans.consistent = json_is_true(json_object_get(o, "consistent"));
    ans.clipped = json_array_size(json_object_get(o, "warnings")) > 0; /* there is one kind */
    ans.agreement = number(o, "agreement", &ok);
    if (ans.task != TASK_OPEN) ans.entropy = number(o, "entropy_nats", &ok);
    ans.total_ms = number(json_object_get(o, "timings_ms"), "total", &ok);
    if (!ok || !mode || !mode_parse(&q.mode, mode))
        return malformed("agreement, entropy_nats, timings_ms or mode", e);
    cli_print_answer(stdout, &q, &ans);
    return true;
}

/* A problem (RFC 9457) instead of an answer: say what it says. */
static bool is_problem(const json_t *o, err *e)
{
    const char *title = json_string_value(json_object_get(o, "title"));
    const char *detail = json_string_value(json_object_get(o, "detail"));
    if (!title || json_object_get(o, "evidence")) return false;
    err_set(e, ERR_FILE, "the server answered: %s%s%s", title, detail ? ": " : "", detail ? detail : "");
    return true;
}

int cmd_show(int argc, char **argv)
{
    static const struct option known[] = {{"question", required_argument, NULL, 'q'},
                                          {"help", no_argument, NULL, 'h'}, {0}};
    const char  *question = NULL;
    err          e = {0};
    json_error_t why;
    for (int opt; (opt = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (opt == 'h') return fputs(HELP, stdout), EXIT_DONE;
        if (opt == 'q') question = optarg;
        else return err_set(&e, ERR_USAGE, "an option is not known or lacks its value"), cli_fail("show", &e);
    }
    if (argc - optind > 1) return err_set(&e, ERR_USAGE, "takes one file"), cli_fail("show", &e);

    json_t *o = NULL;
    arena  *a = arena_new(0);
    if (!a) err_set(&e, ERR_MEMORY, "out of memory");
    else if (optind < argc) json_open(&o, argv[optind], &e);
    else if (!(o = json_loadf(stdin, JSON_REJECT_DUPLICATES, &why)))
        err_set(&e, ERR_FILE, "standard input is not JSON, line %d", why.line);
    bool ok = o && !is_problem(o, &e) && show(o, question, a, &e);
    json_decref(o);
    arena_free(a);
    return ok ? EXIT_DONE : cli_fail("show", &e);
}
