#include "reader/labels.h"

#include <string.h>

char *label_question(const char *question, const char *label, arena *a, err *e)
{
    return arena_printf(a, e, "%s\n%s?", question, label);
}

/* The whole query part of each label. */
static bool render(const reader *r, const reader_query *q, const picture *pic, prompt *each, arena *a, err *e)
{
    for (int l = 0; l < q->L; l++) {
        const char *question = label_question(q->question, q->labels[l], a, e);
        if (!question) return false;
        if (r->f->query(r->m, question, pic, &each[l], a, e)) continue;
        if (e->code == ERR_UNUSABLE) e->field = "labels"; /* the question alone was rendered before */
        return false;
    }
    return true;
}

/* How many tokens all of them begin with. The picture is among these. */
static int in_common(const prompt *each, int L)
{
    int n = each[0].n_ids;
    for (int l = 1; l < L; l++) {
        int same = 0, most = each[l].n_ids < n ? each[l].n_ids : n;
        while (same < most && each[l].ids[same] == each[0].ids[same]) same++;
        n = same;
    }
    return n;
}

/* What a label has for itself, then each answer. */
static bool grow_tree(const reader *r, const reader_query *q, const prompt *each, int common, trie *t, arena *a,
                      err *e)
{
    int             n = q->L * q->A, *n_own;
    const int32_t **own;
    if (!answers_tokenise(&own, &n_own, r->tokens, q->answers, q->A, a, e)) return false;
    const int32_t **ids = ARENA_NEW(a, const int32_t *, n, e);
    int            *len = ids ? ARENA_NEW(a, int, n, e) : NULL, *read = len ? ARENA_NEW(a, int, n, e) : NULL;
    if (!read) return false;
    for (int i = 0; i < n; i++) {
        const prompt *p = &each[i / q->A];
        int           j = i % q->A;
        read[i] = p->n_ids - common;
        len[i] = read[i] + n_own[j];
        int32_t *x = ARENA_NEW(a, int32_t, len[i], e);
        if (!x) return false;
        if (read[i]) memcpy(x, p->ids + common, (size_t)read[i] * sizeof *x);
        memcpy(x + read[i], own[j], (size_t)n_own[j] * sizeof *x);
        ids[i] = x;
    }
    return trie_build(t, ids, len, read, n, r->m->end_id, a, e);
}

bool labels_prepare(const reader *r, const reader_query *q, const picture *pic, prompt *ask, trie *t, arena *a,
                    err *e)
{
    prompt *each = ARENA_NEW(a, prompt, q->L, e);
    if (!each || !render(r, q, pic, each, a, e)) return false;
    int common = in_common(each, q->L);
    if (!grow_tree(r, q, each, common, t, a, e)) return false;
    *ask = each[0];
    ask->n_ids = common;
    return true;
}
