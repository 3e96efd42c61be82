/* test_sha256.c - FIPS 180-4 vectors; files; a model folder's identity: which files count, and that the order
 * does not. */
#include "tests/base/temporary.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/text.h"

static void test_fips_vectors(void **state)
{
    (void)state;
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    const struct { const char *in; size_t n; const char *hex;
    } row[] = {
        {"", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
         112, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
        {million, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        uint8_t h[SHA256_BYTES];
        char    hex[SHA256_HEX];
        sha256(h, row[i].in, row[i].n);
        hex_encode(hex, h, SHA256_BYTES);
        assert_string_equal(hex, row[i].hex);
    }
    free(million);
}

static void test_files(void **state)
{
    (void)state;
    const char *dir = temporary_dir();
    char        hex[SHA256_HEX];
    err         e = {0};
    OK(sha256_file(hex, put_file(dir, "abc", "abc", 3), &e), e);
    assert_memory_equal(hex, "ba7816bf", 8);
    OK(sha256_file(hex, put_file(dir, "empty", "", 0), &e), e);
    assert_memory_equal(hex, "e3b0c442", 8);
    FAILS(sha256_file(hex, inside(dir, "absent"), &e), e, ERR_FILE, "absent");
    remove_dir(dir);
}

static void test_identity_of_a_model_folder(void **state)
{
    (void)state;
    const char *dir = temporary_dir();
    char        one[SHA256_HEX], two[SHA256_HEX], hex[SHA256_HEX];
    err         e = {0};
    FAILS(sha256_model(one, dir, &e), e, ERR_FILE, "holds no model files");
    put_file(dir, "b.json", "{}", 2);
    put_file(dir, "a.txt", "abc", 3);
    e = (err){0};
    OK(sha256_model(one, dir, &e), e);

    /* as the header says it: NAME SHA256, in byte order of the names */
    char    list[512];
    uint8_t h[SHA256_BYTES];
    sha256(h, "abc", 3);
    hex_encode(hex, h, SHA256_BYTES);
    int n = snprintf(list, sizeof list, "a.txt %s\n", hex);
    sha256(h, "{}", 2);
    hex_encode(hex, h, SHA256_BYTES);
    n += snprintf(list + n, sizeof list - (size_t)n, "b.json %s\n", hex);
    sha256(h, list, (size_t)n);
    hex_encode(hex, h, SHA256_BYTES);
    assert_string_equal(one, hex);

    put_file(dir, "README.md", "x", 1);
    put_file(dir, "query_image.safetensors", "x", 1); /* tuned towers are no part of an index's identity */
    put_file(dir, "query_text.safetensors", "x", 1);
    OK(sha256_model(two, dir, &e), e);
    assert_string_equal(one, two);
    put_file(dir, "model.safetensors", "x", 1);
    OK(sha256_model(two, dir, &e), e);
    assert_string_not_equal(one, two);
    put_file(dir, "chat_template.jinja", "x", 1); /* it decides how a prompt is rendered */
    OK(sha256_model(one, dir, &e), e);
    assert_string_not_equal(one, two);
    FAILS(sha256_model(one, inside(dir, "absent"), &e), e, ERR_FILE, "absent");
    remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fips_vectors), cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_identity_of_a_model_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
