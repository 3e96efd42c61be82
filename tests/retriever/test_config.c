/* test_config.c - a published config.json leaves most sizes out; one that wants other arithmetic must be refused. */
#include "tests/check.h"

#include <unistd.h>
#include "base/file.h"
#include "retriever/config.h"

static char path[64];

static int make_path(void **state)
{
    (void)state;
    strcpy(path, "/tmp/jomed-config-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

static bool open_text(jina_config *c, const char *json, err *e)
{
    err w = {0};
    OK(file_write(path, json, strlen(json), &w), w);
    return jina_config_open(c, path, e);
}

static void published_file_gets_its_sizes_from_defaults(void **state)
{
    (void)state;
    jina_config c;
    err         e = {0};
    /* The published file, as far as it is known (specs/models.md 5.1). */
    OK(open_text(
           &c,
           "{\"add_projections\": false, \"projection_dim\": 768, \"logit_scale_init_value\": 2.6592,"
           "\"text_config\": {\"embed_dim\": 768, \"hf_model_name_or_path\": \"jinaai/jina-bert-flash-implementation\","
           "  \"hf_model_config_kwargs\": {\"use_flash_attn\": false}, \"pooler_type\": \"mean_pooler\", \"proj_type\": null,"
           "  \"proj_bias\": false},"
           "\"vision_config\": {\"embed_dim\": 768, \"image_size\": 224, \"patch_size\": 16, \"layers\": 12, \"head_width\": 64,"
           "  \"mlp_ratio\": 2.6667, \"ls_init_value\": null, \"naive_swiglu\": true, \"intp_freq\": false,"
           "  \"fused_layer_norm\": false, \"patch_dropout\": 0.1}}",
           &e),
       e);
    const vision_config v = c.vision;
    assert_int_equal(v.image_size, 224);
    assert_int_equal(v.grid, 14);
    assert_int_equal(v.layers, 12);
    assert_int_equal(v.width, 768);
    assert_int_equal(v.heads, 12);
    assert_int_equal(v.ffn, 2048);
    assert_int_equal(v.embed, 768);
    assert_false(v.interpolate);
    assert_int_equal(v.trained_grid, 14);
    const text_config t = c.text;
    assert_int_equal(t.layers, 12);
    assert_int_equal(t.heads, 12);
    assert_int_equal(t.width, 768);
    assert_int_equal(t.ffn, 3072);
    assert_int_equal(t.vocab, 0); /* as many as the file has */
    assert_int_equal(t.types, 2);
    assert_int_equal(t.pad_id, 0);
    assert_true(t.eps == 1e-12f);
}

static void absent_positions_mean_the_class_default_only_when_stretched(void **state)
{
    (void)state;
    jina_config c;
    err         e = {0};
    OK(open_text(&c, "{\"vision_config\": {\"intp_freq\": true}}", &e), e);
    assert_int_equal(c.vision.trained_grid, 16);
    OK(open_text(&c, "{\"vision_config\": {\"intp_freq\": false, \"pt_hw_seq_len\": 14}}", &e), e);
    assert_int_equal(c.vision.trained_grid, 14);
    FAILS(open_text(&c, "{\"vision_config\": {\"pt_hw_seq_len\": 16}}", &e), e, ERR_FILE,
          "pt_hw_seq_len is 16, but there are 14 x 14 patches and intp_freq is false");
}

static void inner_width_is_truncated_not_rounded(void **state)
{
    (void)state;
    jina_config c;
    err         e = {0};
    OK(open_text(
           &c,
           "{\"vision_config\": {\"width\": 128, \"embed_dim\": 128, \"mlp_ratio\": 2.67},"
           " \"text_config\": {\"embed_dim\": 128, \"hf_model_config_kwargs\": {\"hidden_size\": 128, \"num_attention_heads\": 4}}}",
           &e),
       e);
    assert_int_equal(c.vision.ffn, 341); /* 341.76 */
    assert_int_equal(c.vision.heads, 2);
    assert_int_equal(c.text.ffn, 512);
}

static void other_arithmetic_is_refused_by_name(void **state)
{
    (void)state;
    static const struct { const char *json, *part;
    } CASE[] = {
        {"{\"add_projections\": true}", "add_projections is true: not supported"},
        {"{\"model_type\": \"clip\"}", "model_type is \"clip\", wanted \"jina_clip\""},
        {"{\"vision_config\": {\"naive_swiglu\": false}}", "vision_config.naive_swiglu is false"},
        {"{\"vision_config\": {\"subln\": false}}", "vision_config.subln is false"},
        {"{\"vision_config\": {\"rope_embeddings\": false}}", "vision_config.rope_embeddings is false"},
        {"{\"vision_config\": {\"qkv_bias\": false}}", "vision_config.qkv_bias is false"},
        {"{\"vision_config\": {\"post_norm\": true}}", "vision_config.post_norm is true"},
        {"{\"vision_config\": {\"ls_init_value\": 0.1}}", "vision_config.ls_init_value is set"},
        {"{\"vision_config\": {\"proj_type\": \"linear\"}}", "vision_config.proj_type is set"},
        {"{\"vision_config\": {\"image_size\": 225}}", "image_size 225 is not a multiple of patch_size 16"},
        {"{\"vision_config\": {\"head_width\": 50}}",
         "head_width 50 must be a multiple of 4 that divides width 768"},
        {"{\"vision_config\": {\"head_width\": 6, \"width\": 96}}", "head_width 6 must be a multiple of 4"},
        {"{\"vision_config\": {\"layers\": 0}}", "vision_config.layers is 0, wanted 1 to 256"},
        {"{\"vision_config\": {\"layers\": 1000000000000}}", "vision_config.layers is 1000000000000"},
        {"{\"vision_config\": {\"layers\": \"12\"}}", "vision_config.layers is not a whole number"},
        {"{\"vision_config\": {\"mlp_ratio\": 1e30}}", "mlp_ratio is out of range"},
        {"{\"vision_config\": {\"mlp_ratio\": -1}}", "mlp_ratio is out of range"},
        {"{\"vision_config\": {\"intp_freq\": 1}}", "vision_config.intp_freq is not true or false"},
        {"{\"vision_config\": {\"embed_dim\": 512}}", "embeddings differ: vision_config.embed_dim 512"},
        {"{\"text_config\": {\"pooler_type\": \"cls_pooler\"}}",
         "text_config.pooler_type is \"cls_pooler\", wanted \"mean_pooler\""},
        {"{\"text_config\": {\"proj_type\": \"mlp\"}}", "text_config.proj_type is set"},
        {"{\"text_config\": {\"embed_dim\": 512}, \"vision_config\": {\"embed_dim\": 512}}",
         "text_config.embed_dim 512, text width 768"},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"mlp_type\": \"mlp\"}}}",
         "mlp_type is \"mlp\", wanted \"glu\""},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"hidden_act\": \"gelu_new\"}}}",
         "hidden_act is \"gelu_new\""},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"position_embedding_type\": \"absolute\"}}}",
         "position_embedding_type is \"absolute\""},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"use_qk_norm\": true}}}", "use_qk_norm is true"},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"num_attention_heads\": 7}}}",
         "hidden_size 768 is not a multiple of num_attention_heads 7"},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"layer_norm_eps\": 0}}}",
         "layer_norm_eps is out of range"},
        {"{\"text_config\": {\"hf_model_config_kwargs\": {\"hidden_size\": -4}}}",
         "hidden_size is -4, wanted 1 to"},
        {"[1]", "not a JSON object"},
    };
    jina_config c;
    err         e = {0};
    for (size_t i = 0; i < sizeof CASE / sizeof *CASE; i++)
        FAILS(open_text(&c, CASE[i].json, &e), e, ERR_FILE, CASE[i].part);
    FAILS(open_text(&c, "{", &e), e, ERR_FILE, path);
    FAILS(jina_config_open(&c, "/nonexistent/config.json", &e), e, ERR_FILE, "/nonexistent/config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_file_gets_its_sizes_from_defaults),
        cmocka_unit_test(absent_positions_mean_the_class_default_only_when_stretched),
        cmocka_unit_test(inner_width_is_truncated_not_rounded),
        cmocka_unit_test(other_arithmetic_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
