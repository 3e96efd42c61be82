/* medmnist.c - see medmnist.h. An archive holds SPLIT_images [N,H,W] or [N,H,W,3] u8 and SPLIT_labels [N,1]. */
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "eval/medmnist.h"
#include "imaging/image.h"
#include "index/npz.h"

struct medmnist {
    npz_array   *images, *labels;
    int64_t      n;
    int          width, height, channels;
    const eval_task *task;
    char         split[64];
};

/* What a set of one class an item can be asked. */
static bool check_task(const eval_task *t, err *e)
{
    if (t->kind != EVAL_CLOSED)
        return err_set(e, ERR_FILE, "%s: a task of kind %s, a MedMNIST archive takes closed ones", t->path,
                       EVAL_KIND_NAME[t->kind]);
    return t->label_to_answer
        || err_set(e, ERR_FILE, "%s: \"label_to_answer\" is missing, an archive's labels need it", t->path);
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
        return err_set(e, ERR_FILE, "%s: %s_images must be bytes [N,H,W] or [N,H,W,3], sides up to %d", path,
                       m->split, SIDE);
    if (!(l->n_dims == 1 || (l->n_dims == 2 && l->dim[1] == 1)))
        return err_set(e, ERR_FILE,
                       "%s: %s_labels must be [N] or [N,1]: sets of several labels are not closed questions", path,
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

bool medmnist_open(medmnist **out, const char *path, const char *split, const eval_task *task, err *e)
{
    medmnist *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    bool ok = strlen(split) < sizeof m->split || err_set(e, ERR_FILE, "%s: no split of such a long name", path);
    if (ok) strcpy(m->split, split);
    m->task = task;
    ok = ok && check_task(task, e) && open_array(&m->images, m, path, "images", e) &&
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
    image img = {.width = m->width, .height = m->height, .rgb = rgb};
    if (!image_encode_png(&png, &out->image_bytes, &img, a, e)) return false;
    out->image = png;
    return true;
}

bool medmnist_case(medmnist *m, int64_t i, eval_case *out, arena *a, err *e)
{
    const eval_task *t = m->task;
    uint8_t row[8]; /* one element of at most 8 bytes: check_shapes() saw to the rest */
    if (!npz_row(m->labels, i, row, e)) return false;
    int64_t label = npy_int(npz_shape(m->labels), row, 0);
    if (label < 0 || label >= t->n_label_to_answer)
        return err_at(e, ERR_INPUT, "gold-not-an-answer", NULL,
                      "%s/%lld: its label is not in the task's label_to_answer", m->split, (long long)i);
    out->answers = t->answers;
    out->n_answers = t->n_answers;
    out->gold = t->label_to_answer[label];
    out->gold_text = t->answers[out->gold];
    return task_question(&out->question, t, NULL, a, e) && read_image(m, i, out, a, e);
}
