/* test_preprocess.c - the pixels that reach the towers: golden/qwen2vl-preprocess and pixtral-preprocess,
 * jina's of golden/jina-clip-tiny, the hashes of specs/models.md 2.5, all of smart_resize's table;
 * configurations that cannot be. */
#include <sys/stat.h>
#include <unistd.h>
#include "tests/imaging/fixture.h"
#include "base/json.h"
#include "imaging/preprocess.h"
#include "tests/pixels.h"

static kernels *kern; /* the CPU's */

static int setup(void **state)
{
    (void)state;
    err e = {0};
    return kernels_open(&kern, &(kernels_options){.device = "cpu", .threads = 1}, &e) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    kern->close(kern);
    return 0;
}

static qwen2vl_image_config qwen_config(void)
{
    qwen2vl_image_config c;
    err                  e = {0};
    OK(qwen2vl_image_config_open(&c, FIXTURE("qwen2vl-tiny"), &e), e);
    return c;
}

static void test_smart_resize_table(void **state)
{
    (void)state;
    json_t              *root;
    err                  e = {0};
    qwen2vl_image_config c = qwen_config();
    OK(json_open(&root, FIXTURE("golden/qwen2vl-preprocess.json"), &e), e);
    const json_t *rows = json_path(root, "smart_resize.rows");
    assert_int_equal(json_array_size(rows), 192);
    for (size_t i = 0; i < 192; i++) {
        int64_t v[6];
        int     h, w;
        for (size_t k = 0; k < 6; k++) v[k] = json_integer_value(json_array_get(json_array_get(rows, i), k));
        c.min_pixels = v[2];
        c.max_pixels = v[3];
        OK(qwen2vl_smart_resize(&h, &w, (int)v[0], (int)v[1], &c, &e), e);
        if (h != v[4] || w != v[5])
            fail_msg("%lld x %lld: %d x %d, golden %lld x %lld", (long long)v[0], (long long)v[1], h, w,
                     (long long)v[4], (long long)v[5]);
    }
    json_decref(root);
}

/* Halves go to the even multiple; an aspect of 200 is the last that passes. */
static void test_smart_resize_edges(void **state)
{
    (void)state;
    qwen2vl_image_config c = qwen_config();
    static const int row[][4] = {{448, 448, 448, 448},     {1024, 1024, 1036, 1036}, {256, 256, 252, 252},
                                 {28, 28, 56, 56},         {100, 2000, 112, 1988},   {3000, 4000, 2996, 4004},
                                 {5000, 5000, 3556, 3556}, {186, 255, 196, 252},     {70, 70, 56, 56},
                                 {42, 84, 56, 84},         {1, 1, 56, 56},           {1, 200, 28, 812}};
    err e = {0};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        int h, w;
        OK(qwen2vl_smart_resize(&h, &w, row[i][0], row[i][1], &c, &e), e);
        assert_int_equal(h, row[i][2]);
        assert_int_equal(w, row[i][3]);
    }
    int h, w;
    FAILS(qwen2vl_smart_resize(&h, &w, 1, 201, &c, &e), e, ERR_UNUSABLE, "200 times the other");
    assert_string_equal(e.problem, "image-aspect");
    assert_string_equal(e.field, "image");
    FAILS(qwen2vl_smart_resize(&h, &w, 6000, 29, &c, &e), e, ERR_UNUSABLE, "29 x 6000");
    FAILS(qwen2vl_smart_resize(&h, &w, 0, 5, &c, &e), e, ERR_BUG, "no size");
}

/* From the decoded goldens, so that only resizing and normalising are under test; @max20 and @min30 change the
 * limits. */
static void test_qwen2vl_goldens(void **state)
{
    (void)state;
    err          e = {0};
    safetensors *golden, *decoded;
    json_t      *root;
    OK(safetensors_open(&golden, FIXTURE("golden/qwen2vl-preprocess.safetensors"), &e), e);
    OK(safetensors_open(&decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    OK(json_open(&root, FIXTURE("golden/qwen2vl-preprocess.json"), &e), e);
    const json_t *images = json_path(root, "images");
    assert_int_equal(json_array_size(images), 11);
    arena *a = arena_new(0);
    for (size_t i = 0; i < json_array_size(images); i++, arena_reset(a)) {
        const json_t        *row = json_array_get(images, i);
        const char          *key = json_string_value(json_path(row, "key"));
        const tensor        *t = need_tensor(decoded, json_string_value(json_path(row, "image")));
        qwen2vl_image_config c = qwen_config();
        char                 name[128];
        image                in = {.width = (int)t->dim[1], .height = (int)t->dim[0]}, resized;
        pixel_plan           p;
        in.rgb = arena_take(a, (size_t)t->count, &e);
        memcpy(in.rgb, t->data, (size_t)t->count);
        OK(json_int(row, "min_pixels", &c.min_pixels, key, &e)
               && json_int(row, "max_pixels", &c.max_pixels, key, &e),
           e);
        OK(qwen2vl_plan(&p, &in, &c, a, &e), e);
        OK(image_resize_bicubic(&resized, &in, p.x.n_out, p.y.n_out, a, &e), e);
        snprintf(name, sizeof name, "%s/resized", key);
        same_pixels(&resized, need_tensor(golden, name), name);
        snprintf(name, sizeof name, "%s/image_grid_thw", key);
        const int64_t *grid = need_tensor(golden, name)->data;
        assert_true(grid[0] == 1 && grid[1] == p.y.n_out / 14 && grid[2] == p.x.n_out / 14);
        snprintf(name, sizeof name, "%s/pixel_values", key);
        const tensor *px = need_tensor(golden, name);
        assert_int_equal(px->dim[0], grid[1] * grid[2]);
        assert_int_equal(px->dim[1], 3 * 2 * 14 * 14);
        CLOSE(pixels_of(kern, &p, a), (const float *)px->data, (size_t)px->count, 1e-5, name);
    }
    arena_free(a);
    json_decref(root);
    safetensors_close(golden);
    safetensors_close(decoded);
}

static void test_qwen2vl_hashes(void **state)
{
    (void)state;
    static const struct { int w, h, nw, nh; uint64_t hash; } row[] = {{97, 61, 84, 56, 0xb3603a2d9ddb8fe5},
                                                                      {200, 150, 196, 140, 0xeca2226117f4912d},
                                                                      {37, 29, 84, 56, 0x4bf4c9a83abfa26d}};
    const qwen2vl_image_config c = qwen_config();
    for (size_t i = 0; i < 3; i++) {
        arena  *a = arena_new(0);
        err     e = {0};
        image   in = synthetic(row[i].w, row[i].h, a);
        pixel_plan p;
        OK(qwen2vl_plan(&p, &in, &c, a, &e), e);
        assert_int_equal(p.x.n_out, row[i].nw);
        assert_int_equal(p.y.n_out, row[i].nh);
        const float *px = pixels_of(kern, &p, a);
        assert_true(fnv1a(px, n_pixels(&p) * sizeof *px) == row[i].hash);
        if (i == 0) assert_true(px[0] == -1.7630656957626343f && px[1] == -1.5732861757278442f);
        arena_free(a);
    }
}

static pixtral_image_config pixtral_config(void)
{
    pixtral_image_config c;
    err                  e = {0};
    OK(pixtral_image_config_open(&c, FIXTURE("pixtral-tiny"), &e), e);
    return c;
}

/* Rows whose new side is 0 in the library, which then fails elsewhere, are refused here. */
static void test_pixtral_resize_table(void **state)
{
    (void)state;
    json_t              *root;
    err                  e = {0};
    pixtral_image_config c = pixtral_config();
    int                  refused = 0, h, w;
    OK(json_open(&root, FIXTURE("golden/pixtral-preprocess.json"), &e), e);
    const json_t *rows = json_path(root, "resize.rows");
    assert_int_equal(json_array_size(rows), 156);
    for (size_t i = 0; i < 156; i++) {
        int v[5];
        for (size_t k = 0; k < 5; k++) v[k] = (int)json_integer_value(json_array_get(json_array_get(rows, i), k));
        c.longest_edge = v[2];
        if (v[3] == 0 || v[4] == 0) {
            FAILS(pixtral_resize(&h, &w, v[0], v[1], &c, &e), e, ERR_UNUSABLE, "nothing is left");
            assert_string_equal(e.problem, "image-aspect");
            assert_string_equal(e.field, "image");
            e = (err){0};
            refused++;
            continue;
        }
        OK(pixtral_resize(&h, &w, v[0], v[1], &c, &e), e);
        if (h != v[3] || w != v[4])
            fail_msg("%d x %d, edge %d: %d x %d, golden %d x %d", v[0], v[1], v[2], h, w, v[3], v[4]);
    }
    assert_int_equal(refused, 3);
    FAILS(pixtral_resize(&h, &w, 0, 9, &c, &e), e, ERR_BUG, "no size");
    json_decref(root);
}

/* Patches back to [3,H,W], as the goldens and hashes have the pixels. */
static float *planes(const pixel_plan *p, arena *a)
{
    err          e = {0};
    int          H = p->y.n_out, W = p->x.n_out, patch = p->patch;
    const float *px = pixels_of(kern, p, a);
    float       *out = ARENA_NEW(a, float, 3 * H * W, &e);
    assert_non_null(out);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++) {
                const float *from = px + (size_t)(y / patch * (W / patch) + x / patch) * 3 * (size_t)(patch * patch);
                out[((size_t)c * (size_t)H + (size_t)y) * (size_t)W + (size_t)x] =
                    from[(c * patch + y % patch) * patch + x % patch];
            }
    return out;
}

static void test_pixtral_goldens(void **state)
{
    (void)state;
    err                        e = {0};
    safetensors               *golden, *decoded;
    const pixtral_image_config c = pixtral_config();
    OK(safetensors_open(&golden, FIXTURE("golden/pixtral-preprocess.safetensors"), &e), e);
    OK(safetensors_open(&decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    assert_int_equal(safetensors_count(golden), 18);
    arena *a = arena_new(0);
    for (int i = 0; i < safetensors_count(decoded); i++, arena_reset(a)) {
        const tensor *t = safetensors_at(decoded, i);
        image         in = {.width = (int)t->dim[1], .height = (int)t->dim[0]}, resized;
        pixel_plan    p;
        char          name[128];
        in.rgb = arena_take(a, (size_t)t->count, &e);
        memcpy(in.rgb, t->data, (size_t)t->count);
        OK(pixtral_plan(&p, &in, &c, a, &e), e);
        OK(image_resize_bicubic(&resized, &in, p.x.n_out, p.y.n_out, a, &e), e);
        snprintf(name, sizeof name, "%s/resized", t->name);
        same_pixels(&resized, need_tensor(golden, name), name);
        snprintf(name, sizeof name, "%s/pixel_values", t->name);
        const tensor *px = need_tensor(golden, name);
        assert_int_equal(px->count, (int64_t)n_pixels(&p));
        CLOSE(planes(&p, a), (const float *)px->data, (size_t)px->count, 1e-5, name);
    }
    arena_free(a);
    safetensors_close(golden);
    safetensors_close(decoded);
}

static void test_pixtral_hashes(void **state)
{
    (void)state;
    static const struct { int w, h, nw, nh; uint64_t hash; } row[] = {{97, 61, 112, 64, 0xdb48ebfbc42a9298},
                                                                      {200, 150, 208, 160, 0x65c31d24d812c6c5},
                                                                      /* 651.6 down */
                                                                      {1100, 700, 1024, 656, 0x1b596d89845196a1}};
    pixtral_image_config c = pixtral_config();
    c.longest_edge = 1024;
    for (size_t i = 0; i < 3; i++) {
        arena  *a = arena_new(0);
        err     e = {0};
        image   in = synthetic(row[i].w, row[i].h, a);
        pixel_plan p;
        OK(pixtral_plan(&p, &in, &c, a, &e), e);
        assert_int_equal(p.x.n_out, row[i].nw);
        assert_int_equal(p.y.n_out, row[i].nh);
        assert_true(fnv1a(planes(&p, a), n_pixels(&p) * sizeof(float)) == row[i].hash);
        arena_free(a);
    }
}

static void test_jina_hashes(void **state)
{
    (void)state;
    static const struct { int w, h; uint64_t hash; } row[] = {{300, 200, 0xd9e2c1130d934ebe},
                                                              /* offset 50.5 goes to 50 */
                                                              {211, 307, 0x7ee551404431a0ad},
                                                              {640, 480, 0x09db443f3034f88f}};
    jina_image_config c;
    err               e = {0};
    OK(jina_image_config_open(&c, FIXTURE("jina-clip-tiny"), &e), e);
    c.size = 224;
    for (size_t i = 0; i < 3; i++) {
        arena *a = arena_new(0);
        image  in = synthetic(row[i].w, row[i].h, a);
        pixel_plan p;
        for (int patch = 16; patch <= 224; patch += 208) { /* one patch is the planes themselves */
            OK(jina_plan(&p, &in, &c, patch, a, &e), e);
            assert_true(fnv1a(planes(&p, a), n_pixels(&p) * sizeof(float)) == row[i].hash);
        }
        arena_free(a);
    }
}

static void test_jina_goldens(void **state)
{
    (void)state;
    err               e = {0};
    safetensors      *golden, *decoded;
    jina_image_config c;
    OK(jina_image_config_open(&c, FIXTURE("jina-clip-tiny"), &e), e);
    OK(safetensors_open(&golden, FIXTURE("golden/jina-clip-tiny.safetensors"), &e), e);
    OK(safetensors_open(&decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    assert_int_equal(safetensors_count(decoded), 9);
    arena *a = arena_new(0);
    for (int i = 0; i < safetensors_count(decoded); i++, arena_reset(a)) {
        const tensor *t = safetensors_at(decoded, i);
        image         in = {.width = (int)t->dim[1], .height = (int)t->dim[0]};
        pixel_plan    p;
        char          name[128];
        in.rgb = arena_take(a, (size_t)t->count, &e);
        memcpy(in.rgb, t->data, (size_t)t->count);
        OK(jina_plan(&p, &in, &c, c.size, a, &e), e); /* one patch: [3, size, size] */
        snprintf(name, sizeof name, "%s/pixel_values", t->name);
        CLOSE(pixels_of(kern, &p, a), (const float *)need_tensor(golden, name)->data, n_pixels(&p), 1e-5, name);
    }
    arena_free(a);
    safetensors_close(golden);
    safetensors_close(decoded);
}

static void test_a_line_of_pixels_is_refused(void **state)
{
    (void)state;
    jina_image_config    c;
    qwen2vl_image_config q = qwen_config();
    err                  e = {0};
    OK(jina_image_config_open(&c, FIXTURE("jina-clip-tiny"), &e), e);
    arena  *a = arena_new(0);
    image   in = synthetic(1, 201, a), edge = synthetic(200, 1, a);
    pixel_plan p;
    FAILS(jina_plan(&p, &in, &c, c.size, a, &e), e, ERR_UNUSABLE, "1 x 201");
    assert_string_equal(e.problem, "image-aspect");
    FAILS(qwen2vl_plan(&p, &in, &q, a, &e), e, ERR_UNUSABLE, "1 x 201");
    e = (err){0};
    OK(jina_plan(&p, &edge, &c, c.size, a, &e), e);
    arena_free(a);
}

/* ---- configurations ------------------------------------------------------------------------------------------- */

static const char *write_config(const char *json)
{
    static char dir[] = "/tmp/jomed-config-XXXXXX", path[256];
    static bool made;
    if (!made) made = mkdtemp(dir) != NULL;
    assert_true(made);
    err e = {0};
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    if (json) OK(file_write(path, json, strlen(json), &e), e);
    else unlink(path);
    return dir;
}

static void test_configurations(void **state)
{
    (void)state;
    err                  e = {0};
    qwen2vl_image_config q;
    jina_image_config    j;
    OK(qwen2vl_image_config_open(&q, write_config("{}"), &e), e);
    assert_true(q.patch == 14 && q.merge == 2 && q.temporal == 2 && q.min_pixels == 3136 && q.max_pixels == 1003520);
    assert_true(q.norm.mean[0] == 0.48145466f && q.norm.std[2] == 0.27577711f);
    OK(qwen2vl_image_config_open(&q, write_config("{\"size\":{\"shortest_edge\":5000,\"longest_edge\":90000}}"),
                                 &e),
       e);
    assert_true(q.min_pixels == 5000 && q.max_pixels == 90000);
    /* the older name wins, as in the library */
    OK(qwen2vl_image_config_open(
           &q, write_config("{\"min_pixels\":4000,\"size\":{\"shortest_edge\":5000,\"longest_edge\":90000}}"), &e),
       e);
    assert_true(q.min_pixels == 4000 && q.max_pixels == 90000);
    OK(jina_image_config_open(&j, write_config("{}"), &e), e);
    assert_int_equal(j.size, 224);

    static const struct { const char *json, *part; } bad_qwen[] = {
        {NULL, "preprocessor_config.json"},
        {"{", "preprocessor_config.json: line 1"},
        {"{\"patch_size\":0}", "patch_size is 0; 1 to 64"},
        {"{\"patch_size\":\"14\"}", "patch_size is not a whole number"},
        {"{\"merge_size\":9}", "merge_size is 9"},
        {"{\"temporal_patch_size\":-1}", "temporal_patch_size is -1"},
        {"{\"min_pixels\":0}", "min_pixels is 0"},
        {"{\"min_pixels\":5000,\"max_pixels\":4000}", "min_pixels is more than max_pixels"},
        {"{\"image_mean\":[1,2]}", "image_mean is not three numbers"},
        {"{\"image_std\":[1,0,1]}", "image_std is out of range"},
        {"{\"image_std\":[1,null,1]}", "image_std is not three numbers"},
        {"{\"do_resize\":false}", "do_resize is false"},
        {"{\"do_normalize\":false}", "do_normalize is false"},
        {"{\"do_rescale\":false}", "do_rescale is false"},
        {"{\"resample\":2}", "resample is 2"},
        {"{\"rescale_factor\":1.0}", "rescale_factor is not 1/255"},
    };
    for (size_t i = 0; i < sizeof bad_qwen / sizeof *bad_qwen; i++)
        FAILS(qwen2vl_image_config_open(&q, write_config(bad_qwen[i].json), &e), e, ERR_FILE, bad_qwen[i].part);
    pixtral_image_config p;
    OK(pixtral_image_config_open(&p, write_config("{}"), &e), e);
    assert_true(p.patch == 16 && p.longest_edge == 1024 && p.norm.mean[0] == 0.48145466f);
    OK(pixtral_image_config_open(&p, write_config("{\"patch_size\":14,\"size\":{\"longest_edge\":1540}}"), &e), e);
    assert_true(p.patch == 14 && p.longest_edge == 1540);
    static const struct { const char *json, *part; } bad_pixtral[] = {
        {"{\"patch_size\":{\"height\":16,\"width\":14}}", "patch_size.height and patch_size.width differ"},
        {"{\"patch_size\":0}", "patch_size is 0; 1 to 64"},
        {"{\"size\":{\"longest_edge\":0}}", "size.longest_edge is 0; 1 to 32768"},
        {"{\"do_resize\":false}", "do_resize is false"},
        {"{\"resample\":2}", "resample is 2"},
        {"{\"rescale_factor\":1.0}", "rescale_factor is not 1/255"},
        {"{\"image_mean\":[1,2]}", "image_mean is not three numbers"},
    };
    for (size_t i = 0; i < sizeof bad_pixtral / sizeof *bad_pixtral; i++)
        FAILS(pixtral_image_config_open(&p, write_config(bad_pixtral[i].json), &e), e, ERR_FILE, bad_pixtral[i].part);
    e = (err){0};
    static const struct { const char *json, *part; } bad_jina[] = {
        {"{\"size\":0}", "size is 0; 1 to 4096"},      {"{\"size\":5000}", "size is 5000"},
        {"{\"interpolation\":\"bilinear\"}", "interpolation is not \"bicubic\""},
        {"{\"resize_mode\":\"longest\"}", "resize_mode is not \"shortest\""},
        {"{\"mean\":1}", "mean is not three numbers"}, {"{\"std\":[1,1,-1]}", "std is out of range"},
    };
    for (size_t i = 0; i < sizeof bad_jina / sizeof *bad_jina; i++)
        FAILS(jina_image_config_open(&j, write_config(bad_jina[i].json), &e), e, ERR_FILE, bad_jina[i].part);
    rmdir(write_config(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smart_resize_table),   cmocka_unit_test(test_smart_resize_edges),
        cmocka_unit_test(test_qwen2vl_goldens),      cmocka_unit_test(test_qwen2vl_hashes),
        cmocka_unit_test(test_pixtral_resize_table), cmocka_unit_test(test_pixtral_goldens),
        cmocka_unit_test(test_pixtral_hashes),       cmocka_unit_test(test_jina_hashes),
        cmocka_unit_test(test_jina_goldens),         cmocka_unit_test(test_a_line_of_pixels_is_refused),
        cmocka_unit_test(test_configurations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
