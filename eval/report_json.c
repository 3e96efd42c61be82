/* report_json.c - the summary of a report, see report.h. The table for people is made from it, in report_text.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "eval/metrics.h"
#include "eval/multilabel.h"
#include "eval/report_impl.h"

/* A subset of the cases as columns, for statistics over resamples. */
typedef struct {
    int64_t  n;
    int32_t *gold, *answer;
    double  *num, *den; /* a ratio of sums: per-candidate accuracy, token recall */
    int      n_labels;
    f1_labels over;
    int64_t *scratch;
} columns;

static bool columns_take(columns *c, const report *r, arena *a, err *e)
{
    *c = (columns){.n_labels = r->n_labels};
    c->gold = ARENA_NEW(a, int32_t, r->n + 1, e);
    c->answer = ARENA_NEW(a, int32_t, r->n + 1, e);
    c->num = ARENA_NEW(a, double, r->n + 1, e);
    c->den = ARENA_NEW(a, double, r->n + 1, e);
    c->scratch = ARENA_NEW(a, int64_t, 3 * (int64_t)r->n_labels + 1, e);
    return c->gold && c->answer && c->num && c->den && c->scratch;
}

static double f1_of(void *ctx, const int32_t *pick, int64_t n)
{
    columns *c = ctx;
    return macro_f1(c->gold, c->answer, pick, n, c->n_labels, c->over, c->scratch);
}

static double ratio_of(void *ctx, const int32_t *pick, int64_t n)
{
    const columns *c = ctx;
    double         num = 0, den = 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t i = pick ? pick[j] : j;
        num += c->num[i];
        den += c->den[i];
    }
    return den > 0 ? num / den : NAN;
}

/* Assembly of JSON. The first failure is kept in ok, as memory is all that can fail. */
typedef struct { json_t *o; arena *a; bool ok; err *e; } maker;

static void put(maker *m, const char *key, json_t *v)
{
    if (json_object_set_new(m->o, key, v) != 0) m->ok = false;
}
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static void put_interval(maker *m, const char *key, double x, interval ci)
{
    char name[64];
    snprintf(name, sizeof name, "%s_ci", key);
    put(m, key, number(x));
    put(m, name, json_pack("[o,o]", number(ci.lo), number(ci.hi)));
}

static void put_proportion(maker *m, const char *key, int64_t right, int64_t n)
{
    put_interval(m, key, n ? (double)right / (double)n : NAN, wilson(right, n));
}

static void put_statistic(maker *m, const char *key, statistic f, columns *c)
{
    interval ci;
    if (!m->ok || !bootstrap(&ci, f, c, c->n, m->a, m->e)) { m->ok = false; return; }
    put_interval(m, key, c->n ? f(c, NULL, c->n) : NAN, ci);
}

typedef enum { ALL_CASES, INCONSISTENT_CASES } subset;

/* Accuracy and macro-F1 of one column of answers. */
static void put_scores(maker *m, const report *r, columns *c, subset which, size_t answer_at)
{
    int64_t right = 0;
    c->n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        if (r->cases[i].task != TASK_CLOSED || (which == INCONSISTENT_CASES && r->cases[i].consistent)) continue;
        int said;
        memcpy(&said, (const char *)&r->cases[i] + answer_at, sizeof said);
        c->gold[c->n] = r->cases[i].gold;
        c->answer[c->n++] = said;
        right += said == r->cases[i].gold;
    }
    put(m, "n", json_integer(c->n));
    put_proportion(m, "accuracy", right, c->n);
    c->over = F1_SET;
    put_statistic(m, "macro_f1", f1_of, c);
}

/* Of all candidates by themselves, those that are right. */
static void put_candidates(maker *m, const report *r, columns *c, int h /* -1: both heads */)
{
    c->n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        if (r->cases[i].task != TASK_CLOSED) continue;
        c->num[c->n] = h < 0 ? r->cases[i].right : r->cases[i].head_right[h];
        c->den[c->n++] = h < 0 ? r->cases[i].K : r->cases[i].head_K[h];
    }
    put_statistic(m, "candidate_accuracy", ratio_of, c);
}

/* Begin and end a member object: m->o is swapped, so that the put_ functions need not know. */
static json_t *begin(maker *m)
{
    json_t *outer = m->o;
    m->o = json_object();
    if (!m->o) m->ok = false;
    return outer;
}
static void end(maker *m, json_t *outer, const char *key)
{
    json_t *o = m->o;
    m->o = outer;
    put(m, key, o);
}

static void put_overall(maker *m, const report *r, columns *c)
{
    int64_t exact = 0, oracle = 0, inconsistent = 0, first = 0, n = r->n_of[TASK_CLOSED];
    put_scores(m, r, c, ALL_CASES, offsetof(case_result, answer));
    c->over = F1_PRESENT;
    put_statistic(m, "macro_f1_present", f1_of, c);
    c->n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const case_result *k = &r->cases[i];
        if (k->task != TASK_CLOSED) continue;
        exact += k->exact;
        oracle += k->right > 0;
        inconsistent += !k->consistent;
        first += k->first == k->gold;
        c->num[c->n] = k->recall;
        c->den[c->n++] = 1;
    }
    put_proportion(m, "exact_match", exact, n);
    put_statistic(m, "token_recall", ratio_of, c);
    put_proportion(m, "inconsistent", inconsistent, n);
    put_proportion(m, "oracle", oracle, n);
    put_proportion(m, "first_candidate_accuracy", first, n);
    put_candidates(m, r, c, -1);
}

static void put_parts(maker *m, const report *r, columns *c)
{
    json_t *top = begin(m);
    put_scores(m, r, c, INCONSISTENT_CASES, offsetof(case_result, answer));
    end(m, top, "inconsistent_cases");

    top = begin(m);
    for (int h = 0; h < N_HEADS; h++) {
        json_t *heads = begin(m);
        put_scores(m, r, c, ALL_CASES, offsetof(case_result, by_head) + (size_t)h * sizeof(int));
        put_candidates(m, r, c, h);
        end(m, heads, HEAD_NAME[h]);
    }
    end(m, top, "heads");

    top = begin(m);
    for (int s = 0; s < 2; s++) {
        json_t *modes = begin(m);
        put_scores(m, r, c, ALL_CASES, offsetof(case_result, by_mode) + (size_t)s * sizeof(int));
        end(m, modes, mode_name((score_mode)s));
    }
    end(m, top, "modes");
}

/* ---- texts ---- */

static bool is_decoded(const case_result *c) { return c->task == TASK_OPEN; }
static bool is_closed_type(const case_result *c) { return c->task != TASK_LABELS && c->type == ANSWER_CLOSED; }
static bool is_open_type(const case_result *c) { return c->task != TASK_LABELS && c->type == ANSWER_OPEN; }
static bool is_yes_no(const case_result *c) { return c->task != TASK_LABELS && c->yes_no; }
static bool is_other(const case_result *c) { return c->task != TASK_LABELS && !c->yes_no; }

/* Exact match and token recall of the texts of a group, however they came about. */
static void put_texts(maker *m, const report *r, columns *c, bool (*in)(const case_result *))
{
    int64_t exact = 0;
    c->n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        if (!in(&r->cases[i])) continue;
        exact += r->cases[i].exact;
        c->num[c->n] = r->cases[i].recall;
        c->den[c->n++] = 1;
    }
    put(m, "n", json_integer(c->n));
    put_proportion(m, "exact_match", exact, c->n);
    put_statistic(m, "token_recall", ratio_of, c);
}

static void put_group(maker *m, const report *r, columns *c, const char *key, bool (*in)(const case_result *))
{
    json_t *outer = begin(m);
    put_texts(m, r, c, in);
    end(m, outer, key);
}

static void put_decoded(maker *m, const report *r, columns *c)
{
    int64_t inconsistent = 0, cut_off = 0, tokens = 0, n = r->n_of[TASK_OPEN];
    json_t *top = begin(m);
    put_texts(m, r, c, is_decoded);
    for (int64_t i = 0; i < r->n; i++) {
        if (!is_decoded(&r->cases[i])) continue;
        inconsistent += !r->cases[i].consistent;
        cut_off += r->cases[i].cut_off;
        tokens += r->cases[i].n_tokens;
    }
    put_proportion(m, "inconsistent", inconsistent, n);
    put_proportion(m, "cut_off", cut_off, n);
    put(m, "tokens_per_answer", number(n ? (double)tokens / (double)n : NAN));
    end(m, top, "decoded");
}

/* Where there are open questions, or the data set sorts its own: the paper's two columns are exact_match of the
 * closed and token_recall of the open ones. */
static void put_splits(maker *m, const report *r, columns *c)
{
    int64_t typed = 0;
    for (int64_t i = 0; i < r->n; i++) typed += r->cases[i].type != ANSWER_UNTYPED;
    if (r->n_of[TASK_OPEN]) put_decoded(m, r, c);
    if (typed) {
        json_t *top = begin(m);
        put_group(m, r, c, "closed", is_closed_type);
        put_group(m, r, c, "open", is_open_type);
        end(m, top, "by_answer_type");
    }
    if (typed || r->n_of[TASK_OPEN]) {
        json_t *top = begin(m);
        put_group(m, r, c, "yes_no", is_yes_no);
        put_group(m, r, c, "other", is_other);
        end(m, top, "by_gold");
    }
}

/* ---- sets of labels ---- */

static void put_estimate(maker *m, const char *key, estimate x) { put_interval(m, key, x.value, x.ci); }

static json_t *label_json(maker *m, const char *name, const label_scores *s)
{
    json_t *outer = begin(m);
    put(m, "label", json_string(name));
    put(m, "n_gold", json_integer(s->n_gold));
    put(m, "n_said", json_integer(s->n_said));
    put_estimate(m, "f1", s->f1);
    put_estimate(m, "auroc", s->auroc);
    put_estimate(m, "average_precision", s->average_precision);
    json_t *o = m->o;
    m->o = outer;
    return o;
}

/* Sets as rows of bytes, as multilabel.h takes them. */
static bool sets_as_rows(const report *r, multilabel_cases *c, arena *a, err *e)
{
    int64_t  n = r->n_of[TASK_LABELS], row = 0;
    int      L = r->n_labels;
    uint8_t *gold = ARENA_NEW(a, uint8_t, n * L, e), *said = gold ? ARENA_NEW(a, uint8_t, n * L, e) : NULL;
    if (!said) return false;
    for (int64_t i = 0; i < r->n; i++) {
        if (r->cases[i].task != TASK_LABELS) continue;
        for (int l = 0; l < L; l++) {
            gold[row * L + l] = r->cases[i].gold_set >> l & 1;
            said[row * L + l] = r->cases[i].said_set >> l & 1;
        }
        row++;
    }
    *c = (multilabel_cases){.n = n, .L = L, .gold = gold, .said = said, .prob = r->prob};
    return true;
}

static void put_set_counts(maker *m, const report *r)
{
    int64_t inconsistent = 0, oracle = 0, unparsed = 0, cut_off = 0, n = r->n_of[TASK_LABELS];
    bool    generated = false;
    for (int64_t i = 0; i < r->n; i++) {
        const case_result *k = &r->cases[i];
        if (k->task != TASK_LABELS) continue;
        generated = k->generated;
        inconsistent += !k->consistent;
        oracle += k->right > 0;
        unparsed += k->n_unparsed > 0;
        cut_off += k->cut_off;
    }
    put(m, "answer_form", json_string(generated ? "generated" : "probabilities"));
    put_proportion(m, "inconsistent", inconsistent, n);
    if (!generated) {
        put_proportion(m, "oracle", oracle, n); /* a candidate by itself has the whole set right */
        return;
    }
    put_proportion(m, "unparsed", unparsed, n); /* lists with an item that is no label */
    put_proportion(m, "cut_off", cut_off, n);
}

static void put_multilabel(maker *m, const report *r)
{
    multilabel_cases  c;
    multilabel_scores s;
    if (!m->ok || !r->n_of[TASK_LABELS]) return;
    if (!sets_as_rows(r, &c, m->a, m->e) || !multilabel_score(&s, &c, m->a, m->e)) { m->ok = false; return; }
    json_t *top = begin(m), *list = json_array();
    put(m, "n", json_integer(c.n));
    put_set_counts(m, r);
    put_estimate(m, "subset_accuracy", s.subset_accuracy);
    put_estimate(m, "macro_f1", s.macro_f1);
    put_estimate(m, "macro_f1_present", s.macro_f1_present);
    put_estimate(m, "auroc", s.auroc);
    put_estimate(m, "average_precision", s.average_precision);
    put(m, "n_undefined", json_integer(s.n_undefined));
    for (int l = 0; l < c.L; l++)
        if (json_array_append_new(list, label_json(m, r->labels[l], &s.label[l])) != 0) m->ok = false;
    put(m, "labels", list);
    end(m, top, "multilabel");
}

/* ---- the rest ---- */

/* Labels, and how often each was taken for which; left out where no eye would follow it. */
static void put_confusion(maker *m, const report *r)
{
    enum { MOST = 32 };
    int64_t count[MOST][MOST] = {0};
    if (r->n_labels > MOST || r->n_of[TASK_LABELS]) return;
    for (int64_t i = 0; i < r->n; i++)
        if (r->cases[i].task == TASK_CLOSED) count[r->cases[i].gold][r->cases[i].answer]++;
    json_t *labels = json_array(), *rows = json_array();
    for (int g = 0; g < r->n_labels; g++) {
        json_t *row = json_array();
        for (int p = 0; p < r->n_labels; p++)
            if (json_array_append_new(row, json_integer(count[g][p])) != 0) m->ok = false;
        if (json_array_append_new(labels, json_string(r->labels[g])) != 0) m->ok = false;
        if (json_array_append_new(rows, row) != 0) m->ok = false;
    }
    put(m, "labels", labels);
    put(m, "confusion", rows); /* [gold][answer] */
}

static void put_work(maker *m, const report *r, const report_run *run)
{
    uint64_t flops = 0;
    int64_t  cached = 0, prefixes = 0;
    double  *ms = ARENA_NEW(m->a, double, r->n + 1, m->e);
    if (!ms) { m->ok = false; return; }
    for (int64_t i = 0; i < r->n; i++) {
        flops += r->cases[i].flops;
        cached += r->cases[i].n_cached;
        prefixes += r->cases[i].K;
        ms[i] = r->cases[i].ms;
    }
    qsort(ms, (size_t)r->n, sizeof *ms, ascending);
    put(m, "flops", json_integer((json_int_t)flops));
    put(m, "flops_per_case", number(r->n ? (double)flops / (double)r->n : NAN));
    put(m, "cache_hit_rate", number(prefixes ? (double)cached / (double)prefixes : NAN));
    put(m, "query_pictures", json_pack("{s:I,s:I}", "encoded", (json_int_t)r->vision.encoded, "reused",
                                       (json_int_t)r->vision.reused));
    put(m, "ms_per_case", json_pack("{s:o,s:o}", "median", number(quantile(ms, r->n, 0.5)),
                                    "p95", number(quantile(ms, r->n, 0.95))));
    put(m, "seconds", number(run->seconds));
    put(m, "cases_per_second", number(run->seconds > 0 ? (double)r->n / run->seconds : NAN));
}

static void put_failures(maker *m, const report *r)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_failed; i++)
        if (json_array_append_new(list, json_pack("{s:I,s:s,s:s}", "case", (json_int_t)r->failures[i].i, "problem",
                                                  r->failures[i].problem, "text", r->failures[i].text))
            != 0)
            m->ok = false;
    put(m, "failures", list);
}

static void put_run(maker *m, const report *r, const report_run *run)
{
    put(m, "dataset", json_string(run->dataset));
    if (run->task) put(m, "task", json_string(run->task));
    put(m, "n_cases", json_integer(run->n_cases));
    put(m, "n_failed", json_integer(r->n_failed));
    put(m, "n_open", json_integer(r->n_of[TASK_OPEN]));
    put(m, "n_multilabel", json_integer(r->n_of[TASK_LABELS]));
    put(m, "interrupted", json_boolean(run->interrupted));
    put(m, "k", json_integer(run->k));
    put(m, "mode", json_string(mode_name(run->mode)));
    put(m, "tau", number((double)run->tau));
    put(m, "workers", json_integer(run->workers));
    put(m, "kernels", json_string(run->kernels));
}

bool report_json(json_t **out, const report *r, const report_run *run, const engine *en, err *e)
{
    err     local = {0};
    maker   m = {.o = json_object(), .a = arena_new(0), .ok = true, .e = &local};
    columns c;
    m.ok = m.o && m.a && columns_take(&c, r, m.a, m.e);
    if (m.ok) {
        put_run(&m, r, run);
        put_overall(&m, r, &c);
        put_parts(&m, r, &c);
        put_splits(&m, r, &c);
        put_multilabel(&m, r);
        put_confusion(&m, r);
        put_work(&m, r, run);
        put_failures(&m, r);
        if (en) put(&m, "provenance", provenance_json(en, en->adapter));
        put(&m, "notice", json_string(RESEARCH_USE));
    }
    arena_free(m.a);
    if (!m.ok) {
        json_decref(m.o);
        return local.code ? err_set(e, local.code, "%s", local.text)
                          : err_set(e, ERR_MEMORY, "report: out of memory");
    }
    *out = m.o;
    return true;
}
