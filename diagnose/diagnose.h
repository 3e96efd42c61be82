/* diagnose.h - one request, start to end: image and question in, the marginalised answer with its evidence out.
 *     p(a|q) = sum_k p(a | z_k o q) p_R(z_k | q)            [Mazor and Hope, arXiv 2508.17394, inference equation]
 * Research use only: every answer says so (RESEARCH_USE). */
#ifndef JOMED_DIAGNOSE_DIAGNOSE_H
#define JOMED_DIAGNOSE_DIAGNOSE_H

#include "base/arena.h"
#include "index/index.h"
#include "reader/reader.h"
#include "retriever/retriever.h"

extern const char RESEARCH_USE[];  /* "For research use only. Not for diagnostic procedures." */
extern const char JOMED_VERSION[]; /* "0.1.0" */

typedef enum { MODE_PAPER, MODE_REFERENCE } score_mode; /* design.md section 4 */
bool        mode_parse(score_mode *out, const char *name);
const char *mode_name(score_mode m);

enum { MAX_ANSWERS = 64, MAX_ANSWER_BYTES = 1000, MAX_QUESTION_BYTES = 8000, MAX_K = 50, MAX_KEY_BYTES = 256 };
enum {
    MAX_LABELS = 64,
    MAX_LABEL_BYTES = 200,
    MAX_NEW_TOKENS = 512,
    DEFAULT_NEW_TOKENS = 64,
    MAX_BEAMS = 8,
    MAX_REPETITION_PENALTY = 10
};

/* The models and the index, opened once and shared by all workers. engine.h opens one. */
typedef struct {
    retriever     *retriever;
    reader        *reader;
    passage_index *index;
    float          tau;
    image_limits   limits;
    image_policy   policy;
    int            adapter; /* of requests that name none, as reader.h counts them */
} engine;

/* What is asked for: one of a closed set of answers, text of the reader's own, or which labels of a list are
 * present. */
typedef enum { TASK_CLOSED, TASK_OPEN, TASK_LABELS } task_kind;

/* How an open answer is decoded; zeros are the defaults. */
typedef struct {
    int    max_new_tokens;     /* 0: DEFAULT_NEW_TOKENS */
    int    beams;              /* 0 or 1: greedy */
    double repetition_penalty; /* 0 or 1: none */
    /* Called with the text of each emitted token as soon as it is whole UTF-8 (n bytes, not NUL-terminated);
     * false stops with the error it set (a client that vanished). NULL: nobody waits for it. With beams it is
     * called once, at the end. */
    bool (*on_text)(void *ctx, const char *text, size_t n, err *e);
    void  *on_text_ctx;
} open_options;

typedef struct {
    const uint8_t     *image;      /* PNG or JPEG */
    size_t             image_bytes;
    const char        *question;
    const char *const *answers;
    int                n_answers;  /* 0 and no labels: an open question */
    const char *const *labels;     /* each may be present or not; excludes answers */
    int                n_labels;
    open_options       open;
    int                k;          /* per head */
    score_mode         mode;
    const char        *adapter;    /* the reader's; "none": the base model alone; NULL: the engine's default */
    exclusion          exclude;
    bool               exclude_self; /* leave out passages with exactly the query's pixels */
    double             deadline_at;  /* clock_ms(); 0: none */
    vision_cache      *vision;       /* the worker's own, for several questions about one picture; NULL: none */
} diagnose_request;

typedef enum { STAGE_DECODE, STAGE_RETRIEVE, STAGE_PASSAGES, STAGE_READ, STAGE_FUSE, N_STAGES } stage;
extern const char *const STAGE_NAME[N_STAGES];

/* An open answer: text of the reader's own. How it comes about, and what its numbers are in either mode: reader.h. */
typedef struct {
    const char    *text;     /* UTF-8; special tokens are left out, bytes that are no UTF-8 and U+0000 are U+FFFD */
    const int32_t *token;    /* [n_tokens] emitted, special ones among them; the end token is not */
    int            n_tokens;
    bool           ended;    /* by an end token; false: max_new_tokens were spent, and the text may be cut off */
    float          logp;     /* fused log-likelihood, the end token's included where one ended it */
} open_answer;

/* What one retrieved pair says. Strings and arrays live in the request's arena. Fields of other tasks are zero. */
typedef struct {
    candidate   c;
    passage     p;
    float      *logp;   /* [A] */
    float      *logit;  /* [A] */
    float      *prob;   /* [A] softmax over the closed set, in the request's mode */
    int         answer; /* argmax of prob */
    float       open_logp; /* open: log-likelihood of the emitted answer given this pair alone */
    bool        agrees;    /* open: this pair's likeliest token was the emitted one at every step, the end
                              included: by itself it would have given the same answer */
    float      *label_prob; /* labels: [L] p_k(label). logp and logit are then [L,2], of LABEL_ANSWERS */
} evidence;

typedef struct {
    task_kind task;
    int       A, K;
    float    *prob;             /* [A] p(a|q) */
    int       answer;           /* argmax; ties go to the first */
    evidence *z;                /* [K] */
    open_answer open;
    int       L;                /* labels: as many as the request has */
    float    *label_prob;       /* [L] p(label|q), each of its own between 0 and 1 */
    bool      consistent;       /* all candidates have the same argmax; open: all agree; labels: the same set */
    float     entropy;          /* of prob, nats; labels: summed over them */
    float     agreement;        /* share of p_R behind candidates whose argmax is the answer; open: that agree;
                                   labels: whose set is the answer's */
    bool      end_token;
    int       n_cached, prompt_tokens;
    int       adapter;          /* that answered */
    bool      clipped;          /* of the query's image: see image.h. The answer is one to other pixels than meant */
    uint64_t  flops;
    double    stage_ms[N_STAGES], total_ms;
} answer;

task_kind diagnose_task(const diagnose_request *q); /* told by its fields: labels, answers or neither */

/* Check what does not need a model: question, answers, k, image bytes present. All errors name the field. */
bool diagnose_check(const diagnose_request *q, err *e);

/* Answer one request. One kernels and one arena per worker; all that is made lives in a. */
bool diagnose(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e);

/* Answer n requests, at most MAX_TOGETHER, whose candidates are read in the same packed passes: each to the
 * bits that it has alone, with its own arena, deadline and outcome. *e is ERR_NONE and *out set, or *e says
 * why; only a device that failed, or had no memory for a pass, takes others along. Stages' times are from one's
 * begin to the next's, so they hold what the others did meanwhile. */
enum { MAX_TOGETHER = 32 };
typedef struct { const diagnose_request *q; arena *a; answer *out; err *e; } diagnose_job;
void diagnose_many(const engine *en, kernels *kern, const diagnose_job *job, int n);

/* Only the retrieval half: candidates with their passages (logp, logit and prob stay NULL). */
bool diagnose_retrieve(const engine *en, kernels *kern, const diagnose_request *q, arena *a, answer *out, err *e);

/* fuse.c - equations of design.md section 4, on plain arrays; exposed for tests and eval.
 *   paper:      p_k(a) = softmax_a(logp[k]);   prob = sum_k p_r_k p_k
 *   reference:  p_k(a) = softmax_a(logit[k]);  prob = softmax_a(sum_k p_r_k logit[k])
 * id [K] distinct: sums run in ascending id, so the bits do not depend on the candidates' order.
 * p_r [K], p_R(z_k|q), sums to one; logp, logit [K,A] (the one the mode does not use may be NULL); each [K,A],
 * prob [A] are written. */
void fuse(score_mode m, int K, int A, const int64_t *id, const float *p_r, const float *logp, const float *logit,
          float *each, float *prob);
int  argmax(const float *x, int n); /* the first of the largest */

/* labels.c - each label is a closed question of its own, answered with one of these two; which of them are
 * present. */
extern const char *const LABEL_ANSWERS[2]; /* "Yes", "No" */
static inline bool label_present(float prob) { return prob > 0.5f; }

#endif
