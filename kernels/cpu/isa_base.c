/* isa_base.c - the kernels for SSE2, which every x86-64 has. The Makefile gives the compiler flags by the
 * file's name. */
#include "kernels/cpu/attend_isa.h"

const isa isa_base = {.name = "sse2", .nr = NR, .dot = false, .gemm = gemm_part, .round_row = round_row_part,
    .attend = attend_part, .layernorm = layernorm_part, .rmsnorm = rmsnorm_part, .glu = glu_part, .rope = rope_part,
    .add = add_part, .max_sum = max_sum_part, .exp_n = exp_n_part, .unit_n = unit_n_part};
