/* check.cc - looks at every access a kernel makes to memory, and reports the first wrong one.
 *
 * g++ -fsanitize=thread puts a call before each load and store; ThreadSanitizer's library would define those
 * functions, here we do. An access may go to the thread's own stack, the kernel's parameters, constants of the
 * program (to read), a block of device memory, or shared memory. Anything else is out of bounds; host memory too, which
 * a GPU cannot reach.
 *
 * Shared memory is watched word by word, and byte by byte in words of which parts were touched: who wrote it last,
 * and two that read it since, of different warps if there are any. Two are enough: a writer is ordered with all of
 * its own warp or not, so if it conflicts with any reader it does so with one of the two (but for readers of one warp
 * that met in a __syncwarp of a partial mask).
 * At a block's start it is 0xff: NaN as a float, -1 as an index. Reading that is no error (padding may be read and
 * thrown away); it shows in the result where it matters. */
#include "tests/simt/inner.h"

#include <set>
#include <string>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

extern "C" {
extern char __executable_start[], _end[];                       /* by the linker */
extern char __start_simt_shared[] __attribute__((weak));        /* static __shared__ objects of all kernels;
                                                                   absent if none */
extern char __stop_simt_shared[] __attribute__((weak));
}

namespace simt {

/* A time and who: clock << 16 | ATOMIC_BIT | FLIGHT_BIT | number of the thread. 0: never. */
typedef uint64_t stamp;
enum { ATOMIC_BIT = 1 << 15, FLIGHT_BIT = 1 << 14, WHO = MAX_THREADS - 1 };
struct cell { stamp wrote, read, read_too; };

/* A cell a byte. In a word that is not split the first one's stands for all four. */
enum { WORD = 4 };
struct region { uintptr_t begin, end; cell *cells; bool *split; size_t dirty_from, dirty_to; };
static region dynamic, fixed; /* shared memory: the launch's, and the static objects */

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { perror("simt: memory"); _exit(1); }
    return p;
}
static void region_open(region *r, void *p, size_t bytes)
{
    r->begin = (uintptr_t)p;
    r->end = r->begin + bytes;
    size_t words = bytes / WORD + 2; /* begin may lie inside of one */
    r->cells = (cell *)reserve(words * WORD * sizeof(cell));
    r->split = (bool *)reserve(words);
    r->dirty_to = bytes;
}
void checks_open()
{
    /* no better aligned than is promised */
    region_open(&dynamic, (uint8_t *)reserve(DYNAMIC_MAX + PAGE) + 128, DYNAMIC_MAX);
    if (__start_simt_shared)
        region_open(&fixed, __start_simt_shared, (size_t)(__stop_simt_shared - __start_simt_shared));
}

/* -------------------------------------------------------------------------------------------------------- reports */
/* Where in the source, by binutils' addr2line if it is there. pc: behind the call, or behind a function's first
 * byte. */
static std::string place_of(const void *pc)
{
    char path[512], command[700], line[400];
    std::string lines;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (!pc || n <= 0) return lines;
    path[n] = '\0';
    snprintf(command, sizeof command, "addr2line -ipfC -e '%s' 0x%zx 2>/dev/null", path,
             (size_t)((uintptr_t)pc - 1 - (uintptr_t)__executable_start));
    FILE *f = popen(command, "r");
    if (!f) return lines;
    while (fgets(line, sizeof line, f)) lines += std::string("    ") + line;
    pclose(f);
    return lines;
}
static void print_place(const char *what, const void *pc)
{
    std::string lines = place_of(pc);
    if (!lines.empty()) fprintf(stderr, "    %s%s", what, lines.c_str() + 4);
}

/* g++ may have made two of one call; of those that are known, it is asked no more. */
bool same_place(const void *pc, const void *other)
{
    static std::set<std::pair<const void *, const void *>> same;
    if (pc == other || same.count({pc, other})) return true;
    std::string place = place_of(pc);
    if (!place.empty() && place != place_of(other)) return false;
    same.insert({pc, other});
    return true;
}
void report(const thread *t, const void *pc, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "simt: %s", in_kernel ? running.kernel_name : "host code");
    if (in_kernel && t)
        fprintf(stderr, ": block (%u, %u, %u) thread (%u, %u, %u)", simt_here.block.x, simt_here.block.y,
                simt_here.block.z, t->at.x, t->at.y, t->at.z);
    fputs(": ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    print_place("", pc);
    /* it may have been launched through a variable */
    if (in_kernel) print_place("kernel ", (const uint8_t *)running.kernel + 1);
    _exit(99); /* as a sanitizer's report does under tests/run.sh */
}

static const char *verb(access_kind kind)
{
    return kind == READ ? "reads" : kind == WRITE ? "writes" : "changes atomically";
}

/* ---------------------------------------------------------------------------------------------------------- races */
static uint64_t clock_of(const thread *t) { return t->clock > running.synced ? t->clock : running.synced + 1; }

static inline bool ordered(const thread *t, stamp s)
{
    uint64_t clock = s >> 16;
    if (clock <= running.synced) return true;
    int other = (int)(s & WHO), self = number_of(t);
    return other == self
           || (other / LANES == self / LANES
               && running.warps[self / LANES].seen[self % LANES][other % LANES] >= clock);
}

struct touch {
    const thread *t;
    const void *pc;
    const region *r;
    uintptr_t a;
    size_t bytes;
    access_kind kind;
    stamp now;
};

[[noreturn]] static void report_race(const touch *x, stamp other, access_kind other_kind)
{
    const uint3 *o = &running.threads[other & WHO].at;
    report(
        x->t, x->pc,
        "race: %s %zu bytes of %s shared memory at offset %zu; thread (%u, %u, %u) %s them with no barrier between",
        verb(x->kind), x->bytes, x->r == &dynamic ? "dynamic" : "static", (size_t)(x->a - x->r->begin), o->x, o->y,
        o->z, verb(other_kind));
}

[[noreturn]] static void report_flight(const touch *x, stamp s)
{
    const uint3 *o = &running.threads[s & WHO].at;
    report(
        x->t, x->pc,
        "%s %zu bytes of shared memory at offset %zu, for which thread (%u, %u, %u) has not waited since its cp.async",
        verb(x->kind), x->bytes, (size_t)(x->a - x->r->begin), o->x, o->y, o->z);
}

static inline void watch_cell(cell *c, const touch *x)
{
    stamp now = x->now;
    if (x->kind == READ && c->read == now) return; /* a write would have cleared it */
    if (c->wrote & FLIGHT_BIT && c->wrote >> 16 > running.started) report_flight(x, c->wrote);
    if (c->wrote != now && !ordered(x->t, c->wrote) && !(x->kind == ATOMIC && c->wrote & ATOMIC_BIT))
        report_race(x, c->wrote, c->wrote & ATOMIC_BIT ? ATOMIC : WRITE);
    if (x->kind == READ) {
        bool same_thread = (c->read & WHO) == (now & WHO), same_warp = (c->read & WHO) / LANES == (now & WHO) / LANES;
        bool keep = same_thread
                    || (same_warp && c->read_too >> 16 > running.synced
                        && (c->read_too & WHO) / LANES != (now & WHO) / LANES);
        if (!keep) c->read_too = c->read;
        c->read = now;
    } else {
        if (!ordered(x->t, c->read)) report_race(x, c->read, READ);
        if (!ordered(x->t, c->read_too)) report_race(x, c->read_too, READ);
        c->wrote = now;
        c->read = c->read_too = 0;
    }
}

static size_t word_of(const region *r, uintptr_t a) { return a / WORD - r->begin / WORD; }

static void watch(region *r, const thread *t, uintptr_t a, size_t bytes, access_kind kind, const void *pc)
{
    size_t from = a - r->begin, to = from + bytes;
    touch x = {t,
               pc,
               r,
               a,
               bytes,
               kind,
               clock_of(t) << 16 | (kind == ATOMIC ? (stamp)ATOMIC_BIT : 0) | (stamp)number_of(t)};
    if (kind != READ) {
        if (from < r->dirty_from) r->dirty_from = from;
        if (to > r->dirty_to) r->dirty_to = to;
    }
    for (uintptr_t at = a, end = a + bytes; at < end;) {
        size_t word = word_of(r, at), in_word = at % WORD, n = end - at < WORD - in_word ? end - at : WORD - in_word;
        cell  *c = &r->cells[word * WORD];
        if (n == WORD && !r->split[word]) watch_cell(c, &x);
        else {
            if (!r->split[word]) c[1] = c[2] = c[3] = c[0];
            r->split[word] = n < WORD || kind == READ; /* a write of all four makes them one again */
            for (size_t i = in_word; i < in_word + n; i++) watch_cell(&c[i], &x);
        }
        at += n;
    }
}

/* What access_by() has just seen written: whole words. */
static void mark(void *dst, size_t bytes, stamp s)
{
    uintptr_t a = (uintptr_t)dst;
    region   *r = a - dynamic.begin < DYNAMIC_MAX ? &dynamic : &fixed;
    for (size_t i = 0; i < bytes; i += WORD) r->cells[word_of(r, a + i) * WORD].wrote = s;
}
static stamp stamp_of(const thread *t) { return clock_of(t) << 16 | (stamp)number_of(t); }
void flight_begin(const thread *t, void *dst, size_t bytes) { mark(dst, bytes, stamp_of(t) | FLIGHT_BIT); }
void flight_end(const thread *t, void *dst, size_t bytes) { mark(dst, bytes, stamp_of(t)); }

/* --------------------------------------------------------------------------------------------------------- bounds */
bool is_shared(const void *p, size_t bytes)
{
    uintptr_t a = (uintptr_t)p;
    return (a >= dynamic.begin && a + bytes <= dynamic.begin + running.dynamic_bytes)
           || (a >= fixed.begin && a + bytes <= fixed.end);
}

[[noreturn]] static void report_bounds(const thread *t, uintptr_t a, size_t bytes, access_kind kind, const void *pc)
{
    char what[200];
    if (a >= dynamic.begin && a < dynamic.end)
        snprintf(what, sizeof what, "%zu bytes of dynamic shared memory at offset %zu of %zu", bytes,
                 (size_t)(a - dynamic.begin), running.dynamic_bytes);
    else if (a >= stacks_begin && a < stacks_end)
        snprintf(what, sizeof what, "%zu bytes of another thread's local memory", bytes);
    else if (a >= device_begin && a < device_end) {
        char where[120];
        memory_describe((const void *)a, where, sizeof where);
        snprintf(what, sizeof what, "%zu bytes of device memory out of bounds: %s", bytes, where);
    } else if (a >= (uintptr_t)__executable_start && a + bytes <= (uintptr_t)_end)
        snprintf(what, sizeof what, "%zu bytes of an object of the program: in a template __shared__ is that, "
                 "out of sight; DYNAMIC_SHARED is not", bytes);
    else
        snprintf(what, sizeof what, "%zu bytes at %p, which is no device memory", bytes, (void *)a);
    report(t, pc, "%s %s", verb(kind), what);
}

void access_by(const thread *t, const void *p, size_t bytes, access_kind kind, const void *pc)
{
    uintptr_t a = (uintptr_t)p;
    if (a >= stacks_begin && a < stacks_end) {
        if (a - (uintptr_t)stack_base(t->stack) < STACK_BYTES) return;
    } else if (a >= device_begin && a < device_end) {
        if (memory_touch_quickly(a, bytes) || memory_touch(p, bytes)) return;
    } else if (a >= dynamic.begin && a < dynamic.end) {
        if (a + bytes <= dynamic.begin + running.dynamic_bytes) return watch(&dynamic, t, a, bytes, kind, pc);
    } else if (a >= fixed.begin && a < fixed.end) {
        if (a + bytes <= fixed.end) return watch(&fixed, t, a, bytes, kind, pc);
    } else if (kind == READ && a >= (uintptr_t)__executable_start && a + bytes <= (uintptr_t)_end)
        return;
    else if (kind == READ && a - (uintptr_t)running.params < running.params_bytes)
        return;
    report_bounds(t, a, bytes, kind, pc);
}

/* Garbage where the last block wrote, and nothing beyond what the launch asked for. */
static void region_begin(region *r)
{
    if (r->dirty_to > r->dirty_from) memset((uint8_t *)r->begin + r->dirty_from, 0xff, r->dirty_to - r->dirty_from);
    r->dirty_from = r->end - r->begin;
    r->dirty_to = 0;
}
void shared_begin(size_t dynamic_bytes)
{
#ifdef __SANITIZE_ADDRESS__ /* no hooks tell what was written */
    ASAN_UNPOISON_MEMORY_REGION((void *)dynamic.begin, DYNAMIC_MAX);
    memset((void *)dynamic.begin, 0xff, dynamic_bytes);
    if (fixed.begin) memset((void *)fixed.begin, 0xff, fixed.end - fixed.begin);
    ASAN_POISON_MEMORY_REGION((uint8_t *)dynamic.begin + dynamic_bytes, DYNAMIC_MAX - dynamic_bytes);
#else
    (void)dynamic_bytes;
    region_begin(&dynamic);
    region_begin(&fixed);
#endif
}

/* ------------------------------------------------------------------------------------------------- what g++ calls */
/* Launchers are compiled with the kernels and come here too: they run on the host and may not touch the device. */
static inline void seen(const void *p, size_t bytes, access_kind kind, const void *pc)
{
    uintptr_t a = (uintptr_t)p;
    if (__builtin_expect(in_kernel, 1)) {
        if (a - running.stack_at < STACK_BYTES) return; /* the two most frequent, inline */
        if (__builtin_expect(counting, 0)) count_access(running.self, p, bytes, kind, pc);
        if (a - device_begin < device_end - device_begin && memory_touch_quickly(a, bytes)) return;
        access_by(running.self, p, bytes, kind, pc);
    } else if (a - device_begin < device_end - device_begin)
        report(NULL, pc, "%s %zu bytes of device memory", verb(kind), bytes);
}

} // namespace simt

using namespace simt;
#define PC __builtin_return_address(0)
void *simt_dynamic_shared(void) { return (void *)dynamic.begin; }

extern "C" {
void __tsan_init(void);
void __tsan_read_range(const void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes);
void __tsan_init(void) {}
void __tsan_read_range(const void *p, unsigned long bytes) { seen(p, bytes, READ, PC); }
void __tsan_write_range(void *p, unsigned long bytes) { seen(p, bytes, WRITE, PC); }
#define SIZE(n) \
    void __tsan_read##n(const void *p); \
    void __tsan_write##n(void *p); \
    void __tsan_unaligned_read##n(const void *p); \
    void __tsan_unaligned_write##n(void *p); \
    void __tsan_read##n(const void *p) { seen(p, n, READ, PC); } \
    void __tsan_write##n(void *p) { seen(p, n, WRITE, PC); } \
    void __tsan_unaligned_read##n(const void *p) { seen(p, n, READ, PC); } \
    void __tsan_unaligned_write##n(void *p) { seen(p, n, WRITE, PC); }
SIZE(1)
SIZE(2)
SIZE(4)
SIZE(8)
SIZE(16)
#undef SIZE

#ifndef __SANITIZE_ADDRESS__ /* with it, UndefinedBehaviorSanitizer's library has these */
/* What -fsanitize=undefined calls. The data of each begins with the place in the source. */
struct source_place { const char *file; uint32_t line, column; };
#define UNDEFINED(name, text, ...) \
    void __ubsan_handle_##name(source_place *at, ##__VA_ARGS__); \
    void __ubsan_handle_##name(source_place *at, ##__VA_ARGS__) \
    { report(running.self, NULL, "%s:%u: " text, at->file, at->line); }
UNDEFINED(out_of_bounds, "index out of the array's bounds", void *)
UNDEFINED(type_mismatch_v1, "pointer is null or not aligned for its type", void *)
UNDEFINED(add_overflow, "signed addition overflows", void *, void *)
UNDEFINED(sub_overflow, "signed subtraction overflows", void *, void *)
UNDEFINED(mul_overflow, "signed multiplication overflows", void *, void *)
UNDEFINED(negate_overflow, "negation overflows", void *)
UNDEFINED(divrem_overflow, "division by zero, or it overflows", void *, void *)
UNDEFINED(shift_out_of_bounds, "shift by a count outside the type", void *, void *)
#endif
}
