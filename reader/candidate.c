#include "reader/candidate.h"

#include "kernels/range.h"
#include "reader/pictures.h"
#include "reader/vision_cache.h"

int reader_branch(const reader *r, const reader_query *q) { return r->merged ? 0 : q->adapter; }

size_t reader_width(const reader *r) { return (size_t)decoder_sizes(r->m->text)->D; }

bool query_prepare(const reader *r, const reader_query *q, picture *pic, prompt *ask, arena *a, err *e)
{
    if (q->K < 1) return err_set(e, ERR_BUG, "reader: %d candidates", q->K);
    if (q->adapter < (r->merged ? 1 : 0) || q->adapter > r->n_adapters)
        return err_set(e, ERR_BUG, "reader: adapter %d of %d", q->adapter, r->n_adapters);
    return r->f->prepare(r->m, pic, q->img, q->policy, a, e) && r->f->query(r->m, q->question, pic, ask, a, e);
}

bool pictures_encode(const reader *r, kernels *k, int branch, const picture *p, int n, act **out, arena *a, err *e)
{
    size_t tokens = 0;
    for (int i = 0; i < n; i++) tokens += (size_t)picture_tokens(&p[i]);
    *out = k->take(k, tokens * reader_width(r));
    return r->f->encode(r->m, k, branch, p, n, *out, NULL, a, e);
}

typedef struct { const reader *r; kernels *k; int branch; const picture *p; arena *a; } encoding;

static bool encode_into(void *ctx, act *tokens, err *e)
{
    const encoding *x = ctx;
    return x->r->f->encode(x->r->m, x->k, x->branch, x->p, 1, tokens, NULL, x->a, e);
}

bool query_encode(const reader *r, kernels *k, const reader_query *q, const picture *p, act **out, arena *a, err *e)
{
    encoding x = {r, k, reader_branch(r, q), p, a};
    size_t   n = (size_t)picture_tokens(p) * reader_width(r);
    *out = NULL;
    if (q->vision && !vision_cache_take(q->vision, k, q->img, q->policy, x.branch, n, encode_into, &x, out, e))
        return false;
    return *out || pictures_encode(r, k, x.branch, p, 1, out, a, e);
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

int prefix_tokens(const prefix_kv *p) { return p->job ? p->job->p.n_ids : p->keys.n; }

bool prefix_find(reader *r, const reader_query *q, const reader_passage *z, prefix_kv *out, arena *a, err *e)
{
    prefix_key          key = prefix_key_of(z->id, q->adapter, q->policy, z->caption);
    const prefix_entry *found = prefix_cache_find(r->cache, key);
    *out = (prefix_kv){0};
    if (found) {
        bool ready = found->keys.data != NULL;
        *out = (prefix_kv){.keys = found->keys, .cursor = found->cursor, .cached = true, .ready = ready,
                           .held = ready ? found : NULL, .below = ready ? NULL : found};
        return true;
    }
    prefix_job *job = ARENA_NEW(a, prefix_job, 1, e);
    if (!job || !prefix_render(r, q, z, &job->pic, &job->p, a, e)) return false;
    job->key = key;
    job->branch = reader_branch(r, q);
    out->job = job;
    return job->p.n_ids <= r->m->max_tokens
           || err_at(e, ERR_UNUSABLE, "prompt-too-long", "k",
                     "the picture and caption of retrieved passage %lld make %d tokens, at most %d: a smaller k or "
                     "an exclusion may leave it out",
                     (long long)z->id, job->p.n_ids, r->m->max_tokens);
}

static prefix_key key_of(const prefix_kv *p) { return p->job ? p->job->key : p->below->key; }

/* The first of p[0 .. i] that makes what p[i] needs: itself, unless two requests asked for the same pair. */
static int made_by(const prefix_kv *p, int i)
{
    for (int j = 0; j < i; j++)
        if (!p[j].ready && prefix_key_same(key_of(&p[j]), key_of(&p[i]))) return j;
    return i;
}

/* Room for the keys and values of what is not ready: the cache's if there is some, else scratch. */
static void make_room(reader *r, kernels *k, prefix_kv *p)
{
    int           n = prefix_tokens(p);
    size_t        len = decoder_kv_len(r->m->text, n);
    prefix_entry *fresh = prefix_cache_reserve(r->cache, k, key_of(p), len * (size_t)k->act_bytes);
    p->keys = (kv){.data = fresh ? fresh->keys.data : k->take(k, len), .capacity = n, .n = p->below ? n : 0};
    p->held = fresh;
}

/* Towers of all pictures, then the decoder over all prompts. todo [n]: which of p. */
static bool run_prefixes(const reader *r, kernels *k, prefix_kv *p, const int *todo, int n, arena *a, err *e)
{
    size_t        D = reader_width(r), T = 0, row = 0, seen = 0;
    act          *vision;
    decoder_pass *pass = ARENA_NEW(a, decoder_pass, n, e);
    picture      *pic = pass ? ARENA_NEW(a, picture, n, e) : NULL;
    if (!pic) return false;
    for (int i = 0; i < n; i++) {
        pic[i] = p[todo[i]].job->pic;
        T += (size_t)p[todo[i]].job->p.n_ids;
    }
    act *x = k->take(k, T * D);
    if (!pictures_encode(r, k, p[todo[0]].job->branch, pic, n, &vision, a, e)) return false;
    for (int i = 0; i < n; i++) {
        prefix_kv    *y = &p[todo[i]];
        const prompt *ids = &y->job->p;
        int32_t      *pos = ARENA_NEW(a, int32_t, 3 * (size_t)ids->n_ids, e);
        if (!pos) return false;
        y->cursor = r->f->positions(pos, ids, 0);
        act *at = act_at(k, x, row * D);
        decoder_embed(r->m->text, k, ids, act_at(k, vision, seen * D), at);
        pass[i] = (decoder_pass){.own = &y->keys, .pos = pos, .x = at, .T = ids->n_ids, .adapter = y->job->branch,
                                 .want = ids->n_ids};
        row += (size_t)ids->n_ids;
        seen += (size_t)picture_tokens(&pic[i]);
    }
    return decoder_forward_packed(r->m->text, k, pass, n, NULL, a, e);
}

static void release_below(reader *r, kernels *k, prefix_kv *p)
{
    prefix_cache_release(r->cache, k, p->below);
    p->below = NULL;
}

bool prefixes_compute(reader *r, kernels *k, prefix_kv *p, int n, arena *a, err *e)
{
    int  n_todo = 0, n_run = 0;
    int *todo = ARENA_NEW(a, int, n, e), *run = todo ? ARENA_NEW(a, int, n, e) : NULL;
    if (!run) return false;
    for (int i = 0; i < n; i++)
        if (!p[i].ready && made_by(p, i) == i) todo[n_todo++] = i;
    if (n_todo == 0) return true;

    arena_mark am = arena_here(a);
    /* before the pass's own scratch, which goes back */
    for (int i = 0; i < n_todo; i++) make_room(r, k, &p[todo[i]]);
    size_t mark = k->mark(k);
    range_begin("prefixes");
    for (int i = 0; i < n_todo; i++) {
        const prefix_kv *y = &p[todo[i]];
        if (y->below) prefix_cache_restore(y->below, k, y->keys.data);
        else run[n_run++] = todo[i];
    }
    bool ok = n_run == 0 || run_prefixes(r, k, p, run, n_run, a, e);
    k->back(k, mark);
    arena_back(a, am);
    ok = ok && k->sync(k, e);
    range_end();
    if (!ok) return false;

    for (int i = n - 1; i >= 0; i--) { /* from the end, since what makes another's stands before it */
        int from = p[i].ready ? i : made_by(p, i);
        if (from == i) continue;
        p[i].keys = p[from].keys;
        p[i].cursor = p[from].cursor;
        p[i].ready = p[i].shared = true;
    }
    for (int i = 0; i < n_todo; i++) {
        prefix_kv    *y = &p[todo[i]];
        prefix_entry *fresh = (prefix_entry *)y->held; /* ours alone until it is published */
        y->ready = true;
        if (!fresh) continue;
        fresh->keys = y->keys;
        fresh->cursor = y->cursor;
        prefix_cache_publish(r->cache, fresh); /* only what is known to be complete */
    }
    for (int i = 0; i < n; i++) release_below(r, k, &p[i]); /* now, so that others may have its room */
    return true;
}

void prefix_release(reader *r, kernels *k, prefix_kv *p)
{
    prefix_cache_release(r->cache, k, p->held);
    p->held = NULL;
    release_below(r, k, p);
}

bool prefixes_take(reader *r, kernels *k, const reader_query *q, prefix_kv *out, arena *a, err *e)
{
    for (int i = 0; i < q->K; i++) out[i] = (prefix_kv){0};
    for (int i = 0, n; i < q->K; i += n) {
        arena_mark am = arena_here(a);
        int        tokens = 0;
        if (q->go_on && !q->go_on(q->go_on_ctx, e)) return false;
        for (n = 0; i + n < q->K && tokens < k->pass_tokens; n++) {
            if (!prefix_find(r, q, &q->z[i + n], &out[i + n], a, e)) return false;
            if (!out[i + n].ready) tokens += prefix_tokens(&out[i + n]);
        }
        if (!prefixes_compute(r, k, out + i, n, a, e)) return false;
        for (int j = i; j < i + n; j++) out[j].job = NULL; /* the arena goes back */
        arena_back(a, am);
    }
    return true;
}
