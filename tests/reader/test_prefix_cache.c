/* The prefix cache: who goes first, what may not go, that bytes add up, and that threads and failures leave it
 * whole. */
#include "tests/check.h"

#include <pthread.h>

#include "base/memory.h"
#include "reader/prefix_cache.h"

/* A device that has memory and nothing else; live counts what was not freed. */
typedef struct { kernels k; _Atomic int live; } device;

static void *device_alloc(kernels *k, size_t bytes)
{
    void *p = mem_alloc(bytes);
    if (p) ((device *)k)->live++;
    return p;
}
static void device_free(kernels *k, void *p)
{
    ((device *)k)->live--;
    free(p);
}
static device new_device(void)
{
    device d;
    memset(&d, 0, sizeof d);
    d.k.alloc = device_alloc;
    d.k.free_ = device_free;
    return d;
}

static prefix_key key(int64_t id) { return prefix_key_of(id, 0, IMAGE_NATIVE, "a caption"); }

enum { KV = 1000, EACH = KV + sizeof(prefix_entry) };

static void put(prefix_cache *c, device *d, int64_t id)
{
    prefix_entry *p = prefix_cache_reserve(c, &d->k, key(id), KV);
    assert_non_null(p);
    p->cursor = (int)id;
    prefix_cache_publish(c, p);
    prefix_cache_release(c, &d->k, p);
}

static bool has(prefix_cache *c, device *d, int64_t id)
{
    const prefix_entry *p = prefix_cache_find(c, key(id));
    if (p) assert_int_equal(p->cursor, id);
    prefix_cache_release(c, &d->k, p);
    return p != NULL;
}

static reader_cache_stats stats(prefix_cache *c)
{
    reader_cache_stats s;
    prefix_cache_read_stats(c, &s);
    return s;
}

static void the_least_recently_used_goes_first(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(3 * EACH);
    for (int i = 1; i <= 3; i++) put(c, &d, i);
    assert_int_equal(stats(c).bytes, 3 * EACH);
    assert_true(has(c, &d, 1)); /* now 2 is the oldest */
    put(c, &d, 4);
    assert_false(has(c, &d, 2));
    assert_true(has(c, &d, 1) && has(c, &d, 3) && has(c, &d, 4));
    reader_cache_stats s = stats(c);
    assert_int_equal(s.entries, 3);
    assert_int_equal(s.bytes, 3 * EACH);
    assert_int_equal(s.limit_bytes, 3 * EACH);
    assert_int_equal(s.evictions, 1);
    assert_int_equal(s.hits, 4);
    assert_int_equal(s.misses, 1);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

static void an_entry_in_use_stays(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(2 * EACH + EACH / 2);
    put(c, &d, 1);
    const prefix_entry *held = prefix_cache_find(c, key(1));
    put(c, &d, 2);
    put(c, &d, 3); /* 2 has to go, though 1 is older */
    assert_true(has(c, &d, 1));
    assert_false(has(c, &d, 2));
    const prefix_entry *also = prefix_cache_find(c, key(3));
    assert_null(prefix_cache_reserve(c, &d.k, key(4), KV)); /* all is held: no room, and nothing was dropped */
    assert_int_equal(stats(c).bytes, 2 * EACH);
    prefix_cache_release(c, &d.k, held);
    prefix_cache_release(c, &d.k, also);
    put(c, &d, 4);
    assert_false(has(c, &d, 1));
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

static void what_can_never_fit_evicts_nothing(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(2 * EACH), *none = prefix_cache_new(0);
    put(c, &d, 1);
    assert_null(prefix_cache_reserve(c, &d.k, key(2), 2 * EACH));
    assert_true(has(c, &d, 1));
    assert_null(prefix_cache_reserve(none, &d.k, key(1), 1));
    assert_int_equal(stats(none).bytes, 0);
    prefix_cache_free(c, &d.k);
    prefix_cache_free(none, &d.k);
    assert_int_equal(d.live, 0);
}

static void of_two_that_fill_the_same_the_first_wins(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(4 * EACH);
    prefix_entry       *x = prefix_cache_reserve(c, &d.k, key(1), KV), *y = prefix_cache_reserve(c, &d.k, key(1), KV);
    assert_int_equal(stats(c).bytes, 2 * EACH); /* counted from the moment it is taken */
    prefix_cache_publish(c, x);
    prefix_cache_publish(c, y);
    assert_int_equal(stats(c).entries, 1);
    prefix_cache_release(c, &d.k, y);
    assert_int_equal(stats(c).bytes, EACH);
    prefix_cache_release(c, &d.k, x);
    const prefix_entry *p = prefix_cache_find(c, key(1));
    assert_ptr_equal(p, x);
    prefix_cache_release(c, &d.k, p);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

static void what_was_not_published_is_not_found(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(4 * EACH);
    prefix_entry       *x = prefix_cache_reserve(c, &d.k, key(1), KV);
    assert_false(has(c, &d, 1));
    prefix_cache_release(c, &d.k, x); /* its pass failed */
    assert_int_equal(stats(c).bytes, 0);
    assert_int_equal(d.live, 0);
    prefix_cache_free(c, &d.k);
}

static void another_text_adapter_or_policy_is_another_prefix(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(4 * EACH);
    put(c, &d, 1);
    assert_null(prefix_cache_find(c, prefix_key_of(1, 0, IMAGE_NATIVE, "another caption")));
    assert_null(prefix_cache_find(c, prefix_key_of(1, 7, IMAGE_NATIVE, "a caption")));
    assert_null(prefix_cache_find(c, prefix_key_of(1, 0, IMAGE_JOMED_256, "a caption")));
    assert_null(prefix_cache_find(c, prefix_key_of(-1, 0, IMAGE_NATIVE, "a caption")));
    assert_true(has(c, &d, 1));
    prefix_cache_free(c, &d.k);
}

static void clearing_spares_what_is_in_use_until_its_release(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(4 * EACH);
    put(c, &d, 1);
    put(c, &d, 2);
    const prefix_entry *held = prefix_cache_find(c, key(2));
    prefix_cache_clear(c, &d.k);
    assert_int_equal(stats(c).entries, 0);
    assert_int_equal(stats(c).bytes, EACH);
    assert_int_equal(d.live, 1);
    assert_false(has(c, &d, 2));
    put(c, &d, 2); /* a new one under the same key */
    prefix_cache_release(c, &d.k, held);
    assert_true(has(c, &d, 2));
    assert_int_equal(stats(c).bytes, EACH);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

static void no_memory_is_no_room(void **state)
{
    (void)state;
    device d = new_device();
    for (int n = 0; n < 2; n++) { /* the entry, then its keys and values */
        prefix_cache *c = prefix_cache_new(4 * EACH);
        mem_fail_after(n);
        prefix_entry *p = prefix_cache_reserve(c, &d.k, key(1), KV);
        mem_fail_after(-1);
        assert_null(p);
        assert_int_equal(stats(c).bytes, 0);
        put(c, &d, 1);
        prefix_cache_free(c, &d.k);
    }
    mem_fail_after(0);
    assert_null(prefix_cache_new(EACH));
    mem_fail_after(-1);
    assert_int_equal(d.live, 0);
}

/* Many keys in one bucket chain: taking from its head, middle and end. */
static void thousands_of_entries_are_found_again(void **state)
{
    (void)state;
    enum { N = 20000 };
    device        d = new_device();
    prefix_cache *c = prefix_cache_new((size_t)N * EACH);
    for (int i = 0; i < N; i++) put(c, &d, i);
    for (int i = 0; i < N; i++) assert_true(has(c, &d, i));
    for (int i = 0; i < 999; i++) put(c, &d, N + i); /* the first 999 go */
    for (int i = 0; i < N + 999; i++) assert_int_equal(has(c, &d, i), i >= 999);
    assert_int_equal(stats(c).evictions, 999);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

typedef struct { prefix_cache *c; device *d; unsigned seed; } worker;

static void *hammer(void *arg)
{
    worker *w = arg;
    for (int i = 0; i < 20000; i++) {
        w->seed = w->seed * 1664525u + 1013904223u;
        int64_t       id = w->seed >> 8 & 15;
        const prefix_entry *p = prefix_cache_find(w->c, key(id));
        if (!p) {
            prefix_entry *fresh = prefix_cache_reserve(w->c, &w->d->k, key(id), KV);
            if (fresh) {
                memset(fresh->keys.data, (int)id, KV);
                fresh->cursor = (int)id;
                prefix_cache_publish(w->c, fresh);
            }
            p = fresh;
        }
        if (p && (p->cursor != id || ((const char *)p->keys.data)[KV - 1] != (char)id))
            return "an entry changed under its reader";
        prefix_cache_release(w->c, &w->d->k, p);
        if (i % 1000 == 0) prefix_cache_clear(w->c, &w->d->k);
    }
    return NULL;
}

static void threads_never_see_a_half_made_or_freed_entry(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(6 * EACH);
    pthread_t     t[3];
    worker        w[3];
    for (int i = 0; i < 3; i++) {
        w[i] = (worker){c, &d, (unsigned)i + 1};
        assert_int_equal(pthread_create(&t[i], NULL, hammer, &w[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        void *wrong;
        pthread_join(t[i], &wrong);
        if (wrong) fail_msg("%s", (char *)wrong);
    }
    reader_cache_stats s = stats(c);
    assert_int_equal(s.bytes, (size_t)s.entries * EACH);
    assert_int_equal(s.hits + s.misses, 60000);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_recently_used_goes_first),
        cmocka_unit_test(an_entry_in_use_stays),
        cmocka_unit_test(what_can_never_fit_evicts_nothing),
        cmocka_unit_test(of_two_that_fill_the_same_the_first_wins),
        cmocka_unit_test(what_was_not_published_is_not_found),
        cmocka_unit_test(another_text_adapter_or_policy_is_another_prefix),
        cmocka_unit_test(clearing_spares_what_is_in_use_until_its_release),
        cmocka_unit_test(no_memory_is_no_room),
        cmocka_unit_test(thousands_of_entries_are_found_again),
        cmocka_unit_test(threads_never_see_a_half_made_or_freed_entry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
