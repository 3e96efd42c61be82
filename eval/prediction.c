/* prediction.c - see prediction.h. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/memory.h"
#include "eval/prediction.h"

/* A NULL in v or o fails the whole line: memory is all that can fail here. */
static bool put(json_t *o, const char *key, json_t *v) { return json_object_set_new(o, key, v) == 0; }

static json_t *numbers(const float *x, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        if (json_array_append_new(list, json_real(x[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* What the candidate said by itself, as its kind of answer has it. */
static bool put_said(json_t *o, const evidence *z, const answer *ans)
{
    switch (ans->task) {
    case TASK_CLOSED: return put(o, "logp", numbers(z->logp, ans->A));
    case TASK_LABELS: return put(o, "probs", numbers(z->label_prob, ans->L));
    case TASK_OPEN: break;
    }
    bool ok = put(o, "log_likelihood", json_real(z->open_logp));
    return put(o, "agrees", json_boolean(z->agrees)) && ok;
}

static json_t *candidate_json(const evidence *z, const answer *ans)
{
    json_t *o = json_object(), *heads = json_array(), *scores = json_array();
    bool    ok = true;
    for (int h = 0; h < N_HEADS; h++)
        if (z->c.heads & 1u << h)
            ok = json_array_append_new(heads, json_string(HEAD_NAME[h])) == 0 &&
                 json_array_append_new(scores, json_real(z->c.score[h])) == 0 && ok;
    ok = put(o, "id", json_integer(z->c.id)) && ok;
    ok = put(o, "heads", heads) && ok; /* each put() takes its value, so all must be called */
    ok = put(o, "scores", scores) && ok;
    ok = put(o, "weight", json_real(z->c.weight)) && put_said(o, z, ans) && ok;
    if (ok) return o;
    json_decref(o);
    return NULL;
}

static json_t *candidates(const answer *ans)
{
    json_t *list = json_array();
    for (int k = 0; k < ans->K; k++)
        if (json_array_append_new(list, candidate_json(&ans->z[k], ans)) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* The labels of a set. */
static json_t *names(const eval_case *c, uint64_t set)
{
    json_t *list = json_array();
    for (int l = 0; l < c->n_labels; l++)
        if (set >> l & 1 && json_array_append_new(list, json_string(c->labels[l])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* End of every line: o is ours to drop. */
static bool finish(char **line, json_t *o, bool ok, err *e)
{
    char *s = ok ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (!s) return err_set(e, ERR_MEMORY, "prediction: out of memory");
    size_t n = strlen(s);
    char  *t = mem_alloc(n + 2);
    if (t) memcpy(memcpy(t, s, n) + n, "\n", 2);
    free(s);
    if (!t) return err_set(e, ERR_MEMORY, "prediction: out of memory");
    *line = t;
    return true;
}

/* Gold and answer: a text, one of the set, or labels. */
static bool put_answer(json_t *o, const eval_case *c, const answer *ans, const case_result *r)
{
    if (!c->labels)
        return put(o, "gold", json_string(c->gold_text)) &&
               put(o, "answer", json_string(ans->task == TASK_OPEN ? ans->open.text : c->answers[ans->answer]));
    return put(o, "gold", names(c, r->gold_set)) && put(o, "answer", names(c, r->said_set)) &&
           (!c->generated || (put(o, "text", json_string(ans->open.text)) &&
                              put(o, "unparsed", json_integer(r->n_unparsed))));
}

static bool put_scores(json_t *o, const answer *ans)
{
    switch (ans->task) {
    case TASK_CLOSED: return put(o, "probs", numbers(ans->prob, ans->A));
    case TASK_LABELS: return put(o, "probs", numbers(ans->label_prob, ans->L));
    case TASK_OPEN: break;
    }
    return put(o, "log_likelihood", json_real(ans->open.logp)) && put(o, "tokens", json_integer(ans->open.n_tokens))
           && put(o, "ended", json_boolean(ans->open.ended));
}

bool prediction_of(char **line, int64_t i, const eval_case *c, const answer *ans, const case_result *r, err *e)
{
    json_t *o = json_object();
    bool    ok = put(o, "case", json_integer(i)) && put_answer(o, c, ans, r) && put_scores(o, ans) &&
              put(o, "consistent", json_boolean(ans->consistent)) && put(o, "candidates", candidates(ans));
    return finish(line, o, ok, e);
}

bool prediction_failed(char **line, int64_t i, const char *gold, const err *why, err *e)
{
    json_t *o = json_object();
    bool ok = put(o, "case", json_integer(i)) && put(o, "gold", gold ? json_string(gold) : json_null())
              && put(o, "error",
                     json_pack("{s:s,s:s}", "problem", why->problem ? why->problem : err_code_name(why->code),
                               "text", why->text));
    return finish(line, o, ok, e);
}

bool prediction_write(int fd, const char *line, err *e)
{
    for (size_t n = strlen(line); n;) {
        ssize_t w = write(fd, line, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return err_set(e, ERR_FILE, "predictions: %s", strerror(errno));
        line += w;
        n -= (size_t)w;
    }
    return true;
}
