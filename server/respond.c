#include "server/respond.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

const char PROBLEM_PREFIX[] = "urn:jomed:problem:";

/* Every problem type there is. code: the err_code whose default this is (errors without a slug of their own).
 * own: our failure, whose text may name files and stays in the log. docs/API.md explains each; a test
 * compares. */
typedef struct { const char *slug; int status; err_code code; bool own; const char *title; } problem;
static const problem PROBLEMS[] = {
    /* the request's form */
    {"invalid-request", 400, ERR_INPUT, false, "The request is malformed"},
    {"json-malformed", 400, ERR_NONE, false, "The body is not valid JSON"},
    {"json-too-deep", 400, ERR_NONE, false, "The JSON body is nested too deeply"},
    {"multipart-malformed", 400, ERR_NONE, false, "The multipart body is malformed"},
    {"base64-malformed", 400, ERR_NONE, false, "The field is not valid base64"},
    {"field-missing", 400, ERR_NONE, false, "A required field is missing"},
    {"field-unknown", 400, ERR_NONE, false, "A field of this name is not taken"},
    {"field-duplicate", 400, ERR_NONE, false, "A field was given twice"},
    {"field-type", 400, ERR_NONE, false, "A field has the wrong type"},
    {"header-conflict", 400, ERR_NONE, false,
     "Headers that frame the request are repeated, conflicting or malformed"},
    {"body-unexpected", 400, ERR_NONE, false, "This request takes no body"},
    {"not-found", 404, ERR_NOT_FOUND, false, "There is no such resource"},
    {"passage-unknown", 404, ERR_NONE, false, "The index has no passage of this id"},
    {"method-not-allowed", 405, ERR_NONE, false, "The resource does not take this method"},
    {"not-acceptable", 406, ERR_NONE, false, "The Accept header excludes the media type of this answer"},
    {"request-timeout", 408, ERR_NONE, false, "The request took too long to arrive"},
    {"length-required", 411, ERR_NONE, false, "A body with Content-Length or chunked coding is required"},
    {"body-too-large", 413, ERR_TOO_LARGE, false, "The body is larger than the limit"},
    {"media-type-unsupported", 415, ERR_UNSUPPORTED, false, "The media type of the body is not taken"},
    {"encoding-unsupported", 415, ERR_NONE, false, "Compressed bodies are not taken"},
    {"expectation-failed", 417, ERR_NONE, false, "Only 100-continue can be expected"},
    {"headers-too-many", 431, ERR_NONE, false, "The request has too many header fields"},
    /* well formed, but nothing can be done with it */
    {"unusable", 422, ERR_UNUSABLE, false, "The request is well formed but cannot be used"},
    {"field-out-of-range", 422, ERR_NONE, false, "A field's value or length is outside its bounds"},
    {"field-conflict", 422, ERR_NONE, false, "Two fields belong to different kinds of question"},
    {"image-unsupported", 415, ERR_NONE, false, "The image is neither PNG nor JPEG"},
    {"image-too-large", 413, ERR_NONE, false, "The image has more pixels than the limit"},
    {"image-too-small", 422, ERR_NONE, false, "The image is too small"},
    {"image-undecodable", 422, ERR_NONE, false, "The image is truncated or corrupt"},
    {"image-aspect", 422, ERR_NONE, false, "The image is too long and narrow"},
    {"question-too-long", 422, ERR_NONE, false, "The question is too long"},
    {"answers-too-few", 422, ERR_NONE, false, "A closed question needs at least two answers"},
    {"answers-too-many", 422, ERR_NONE, false, "There are more answers than the limit"},
    {"answer-empty", 422, ERR_NONE, false, "An answer is empty"},
    {"answer-too-long", 422, ERR_NONE, false, "An answer is too long"},
    {"answer-duplicate", 422, ERR_NONE, false, "Two answers are the same"},
    {"labels-too-few", 422, ERR_NONE, false, "There are no labels"},
    {"labels-too-many", 422, ERR_NONE, false, "There are more labels than the limit"},
    {"label-empty", 422, ERR_NONE, false, "A label is empty"},
    {"label-too-long", 422, ERR_NONE, false, "A label is too long"},
    {"label-duplicate", 422, ERR_NONE, false, "Two labels are the same"},
    {"labels-too-long", 422, ERR_NONE, false, "The labels together have too many tokens"},
    {"text-not-utf8", 422, ERR_NONE, false, "A text is not valid UTF-8"},
    {"k-out-of-range", 422, ERR_NONE, false, "k is outside its bounds"},
    {"answers-too-long", 422, ERR_NONE, false, "The answers together have too many tokens"},
    {"text-too-complex", 422, ERR_NONE, false, "A text takes too many steps to split into tokens"},
    {"prompt-too-long", 422, ERR_NONE, false, "The prompt is longer than the reader takes"},
    {"adapter-unknown", 422, ERR_NONE, false, "The reader has no adapter of this name"},
    {"no-candidates", 422, ERR_NONE, false, "The exclusions leave no passage to retrieve"},
    /* the server's state */
    {"passage-image-missing", 500, ERR_NONE, true, "The index has lost the image of a passage"},
    {"passage-image-undecodable", 500, ERR_NONE, true, "The index holds an image that cannot be decoded"},
    {"server-data", 500, ERR_FILE, true, "A file of the server is missing or damaged"},
    {"internal", 500, ERR_BUG, true, "The server failed; the log has the reason under this request's id"},
    {"busy", 503, ERR_BUSY, false, "The server has as much work as it can hold"},
    {"draining", 503, ERR_NONE, false, "The server is shutting down"},
    {"out-of-memory", 503, ERR_MEMORY, true, "The server has no memory left for this request"},
    {"device-failed", 503, ERR_GPU, true, "The compute device failed"},
    {"deadline-passed", 504, ERR_DEADLINE, false, "The deadline passed before the answer was made"},
};
enum { N_PROBLEMS = sizeof PROBLEMS / sizeof *PROBLEMS };

const char *problem_at(int i, int *status, const char **title)
{
    if (i < 0 || i >= N_PROBLEMS) return NULL;
    *status = PROBLEMS[i].status;
    *title = PROBLEMS[i].title;
    return PROBLEMS[i].slug;
}

static const problem *by_slug(const char *slug)
{
    for (int i = 0; slug && i < N_PROBLEMS; i++)
        if (strcmp(PROBLEMS[i].slug, slug) == 0) return &PROBLEMS[i];
    return NULL;
}

static const problem *by_code(err_code code)
{
    for (int i = 0; i < N_PROBLEMS; i++)
        if (PROBLEMS[i].code == code && code != ERR_NONE) return &PROBLEMS[i];
    return by_slug("internal"); /* ERR_USAGE, or a code nobody set: our own mistake */
}

void response_free(response *r)
{
    free(r->body);
    r->body = NULL;
}

/* s as a JSON string into at[0..room), cut between characters where it does not fit. Returns the bytes written.
 * Texts are ours and ASCII but for file names, so bytes outside of it are shown as '?' rather than trusted to
 * be UTF-8. */
static size_t put_string(char *at, size_t room, const char *s)
{
    size_t n = 0;
    if (room < 3) return 0;
    at[n++] = '"';
    for (; *s && n + 3 < room; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') at[n++] = '\\';
        at[n++] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
    }
    at[n++] = '"';
    return n;
}

/* One member; room is kept for what must follow, so the object always closes. */
static void put_member(response *r, const char *key, const char *value)
{
    enum { TAIL = 4 };
    size_t left = sizeof r->small - r->bytes - TAIL;
    if (!value || left < strlen(key) + 16) return;
    int n = snprintf(r->small + r->bytes, left, ",\"%s\":", key);
    r->bytes += (size_t)n;
    r->bytes += put_string(r->small + r->bytes, left - (size_t)n, value);
}

static void write_problem(response *r, const problem *p, const char *detail, const char *field,
                          const char *request_id)
{
    response_free(r);
    r->status = p->status;
    r->media = "application/problem+json";
    r->problem = p->slug;
    r->bytes = (size_t)snprintf(r->small, sizeof r->small, "{\"type\":\"%s%s\",\"status\":%d", PROBLEM_PREFIX,
                                p->slug, p->status);
    put_member(r, "title", p->title);
    put_member(r, "instance", request_id);
    put_member(r, "field", field);
    put_member(r, "detail", p->own ? NULL : detail);
    r->small[r->bytes++] = '}';
}

void respond_err(response *r, const err *e, const char *field, const char *request_id)
{
    const problem *p = by_slug(e->problem);
    /* A slug that another folder made and this table lacks still gets the status of its code. */
    problem other = *by_code(e->code);
    if (!p && e->problem) other.slug = e->problem;
    write_problem(r, p ? p : &other, e->text[0] ? e->text : NULL, field ? field : e->field, request_id);
}

void respond_problem(response *r, const char *slug, const char *detail, const char *request_id)
{
    const problem *p = by_slug(slug);
    write_problem(r, p ? p : by_code(ERR_BUG), detail, NULL, request_id);
}

void respond_body(response *r, int status, const char *media, char *body, size_t bytes)
{
    response_free(r);
    r->status = status;
    r->media = media;
    r->problem = NULL;
    r->body = body;
    r->bytes = bytes;
}

void respond_json(response *r, int status, json_t *body, const char *request_id)
{
    /* 17 digits would give back doubles; what is printed comes from f32, which 9 digits give back exactly */
    char *s = body ? json_dumps(body, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(body);
    if (!s) {
        err e = {.code = ERR_MEMORY};
        respond_err(r, &e, NULL, request_id);
        return;
    }
    respond_body(r, status, "application/json", s, strlen(s));
}

size_t response_raw(const response *r, const char *request_id, char *out, size_t size)
{
    const char *reason = r->status == 408   ? "Request Timeout"
                         : r->status == 413 ? "Content Too Large"
                                            : "Service Unavailable";
    char        retry[40] = "";
    if (r->retry_after_s > 0) snprintf(retry, sizeof retry, "Retry-After: %d\r\n", r->retry_after_s);
    int n = snprintf(
        out, size,
        "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\nConnection: close\r\n"
        "X-Request-Id: %s\r\n%s\r\n%.*s",
        r->status, reason, r->media, r->bytes, request_id, retry, (int)r->bytes, r->body ? r->body : r->small);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}
