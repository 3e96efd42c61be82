/* dataset.c - see dataset.h: the JSONL kind, and the choice between the two. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "eval/dataset.h"
#include "eval/medmnist.h"
#include "eval/metrics.h"

enum { LINE_BYTES = 1 << 20 };

typedef struct { size_t at, bytes, number; } line;

struct dataset {
    char     *name;
    medmnist *medmnist; /* NULL: JSONL, which the rest is for */
    char     *images;
    file_map  map;
    line     *lines; /* those that are not blank */
    int64_t   n;
};

/* ---- JSONL ---- */

static bool is_blank(const char *s, size_t n)
{
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r')) n--;
    return n == 0;
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

bool dataset_open_jsonl(dataset **out, const char *path, const char *images, err *e)
{
    dataset *d = mem_zalloc(1, sizeof *d);
    if (!d || !(d->name = mem_strdup(path)) || !(d->images = mem_strdup(images))) {
        dataset_close(d);
        return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    }
    if (!file_map_open(&d->map, path, e) || !find_lines(d, e)) {
        dataset_close(d);
        return false;
    }
    *out = d;
    return true;
}

/* This line cannot be used: file, line number, and what is wrong, but not what it says. */
static bool malformed(const dataset *d, const line *l, err *e, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
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

/* The answer that is the right one: the same bytes, or else the same when normalised. */
static bool find_gold(eval_case *c, arena *a, bool *found, err *e)
{
    *found = true;
    for (c->gold = 0; c->gold < c->n_answers; c->gold++)
        if (!strcmp(c->answers[c->gold], c->gold_text)) return true;
    char *want, *have;
    if (!answer_normalise(&want, c->gold_text, a, e)) return false;
    for (c->gold = 0; c->gold < c->n_answers; c->gold++) {
        if (!answer_normalise(&have, c->answers[c->gold], a, e)) return false;
        if (!strcmp(want, have)) return true;
    }
    *found = false;
    return true;
}

/* The bytes of the image file, below the folder that the caller named and nowhere else. */
static bool read_image(eval_case *c, const char *rel, const line *l, const dataset *d, arena *a, err *e)
{
    char     path[4096];
    file_map m;
    err      why = {0};
    if (!path_is_below(rel)) return malformed(d, l, e, "\"image_path\" must lie below %s", d->images);
    if (!path_join(path, sizeof path, d->images, rel, &why) || !file_map_open(&m, path, &why))
        return err_at(e, ERR_FILE, "image-missing", NULL, "%s:%zu: %s", d->name, l->number, why.text);
    uint8_t *bytes = arena_take(a, m.bytes ? m.bytes : 1, e);
    if (bytes && m.bytes) memcpy(bytes, m.data, m.bytes);
    c->image = bytes;
    c->image_bytes = m.bytes;
    file_map_close(&m);
    return bytes != NULL;
}

static bool line_case(const json_t *o, const line *l, const dataset *d, eval_case *c, arena *a, err *e)
{
    const char *rel;
    bool        found;
    if (!member(o, "answer", false, &c->gold_text, l, d, a, e) ||
        !member(o, "question", false, &c->question, l, d, a, e) || !member(o, "study", true, &c->study, l, d, a, e) ||
        !member(o, "patient", true, &c->patient, l, d, a, e) || !member(o, "image_path", false, &rel, l, d, a, e) ||
        !line_answers(c, o, l, d, a, e)) return false;
    if (!c->answers) return true; /* open: its image is of no use to us */
    if (!find_gold(c, a, &found, e)) return false;
    if (!found)
        return err_at(e, ERR_INPUT, "gold-not-an-answer", NULL, "%s:%zu: \"answer\" is none of \"answers\"", d->name,
                      l->number);
    return read_image(c, rel, l, d, a, e);
}

static bool jsonl_case(const dataset *d, int64_t i, eval_case *c, arena *a, err *e)
{
    const line  *l = &d->lines[i];
    json_error_t why;
    if (l->bytes > LINE_BYTES) return malformed(d, l, e, "longer than %d bytes", LINE_BYTES);
    json_t *o = json_loadb((const char *)d->map.data + l->at, l->bytes, JSON_REJECT_DUPLICATES, &why);
    /* jansson's text may quote the line, its error code may not. */
    bool twice = !o && json_error_code(&why) == json_error_duplicate_key;
    bool ok = json_is_object(o) ? line_case(o, l, d, c, a, e)
                                : malformed(d, l, e, "not a JSON object%s", twice ? " (a member occurs twice)" : "");
    json_decref(o);
    return ok;
}

/* ---- both kinds ---- */

bool dataset_open_medmnist(dataset **out, const char *path, const char *split, const char *task, err *e)
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
    file_map_close(&d->map);
    free(d->lines);
    free(d->images);
    free(d->name);
    free(d);
}

int64_t     dataset_count(const dataset *d) { return d->n; }
const char *dataset_name(const dataset *d) { return d->name; }

bool dataset_case(dataset *d, int64_t i, eval_case *out, arena *a, err *e)
{
    *out = (eval_case){0};
    return d->medmnist ? medmnist_case(d->medmnist, i, out, a, e) : jsonl_case(d, i, out, a, e);
}
