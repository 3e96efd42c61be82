/* json.c - field names are the API's contract: docs/API.md lists them. Study and patient keys of passages are
 * not shown: they exist to exclude a case from its own evidence, and may identify another patient. */
#include "diagnose/json.h"

#include <math.h>

/* Put v under key and tell whether all went well: a NULL (out of memory) anywhere makes the whole answer NULL. */
static bool put(json_t *o, const char *key, json_t *v) { return v && json_object_set_new(o, key, v) == 0; }

static bool push(json_t *list, json_t *v) { return v && json_array_append_new(list, v) == 0; }

static json_t *done(json_t *o, bool ok)
{
    if (!ok) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *string_or_null(const char *s) { return s ? json_string(s) : json_null(); }

static json_t *numbers(const float *x, int n)
{
    json_t *list = json_array();
    bool    ok = list != NULL;
    for (int i = 0; ok && i < n; i++) ok = push(list, json_real(x[i]));
    return done(list, ok);
}

/* [n,2] as n pairs */
static json_t *pairs(const float *x, int n)
{
    json_t *list = json_array();
    bool    ok = list != NULL;
    for (int i = 0; ok && i < n; i++) ok = push(list, numbers(x + 2 * i, 2));
    return done(list, ok);
}

/* n texts, each under `key`, with its probability. */
static json_t *probabilities(const char *key, const char *const *text, const float *prob, int n)
{
    json_t *list = json_array();
    bool    ok = list != NULL;
    for (int i = 0; ok && i < n; i++)
        ok = push(list, json_pack("{s:s, s:f}", key, text[i], "probability", (double)prob[i]));
    return done(list, ok);
}

/* The labels that are more likely than not. */
static json_t *present(const diagnose_request *q, const float *prob, int L)
{
    json_t *list = json_array();
    bool    ok = list != NULL;
    for (int l = 0; ok && l < L; l++) ok = !label_present(prob[l]) || push(list, json_string(q->labels[l]));
    return done(list, ok);
}

static json_t *candidate_json(const evidence *z)
{
    json_t *o = json_object(), *heads = json_array(), *scores = json_object();
    bool    ok = o && heads && scores;
    for (int h = 0; ok && h < N_HEADS; h++)
        if (z->c.heads >> h & 1)
            ok = push(heads, json_string(HEAD_NAME[h])) && put(scores, HEAD_NAME[h], json_real(z->c.score[h]));
    ok = ok && put(o, "id", json_integer(z->c.id)) && put(o, "heads", json_incref(heads))
         && put(o, "scores", json_incref(scores)) && put(o, "weight", json_real(z->c.weight))
         && put(o, "source", string_or_null(z->p.source)) && put(o, "caption", string_or_null(z->p.caption))
         && put(o, "license", string_or_null(z->p.license))
         && put(o, "image", json_sprintf("/v1/passages/%lld/image", (long long)z->c.id))
         && put(o, "image_sha256", json_string(z->p.image_sha256));
    json_decref(heads);
    json_decref(scores);
    return done(o, ok);
}

/* What one pair says, by the kind of question. */
static bool put_saying(json_t *o, const diagnose_request *q, const answer *ans, const evidence *z)
{
    if (ans->task == TASK_LABELS)
        return put(o, "present", present(q, z->label_prob, ans->L))
               && put(o, "probabilities", numbers(z->label_prob, ans->L))
               && put(o, "log_likelihoods", pairs(z->logp, ans->L))
               && put(o, "mean_logits", pairs(z->logit, ans->L));
    if (ans->task == TASK_OPEN)
        return put(o, "log_likelihood", json_real(z->open_logp)) && put(o, "agrees", json_boolean(z->agrees));
    return put(o, "answer", json_string(q->answers[z->answer])) && put(o, "probabilities", numbers(z->prob, ans->A))
        && put(o, "log_likelihoods", numbers(z->logp, ans->A)) && put(o, "mean_logits", numbers(z->logit, ans->A));
}

static json_t *evidence_json(const diagnose_request *q, const answer *ans)
{
    json_t *list = json_array();
    bool    ok = list != NULL;
    for (int k = 0; ok && k < ans->K; k++) {
        const evidence *z = &ans->z[k];
        json_t         *o = candidate_json(z);
        ok = o && put_saying(o, q, ans, z);
        if (!ok) json_decref(o);
        ok = ok && push(list, o);
    }
    return done(list, ok);
}

static json_t *timings(const answer *ans)
{
    json_t *o = json_object();
    bool    ok = o != NULL;
    for (int s = 0; ok && s < N_STAGES; s++)
        ok = put(o, STAGE_NAME[s], json_real(round(ans->stage_ms[s] * 1e3) / 1e3));
    return done(o, ok && put(o, "total", json_real(round(ans->total_ms * 1e3) / 1e3)));
}

static json_t *adapter_identity(const engine *en, int adapter)
{
    if (adapter == 0) return json_null();
    reader_adapter_info a = reader_describe_adapter(en->reader, adapter);
    return json_pack("{s:s, s:s, s:b}", "name", a.name, "sha256", a.hash, "merged", a.merged);
}

json_t *provenance_json(const engine *en, int adapter)
{
    const index_info *ix = index_describe(en->index);
    return json_pack(
        "{s:{s:s, s:s}, s:{s:s, s:s, s:s}, s:o, s:{s:s, s:s, s:s?, s:s?}, s:{s:s, s:I}}", "program", "name",
        "jomed", "version", JOMED_VERSION, "reader", "family", en->reader ? reader_family(en->reader) : "none",
        "sha256", en->reader ? reader_hash(en->reader) : "", "image_policy", image_policy_name(en->policy),
        "adapter", adapter_identity(en, adapter), "retriever", "family", "jina-clip-v1", "sha256",
        retriever_hash(en->retriever), "query_image_sha256", retriever_query_hash(en->retriever, HEAD_IMAGE),
        "query_text_sha256", retriever_query_hash(en->retriever, HEAD_TEXT), "index", "sha256", ix->hash,
        "passages", (json_int_t)ix->n_passages);
}

/* The answer itself, by the kind of question. */
static bool put_answer(json_t *o, const diagnose_request *q, const answer *ans)
{
    const open_answer *y = &ans->open;
    if (ans->task == TASK_LABELS)
        return put(o, "present", present(q, ans->label_prob, ans->L))
            && put(o, "labels", probabilities("label", q->labels, ans->label_prob, ans->L));
    if (ans->task == TASK_OPEN)
        return put(o, "answer", json_string(y->text)) && put(o, "tokens", json_integer(y->n_tokens))
            && put(o, "ended", json_boolean(y->ended)) && put(o, "log_likelihood", json_real(y->logp));
    return put(o, "answer", json_string(q->answers[ans->answer]))
           && put(o, "probability", json_real(ans->prob[ans->answer]))
           && put(o, "probabilities", probabilities("answer", q->answers, ans->prob, ans->A));
}

/* How far the pairs agree, and how sure all of them together are: of text nobody has a whole distribution. */
static bool put_agreement(json_t *o, const answer *ans)
{
    return put(o, "consistent", json_boolean(ans->consistent)) && put(o, "agreement", json_real(ans->agreement))
        && (ans->task == TASK_OPEN || put(o, "entropy_nats", json_real(ans->entropy)));
}

/* What is wrong with an answer that was given all the same. */
static json_t *warnings(const answer *ans)
{
    return ans->clipped ? json_pack("[s]", IMAGE_CLIPPED) : json_array();
}

json_t *answer_json(const engine *en, const diagnose_request *q, const answer *ans, const char *request_id)
{
    json_t *o = json_object();
    return done(o, o && put(o, "request_id", string_or_null(request_id)) && put_answer(o, q, ans)
                       && put_agreement(o, ans) && put(o, "mode", json_string(mode_name(q->mode)))
                       && put(o, "k", json_integer(q->k)) && put(o, "warnings", warnings(ans))
                       && put(o, "evidence", evidence_json(q, ans))
                       && put(o, "work",
                              json_pack("{s:I, s:i, s:i, s:b}", "flops", (json_int_t)ans->flops, "cached_prefixes",
                                        ans->n_cached, "prompt_tokens", ans->prompt_tokens, "end_token_scored",
                                        ans->end_token))
                       && put(o, "timings_ms", timings(ans))
                       && put(o, "provenance", provenance_json(en, ans->adapter))
                       && put(o, "intended_use", json_string(RESEARCH_USE)));
}

json_t *retrieval_json(const engine *en, const answer *ans, const char *request_id)
{
    json_t *o = json_object(), *list = json_array();
    bool    ok = o && list;
    for (int k = 0; ok && k < ans->K; k++) ok = push(list, candidate_json(&ans->z[k]));
    ok = ok && put(o, "request_id", string_or_null(request_id)) && put(o, "candidates", json_incref(list))
         && put(o, "warnings", warnings(ans))
         && put(o, "timings_ms", timings(ans)) && put(o, "provenance", provenance_json(en, 0))
         && put(o, "intended_use", json_string(RESEARCH_USE));
    json_decref(list);
    return done(o, ok);
}

static json_t *adapters_json(const engine *en)
{
    json_t *list = json_array();
    bool    ok = list != NULL;
    for (int i = 1; ok && i <= reader_adapters(en->reader); i++) {
        reader_adapter_info a = reader_describe_adapter(en->reader, i);
        ok = push(list, json_pack("{s:s, s:s, s:i, s:f, s:I, s:I, s:b, s:I, s:b}", "name", a.name, "sha256", a.hash,
                                  "rank", a.rank, "scale", a.scale, "parameters", (json_int_t)a.parameters, "bytes",
                                  (json_int_t)a.bytes, "merged", a.merged, "merged_bytes",
                                  (json_int_t)a.merged_bytes, "default", en->adapter == i));
    }
    return done(list, ok);
}

json_t *models_json(const engine *en, const char *kernels_name)
{
    const index_info *ix = index_describe(en->index);
    return json_pack(
        "{s:{s:s, s:s, s:I, s:i}, s:o, s:{s:s, s:s, s:I, s:i}, s:{s:s, s:I, s:i, s:s, s:s}, s:s, s:s, s:s}",
        "reader", "family", reader_family(en->reader), "sha256", reader_hash(en->reader), "parameters",
        (json_int_t)reader_parameters(en->reader), "max_tokens", reader_max_tokens(en->reader), "adapters",
        adapters_json(en), "retriever", "family", "jina-clip-v1", "sha256", retriever_hash(en->retriever),
        "parameters", (json_int_t)retriever_parameters(en->retriever), "dimension", retriever_dim(en->retriever),
        "index", "sha256", ix->hash, "passages", (json_int_t)ix->n_passages, "dimension", ix->dim, "factory",
        ix->factory, "created", ix->created, "device", kernels_name, "version", JOMED_VERSION, "intended_use",
        RESEARCH_USE);
}
