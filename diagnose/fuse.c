/* fuse.c - from per-candidate scores to one distribution. Sums are in double and in ascending passage id: the
 * same bits whatever order the candidates came in. Mixing probabilities and pooling logits differ: a single
 * very sure candidate dominates the second and is only one voice in the first (specs/jomed.md 4.2). */
#include <math.h>
#include <string.h>

#include "diagnose/diagnose.h"

bool mode_parse(score_mode *out, const char *name)
{
    for (score_mode m = MODE_PAPER; m <= MODE_REFERENCE; m++)
        if (strcmp(name, mode_name(m)) == 0) return *out = m, true;
    return false;
}

const char *mode_name(score_mode m) { return m == MODE_PAPER ? "paper" : "reference"; }

int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void softmax(float *out, const float *x, int n)
{
    double most = x[argmax(x, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += exp(x[i] - most);
    for (int i = 0; i < n; i++) out[i] = (float)(exp(x[i] - most) / sum);
}

/* The position of the smallest id above the last one: K is at most 100, a search each time is cheaper than an
 * order. */
static int next_id(const int64_t *id, int K, int last)
{
    int best = -1;
    for (int k = 0; k < K; k++)
        if ((last < 0 || id[k] > id[last]) && (best < 0 || id[k] < id[best])) best = k;
    return best;
}

void fuse(score_mode m, int K, int A, const int64_t *id, const float *p_r, const float *logp, const float *logit,
          float *each, float *prob)
{
    const float *x = m == MODE_PAPER ? logp : logit;
    for (int k = 0; k < K; k++) softmax(each + (size_t)k * A, x + (size_t)k * A, A);

    const float *mixed = m == MODE_PAPER ? each : logit;
    for (int a = 0; a < A; a++) {
        double sum = 0;
        for (int k = next_id(id, K, -1); k >= 0; k = next_id(id, K, k))
            sum += (double)p_r[k] * mixed[(size_t)k * A + a];
        prob[a] = (float)sum;
    }
    if (m == MODE_REFERENCE) softmax(prob, prob, A);
}
