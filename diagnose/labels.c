#include "diagnose/labels.h"

#include <math.h>
#include <string.h>

const char *const LABEL_ANSWERS[2] = {"Yes", "No"};

void labels_ask(reader_query *out, const diagnose_request *q)
{
    out->labels = q->labels;
    out->L = q->n_labels;
    out->answers = LABEL_ANSWERS;
    out->A = 2;
}

/* The candidates of one label as the closed question that it is. */
typedef struct { int K; int64_t *id; float *p_r, *logp, *logit, *each; } pool;

static bool pool_take(pool *p, const answer *o, arena *a, err *e)
{
    size_t n = 2 * (size_t)o->K;
    *p = (pool){o->K, ARENA_NEW(a, int64_t, o->K, e), ARENA_NEW(a, float, o->K, e), ARENA_NEW(a, float, n, e),
                ARENA_NEW(a, float, n, e), ARENA_NEW(a, float, n, e)};
    if (!p->id || !p->p_r || !p->logp || !p->logit || !p->each) return false;
    for (int k = 0; k < o->K; k++) {
        p->id[k] = o->z[k].c.id;
        p->p_r[k] = o->z[k].c.weight;
    }
    return true;
}

/* p(label|q); the candidates' own go to o->z. */
static float fuse_label(score_mode m, pool *p, answer *o, int l)
{
    float prob[2];
    for (int k = 0; k < p->K; k++) {
        memcpy(p->logp + 2 * k, o->z[k].logp + 2 * l, 2 * sizeof(float));
        memcpy(p->logit + 2 * k, o->z[k].logit + 2 * l, 2 * sizeof(float));
    }
    fuse(m, p->K, 2, p->id, p->p_r, p->logp, p->logit, p->each, prob);
    for (int k = 0; k < p->K; k++) o->z[k].label_prob[l] = p->each[2 * k];
    return prob[0];
}

static bool same_set(const float *x, const float *y, int L)
{
    for (int l = 0; l < L; l++)
        if (label_present(x[l]) != label_present(y[l])) return false;
    return true;
}

/* Of a label that is there with probability p, nats. */
static double binary_entropy(double p)
{
    return (p > 0 ? -p * log(p) : 0) + (p < 1 ? -(1 - p) * log(1 - p) : 0);
}

bool labels_conclude(const diagnose_request *q, const reader_scores *s, answer *o, arena *a, err *e)
{
    size_t L = (size_t)(o->L = q->n_labels), K = (size_t)o->K;
    float *each = ARENA_NEW(a, float, K * L, e);
    pool   p;
    if (!each || !(o->label_prob = ARENA_NEW(a, float, L, e)) || !pool_take(&p, o, a, e)) return false;
    for (size_t k = 0; k < K; k++) {
        o->z[k].logp = s->logp + k * 2 * L;
        o->z[k].logit = s->logit + k * 2 * L;
        o->z[k].label_prob = each + k * L;
    }
    double entropy = 0, agreement = 0;
    for (int l = 0; l < o->L; l++) {
        float x = o->label_prob[l] = fuse_label(q->mode, &p, o, l);
        if (!isfinite(x))
            return err_set(e, ERR_BUG, "the scores are not finite numbers: are the reader's weights sound?");
        entropy += binary_entropy((double)x);
    }
    o->answer = -1;
    o->consistent = true;
    for (int k = 0; k < o->K; k++) {
        o->consistent = o->consistent && same_set(o->z[k].label_prob, o->z[0].label_prob, o->L);
        if (same_set(o->z[k].label_prob, o->label_prob, o->L)) agreement += (double)p.p_r[k];
    }
    o->agreement = (float)agreement;
    o->entropy = (float)entropy;
    o->end_token = s->end_token;
    o->n_cached = s->n_cached;
    o->prompt_tokens = s->prompt_tokens;
    return true;
}
