/* dataset.c - see dataset.h: the JSONL kind, and the choice between the three. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "eval/case.h"
#include "eval/medmnist.h"
#include "eval/vqa.h"

enum { LINE_BYTES = 1 << 20 };

typedef struct { size_t at, bytes, number; } line;

struct dataset {
    char            *name;
    const eval_task *task;
    medmnist        *medmnist; /* one of these two, or else JSONL, which the rest is for */
    vqa             *vqa;
    char            *images;
    file_map         map;
    line            *lines; /* those that are not blank */
    int64_t          n;
};

/* What a VQA set is asked without a task file: the closed set of the paper's evaluation. */
static const char *const YES_NO[] = {"yes", "no"};
static const eval_task   PLAIN_VQA = {.kind = EVAL_VQA, .answers = YES_NO, .n_answers = 2};

/* ---- JSONL ---- */

static bool is_blank(const char *s, size_t n)
{
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r')) n--;
    return n == 0;
}

/* NULL: not an object. *twice: because a member occurs twice. */
static json_t *parse_line(const dataset *d, const line *l, bool *twice)
{
    json_error_t why;
    json_t      *o = json_loadb((const char *)d->map.data + l->at, l->bytes, JSON_REJECT_DUPLICATES, &why);
    /* jansson's text may quote the line, its error code may not. */
    *twice = !o && json_error_code(&why) == json_error_duplicate_key;
    if (o && !json_is_object(o)) {
        json_decref(o);
        return NULL;
    }
    return o;
}

/* Which picture the line is about: by that, cases of one picture are put side by side. */
static uint64_t line_picture(const dataset *d, const line *l)
{
    bool     twice;
    json_t  *o = l->bytes <= LINE_BYTES ? parse_line(d, l, &twice) : NULL;
    uint64_t picture = case_picture(json_string_value(json_object_get(o, "image_path")));
    json_decref(o);
    return picture;
}

/* Note where the lines are; what they say is read case by case. */
static bool find_lines(dataset *d, err *e)
{
    const char *s = (const char *)d->map.data;
    size_t      cap = 0, number = 0;
    for (size_t at = 0; at < d->map.bytes;) {
        const char *end = memchr(s + at, '\n', d->map.bytes - at);
        size_t      n = end ? (size_t)(end - s) - at : d->map.bytes - at;
        number++;
        if (!is_blank(s + at, n)) {
            if ((size_t)d->n == cap) {
                cap = cap ? 2 * cap : 256;
                line *more = mem_realloc(d->lines, cap * sizeof *more);
                if (!more) return err_set(e, ERR_MEMORY, "%s: out of memory", d->name);
                d->lines = more;
            }
            d->lines[d->n++] = (line){at, n, number};
        }
        at += n + 1;
    }
    if (!d->n) return err_set(e, ERR_FILE, "%s: no case in it", d->name);
    return true;
}

/* With copies of the two paths. NULL: e is set. */
static dataset *new_set(const char *path, const char *images, const eval_task *task, err *e)
{
    dataset *d = mem_zalloc(1, sizeof *d);
    if (d && (d->name = mem_strdup(path)) && (d->images = mem_strdup(images))) {
        d->task = task;
        return d;
    }
    dataset_close(d);
    err_set(e, ERR_MEMORY, "%s: out of memory", path);
    return NULL;
}

bool dataset_open_jsonl(dataset **out, const char *path, const char *images, const eval_task *task, err *e)
{
    dataset *d = new_set(path, images, task, e);
    if (!d) return false;
    if (!file_map_open(&d->map, path, e) || !find_lines(d, e)) {
        dataset_close(d);
        return false;
    }
    *out = d;
    return true;
}

/* This line cannot be used: file, line number, and what is wrong, but not what it says. */
static bool malformed(const dataset *d, const line *l, err *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static bool malformed(const dataset *d, const line *l, err *e, const char *fmt, ...)
{
    char    what[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_at(e, ERR_INPUT, "line-malformed", NULL, "%s:%zu: %s", d->name, l->number, what);
}

/* A string member of a line, copied into a. Optional ones may be absent or null. */
static bool member(const json_t *o, const char *key, bool optional, const char **out, const line *l, const dataset *d,
                   arena *a, err *e)
{
    const json_t *v = json_object_get(o, key);
    *out = NULL;
    if (optional && (!v || json_is_null(v))) return true;
    if (!json_is_string(v))
        return malformed(d, l, e, "\"%s\" must be a string", key);
    return (*out = arena_strdup(a, json_string_value(v), e)) != NULL;
}

static bool line_answers(eval_case *c, const json_t *o, const line *l, const dataset *d, arena *a, err *e)
{
    const json_t *v = json_object_get(o, "answers");
    if (!v || json_is_null(v)) return true;
    if (!json_is_array(v) || !json_array_size(v))
        return malformed(d, l, e, "\"answers\" must be a list of strings");
    c->n_answers = (int)json_array_size(v); /* a line is at most LINE_BYTES, so it fits */
    const char **s = ARENA_NEW(a, const char *, c->n_answers, e);
    if (!s) return false;
    for (int i = 0; i < c->n_answers; i++) {
        const json_t *x = json_array_get(v, (size_t)i);
        if (!json_is_string(x))
            return malformed(d, l, e, "\"answers\"[%d] must be a string", i);
        if (!(s[i] = arena_strdup(a, json_string_value(x), e))) return false;
    }
    c->answers = s;
    return true;
}

/* The answer's own kind of question, where the line tells. */
static bool line_type(eval_case *c, const json_t *o, const line *l, const dataset *d, err *e)
{
    const json_t *v = json_object_get(o, "answer_type");
    const char   *s = json_string_value(v);
    if (!v || json_is_null(v)) return true;
    if (s && strcmp(s, "CLOSED") == 0) c->type = ANSWER_CLOSED;
    else if (s && strcmp(s, "OPEN") == 0) c->type = ANSWER_OPEN;
    else return malformed(d, l, e, "\"answer_type\" is neither OPEN nor CLOSED");
    return true;
}

/* The right answer. In the released code's files of closed tasks its member is named answers, and is a string. */
static bool line_gold(eval_case *c, const json_t *o, const line *l, const dataset *d, arena *a, err *e)
{
    bool closed = d->task && d->task->kind == EVAL_CLOSED && !json_object_get(o, "answer");
    return member(o, closed ? "answers" : "answer", false, &c->gold_text, l, d, a, e);
}

/* What the line asks: all by itself without a task, else as that has it. *found: see case.h. */
static bool line_asks(eval_case *c, const json_t *o, const line *l, const dataset *d, bool *found, arena *a, err *e)
{
    const eval_task *t = d->task;
    const char      *own;
    *found = true;
    if (!member(o, "question", t && t->question, &own, l, d, a, e)) return false;
    c->question = own;
    if (t && !task_question(&c->question, t, own, a, e)) return false;
    if (!t) {
        if (!line_answers(c, o, l, d, a, e)) return false;
        return !c->answers || case_closed(c, c->answers, c->n_answers, found, a, e);
    }
    switch (t->kind) {
    case EVAL_CLOSED: return case_closed(c, t->answers, t->n_answers, found, a, e);
    case EVAL_MULTILABEL: return case_labels(c, t, found, a, e);
    case EVAL_VQA: return case_vqa(c, t, a, e);
    case EVAL_OPEN: c->max_new_tokens = t->max_new_tokens; break;
    case N_EVAL_KINDS: break;
    }
    return true;
}

static bool line_case(const json_t *o, const line *l, const dataset *d, eval_case *c, arena *a, err *e)
{
    const char *rel;
    char        where[32];
    bool        found;
    snprintf(where, sizeof where, ":%zu", l->number);
    if (!line_gold(c, o, l, d, a, e) || !line_type(c, o, l, d, e) || !line_asks(c, o, l, d, &found, a, e) ||
        !member(o, "study", true, &c->study, l, d, a, e) || !member(o, "patient", true, &c->patient, l, d, a, e) ||
        !member(o, "image_path", false, &rel, l, d, a, e)) return false;
    if (!found)
        return err_at(e, ERR_INPUT, "gold-not-an-answer", NULL,
                      c->labels ? "%s%s: \"answer\" is not a list of label numbers"
                                : "%s%s: \"answer\" is none of \"answers\"", d->name, where);
    return case_image(c, d->images, rel, d->name, where, a, e);
}

static bool jsonl_case(const dataset *d, int64_t i, eval_case *c, arena *a, err *e)
{
    const line *l = &d->lines[i];
    bool        twice;
    if (l->bytes > LINE_BYTES) return malformed(d, l, e, "longer than %d bytes", LINE_BYTES);
    json_t *o = parse_line(d, l, &twice);
    bool    ok = o ? line_case(o, l, d, c, a, e)
                   : malformed(d, l, e, "not a JSON object%s", twice ? " (a member occurs twice)" : "");
    json_decref(o);
    return ok;
}

/* ---- all kinds ---- */

bool dataset_open_vqa(dataset **out, const char *path, const char *images, const eval_task *task, err *e)
{
    if (task && task->kind != EVAL_VQA)
        return err_set(e, ERR_FILE, "%s: a task of kind %s, %s takes one of kind vqa", task->path,
                       EVAL_KIND_NAME[task->kind], path);
    dataset *d = new_set(path, images, task ? task : &PLAIN_VQA, e);
    if (!d) return false;
    if (!vqa_open(&d->vqa, d->name, d->images, d->task, e)) {
        dataset_close(d);
        return false;
    }
    d->n = vqa_count(d->vqa);
    *out = d;
    return true;
}

bool dataset_open_medmnist(dataset **out, const char *path, const char *split, const eval_task *task, err *e)
{
    dataset *d = mem_zalloc(1, sizeof *d);
    text     name = {0};
    text_printf(&name, "%s#%s", path, split);
    bool ok = d && !name.failed ? medmnist_open(&d->medmnist, path, split, task, e)
                                : err_set(e, ERR_MEMORY, "%s: out of memory", path);
    if (!ok) {
        text_free(&name);
        dataset_close(d);
        return false;
    }
    d->name = name.s; /* heap memory of ours, as mem_strdup's is */
    d->n = medmnist_count(d->medmnist);
    *out = d;
    return true;
}

void dataset_close(dataset *d)
{
    if (!d) return;
    medmnist_close(d->medmnist);
    vqa_close(d->vqa);
    file_map_close(&d->map);
    free(d->lines);
    free(d->images);
    free(d->name);
    free(d);
}

int64_t     dataset_count(const dataset *d) { return d->n; }
const char *dataset_name(const dataset *d) { return d->name; }

uint64_t dataset_picture(const dataset *d, int64_t i)
{
    return d->medmnist ? 0 : d->vqa ? vqa_picture(d->vqa, i) : line_picture(d, &d->lines[i]);
}

bool dataset_case(dataset *d, int64_t i, eval_case *out, arena *a, err *e)
{
    *out = (eval_case){0};
    return d->medmnist ? medmnist_case(d->medmnist, i, out, a, e)
         : d->vqa      ? vqa_case(d->vqa, i, out, a, e)
                       : jsonl_case(d, i, out, a, e);
}
