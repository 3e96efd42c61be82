/* cublaslt.h - the part of cuBLASLt that large products use (cublaslt.cu), loaded when a table opens: no build needs
 * its headers, and a machine without the library has our own kernels. tests/simt/cublaslt.cc stands in for it.
 *
 * The numbers are those of cublasLt.h, cublas_api.h and library_types.h; where nvcc finds these, cublaslt.cu compares
 * them. Functions give 0, or a cublasStatus_t. */
#ifndef JOMED_KERNELS_CUDA_CUBLASLT_H
#define JOMED_KERNELS_CUDA_CUBLASLT_H

#include "kernels/cuda/device.cuh"

enum {
    LT_ALLOC_FAILED = 3, LT_EXECUTION_FAILED = 13, LT_NOT_SUPPORTED = 15,           /* cublasStatus_t */
    LT_R_32F = 0, LT_R_16BF = 14,                                                   /* cudaDataType_t */
    LT_COMPUTE_32F = 68, LT_OP_T = 1, LT_DESC_TRANSA = 3,
    LT_PREF_WORKSPACE = 1, LT_PREF_REDUCTION = 3, LT_PREF_ALIGNMENT_A = 5 /* B, C, D behind it */,
    LT_CONFIG_SPLITK = 2, LT_CONFIG_REDUCTION = 3, LT_REDUCTION_NONE = 0
};

typedef struct { uint64_t data[8]; } lt_algorithm;
typedef struct {
    lt_algorithm algorithm;
    size_t       workspace_bytes;
    int          state; /* 0, or the rest means nothing */
    float        waves;
    int          reserved[4];
} lt_choice;

typedef struct {
    int (*Create)(void **handle);
    int (*Destroy)(void *handle);
    size_t (*GetVersion)(void); /* 10000 major + 100 minor + patch */
    int (*MatmulDescCreate)(void **desc, int compute, int scale_type);
    int (*MatmulDescDestroy)(void *desc);
    int (*MatmulDescSetAttribute)(void *desc, int attribute, const void *value, size_t bytes);
    int (*MatrixLayoutCreate)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld); /* by columns */
    int (*MatrixLayoutDestroy)(void *layout);
    int (*MatmulPreferenceCreate)(void **preference);
    int (*MatmulPreferenceDestroy)(void *preference);
    int (*MatmulPreferenceSetAttribute)(void *preference, int attribute, const void *value, size_t bytes);
    int (*MatmulAlgoGetHeuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference,
                                  int wanted, lt_choice *found, int *n);
    int (*MatmulAlgoConfigGetAttribute)(const lt_algorithm *algorithm, int attribute, void *value, size_t bytes,
                                        size_t *written);
    int (*MatmulAlgoCheck)(void *handle, void *desc, void *a, void *b, void *c, void *d,
                           const lt_algorithm *algorithm, lt_choice *result);
    /* d = alpha a b + beta c */
    int (*Matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
                  void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                  const lt_algorithm *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream);
} lt_functions;

#endif
