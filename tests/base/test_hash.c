/* test_hash.c - the values of RFC 9923's reference code. */
#include "tests/check.h"
#include "base/hash.h"

static void published_values(void **state)
{
    (void)state;
    assert_true(fnv_text("") == 0xcbf29ce484222325u);
    assert_true(fnv_text("a") == 0xaf63dc4c8601ec8cu);
    assert_true(fnv_text("foobar") == 0x85944171f73967e8u);
    assert_true(fnv_byte(fnv_text("fooba"), 'r') == fnv_text("foobar"));
    assert_true(fnv_byte(FNV_START, (char)0xff) == (FNV_START ^ 0xff) * 0x100000001b3u); /* as bytes, not as chars */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(published_values)};
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
