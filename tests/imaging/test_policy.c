/* test_policy.c - the resize chains of jomed-256, by Pillow: golden/image-policies.json
 * (tests/oracle/make_image_policies.py). */
#include "tests/imaging/fixture.h"
#include "base/json.h"
#include "imaging/policy.h"
#include "imaging/preprocess.h"

/* One row of the golden: the picture itself, and the sizes and the last hash that are wanted. */
typedef struct { image in; bool qwen; const json_t *steps; uint64_t hash; char what[96]; } chain;

static chain read_row(const json_t *row, const safetensors *decoded, arena *a)
{
    chain       c = {.qwen = strcmp(json_string_value(json_object_get(row, "family")), "qwen2_vl") == 0};
    const char *name = json_string_value(json_object_get(row, "image")),
               *hash = json_string_value(json_object_get(row, "hash"));
    int w = (int)json_integer_value(json_object_get(row, "width")),
        h = (int)json_integer_value(json_object_get(row, "height"));
    c.in = name ? (image){.width = w, .height = h, .rgb = (uint8_t *)(uintptr_t)need_tensor(decoded, name)->data}
                : synthetic(w, h, a);
    c.steps = json_object_get(row, "steps");
    c.hash = hash ? strtoull(hash, NULL, 16) : 0;
    snprintf(c.what, sizeof c.what, "%s %d x %d, %s", name ? name : "synthetic", w, h, c.qwen ? "qwen2_vl" : "llava");
    return c;
}

static void has_size(const chain *c, size_t step, const image *img)
{
    const json_t *s = json_array_get(c->steps, step);
    int w = (int)json_integer_value(json_array_get(s, 0)), h = (int)json_integer_value(json_array_get(s, 1));
    if (img->width != w || img->height != h)
        fail_msg("%s: step %zu gives %d x %d, Pillow %d x %d", c->what, step, img->width, img->height, w, h);
}

static void the_chains_are_pillows_to_the_bit(void **state)
{
    (void)state;
    err                  e = {0};
    json_t              *root, *row;
    safetensors         *decoded;
    qwen2vl_image_config q;
    pixtral_image_config p;
    size_t               i, refused = 0;
    OK(json_open(&root, FIXTURE("golden/image-policies.json"), &e), e);
    OK(safetensors_open(&decoded, FIXTURE("images/decoded.safetensors"), &e), e);
    OK(qwen2vl_image_config_open(&q, FIXTURE("qwen2vl-tiny"), &e), e);
    OK(pixtral_image_config_open(&p, FIXTURE("pixtral-tiny"), &e), e);
    p.longest_edge = 1024;
    assert_int_equal(json_array_size(json_object_get(root, "rows")), 60);
    json_array_foreach(json_object_get(root, "rows"), i, row)
    {
        arena  *a = arena_new(0);
        chain   c = read_row(row, decoded, a);
        image   first = c.in, small, last;
        pixel_plan px;
        size_t  step = 0;
        if (c.qwen && !json_is_array(c.steps)) {
            FAILS(qwen_vl_utils_image(&first, &c.in, a, &e), e, ERR_UNUSABLE, "200 times");
            e = (err){0};
            refused++;
            arena_free(a);
            continue;
        }
        if (c.qwen) {
            OK(qwen_vl_utils_image(&first, &c.in, a, &e), e);
            has_size(&c, step++, &first);
        }
        OK(jomed_256(&small, &first, a, &e), e);
        has_size(&c, step++, &small);
        if (c.qwen) OK(qwen2vl_plan(&px, &small, &q, a, &e), e);
        else OK(pixtral_plan(&px, &small, &p, a, &e), e);
        OK(image_resize_bicubic(&last, &small, px.x.n_out, px.y.n_out, a, &e), e);
        has_size(&c, step, &last);
        if (fnv1a(last.rgb, (size_t)last.width * (size_t)last.height * 3) != c.hash)
            fail_msg("%s: other pixels than Pillow's", c.what);
        arena_free(a);
    }
    assert_int_equal(refused, 4); /* of 256 to 1 and 201 to 1, either way */
    json_decref(root);
    safetensors_close(decoded);
}

/* 272 of these sizes end at 255, by the rounding of doubles; Python's own count. */
static void a_longest_side_may_end_at_255(void **state)
{
    (void)state;
    static const int first[] = {322, 347, 374, 389, 392, 394, 412};
    int              n = 0;
    arena           *a = arena_new(0);
    for (int w = 257; w < 3000; w++, arena_reset(a)) {
        err   e = {0};
        image in = {.width = w, .height = 1, .rgb = arena_take(a, (size_t)w * 3, &e)}, out;
        memset(in.rgb, 7, (size_t)w * 3);
        OK(jomed_256(&out, &in, a, &e), e);
        assert_int_equal(out.height, 28);
        if (out.width == 256) continue;
        assert_int_equal(out.width, 255);
        if (n < 7) assert_int_equal(w, first[n]);
        n++;
    }
    assert_int_equal(n, 272);
    arena_free(a);
}

static void names_are_parsed_and_nothing_else(void **state)
{
    (void)state;
    for (int i = 0; i < N_IMAGE_POLICIES; i++) {
        image_policy p = N_IMAGE_POLICIES;
        assert_true(image_policy_parse(&p, image_policy_name((image_policy)i)));
        assert_int_equal(p, i);
    }
    image_policy p = IMAGE_NATIVE;
    assert_string_equal(image_policy_name(IMAGE_JOMED_256), "jomed-256");
    assert_false(image_policy_parse(&p, "jomed"));
    assert_false(image_policy_parse(&p, ""));
    assert_false(image_policy_parse(&p, "Native"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_chains_are_pillows_to_the_bit),
        cmocka_unit_test(a_longest_side_may_end_at_255),
        cmocka_unit_test(names_are_parsed_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
