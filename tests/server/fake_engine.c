/* fake_engine.c - stands in for the models when a test is about the server: a question decides what happens,
 * and a gate holds workers for as long as a test wants. Included by a test; the Makefile links tests of this
 * folder so that these definitions win over the libraries'. Everything else (checks, JSON, images) is the real
 * thing. */
#include <pthread.h>
#include <string.h>

#include "diagnose/diagnose.h"
#include "base/clock.h"
#include "base/text.h"

#include <limits.h>
#include <time.h>

static struct {
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    bool            held;      /* diagnose() waits while this is set */
    int             inside;    /* in diagnose() now */
    int             calls;     /* ever, without the workers' own case */
    int             together;  /* the most that came in one call of diagnose_many() */
    err_code        fail_with; /* ERR_NONE: answer */
    const char     *fail_text;
    err_code        fail_own;  /* of the case that a worker asks by itself */
    int             own_calls; /* of that case */
    /* open questions: texts that are emitted one by one */
    const char     *text;
    int             n_texts, allowed; /* how many of them may go out by now */
    err_code        fail_last;        /* behind the last; ERR_NONE: answer */
    int             stopped;          /* times that nobody took a text any more */
    /* what the first calls came with */
    struct { const kernels *kern; const vision_cache *vision; } came[8];
    int             n_came;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .changed = PTHREAD_COND_INITIALIZER,
          .fail_text = "",
          .text = "w\xc3\xb6rd \"1\"\n",
          .n_texts = 3,
          .allowed = INT_MAX};

static inline void fake_set(bool held)
{
    pthread_mutex_lock(&fake.lock);
    fake.held = held;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

/* Wait until n requests are inside diagnose(). */
static inline void fake_wait_inside(int n)
{
    pthread_mutex_lock(&fake.lock);
    while (fake.inside != n) pthread_cond_wait(&fake.changed, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

static inline int fake_calls(void)
{
    pthread_mutex_lock(&fake.lock);
    int n = fake.calls;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

static inline void fake_fail(err_code code, const char *why)
{
    pthread_mutex_lock(&fake.lock);
    fake.fail_with = code;
    fake.fail_text = why;
    pthread_mutex_unlock(&fake.lock);
}

/* What the workers' own case ends with from now on. */
static inline void fake_fail_own(err_code code)
{
    pthread_mutex_lock(&fake.lock);
    fake.fail_own = code;
    pthread_mutex_unlock(&fake.lock);
}

static inline int fake_own_calls(void)
{
    pthread_mutex_lock(&fake.lock);
    int n = fake.own_calls;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

/* A worker's own case, which no gate holds. */
static inline bool fake_own(err *e)
{
    pthread_mutex_lock(&fake.lock);
    fake.own_calls++;
    err_code code = fake.fail_own;
    pthread_mutex_unlock(&fake.lock);
    return code == ERR_NONE || err_set(e, code, "the worker's own case was told to fail");
}

/* Pass the gate; false: told to fail. */
static inline bool fake_pass(err *e)
{
    pthread_mutex_lock(&fake.lock);
    fake.inside++;
    fake.calls++;
    pthread_cond_broadcast(&fake.changed);
    while (fake.held) pthread_cond_wait(&fake.changed, &fake.lock);
    fake.inside--;
    pthread_cond_broadcast(&fake.changed);
    err_code    code = fake.fail_with;
    const char *why = fake.fail_text;
    pthread_mutex_unlock(&fake.lock);
    return code == ERR_NONE || err_set(e, code, "%s", why);
}

/* What an open question is answered with, and how many texts may go out before fake_allow() is asked again. */
static inline void fake_texts(const char *each, int n, int allowed, err_code fail_last)
{
    pthread_mutex_lock(&fake.lock);
    fake.text = each;
    fake.n_texts = n;
    fake.allowed = allowed;
    fake.fail_last = fail_last;
    fake.stopped = 0;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_allow(int allowed)
{
    pthread_mutex_lock(&fake.lock);
    fake.allowed = allowed;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_wait_stopped(int n)
{
    pthread_mutex_lock(&fake.lock);
    while (fake.stopped != n) pthread_cond_wait(&fake.changed, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

/* Wait until text i may go out; false: the deadline came first. */
static inline bool fake_turn(const diagnose_request *q, int i, err *e)
{
    bool late = false;
    pthread_mutex_lock(&fake.lock);
    while (i >= fake.allowed && !(late = q->deadline_at > 0 && clock_ms() > q->deadline_at)) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 5000000;
        if (t.tv_nsec >= 1000000000) t = (struct timespec){t.tv_sec + 1, t.tv_nsec - 1000000000};
        pthread_cond_timedwait(&fake.changed, &fake.lock, &t);
    }
    pthread_mutex_unlock(&fake.lock);
    return !late
           || err_at(e, ERR_DEADLINE, "deadline-passed", "deadline_ms",
                     "the request's deadline passed before it was answered");
}

static inline bool fake_open(const diagnose_request *q, answer *out, arena *a, err *e)
{
    size_t n = strlen(fake.text);
    char  *whole = ARENA_NEW(a, char, n * (size_t)fake.n_texts + 1, e);
    if (!whole) return false;
    for (int i = 0; i < fake.n_texts; i++) {
        memcpy(whole + n * (size_t)i, fake.text, n);
        if (!fake_turn(q, i, e)) return false;
        if (!q->open.on_text || q->open.on_text(q->open.on_text_ctx, fake.text, n, e)) continue;
        pthread_mutex_lock(&fake.lock);
        fake.stopped++;
        pthread_cond_broadcast(&fake.changed);
        pthread_mutex_unlock(&fake.lock);
        return false;
    }
    if (fake.fail_last) return err_set(e, fake.fail_last, "%s", fake.fail_text);
    out->open = (open_answer){.text = whole, .n_tokens = fake.n_texts, .ended = true, .logp = -1};
    out->open.token = ARENA_NEW(a, int32_t, fake.n_texts + 1, e);
    return out->open.token != NULL;
}

static inline bool fake_labels(answer *out, const diagnose_request *q, arena *a, err *e)
{
    out->L = q->n_labels;
    out->label_prob = ARENA_NEW(a, float, out->L, e);
    out->z[0].label_prob = out->label_prob;
    out->z[0].logp = ARENA_NEW(a, float, 2 * out->L, e);
    out->z[0].logit = ARENA_NEW(a, float, 2 * out->L, e);
    return out->label_prob && out->z[0].logp && out->z[0].logit;
}

static inline bool fake_evidence(answer *out, arena *a, err *e)
{
    out->K = 1;
    out->z = ARENA_NEW(a, evidence, 1, e);
    if (!out->z) return false;
    out->z[0].c = (candidate){.id = 7, .heads = 1u << HEAD_IMAGE, .score = {0.5f, 0}, .weight = 1};
    out->z[0].p = (passage){.id = 7, .source = "fake", .caption = "a caption"};
    return true;
}

static inline void fake_came(const kernels *kern, const vision_cache *v)
{
    pthread_mutex_lock(&fake.lock);
    if (fake.n_came < 8) {
        fake.came[fake.n_came].kern = kern;
        fake.came[fake.n_came++].vision = v;
    }
    pthread_mutex_unlock(&fake.lock);
}

bool diagnose(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e)
{
    (void)en;
    *out = (answer){.task = diagnose_task(q), .A = q->n_answers, .consistent = true, .agreement = 1, .flops = 1000};
    if (q->adapter && !reader_find_adapter(en->reader, q->adapter, &out->adapter, e)) return false;
    bool own = strcmp(q->question, "Is this image normal?") == 0;
    if (!own) fake_came(kern, q->vision);
    if (!(own ? fake_own(e) : fake_pass(e))) return false;
    if (!fake_evidence(out, a, e)) return false;
    if (out->task == TASK_OPEN && !fake_open(q, out, a, e)) return false;
    if (out->task == TASK_LABELS && !fake_labels(out, q, a, e)) return false;
    float *p = ARENA_NEW(a, float, (size_t)3 * (size_t)out->A + 1, e);
    if (!p) return false;
    out->prob = p;
    for (int i = 0; i < out->A; i++) p[i] = 1.0f / (float)out->A;
    out->z[0].prob = p;
    out->z[0].logp = p + out->A;
    out->z[0].logit = p + 2 * out->A;
    for (int s = 0; s < N_STAGES; s++) out->stage_ms[s] = 0.25;
    out->total_ms = 1.25;
    return true;
}

void diagnose_many(const engine *en, kernels *kern, const diagnose_job *job, int n)
{
    pthread_mutex_lock(&fake.lock);
    if (n > fake.together) fake.together = n;
    pthread_mutex_unlock(&fake.lock);
    for (int i = 0; i < n; i++) diagnose(en, kern, job[i].q, job[i].a, job[i].out, job[i].e);
}

bool diagnose_retrieve(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e)
{
    (void)en, (void)kern, (void)q;
    *out = (answer){0};
    return fake_pass(e) && fake_evidence(out, a, e);
}

static const char FAKE_HASH[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

const index_info *index_describe(const passage_index *ix)
{
    static const index_info info = {.dir = "fake",
                                    .retriever_hash = FAKE_HASH,
                                    .factory = "Flat",
                                    .tool_version = "0",
                                    .created = "2026-01-01T00:00:00Z",
                                    .hash = FAKE_HASH,
                                    .format = 1,
                                    .dim = 4,
                                    .n_passages = 9};
    (void)ix;
    return &info;
}

bool index_passage(passage_index *ix, int64_t id, passage *out, arena *a, err *e)
{
    (void)ix, (void)a;
    if (id != 7) return err_at(e, ERR_NOT_FOUND, "passage-unknown", NULL, "the index has no passage of this id");
    *out = (passage){
        .id = 7, .source = "fake", .caption = "a caption", .study = "SECRET-STUDY", .patient = "SECRET-PATIENT"};
    strcpy(out->image_sha256, FAKE_HASH);
    return true;
}

static const uint8_t FAKE_IMAGE[] = "\x89PNG\r\n\x1a\nnot really";

bool index_passage_image(passage_index *ix, int64_t id, const uint8_t **bytes, size_t *n, media_type *type,
                         arena *a, err *e)
{
    (void)ix, (void)a;
    if (id == 8)
        return err_at(e, ERR_FILE, "passage-image-missing", NULL, "passage 8: /srv/pictures/8.png is missing");
    if (id != 7) return err_at(e, ERR_NOT_FOUND, "passage-unknown", NULL, "the index has no passage of this id");
    *bytes = FAKE_IMAGE;
    *n = sizeof FAKE_IMAGE - 1;
    *type = MEDIA_PNG;
    return true;
}

const char *reader_hash(const reader *r) { return (void)r, FAKE_HASH; }
const char *reader_family(const reader *r) { return (void)r, "fake"; }
int64_t     reader_parameters(const reader *r) { return (void)r, 1; }
int         reader_adapters(const reader *r) { return (void)r, 1; }
reader_adapter_info reader_describe_adapter(const reader *r, int i)
{
    return (void)r, (void)i,
           (reader_adapter_info){
               .name = "retina", .hash = FAKE_HASH, .rank = 8, .scale = 2, .parameters = 5, .bytes = 6};
}
bool reader_find_adapter(const reader *r, const char *name, int *adapter, err *e)
{
    (void)r;
    *adapter = name && strcmp(name, "retina") == 0;
    return *adapter || !name || strcmp(name, "none") == 0
        || err_at(e, ERR_UNUSABLE, "adapter-unknown", "adapter", "adapter: this reader has retina");
}
int         reader_max_tokens(const reader *r) { return (void)r, 64; }
void        reader_cache(reader *r, reader_cache_stats *out) { (void)r, *out = (reader_cache_stats){.hits = 3}; }
const char *retriever_hash(const retriever *r) { return (void)r, FAKE_HASH; }
const char *retriever_query_hash(const retriever *r, head h) { return (void)r, (void)h, NULL; }
int64_t     retriever_parameters(const retriever *r) { return (void)r, 1; }
int         retriever_dim(const retriever *r) { return (void)r, 4; }
