/* tokenizer_change.h - a tokenizer.json with one thing changed, for tests of what a loader says about it. */
#ifndef JOMED_TESTS_TOKENIZER_CHANGE_H
#define JOMED_TESTS_TOKENIZER_CHANGE_H

#include <jansson.h>
#include "tests/check.h"
#include "base/json.h"

/* Follow path ("model.merges.3") down to the container of its last part, which is *last. */
static inline json_t *container_of_path(json_t *root, const char *path, char last[64])
{
    json_t *o = root;
    for (const char *p = path;;) {
        size_t n = strcspn(p, ".");
        snprintf(last, 64, "%.*s", (int)n, p);
        if (!p[n]) return o;
        o = json_is_array(o) ? json_array_get(o, (size_t)atoi(last)) : json_object_get(o, last);
        if (!o) fail_msg("no %s in the tokenizer", path);
        p += n + 1;
    }
}

/* The text of file with the member at path set to value (JSON; NULL: taken out); free() it. */
static inline char *changed_tokenizer(const char *file, const char *path, const char *value)
{
    err     e = {0};
    json_t *root;
    char    last[64];
    OK(json_open(&root, file, &e), e);
    json_t *o = container_of_path(root, path, last),
           *v = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    if (value && !v) fail_msg("%s is not JSON", value);
    if (json_is_array(o)) {
        size_t i = (size_t)atoi(last);
        if (!v) json_array_remove(o, i);
        else if (i < json_array_size(o)) json_array_set_new(o, i, v);
        else json_array_append_new(o, v);
    } else if (v) {
        json_object_set_new(o, last, v);
    } else if (json_object_del(o, last) != 0) {
        fail_msg("no %s in the tokenizer", path);
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

#endif
