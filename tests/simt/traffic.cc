/* traffic.cc - counts, when asked, what a GPU would do for the accesses that it sees: wavefronts of shared memory and
 * sectors of device memory, each against the least for the same bytes.
 *
 * One access is what the lanes of a warp do at the same instruction together. Lanes are fibers here and run one after
 * the other; so the nth time that a lane comes to a load or store since all lanes last met (a barrier, a warp
 * function of the full mask) belongs with every other lane's nth time. That is the hardware's grouping as long as
 * lanes that leave a loop early do not come to the same instruction again before they meet. What g++ made one access
 * is one: vectors are (types.h), and the kernels are compiled without g++'s own vectors (Makefile).
 *
 * Shared    32 banks of 4 bytes. Lanes go together: 32 of up to 4 bytes, 16 of 8, 8 of 16, ldmatrix's and cp.async's
 *           rows too. Each bank gives one word in a wavefront, to every lane that wants it.
 * Device    sectors of 32 bytes. Least: the different bytes, packed. Caches are not looked at.
 * Atomics are not counted. */
#include "tests/simt/control.h"
#include "tests/simt/inner.h"

#include <string.h>
#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>

namespace simt {

bool counting;

enum { BANKS = 32, SECTOR = 32, MOST = 16 };
struct span { uintptr_t a; unsigned bytes; }; /* a lane's; 0 bytes: it takes no part */
struct access { span lane[LANES]; };
/* An instruction, and its nth times since all met: the first n of access_of. */
struct site { unsigned times[LANES], n; std::vector<access> access_of; };

static std::unordered_map<uintptr_t, site> sites[MAX_WARPS];
static std::vector<std::pair<uintptr_t, site *>> touched[MAX_WARPS]; /* since all met */
static std::map<std::string, simt_traffic> totals;
static simt_traffic                        *now; /* of the kernel that runs */

/* Up to 32 words that go together: the fullest bank. */
static unsigned wavefronts(const span *s, int n)
{
    uintptr_t words[BANKS][LANES]; /* that each bank has to give */
    unsigned  in_bank[BANKS] = {0}, most = 0;
    for (int i = 0; i < n; i++)
        for (uintptr_t w = s[i].a / 4; s[i].bytes && w <= (s[i].a + s[i].bytes - 1) / 4; w++) {
            uintptr_t *bank = words[w % BANKS], *end = bank + in_bank[w % BANKS];
            if (std::find(bank, end, w) != end) continue;
            *end = w;
            most = std::max(most, ++in_bank[w % BANKS]);
        }
    return most;
}

static void count_shared(const access &x)
{
    unsigned bytes = 0;
    for (const span &s : x.lane) bytes = std::max(bytes, s.bytes);
    int together = bytes <= 4 ? LANES : bytes <= 8 ? LANES / 2 : LANES / 4;
    for (int i = 0; i < LANES; i += together) {
        unsigned n = wavefronts(x.lane + i, together);
        now->shared += n;
        now->shared_least += n > 0;
    }
}

static void count_device(access x)
{
    std::sort(x.lane, x.lane + LANES, [](const span &s, const span &t) { return s.a < t.a; });
    uintptr_t end = 0, next_sector = 0, bytes = 0;
    for (const span &s : x.lane) {
        if (!s.bytes) continue;
        uintptr_t from = std::max(s.a, end), last = (s.a + s.bytes - 1) / SECTOR;
        if (s.a + s.bytes > from) bytes += s.a + s.bytes - from;
        end = std::max(end, s.a + s.bytes);
        uintptr_t first = std::max(s.a / SECTOR, next_sector);
        if (last + 1 > first) now->global += last + 1 - first;
        next_sector = std::max(next_sector, last + 1);
    }
    now->global_least += (bytes + SECTOR - 1) / SECTOR;
}

void count_begin(const char *kernel)
{
    now = &totals[kernel];
}

void count_access(const thread *t, const void *p, size_t bytes, access_kind kind, const void *pc)
{
    uintptr_t a = (uintptr_t)p;
    bool      shared = is_shared(p, 1);
    if (kind == ATOMIC || (!shared && (a < device_begin || a >= device_end))) return;
    /* code lies below 2^61: which memory, and which way, go with it */
    uintptr_t key = (uintptr_t)pc << 2 | (uintptr_t)shared << 1 | (kind == WRITE);
    int       lane = lane_of(t), w = (int)(warp_of(t) - running.warps);
    for (size_t at = 0; at < bytes; at += MOST) { /* a struct's copy: pieces */
        site    &s = sites[w][key];
        unsigned nth = s.times[lane]++;
        if (s.n == 0) touched[w].push_back({key, &s});
        if (s.access_of.size() <= nth) s.access_of.resize(nth + 1);
        if (nth == s.n) s.access_of[s.n++] = access{};
        s.access_of[nth].lane[lane] = {a + at, (unsigned)std::min(bytes - at, (size_t)MOST)};
    }
}

void count_rows(void *const row[8])
{
    span s[8];
    for (int i = 0; i < 8; i++) s[i] = {(uintptr_t)row[i], 16};
    now->shared += wavefronts(s, 8);
    now->shared_least++;
}

void count_met(const warp *w)
{
    auto &all = touched[w - running.warps];
    for (auto &[key, s] : all) {
        for (unsigned i = 0; i < s->n; i++) key & 2 ? count_shared(s->access_of[i]) : count_device(s->access_of[i]);
        s->n = 0;
        memset(s->times, 0, sizeof s->times);
    }
    all.clear();
}

} // namespace simt

using namespace simt;

void simt_count(int on)
{
    if (on) totals.clear();
    counting = on;
}

simt_traffic simt_counted(const char *kernel)
{
    simt_traffic sum = {0, 0, 0, 0};
    for (const auto &t : totals) {
        if (kernel && t.first != kernel) continue;
        sum.shared += t.second.shared, sum.shared_least += t.second.shared_least;
        sum.global += t.second.global, sum.global_least += t.second.global_least;
    }
    return sum;
}
