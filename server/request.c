#include "server/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "server/multipart.h"

#define Q(member) offsetof(query, member)
#define FOR(task) (1u << (task))
#define ANY_TASK 0, NULL
#define OPEN_ONLY FOR(TASK_OPEN), NULL
#define IMAGE_FIELD {"image", FIELD_IMAGE, true, Q(q.image), 1, 0, 0, NULL, NULL, NULL, NULL, "PNG or JPEG", ANY_TASK}
#define K_FIELD {"k", FIELD_INT, false, Q(q.k), 1, MAX_K, 0, "k-out-of-range", NULL, "2", "2", \
                 "candidates taken from each head; a smaller index gives fewer", ANY_TASK}
#define EXCLUDE_FIELDS \
    {"exclude.study", FIELD_TEXT, false, Q(q.exclude.study), 1, MAX_KEY_BYTES, 0, "field-out-of-range", NULL, NULL, "\"1.2.840.1\"", \
     "leave out passages of this study", ANY_TASK}, \
    {"exclude.patient", FIELD_TEXT, false, Q(q.exclude.patient), 1, MAX_KEY_BYTES, 0, "field-out-of-range", NULL, NULL, "\"P-17\"", \
     "leave out passages of this patient", ANY_TASK}, \
    {"exclude.self", FIELD_BOOL, false, Q(q.exclude_self), 0, 0, 0, NULL, NULL, "false", "true", \
     "leave out passages with exactly the query's pixels", ANY_TASK}
#define DEADLINE_FIELD {"deadline_ms", FIELD_INT, false, Q(deadline_ms), 1, DEADLINE_MS_TOP, 0, "field-out-of-range", NULL, NULL, "5000", \
                        "answer within this time or not at all; counted from the end of the upload", ANY_TASK}

const field DIAGNOSIS_FIELDS[] = {
    IMAGE_FIELD,
    {"question", FIELD_TEXT, true, Q(q.question), 1, MAX_QUESTION_BYTES, 0, "question-too-long", NULL, NULL,
     "\"Does this image show pneumonia?\"", "asked about the image", ANY_TASK},
    {"answers", FIELD_TEXTS, false, Q(answers), 2, MAX_ANSWERS, MAX_ANSWER_BYTES, "answer-too-long", NULL, NULL,
     "[\"Yes\", \"No\"]",
     "the closed set of answers, all different; without answers and labels the question is an open one, answered in words",
     FOR(TASK_CLOSED), "answers-too-many"},
    {"labels", FIELD_TEXTS, false, Q(labels), 1, MAX_LABELS, MAX_LABEL_BYTES, "label-too-long", NULL, NULL,
     "[\"atelectasis\", \"effusion\"]", "each may be present or not: all different", FOR(TASK_LABELS),
     "labels-too-many"},
    K_FIELD,
    {"mode", FIELD_CHOICE, false, Q(mode), 0, 0, 0, "field-out-of-range", "paper|reference", "\"paper\"",
     "\"paper\"", "how answers are scored and fused", ANY_TASK},
    {"adapter", FIELD_TEXT, false, Q(q.adapter), 1, MAX_ADAPTER_NAME, 0, "field-out-of-range", NULL, NULL,
     "\"none\"", "which of the reader's adapters answers (/v1/models lists them); \"none\": the base model alone",
     ANY_TASK},
    {"max_new_tokens", FIELD_INT, false, Q(q.open.max_new_tokens), 1, MAX_NEW_TOKENS, 0, "field-out-of-range", NULL,
     "64", "32", "an open answer ends after so many tokens", OPEN_ONLY},
    {"beams", FIELD_INT, false, Q(q.open.beams), 1, MAX_BEAMS, 0, "field-out-of-range", NULL, "1", "1",
     "of the search for an open answer; 1: greedy", OPEN_ONLY},
    {"repetition_penalty", FIELD_NUMBER, false, Q(q.open.repetition_penalty), 1, MAX_REPETITION_PENALTY, 0,
     "field-out-of-range", NULL, "1", "1.1",
     "divides the logits of tokens that an open answer or its prompt already has; 1: none", OPEN_ONLY},
    {"stream", FIELD_BOOL, false, Q(stream), 0, 0, 0, NULL, NULL, NULL, "false",
     "send an open answer as text/event-stream while it is made; without the field the Accept header decides",
     OPEN_ONLY},
    EXCLUDE_FIELDS,
    DEADLINE_FIELD,
};
const int N_DIAGNOSIS_FIELDS = sizeof DIAGNOSIS_FIELDS / sizeof *DIAGNOSIS_FIELDS;

const field RETRIEVAL_FIELDS[] = {IMAGE_FIELD, K_FIELD, EXCLUDE_FIELDS, DEADLINE_FIELD};
const int   N_RETRIEVAL_FIELDS = sizeof RETRIEVAL_FIELDS / sizeof *RETRIEVAL_FIELDS;

enum { FIELDS_MAX = 16, DEFAULT_K = 2 };
_Static_assert(sizeof DIAGNOSIS_FIELDS / sizeof *DIAGNOSIS_FIELDS <= FIELDS_MAX,
               "a request notes which fields it has seen");

/* Bytes on the heap that were counted against the budget before they were taken. */
typedef struct { char *p; size_t len, cap; } buffer;

struct request {
    const field          *fields;
    int                   n_fields;
    const request_limits *limits;
    body_type             type;
    size_t                received, charged;
    buffer                body;  /* JSON: all of it. Multipart: the image. */
    size_t                look_at; /* the image's size is looked for when so much of it has come */
    multipart             parts;
    const field          *open;  /* the part under way; NULL: none */
    buffer                value; /* of that part, but for the image */
    bool                  seen[FIELDS_MAX];
    query                 out;
    arena                *a;     /* texts, and a decoded image */
    char                  unknown[FIELD_NAME_BYTES];
    err                   failed;
};

body_type request_body_type(const char *content_type)
{
    if (!content_type) return BODY_OTHER;
    if (header_is(content_type, "application/json")) return BODY_JSON;
    return header_is(content_type, "multipart/form-data") ? BODY_MULTIPART : BODY_OTHER;
}

/* ---- memory ---- */

static bool charge(request *r, size_t n, err *e)
{
    body_budget *b = r->limits->budget;
    size_t       before = atomic_fetch_add(&b->used, n);
    if (before + n <= b->limit) {
        r->charged += n;
        return true;
    }
    atomic_fetch_sub(&b->used, n);
    return err_set(e, ERR_BUSY, "the server holds as many request bodies as it may");
}

static void uncharge(request *r, size_t n)
{
    atomic_fetch_sub(&r->limits->budget->used, n);
    r->charged -= n;
}

/* Append, doubling, so that a body in single bytes costs no more copies than one in a piece. */
static bool buffer_add(request *r, buffer *b, const char *p, size_t n, err *e)
{
    if (n > b->cap - b->len) {
        size_t cap = b->cap ? b->cap * 2 : 4096;
        while (cap < b->len + n) cap *= 2;
        if (!charge(r, cap - b->cap, e)) return false;
        char *grown = mem_realloc(b->p, cap);
        if (!grown) {
            uncharge(r, cap - b->cap);
            return err_set(e, ERR_MEMORY, "out of memory while reading a request body");
        }
        b->p = grown;
        b->cap = cap;
    }
    if (n) memcpy(b->p + b->len, p, n);
    b->len += n;
    return true;
}

void request_free(request *r)
{
    if (!r) return;
    uncharge(r, r->charged);
    free(r->body.p);
    free(r->value.p);
    arena_free(r->a);
    free(r);
}

/* ---- one field's value, whichever way it came ---- */

static bool wrong_type(const field *f, const char *wanted, err *e)
{
    return err_at(e, ERR_INPUT, "field-type", f->name, "%s must be %s", f->name, wanted);
}

static bool set_text(request *r, const field *f, const char *s, size_t n, err *e)
{
    if (memchr(s, 0, n))
        return err_at(e, ERR_UNUSABLE, "field-out-of-range", f->name, "%s holds a zero byte", f->name);
    if (!utf8_valid(s, n)) return err_at(e, ERR_UNUSABLE, "text-not-utf8", f->name, "%s is not valid UTF-8", f->name);
    if (n == 0 && f->required) return err_at(e, ERR_INPUT, "field-missing", f->name, "%s is empty", f->name);
    if ((int64_t)n < f->min || (int64_t)n > f->max)
        return err_at(e, ERR_UNUSABLE, f->problem, f->name, "%s has %zu bytes, %lld to %lld are taken", f->name, n,
                      (long long)f->min, (long long)f->max);
    char *copy = arena_strndup(r->a, s, n, e);
    *(const char **)((char *)&r->out + f->offset) = copy;
    return copy != NULL;
}

static text_list *texts_of(request *r, const field *f) { return (text_list *)((char *)&r->out + f->offset); }

static bool add_text(request *r, const field *f, const char *s, size_t n, err *e)
{
    text_list *t = texts_of(r, f);
    int        i = t->n;
    if (i == f->max)
        return err_at(e, ERR_UNUSABLE, f->too_many, f->name, "%s: more than %d given", f->name, (int)f->max);
    if ((int64_t)n > f->item_max)
        return err_at(e, ERR_UNUSABLE, f->problem, f->name, "%s[%d] has %zu bytes, at most %lld are taken", f->name,
                      i, n, (long long)f->item_max);
    if (memchr(s, 0, n))
        return err_at(e, ERR_UNUSABLE, "field-out-of-range", f->name, "%s[%d] holds a zero byte", f->name, i);
    if (!utf8_valid(s, n))
        return err_at(e, ERR_UNUSABLE, "text-not-utf8", f->name, "%s[%d] is not valid UTF-8", f->name, i);
    t->item[i] = arena_strndup(r->a, s, n, e);
    if (!t->item[i]) return false;
    t->n++;
    return true;
}

static bool add_texts(request *r, const field *f, const json_t *list, err *e)
{
    if (!json_is_array(list)) return wrong_type(f, "an array of strings", e);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *s = json_array_get(list, i);
        if (!json_is_string(s)) return wrong_type(f, "an array of strings", e);
        if (!add_text(r, f, json_string_value(s), json_string_length(s), e)) return false;
    }
    return true;
}

static bool set_int(request *r, const field *f, int64_t v, err *e)
{
    int64_t max = strcmp(f->name, "deadline_ms") == 0 ? r->limits->deadline_max_ms : f->max;
    if (v < f->min || v > max)
        return err_at(e, ERR_UNUSABLE, f->problem, f->name, "%s is outside %lld to %lld", f->name,
                      (long long)f->min, (long long)max);
    *(int *)((char *)&r->out + f->offset) = (int)v;
    return true;
}

static bool set_number(request *r, const field *f, double v, err *e)
{
    if (!(v >= (double)f->min && v <= (double)f->max)) /* also when it is no number */
        return err_at(e, ERR_UNUSABLE, f->problem, f->name, "%s is outside %lld to %lld", f->name,
                      (long long)f->min, (long long)f->max);
    *(double *)((char *)&r->out + f->offset) = v;
    return true;
}

static bool set_choice(request *r, const field *f, const char *s, err *e)
{
    score_mode m;
    if (!mode_parse(&m, s))
        return err_at(e, ERR_UNUSABLE, f->problem, f->name, "%s is none of %s", f->name, f->choices);
    *(int *)((char *)&r->out + f->offset) = (int)m;
    return true;
}

static void set_bool(request *r, const field *f, bool v) { *(bool *)((char *)&r->out + f->offset) = v; }

/* ---- names ---- */

static bool plain(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n < FIELD_NAME_BYTES
           && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == n;
}

static bool refuse_unknown(request *r, const char *name, err *e)
{
    if (plain(name)) snprintf(r->unknown, sizeof r->unknown, "%s", name);
    return err_at(e, ERR_INPUT, "field-unknown", NULL, "a field of this name is not taken here");
}

static const field *find_field(const request *r, const char *name)
{
    for (int i = 0; i < r->n_fields; i++)
        if (strcmp(r->fields[i].name, name) == 0) return &r->fields[i];
    return NULL;
}

static bool see(request *r, const field *f, err *e)
{
    bool *seen = &r->seen[f - r->fields];
    if (*seen) return err_at(e, ERR_INPUT, "field-duplicate", f->name, "%s was given twice", f->name);
    return *seen = true;
}

/* ---- JSON ---- */

static bool take_json_value(request *r, const field *f, const json_t *v, err *e)
{
    if (!see(r, f, e)) return false;
    switch (f->type) {
    case FIELD_IMAGE: {
        uint8_t *bytes;
        size_t   n;
        if (!json_is_string(v)) return wrong_type(f, "a base64 string", e);
        if (!base64_decode(&bytes, &n, json_string_value(v), json_string_length(v), f->name, r->a, e)) return false;
        r->out.q.image = bytes;
        r->out.q.image_bytes = n;
        return true;
    }
    case FIELD_TEXT:
        return json_is_string(v) ? set_text(r, f, json_string_value(v), json_string_length(v), e)
                                 : wrong_type(f, "a string", e);
    case FIELD_TEXTS: return add_texts(r, f, v, e);
    case FIELD_INT:
        return json_is_integer(v) ? set_int(r, f, json_integer_value(v), e) : wrong_type(f, "a whole number", e);
    case FIELD_NUMBER:
        return json_is_number(v) ? set_number(r, f, json_number_value(v), e) : wrong_type(f, "a number", e);
    case FIELD_BOOL:
        if (!json_is_boolean(v)) return wrong_type(f, "true or false", e);
        set_bool(r, f, json_is_true(v));
        return true;
    case FIELD_CHOICE:
        return json_is_string(v) ? set_choice(r, f, json_string_value(v), e) : wrong_type(f, "a string", e);
    }
    return true;
}

/* The members of o; those of an inner object have names with its own and a dot before. */
static bool take_json_members(request *r, const char *prefix, const json_t *o, err *e)
{
    const char *key;
    json_t     *v;
    json_object_foreach((json_t *)o, key, v) {
        char name[FIELD_NAME_BYTES + 8];
        int  n = snprintf(name, sizeof name, "%s%s", prefix, key);
        if (n >= (int)sizeof name) return refuse_unknown(r, "", e);
        const field *f = find_field(r, name);
        if (!f && !*prefix && strcmp(key, "exclude") == 0) {
            if (!json_is_object(v)) return err_at(e, ERR_INPUT, "field-type", "exclude", "exclude must be an object");
            if (!take_json_members(r, "exclude.", v, e)) return false;
            continue;
        }
        /* in JSON the dotted name itself is no field */
        if (!f || (!*prefix && strchr(key, '.'))) return refuse_unknown(r, name, e);
        if (!take_json_value(r, f, v, e)) return false;
    }
    return true;
}

/* jansson stops just behind the second key: name it if it is one of ours. The text of its error quotes the body. */
static const char *duplicate_name(const request *r, size_t at)
{
    const char *s = r->body.p;
    for (int i = 0; i < r->n_fields; i++) {
        const char *name = r->fields[i].name, *dot = strchr(name, '.');
        const char *last = dot ? dot + 1 : name;
        size_t      n = strlen(last);
        if (at >= n + 2 && at <= r->body.len && s[at - 1] == '"' && s[at - n - 2] == '"'
            && memcmp(s + at - n - 1, last, n) == 0)
            return name;
    }
    return NULL;
}

static bool json_refused(const request *r, const json_error_t *j, err *e)
{
    switch (json_error_code(j)) {
    case json_error_stack_overflow:
        return err_at(e, ERR_INPUT, "json-too-deep", NULL, "the JSON body is nested too deeply");
    case json_error_duplicate_key:
        return err_at(e, ERR_INPUT, "field-duplicate", duplicate_name(r, (size_t)j->position),
                      "a key occurs twice in one JSON object");
    default: return err_at(e, ERR_INPUT, "json-malformed", NULL, "JSON: line %d, column %d", j->line, j->column);
    }
}

static bool finish_json(request *r, err *e)
{
    json_error_t j = {0};
    /* jansson keeps up to twice the longest string while it reads it; that counts too */
    size_t extra = 2 * r->body.len;
    if (!charge(r, extra, e)) return false;
    json_ran_out();
    json_t *root = json_loadb(r->body.p ? r->body.p : "", r->body.len, JSON_REJECT_DUPLICATES, &j);
    bool ok = json_ran_out() ? err_set(e, ERR_MEMORY, "out of memory while parsing JSON")
              : root         ? json_is_object(root)
                           || err_at(e, ERR_INPUT, "json-malformed", NULL, "the JSON body is not an object")
                     : json_refused(r, &j, e);
    ok = ok && take_json_members(r, "", root, e);
    json_decref(root);
    uncharge(r, extra);
    free(r->body.p); /* its charge stays: the decoded image took its place */
    r->body = (buffer){0};
    return ok;
}

/* ---- multipart ---- */

static bool part_begin(void *ctx, const char *name, err *e)
{
    request     *r = ctx;
    const field *f = find_field(r, name);
    if (!f) return refuse_unknown(r, name, e);
    bool again = f->type == FIELD_TEXTS && r->seen[f - r->fields] && !texts_of(r, f)->was_array;
    if (!again && !see(r, f, e)) return false;
    r->open = f;
    r->value.len = 0;
    return true;
}

/* How long a text part may be before it is refused without being read on. */
static size_t part_limit(const field *f)
{
    switch (f->type) {
    case FIELD_TEXTS:
        return (size_t)f->max * ((size_t)f->item_max * 6 + 8); /* as a JSON array with every byte escaped */
    case FIELD_TEXT: return (size_t)f->max;
    default: return 64;
    }
}

/* A picture over the limits is refused when the header that says so has come, not when all of it has. A PNG's is its
 * first bytes; a JPEG's may stand far behind, so it is looked for each time twice as much has come: what is read
 * again is at most what was received. Any other fault may be one of what is still to come: request_finish() tells. */
static bool image_admitted(request *r, err *e)
{
    int w, h;
    err look = {0};
    if (r->body.len < r->look_at) return true;
    bool sized = image_peek(&w, &h, r->body.p, r->body.len, &r->limits->image, &look);
    r->look_at = sized ? SIZE_MAX : 2 * r->body.len;
    return look.code != ERR_TOO_LARGE || (*e = look, false);
}

static bool part_data(void *ctx, const char *p, size_t n, err *e)
{
    request     *r = ctx;
    const field *f = r->open;
    if (f->type == FIELD_IMAGE) return buffer_add(r, &r->body, p, n, e) && image_admitted(r, e);
    if (r->value.len + n > part_limit(f))
        return err_at(e, ERR_UNUSABLE, f->problem ? f->problem : "field-out-of-range", f->name,
                      "%s is longer than %zu bytes", f->name, part_limit(f));
    return buffer_add(r, &r->value, p, n, e);
}

static bool take_texts_part(request *r, const field *f, const char *s, size_t n, err *e)
{
    text_list *t = texts_of(r, f);
    if (*s != '[' || t->n > 0) return add_text(r, f, s, n, e);
    json_ran_out();
    json_t *list = json_loadb(s, n, 0, NULL);
    if (json_ran_out()) {
        json_decref(list);
        return err_set(e, ERR_MEMORY, "out of memory while parsing JSON");
    }
    if (!list)
        return err_at(e, ERR_INPUT, "json-malformed", f->name, "%s begins with [ but is not a JSON array", f->name);
    t->was_array = true;
    bool ok = add_texts(r, f, list, e);
    json_decref(list);
    return ok;
}

static bool take_number_part(request *r, const field *f, const char *s, err *e)
{
    char  *end;
    double v = strtod(s, &end);
    /* strtod takes more than JSON does: blanks, hexadecimal, names of what is no number */
    if (!(*s == '-' || (*s >= '0' && *s <= '9')) || *end || s[strspn(s, "0123456789.eE+-")])
        return wrong_type(f, "a number", e);
    return set_number(r, f, v, e);
}

static bool part_end(void *ctx, err *e)
{
    request     *r = ctx;
    const field *f = r->open;
    r->open = NULL;
    if (f->type == FIELD_IMAGE) return true;
    if (!buffer_add(r, &r->value, "", 1, e)) return false;
    const char *s = r->value.p;
    size_t      n = r->value.len - 1;
    switch (f->type) {
    case FIELD_TEXT: return set_text(r, f, s, n, e);
    case FIELD_TEXTS: return take_texts_part(r, f, s, n, e);
    case FIELD_INT: {
        size_t sign = *s == '-';
        if (n == sign || n > 18 || strspn(s + sign, "0123456789") != n - sign)
            return wrong_type(f, "a whole number", e);
        return set_int(r, f, strtoll(s, NULL, 10), e);
    }
    case FIELD_NUMBER: return strlen(s) == n ? take_number_part(r, f, s, e) : wrong_type(f, "a number", e);
    case FIELD_BOOL: {
        bool yes = strcmp(s, "true") == 0;
        if (!yes && strcmp(s, "false") != 0) return wrong_type(f, "true or false", e);
        set_bool(r, f, yes);
        return true;
    }
    default: return set_choice(r, f, s, e);
    }
}

static const multipart_sink SINK = {part_begin, part_data, part_end};

/* ---- the whole ---- */

bool request_new(request **out, const field *fields, int n_fields, const char *content_type,
                 const request_limits *limits, err *e)
{
    request *r = mem_zalloc(1, sizeof *r);
    if (!r || !(r->a = arena_new(0))) {
        free(r);
        return err_set(e, ERR_MEMORY, "out of memory for a request");
    }
    *r = (request){.fields = fields,
                   .n_fields = n_fields,
                   .limits = limits,
                   .type = request_body_type(content_type),
                   .a = r->a};
    r->out = (query){.q = {.k = DEFAULT_K}, .mode = MODE_PAPER, .deadline_ms = limits->deadline_ms};
    if (r->type == BODY_MULTIPART && !multipart_init(&r->parts, content_type, &SINK, r, e)) {
        request_free(r);
        return false;
    }
    *out = r;
    return true;
}

bool request_feed(request *r, const char *p, size_t n, err *e)
{
    if (n > r->limits->body_bytes - r->received)
        return err_at(e, ERR_TOO_LARGE, "body-too-large", NULL, "the body is larger than the limit of %zu bytes",
                      r->limits->body_bytes);
    r->received += n;
    bool ok = !r->failed.code
              && (r->type == BODY_JSON ? buffer_add(r, &r->body, p, n, &r->failed)
                                       : multipart_feed(&r->parts, p, n, &r->failed));
    return ok || (*e = r->failed, false);
}

static const field *given(const request *r, const char *name)
{
    const field *f = find_field(r, name);
    return f && r->seen[f - r->fields] ? f : NULL;
}

bool request_streams(const request *r, bool otherwise) { return given(r, "stream") ? r->out.stream : otherwise; }

static bool all_there(const request *r, err *e)
{
    for (int i = 0; i < r->n_fields; i++)
        if (r->fields[i].required && !r->seen[i])
            return err_at(e, ERR_INPUT, "field-missing", r->fields[i].name, "%s is missing", r->fields[i].name);
    return true;
}

/* What was given must be for one kind of question. */
static bool agree(request *r, err *e)
{
    static const char *const because[] = {[TASK_CLOSED] = "answers", [TASK_LABELS] = "labels"};
    task_kind                kind = given(r, "answers") ? TASK_CLOSED : given(r, "labels") ? TASK_LABELS : TASK_OPEN;
    for (int i = 0; i < r->n_fields; i++) {
        const field *f = &r->fields[i];
        bool         off = f->type == FIELD_BOOL && !*(bool *)((char *)&r->out + f->offset);
        if (r->seen[i] && f->tasks && !(f->tasks & FOR(kind)) && !off)
            return err_at(e, ERR_UNUSABLE, "field-conflict", f->name, "%s is not taken together with %s", f->name,
                          because[kind]);
    }
    return true;
}

/* A list that was given stays one when nothing is in it: it must not turn into a question of another kind. */
static void fill_query(request *r, double now_ms)
{
    query *o = &r->out;
    o->q.answers = given(r, "answers") ? o->answers.item : NULL;
    o->q.n_answers = o->answers.n;
    o->q.labels = given(r, "labels") ? o->labels.item : NULL;
    o->q.n_labels = o->labels.n;
    o->q.mode = (score_mode)o->mode;
    o->q.deadline_at = now_ms + o->deadline_ms;
}

bool request_finish(request *r, bool diagnosis, double now_ms, err *e)
{
    int w, h;
    if (r->failed.code) return *e = r->failed, false;
    if (r->type == BODY_MULTIPART) {
        if (!multipart_end(&r->parts, e)) return false;
        r->out.q.image = (const uint8_t *)r->body.p;
        r->out.q.image_bytes = r->body.len;
    } else if (!finish_json(r, e)) return false;
    fill_query(r, now_ms);
    if (!all_there(r, e) || !agree(r, e)) return false;
    if (r->out.q.image_bytes == 0) return err_at(e, ERR_INPUT, "field-missing", "image", "image is empty");
    if (diagnosis && !diagnose_check(&r->out.q, e)) return false;
    /* the size that the header claims, before a worker spends anything on it */
    return image_peek(&w, &h, r->out.q.image, r->out.q.image_bytes, &r->limits->image, e);
}

const diagnose_request *request_query(const request *r) { return &r->out.q; }
size_t                  request_bytes(const request *r) { return r->received; }
const char             *request_unknown_field(const request *r) { return r->unknown[0] ? r->unknown : NULL; }
