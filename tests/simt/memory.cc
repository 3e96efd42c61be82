/* memory.cc - device memory: addresses are never given twice, so a pointer that outlived its block is always found.
 *
 * The device is a range of addresses. A block begins on a page and is followed by at least one page that belongs to
 * none. For each page `held` says how many of its bytes, from the first on, belong to a block: one look answers
 * whether an access is inside; and whether it is still to be filled with 0xff, which happens when it is first
 * touched: a workspace is large and mostly idle. The whole range is out of the host's reach but while kernels and
 * copies run. */
#include "tests/simt/inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <map>
#include <sys/mman.h>
#include "tests/simt/control.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

static const size_t ADDRESSES = (size_t)256 << 30;

uintptr_t device_begin, device_end;
static uintptr_t                   top; /* the next block's address */
uint16_t                          *held;
static std::map<uintptr_t, size_t> blocks; /* bytes of each */
static size_t                      used, capacity = (size_t)16 << 30;
static int                         n_open;

void memory_open()
{
    int   flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(NULL, ADDRESSES, PROT_NONE, flags, -1, 0);
    void *h = mmap(NULL, ADDRESSES / PAGE * sizeof *held, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED || h == MAP_FAILED) { perror("simt: device memory"); exit(1); }
    device_begin = (uintptr_t)p;
    device_end = device_begin + ADDRESSES;
    top = device_begin + PAGE; /* before the first block is out of bounds like behind it */
    held = (uint16_t *)h;
}

static uint16_t *held_at(uintptr_t a) { return &held[(a - device_begin) / PAGE]; }

static void fill(uintptr_t page)
{
    memset((void *)page, 0xff, PAGE);
    *held_at(page) &= (uint16_t)~FRESH;
}

static void protect(int what)
{
    if (top > device_begin && mprotect((void *)device_begin, top - device_begin, what) != 0) {
        perror("simt: mprotect");
        exit(1);
    }
}
memory_access::memory_access()
{
    if (n_open++ == 0) protect(PROT_READ | PROT_WRITE);
}
memory_access::~memory_access()
{
    if (--n_open == 0) protect(PROT_NONE);
}

void *memory_take(size_t bytes)
{
    size_t span = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    if (bytes > capacity - used || span > device_end - top) return NULL;
    uintptr_t at = top;
    top += span;
    for (size_t done = 0; done < bytes; done += PAGE)
        *held_at(at + done) = (uint16_t)(std::min(bytes - done, (size_t)PAGE) | FRESH);
    blocks[at] = bytes;
    used += bytes;
    if (n_open > 0 && mprotect((void *)at, span, PROT_READ | PROT_WRITE) != 0) { perror("simt: mprotect"); exit(1); }
#ifdef __SANITIZE_ADDRESS__ /* no hooks tell what is touched first */
    memory_access open;
    for (size_t done = 0; done < bytes; done += PAGE) fill(at + done);
    ASAN_POISON_MEMORY_REGION((uint8_t *)at + bytes, span - bytes);
#endif
    return (void *)at;
}

bool memory_give(void *p)
{
    auto b = blocks.find((uintptr_t)p);
    if (b == blocks.end()) return false;
    for (size_t done = 0; done < b->second; done += PAGE) *held_at(b->first + done) = 0;
    madvise(p, (b->second + PAGE - 1) / PAGE * PAGE, MADV_DONTNEED);
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(p, b->second);
#endif
    used -= b->second;
    blocks.erase(b);
    return true;
}

bool memory_holds(const void *p, size_t bytes)
{
    uintptr_t a = (uintptr_t)p;
    if (bytes == 0) return true;
    if (a < device_begin || a >= device_end || bytes > device_end - a) return false;
    for (uintptr_t end = a + bytes; a < end; a = (a / PAGE + 1) * PAGE) {
        uintptr_t last = end - 1 < a / PAGE * PAGE + PAGE - 1 ? end - 1 : a / PAGE * PAGE + PAGE - 1;
        if (last % PAGE >= (*held_at(a) & ~FRESH)) return false;
    }
    return true;
}

bool memory_touch(const void *p, size_t bytes)
{
    if (!memory_holds(p, bytes)) return false;
    for (uintptr_t a = (uintptr_t)p / PAGE * PAGE; a < (uintptr_t)p + bytes; a += PAGE)
        if (*held_at(a) & FRESH) fill(a);
    return true;
}

void memory_describe(const void *p, char *text, size_t text_bytes)
{
    uintptr_t a = (uintptr_t)p;
    auto      b = blocks.upper_bound(a);
    if (b != blocks.begin() && a - std::prev(b)->first <= std::prev(b)->second + PAGE) {
        --b;
        snprintf(text, text_bytes, "offset %zu of a block of %zu bytes", (size_t)(a - b->first), b->second);
    } else if (b != blocks.end() && b->first - a <= PAGE)
        snprintf(text, text_bytes, "%zu bytes before a block of %zu bytes", (size_t)(b->first - a), b->second);
    else snprintf(text, text_bytes, "%p, in no block: freed, or far from any", p);
}

} // namespace simt

void   simt_set_memory(size_t bytes) { simt::capacity = bytes > simt::used ? bytes : simt::used; }
size_t simt_memory_used(void) { return simt::used; }

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    if (!free_bytes || !total_bytes) return cudaErrorInvalidValue;
    *free_bytes = simt::capacity - simt::used;
    *total_bytes = simt::capacity;
    return cudaSuccess;
}
