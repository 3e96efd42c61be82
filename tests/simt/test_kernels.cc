/* test_kernels.cc - what the emulation computes: positions, warp functions, atomics, copies, fragments, 16-bit
 * formats. Against plain loops over the definitions of CUDA and PTX, with all values distinct, so that no two places
 * can be exchanged unseen. */
#include "kernels/cuda/device.cuh"

#include <setjmp.h>
#include <stdarg.h>
extern "C" {
#include <cmocka.h>
}

template <class T> static T *device(size_t n)
{
    T *p;
    assert_int_equal(cudaMalloc(&p, n * sizeof *p), cudaSuccess);
    return p;
}
template <class T> static void fetch(T *to, T *from, size_t n)
{
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(cudaMemcpy(to, from, n * sizeof *to, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(cudaFree(from), cudaSuccess);
}

static __global__ void positions(int *y, int scale)
{
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[block * 30 + thread] = scale * (block * 30 + thread) + warpSize;
}
static void every_thread_of_every_block_runs_once(void **)
{
    int *y = device<int>(24 * 30), got[24 * 30];
    LAUNCH(positions, dim3(4, 3, 2), dim3(5, 3, 2), 0, 0, y, 3);
    fetch(got, y, 24 * 30);
    for (int i = 0; i < 24 * 30; i++) assert_int_equal(got[i], 3 * i + 32);
}

template <int N, bool DOUBLE> static __global__ void block_sum(const float *x, float *y)
{
    DYNAMIC_SHARED(float, s);
    float &scale = s[N];
    if (threadIdx.x == 0) scale = DOUBLE ? 2 : 1;
    s[threadIdx.x] = x[blockIdx.x * N + threadIdx.x];
    for (int step = N / 2; step > 0; step /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < step) s[threadIdx.x] += s[threadIdx.x + step];
    }
    if (threadIdx.x == 0) y[blockIdx.x] = s[0] * scale;
}
static void a_sum_through_shared_memory_is_right(void **)
{
    float x[3 * 1024], got[3];
    for (int i = 0; i < 3 * 1024; i++) x[i] = (float)i;
    float *dx = device<float>(3 * 1024), *y = device<float>(3);
    assert_int_equal(cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice), cudaSuccess);
    LAUNCH((block_sum<1024, true>), 3, 1024, 1025 * sizeof(float), 0, dx, y);
    fetch(got, y, 3);
    for (int b = 0; b < 3; b++) assert_true(got[b] == 2.0f * (1024.0f * 1024 * b + 1023 * 512));
    cudaFree(dx);
}

/* ---------------------------------------------------------------------------------------------------------- warps */
static __global__ void shuffles(int *y)
{
    int lane = threadIdx.x, v = 100 + lane, *out = y + lane;
    out[0 * 32] = __shfl_sync(0xffffffffu, v, (lane * 7 + 3) % 32);
    out[1 * 32] = __shfl_sync(0xffffffffu, v, 5, 8);
    out[2 * 32] = __shfl_up_sync(0xffffffffu, v, 3, 16);
    out[3 * 32] = __shfl_down_sync(0xffffffffu, v, 5);
    out[4 * 32] = __shfl_xor_sync(0xffffffffu, v, 13);
    out[5 * 32] = (int)(__shfl_sync(0xffffffffu, 0x100000000ll + v, 9) >> 1 & 0xffffffff);
    out[6 * 32] = (int)__shfl_xor_sync(0xffffffffu, (float)v, 16);
    out[7 * 32] = lane < 10 ? __shfl_sync(0x3ffu, v, lane / 2) : __shfl_sync(0xfffffc00u, v, 31);
    out[8 * 32] = __shfl_up_sync(0xffffffffu, v, 1, 1);
}
static void shuffles_take_the_right_lane(void **)
{
    int *y = device<int>(9 * 32), got[9][32];
    LAUNCH(shuffles, 1, 32, 0, 0, y);
    fetch(&got[0][0], y, 9 * 32);
    for (int l = 0; l < 32; l++) {
        assert_int_equal(got[0][l], 100 + (l * 7 + 3) % 32);
        assert_int_equal(got[1][l], 100 + l / 8 * 8 + 5);
        assert_int_equal(got[2][l], 100 + (l % 16 < 3 ? l : l - 3));
        assert_int_equal(got[3][l], 100 + (l + 5 < 32 ? l + 5 : l));
        assert_int_equal(got[4][l], 100 + (l ^ 13));
        assert_int_equal((unsigned)got[5][l], 0x80000000u + 109 / 2);
        assert_int_equal(got[6][l], 100 + (l ^ 16));
        assert_int_equal(got[7][l], l < 10 ? 100 + l / 2 : 131);
        assert_int_equal(got[8][l], 100 + l);
    }
}

static __global__ void votes(unsigned *y)
{
    unsigned lane = threadIdx.x, *out = y + lane, all = 0xffffffffu;
    out[0 * 32] = __ballot_sync(all, lane % 3 == 0);
    out[1 * 32] = (unsigned)__any_sync(all, lane == 31) + 2 * (unsigned)__all_sync(all, lane < 31)
                  + 4 * (unsigned)__all_sync(all, 1);
    out[2 * 32] = __match_any_sync(all, lane % 5);
    out[3 * 32] = __reduce_add_sync(all, lane);
    out[4 * 32] = (unsigned)__reduce_min_sync(all, 3 - (int)lane);
    out[5 * 32] = __reduce_max_sync(all, lane * 5 % 37);
    out[6 * 32] = __reduce_xor_sync(all, 1u << lane % 20);
    out[7 * 32] = (unsigned)__syncthreads_count(lane > 3)
                  + 100 * (unsigned)(__syncthreads_and(lane < 31) + 2 * __syncthreads_or(lane == 31));
}
static void votes_and_reductions_agree_in_all_lanes(void **)
{
    unsigned *y = device<unsigned>(8 * 32), got[8][32], most = 0, ones = 0;
    LAUNCH(votes, 1, 32, 0, 0, y);
    fetch(&got[0][0], y, 8 * 32);
    for (unsigned l = 0; l < 32; l++) {
        if (l * 5 % 37 > most) most = l * 5 % 37;
        ones ^= 1u << l % 20;
    }
    for (unsigned l = 0; l < 32; l++) {
        unsigned same = 0;
        for (unsigned o = l % 5; o < 32; o += 5) same |= 1u << o;
        assert_int_equal(got[0][l], 0x49249249u);
        assert_int_equal(got[1][l], 1 + 4);
        assert_int_equal(got[2][l], same);
        assert_int_equal(got[3][l], 31 * 16);
        assert_int_equal((int)got[4][l], 3 - 31);
        assert_int_equal(got[5][l], most);
        assert_int_equal(got[6][l], ones);
        assert_int_equal(got[7][l], 28 + 100 * 2);
    }
}

static __global__ void counts(int *sum, unsigned *most, unsigned long long *turns, int *least)
{
    __shared__ int inside;
    if (threadIdx.x == 0) inside = 0;
    __syncthreads();
    atomicAdd(&inside, 2);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(sum, inside);
    atomicMax(most, blockIdx.x * blockDim.x + threadIdx.x);
    atomicMin(least, -(int)threadIdx.x);
    for (unsigned long long seen = *turns, was; (was = atomicCAS(turns, seen, seen + 0x100000001ull)) != seen;)
        seen = was;
}
static void atomics_lose_nothing(void **)
{
    int *sum = device<int>(2), got_sum[2];
    unsigned *most = device<unsigned>(1), got_most;
    unsigned long long *turns = device<unsigned long long>(1), got_turns;
    cudaMemset(sum, 0, 8), cudaMemset(most, 0, 4), cudaMemset(turns, 0, 8);
    LAUNCH(counts, 5, 70, 0, 0, sum, most, turns, sum + 1);
    fetch(got_sum, sum, 2), fetch(&got_most, most, 1), fetch(&got_turns, turns, 1);
    assert_int_equal(got_sum[0], 5 * 2 * 70);
    assert_int_equal(got_sum[1], -69);
    assert_int_equal(got_most, 5 * 70 - 1);
    assert_true(got_turns == 350 * 0x100000001ull);
}

/* ---------------------------------------------------------------------------------------- cp.async, ldmatrix, mma */
static __global__ void copies(const int *x, int *y)
{
    DYNAMIC_SHARED(int, s);
    int t = threadIdx.x;
    for (int i = 0; i < 3; i++) { /* three groups; how much of the 16 bytes is valid changes by thread */
        cp_async_16(s + (i * 17 + t) * 4, x + (i * 17 + t) * 4, i == 1 ? t : 16);
        cp_async_commit();
    }
    cp_async_wait<1>(); /* the first two are there */
    __syncthreads();
    for (int i = 0; i < 4; i++) y[t * 4 + i] = s[(16 - t) * 4 + i], y[68 + t * 4 + i] = s[(17 + 16 - t) * 4 + i];
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) y[136 + t * 4 + i] = s[(34 + 16 - t) * 4 + i];
}
static void copies_arrive_with_their_group_and_zeros_behind(void **)
{
    int x[204], got[204], *dx = device<int>(204), *y = device<int>(204);
    for (int i = 0; i < 204; i++) x[i] = (int)(0x01010101u * (unsigned)(i + 1));
    cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice);
    LAUNCH(copies, 1, 17, sizeof x, 0, dx, y);
    fetch(got, y, 204);
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < 17; t++) {
            int want[4];
            memcpy(want, x + (i * 17 + 16 - t) * 4, 16);
            if (i == 1) memset((char *)want + (16 - t), 0, (size_t)t);
            assert_memory_equal(got + i * 68 + t * 4, want, 16);
        }
    cudaFree(dx);
}

template <int N, bool TRANS> static __global__ void loads(uint32_t *y)
{
    DYNAMIC_SHARED(uint16_t, s);
    uint32_t r[4] = {0, 0, 0, 0};
    for (int i = threadIdx.x; i < 32 * 24; i += 32) s[i] = (uint16_t)i; /* 32 rows, 24 elements apart */
    __syncwarp();
    const uint16_t *row = s + threadIdx.x * 24 + 8;
    if (N == 4) TRANS ? ldmatrix_x4_trans(r, row) : ldmatrix_x4(r, row);
    if (N == 2) TRANS ? ldmatrix_x2_trans(r, row) : ldmatrix_x2(r, row);
    if (N == 1) TRANS ? ldmatrix_x1_trans(r, row) : ldmatrix_x1(r, row);
    for (int m = 0; m < 4; m++) y[threadIdx.x * 4 + m] = r[m];
}
template <int N, bool TRANS> static void check_loads()
{
    uint32_t *y = device<uint32_t>(128), got[128];
    LAUNCH((loads<N, TRANS>), 1, 32, 32 * 24 * 2, 0, y);
    fetch(got, y, 128);
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            uint32_t low = (uint32_t)((8 * m + l / 4) * 24 + 8 + l % 4 * 2), high = low + 1;
            if (TRANS) low = (uint32_t)((8 * m + l % 4 * 2) * 24 + 8 + l / 4), high = low + 24;
            assert_int_equal(got[l * 4 + m], m < N ? high << 16 | low : 0);
        }
}
static void ldmatrix_gives_each_lane_its_elements(void **)
{
    check_loads<4, false>(), check_loads<4, true>(), check_loads<2, false>();
    check_loads<2, true>(), check_loads<1, false>(), check_loads<1, true>();
}

/* Fragments by the manual's own formulas: element i of a lane's a is at row g or g + 8, column 2j + i % 2 (+ 8). */
template <class H> static __global__ void multiplies(const H *a, const H *b, const float *c, float *d)
{
    int      g = threadIdx.x / 4, j = threadIdx.x % 4;
    uint32_t fa[4], fb[2];
    float    fc[4];
    for (int i = 0; i < 8; i += 2) {
        int row = (i < 2 || (i >= 4 && i < 6)) ? g : g + 8, col = j * 2 + (i >= 4 ? 8 : 0);
        memcpy(&fa[i / 2], a + row * 16 + col, 4);
    }
    for (int i = 0; i < 4; i += 2) {
        int row = j * 2 + (i >= 2 ? 8 : 0);
        H   two[2] = {b[row * 8 + g], b[(row + 1) * 8 + g]};
        memcpy(&fb[i / 2], two, 4);
    }
    for (int i = 0; i < 4; i++) fc[i] = c[(i < 2 ? g : g + 8) * 8 + j * 2 + i % 2];
    if (sizeof(H) && std::is_same<H, __half>::value) mma_m16n8k16_f16(fc, fa, fb, fc);
    else mma_m16n8k16_bf16(fc, fa, fb, fc);
    for (int i = 0; i < 4; i++) d[(i < 2 ? g : g + 8) * 8 + j * 2 + i % 2] = fc[i];
}
template <class H> static void check_mma()
{
    H     a[256], b[128], *da = device<H>(256), *db = device<H>(128);
    float c[128], got[128], *dc = device<float>(128), *dd = device<float>(128);
    for (int i = 0; i < 256; i++) a[i] = (float)(i * 37 % 256 - 128); /* integers: every product and sum is exact */
    for (int i = 0; i < 128; i++) b[i] = (float)(i * 29 % 128 - 64), c[i] = (float)(1000 * i);
    cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice);
    cudaMemcpy(dc, c, sizeof c, cudaMemcpyHostToDevice);
    auto kernel = multiplies<H>;
    LAUNCH(kernel, 1, 32, 0, 0, da, db, dc, dd);
    fetch(got, dd, 128);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            float want = c[m * 8 + n];
            for (int k = 0; k < 16; k++) want += (float)a[m * 16 + k] * (float)b[k * 8 + n];
            assert_true(got[m * 8 + n] == want);
        }
    cudaFree(da), cudaFree(db), cudaFree(dc);
}
static void mma_multiplies_fragments_as_ptx_lays_them_out(void **)
{
    check_mma<__nv_bfloat16>();
    check_mma<__half>();
}

/* --------------------------------------------------------------------------------------------------- 16-bit types */
static void bf16_and_half_round_to_nearest_even(void **)
{
    for (uint32_t u = 0; u < 0x10000; u++) { /* each value comes back; half way to the next goes to the even one */
        float b = simt::bf16_to_float((uint16_t)u), h = simt::half_to_float((uint16_t)u);
        if (b == b) assert_int_equal(simt::bf16_from_float(b), u);
        if (h == h) assert_int_equal(simt::half_from_float(h), u);
        if ((u & 0x7f80u) < 0x7f80u) {
            float half_way = simt::bits_as<float>(u << 16 | 0x8000u);
            assert_int_equal(simt::bf16_from_float(half_way), u & 1 ? u + 1 : u);
            assert_int_equal(simt::bf16_from_float(simt::bits_as<float>(u << 16 | 0x8001u)), u + 1);
            assert_int_equal(simt::bf16_from_float(simt::bits_as<float>(u << 16 | 0x7fffu)), u);
        }
        if ((u & 0x7c00u) < 0x7c00u && (u & 0x7fffu) != 0x7bffu) {
            double half_way = ((double)h + simt::half_to_float((uint16_t)(u + 1))) / 2;
            assert_int_equal(simt::half_from_float((float)half_way), u & 1 ? u + 1 : u);
            assert_int_equal(
                simt::half_from_float(nextafterf((float)half_way, 2 * simt::half_to_float((uint16_t)(u + 1)))),
                u + 1);
            assert_int_equal(simt::half_from_float(nextafterf((float)half_way, 0)), u);
        }
    }
    assert_true(simt::half_to_float(0x3c00) == 1 && simt::half_to_float(0x0001) == 0x1p-24f
                && simt::half_to_float(0xfbff) == -65504);
    assert_int_equal(simt::half_from_float(65519.996f), 0x7bff);
    assert_int_equal(simt::half_from_float(65520), 0x7c00);
    assert_int_equal(simt::half_from_float(-1e30f), 0xfc00);
    assert_int_equal(simt::half_from_float(NAN), 0x7fff);
    assert_int_equal(simt::bf16_from_float(-NAN), 0x7fff);
    assert_int_equal(simt::bf16_from_float(3.4e38f), 0x7f80);
    assert_int_equal(__bfloat16_as_ushort(__floats2bfloat162_rn(1, 2).y), 0x4000);
    assert_int_equal(__half_as_ushort(__floats2half2_rn(1, 2).x), 0x3c00);
}
static void integer_intrinsics_match_their_definitions(void **)
{
    assert_int_equal(__byte_perm(0x33221100u, 0x77665544u, 0x7052), 0x77005522u);
    assert_int_equal(__byte_perm(0x80u, 0, 0x8888), 0xffffffffu);
    assert_int_equal(__brev(0x00000001u), 0x80000000u);
    assert_int_equal(__brev(0x12345678u), 0x1e6a2c48u);
    assert_int_equal(__umulhi(0xffffffffu, 0xffffffffu), 0xfffffffeu);
    assert_int_equal(__mulhi(-1, 1), -1);
    assert_int_equal(__clz(0) + __clz(1) + __ffs(0) + __ffs(8) + __popc(0xf0f0u), 32 + 31 + 0 + 4 + 8);
    assert_int_equal(__float2int_rn(2.5f) + __float2int_rn(-3.5f), 2 - 4);
    assert_int_equal(__float2int_rz(3e9f), INT32_MAX);
    assert_int_equal(__float2int_rd(-1.5f) + __float2int_ru(-1.5f), -3);
    assert_true(__saturatef(NAN) == 0 && __saturatef(2) == 1 && __saturatef(0.25f) == 0.25f);
    assert_true(min(1.0f, NAN) == 1 && max(NAN, 2.0f) == 2 && min(3u, 2u) == 2 && max(-1ll, 2ll) == 2);
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_of_every_block_runs_once),
        cmocka_unit_test(a_sum_through_shared_memory_is_right),
        cmocka_unit_test(shuffles_take_the_right_lane),
        cmocka_unit_test(votes_and_reductions_agree_in_all_lanes),
        cmocka_unit_test(atomics_lose_nothing),
        cmocka_unit_test(copies_arrive_with_their_group_and_zeros_behind),
        cmocka_unit_test(ldmatrix_gives_each_lane_its_elements),
        cmocka_unit_test(mma_multiplies_fragments_as_ptx_lays_them_out),
        cmocka_unit_test(bf16_and_half_round_to_nearest_even),
        cmocka_unit_test(integer_intrinsics_match_their_definitions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
