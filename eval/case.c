#include "eval/case.h"

#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "eval/metrics.h"
#include "eval/multilabel.h"

bool case_closed(eval_case *c, const char *const *answers, int n_answers, bool *found, arena *a, err *e)
{
    *found = true;
    c->answers = answers;
    c->n_answers = n_answers;
    for (c->gold = 0; c->gold < n_answers; c->gold++)
        if (!strcmp(answers[c->gold], c->gold_text)) return true;
    char *want, *have;
    if (!answer_normalise(&want, c->gold_text, a, e)) return false;
    for (c->gold = 0; c->gold < n_answers; c->gold++) {
        if (!answer_normalise(&have, answers[c->gold], a, e)) return false;
        if (!strcmp(want, have)) return true;
    }
    *found = false;
    return true;
}

bool case_vqa(eval_case *c, const eval_task *t, arena *a, err *e)
{
    bool found = false;
    c->max_new_tokens = t->max_new_tokens;
    if (c->type != ANSWER_OPEN && !case_closed(c, t->answers, t->n_answers, &found, a, e)) return false;
    if (found) return true;
    c->answers = NULL;
    c->n_answers = c->gold = 0;
    return true;
}

bool case_labels(eval_case *c, const eval_task *t, bool *found, arena *a, err *e)
{
    uint8_t *present = ARENA_NEW(a, uint8_t, t->n_labels, e);
    if (!present) return false;
    *found = label_list_parse(present, t->n_labels, c->gold_text) == 0;
    c->labels = t->labels;
    c->n_labels = t->n_labels;
    c->present = present;
    c->generated = t->generated;
    c->max_new_tokens = t->max_new_tokens;
    return true;
}

bool case_image(eval_case *c, const char *images, const char *rel, const char *file, const char *where, arena *a,
                err *e)
{
    char     path[4096];
    file_map m;
    err      why = {0};
    if (!path_is_below(rel))
        return err_at(e, ERR_INPUT, "image-outside", NULL, "%s%s: the image's path must lie below %s", file, where,
                      images);
    if (!path_join(path, sizeof path, images, rel, &why) || !file_map_open(&m, path, &why))
        return err_at(e, ERR_FILE, "image-missing", NULL, "%s%s: %s", file, where, why.text);
    uint8_t *bytes = arena_take(a, m.bytes ? m.bytes : 1, e);
    if (bytes && m.bytes) memcpy(bytes, m.data, m.bytes);
    c->image = bytes;
    c->image_bytes = m.bytes;
    file_map_close(&m);
    return bytes != NULL;
}

/* A collision would put two pictures' cases side by side, which does no harm. */
uint64_t case_picture(const char *rel)
{
    return rel ? fnv_text(rel) | 1 : 0;
}
