#include "tests/check.h"

#include "base/json.h"
#include "base/safetensors.h"
#include "reader/mrope.h"

enum { MAX_T = 512, MAX_SPANS = 8, IMAGE_PAD = 638 };

/* Ids of a golden case, with a span where each run of image tokens stands; grid is in patches, twice the
 * merged ones. */
typedef struct { int32_t ids[MAX_T]; image_span span[MAX_SPANS]; prompt p; const int64_t *want; } golden;

static const int64_t *ints(const safetensors *st, const char *name, const char *what, int64_t *n)
{
    char          path[64];
    const tensor *t;
    snprintf(path, sizeof path, "%s/%s", name, what);
    if (!(t = safetensors_find(st, path))) return *n = 0, NULL;
    return *n = t->count, t->data;
}

static void read_golden(golden *g, const safetensors *st, const char *name)
{
    int64_t        T, n_grid, n_want;
    const int64_t *ids = ints(st, name, "input_ids", &T), *grid = ints(st, name, "image_grid_thw", &n_grid);
    g->want = ints(st, name, "position_ids", &n_want);
    assert_true(T > 0 && T <= MAX_T && n_want == 3 * T);
    g->p = (prompt){g->ids, (int)T, g->span, 0};
    for (int t = 0; t < T; t++) {
        g->ids[t] = (int32_t)ids[t];
        if (ids[t] != IMAGE_PAD || (t > 0 && ids[t - 1] == IMAGE_PAD)) continue;
        assert_true(g->p.n_spans < n_grid / 3);
        const int64_t *thw = grid + 3 * g->p.n_spans;
        g->span[g->p.n_spans++] = (image_span){t, (int)thw[1] / 2, (int)thw[2] / 2};
    }
    assert_int_equal(g->p.n_spans, n_grid / 3);
}

static void same_positions(const golden *g, const int32_t *pos, const char *name)
{
    for (int i = 0; i < 3 * g->p.n_ids; i++)
        if (pos[i] != g->want[i])
            fail_msg("%s: axis %d, token %d: position %d, wanted %d", name, i / g->p.n_ids, i % g->p.n_ids,
                     (int)pos[i], (int)g->want[i]);
}

/* Calls check for each case of the golden file. */
static void each_case(void (*check)(const golden *g, const json_t *j, const char *name))
{
    err          e = {0};
    safetensors *st;
    json_t      *root, *row;
    size_t       i;
    OK(safetensors_open(&st, FIXTURE("golden/qwen2vl-tiny.f32.safetensors"), &e), e);
    OK(json_open(&root, FIXTURE("golden/qwen2vl-tiny.f32.json"), &e), e);
    assert_int_equal(json_array_size(json_object_get(root, "cases")), 5);
    json_array_foreach(json_object_get(root, "cases"), i, row)
    {
        golden      g = {0};
        const char *name = json_string_value(json_object_get(row, "name"));
        read_golden(&g, st, name);
        check(&g, row, name);
    }
    json_decref(root);
    safetensors_close(st);
}

static void check_whole(const golden *g, const json_t *j, const char *name)
{
    int32_t pos[3 * MAX_T];
    int     cursor = mrope_positions(pos, &g->p, 0);
    same_positions(g, pos, name);
    assert_int_equal(cursor - g->p.n_ids, json_integer_value(json_object_get(j, "rope_delta")));
}
static void positions_are_the_references(void **s) { (void)s; each_case(check_whole); }

/* Cut at every place that is not inside a picture; both halves together must be the whole. */
static void check_cut(const golden *g, const json_t *j, const char *name)
{
    (void)j;
    for (int cut = 0; cut <= g->p.n_ids; cut++) {
        int     first = 0, inside = 0, T = g->p.n_ids;
        int32_t pos[3 * MAX_T], half[3 * MAX_T];
        image_span late[MAX_SPANS];
        for (int i = 0; i < g->p.n_spans; i++) {
            image_span sp = g->span[i];
            if (cut > sp.start && cut < sp.start + sp.rows * sp.cols) inside = 1;
            if (sp.start < cut) first++;
            else late[i - first] = (image_span){sp.start - cut, sp.rows, sp.cols};
        }
        if (inside) continue;
        prompt head = {g->p.ids, cut, g->p.span, first},
               tail = {g->p.ids + cut, T - cut, late, g->p.n_spans - first};
        int    cursor = mrope_positions(half, &head, 0);
        for (int a = 0; a < 3; a++) memcpy(pos + a * T, half + a * cut, (size_t)cut * sizeof *pos);
        mrope_positions(half, &tail, cursor);
        for (int a = 0; a < 3; a++)
            memcpy(pos + a * T + cut, half + a * (T - cut), (size_t)(T - cut) * sizeof *pos);
        same_positions(g, pos, name);
    }
}
static void a_cut_prompt_has_the_positions_of_the_whole(void **s) { (void)s; each_case(check_cut); }

/* The worked example of the model's specification: 15 text tokens, 9 x 9 image tokens, 10 text tokens. */
static void text_goes_on_behind_the_largest_position(void **s)
{
    (void)s;
    int32_t    pos[3 * 106];
    image_span span = {15, 9, 9};
    prompt     p = {NULL, 106, &span, 1};
    assert_int_equal(mrope_positions(pos, &p, 0), 34);
    assert_int_equal(pos[14], 14);
    for (int a = 0; a < 3; a++) assert_int_equal(pos[a * 106 + 15], 15);
    int last = 15 + 80;
    assert_int_equal(pos[last], 15);
    assert_int_equal(pos[106 + last], 23);
    assert_int_equal(pos[2 * 106 + last], 23);
    for (int a = 0; a < 3; a++) assert_int_equal(pos[a * 106 + 96], 24);
    for (int a = 0; a < 3; a++) assert_int_equal(pos[a * 106 + 105], 33);
}

/* One row of seven: rows and columns must not be mixed up, nor the shorter side taken for the longer. */
static void a_flat_picture_counts_its_longer_side(void **s)
{
    (void)s;
    int32_t    pos[3 * 8];
    image_span span = {0, 1, 7};
    prompt     p = {NULL, 8, &span, 1};
    assert_int_equal(mrope_positions(pos, &p, 5), 13);
    const int32_t want[3 * 8] = {5, 5, 5, 5, 5, 5, 5, 12, 5, 5, 5, 5, 5, 5, 5, 12, 5, 6, 7, 8, 9, 10, 11, 12};
    assert_memory_equal(pos, want, sizeof want);
    p = (prompt){NULL, 0, NULL, 0};
    assert_int_equal(mrope_positions(pos, &p, 41), 41);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_are_the_references),
        cmocka_unit_test(a_cut_prompt_has_the_positions_of_the_whole),
        cmocka_unit_test(text_goes_on_behind_the_largest_position),
        cmocka_unit_test(a_flat_picture_counts_its_longer_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
