/* medmnist.c - see medmnist.h. An archive holds SPLIT_images [N,H,W] or [N,H,W,3] u8 and SPLIT_labels [N,1]. */
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "base/memory.h"
#include "eval/medmnist.h"
#include "imaging/image.h"
#include "index/npz.h"

enum { MOST_ANSWERS = 1000, MOST_LABELS = 1000 };

struct medmnist {
    npz_array   *images, *labels;
    int64_t      n;
    int          width, height, channels;
    json_t      *task; /* keeps the strings below */
    const char  *question;
    const char **answers;
    int          n_answers;
    int         *label_to_answer, n_labels;
    char         split[64];
};

static bool task_strings(medmnist *m, const char *path, err *e)
{
    const json_t *v = json_object_get(m->task, "answers");
    size_t        n = json_array_size(v);
    if (n < 2 || n > MOST_ANSWERS)
        return err_set(e, ERR_FILE, "%s: \"answers\" must be a list of two answers or more", path);
    if (!(m->answers = mem_zalloc(n, sizeof *m->answers))) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    m->n_answers = (int)n;
    for (size_t i = 0; i < n; i++)
        if (!(m->answers[i] = json_string_value(json_array_get(v, i))))
            return err_set(e, ERR_FILE, "%s: \"answers\"[%zu] must be a string", path, i);
    if (!(m->question = json_string_value(json_object_get(m->task, "question"))))
        return err_set(e, ERR_FILE, "%s: \"question\" must be a string", path);
    return true;
}

static bool task_labels(medmnist *m, const char *path, err *e)
{
    const json_t *v = json_object_get(m->task, "label_to_answer");
    size_t        n = json_array_size(v);
    if (!n || n > MOST_LABELS)
        return err_set(e, ERR_FILE, "%s: \"label_to_answer\" must be a list, an answer's number for each label", path);
    if (!(m->label_to_answer = mem_zalloc(n, sizeof *m->label_to_answer)))
        return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    m->n_labels = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(v, i);
        json_int_t    to = json_is_integer(x) ? json_integer_value(x) : -1;
        if (to < 0 || to >= m->n_answers)
            return err_set(e, ERR_FILE, "%s: \"label_to_answer\"[%zu] must be 0 to %d", path, i, m->n_answers - 1);
        m->label_to_answer[i] = (int)to;
    }
    return true;
}

static bool open_task(medmnist *m, const char *path, err *e)
{
    if (!json_open(&m->task, path, e)) return false;
    if (!json_is_object(m->task)) return err_set(e, ERR_FILE, "%s: not a JSON object", path);
    return task_strings(m, path, e) && task_labels(m, path, e);
}

/* The array SPLIT_WHAT. */
static bool open_array(npz_array **out, const medmnist *m, const char *path, const char *what, err *e)
{
    char name[sizeof m->split + 16];
    snprintf(name, sizeof name, "%s_%s", m->split, what);
    return npz_open(out, path, name, e);
}

static bool check_shapes(medmnist *m, const char *path, err *e)
{
    const npy_shape *s = npz_shape(m->images), *l = npz_shape(m->labels);
    enum { SIDE = 4096 };
    bool bytes = s->item_bytes == 1 && !s->is_signed, rgb = s->n_dims == 4 && s->dim[3] == 3;
    bool sides = (s->n_dims == 3 || rgb) && s->dim[1] > 0 && s->dim[1] <= SIDE && s->dim[2] > 0 && s->dim[2] <= SIDE;
    if (!bytes || !sides)
        return err_set(e, ERR_FILE, "%s: %s_images must be bytes [N,H,W] or [N,H,W,3], sides up to %d", path, m->split, SIDE);
    if (!(l->n_dims == 1 || (l->n_dims == 2 && l->dim[1] == 1)))
        return err_set(e, ERR_FILE, "%s: %s_labels must be [N] or [N,1]: sets of several labels are not closed questions", path,
                       m->split);
    if (s->dim[0] != l->dim[0] || s->dim[0] < 1)
        return err_set(e, ERR_FILE, "%s: %lld %s_images but %lld %s_labels", path, (long long)s->dim[0], m->split,
                       (long long)l->dim[0], m->split);
    m->n = s->dim[0];
    m->height = (int)s->dim[1];
    m->width = (int)s->dim[2];
    m->channels = s->n_dims == 4 ? 3 : 1;
    return true;
}

bool medmnist_open(medmnist **out, const char *path, const char *split, const char *task, err *e)
{
    medmnist *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    bool ok = strlen(split) < sizeof m->split || err_set(e, ERR_FILE, "%s: no split of such a long name", path);
    if (ok) strcpy(m->split, split);
    ok = ok && open_task(m, task, e) && open_array(&m->images, m, path, "images", e) &&
         open_array(&m->labels, m, path, "labels", e) && check_shapes(m, path, e);
    if (ok) *out = m;
    else medmnist_close(m);
    return ok;
}

void medmnist_close(medmnist *m)
{
    if (!m) return;
    npz_close(m->images);
    npz_close(m->labels);
    free(m->answers);
    free(m->label_to_answer);
    json_decref(m->task);
    free(m);
}

int64_t medmnist_count(const medmnist *m) { return m->n; }

static bool read_image(medmnist *m, int64_t i, eval_case *out, arena *a, err *e)
{
    size_t   pixels = (size_t)m->width * (size_t)m->height;
    uint8_t *row = arena_take(a, npz_shape(m->images)->row_bytes, e), *rgb = row, *png;
    if (!row || !npz_row(m->images, i, row, e)) return false;
    if (m->channels == 1) {
        if (!(rgb = arena_take_n(a, pixels, 3, e))) return false;
        for (size_t p = 0; p < pixels; p++) rgb[3 * p] = rgb[3 * p + 1] = rgb[3 * p + 2] = row[p];
    }
    if (!image_encode_png(&png, &out->image_bytes, &(image){m->width, m->height, rgb}, a, e)) return false;
    out->image = png;
    return true;
}

bool medmnist_case(medmnist *m, int64_t i, eval_case *out, arena *a, err *e)
{
    uint8_t row[8]; /* one element of at most 8 bytes: check_shapes() saw to the rest */
    if (!npz_row(m->labels, i, row, e)) return false;
    int64_t label = npy_int(npz_shape(m->labels), row, 0);
    if (label < 0 || label >= m->n_labels)
        return err_at(e, ERR_INPUT, "gold-not-an-answer", NULL, "%s/%lld: its label is not in the task's label_to_answer",
                      m->split, (long long)i);
    out->question = m->question;
    out->answers = m->answers;
    out->n_answers = m->n_answers;
    out->gold = m->label_to_answer[label];
    out->gold_text = m->answers[out->gold];
    return read_image(m, i, out, a, e);
}
