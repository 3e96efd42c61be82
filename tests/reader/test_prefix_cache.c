/* The prefix cache: who goes first, what may not go, that bytes add up, what its tier in host memory keeps, and that
 * threads and failures leave it whole. */
#include "tests/check.h"

#include <pthread.h>

#include "base/memory.h"
#include "reader/prefix_cache.h"

/* A device that has memory and nothing else; live and pinned count what was not freed, saves the blocks copied. */
typedef struct { kernels k; _Atomic int live, pinned, saves; bool lost; } device;

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
static void *device_alloc_host(kernels *k, size_t bytes)
{
    void *p = mem_alloc(bytes);
    if (p) ((device *)k)->pinned++;
    return p;
}
static void device_free_host(kernels *k, void *p)
{
    ((device *)k)->pinned--;
    free(p);
}
static void device_save(kernels *k, void *host, const void *src, size_t bytes)
{
    ((device *)k)->saves++;
    memcpy(host, src, bytes);
}
static void device_restore(kernels *k, void *dst, const void *host, size_t bytes)
{
    (void)k;
    memcpy(dst, host, bytes);
}
static bool device_sync(kernels *k, err *e)
{
    return !((device *)k)->lost || err_set(e, ERR_GPU, "gone");
}
static device new_device(void)
{
    device d;
    memset(&d, 0, sizeof d);
    d.k.alloc = device_alloc;
    d.k.free_ = device_free;
    d.k.alloc_host = device_alloc_host;
    d.k.free_host = device_free_host;
    d.k.save = device_save;
    d.k.restore = device_restore;
    d.k.sync = device_sync;
    return d;
}

static prefix_key key(int64_t id) { return prefix_key_of(id, 0, IMAGE_NATIVE, "a caption"); }

enum { KV = 1000, EACH = KV + sizeof(prefix_entry) };

static void put(prefix_cache *c, device *d, int64_t id)
{
    prefix_entry *p = prefix_cache_reserve(c, &d->k, key(id), KV);
    assert_non_null(p);
    memset(p->keys.data, (int)id, KV);
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
    prefix_cache *c = prefix_cache_new(3 * EACH, 0);
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
    prefix_cache *c = prefix_cache_new(2 * EACH + EACH / 2, 0);
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
    prefix_cache *c = prefix_cache_new(2 * EACH, 0), *none = prefix_cache_new(0, 0);
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
    prefix_cache *c = prefix_cache_new(4 * EACH, 0);
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
    prefix_cache *c = prefix_cache_new(4 * EACH, 0);
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
    prefix_cache *c = prefix_cache_new(4 * EACH, 0);
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
    prefix_cache *c = prefix_cache_new(4 * EACH, 0);
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
        prefix_cache *c = prefix_cache_new(4 * EACH, 0);
        mem_fail_after(n);
        prefix_entry *p = prefix_cache_reserve(c, &d.k, key(1), KV);
        mem_fail_after(-1);
        assert_null(p);
        assert_int_equal(stats(c).bytes, 0);
        put(c, &d, 1);
        prefix_cache_free(c, &d.k);
    }
    mem_fail_after(0);
    assert_null(prefix_cache_new(EACH, 0));
    mem_fail_after(-1);
    assert_int_equal(d.live, 0);
}

/* Many keys in one bucket chain: taking from its head, middle and end. */
static void thousands_of_entries_are_found_again(void **state)
{
    (void)state;
    enum { N = 20000 };
    device        d = new_device();
    prefix_cache *c = prefix_cache_new((size_t)N * EACH, 0);
    for (int i = 0; i < N; i++) put(c, &d, i);
    for (int i = 0; i < N; i++) assert_true(has(c, &d, i));
    for (int i = 0; i < 999; i++) put(c, &d, N + i); /* the first 999 go */
    for (int i = 0; i < N + 999; i++) assert_int_equal(has(c, &d, i), i >= 999);
    assert_int_equal(stats(c).evictions, 999);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live, 0);
}

/* ---- the tier in host memory ---- */

enum { BLOCK = PREFIX_BLOCK_BYTES };

/* On the device, in host memory, or not at all. */
static char where(prefix_cache *c, device *d, int64_t id)
{
    const prefix_entry *p = prefix_cache_find(c, key(id));
    char                is = !p ? '-' : p->keys.data ? 'd' : 'h';
    if (p) assert_int_equal(p->cursor, id);
    prefix_cache_release(c, &d->k, p);
    return is;
}

/* As candidate.c does it. */
static const prefix_entry *bring_back(prefix_cache *c, device *d, int64_t id, size_t kv_bytes)
{
    const prefix_entry *below = prefix_cache_find(c, key(id));
    if (!below || below->keys.data) return below;
    prefix_entry *p = prefix_cache_reserve(c, &d->k, key(id), kv_bytes);
    if (p) {
        prefix_cache_restore(below, &d->k, p->keys.data);
        p->cursor = below->cursor;
        prefix_cache_publish(c, p);
    }
    prefix_cache_release(c, &d->k, below);
    return p;
}

static void what_is_evicted_lies_in_host_memory_and_comes_back(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(2 * EACH, 3 * BLOCK);
    for (int i = 1; i <= 3; i++) put(c, &d, i);
    assert_int_equal(where(c, &d, 1), 'h');
    const prefix_entry *p = bring_back(c, &d, 1, KV);
    assert_non_null(p);
    for (int i = 0; i < KV; i++) assert_int_equal(((const char *)p->keys.data)[i], 1);
    prefix_cache_release(c, &d.k, p);
    assert_int_equal(where(c, &d, 1), 'd'); /* though its copy is still there */
    assert_int_equal(where(c, &d, 2), 'h');
    assert_int_equal(where(c, &d, 3), 'd');
    assert_int_equal(d.saves, 2);
    put(c, &d, 4); /* 1 goes again: without a copy */
    assert_int_equal(where(c, &d, 1), 'h');
    assert_int_equal(d.saves, 2);
    reader_cache_stats s = stats(c);
    assert_int_equal(s.hits, 6);
    assert_int_equal(s.host_hits, 4);
    assert_int_equal(s.misses, 0);
    assert_int_equal(s.evictions, 3);
    assert_int_equal(s.host_entries, 2);
    assert_int_equal(s.host_bytes, 2 * BLOCK);
    assert_int_equal(s.bytes, 2 * EACH);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

static void host_memory_is_bounded_and_the_least_recently_used_goes_first(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(EACH, 2 * BLOCK + BLOCK / 2);
    for (int i = 1; i <= 3; i++) put(c, &d, i);
    assert_int_equal(where(c, &d, 1), 'h'); /* now 2 is the oldest below */
    for (int i = 4; i <= 9; i++) {
        put(c, &d, i);
        assert_int_equal(stats(c).host_bytes, 2 * BLOCK);
        assert_int_equal(d.pinned, 2); /* blocks are used again */
        assert_int_equal(d.live, 1);
        if (i == 4) assert_true(where(c, &d, 1) == 'h' && where(c, &d, 2) == '-' && where(c, &d, 3) == 'h');
    }
    assert_int_equal(stats(c).host_evictions, 6);
    assert_int_equal(stats(c).host_limit_bytes, 2 * BLOCK + BLOCK / 2);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

static void a_copy_in_use_stays(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(EACH, BLOCK);
    put(c, &d, 1);
    put(c, &d, 2);
    const prefix_entry *held = prefix_cache_find(c, key(1));
    assert_null(held->keys.data);
    put(c, &d, 3); /* 2 finds no room below */
    assert_int_equal(where(c, &d, 2), '-');
    prefix_cache_clear(c, &d.k);
    assert_int_equal(where(c, &d, 1), '-');
    assert_int_equal(stats(c).host_bytes, BLOCK);
    put(c, &d, 4);
    put(c, &d, 5); /* 4 finds none either */
    char restored[KV];
    prefix_cache_restore(held, &d.k, restored);
    assert_int_equal(restored[KV - 1], 1);
    prefix_cache_release(c, &d.k, held);
    assert_int_equal(stats(c).host_bytes, 0);
    put(c, &d, 6);
    assert_int_equal(where(c, &d, 5), 'h');
    assert_int_equal(d.pinned, 1);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

/* One below, at and above whole blocks, in a tier that has room for three: each drives out those before it. */
static void every_byte_of_any_length_comes_back(void **state)
{
    (void)state;
    static const size_t length[] = {1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 12345, 3 * BLOCK, 3 * BLOCK + 1};
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(4 * BLOCK, 3 * BLOCK);
    for (size_t n = 0; n < sizeof length / sizeof *length; n++) {
        prefix_entry *p = prefix_cache_reserve(c, &d.k, key((int64_t)n), length[n]);
        uint8_t      *byte = p->keys.data;
        for (size_t i = 0; i < length[n]; i++) byte[i] = (uint8_t)(i * 31 + (i >> 8) + n);
        p->cursor = (int)n;
        prefix_cache_publish(c, p);
        prefix_cache_release(c, &d.k, p);
        /* as large as the cache: it has to go */
        prefix_cache_release(c, &d.k,
                             prefix_cache_reserve(c, &d.k, key(-1), 4 * BLOCK - sizeof(prefix_entry)));
        assert_int_equal(d.live, 0);
        assert_true(d.pinned <= 3);
        const prefix_entry *back = bring_back(c, &d, (int64_t)n, length[n]);
        if (length[n] > 3 * BLOCK) {
            assert_null(back);
            continue;
        }
        byte = back->keys.data;
        for (size_t i = 0; i < length[n]; i++)
            if (byte[i] != (uint8_t)(i * 31 + (i >> 8) + n)) fail_msg("byte %zu of %zu", i, length[n]);
        prefix_cache_release(c, &d.k, back);
    }
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

static void pinned_memory_that_is_refused_leaves_the_tier_as_large_as_it_is(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(EACH, 3 * BLOCK);
    for (int i = 1; i <= 3; i++) put(c, &d, i);
    assert_int_equal(d.pinned, 2);
    mem_fail_after(0); /* of 3's copy, no block but what the cache knows it by */
    put(c, &d, 4);
    assert_int_equal(stats(c).host_limit_bytes, 3 * BLOCK);
    mem_fail_after(1); /* the third block */
    put(c, &d, 7);
    mem_fail_after(-1);
    assert_int_equal(stats(c).host_limit_bytes, 2 * BLOCK);
    assert_int_equal(stats(c).host_bytes, 2 * BLOCK);
    assert_true(where(c, &d, 3) == '-' && where(c, &d, 4) == '-' && where(c, &d, 7) == 'd');
    assert_true(where(c, &d, 1) == 'h' && where(c, &d, 2) == 'h');
    put(c, &d, 5); /* 7 takes the place of the oldest */
    assert_true(where(c, &d, 1) == '-' && where(c, &d, 2) == 'h' && where(c, &d, 7) == 'h');
    assert_int_equal(d.pinned, 2);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

static void a_copy_that_failed_is_not_found(void **state)
{
    (void)state;
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(EACH, 3 * BLOCK);
    put(c, &d, 1);
    d.lost = true;
    put(c, &d, 2);
    d.lost = false;
    assert_int_equal(where(c, &d, 1), '-');
    assert_int_equal(where(c, &d, 2), 'd');
    assert_int_equal(stats(c).host_bytes, 0);
    put(c, &d, 3);
    assert_int_equal(where(c, &d, 2), 'h');
    assert_int_equal(d.pinned, 1); /* the block that the failed copy had */
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

/* ---- threads ---- */

typedef struct { prefix_cache *c; device *d; unsigned seed; } worker;

static void *hammer(void *arg)
{
    worker *w = arg;
    for (int i = 0; i < 20000; i++) {
        w->seed = w->seed * 1664525u + 1013904223u;
        int64_t       id = w->seed >> 8 & 15;
        const prefix_entry *p = bring_back(w->c, w->d, id, KV);
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

static void hammer_a_cache(size_t host_bytes)
{
    device        d = new_device();
    prefix_cache *c = prefix_cache_new(6 * EACH, host_bytes);
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
    assert_int_equal(s.host_bytes, (size_t)s.host_entries * BLOCK);
    assert_true(s.host_bytes <= host_bytes && (size_t)d.pinned * BLOCK <= host_bytes);
    assert_int_equal(s.host_hits > 0, host_bytes > 0);
    prefix_cache_free(c, &d.k);
    assert_int_equal(d.live + d.pinned, 0);
}

static void threads_never_see_a_half_made_or_freed_entry(void **state)
{
    (void)state;
    hammer_a_cache(0);
    hammer_a_cache(4 * BLOCK);
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
        cmocka_unit_test(what_is_evicted_lies_in_host_memory_and_comes_back),
        cmocka_unit_test(host_memory_is_bounded_and_the_least_recently_used_goes_first),
        cmocka_unit_test(a_copy_in_use_stays),
        cmocka_unit_test(every_byte_of_any_length_comes_back),
        cmocka_unit_test(pinned_memory_that_is_refused_leaves_the_tier_as_large_as_it_is),
        cmocka_unit_test(a_copy_that_failed_is_not_found),
        cmocka_unit_test(threads_never_see_a_half_made_or_freed_entry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
