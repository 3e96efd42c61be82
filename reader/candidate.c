#include "reader/candidate.h"

#include "reader/vision_cache.h"

int reader_branch(const reader *r, const reader_query *q) { return r->merged ? 0 : q->adapter; }

size_t reader_width(const reader *r) { return (size_t)decoder_sizes(r->m->text)->D; }

bool query_prepare(const reader *r, const reader_query *q, picture *image, prompt *ask, arena *a, err *e)
{
    if (q->K < 1) return err_set(e, ERR_BUG, "reader: %d candidates", q->K);
    if (q->adapter < (r->merged ? 1 : 0) || q->adapter > r->n_adapters)
        return err_set(e, ERR_BUG, "reader: adapter %d of %d", q->adapter, r->n_adapters);
    return r->f->prepare(r->m, image, q->img, q->policy, a, e) && r->f->query(r->m, q->question, image, ask, a, e);
}

bool picture_encode(const reader *r, kernels *k, int branch, const picture *p, act **out, arena *a, err *e)
{
    *out = k->take(k, (size_t)p->rows * (size_t)p->cols * reader_width(r));
    return r->f->encode(r->m, k, branch, p, *out, NULL, a, e);
}

typedef struct { const reader *r; kernels *k; int branch; const picture *p; arena *a; } encoding;

static bool encode_into(void *ctx, act *tokens, err *e)
{
    const encoding *x = ctx;
    return x->r->f->encode(x->r->m, x->k, x->branch, x->p, tokens, NULL, x->a, e);
}

bool query_encode(const reader *r, kernels *k, const reader_query *q, const picture *p, act **out, arena *a, err *e)
{
    encoding x = {r, k, reader_branch(r, q), p, a};
    size_t   n = (size_t)p->rows * (size_t)p->cols * reader_width(r);
    *out = NULL;
    if (q->vision && !vision_cache_take(q->vision, k, q->img, q->policy, x.branch, n, encode_into, &x, out, e)) return false;
    return *out || picture_encode(r, k, x.branch, p, out, a, e);
}

bool prompt_fits(const reader *r, int n_tokens, err *e)
{
    if (n_tokens <= r->m->max_tokens) return true;
    return err_at(e, ERR_UNUSABLE, "prompt-too-long", "question",
                  "the prompt and its longest answer make %d tokens, at most %d", n_tokens, r->m->max_tokens);
}

bool prefix_render(const reader *r, const reader_query *q, const reader_passage *z, picture *pic, prompt *p, arena *a,
                   err *e)
{
    image img;
    if (!q->load(q->load_ctx, z->id, &img, a, e)) return false;
    if (r->f->prepare(r->m, pic, &img, q->policy, a, e) && r->f->prefix(r->m, z->caption, pic, p, a, e)) return true;
    if (e->code == ERR_UNUSABLE) { /* the index is at fault, not a field of the request */
        e->code = ERR_FILE;
        e->problem = e->field = NULL;
    }
    return false;
}

static bool run_prefix(const reader *r, kernels *k, int branch, const picture *pic, const prompt *p, kv *keys, int *cursor,
                       arena *a, err *e)
{
    size_t   mark = k->mark(k);
    act     *vision, *x = k->take(k, (size_t)p->n_ids * reader_width(r));
    int32_t *pos = ARENA_NEW(a, int32_t, 3 * (size_t)p->n_ids, e);
    bool     ok = pos && picture_encode(r, k, branch, pic, &vision, a, e);
    if (ok) {
        *cursor = r->f->positions(pos, p, 0);
        decoder_embed(r->m->text, k, p, vision, x);
        decoder_pass pass = {.own = keys, .pos = pos, .x = x, .T = p->n_ids, .adapter = branch, .want = p->n_ids};
        ok = decoder_forward(r->m->text, k, &pass, a, e);
    }
    k->back(k, mark);
    return ok;
}

bool prefix_take(reader *r, kernels *k, const reader_query *q, const reader_passage *z, prefix_kv *out, arena *a, err *e)
{
    prefix_key          key = prefix_key_of(z->id, q->adapter, q->policy, z->caption);
    const prefix_entry *found = prefix_cache_find(r->cache, key);
    if (found) {
        *out = (prefix_kv){found->keys, found->cursor, true, found};
        return true;
    }

    arena_mark am = arena_here(a);
    picture    pic;
    prompt     p;
    if (!prefix_render(r, q, z, &pic, &p, a, e)) return false;
    if (p.n_ids > r->m->max_tokens)
        return err_at(e, ERR_UNUSABLE, "prompt-too-long", NULL, "a retrieved pair makes %d tokens, at most %d", p.n_ids,
                      r->m->max_tokens);

    size_t        len = decoder_kv_len(r->m->text, p.n_ids);
    prefix_entry *fresh = prefix_cache_reserve(r->cache, k, key, len * (size_t)k->act_bytes);
    *out = (prefix_kv){.keys = {.data = fresh ? fresh->keys.data : k->take(k, len), .capacity = p.n_ids}, .held = fresh};
    if (!run_prefix(r, k, reader_branch(r, q), &pic, &p, &out->keys, &out->cursor, a, e) || !k->sync(k, e)) return false;
    if (fresh) {
        fresh->keys = out->keys;
        fresh->cursor = out->cursor;
        prefix_cache_publish(r->cache, fresh); /* only what is known to be complete */
    }
    arena_back(a, am);
    return true;
}

void prefix_release(reader *r, kernels *k, prefix_kv *p)
{
    prefix_cache_release(r->cache, k, p->held);
    p->held = NULL;
}
