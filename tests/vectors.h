/* vectors.h - one line of a vectors.jsonl: a text, its ids, and what decoding them gives
 * (fixtures/README.md). */
#ifndef JOMED_TESTS_VECTORS_H
#define JOMED_TESTS_VECTORS_H

#include <jansson.h>
#include "tests/check.h"

/* The string member with its length: texts hold U+0000. */
static inline const char *member_text(const json_t *o, const char *name, size_t *n)
{
    const json_t *v = json_object_get(o, name);
    assert_true(json_is_string(v));
    *n = json_string_length(v);
    return json_string_value(v);
}

static inline void same_ids(const json_t *want, const int32_t *ids, int n, const char *what, size_t line)
{
    bool same = json_is_array(want) && json_array_size(want) == (size_t)n;
    for (int i = 0; same && i < n; i++) same = json_integer_value(json_array_get(want, (size_t)i)) == ids[i];
    if (!same) {
        char *w = json_dumps(want, JSON_COMPACT);
        printf("# wanted %s, got", w);
        for (int i = 0; i < n; i++) printf(" %d", (int)ids[i]);
        printf("\n");
        free(w);
        fail_msg("%s: line %zu: ids differ", what, line);
    }
}

/* Call each for every line of the file; returns how many there were. */
static inline size_t each_vector(const char *path, void (*each)(const json_t *v, size_t line, void *ctx),
                                 void *ctx)
{
    FILE  *f = fopen(path, "r");
    char  *line = NULL;
    size_t cap = 0, n = 0;
    if (!f) fail_msg("%s cannot be opened", path);
    for (ssize_t len; (len = getline(&line, &cap, f)) > 0;) {
        json_error_t je;
        json_t      *v = json_loadb(line, (size_t)len, JSON_ALLOW_NUL, &je);
        if (!v) fail_msg("%s: line %zu: %s", path, n + 1, je.text);
        each(v, ++n, ctx);
        json_decref(v);
    }
    free(line);
    fclose(f);
    return n;
}

#endif
