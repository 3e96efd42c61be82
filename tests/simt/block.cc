/* block.cc - runs a grid: blocks one after another, the threads of a block as fibers, warp functions and barriers. */
#include "tests/simt/inner.h"

#include <stdio.h>
#include <string.h>

simt_position simt_here;

namespace simt {

block             running;
uint64_t          clock_now = 1;
thread_local bool in_kernel;
static void      *host_sp;

static const char *barrier_name(simt_barrier kind)
{
    static const char *const names[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and",
                                        "__syncthreads_count"};
    return names[kind];
}

static void make_ready(warp *w, unsigned lanes)
{
    w->ready |= lanes;
    running.ready_warps |= 1u << (w - running.warps);
}

/* ---------------------------------------------------------------------------------------------------- who is next */
/* The next thread that can run, taken off the ready ones: of the same warp if there is one, else of the warps after
 * it. */
static thread *take_next(warp *w)
{
    if (!w->ready) {
        unsigned later = running.ready_warps & ~((2u << (w - running.warps)) - 1);
        if (!running.ready_warps) return NULL;
        w = &running.warps[__builtin_ctz(later ? later : running.ready_warps)];
    }
    int lane = __builtin_ctz(w->ready);
    w->ready &= w->ready - 1;
    if (!w->ready) running.ready_warps &= ~(1u << (w - running.warps));
    return lane_at(w, lane);
}

/* Nobody can run and some have not left: they wait for each other. Say for whom the first of them waits. */
[[noreturn]] static void report_stuck()
{
    for (int i = 0; i < running.n_threads; i++) {
        thread *t = &running.threads[i];
        if (t->state != AT_WARP) continue;
        warp *w = warp_of(t);
        for (int l = 0; l < LANES; l++) {
            if (!(t->mask >> l & 1)) continue;
            const thread *other = lane_at(w, l);
            if (other->state == LEFT)
                report(t, NULL, "waits in %s with mask 0x%08x: lane %d has left the kernel", t->function->name,
                       t->mask, l);
            if (other->state == AT_BARRIER)
                report(t, NULL, "waits in %s with mask 0x%08x: lane %d waits in %s", t->function->name, t->mask, l,
                       barrier_name(running.barrier));
        }
    }
    for (int i = 0; i < running.n_threads; i++) /* as when lanes wait for each other with different masks */
        if (running.threads[i].state == AT_WARP)
            report(&running.threads[i], NULL, "waits in %s with mask 0x%08x for ever",
                   running.threads[i].function->name, running.threads[i].mask);
    report(NULL, NULL, "all threads wait");
}

static void thread_main();

static void becomes_self(thread *t)
{
    running.self = t;
    running.stack_at = (uintptr_t)stack_base(t->stack);
    simt_here.thread = t->at;
    t->state = RUNS;
}

static void go(void **from, thread *next, bool leaving)
{
    if (next->state == NEW) {
        next->stack = stack_take();
        next->sp = fiber_start(next->stack, thread_main);
    }
    becomes_self(next);
    fiber_switch(from, next->sp, next->stack, leaving);
}

/* The running thread cannot go on: others run, and this returns when it can. */
static void wait_for_others(thread *self)
{
    thread *next = take_next(warp_of(self));
    if (!next) report_stuck();
    go(&self->sp, next, false);
}

static void release_barrier()
{
    running.barrier_result = running.barrier == SIMT_SYNC_AND  ? running.barrier_count == running.n_at_barrier
                             : running.barrier == SIMT_SYNC_OR ? running.barrier_count > 0
                                                               : running.barrier_count;
    running.n_at_barrier = running.barrier_count = 0;
    running.synced = clock_now++;
    for (int i = 0; i < running.n_warps; i++) {
        warp *w = &running.warps[i];
        if (counting) count_met(w);
        w->barrier_pc = NULL;
        if (w->lanes & ~w->left) make_ready(w, w->lanes & ~w->left);
    }
}

/* One fiber runs thread after thread, as long as the next one has not begun: no switch, no new stack. */
static void thread_main()
{
    fiber_arrived();
    for (;;) {
        thread *self = running.self;
        running.invoke(running.kernel, running.params);
        self->state = LEFT;
        warp *w = warp_of(self);
        w->left |= 1u << lane_of(self);
        running.n_left++;
        /* Since Volta a barrier waits for the threads that have not left. */
        if (running.n_at_barrier > 0 && running.n_at_barrier + running.n_left == running.n_threads) release_barrier();
        thread *next = take_next(w);
        if (next && next->state == NEW) {
            next->stack = self->stack;
            becomes_self(next);
            continue;
        }
        stack_give(self->stack);
        if (next) go(&self->sp, next, true);
        if (running.n_left < running.n_threads) report_stuck();
        fiber_switch(&self->sp, host_sp, -1, true);
    }
}

/* -------------------------------------------------------------------------------------------------------- a block */
static void block_run(uint3 at)
{
    simt_here.block = at;
    running.n_left = running.n_at_barrier = running.barrier_count = 0;
    running.started = running.synced = clock_now++;
    for (int i = 0; i < running.n_warps; i++) {
        warp *w = &running.warps[i];
        int   n = running.n_threads - i * LANES;
        w->lanes = n >= LANES ? ~0u : (1u << n) - 1;
        w->left = w->waits = 0;
        w->barrier_pc = NULL;
        make_ready(w, w->lanes);
        memset(w->seen, 0, sizeof w->seen);
    }
    for (int i = 0; i < running.n_threads; i++) {
        thread *t = &running.threads[i];
        t->state = NEW;
        t->clock = 0;
        t->n_groups = 0;
        t->copies.clear();
    }
    shared_begin(running.dynamic_bytes);
    in_kernel = true;
    go(&host_sp, take_next(&running.warps[0]), false);
    in_kernel = false;
    for (int i = 0; counting && i < running.n_warps; i++) count_met(&running.warps[i]);
}

void grid_run(const char *name, const void *kernel, dim3 grid, dim3 dim, size_t dynamic_bytes,
              void (*invoke)(const void *, const void *), const void *params, size_t params_bytes)
{
    memory_access open;
    running.kernel_name = name;
    running.kernel = kernel;
    running.params = params;
    running.params_bytes = params_bytes;
    running.invoke = invoke;
    running.dynamic_bytes = dynamic_bytes;
    if (counting) count_begin(name);
    running.n_threads = (int)(dim.x * dim.y * dim.z);
    running.n_warps = (running.n_threads + LANES - 1) / LANES;
    simt_here.block_dim = dim;
    simt_here.grid_dim = grid;
    int i = 0;
    for (unsigned z = 0; z < dim.z; z++)
        for (unsigned y = 0; y < dim.y; y++)
            for (unsigned x = 0; x < dim.x; x++, i++) {
                running.threads[i].number = i;
                running.threads[i].at = {x, y, z};
            }
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) block_run({x, y, z});
}

/* --------------------------------------------------------------------------------------- warp functions, barriers */
/* Have all lanes of the mask called what self calls? A lane may still wait with others in an earlier call without
 * self; but if it waits for self in another call, they will never meet. */
static bool all_called(const warp *w, const thread *self, unsigned mask)
{
    if ((w->waits & mask) != mask) return false;
    for (unsigned left = mask; left; left &= left - 1) {
        const thread *other = lane_at(w, __builtin_ctz(left));
        if (other->function == self->function && other->mask == mask) continue;
        if (other->mask >> lane_of(self) & 1)
            report(self, NULL, "calls %s with mask 0x%08x while lane %d waits in %s with mask 0x%08x",
                   self->function->name, mask, lane_of(other), other->function->name, other->mask);
        return false;
    }
    return true;
}

void warp_call(const warp_function *f, unsigned mask, void *data)
{
    thread  *self = running.self;
    warp    *w = warp_of(self);
    int      lane = lane_of(self);
    unsigned bit = 1u << lane;
    if (!(mask & bit))
        report(self, NULL, "calls %s with mask 0x%08x, which lacks its own lane %d", f->name, mask, lane);
    if (mask & ~w->lanes)
        report(self, NULL, "calls %s with mask 0x%08x; its warp has the lanes 0x%08x", f->name, mask, w->lanes);
    self->function = f;
    self->mask = mask;
    w->data[lane] = data;
    w->waits |= bit;
    if (!all_called(w, self, mask)) {
        self->state = AT_WARP;
        wait_for_others(self);
        return;
    }
    if (counting && mask == ~0u) count_met(w);
    f->work(mask, w->data);
    w->waits &= ~mask;
    if (mask & ~bit) make_ready(w, mask & ~bit);
}

} // namespace simt

using namespace simt;

int simt_syncthreads(simt_barrier kind, int predicate)
{
    thread *self = running.self;
    if (running.n_at_barrier > 0 && running.barrier != kind)
        report(self, NULL, "calls %s while others wait in %s", barrier_name(kind), barrier_name(running.barrier));
    const void *pc = __builtin_return_address(0), *others = warp_of(self)->barrier_pc;
    if (others && !same_place(pc, others))
        report(self, pc, "calls %s where other lanes of its warp have called another one", barrier_name(kind));
    warp_of(self)->barrier_pc = pc;
    running.barrier = kind;
    running.barrier_count += predicate != 0;
    running.n_at_barrier++;
    if (running.n_at_barrier + running.n_left < running.n_threads) {
        self->state = AT_BARRIER;
        wait_for_others(self);
    } else {
        release_barrier();
        /* The last to come goes on first, so it is not among the ready. */
        warp *w = warp_of(self);
        w->ready &= ~(1u << lane_of(self));
        if (!w->ready) running.ready_warps &= ~(1u << (w - running.warps));
    }
    return running.barrier_result;
}
