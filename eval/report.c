/* report.c - see report.h: results of cases and their collecting. The summary is made in report_json.c. */
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "base/memory.h"
#include "eval/metrics.h"
#include "eval/multilabel.h"
#include "eval/report_impl.h"

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
static bool head_alone(case_result *r, head h, const answer *ans, int gold, score_mode mode, float tau, arena *a,
                       err *e)
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

static bool closed_result(case_result *r, const eval_case *c, const answer *ans, score_mode mode, float tau, arena *a,
                          err *e)
{
    pool p;
    r->gold = c->gold;
    r->answer = ans->answer;
    r->first = ans->z[0].answer;
    if (!pool_take(&p, ans->K, ans->A, a, e)) return false;
    for (int k = 0; k < ans->K; k++) {
        pool_add(&p, &ans->z[k], ans->z[k].c.weight);
        r->right += ans->z[k].answer == c->gold;
    }
    r->by_mode[MODE_PAPER] = pool_answer(&p, MODE_PAPER);
    r->by_mode[MODE_REFERENCE] = pool_answer(&p, MODE_REFERENCE);
    for (int h = 0; h < N_HEADS; h++)
        if (!head_alone(r, (head)h, ans, c->gold, mode, tau, a, e)) return false;
    return true;
}

/* An answer's text against the gold one. */
static bool text_result(case_result *r, const char *gold_text, const char *said_text, arena *a, err *e)
{
    char *gold, *said;
    if (!answer_normalise(&gold, gold_text, a, e) || !answer_normalise(&said, said_text, a, e)) return false;
    r->exact = !strcmp(gold, said);
    r->recall = token_recall(gold, said);
    r->yes_no = !strcmp(gold, "yes") || !strcmp(gold, "no");
    return true;
}

static uint64_t set_of(const float *prob, int L)
{
    uint64_t set = 0;
    for (int l = 0; l < L; l++) set |= (uint64_t)label_present(prob[l]) << l;
    return set;
}

/* Which labels there are and which were said: by their probabilities, or as a list that was decoded. */
static void labels_result(case_result *r, const eval_case *c, const answer *ans)
{
    uint8_t said[MAX_LABELS];
    r->task = TASK_LABELS;
    r->generated = c->generated;
    for (int l = 0; l < c->n_labels; l++) r->gold_set |= (uint64_t)c->present[l] << l;
    if (ans->task == TASK_LABELS) {
        r->said_set = set_of(ans->label_prob, c->n_labels);
        for (int k = 0; k < ans->K; k++) r->right += set_of(ans->z[k].label_prob, c->n_labels) == r->gold_set;
        return;
    }
    r->n_unparsed = label_list_parse(said, c->n_labels, ans->open.text);
    for (int l = 0; l < c->n_labels; l++) r->said_set |= (uint64_t)said[l] << l;
}

bool case_result_of(case_result *r, const eval_case *c, const answer *ans, score_mode mode, float tau, arena *a,
                    err *e)
{
    *r = (case_result){.task = ans->task, .type = c->type, .K = ans->K, .consistent = ans->consistent,
                       .n_cached = ans->n_cached, .flops = ans->flops, .ms = ans->total_ms};
    arena_mark start = arena_here(a);
    bool       ok = true;
    if (ans->task == TASK_OPEN) {
        r->n_tokens = ans->open.n_tokens;
        r->cut_off = !ans->open.ended;
    }
    if (c->labels) labels_result(r, c, ans);
    else if (ans->task == TASK_OPEN) ok = text_result(r, c->gold_text, ans->open.text, a, e);
    else
        ok = closed_result(r, c, ans, mode, tau, a, e)
             && text_result(r, c->gold_text, c->answers[ans->answer], a, e);
    arena_back(a, start);
    return ok;
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
    free(r->prob);
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
    uint32_t h = (uint32_t)fnv_text(s);
    for (h &= r->n_slots - 1; r->slots[h] >= 0 && strcmp(r->labels[r->slots[h]], s) != 0;)
        h = (h + 1) & (r->n_slots - 1);
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

/* The answers of a closed case as labels of the whole run. */
static bool add_closed(report *r, case_result *t, const char *const *answers, int n_answers, err *e)
{
    int *of[] = {&t->gold, &t->answer, &t->first, &t->by_mode[MODE_PAPER], &t->by_mode[MODE_REFERENCE],
                 &t->by_head[HEAD_IMAGE], &t->by_head[HEAD_TEXT]};
    int  label;
    /* The whole set first: a label that nobody said belongs to it too, and the order is the file's. */
    for (int i = 0; i < n_answers; i++)
        if (!label_of(r, answers[i], &label, e)) return false;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (*of[i] >= 0 && !label_of(r, answers[*of[i]], of[i], e)) return false;
    return true;
}

/* Labels and their probabilities. A run has one list of labels: that of its task. */
static bool add_labels(report *r, const char *const *names, int n_names, const float *prob, err *e)
{
    int label;
    for (int i = 0; i < n_names; i++)
        if (!label_of(r, names[i], &label, e)) return false;
    if (r->n_labels != n_names) return err_set(e, ERR_BUG, "report: %d labels, then %d", r->n_labels, n_names);
    if (!prob) return true;
    if (!grow((void **)&r->prob, r->n_of[TASK_LABELS], &r->prob_cap, (size_t)n_names * sizeof *r->prob, e))
        return false;
    memcpy(r->prob + r->n_of[TASK_LABELS] * n_names, prob, (size_t)n_names * sizeof *prob);
    return true;
}

bool report_add(report *r, const case_result *c, const char *const *names, int n_names, const float *prob, err *e)
{
    case_result t = *c;
    if (!grow((void **)&r->cases, r->n, &r->cap, sizeof t, e)) return false;
    if (t.task == TASK_CLOSED && !add_closed(r, &t, names, n_names, e)) return false;
    if (t.task == TASK_LABELS && !add_labels(r, names, n_names, prob, e)) return false;
    r->cases[r->n++] = t;
    r->n_of[t.task]++;
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

void    report_set_vision(report *r, vision_cache_stats v) { r->vision = v; }
int64_t report_failed(const report *r) { return r->n_failed; }
int64_t report_scored(const report *r) { return r->n; }
