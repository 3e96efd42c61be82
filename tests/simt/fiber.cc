/* fiber.cc - a stack for each thread of a block, and the switch between two.
 *
 * A warp function stops 31 threads and goes on with each again, so a tile of a product makes thousands of switches:
 * on x86-64 a switch saves the six registers a callee must keep and nothing else. Elsewhere it is POSIX's
 * swapcontext, which also asks the kernel for the signal mask at every switch. */
#include "tests/simt/inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

uintptr_t stacks_begin, stacks_end;
static int free_stacks[MAX_THREADS], n_free; /* last given, first taken: it is in the cache */

void fibers_open()
{
    size_t bytes = (size_t)SPAN * MAX_THREADS;
    void  *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { perror("simt: stacks"); exit(1); }
    stacks_begin = (uintptr_t)p;
    stacks_end = stacks_begin + bytes;
    for (int i = MAX_THREADS - 1; i >= 0; i--) {
        if (mprotect((uint8_t *)p + (size_t)i * SPAN, PAGE, PROT_NONE) != 0) { perror("simt: stacks"); exit(1); }
        free_stacks[n_free++] = i;
    }
}

int  stack_take() { return free_stacks[--n_free]; }
void stack_give(int stack) { free_stacks[n_free++] = stack; }

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
extern "C" void simt_switch(void **from, void *to);
asm(R"(
    .text
    .globl simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");

/* What simt_switch pops: six registers, then entry() as the address to return to, at which the stack must be 8 below
 * a multiple of 16, as after a call. */
void *fiber_start(int stack, void (*entry)())
{
    uintptr_t *sp = (uintptr_t *)(stack_base(stack) + STACK_BYTES) - 2;
    sp[0] = (uintptr_t)entry;
    sp[1] = 0; /* entry() never returns */
    for (int i = 1; i <= 6; i++) sp[-i] = 0;
    return sp - 6;
}
static inline void context_switch(void **from, void *to) { simt_switch(from, to); }
#else
static ucontext_t contexts[MAX_THREADS + 1]; /* one a stack, and the host's */
void *fiber_start(int stack, void (*entry)())
{
    ucontext_t *u = &contexts[stack];
    getcontext(u);
    u->uc_stack.ss_sp = stack_base(stack);
    u->uc_stack.ss_size = STACK_BYTES;
    u->uc_link = NULL;
    makecontext(u, entry, 0);
    return u;
}
static void context_switch(void **from, void *to)
{
    uintptr_t   here = (uintptr_t)__builtin_frame_address(0);
    bool        on_fiber = here >= stacks_begin && here < stacks_end;
    ucontext_t *u = &contexts[on_fiber ? (int)((here - stacks_begin) / SPAN) : (int)MAX_THREADS];
    *from = u;
    swapcontext(u, (ucontext_t *)to);
}
#endif

#ifdef __SANITIZE_ADDRESS__
/* AddressSanitizer must know which stack is in use. The host's own is learnt when the first fiber is entered from
 * it. */
static const void *host_bottom;
static size_t      host_bytes;
static bool        from_host;

void fiber_switch(void **from, void *to, int to_stack, bool leaving)
{
    void *fake = NULL;
    from_host = !((uintptr_t)__builtin_frame_address(0) >= stacks_begin
                  && (uintptr_t)__builtin_frame_address(0) < stacks_end);
    __sanitizer_start_switch_fiber(leaving ? NULL : &fake, to_stack >= 0 ? stack_base(to_stack) : host_bottom,
                                   to_stack >= 0 ? (size_t)STACK_BYTES : host_bytes);
    context_switch(from, to);
    const void *bottom;
    size_t      bytes;
    __sanitizer_finish_switch_fiber(fake, &bottom, &bytes);
}
void fiber_arrived() /* first thing on a new stack */
{
    const void *bottom;
    size_t      bytes;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
    if (from_host) { host_bottom = bottom; host_bytes = bytes; }
}
#else
void fiber_switch(void **from, void *to, int, bool) { context_switch(from, to); }
void fiber_arrived() {}
#endif

} // namespace simt
