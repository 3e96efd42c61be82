#include "diagnose/open.h"

static bool out_of_range(const char *field, int value, int most, err *e)
{
    return err_at(e, ERR_UNUSABLE, "field-out-of-range", field, "%s is %d, 1 to %d are taken", field, value, most);
}

bool open_check(const diagnose_request *q, err *e)
{
    const open_options *o = &q->open;
    if (o->max_new_tokens < 0 || o->max_new_tokens > MAX_NEW_TOKENS)
        return out_of_range("max_new_tokens", o->max_new_tokens, MAX_NEW_TOKENS, e);
    if (o->beams < 0 || o->beams > MAX_BEAMS) return out_of_range("beams", o->beams, MAX_BEAMS, e);
    if (o->beams > 1 && q->mode == MODE_REFERENCE)
        return err_at(e, ERR_UNUSABLE, "field-conflict", "beams", "beams is %d, the mode reference decodes with 1",
                      o->beams);
    double r = o->repetition_penalty;
    if (r != 0 && !(r >= 1 && r <= MAX_REPETITION_PENALTY))
        return err_at(e, ERR_UNUSABLE, "field-out-of-range", "repetition_penalty",
                      "repetition_penalty is %g, 1 to %d are taken", r, MAX_REPETITION_PENALTY);
    return true;
}

bool open_decode(const engine *en, kernels *kern, const diagnose_request *q, const reader_query *read, answer *o,
                 arena *a, err *e)
{
    const open_options *w = &q->open;
    reader_text         y;
    float              *p_r = ARENA_NEW(a, float, o->K, e);
    unsigned           *heads = p_r ? ARENA_NEW(a, unsigned, o->K, e) : NULL;
    if (!heads) return false;
    for (int k = 0; k < o->K; k++) {
        p_r[k] = o->z[k].c.weight;
        heads[k] = o->z[k].c.heads;
    }
    reader_decoding d = {.weight = p_r, .heads = heads, .reference = q->mode == MODE_REFERENCE,
                         .max_new_tokens = w->max_new_tokens ? w->max_new_tokens : DEFAULT_NEW_TOKENS,
                         .beams = w->beams ? w->beams : 1,
                         .repetition_penalty = w->repetition_penalty != 0 ? w->repetition_penalty : 1,
                         .on_text = w->on_text, .on_text_ctx = w->on_text_ctx};
    if (!reader_generate(en->reader, kern, read, &d, a, &y, e)) return false;

    double agreement = 0;
    o->open = (open_answer){y.text, y.token, y.n_tokens, y.ended, y.logp};
    o->answer = -1;
    o->consistent = true;
    o->n_cached = y.n_cached;
    o->prompt_tokens = y.prompt_tokens;
    for (int k = 0; k < o->K; k++) {
        o->z[k].answer = -1;
        o->z[k].open_logp = y.each[k];
        o->z[k].agrees = y.agrees[k];
        o->consistent = o->consistent && y.agrees[k];
        if (y.agrees[k]) agreement += p_r[k];
    }
    o->agreement = (float)agreement;
    return true;
}
