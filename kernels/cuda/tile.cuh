/* tile.cuh - products on tensor cores, the part that linear.cu and score.cu share: tiles of x [rows, k] and w
 * [columns, k] in shared memory, and a warp's product of its rows of the two.
 * A tile lies there as in global memory, k running fastest; 16-byte chunks of a row are exchanged by XOR with
 * the row's last three bits, so that the eight rows that ldmatrix reads together lie in different banks. Same
 * bits: an output is one chain of mma.sync.m16n8k16 over ascending k, x as the first operand. */
#ifndef JOMED_KERNELS_CUDA_TILE_CUH
#define JOMED_KERNELS_CUDA_TILE_CUH

#include "kernels/cuda/device.cuh"

/* Where 16-byte chunk `chunk` of row `row` lies in that row, in elements: for the XOR's parts alone, so that what a
 * loop does not change is worked out once. */
static __device__ __forceinline__ int chunk_at(int chunk, int row) { return (chunk ^ (row & 7)) << 3; }

/* ROWS rows from row0 on, elements k0 .. k0 + BK of each, to shared memory; zeros past the last row and past depth,
 * where nothing is read. A thread has one chunk of every STEP-th row: its addresses are one each and constants. */
template <int ROWS, int BK, int THREADS>
static __device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *from, int ld, int row0, int n_rows, int k0,
                                                 int depth)
{
    constexpr int CHUNKS = BK / 8, STEP = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0 && ROWS % STEP == 0 && (STEP & (STEP - 1)) == 0, "whole steps, powers of 2");
    const int   row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS, k = k0 + chunk * 8;
    const int   left = n_rows - row0 - row, bytes = min(max(2 * (depth - k), 0), 16);
    const bf16 *read = from + (size_t)(row0 + row) * ld + k;
    bf16       *write = tile + row * BK;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) /* row < STEP: the last bits of row + i are those of both, exchanged */
        cp_async_16(write + i * BK + chunk_at(chunk ^ (row & 7), i), read + (size_t)i * ld, i < left ? bytes : 0);
}

/* A warp's WM x WN outputs from its rows of the two tiles. Fragments are those of the PTX manual for m16n8k16. m0 and
 * n0 are multiples of 8: so all rows that a lane gives ldmatrix have its own last bits. */
template <int BK, int WM, int WN>
static __device__ __forceinline__ void multiply(float (&acc)[WM / 16][WN / 8][4], const bf16 *x, const bf16 *w,
                                                int m0, int n0, int lane)
{
    const int   left = chunk_at(lane / 16, lane), right = chunk_at(lane / 8 % 2, lane);
    const bf16 *x_row = x + (m0 + lane % 16) * BK, *w_row = w + (n0 + lane % 8 + (WN == 8 ? 0 : lane / 16 * 8)) * BK;
#pragma unroll
    for (int k = 0; k < BK; k += 16) { /* the XOR reaches 8 chunks, what lies beyond is added */
        const int   low = k % 64, high = k - low;
        uint32_t    a[WM / 16][4], b[WN / 8][2];
        const bf16 *x_at = x_row + (left ^ low) + high, *w_at = w_row + (right ^ low) + high;
#pragma unroll
        for (int m = 0; m < WM / 16; m++) ldmatrix_x4(a[m], x_at + m * 16 * BK);
        if constexpr (WN == 8) ldmatrix_x2(b[0], w_at);
        else {
#pragma unroll
            for (int n = 0; n < WN / 8; n += 2) {
                uint32_t two[4];
                ldmatrix_x4(two, w_at + n * 8 * BK);
                b[n][0] = two[0], b[n][1] = two[1], b[n + 1][0] = two[2], b[n + 1][1] = two[3];
            }
        }
#pragma unroll
        for (int m = 0; m < WM / 16; m++)
#pragma unroll
            for (int n = 0; n < WN / 8; n++) mma_m16n8k16_bf16(acc[m][n], a[m], b[n], acc[m][n]);
    }
}

#endif
