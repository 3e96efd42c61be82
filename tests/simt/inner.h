/* inner.h - what the files of the emulation share: the block that runs, its threads and warps, and the checks of
 * memory.
 *
 * Order     A thread runs until it has to wait, then the next one of its warp that can run, then the next warp's. So
 *           a kernel without barriers runs its threads as a plain loop on one stack (block.cc).
 * Clocks    What orders two accesses to shared memory. Time is one counter that every synchronisation moves on. A
 *           thread's accesses carry the time of its last synchronisation. An access at time c by thread q is ordered
 *           before what thread t does now if c is before the block's last __syncthreads, or q is a lane of t's warp
 *           and they have met in __syncwarp since: seen[t][q] >= c. Anything else by two threads, one of them
 *           writing, is a race, whatever order the emulation happens to run them in. Shuffles, votes, mma order
 *           nothing: PTX promises it of bar only. */
#ifndef JOMED_SIMT_INNER_H
#define JOMED_SIMT_INNER_H

#include <stddef.h>
#include <stdint.h>
#include <vector>
#define SIMT_INNER /* may write what the kernels see as constant */
#include "tests/simt/simt.h"

namespace simt {

enum { MAX_THREADS = 1024, LANES = 32, MAX_WARPS = MAX_THREADS / LANES };
enum { PAGE = 4096, STACK_BYTES = 256 << 10, DYNAMIC_MAX = 227 << 10, DYNAMIC_DEFAULT = 48 << 10 };

/* A warp function: all lanes of the mask bring their data, the last one does the work for all. */
struct warp_function {
    const char *name;
    void (*work)(unsigned mask, void *const data[LANES]);
};

struct copy_in_flight { uint8_t *dst; const uint8_t *src; int bytes_valid, group; };

enum thread_state : uint8_t { NEW, RUNS, AT_WARP, AT_BARRIER, LEFT };
struct thread {
    void                       *sp;
    int                         stack; /* once it has begun */
    int                         number;
    thread_state                state;
    uint3                       at;
    const warp_function        *function; /* AT_WARP: which, with whom, on what */
    unsigned                    mask;
    std::vector<copy_in_flight> copies;
    int                         n_groups; /* committed */
    uint64_t                    clock;
};
struct warp {
    unsigned lanes, left, waits, ready; /* bits; waits: in a warp function */
    void    *data[LANES];
    const void *barrier_pc; /* where its first lane waits in a barrier; NULL: none does */
    uint64_t seen[LANES][LANES]; /* [of][by] */
};

struct block {
    const char  *kernel_name;
    const void  *kernel, *params;
    size_t       params_bytes;
    void       (*invoke)(const void *kernel, const void *params);
    int          n_threads, n_warps, n_left, n_at_barrier;
    simt_barrier barrier; /* which one the first to arrive called */
    int          barrier_count, barrier_result;
    unsigned     ready_warps;
    size_t       dynamic_bytes;
    uint64_t     started, synced; /* time: at its start, at the last __syncthreads */
    thread      *self;            /* who runs */
    uintptr_t    stack_at;        /* its stack */
    thread       threads[MAX_THREADS];
    warp         warps[MAX_WARPS];
};
extern block running;              /* valid while a kernel runs; one does at a time */
extern uint64_t clock_now;
extern thread_local bool in_kernel; /* this host thread runs kernel code */

static inline int     number_of(const thread *t) { return t->number; }
static inline int     lane_of(const thread *t) { return number_of(t) % LANES; }
static inline warp   *warp_of(const thread *t) { return &running.warps[number_of(t) / LANES]; }
static inline thread *lane_at(const warp *w, int lane)
{
    return &running.threads[(w - running.warps) * LANES + lane];
}

/* fiber.cc: stacks, and the switch between them. */
void     fibers_open();
int      stack_take();
void     stack_give(int stack);
extern uintptr_t stacks_begin, stacks_end;
enum { SPAN = STACK_BYTES + PAGE }; /* each stack lies above a page that cannot be touched */
static inline uint8_t *stack_base(int stack) { return (uint8_t *)stacks_begin + (size_t)stack * SPAN + PAGE; }
void    *fiber_start(int stack, void (*entry)());
/* leaving: the stack of *from is not needed again. */
void     fiber_switch(void **from, void *to, int to_stack, bool leaving);
void     fiber_arrived();

/* block.cc */
void grid_run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
              void (*invoke)(const void *, const void *), const void *params, size_t params_bytes);
void warp_call(const warp_function *f, unsigned mask, void *data); /* returns when the whole mask has called */

/* check.cc. A report ends the process. */
enum access_kind { READ, WRITE, ATOMIC };
void checks_open();
void shared_begin(size_t dynamic_bytes);   /* a block begins: its shared memory is garbage */
void access_by(const thread *t, const void *p, size_t bytes, access_kind kind, const void *pc);
void flight_begin(const thread *t, void *dst, size_t bytes);  /* cp.async: may not be read before its wait */
void flight_end(const thread *t, void *dst, size_t bytes);
bool is_shared(const void *p, size_t bytes);

/* traffic.cc: what the accesses cost, while a test asks. */
extern bool counting;
void count_begin(const char *kernel);
void count_access(const thread *t, const void *p, size_t bytes, access_kind kind, const void *pc);
void count_rows(void *const row[8]); /* of 16 bytes of shared memory: a matrix of ldmatrix */
void count_met(const warp *w);       /* all lanes have met: what they did up to now belongs together */
/* Are two calls one in the source? Yes, where that cannot be told. */
bool same_place(const void *pc, const void *other);
[[noreturn]] void report(const thread *t, const void *pc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* memory.cc: device memory. */
extern uintptr_t device_begin, device_end; /* addresses that cudaMalloc may give */
extern uint16_t *held; /* of each page: how many bytes belong to a block | FRESH while they are not filled */
enum { FRESH = 0x8000 };
void  memory_open();
void *memory_take(size_t bytes);           /* NULL: more than the device has */
bool  memory_give(void *p);                /* false: not the start of a block */
bool  memory_holds(const void *p, size_t bytes); /* wholly inside one block */
bool  memory_touch(const void *p, size_t bytes); /* the same, before it is read or written */
void  memory_describe(const void *p, char *text, size_t text_bytes);
/* inside a page touched before, as nearly always */
static inline bool memory_touch_quickly(uintptr_t a, size_t bytes)
{
    size_t end = a % PAGE + bytes;
    return end <= PAGE && end <= held[(a - device_begin) / PAGE] && !(held[(a - device_begin) / PAGE] & FRESH);
}
struct memory_access { memory_access(); ~memory_access(); }; /* while one lives, the host can reach device memory */

} // namespace simt

#endif
