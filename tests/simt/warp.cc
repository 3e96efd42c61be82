/* warp.cc - the functions that the lanes of a warp do together, atomics, and cp.async.
 *
 * mma.m16n8k16 and ldmatrix lay fragments out as the PTX ISA manual says (section "Warp-level matrix instructions"):
 * with g = lane / 4 and j = lane % 4,
 *     a[0] = A[g][2j, 2j+1]   a[1] = A[g+8][..]   a[2] = A[g][2j+8, 2j+9]   a[3] = A[g+8][2j+8, 2j+9]
 *     b[0] = B[2j, 2j+1][g]   b[1] = B[2j+8, 2j+9][g]
 *     c[0] = C[g][2j]   c[1] = C[g][2j+1]   c[2] = C[g+8][2j]   c[3] = C[g+8][2j+1]
 * and the low half of a register is the first element.
 * The order in which a GPU adds the 16 products is not documented; here it is c, then k = 0, 1, .. 15, rounded to f32
 * after each. */
#include "tests/simt/inner.h"

#include <string.h>

using namespace simt;

/* ----------------------------------------------------------------------------------------------------- __syncwarp */
/* Who meets knows all that any of them knew, and what each has done up to now. */
static void sync_work(unsigned mask, void *const[])
{
    warp *w = warp_of(running.self);
    if (mask == ~0u) { /* all know the same: the newest of everything */
        for (int of = 0; of < LANES; of++)
            for (int by = 0; by < LANES; by++) w->seen[of][by] = clock_now;
    } else {
        uint64_t most[LANES] = {0};
        for (int of = 0; of < LANES; of++)
            if (mask >> of & 1)
                for (int by = 0; by < LANES; by++)
                    if (w->seen[of][by] > most[by]) most[by] = w->seen[of][by];
        for (int by = 0; by < LANES; by++)
            if (mask >> by & 1) most[by] = clock_now;
        for (int of = 0; of < LANES; of++)
            if (mask >> of & 1) memcpy(w->seen[of], most, sizeof most);
    }
    clock_now++;
    for (int of = 0; of < LANES; of++)
        if (mask >> of & 1) lane_at(w, of)->clock = clock_now;
}
static const warp_function syncwarp = {"__syncwarp", sync_work};
void simt_syncwarp(unsigned mask) { warp_call(&syncwarp, mask, NULL); }

/* ------------------------------------------------------------------------------------------------------- shuffles */
struct shuffle { uint64_t value, got; int arg, width; };

template <simt_shuffle KIND> static int source_of(int lane, const shuffle *s)
{
    int first = lane & ~(s->width - 1), from;
    switch (KIND) {
    case SIMT_SHFL: return first | (s->arg & (s->width - 1));
    case SIMT_SHFL_UP: from = lane - s->arg; return from < first ? lane : from;
    case SIMT_SHFL_DOWN: from = lane + s->arg; return from >= first + s->width ? lane : from;
    case SIMT_SHFL_XOR: from = lane ^ s->arg; return from >= first + s->width ? lane : from;
    }
    return lane;
}
template <simt_shuffle KIND> static void shuffle_work(unsigned mask, void *const data[])
{
    warp *w = warp_of(running.self);
    for (unsigned left = mask; left; left &= left - 1) {
        int      lane = __builtin_ctz(left);
        shuffle *s = (shuffle *)data[lane];
        if (s->width < 1 || s->width > LANES || (s->width & (s->width - 1)))
            report(lane_at(w, lane), NULL, "shuffles with width %d, which is no power of two up to 32", s->width);
        int from = source_of<KIND>(lane, s);
        if (from < 0 || from >= LANES || !(mask >> from & 1))
            report(lane_at(w, lane), NULL, "shuffles from lane %d, which the mask 0x%08x lacks", from, mask);
        s->got = ((shuffle *)data[from])->value;
    }
}
static const warp_function shuffles[] = {
    {"__shfl_sync", shuffle_work<SIMT_SHFL>},
    {"__shfl_up_sync", shuffle_work<SIMT_SHFL_UP>},
    {"__shfl_down_sync", shuffle_work<SIMT_SHFL_DOWN>},
    {"__shfl_xor_sync", shuffle_work<SIMT_SHFL_XOR>},
};
uint64_t simt_shfl(simt_shuffle kind, unsigned mask, uint64_t value, int arg, int width)
{
    shuffle s = {value, 0, arg, width};
    warp_call(&shuffles[kind], mask, &s);
    return s.got;
}

/* ---------------------------------------------------------------------------------------------- votes, reductions */
struct vote { uint64_t value, got; simt_arith op; bool is_signed; };

static void ballot_work(unsigned mask, void *const data[])
{
    unsigned yes = 0;
    for (unsigned left = mask; left; left &= left - 1)
        if (((vote *)data[__builtin_ctz(left)])->value) yes |= left & -left;
    for (unsigned left = mask; left; left &= left - 1) ((vote *)data[__builtin_ctz(left)])->got = yes;
}
static void match_work(unsigned mask, void *const data[])
{
    for (unsigned left = mask; left; left &= left - 1) {
        vote *v = (vote *)data[__builtin_ctz(left)];
        for (unsigned other = mask; other; other &= other - 1)
            if (((vote *)data[__builtin_ctz(other)])->value == v->value) v->got |= other & -other;
    }
}

static uint64_t arith(simt_arith op, uint64_t old, uint64_t v, int bytes, bool is_signed)
{
    bool less = is_signed ? (bytes == 4 ? (int32_t)v < (int32_t)old : (int64_t)v < (int64_t)old) : v < old;
    switch (op) {
    case SIMT_ADD: return old + v;
    case SIMT_SUB: return old - v;
    case SIMT_MIN: return less ? v : old;
    case SIMT_MAX: return less ? old : v;
    case SIMT_EXCH: return v;
    case SIMT_AND: return old & v;
    case SIMT_OR: return old | v;
    case SIMT_XOR: return old ^ v;
    }
    return old;
}
static void reduce_work(unsigned mask, void *const data[])
{
    vote    *first = (vote *)data[__builtin_ctz(mask)];
    uint64_t sum = first->value;
    for (unsigned left = mask & (mask - 1); left; left &= left - 1)
        sum = arith(first->op, sum, ((vote *)data[__builtin_ctz(left)])->value, 4, first->is_signed);
    for (unsigned left = mask; left; left &= left - 1) ((vote *)data[__builtin_ctz(left)])->got = sum;
}

static const warp_function ballot = {"__ballot_sync", ballot_work}, match_any = {"__match_any_sync", match_work},
                           reduce = {"__reduce_sync", reduce_work};
unsigned simt_ballot(unsigned mask, int predicate)
{
    vote v = {predicate != 0, 0, SIMT_ADD, false};
    warp_call(&ballot, mask, &v);
    return (unsigned)v.got;
}
unsigned simt_match_any(unsigned mask, uint64_t value)
{
    vote v = {value, 0, SIMT_ADD, false};
    warp_call(&match_any, mask, &v);
    return (unsigned)v.got;
}
uint32_t simt_reduce(simt_arith op, unsigned mask, uint32_t value, int is_signed)
{
    vote v = {value, 0, op, is_signed != 0};
    warp_call(&reduce, mask, &v);
    return (uint32_t)v.got;
}

/* -------------------------------------------------------------------------------------------------------- atomics */
uint64_t simt_atomic(simt_arith op, void *p, uint64_t value, int bytes, int is_signed)
{
    uint64_t old = 0, mask = bytes == 4 ? 0xffffffffu : ~0ull;
    access_by(running.self, p, (size_t)bytes, ATOMIC, __builtin_return_address(0));
    memcpy(&old, p, (size_t)bytes);
    uint64_t now = arith(op, old, value & mask, bytes, is_signed != 0);
    memcpy(p, &now, (size_t)bytes);
    return old;
}
uint64_t simt_cas(void *p, uint64_t expected, uint64_t desired, int bytes)
{
    uint64_t old = 0, mask = bytes == 4 ? 0xffffffffu : ~0ull;
    access_by(running.self, p, (size_t)bytes, ATOMIC, __builtin_return_address(0));
    memcpy(&old, p, (size_t)bytes);
    if (old == (expected & mask)) memcpy(p, &desired, (size_t)bytes);
    return old;
}

/* ------------------------------------------------------------------------------------------------------- cp.async */
void *simt_dynamic_shared(void);

void simt_cp_async(void *dst, const void *src, int bytes_valid)
{
    thread     *self = running.self;
    const void *pc = __builtin_return_address(0);
    if ((uintptr_t)dst % 16 || (uintptr_t)src % 16)
        report(self, pc, "cp.async: %p or %p is not aligned to 16 bytes", dst, src);
    if (bytes_valid < 0 || bytes_valid > 16) report(self, pc, "cp.async: %d valid bytes of 16", bytes_valid);
    if (!is_shared(dst, 16)) report(self, pc, "cp.async: %p is not shared memory", dst);
    if (bytes_valid > 0) access_by(self, src, (size_t)bytes_valid, READ, pc);
    access_by(self, dst, 16, WRITE, pc);
    if (counting) {
        if (bytes_valid > 0) count_access(self, src, (size_t)bytes_valid, READ, pc);
        count_access(self, dst, 16, WRITE, pc);
    }
    flight_begin(self, dst, 16);
    memset(dst, 0xff, 16);
    self->copies.push_back({(uint8_t *)dst, (const uint8_t *)src, bytes_valid, self->n_groups});
}
void simt_cp_async_commit(void) { running.self->n_groups++; }

/* Groups end in the order they were committed; what is not committed stays under way. */
void simt_cp_async_wait(int n_left)
{
    thread *self = running.self;
    size_t  n = 0;
    for (; n < self->copies.size() && self->copies[n].group < self->n_groups - n_left; n++) {
        const copy_in_flight *c = &self->copies[n];
        memcpy(c->dst, c->src, (size_t)c->bytes_valid);
        memset(c->dst + c->bytes_valid, 0, (size_t)(16 - c->bytes_valid));
        flight_end(self, c->dst, 16);
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)n);
}

/* ldmatrix and mma are .aligned: all lanes must come to the same instruction, not to another one of its kind. */
static void check_aligned(int lane, const void *pc, const void *first, const char *name)
{
    if (pc != first && !same_place(pc, first))
        report(lane_at(warp_of(running.self), lane), pc, "calls %s where lane 0 has called another one", name);
}

/* ------------------------------------------------------------------------------------------------------- ldmatrix */
struct load { const uint8_t *row; const void *pc; int n, transposed; uint32_t got[4]; };

/* Row r of matrix m is at lane 8m + r's address. Plain: lane l gets elements 2j, 2j+1 of row g. Transposed: element g
 * of rows 2j, 2j+1. Each lane's own reads are checked, since a lane reads what another one may have written without a
 * barrier. */
static void ldmatrix_work(unsigned mask, void *const data[])
{
    warp *w = warp_of(running.self);
    (void)mask;
    for (int m = 0; m < ((load *)data[0])->n; m++)
        for (int r = 0; r < 8; r++) {
            const load *l = (const load *)data[8 * m + r];
            check_aligned(8 * m + r, l->pc, ((load *)data[0])->pc, "ldmatrix");
            if (l->n != ((load *)data[0])->n || l->transposed != ((load *)data[0])->transposed)
                report(lane_at(w, 8 * m + r), l->pc, "ldmatrix of another kind than lane 0's");
            if ((uintptr_t)l->row % 16)
                report(lane_at(w, 8 * m + r), l->pc, "ldmatrix: row at %p is not aligned to 16 bytes",
                       (const void *)l->row);
            if (!is_shared(l->row, 16))
                report(lane_at(w, 8 * m + r), l->pc, "ldmatrix: row at %p is not shared memory",
                       (const void *)l->row);
        }
    for (int m = 0; counting && m < ((load *)data[0])->n; m++) {
        void *row[8];
        for (int r = 0; r < 8; r++) row[r] = (void *)((load *)data[8 * m + r])->row;
        count_rows(row);
    }
    for (int lane = 0; lane < LANES; lane++) {
        load   *l = (load *)data[lane];
        thread *t = lane_at(w, lane);
        int     g = lane / 4, j = lane % 4;
        for (int m = 0; m < l->n; m++) {
            if (!l->transposed) {
                const uint8_t *p = ((load *)data[8 * m + g])->row + 4 * j;
                access_by(t, p, 4, READ, l->pc);
                memcpy(&l->got[m], p, 4);
            } else {
                uint16_t half[2];
                for (int i = 0; i < 2; i++) {
                    const uint8_t *p = ((load *)data[8 * m + 2 * j + i])->row + 2 * g;
                    access_by(t, p, 2, READ, l->pc);
                    memcpy(&half[i], p, 2);
                }
                l->got[m] = (uint32_t)half[1] << 16 | half[0];
            }
        }
    }
}
static const warp_function ldmatrix = {"ldmatrix", ldmatrix_work};
simt_u32x4 simt_ldmatrix(const void *row, int n_matrices, int transposed)
{
    load l = {(const uint8_t *)row, __builtin_return_address(0), n_matrices, transposed, {0, 0, 0, 0}};
    warp_call(&ldmatrix, ~0u, &l);
    return (simt_u32x4){l.got[0], l.got[1], l.got[2], l.got[3]};
}

/* ------------------------------------------------------------------------------------------------------------ mma */
struct product { simt_u32x4 a; uint64_t b; simt_f32x4 c; const void *pc; };

template <float (*WIDEN)(uint16_t)> static void mma_work(unsigned mask, void *const data[])
{
    float A[16][16], B[16][8], C[16][8];
    (void)mask;
    for (int lane = 0; lane < LANES; lane++) {
        const product *p = (const product *)data[lane];
        int            g = lane / 4, j = lane % 4;
        check_aligned(lane, p->pc, ((const product *)data[0])->pc, "mma");
        for (int i = 0; i < 4; i++) {
            int row = g + i % 2 * 8, col = 2 * j + i / 2 * 8;
            A[row][col] = WIDEN((uint16_t)p->a[i]);
            A[row][col + 1] = WIDEN((uint16_t)(p->a[i] >> 16));
            B[2 * j + i / 2 * 8 + i % 2][g] = WIDEN((uint16_t)(p->b >> 16 * i));
            C[g + i / 2 * 8][2 * j + i % 2] = p->c[i];
        }
    }
    for (int k = 0; k < 16; k++)
        for (int m = 0; m < 16; m++)
            for (int n = 0; n < 8; n++) C[m][n] += A[m][k] * B[k][n];
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) ((product *)data[lane])->c[i] = C[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}
static const warp_function mma_bf16 = {"mma.m16n8k16.bf16", mma_work<bf16_to_float>},
                           mma_f16 = {"mma.m16n8k16.f16", mma_work<half_to_float>};
simt_f32x4 simt_mma_bf16(simt_u32x4 a, uint64_t b, simt_f32x4 c)
{
    product p = {a, b, c, __builtin_return_address(0)};
    warp_call(&mma_bf16, ~0u, &p);
    return p.c;
}
simt_f32x4 simt_mma_f16(simt_u32x4 a, uint64_t b, simt_f32x4 c)
{
    product p = {a, b, c, __builtin_return_address(0)};
    warp_call(&mma_f16, ~0u, &p);
    return p.c;
}
