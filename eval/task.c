/* task.c - see task.h. */
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "base/memory.h"
#include "diagnose/diagnose.h"
#include "eval/task.h"

const char *const EVAL_KIND_NAME[N_EVAL_KINDS] = {"closed", "open", "multilabel", "vqa"};
static const char *const PLACE_NAME[N_LEGEND_PLACES] = {"before-question", "after-question"};

/* Which kinds a key goes with, and which need it; bits of 1 << eval_kind. */
enum { C = 1 << EVAL_CLOSED, O = 1 << EVAL_OPEN, M = 1 << EVAL_MULTILABEL, V = 1 << EVAL_VQA, ALL = C | O | M | V };
static const struct { const char *key; unsigned with, needed_by; } KEYS[] = {
    {"name", ALL, 0},      {"note", ALL, 0},         {"kind", ALL, 0},           {"legend", ALL, 0},
    {"legend_place", ALL, 0}, {"image_policy", ALL, 0}, {"question", C | O | M, C | M}, {"answers", C | V, C | V},
    {"label_to_answer", C, 0}, {"labels", M, M},      {"answer_form", M, 0},      {"max_new_tokens", O | M | V, 0},
    {"language", V, 0},
};
enum { N_KEYS = sizeof KEYS / sizeof *KEYS };
enum { MOST_CLASSES = 1000 };

/* ---- values ---- */

static bool wrong(const eval_task *t, const char *key, const char *what, err *e)
{
    return err_set(e, ERR_FILE, "%s: \"%s\" %s", t->path, key, what);
}

/* A string with something in it. *out stays where the key is absent. */
static bool string(const char **out, const eval_task *t, const char *key, err *e)
{
    const json_t *v = json_object_get(t->root, key);
    if (!v) return true;
    if (!json_is_string(v)) return wrong(t, key, "must be a string", e);
    const char *s = json_string_value(v);
    if (s[strspn(s, " \t\r\n")] == 0) return wrong(t, key, "is empty", e);
    *out = s;
    return true;
}

/* The place of the key's string in names; *out stays where it is absent. */
static bool choice(int *out, const eval_task *t, const char *key, const char *const *names, int n, err *e)
{
    const char *s = NULL;
    char        known[120] = "must be one of";
    if (!string(&s, t, key, e)) return false;
    if (!s) return true;
    for (int i = 0; i < n; i++) {
        if (strcmp(s, names[i]) == 0) return *out = i, true;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s %s", i ? "," : "", names[i]);
    }
    return wrong(t, key, known, e);
}

/* A list of strings, none empty, no two alike. */
static bool strings(const char *const **out, int *n, const eval_task *t, const char *key, size_t least, size_t most,
                    err *e)
{
    const json_t *v = json_object_get(t->root, key);
    size_t        count = json_array_size(v); /* 0 of what is no list */
    if (!v) return true;
    if (count < least)
        return wrong(t, key, least == 2 ? "must be a list of two answers or more" : "must be a list of labels", e);
    if (count > most)
        return err_set(e, ERR_FILE, "%s: \"%s\" has %zu entries, at most %zu are taken", t->path, key, count, most);
    const char **s = mem_zalloc(count, sizeof *s);
    if (!s) return err_set(e, ERR_MEMORY, "%s: out of memory", t->path);
    *out = s;
    *n = (int)count;
    for (size_t i = 0; i < count; i++) {
        s[i] = json_string_value(json_array_get(v, i));
        if (!s[i]) return err_set(e, ERR_FILE, "%s: \"%s\"[%zu] must be a string", t->path, key, i);
        if (s[i][strspn(s[i], " \t\r\n")] == 0)
            return err_set(e, ERR_FILE, "%s: \"%s\"[%zu] is empty", t->path, key, i);
        for (size_t j = 0; j < i; j++)
            if (strcmp(s[i], s[j]) == 0)
                return err_set(e, ERR_FILE, "%s: \"%s\"[%zu] equals [%zu]", t->path, key, i, j);
    }
    return true;
}

/* Classes of the data set to answers. Several classes may share an answer, and an answer may have no class. */
static bool class_numbers(eval_task *t, err *e)
{
    const json_t *v = json_object_get(t->root, "label_to_answer");
    size_t        n = json_array_size(v);
    if (!v) return true;
    if (!n || n > MOST_CLASSES)
        return wrong(t, "label_to_answer", "must be a list, an answer's number for each label", e);
    if (!(t->label_to_answer = mem_zalloc(n, sizeof *t->label_to_answer)))
        return err_set(e, ERR_MEMORY, "%s: out of memory", t->path);
    t->n_label_to_answer = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(v, i);
        json_int_t    to = json_is_integer(x) ? json_integer_value(x) : -1;
        if (to < 0 || to >= t->n_answers)
            return err_set(e, ERR_FILE, "%s: \"label_to_answer\"[%zu] must be 0 to %d", t->path, i, t->n_answers - 1);
        t->label_to_answer[i] = (int)to;
    }
    return true;
}

static bool tokens(eval_task *t, err *e)
{
    const json_t *v = json_object_get(t->root, "max_new_tokens");
    json_int_t    n = json_integer_value(v); /* 0 of what is no integer */
    if (!v) return true;
    if (n < 1 || n > MAX_NEW_TOKENS)
        return err_set(e, ERR_FILE, "%s: \"max_new_tokens\" must be 1 to %d", t->path, MAX_NEW_TOKENS);
    t->max_new_tokens = (int)n;
    return true;
}

static bool policy(eval_task *t, err *e)
{
    const char *s = NULL;
    if (!string(&s, t, "image_policy", e)) return false;
    if (!s) return true;
    t->has_policy = image_policy_parse(&t->policy, s);
    return t->has_policy || wrong(t, "image_policy", "must be one of native, jomed-256", e);
}

/* ---- the file ---- */

static int key_number(const char *key)
{
    for (int i = 0; i < N_KEYS; i++)
        if (strcmp(KEYS[i].key, key) == 0) return i;
    return -1;
}

/* Every key is known and goes with the kind, and what the kind needs is there. */
static bool keys(const eval_task *t, err *e)
{
    const char *key;
    json_t     *v;
    unsigned    kind = 1u << t->kind;
    json_object_foreach(t->root, key, v)
    {
        int i = key_number(key);
        if (i < 0) return err_set(e, ERR_FILE, "%s: \"%.60s\" is not a key of a task file", t->path, key);
        if (!(KEYS[i].with & kind))
            return err_set(e, ERR_FILE, "%s: \"%s\" does not go with kind %s", t->path, key, EVAL_KIND_NAME[t->kind]);
    }
    for (int i = 0; i < N_KEYS; i++)
        if ((KEYS[i].needed_by & kind) && !json_object_get(t->root, KEYS[i].key))
            return err_set(e, ERR_FILE, "%s: \"%s\" is missing, a task of kind %s needs it", t->path, KEYS[i].key,
                           EVAL_KIND_NAME[t->kind]);
    return true;
}

static bool read_task(eval_task *t, err *e)
{
    static const char *const forms[] = {"probabilities", "generated"};
    const char *note = NULL; /* for people; only its type matters here */
    int         kind = EVAL_CLOSED, place = LEGEND_BEFORE_QUESTION, form = 0;
    if (!json_open(&t->root, t->path, e)) return false;
    if (!json_is_object(t->root)) return err_set(e, ERR_FILE, "%s: not a JSON object", t->path);
    if (!choice(&kind, t, "kind", EVAL_KIND_NAME, N_EVAL_KINDS, e)) return false;
    t->kind = (eval_kind)kind;
    if (!keys(t, e) || !string(&t->name, t, "name", e) || !string(&note, t, "note", e)
        || !string(&t->question, t, "question", e) || !string(&t->legend, t, "legend", e)
        || !choice(&place, t, "legend_place", PLACE_NAME, N_LEGEND_PLACES, e) || !policy(t, e)
        || !strings(&t->answers, &t->n_answers, t, "answers", 2, MAX_ANSWERS, e) || !class_numbers(t, e)
        || !strings(&t->labels, &t->n_labels, t, "labels", 1, MAX_LABELS, e)
        || !choice(&form, t, "answer_form", forms, 2, e) || !tokens(t, e)
        || !string(&t->language, t, "language", e))
        return false;
    t->place = (legend_place)place;
    t->generated = form == 1;
    if (!t->legend && json_object_get(t->root, "legend_place"))
        return wrong(t, "legend_place", "goes with \"legend\"", e);
    if (t->kind == EVAL_MULTILABEL && t->max_new_tokens && !t->generated)
        return wrong(t, "max_new_tokens", "goes with the answer_form generated", e);
    return true;
}

bool task_open(eval_task **out, const char *path, err *e)
{
    eval_task *t = mem_zalloc(1, sizeof *t);
    if (!t || !(t->path = mem_strdup(path))) {
        task_close(t);
        return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    }
    if (!read_task(t, e)) {
        task_close(t);
        return false;
    }
    *out = t;
    return true;
}

void task_close(eval_task *t)
{
    if (!t) return;
    json_decref(t->root);
    free((void *)t->answers); /* ours: others only borrow them as const */
    free((void *)t->labels);
    free(t->label_to_answer);
    free(t->path);
    free(t);
}

bool task_question(const char **out, const eval_task *t, const char *own, arena *a, err *e)
{
    const char *question = t->question ? t->question : own;
    *out = question;
    if (!t->legend) return true;
    bool before = t->place == LEGEND_BEFORE_QUESTION;
    *out = arena_printf(a, e, "%s\n\n%s", before ? t->legend : question, before ? question : t->legend);
    return *out != NULL;
}
