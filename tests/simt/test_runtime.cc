/* test_runtime.cc - the emulated device: memory, copies, the time at which a stream's work is done, graphs, errors,
 * and failures made on purpose. */
#include "kernels/cuda/device.cuh"
#include "tests/simt/child.h"
#include "tests/simt/control.h"

#define DONE(call) assert_string_equal(cudaGetErrorName(call), "cudaSuccess")
#define GIVES(call, code) do { \
        assert_string_equal(cudaGetErrorName(call), #code); \
        assert_string_equal(cudaGetErrorName(cudaGetLastError()), #code); \
        assert_int_equal(cudaGetLastError(), cudaSuccess); \
    } while (0)

static __global__ void add(int *y, int v) { y[threadIdx.x] += v; }
static __global__ void twice(int *y) { y[threadIdx.x] *= 2; }
static __global__ void shared_user(int *y)
{
    DYNAMIC_SHARED(int, s);
    s[0] = 1;
    y[0] = s[0];
}

static int *zeros(size_t n)
{
    int *p;
    DONE(cudaMalloc(&p, n * sizeof *p));
    DONE(cudaMemset(p, 0, n * sizeof *p));
    return p;
}
static int first(const int *p)
{
    int v = -1;
    DONE(cudaMemcpy(&v, p, sizeof v, cudaMemcpyDeviceToHost));
    return v;
}

static void memory_is_counted_and_bounded(void **)
{
    size_t free_bytes, all;
    void  *p, *q;
    simt_set_memory(1 << 20);
    DONE(cudaMalloc(&p, (1 << 20) - 100));
    DONE(cudaMemGetInfo(&free_bytes, &all));
    assert_int_equal(free_bytes, 100);
    assert_int_equal(all, 1 << 20);
    GIVES(cudaMalloc(&q, 101), cudaErrorMemoryAllocation);
    assert_null(q);
    DONE(cudaMalloc(&q, 100));
    DONE(cudaFree(p));
    DONE(cudaFree(q));
    DONE(cudaFree(NULL));
    GIVES(cudaFree(p), cudaErrorInvalidValue);
    DONE(cudaMalloc(&q, 0));
    assert_null(q);
    assert_int_equal(simt_memory_used(), 0);
    simt_set_memory((size_t)16 << 30);
}

static void copies_outside_a_block_or_the_wrong_way_are_refused(void **)
{
    char  host[64] = {0};
    int  *p = zeros(16);
    GIVES(cudaMemcpy(p, host, 65, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(host, p + 1, 64, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(p, host, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    GIVES(cudaMemcpy(host, host + 4, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemset(p, 0, 65), cudaErrorInvalidValue);
    GIVES(cudaMemcpy2D(p, 16, host, 8, 12, 2, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    GIVES(cudaMemcpy2D(p, 16, host, 4, 4, 5, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    for (int i = 0; i < 64; i++) host[i] = (char)i;
    DONE(cudaMemcpy2D(p, 16, host, 20, 12, 3, cudaMemcpyDefault));
    char got[64];
    DONE(cudaMemcpy(got, p, 64, cudaMemcpyDefault));
    for (int i = 0; i < 64; i++) assert_int_equal(got[i], i % 16 < 12 && i < 48 ? i / 16 * 20 + i % 16 : 0);
    DONE(cudaFree(p));
}

static void launches_beyond_the_limits_are_refused(void **)
{
    int *y = zeros(1);
    LAUNCH(shared_user, 0, 32, 64, 0, y);
    GIVES(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(shared_user, 1, 1025, 64, 0, y);
    GIVES(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(shared_user, dim3(1, 65536), 1, 64, 0, y);
    GIVES(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(shared_user, 1, dim3(1, 1, 65), 64, 0, y);
    GIVES(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(shared_user, 1, 1, 48 * 1024 + 1, 0, y);
    GIVES(cudaPeekAtLastError(), cudaErrorInvalidValue);
    GIVES(cudaFuncSetAttribute(shared_user, cudaFuncAttributeMaxDynamicSharedMemorySize, 164 * 1024),
          cudaErrorInvalidValue);
    DONE(cudaFuncSetAttribute(shared_user, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 * 1024));
    assert_int_equal(first(y), 0);
    LAUNCH(shared_user, 1, 1, 99 * 1024, 0, y);
    DONE(cudaGetLastError());
    assert_int_equal(first(y), 1);
    DONE(cudaFree(y));
}

/* Host memory that the device still reads, or has not written yet: the mistake must show. */
static void a_stream_works_when_it_is_waited_for(void **)
{
    cudaStream_t s;
    int         *y = zeros(1), *pinned, pageable = 5, got = -1;
    DONE(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    DONE(cudaMallocHost(&pinned, 2 * sizeof *pinned));
    pinned[0] = 1, pinned[1] = -1;

    DONE(cudaMemcpyAsync(y, pinned, sizeof *y, cudaMemcpyHostToDevice, s));
    LAUNCH(twice, 1, 1, 0, s, y);
    DONE(cudaMemcpyAsync(pinned + 1, y, sizeof *y, cudaMemcpyDeviceToHost, s));
    assert_int_equal(pinned[1], -1);
    assert_int_equal(first(y), 0); /* a non-blocking stream is not waited for by the default one */
    pinned[0] = 7;                 /* too early: the copy takes this */
    DONE(cudaStreamSynchronize(s));
    assert_int_equal(pinned[1], 14);

    DONE(cudaMemcpyAsync(y, &pageable, sizeof *y, cudaMemcpyHostToDevice, s));
    pageable = 6; /* was read before the call returned */
    LAUNCH(twice, 1, 1, 0, s, y);
    DONE(cudaMemcpyAsync(&got, y, sizeof *y, cudaMemcpyDeviceToHost, s)); /* to pageable memory: returns when done */
    assert_int_equal(got, 10);

    LAUNCH(add, 1, 1, 0, s, y, 1);
    int turns = 0;
    while (cudaStreamQuery(s) == cudaErrorNotReady) turns++;
    assert_int_equal(turns, 1);
    assert_int_equal(first(y), 11);
    DONE(cudaStreamDestroy(s));
    DONE(cudaFreeHost(pinned));
    DONE(cudaFree(y));
    assert_int_equal(simt_handles_used(), 0);
}

static void streams_meet_in_events(void **)
{
    cudaStream_t a, b;
    cudaEvent_t  e;
    float        ms = -1;
    int         *y = zeros(1);
    DONE(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    DONE(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    DONE(cudaEventCreate(&e));
    DONE(cudaStreamWaitEvent(b, e, 0)); /* never recorded: nothing to wait for */
    LAUNCH(add, 1, 1, 0, a, y, 3);
    DONE(cudaEventRecord(e, a));
    LAUNCH(add, 1, 1, 0, a, y, 100);
    DONE(cudaStreamWaitEvent(b, e, 0));
    LAUNCH(twice, 1, 1, 0, b, y);
    DONE(cudaStreamSynchronize(b));
    assert_int_equal(first(y), 6); /* what a does behind the event waits */
    DONE(cudaStreamSynchronize(a));
    assert_int_equal(first(y), 106);
    DONE(cudaEventRecord(e, a));
    assert_int_equal(cudaEventQuery(e), cudaErrorNotReady);
    DONE(cudaEventSynchronize(e));
    DONE(cudaEventElapsedTime(&ms, e, e));
    assert_true(ms == 0);
    DONE(cudaEventDestroy(e));
    DONE(cudaStreamDestroy(a));
    DONE(cudaStreamDestroy(b));
    DONE(cudaFree(y));
}

static void a_graph_repeats_what_was_captured(void **)
{
    cudaStream_t    s;
    cudaGraph_t     graph;
    cudaGraphExec_t exec;
    void           *p;
    int            *y = zeros(1);
    DONE(cudaStreamCreate(&s));
    DONE(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    LAUNCH(add, 1, 1, 0, s, y, 1);
    LAUNCH(twice, 1, 1, 0, s, y);
    GIVES(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    GIVES(cudaMalloc(&p, 4), cudaErrorStreamCaptureUnsupported);
    DONE(cudaStreamEndCapture(s, &graph));
    DONE(cudaGraphInstantiate(&exec, graph, 0));
    DONE(cudaGraphDestroy(graph));
    assert_int_equal(first(y), 0);
    for (int i = 0; i < 3; i++) DONE(cudaGraphLaunch(exec, s));
    assert_int_equal(first(y), 14);
    DONE(cudaGraphExecDestroy(exec));
    DONE(cudaStreamDestroy(s));
    DONE(cudaFree(y));
    assert_int_equal(simt_handles_used(), 0);
}

static void calls_fail_where_a_test_says_so(void **)
{
    void *p;
    int   n;
    int  *y = zeros(1);
    simt_fail(cudaErrorMemoryAllocation, 1);
    DONE(cudaGetDeviceCount(&n));
    GIVES(cudaMalloc(&p, 4), cudaErrorMemoryAllocation);
    DONE(cudaMalloc(&p, 4)); /* once */
    simt_fail(cudaErrorLaunchFailure, 0);
    LAUNCH(add, 1, 1, 0, 0, y, 1);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure); /* for ever */
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    assert_string_equal(cudaGetErrorString(cudaErrorLaunchFailure), "unspecified launch failure");
    simt_fail(cudaSuccess, 0);
    assert_int_equal(first(y), 0);
    simt_set_devices(0);
    GIVES(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    assert_int_equal(n, 0);
    simt_set_devices(1);
    GIVES(cudaSetDevice(1), cudaErrorInvalidDevice);
    DONE(cudaFree(p));
    DONE(cudaFree(y));
    assert_int_equal(simt_memory_used(), 0);
}

static void memory_freed_before_its_turn_is_found(void **)
{
    caught("copy", [] {
        cudaStream_t s;
        int         *y = zeros(4), *pinned;
        cudaStreamCreate(&s);
        cudaMallocHost(&pinned, 16);
        cudaFreeAsync(y, s);
        cudaMemcpyAsync(pinned, y, 16, cudaMemcpyDeviceToHost, s);
        cudaStreamSynchronize(s);
    }, "simt:", "a copy's turn came", "freed");
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_counted_and_bounded),
        cmocka_unit_test(copies_outside_a_block_or_the_wrong_way_are_refused),
        cmocka_unit_test(launches_beyond_the_limits_are_refused),
        cmocka_unit_test(a_stream_works_when_it_is_waited_for),
        cmocka_unit_test(streams_meet_in_events),
        cmocka_unit_test(a_graph_repeats_what_was_captured),
        cmocka_unit_test(calls_fail_where_a_test_says_so),
        cmocka_unit_test(memory_freed_before_its_turn_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
