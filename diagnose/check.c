#include "diagnose/check.h"

#include <string.h>

#include "base/text.h"
#include "diagnose/open.h"

/* A list of texts: its bounds, and how what is wrong with it is called. */
typedef struct {
    const char *field, *needed_by, *too_few, *too_many, *empty, *too_long, *duplicate;
    int         least, most, most_bytes;
} text_rules;

static const text_rules ANSWERS = {
    .field = "answers", .needed_by = "a closed question", .least = 2, .most = MAX_ANSWERS,
    .most_bytes = MAX_ANSWER_BYTES, .too_few = "answers-too-few", .too_many = "answers-too-many",
    .empty = "answer-empty", .too_long = "answer-too-long", .duplicate = "answer-duplicate"};
static const text_rules LABELS = {
    .field = "labels", .needed_by = "a multi-label question", .least = 1, .most = MAX_LABELS,
    .most_bytes = MAX_LABEL_BYTES, .too_few = "labels-too-few", .too_many = "labels-too-many",
    .empty = "label-empty", .too_long = "label-too-long", .duplicate = "label-duplicate"};

static bool check_texts(const char *const *list, int n_list, const text_rules *t, err *e)
{
    if (n_list < t->least)
        return err_at(e, ERR_UNUSABLE, t->too_few, t->field, "%s: %d given, %s needs at least %d", t->field, n_list,
                      t->needed_by, t->least);
    if (n_list > t->most)
        return err_at(e, ERR_UNUSABLE, t->too_many, t->field, "%s: %d given, at most %d are taken", t->field, n_list,
                      t->most);
    for (int i = 0; i < n_list; i++) {
        size_t n = strlen(list[i]);
        if (n == 0 || strspn(list[i], " \t\r\n") == n)
            return err_at(e, ERR_UNUSABLE, t->empty, t->field, "%s[%d] is empty", t->field, i);
        if (n > (size_t)t->most_bytes)
            return err_at(e, ERR_UNUSABLE, t->too_long, t->field, "%s[%d] has %zu bytes, at most %d are taken",
                          t->field, i, n, t->most_bytes);
        if (!utf8_valid(list[i], n))
            return err_at(e, ERR_UNUSABLE, "text-not-utf8", t->field, "%s[%d] is not valid UTF-8", t->field, i);
        for (int j = 0; j < i; j++)
            if (strcmp(list[i], list[j]) == 0)
                return err_at(e, ERR_UNUSABLE, t->duplicate, t->field, "%s[%d] equals %s[%d]", t->field, i, t->field,
                              j);
    }
    return true;
}

bool check_image(const diagnose_request *q, err *e)
{
    if (!q->image || q->image_bytes == 0) return err_at(e, ERR_INPUT, "field-missing", "image", "image is missing");
    if (q->k < 1 || q->k > MAX_K)
        return err_at(e, ERR_UNUSABLE, "k-out-of-range", "k", "k is %d, 1 to %d are taken", q->k, MAX_K);
    return true;
}

static bool check_question(const diagnose_request *q, err *e)
{
    size_t n = q->question ? strlen(q->question) : 0;
    if (n == 0 || strspn(q->question, " \t\r\n") == n)
        return err_at(e, ERR_INPUT, "field-missing", "question", "question is missing");
    if (n > MAX_QUESTION_BYTES)
        return err_at(e, ERR_UNUSABLE, "question-too-long", "question",
                      "question has %zu bytes, at most %d are taken", n, MAX_QUESTION_BYTES);
    return utf8_valid(q->question, n)
        || err_at(e, ERR_UNUSABLE, "text-not-utf8", "question", "question is not valid UTF-8");
}

static bool check_labels(const diagnose_request *q, err *e)
{
    if (q->n_answers > 0)
        return err_at(e, ERR_UNUSABLE, "field-conflict", "labels",
                      "labels and answers are both given: a request has one or the other");
    return check_texts(q->labels, q->n_labels, &LABELS, e);
}

bool diagnose_check(const diagnose_request *q, err *e)
{
    if (!check_image(q, e) || !check_question(q, e)) return false;
    if (q->labels || q->n_labels) return check_labels(q, e); /* an empty list is a mistake, not an open question */
    if (q->answers || q->n_answers) return check_texts(q->answers, q->n_answers, &ANSWERS, e);
    return open_check(q, e);
}
