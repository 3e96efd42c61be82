/* compare.c - what `jomed eval` gave against what PyTorch gave for the same cases.
 *     compare GOLDEN KEY MODE PREDICTIONS SUMMARY
 * GOLDEN is a folder with eval.safetensors and eval.json, KEY a set in them ("synthetic/breastmnist/val"), MODE
 * paper or reference. Prints TAP, one line for each thing that may differ, and the largest differences found.
 *
 * The goldens hold four candidates a case, two per head, a passage that both heads found twice; ours are
 * without duplicates. Two passages of one head whose scores differ by less than 1e-5 may come in the other
 * order, or one in the place of the other where the list ends; of such a passage the golden has no
 * log-likelihoods, so the case's are left out (and counted). */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "base/safetensors.h"

enum { GOLDEN_K = 4, PER_HEAD = 2, ANSWERS = 16 };
static const double SWAP = 1e-5, SCORE = 1e-4, WEIGHT = 1e-4, LOGP = 2e-3, PROB = 1e-3, REPORT = 1e-6;

typedef struct {
    int64_t        n, A;
    const int64_t *id, *gold;      /* [N,4], [N] */
    const float   *score, *weight; /* [N,4] */
    const float   *logp, *prob;    /* [N,4,A], [N,A] of the mode */
    const json_t  *answers;
} golden;

/* What was found over all cases of a set. */
typedef struct {
    int    wrong_ids, wrong_answers, wrong_gold, swapped, replaced, malformed;
    double score, weight, logp, prob;
} difference;

static const void *array(const safetensors *s, const char *key, const char *name, golden *g)
{
    char          full[128];
    snprintf(full, sizeof full, "%s/%s", key, name);
    const tensor *t = safetensors_find(s, full);
    if (!t) {
        fprintf(stderr, "compare: no %s in the goldens\n", full);
        exit(2);
    }
    g->n = t->dim[0];
    if (t->n_dims == 3) g->A = t->dim[2];
    return t->data;
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}
static double item(const json_t *list, int64_t i)
{
    const json_t *v = json_array_get(list, (size_t)i);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* max, with a NaN winning. */
static void worst(double *of, double d)
{
    if (!(d <= *of)) *of = isnan(d) ? INFINITY : d;
}

/* The r-th candidate of a head in our line; *score its score there. */
static const json_t *ours_at(const json_t *candidates, const char *head, int r, double *score)
{
    size_t        i, h;
    const json_t *c, *name;
    json_array_foreach(candidates, i, c)
        json_array_foreach(json_object_get(c, "heads"), h, name)
            if (!strcmp(json_string_value(name), head) && r-- == 0) {
                *score = item(json_object_get(c, "scores"), (int64_t)h);
                return c;
            }
    return NULL;
}

static int64_t id_of(const json_t *c) { return json_integer_value(json_object_get(c, "id")); }

/* One head's list: the same ids at the same places, but for near-equal scores. Marks in known[] what the golden
 * has. */
static void compare_head(const json_t *candidates, const char *head, const int64_t *id, const float *score,
                         bool *known, difference *d)
{
    for (int r = 0; r < PER_HEAD; r++) {
        double        s = NAN;
        const json_t *c = ours_at(candidates, head, r, &s);
        if (!c) { d->wrong_ids++; return; }
        worst(&d->score, fabs(s - score[r])); /* the r-th best score is the same whoever has it */
        if (id_of(c) == id[r]) continue;
        bool elsewhere = id_of(c) == id[1 - r];
        if (elsewhere && fabs((double)score[0] - score[1]) < SWAP) d->swapped += r;
        else if (!elsewhere && fabs(s - score[PER_HEAD - 1]) < SWAP) { d->replaced++; *known = false; }
        else d->wrong_ids++;
    }
}

static void compare_values(const json_t *candidates, const golden *g, int64_t i, difference *d)
{
    const int64_t *id = g->id + GOLDEN_K * i;
    size_t         n;
    const json_t  *c;
    json_array_foreach(candidates, n, c) {
        double w = 0;
        int    at = -1;
        for (int k = 0; k < GOLDEN_K; k++)
            if (id[k] == id_of(c)) {
                w += g->weight[GOLDEN_K * i + k];
                at = k;
            }
        if (at < 0) continue; /* counted by compare_head */
        worst(&d->weight, fabs(number(c, "weight") - w));
        for (int64_t a = 0; a < g->A; a++)
            worst(&d->logp, fabs(item(json_object_get(c, "logp"), a) - g->logp[(GOLDEN_K * i + at) * g->A + a]));
        if ((int64_t)json_array_size(json_object_get(c, "logp")) != g->A) d->malformed++;
    }
}

static bool same_text(const json_t *o, const char *key, const golden *g, int64_t answer)
{
    const char *ours = json_string_value(json_object_get(o, key)),
               *want = json_string_value(json_array_get(g->answers, (size_t)answer));
    return ours && want && !strcmp(ours, want);
}

static void compare_case(const json_t *o, const golden *g, int64_t i, difference *d)
{
    const json_t *candidates = json_object_get(o, "candidates"), *probs = json_object_get(o, "probs");
    const float  *p = g->prob + i * g->A;
    bool          known = true;
    int64_t       best = 0;
    for (int64_t a = 1; a < g->A; a++)
        if (p[a] > p[best]) best = a;
    if (json_integer_value(json_object_get(o, "case")) != i || (int64_t)json_array_size(probs) != g->A)
        d->malformed++;
    d->wrong_gold += !same_text(o, "gold", g, g->gold[i]);
    compare_head(candidates, "image", g->id + GOLDEN_K * i, g->score + GOLDEN_K * i, &known, d);
    compare_head(candidates, "text", g->id + GOLDEN_K * i + PER_HEAD, g->score + GOLDEN_K * i + PER_HEAD, &known, d);
    if (!known) return;
    compare_values(candidates, g, i, d);
    for (int64_t a = 0; a < g->A; a++) worst(&d->prob, fabs(item(probs, a) - p[a]));
    d->wrong_answers += !same_text(o, "answer", g, best);
}

static bool tap(bool ok, const char *key, const char *mode, const char *what)
{
    printf("%s - %s %s: %s\n", ok ? "ok" : "not ok", key, mode, what);
    return ok;
}

static bool compare_report(const json_t *s, const json_t *want, const char *key, const char *mode)
{
    bool          paper = !strcmp(mode, "paper"), ok = true;
    const json_t *modes = json_object_get(s, "modes"), *torn = json_object_get(s, "inconsistent_cases");
    const struct { const char *name; double ours, want;
    } t[] = {
        {"n", number(s, "n"), number(want, "n")},
        {"accuracy", number(s, "accuracy"), number(want, paper ? "accuracy" : "accuracy_logit_pool")},
        {"paper", number(json_object_get(modes, "paper"), "accuracy"), number(want, "accuracy")},
        {"reference", number(json_object_get(modes, "reference"), "accuracy"), number(want, "accuracy_logit_pool")},
        {"macro_f1", number(json_object_get(modes, "paper"), "macro_f1"), number(want, "macro_f1")},
        /* The goldens call a case inconsistent by the log-likelihoods. */
        {"inconsistent", paper ? number(s, "inconsistent") : number(want, "inconsistent"),
         number(want, "inconsistent")},
        {"oracle", paper ? number(s, "oracle") : number(want, "oracle"), number(want, "oracle")},
        {"first candidate",
         paper ? number(s, "first_candidate_accuracy") : number(want, "accuracy_first_candidate"),
         number(want, "accuracy_first_candidate")},
        {"accuracy on the inconsistent", paper ? number(torn, "accuracy") : number(want, "accuracy_inconsistent"),
         number(want, "accuracy_inconsistent")},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        if ((isnan(t[i].want) && isnan(t[i].ours)) || fabs(t[i].ours - t[i].want) <= REPORT) continue;
        printf("# %s: %.9g, golden %.9g\n", t[i].name, t[i].ours, t[i].want);
        ok = false;
    }
    return tap(ok, key, mode, "numbers of the report differ");
}

static json_t *read_json(const char *path)
{
    json_t *o;
    err     e = {0};
    if (json_open(&o, path, &e)) return o;
    fprintf(stderr, "compare: %s\n", e.text);
    exit(2);
}

static difference compare_lines(const char *path, const golden *g)
{
    difference d = {0};
    int64_t    i = 0;
    char      *line = NULL;
    size_t     cap = 0;
    FILE      *f = fopen(path, "r");
    for (ssize_t n; f && (n = getline(&line, &cap, f)) > 0; i++) {
        json_t *o = json_loadb(line, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        if (o && i < g->n) compare_case(o, g, i, &d);
        else d.malformed++;
        json_decref(o);
    }
    if (i != g->n) {
        printf("# %lld lines, the goldens have %lld cases\n", (long long)i, (long long)g->n);
        d.malformed++;
    }
    free(line);
    if (f) fclose(f);
    return d;
}

int main(int argc, char **argv)
{
    if (argc != 6) return fprintf(stderr, "usage: compare GOLDEN KEY MODE PREDICTIONS SUMMARY\n"), 2;
    const char  *key = argv[2], *mode = argv[3];
    char         path[512], task[64];
    safetensors *s;
    golden       g = {0};
    err          e = {0};
    snprintf(path, sizeof path, "%s/eval.safetensors", argv[1]);
    if (!safetensors_open(&s, path, &e)) return fprintf(stderr, "compare: %s\n", e.text), 2;
    g.id = array(s, key, "candidates", &g);
    g.gold = array(s, key, "gold", &g);
    g.score = array(s, key, "scores", &g);
    g.weight = array(s, key, "weights", &g);
    g.prob = array(s, key, strcmp(mode, "paper") ? "prob_logit_pool" : "prob", &g);
    g.logp = array(s, key, "logp", &g);

    snprintf(path, sizeof path, "%s/eval.json", argv[1]);
    json_t *golden_json = read_json(path), *summary = read_json(argv[5]);
    snprintf(task, sizeof task, "tasks.%.*s.answers", (int)strcspn(strchr(key, '/') + 1, "/"), strchr(key, '/') + 1);
    g.answers = json_path(golden_json, task);

    difference d = compare_lines(argv[4], &g);
    printf(
        "# %s %s: %lld cases; largest differences: score %.2g, weight %.2g, logp %.2g, prob %.2g; %d near-equal passages in the "
        "other order, %d in another's place\n",
        key, mode, (long long)g.n, d.score, d.weight, d.logp, d.prob, d.swapped, d.replaced);
    bool ok = tap(!d.malformed && !d.wrong_gold, key, mode, "lines or gold answers are not those of the set");
    ok = tap(!d.wrong_ids, key, mode, "other candidates are retrieved") && ok;
    ok = tap(d.score <= SCORE && d.weight <= WEIGHT, key, mode, "scores or weights differ") && ok;
    ok = tap(d.logp <= LOGP, key, mode, "log-likelihoods differ") && ok;
    ok = tap(d.prob <= PROB, key, mode, "fused probabilities differ") && ok;
    ok = tap(!d.wrong_answers, key, mode, "answers differ") && ok;
    ok = compare_report(summary, json_object_get(json_object_get(golden_json, "report"), key), key, mode) && ok;
    json_decref(golden_json);
    json_decref(summary);
    safetensors_close(s);
    return ok ? 0 : 1;
}
