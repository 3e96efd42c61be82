/* test_safetensors.c - tensors are where the header says; every lie a header can tell is an error that names
 * file and tensor; shards, promises, needs. */
#include "tests/base/temporary.h"
#include "base/memory.h"
#include "base/safetensors.h"

static const char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = temporary_dir();
    return 0;
}
static int drop_dir(void **state)
{
    (void)state;
    remove_dir(dir);
    return 0;
}

/* A file of the header and n bytes 0, 1, 2, ... */
static const char *put_tensors(const char *name, const char *header, size_t n)
{
    static uint8_t bytes[70000];
    const uint64_t len = strlen(header);
    memcpy(bytes, &len, 8);
    memcpy(bytes + 8, header, len);
    for (size_t i = 0; i < n; i++) bytes[8 + len + i] = (uint8_t)i;
    return put_file(dir, name, bytes, 8 + len + n);
}

static void test_tensors_lie_where_the_header_says(void **state)
{
    (void)state;
    const char *path = put_tensors("model.safetensors",
                                   "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"b.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
                                   "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                                   "\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[28,36]},"
                                   "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[4,4]}}   ",
                                   36);
    const char *where[] = {path, dir};
    for (int i = 0; i < 2; i++) { /* the file, and the folder that holds it */
        safetensors *s;
        err          e = {0};
        OK(safetensors_open(&s, where[i], &e), e);
        assert_int_equal(safetensors_count(s), 4);
        assert_string_equal(safetensors_at(s, 0)->name, "a");
        assert_string_equal(safetensors_at(s, 3)->name, "empty");
        assert_null(safetensors_at(s, 4));
        assert_null(safetensors_at(s, -1));
        const tensor *a = safetensors_find(s, "a"), *b = safetensors_find(s, "b.weight"),
                     *c = safetensors_find(s, "c");
        assert_true(b->type == DTYPE_F32 && b->n_dims == 2 && b->dim[0] == 2 && b->dim[1] == 3 && b->count == 6
                    && b->bytes == 24);
        assert_true(c->type == DTYPE_I64 && c->n_dims == 0 && c->count == 1);
        assert_int_equal(*(const uint8_t *)a->data, 0);
        assert_int_equal(*(const uint8_t *)b->data, 4);
        assert_int_equal(*(const uint8_t *)c->data, 28);
        assert_int_equal(safetensors_find(s, "empty")->count, 0);
        assert_null(safetensors_find(s, "b"));
        assert_null(safetensors_find(s, "__metadata__"));
        assert_int_equal(safetensors_parameters(s), 2 + 6 + 1);
        assert_true(safetensors_bytes(s) > 36);
        safetensors_close(s);
    }
    safetensors_close(NULL);
    remove(path);
}

static void test_malformed_headers(void **state)
{
    (void)state;
#define ONE(fields) "{\"w\":{" fields "}}"
    static const struct { const char *header, *part;
    } row[] = {
        {"", "bad.safetensors: header"},
        {"{", "bad.safetensors: header"},
        {"[]", "not an object of tensors"},
        {"{} x", "bad.safetensors: header"},
        {ONE("\"shape\":[2],\"data_offsets\":[0,8]"), "w: unknown dtype"},
        {ONE("\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]"), "w: unknown dtype"},
        {ONE("\"dtype\":\"F12\",\"shape\":[2],\"data_offsets\":[0,8]"), "w: unknown dtype"},
        {ONE("\"dtype\":\"F32\",\"data_offsets\":[0,8]"), "w: shape is not a list"},
        {ONE("\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]"), "w: shape is not a list"},
        {ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]"), "at most 8 sizes"},
        {ONE("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]"), "w: shape holds a wrong size"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]"), "w: shape holds a wrong size"},
        {ONE("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"),
         "w: shape holds a wrong size"},
        {ONE("\"dtype\":\"F32\",\"shape\":[9223372036854775807,2],\"data_offsets\":[0,0]"),
         "w: shape holds a wrong size"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2]"), "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]"), "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,16]"), "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[\"0\",8]"), "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]"), "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]"), "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[8,24]"),
         "w: data offsets lie outside the file (is it truncated?)"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]"),
         "w: data offsets lie outside"},
        {ONE("\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]"),
         "w: 8 bytes of data do not fit its shape and dtype F32"},
        {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]"), "w: 8 bytes of data do not fit"},
        {ONE("\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,8]"),
         "w: 8 bytes of data do not fit its shape and dtype F64"},
        {ONE("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,8]"), "w: 8 bytes of data do not fit"},
        {"{\"w\":7}", "w: unknown dtype"},
        {"{\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}",
         "duplicate"},
        {"{\"v\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[7,15]}}",
         "w overlaps v"},
        {"{\"v\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
         "overlaps"},
        {"{\"v\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]},\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[4,12]}}",
         "w overlaps v"},
    };
#undef ONE
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        safetensors *s;
        err          e;
        const char  *path = put_tensors("bad.safetensors", row[i].header, 16);
        FAILS(safetensors_open(&s, path, &e), e, ERR_FILE, row[i].part);
        if (!strstr(e.text, "bad.safetensors")) fail_msg("'%s' names no file", e.text);
    }
    remove(inside(dir, "bad.safetensors"));
}

static void test_lengths_that_lie(void **state)
{
    (void)state;
    safetensors   *s;
    err            e;
    const uint64_t len[] = {3, 100, (uint64_t)1 << 40, UINT64_MAX, UINT64_MAX - 7};
    uint8_t        bytes[10] = {0};
    for (size_t i = 0; i < 5; i++) {
        memcpy(bytes, &len[i], 8);
        memcpy(bytes + 8, "{}", 2);
        FAILS(safetensors_open(&s, put_file(dir, "bad", bytes, 10), &e), e, ERR_FILE, "header length");
    }
    for (size_t n = 0; n < 8; n++)
        FAILS(safetensors_open(&s, put_file(dir, "bad", bytes, n), &e), e, ERR_FILE, "bad: too short");
    FAILS(safetensors_open(&s, inside(dir, "absent"), &e), e, ERR_FILE, "absent");
    uint64_t two = 2; /* no tensors at all is a lawful file */
    memcpy(bytes, &two, 8);
    e = (err){0};
    OK(safetensors_open(&s, put_file(dir, "bad", bytes, 10), &e), e);
    assert_int_equal(safetensors_count(s), 0);
    assert_null(safetensors_find(s, "w"));
    safetensors_close(s);
    remove(inside(dir, "bad"));
}

static const char INDEX[] = "model.safetensors.index.json";

static void put_index(const char *json) { put_file(dir, INDEX, json, strlen(json)); }

static void test_shards(void **state)
{
    static const char two[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                              "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}";
    (void)state;
    safetensors *s;
    err          e = {0};
    put_tensors("one.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8);
    put_tensors("two.safetensors", two, 5);
    put_index(
        "{\"metadata\":{},\"weight_map\":{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    OK(safetensors_open(&s, dir, &e), e);
    assert_int_equal(safetensors_count(s), 3);
    assert_non_null(strstr(safetensors_find(s, "a")->file, "one.safetensors"));
    assert_non_null(strstr(safetensors_find(s, "c")->file, "two.safetensors"));
    safetensors_close(s);

    /* a download that broke off: the shard and the first tensor that is not all there are named */
    put_tensors("two.safetensors", two, 4);
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE,
          "two.safetensors: c: data offsets lie outside the file (is it truncated?)");
    assert_int_equal(truncate(inside(dir, "two.safetensors"), 60), 0);
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "two.safetensors: header length");
    assert_int_equal(truncate(inside(dir, "two.safetensors"), 0), 0);
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "two.safetensors: ");
    put_tensors("two.safetensors", two, 5);

    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"d\":\"two.safetensors\"}}");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "d is promised in two.safetensors and not there");
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"three.safetensors\"}}");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "three.safetensors: No such file");
    put_index("{\"weight_map\":{\"a\":\"../one.safetensors\"}}");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "a: not the name of a file beside it");
    put_index("{\"weight_map\":{\"a\":7}}");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "a: not the name of a file beside it");
    put_index("{}");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "weight_map is missing");
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\"");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "model.safetensors.index.json: line");
    put_tensors("again.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"x\":\"again.safetensors\"}}");
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "a is also in");
    remove(inside(dir, INDEX));
    FAILS(safetensors_open(&s, dir, &e), e, ERR_FILE, "holds no model.safetensors");
    put_tensors("adapter_model.safetensors", "{\"l\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    e = (err){0};
    OK(safetensors_open(&s, dir, &e), e);
    assert_non_null(safetensors_find(s, "l"));
    safetensors_close(s);
}

static void test_needs(void **state)
{
    (void)state;
    safetensors *s;
    err          e = {0};
    const tensor *t;
    const char   *path = put_tensors("need.safetensors",
                                     "{\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                                     "\"i\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[12,16]},"
                                     "\"o\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[16,24]}}",
                                     24);
    OK(safetensors_open(&s, path, &e), e);
    OK(safetensors_need(s, &t, "w", (const int64_t[]){2, 3, -1}, &e), e);
    OK(safetensors_need(s, &t, "w", (const int64_t[]){0, 3, -1}, &e), e); /* 0 takes any */
    FAILS(safetensors_need(s, &t, "x", (const int64_t[]){2, -1}, &e), e, ERR_FILE,
          "need.safetensors: tensor x is missing");
    FAILS(safetensors_need(s, &t, "w", (const int64_t[]){3, 2, -1}, &e), e, ERR_FILE, "w: shape [2,3], wanted [3,2]");
    FAILS(safetensors_need(s, &t, "w", (const int64_t[]){0, 4, -1}, &e), e, ERR_FILE, "w: shape [2,3], wanted [*,4]");
    FAILS(safetensors_need(s, &t, "w", (const int64_t[]){2, 3, 1, -1}, &e), e, ERR_FILE,
          "w: shape [2,3], wanted [2,3,1]");
    FAILS(safetensors_need(s, &t, "w", (const int64_t[]){2, -1}, &e), e, ERR_FILE, "w: shape [2,3], wanted [2]");
    FAILS(safetensors_need(s, &t, "i", (const int64_t[]){1, -1}, &e), e, ERR_FILE,
          "i: dtype I32, wanted F32, F16 or BF16");
    FAILS(safetensors_need(s, &t, "o", (const int64_t[]){1, -1}, &e), e, ERR_FILE, "o: dtype another type");
    safetensors_close(s);
}

static void test_fixture_checkpoints_open(void **state)
{
    (void)state;
    static const char *const path[] = {FIXTURE("qwen2vl-tiny-bf16-sharded"), FIXTURE("qwen2vl-tiny-lora"),
                                       FIXTURE("jina-clip-tiny")};
    for (size_t i = 0; i < 3; i++) {
        safetensors *s;
        err          e = {0};
        OK(safetensors_open(&s, path[i], &e), e);
        assert_true(safetensors_count(s) > 20);
        for (int k = 1; k < safetensors_count(s); k++)
            assert_true(strcmp(safetensors_at(s, k - 1)->name, safetensors_at(s, k)->name) < 0);
        for (int k = 0; k < safetensors_count(s); k++) {
            const tensor *t = safetensors_at(s, k);
            assert_ptr_equal(safetensors_find(s, t->name), t);
            assert_int_equal(t->bytes, (size_t)t->count * dtype_bytes(t->type));
        }
        safetensors_close(s);
    }
}

static void test_without_memory(void **state)
{
    (void)state;
    int faults = 0;
    for (long n = 0;; n++) {
        safetensors *s;
        err          e = {0};
        mem_fail_after(n);
        bool ok = safetensors_open(&s, FIXTURE("qwen2vl-tiny-bf16-sharded"), &e);
        mem_fail_after(-1);
        if (ok) {
            safetensors_close(s);
            break;
        }
        assert_int_equal(e.code, ERR_MEMORY);
        faults++;
    }
    assert_true(faults >= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors_lie_where_the_header_says), cmocka_unit_test(test_malformed_headers),
        cmocka_unit_test(test_lengths_that_lie),                  cmocka_unit_test(test_shards),
        cmocka_unit_test(test_needs),                             cmocka_unit_test(test_fixture_checkpoints_open),
        cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
