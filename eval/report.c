/* report.c - see report.h. The table for people is in report_text.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "eval/metrics.h"
#include "eval/report.h"

typedef struct { int64_t i; const char *problem; char text[sizeof ((err *)0)->text]; } failure;

struct report {
    case_result *cases; /* answers are label numbers here, of the whole run */
    int64_t      n, cap;
    failure     *failures;
    int64_t      n_failed, failed_cap, n_open;
    char       **labels; /* in order of their first appearance */
    int          n_labels, labels_cap;
    int32_t     *slots; /* open addressing over labels, -1 free */
    uint32_t     n_slots;
};

/* ---- one case ---- */

/* The candidates of one fusion as plain arrays: the whole answer's, or one head's. */
typedef struct { int K, A; int64_t *id; float *p_r, *logp, *logit, *each, *prob; } pool;

static bool pool_take(pool *p, int K, int A, arena *a, err *e)
{
    size_t KA = (size_t)K * (size_t)A;
    *p = (pool){0, A, ARENA_NEW(a, int64_t, K, e), ARENA_NEW(a, float, K, e), ARENA_NEW(a, float, KA, e),
                ARENA_NEW(a, float, KA, e), ARENA_NEW(a, float, KA, e), ARENA_NEW(a, float, A, e)};
    return p->id && p->p_r && p->logp && p->logit && p->each && p->prob;
}

static void pool_add(pool *p, const evidence *z, float p_r)
{
    size_t row = (size_t)p->K * (size_t)p->A, bytes = (size_t)p->A * sizeof(float);
    memcpy(p->logp + row, z->logp, bytes);
    memcpy(p->logit + row, z->logit, bytes);
    p->id[p->K] = z->c.id;
    p->p_r[p->K++] = p_r;
}

static int pool_answer(pool *p, score_mode m)
{
    fuse(m, p->K, p->A, p->id, p->p_r, p->logp, p->logit, p->each, p->prob);
    return argmax(p->prob, p->A);
}

/* The answer of one head alone. Its p_R is the retriever's own, of the head's scores only: what both heads' p_R is
 * when renormalised within the head. */
static bool head_alone(case_result *r, head h, const answer *ans, int gold, score_mode mode, float tau, arena *a, err *e)
{
    candidate *c = ARENA_NEW(a, candidate, ans->K, e);
    pool       p;
    if (!c || !pool_take(&p, ans->K, ans->A, a, e)) return false;
    int K = 0;
    for (int k = 0; k < ans->K; k++) {
        if (!(ans->z[k].c.heads & 1u << h)) continue;
        c[K] = ans->z[k].c;
        c[K++].heads = 1u << h;
        r->head_right[h] += ans->z[k].answer == gold;
    }
    r->head_K[h] = K;
    r->by_head[h] = -1;
    if (!K) return true;
    retriever_weigh(c, K, tau);
    for (int k = 0, j = 0; k < ans->K; k++)
        if (ans->z[k].c.heads & 1u << h) pool_add(&p, &ans->z[k], c[j++].weight);
    r->by_head[h] = pool_answer(&p, mode);
    return true;
}

bool case_result_of(case_result *r, const eval_case *c, const answer *ans, score_mode mode, float tau, arena *a, err *e)
{
    *r = (case_result){.gold = c->gold, .answer = ans->answer, .first = ans->z[0].answer, .K = ans->K,
                       .consistent = ans->consistent, .n_cached = ans->n_cached, .flops = ans->flops, .ms = ans->total_ms};
    arena_mark start = arena_here(a);
    pool       p;
    char      *gold, *said;
    if (!pool_take(&p, ans->K, ans->A, a, e)) return false;
    for (int k = 0; k < ans->K; k++) {
        pool_add(&p, &ans->z[k], ans->z[k].c.weight);
        r->right += ans->z[k].answer == c->gold;
    }
    r->by_mode[MODE_PAPER] = pool_answer(&p, MODE_PAPER);
    r->by_mode[MODE_REFERENCE] = pool_answer(&p, MODE_REFERENCE);
    for (int h = 0; h < N_HEADS; h++)
        if (!head_alone(r, (head)h, ans, c->gold, mode, tau, a, e)) return false;
    if (!answer_normalise(&gold, c->gold_text, a, e) || !answer_normalise(&said, c->answers[ans->answer], a, e))
        return false;
    r->exact = !strcmp(gold, said);
    r->recall = token_recall(gold, said);
    arena_back(a, start);
    return true;
}

/* ---- collecting ---- */

bool report_new(report **out, err *e)
{
    report *r = mem_zalloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_MEMORY, "report: out of memory");
    *out = r;
    return true;
}

void report_free(report *r)
{
    if (!r) return;
    for (int l = 0; l < r->n_labels; l++) free(r->labels[l]);
    free(r->labels);
    free(r->slots);
    free(r->cases);
    free(r->failures);
    free(r);
}

/* Room for one more in an array of heap memory. */
static bool grow(void **v, int64_t n, int64_t *cap, size_t size, err *e)
{
    if (n < *cap) return true;
    int64_t more = *cap ? 2 * *cap : 64;
    void   *p = mem_realloc(*v, (size_t)more * size);
    if (!p) return err_set(e, ERR_MEMORY, "report: out of memory");
    *v = p;
    *cap = more;
    return true;
}

static uint32_t slot_of(const report *r, const char *s)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *c = s; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    for (h &= r->n_slots - 1; r->slots[h] >= 0 && strcmp(r->labels[r->slots[h]], s) != 0;) h = (h + 1) & (r->n_slots - 1);
    return h;
}

static bool rehash(report *r, err *e)
{
    uint32_t n = r->n_slots ? 2 * r->n_slots : 128;
    int32_t *s = mem_alloc(n * sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "report: out of memory");
    free(r->slots);
    r->slots = s;
    r->n_slots = n;
    for (uint32_t i = 0; i < n; i++) s[i] = -1;
    for (int l = 0; l < r->n_labels; l++) s[slot_of(r, r->labels[l])] = l;
    return true;
}

/* The number of an answer's text, the same in all cases. */
static bool label_of(report *r, const char *s, int *out, err *e)
{
    int64_t cap = r->labels_cap;
    if (2 * (uint32_t)r->n_labels >= r->n_slots && !rehash(r, e)) return false;
    uint32_t h = slot_of(r, s);
    if (r->slots[h] < 0) {
        if (!grow((void **)&r->labels, r->n_labels, &cap, sizeof *r->labels, e)) return false;
        r->labels_cap = (int)cap;
        if (!(r->labels[r->n_labels] = mem_strdup(s))) return err_set(e, ERR_MEMORY, "report: out of memory");
        r->slots[h] = r->n_labels++;
    }
    *out = r->slots[h];
    return true;
}

bool report_add(report *r, const case_result *c, const char *const *answers, int n_answers, err *e)
{
    case_result t = *c;
    int        *of[] = {&t.gold, &t.answer, &t.first, &t.by_mode[MODE_PAPER], &t.by_mode[MODE_REFERENCE],
                        &t.by_head[HEAD_IMAGE], &t.by_head[HEAD_TEXT]};
    int         label;
    if (!grow((void **)&r->cases, r->n, &r->cap, sizeof t, e)) return false;
    /* The whole set first: a label that nobody said belongs to it too, and the order is the file's. */
    for (int i = 0; i < n_answers; i++)
        if (!label_of(r, answers[i], &label, e)) return false;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (*of[i] >= 0 && !label_of(r, answers[*of[i]], of[i], e)) return false;
    r->cases[r->n++] = t;
    return true;
}

bool report_add_failed(report *r, int64_t i, const err *why, err *e)
{
    if (!grow((void **)&r->failures, r->n_failed, &r->failed_cap, sizeof *r->failures, e)) return false;
    failure *f = &r->failures[r->n_failed++];
    *f = (failure){.i = i, .problem = why->problem ? why->problem : err_code_name(why->code)};
    memcpy(f->text, why->text, sizeof f->text);
    return true;
}

void    report_add_open(report *r) { r->n_open++; }
int64_t report_failed(const report *r) { return r->n_failed; }
int64_t report_scored(const report *r) { return r->n; }

/* ---- summary ---- */

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
        if (which == INCONSISTENT_CASES && r->cases[i].consistent) continue;
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
    c->n = r->n;
    for (int64_t i = 0; i < r->n; i++) {
        c->num[i] = h < 0 ? r->cases[i].right : r->cases[i].head_right[h];
        c->den[i] = h < 0 ? r->cases[i].K : r->cases[i].head_K[h];
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
    int64_t exact = 0, oracle = 0, inconsistent = 0, first = 0;
    put_scores(m, r, c, ALL_CASES, offsetof(case_result, answer));
    c->over = F1_PRESENT;
    put_statistic(m, "macro_f1_present", f1_of, c);
    for (int64_t i = 0; i < r->n; i++) {
        const case_result *k = &r->cases[i];
        exact += k->exact;
        oracle += k->right > 0;
        inconsistent += !k->consistent;
        first += k->first == k->gold;
        c->num[i] = k->recall;
        c->den[i] = 1;
    }
    put_proportion(m, "exact_match", exact, r->n);
    put_statistic(m, "token_recall", ratio_of, c);
    put_proportion(m, "inconsistent", inconsistent, r->n);
    put_proportion(m, "oracle", oracle, r->n);
    put_proportion(m, "first_candidate_accuracy", first, r->n);
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

/* Labels, and how often each was taken for which; left out where no eye would follow it. */
static void put_confusion(maker *m, const report *r)
{
    enum { MOST = 32 };
    int64_t count[MOST][MOST] = {0};
    if (r->n_labels > MOST) return;
    for (int64_t i = 0; i < r->n; i++) count[r->cases[i].gold][r->cases[i].answer]++;
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

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
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
                                                  r->failures[i].problem, "text", r->failures[i].text)) != 0) m->ok = false;
    put(m, "failures", list);
}

static void put_run(maker *m, const report *r, const report_run *run)
{
    put(m, "dataset", json_string(run->dataset));
    put(m, "n_cases", json_integer(run->n_cases));
    put(m, "n_failed", json_integer(r->n_failed));
    put(m, "n_open", json_integer(r->n_open));
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
        put_confusion(&m, r);
        put_work(&m, r, run);
        put_failures(&m, r);
        if (en) put(&m, "provenance", provenance_json(en, en->adapter));
        put(&m, "notice", json_string(RESEARCH_USE));
    }
    arena_free(m.a);
    if (!m.ok) {
        json_decref(m.o);
        return local.code ? err_set(e, local.code, "%s", local.text) : err_set(e, ERR_MEMORY, "report: out of memory");
    }
    *out = m.o;
    return true;
}
