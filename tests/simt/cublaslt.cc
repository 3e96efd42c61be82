/* cublaslt.cc - stands in for cuBLASLt: plain loops with f32 sums, done in the stream's turn, and proposals of every
 * kind that kernels/cuda/cublaslt.cu must refuse (control.h). */
#include "tests/simt/device.h"

#include "kernels/cuda/cublaslt.h"

using namespace simt;

namespace {
enum { INVALID = 7 };
struct layout { int type; uint64_t rows, cols; int64_t ld; };

char proposals[16] = "s";
bool there = true;
int  start_status, next_status;
long n_products;
}

void simt_cublaslt(const char *algorithms)
{
    there = algorithms != NULL;
    if (there) snprintf(proposals, sizeof proposals, "%s", algorithms);
}
void simt_cublaslt_start(int status) { start_status = status; }
void simt_cublaslt_fail(int status) { next_status = status; }
long simt_cublaslt_products(void) { return n_products; }

/* A call that a test made fail, as the library reports it. */
static int status_of(const api_call &c)
{
    return c.status == cudaSuccess                 ? 0
         : c.status == cudaErrorMemoryAllocation ? LT_ALLOC_FAILED
                                                 : LT_EXECUTION_FAILED;
}

static int Create(void **handle)
{
    api_call c;
    *handle = NULL;
    if (start_status) return start_status;
    if (status_of(c)) return status_of(c);
    *handle = new int(0);
    n_handles++;
    return 0;
}
static int Destroy(void *handle)
{
    api_call c;
    delete (int *)handle;
    n_handles--;
    return 0;
}
static size_t GetVersion() { return 130100; }

static int MatmulDescCreate(void **desc, int compute, int scale_type)
{
    api_call c;
    *desc = NULL;
    if (status_of(c)) return status_of(c);
    if (compute != LT_COMPUTE_32F || scale_type != LT_R_32F) return INVALID;
    *desc = new bool(false); /* w is turned */
    n_handles++;
    return 0;
}
static int MatmulDescDestroy(void *desc)
{
    api_call c;
    delete (bool *)desc;
    n_handles--;
    return 0;
}
static int MatmulDescSetAttribute(void *desc, int attribute, const void *value, size_t bytes)
{
    if (attribute != LT_DESC_TRANSA || bytes != 4) return INVALID;
    *(bool *)desc = *(const int *)value == LT_OP_T;
    return 0;
}

static int MatrixLayoutCreate(void **at, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    api_call c;
    *at = NULL;
    if (status_of(c)) return status_of(c);
    if ((type != LT_R_16BF && type != LT_R_32F) || ld < (int64_t)rows) return INVALID;
    *at = new layout{type, rows, cols, ld};
    n_handles++;
    return 0;
}
static int MatrixLayoutDestroy(void *at)
{
    api_call c;
    delete (layout *)at;
    n_handles--;
    return 0;
}

static int MatmulPreferenceCreate(void **preference)
{
    api_call c;
    *preference = NULL;
    if (status_of(c)) return status_of(c);
    *preference = new uint64_t[16]();
    n_handles++;
    return 0;
}
static int MatmulPreferenceDestroy(void *preference)
{
    api_call c;
    delete[] (uint64_t *)preference;
    n_handles--;
    return 0;
}
static int MatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t bytes)
{
    if (attribute < 0 || attribute > 15 || bytes != (attribute == LT_PREF_WORKSPACE ? 8u : 4u)) return INVALID;
    memcpy((uint64_t *)preference + attribute, value, bytes);
    return 0;
}

/* Sizes that agree, of types that we use: w [K,N] turned, x [K,T], y [N,T]. */
static bool agree(const void *desc, const void *w_, const void *x_, const void *c_, const void *y_)
{
    const layout *w = (const layout *)w_, *x = (const layout *)x_, *c = (const layout *)c_, *y = (const layout *)y_;
    return *(const bool *)desc && w->type == LT_R_16BF && x->type == LT_R_16BF && c->type == y->type &&
           w->rows == x->rows && w->cols == y->rows && x->cols == y->cols && c->rows == y->rows && c->cols == y->cols;
}

static int MatmulAlgoGetHeuristic(void *, void *desc, void *w, void *x, void *c, void *y, void *preference,
                                  int wanted, lt_choice *found, int *n)
{
    api_call        call;
    const uint64_t *wish = (const uint64_t *)preference;
    *n = 0;
    if (status_of(call)) return status_of(call);
    if (!agree(desc, w, x, c, y) || wish[LT_PREF_WORKSPACE] || wish[LT_PREF_REDUCTION]) return INVALID;
    for (int i = 0; i < 4; i++)
        if (wish[LT_PREF_ALIGNMENT_A + i] != 16) return INVALID;
    for (; *n < wanted && proposals[*n]; ++*n) {
        char how = proposals[*n];
        memset(&found[*n], 0, sizeof *found);
        found[*n].algorithm.data[0] = (uint64_t)how;
        found[*n].workspace_bytes = how == 'm';
        found[*n].state = how == '?' ? LT_NOT_SUPPORTED : 0;
    }
    return *n ? 0 : LT_NOT_SUPPORTED;
}
static int MatmulAlgoConfigGetAttribute(const lt_algorithm *a, int attribute, void *value, size_t bytes,
                                        size_t *written)
{
    if (bytes != 4) return INVALID;
    *(int *)value = attribute == LT_CONFIG_SPLITK ? (a->data[0] == 'k' ? 4 : 1) : a->data[0] == 'r';
    *written = bytes;
    return 0;
}
static int MatmulAlgoCheck(void *, void *desc, void *w, void *x, void *c, void *y, const lt_algorithm *a,
                           lt_choice *result)
{
    memset(result, 0, sizeof *result);
    if (!agree(desc, w, x, c, y)) return INVALID;
    return a->data[0] == 'n' && ((const layout *)x)->cols < 17 ? LT_NOT_SUPPORTED : 0;
}

static size_t bytes_of(const layout *l)
{
    return l->cols ? ((l->cols - 1) * (size_t)l->ld + l->rows) * (l->type == LT_R_32F ? 4 : 2) : 0;
}

/* y[t] = x[t] w^T (+ c[t]), the sums from the last k to the first, eight outputs side by side. */
static void multiply(char how, const layout *w, const layout *x, const layout *y, const uint16_t *at_w,
                     const uint16_t *at_x, const void *at_c, void *at_y)
{
    memory_access open;
    if (!memory_touch(at_w, bytes_of(w)) || !memory_touch(at_x, bytes_of(x)) || !memory_touch(at_y, bytes_of(y)) ||
        (at_c && !memory_touch(at_c, bytes_of(y))))
        report(NULL, NULL, "a cuBLASLt product's turn came after its device memory was freed");
    size_t K = w->rows, N = w->cols, T = x->cols;
    bool   forward = how == 't' && T < 64;
    std::vector<float> turned(K * N); /* [N / 8, K, 8] */
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            turned[(n / 8 * K + k) * 8 + n % 8] = bf16_to_float(at_w[n * (size_t)w->ld + k]);
    for (size_t t = 0; t < T; t++)
        for (size_t n = 0; n < N; n += 8) {
            float sum[8] = {};
            for (size_t i = 0; i < K; i++) {
                size_t       k = forward ? i : K - 1 - i;
                const float  v = bf16_to_float(at_x[t * (size_t)x->ld + k]), *row = &turned[(n / 8 * K + k) * 8];
                for (int j = 0; j < 8; j++) sum[j] += v * row[j];
            }
            for (size_t j = 0; j < 8; j++) {
                size_t at = t * (size_t)y->ld + n + j;
                float  v = how == 'w' ? -sum[j] : sum[j];
                if (y->type == LT_R_32F) ((float *)at_y)[at] = v;
                else {
                    if (at_c) v += bf16_to_float(((const uint16_t *)at_c)[at]);
                    ((uint16_t *)at_y)[at] = bf16_from_float(v);
                }
            }
        }
}

static int Matmul(void *, void *desc, const void *alpha, const void *w, void *w_layout, const void *x, void *x_layout,
                  const void *beta, const void *c, void *c_layout, void *y, void *y_layout, const lt_algorithm *a,
                  void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    api_call     call;
    const layout lw = *(layout *)w_layout, lx = *(layout *)x_layout, ly = *(layout *)y_layout;
    char         how = (char)a->data[0];
    if (status_of(call)) return status_of(call);
    if (next_status) {
        int status = next_status;
        next_status = 0;
        return status;
    }
    if (!agree(desc, w_layout, x_layout, c_layout, y_layout) || *(const float *)alpha != 1 || workspace ||
        workspace_bytes)
        return INVALID;
    if (((uintptr_t)w | (uintptr_t)x | (uintptr_t)c | (uintptr_t)y) % 16 || lw.cols % 8 || lw.ld % 8 || lx.ld % 8 ||
        ly.ld % 8)
        return INVALID;
    if (!memory_holds(w, bytes_of(&lw)) || !memory_holds(x, bytes_of(&lx)) || !memory_holds(c, bytes_of(&ly)) ||
        !memory_holds(y, bytes_of(&ly)))
        return INVALID;
    if (how == 'x') return LT_NOT_SUPPORTED;
    n_products++;
    const void *added = *(const float *)beta != 0 ? c : NULL;
    cudaError_t status = submit(stream, [=] {
        multiply(how, &lw, &lx, &ly, (const uint16_t *)w, (const uint16_t *)x, added, y);
    });
    return status == cudaSuccess ? 0 : LT_EXECUTION_FAILED;
}

void *simt_cublaslt_symbol(const char *name)
{
#define GIVE(function) \
    if (there && strcmp(name, "cublasLt" #function) == 0) return (void *)function;
    GIVE(Create) GIVE(Destroy) GIVE(GetVersion)
    GIVE(MatmulDescCreate) GIVE(MatmulDescDestroy) GIVE(MatmulDescSetAttribute)
    GIVE(MatrixLayoutCreate) GIVE(MatrixLayoutDestroy)
    GIVE(MatmulPreferenceCreate) GIVE(MatmulPreferenceDestroy) GIVE(MatmulPreferenceSetAttribute)
    GIVE(MatmulAlgoGetHeuristic) GIVE(MatmulAlgoConfigGetAttribute) GIVE(MatmulAlgoCheck) GIVE(Matmul)
#undef GIVE
    return NULL;
}
