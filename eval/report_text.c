/* report_text.c - the summary as a table for people. It is made from the JSON, so that the two cannot differ. */
#include <math.h>
#include <string.h>
#include "base/text.h"
#include "eval/report.h"

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}
static long long count(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}
static const char *string(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* One measure: "accuracy   86.7 %   75.8 - 93.1". */
static void row(text *t, const json_t *o, const char *key, const char *title)
{
    char key_ci[64];
    snprintf(key_ci, sizeof key_ci, "%s_ci", key);
    const json_t *ci = json_object_get(o, key_ci);
    double        lo = json_number_value(json_array_get(ci, 0)), hi = json_number_value(json_array_get(ci, 1));
    double        x = number(o, key);
    if (isnan(x)) text_printf(t, "  %-36s     -\n", title);
    else text_printf(t, "  %-36s %5.1f %%   %5.1f - %5.1f\n", title, 100 * x, 100 * lo, 100 * hi);
}

static void failures(text *t, const json_t *s)
{
    enum { SHOWN = 20 };
    const json_t *list = json_object_get(s, "failures");
    size_t        n = json_array_size(list);
    if (!n) return;
    text_printf(t, "\n%zu failed and not in the numbers above:\n", n);
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        const json_t *f = json_array_get(list, i);
        text_printf(t, "  case %lld: %s: %s\n", count(f, "case"), string(f, "problem"), string(f, "text"));
    }
    if (n > SHOWN) text_printf(t, "  and %zu more: --json and --predictions list all\n", n - SHOWN);
}

static void cost(text *t, const json_t *s)
{
    const json_t *ms = json_object_get(s, "ms_per_case");
    double        cached = number(s, "cache_hit_rate");
    text_printf(t, "\n%.1f s, %.1f cases/s with %lld worker%s on %s\n", number(s, "seconds"),
                number(s, "cases_per_second"), count(s, "workers"), count(s, "workers") == 1 ? "" : "s",
                string(s, "kernels"));
    if (isnan(cached)) return;
    text_printf(
        t, "a case: %.1f ms median, %.1f ms 95th percentile, %.2f GFLOP; %.0f %% of the prefixes were cached\n",
        number(ms, "median"), number(ms, "p95"), number(s, "flops_per_case") / 1e9, 100 * cached);
    const json_t *seen = json_object_get(s, "query_pictures");
    if (count(seen, "reused"))
        text_printf(t, "%lld query pictures encoded once, for %lld cases\n", count(seen, "encoded"),
                    count(seen, "encoded") + count(seen, "reused"));
}

/* How many cases, and of what kinds where there is more than the closed one. */
static void heading(text *t, const json_t *s)
{
    long long closed = count(s, "n"), open = count(s, "n_open"), sets = count(s, "n_multilabel");
    text_printf(t, "%s: %lld cases scored", string(s, "dataset"), closed + open + sets);
    if (*string(s, "task")) text_printf(t, ", task %s", string(s, "task"));
    if (open && closed) text_printf(t, ", %lld of them over a closed set and %lld decoded", closed, open);
    else if (open) text_add(t, ", all decoded");
    if (count(s, "n_failed")) text_printf(t, ", %lld FAILED", count(s, "n_failed"));
    if (json_is_true(json_object_get(s, "interrupted")))
        text_printf(t, ", INTERRUPTED: there are %lld", count(s, "n_cases"));
    text_printf(t, "\nmode %s, k %lld per head, tau %g\n\n", string(s, "mode"), count(s, "k"), number(s, "tau"));
    text_printf(t, "  %-36s             95 %% interval\n", "");
}

static void closed_rows(text *t, const json_t *s)
{
    const json_t *heads = json_object_get(s, "heads"), *modes = json_object_get(s, "modes");
    const json_t *torn = json_object_get(s, "inconsistent_cases");
    row(t, s, "accuracy", "accuracy");
    row(t, s, "macro_f1", "macro F1");
    row(t, s, "exact_match", "exact match");
    row(t, s, "token_recall", "token recall");
    row(t, json_object_get(heads, "image"), "accuracy", "image head alone, accuracy");
    row(t, json_object_get(heads, "text"), "accuracy", "text head alone, accuracy");
    row(t, json_object_get(modes, "paper"), "accuracy", "mode paper, accuracy");
    row(t, json_object_get(modes, "reference"), "accuracy", "mode reference, accuracy");
    row(t, s, "first_candidate_accuracy", "first candidate by itself");
    row(t, s, "candidate_accuracy", "any one candidate by itself, mean");
    row(t, s, "oracle", "oracle: some candidate is right");
    text_add(t, "\n");
    row(t, s, "inconsistent", "candidates disagree");
    text_printf(t, "  on these %lld cases:\n", count(torn, "n"));
    row(t, torn, "accuracy", "accuracy");
    row(t, torn, "macro_f1", "macro F1");
}

/* A group of questions by how they were answered, sorted or meant: "closed by the data set, 190". */
static void group_rows(text *t, const json_t *group, const char *title)
{
    if (!group || !count(group, "n")) return;
    text_printf(t, "  %s, %lld\n", title, count(group, "n"));
    row(t, group, "exact_match", "  exact match");
    row(t, group, "token_recall", "  token recall");
}

static void text_rows(text *t, const json_t *s)
{
    const json_t *decoded = json_object_get(s, "decoded"), *type = json_object_get(s, "by_answer_type");
    const json_t *gold = json_object_get(s, "by_gold");
    if (!gold) return;
    text_add(t, "\n");
    group_rows(t, decoded, "decoded answers");
    if (decoded) {
        row(t, decoded, "inconsistent", "  candidates disagree");
        row(t, decoded, "cut_off", "  cut off at max_new_tokens");
    }
    group_rows(t, json_object_get(type, "closed"), "questions that the data set calls closed");
    group_rows(t, json_object_get(type, "open"), "questions that the data set calls open");
    group_rows(t, json_object_get(gold, "yes_no"), "right answer yes or no");
    group_rows(t, json_object_get(gold, "other"), "another right answer");
}

static void label_rows(text *t, const json_t *s)
{
    const json_t *sets = json_object_get(s, "multilabel"), *list = json_object_get(sets, "labels");
    if (!sets) return;
    row(t, sets, "subset_accuracy", "subset accuracy");
    row(t, sets, "macro_f1", "macro F1");
    row(t, sets, "auroc", "AUROC, mean over labels");
    row(t, sets, "average_precision", "average precision, mean over labels");
    row(t, sets, "inconsistent", "candidates disagree");
    if (json_object_get(sets, "oracle")) row(t, sets, "oracle", "oracle: some candidate is right");
    if (json_object_get(sets, "unparsed")) row(t, sets, "unparsed", "lists with an item that is no label");
    if (count(sets, "n_undefined"))
        text_printf(t, "  %lld labels lack cases with or without them: no AUROC, no average precision\n",
                    count(sets, "n_undefined"));
    text_add(t, "\n  cases  said       F1    AUROC       AP  label\n");
    for (size_t l = 0; l < json_array_size(list); l++) {
        static const char *const key[] = {"f1", "auroc", "average_precision"};
        const json_t *o = json_array_get(list, l);
        text_printf(t, "  %5lld %5lld", count(o, "n_gold"), count(o, "n_said"));
        for (int i = 0; i < 3; i++) {
            double x = number(o, key[i]);
            if (isnan(x)) text_printf(t, "  %7s", "-");
            else text_printf(t, "  %5.1f %%", 100 * x);
        }
        text_printf(t, "  %s\n", string(o, "label"));
    }
}

bool report_print(FILE *to, const json_t *s, err *e)
{
    text t = {0};
    heading(&t, s);
    if (count(s, "n") || !(count(s, "n_open") || count(s, "n_multilabel"))) closed_rows(&t, s);
    text_rows(&t, s);
    label_rows(&t, s);
    cost(&t, s);
    failures(&t, s);
    text_printf(&t, "\n%s\n", string(s, "notice"));

    bool ok = !t.failed && fwrite(t.s, 1, t.len, to) == t.len && fflush(to) == 0;
    bool memory = t.failed;
    text_free(&t);
    if (ok) return true;
    return memory ? err_set(e, ERR_MEMORY, "report: out of memory")
                  : err_set(e, ERR_FILE, "the report could not be written");
}
