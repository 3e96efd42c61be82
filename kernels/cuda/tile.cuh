/* tile.cuh - products on tensor cores, the part that linear.cu and score.cu share: tiles of x [rows, k] and w
 * [columns, k] in shared memory, and a warp's product of its rows of the two.
 * A tile lies there as in global memory, k running fastest; 16-byte chunks of a row are exchanged by XOR with
 * the row's last three bits, so that the eight rows that ldmatrix reads together lie in different banks. Same
 * bits: an output is one chain of mma.sync.m16n8k16 over ascending k, x as the first operand. */
#ifndef JOMED_KERNELS_CUDA_TILE_CUH
#define JOMED_KERNELS_CUDA_TILE_CUH

#include "kernels/cuda/device.cuh"

/* Element (row, 16-byte chunk) of a tile with BK elements a row. */
template <int BK> static __device__ __forceinline__ int tile_at(int row, int chunk)
{
    return row * BK + ((chunk ^ (row & 7)) << 3);
}

/* ROWS rows from row0 on, elements k0 .. k0 + BK of each, to shared memory; zeros past the last row and past
 * depth. */
template <int ROWS, int BK, int THREADS>
static __device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *from, int ld, int row0, int n_rows, int k0,
                                                 int depth)
{
    constexpr int CHUNKS = BK / 8;
#pragma unroll
    for (int i = 0; i < (ROWS * CHUNKS + THREADS - 1) / THREADS; i++) {
        int c = i * THREADS + (int)threadIdx.x, row = c / CHUNKS, chunk = c % CHUNKS;
        if (ROWS * CHUNKS % THREADS != 0 && c >= ROWS * CHUNKS) break;
        int  k = k0 + chunk * 8, bytes = 2 * (depth - k);
        bool in = row0 + row < n_rows && bytes > 0;
        cp_async_16(tile + tile_at<BK>(row, chunk), in ? from + (size_t)(row0 + row) * ld + k : from,
                    !in ? 0 : bytes < 16 ? bytes : 16);
    }
}

/* A warp's WM x WN outputs from its rows of the two tiles. Fragments are those of the PTX manual for m16n8k16. */
template <int BK, int WM, int WN>
static __device__ __forceinline__ void multiply(float (&acc)[WM / 16][WN / 8][4], const bf16 *x, const bf16 *w,
                                                int m0, int n0, int lane)
{
#pragma unroll
    for (int k = 0; k < BK / 16; k++) {
        uint32_t a[WM / 16][4], b[WN / 8][2];
#pragma unroll
        for (int m = 0; m < WM / 16; m++)
            ldmatrix_x4(a[m], x + tile_at<BK>(m0 + m * 16 + lane % 16, 2 * k + lane / 16));
        if constexpr (WN == 8) ldmatrix_x2(b[0], w + tile_at<BK>(n0 + lane % 8, 2 * k + lane / 8 % 2));
        else {
#pragma unroll
            for (int n = 0; n < WN / 8; n += 2) {
                uint32_t two[4];
                ldmatrix_x4(two, w + tile_at<BK>(n0 + n * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
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
