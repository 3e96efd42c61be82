/* vqa.c - see vqa.h. The file is parsed once and kept: 10 MB for the largest of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "eval/case.h"
#include "eval/vqa.h"

struct vqa {
    const char      *path, *images, *image_key;
    const eval_task *task;
    json_t          *root;
    int64_t         *record; /* [n] places in the file, of the records that are cases */
    int64_t          n;
};

static const char *string_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

/* Which of the two data sets: by the name that the first record has for its picture. */
static bool recognise(vqa *v, err *e)
{
    if (!json_array_size(v->root)) return err_set(e, ERR_FILE, "%s: not a list of questions", v->path);
    const json_t *first = json_array_get(v->root, 0);
    bool rad = json_object_get(first, "image_name"), slake = json_object_get(first, "img_name");
    if (rad == slake)
        return err_set(e, ERR_FILE, "%s[0]: has %s \"image_name\" (VQA-RAD) %s \"img_name\" (SLAKE)", v->path,
                       rad ? "both" : "neither", rad ? "and" : "nor");
    v->image_key = rad ? "image_name" : "img_name";
    return true;
}

/* The records that are cases: all, or those in the task's language. A record without a language stays, to be
 * told of. */
static bool choose(vqa *v, err *e)
{
    size_t      n = json_array_size(v->root);
    const char *language = v->task->language;
    if (!(v->record = mem_zalloc(n, sizeof *v->record))) return err_set(e, ERR_MEMORY, "%s: out of memory", v->path);
    for (size_t i = 0; i < n; i++) {
        const char *is = string_of(json_array_get(v->root, i), "q_lang");
        if (language && is && strcmp(is, language) != 0) continue;
        v->record[v->n++] = (int64_t)i;
    }
    return v->n > 0
           || err_set(e, ERR_FILE, "%s: no question in language \"%.20s\"", v->path, language ? language : "");
}

/* jansson's text may quote the file, its position may not. */
static bool parse(vqa *v, err *e)
{
    file_map     m;
    json_error_t why = {0};
    if (!file_map_open(&m, v->path, e)) return false;
    v->root = json_loadb((const char *)m.data, m.bytes, JSON_REJECT_DUPLICATES, &why);
    file_map_close(&m);
    return v->root || err_set(e, ERR_FILE, "%s: not JSON at line %d, column %d", v->path, why.line, why.column);
}

bool vqa_open(vqa **out, const char *path, const char *images, const eval_task *task, err *e)
{
    vqa *v = mem_zalloc(1, sizeof *v);
    if (!v) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    *v = (vqa){.path = path, .images = images, .task = task};
    if (!parse(v, e) || !recognise(v, e) || !choose(v, e)) {
        vqa_close(v);
        return false;
    }
    *out = v;
    return true;
}

void vqa_close(vqa *v)
{
    if (!v) return;
    json_decref(v->root);
    free(v->record);
    free(v);
}

int64_t vqa_count(const vqa *v) { return v->n; }

/* This record cannot be used: where it stands and what is wrong, but not what it says. */
static bool malformed(const vqa *v, int64_t record, err *e, const char *what)
{
    return err_at(e, ERR_INPUT, "record-malformed", NULL, "%s[%lld]: %s", v->path, (long long)record, what);
}

/* Its answer as text: of the data sets' numbers the digits. */
static bool answer_text(const vqa *v, int64_t record, const json_t *o, const char **out, arena *a, err *e)
{
    const json_t *x = json_object_get(o, "answer");
    *out = json_string_value(x);
    if (*out) return true;
    if (!json_is_integer(x)) return malformed(v, record, e, "\"answer\" must be a string");
    return (*out = arena_printf(a, e, "%lld", (long long)json_integer_value(x))) != NULL;
}

static bool answer_type(const vqa *v, int64_t record, const json_t *o, answer_kind *out, err *e)
{
    const char *s = string_of(o, "answer_type");
    if (!s) return malformed(v, record, e, "\"answer_type\" must be a string");
    s += strspn(s, " \t");
    size_t n = strcspn(s, " \t");
    bool   one_word = s[n + strspn(s + n, " \t")] == 0;
    if (one_word && n == 6 && strncasecmp(s, "closed", n) == 0) return *out = ANSWER_CLOSED, true;
    if (one_word && n == 4 && strncasecmp(s, "open", n) == 0) return *out = ANSWER_OPEN, true;
    return malformed(v, record, e, "\"answer_type\" is neither OPEN nor CLOSED");
}

bool vqa_case(const vqa *v, int64_t i, eval_case *c, arena *a, err *e)
{
    int64_t       record = v->record[i];
    const json_t *o = json_array_get(v->root, (size_t)record);
    const char   *question = string_of(o, "question"), *name = string_of(o, v->image_key);
    char          where[32];
    snprintf(where, sizeof where, "[%lld]", (long long)record);
    if (!json_is_object(o)) return malformed(v, record, e, "not an object");
    if (!answer_text(v, record, o, &c->gold_text, a, e)) return false;
    if (!question) return malformed(v, record, e, "\"question\" must be a string");
    if (!name)
        return err_at(e, ERR_INPUT, "record-malformed", NULL, "%s%s: \"%s\" must be a string", v->path, where,
                      v->image_key);
    return answer_type(v, record, o, &c->type, e) && task_question(&c->question, v->task, question, a, e)
        && case_vqa(c, v->task, a, e) && case_image(c, v->images, name, v->path, where, a, e);
}

uint64_t vqa_picture(const vqa *v, int64_t i)
{
    return case_picture(string_of(json_array_get(v->root, (size_t)v->record[i]), v->image_key));
}
