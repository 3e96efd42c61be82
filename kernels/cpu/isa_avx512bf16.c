/* isa_avx512bf16.c - the kernels for AVX-512 with bf16 products. The Makefile gives the compiler flags by the
 * file's name. */
#include "kernels/cpu/attend_isa.h"

const isa isa_avx512bf16 = {.name = "avx512-bf16",
                            .nr = NR,
                            .dot = true,
                            .gemm = gemm_part,
                            .round_row = round_row_part,
                            .attend = attend_part,
                            .layernorm = layernorm_part,
                            .rmsnorm = rmsnorm_part,
                            .glu = glu_part,
                            .rope = rope_part,
                            .add = add_part,
                            .max_sum = max_sum_part,
                            .exp_n = exp_n_part,
                            .unit_n = unit_n_part};
