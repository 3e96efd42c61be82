/* How large the cache of prefixes is where nobody said it, and what is refused. */
#include "tests/reader/golden.h"

#include <unistd.h>

enum { MiB = 1 << 20 };

static size_t auto_bytes(const char *dir, bool gpu, precision p)
{
    size_t bytes = 0;
    err    e = {0};
    OK(reader_auto_cache(&bytes, dir, gpu, p, &e), e);
    return bytes;
}

/* By hand: 2 x layers x key/value heads x head size x bytes of one x 400 x 256, or 64 on a CPU. */
static void it_has_room_for_prefixes_of_400_tokens(void **state)
{
    (void)state;
    assert_int_equal(auto_bytes(DEMO("reader"), false, PRECISION_F32), 2 * 5 * 64 * 4 * 25600); /* 62.5 MiB */
    assert_int_equal(auto_bytes(DEMO("reader"), false, PRECISION_BF16), 65536000); /* a CPU keeps f32 */
    assert_int_equal(auto_bytes(DEMO("reader"), true, PRECISION_F32), 250 * MiB);
    assert_int_equal(auto_bytes(DEMO("reader"), true, PRECISION_BF16), 125 * MiB);
}

/* Qwen2-VL-7B's decoder as published, and Pixtral-12B's, of which all but two fields are the class's defaults. */
static void the_published_models_have_gigabytes_on_a_gpu_and_one_on_a_cpu(void **state)
{
    (void)state;
    static const struct { const char *config; int64_t token; } t[] = {
        {"{\"model_type\": \"qwen2_vl\", \"hidden_size\": 3584, \"num_hidden_layers\": 28, "
         "\"num_attention_heads\": 28, \"num_key_value_heads\": 4, \"intermediate_size\": 18944, "
         "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [16, 24, 24]}}", 57344},
        {"{\"model_type\": \"llava\", \"text_config\": {\"model_type\": \"mistral\", \"hidden_size\": 5120, "
         "\"num_hidden_layers\": 40, \"head_dim\": 128, \"sliding_window\": null, \"rope_theta\": 1e9}}", 163840}};
    char dir[] = "/tmp/jomed-cache-size-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(t[i].config, f);
        fclose(f);
        assert_int_equal(auto_bytes(dir, true, PRECISION_BF16), t[i].token * 102400);
        assert_int_equal(auto_bytes(dir, true, PRECISION_F32), t[i].token * 204800);
        assert_int_equal(auto_bytes(dir, false, PRECISION_BF16), 1024 * (int64_t)MiB);
    }
    remove(path);
    size_t bytes;
    err    e = {0};
    FAILS(reader_auto_cache(&bytes, dir, true, PRECISION_BF16, &e), e, ERR_FILE, "config.json");
    rmdir(dir);
}

static void an_open_reader_has_the_cache_that_was_announced(void **state)
{
    (void)state;
    kernels           *k = open_cpu(PRECISION_F32, 1);
    reader            *r = open_reader(DEMO("reader"), CACHE_AUTO, k);
    reader_cache_stats s;
    reader_cache(r, &s);
    assert_int_equal(s.limit_bytes, 65536000);
    assert_int_equal(s.host_limit_bytes, 0);
    reader_close(r);
    k->close(k);
}

static void host_memory_behind_a_cpu_or_behind_no_cache_is_refused(void **state)
{
    (void)state;
    kernels       *k = open_cpu(PRECISION_F32, 1);
    reader        *r = NULL;
    err            e = {0};
    reader_options o = {.cache_bytes = CACHE_AUTO, .cache_host_bytes = 1};
    FAILS(reader_open(&r, DEMO("reader"), &o, k, &e), e, ERR_USAGE, "raise cache_mb instead");
    assert_string_equal(e.field, "cache_host_mb");
    assert_null(r);
    e = (err){0};
    FAILS(reader_cache_agrees(0, 1, true, &e), e, ERR_USAGE, "cache_mb is 0");
    e = (err){0};
    OK(reader_cache_agrees(1, 1, true, &e) && reader_cache_agrees(0, 0, false, &e), e);
    k->close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_has_room_for_prefixes_of_400_tokens),
        cmocka_unit_test(the_published_models_have_gigabytes_on_a_gpu_and_one_on_a_cpu),
        cmocka_unit_test(an_open_reader_has_the_cache_that_was_announced),
        cmocka_unit_test(host_memory_behind_a_cpu_or_behind_no_cache_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
