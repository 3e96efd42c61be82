/* stream.cc - streams, events and graphs: when work is done.
 *
 * Work stays in its stream until the host waits for that stream, for an event behind the work, or for the device. The
 * default stream is the exception: what is given to it is done at once, behind all streams that are not
 * non-blocking. */
#include "tests/simt/device.h"

#include <chrono>
#include <deque>
#include <memory>
#include <set>
#include <vector>

using namespace simt;

struct simt_graph { std::vector<work> nodes; };
struct simt_stream {
    std::deque<work> queue;
    bool             non_blocking;
    simt_graph      *capture; /* being recorded */
};
struct moment {
    simt_stream                          *stream; /* of the last record; valid until done */
    uint64_t                              recorded, done;
    std::chrono::steady_clock::time_point at;
};
struct simt_event { std::shared_ptr<moment> m; };

static std::set<simt_stream *> streams;

static bool known(simt_stream *s) { return !s || streams.count(s); }
static bool run_one(simt_stream *s)
{
    if (s->queue.empty()) return false;
    work w = std::move(s->queue.front());
    s->queue.pop_front();
    w();
    return true;
}
void simt::drain(cudaStream_t s)
{
    if (s && s->queue.empty()) return;
    memory_access open; /* once for all of it */
    if (s) while (run_one(s)) {}
    else
        for (simt_stream *other : streams)
            if (!other->non_blocking) while (run_one(other)) {}
}
void simt::drain_all()
{
    memory_access open;
    for (simt_stream *s : streams) while (run_one(s)) {}
}
bool simt::capturing()
{
    for (simt_stream *s : streams)
        if (s->capture) return true;
    return false;
}
cudaError_t simt::submit(cudaStream_t s, work w)
{
    if (!known(s)) return fail(cudaErrorInvalidResourceHandle);
    if (s && s->capture) s->capture->nodes.push_back(std::move(w));
    else if (s) s->queue.push_back(std::move(w));
    else {
        drain(NULL);
        w();
    }
    return cudaSuccess;
}

/* -------------------------------------------------------------------------------------------------------- streams */
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    api_call c;
    *s = NULL;
    if (c.status != cudaSuccess) return c.status;
    *s = new simt_stream{{}, flags == cudaStreamNonBlocking, NULL};
    streams.insert(*s);
    n_handles++;
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(s, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    api_call c;
    if (!s || !known(s)) return fail(cudaErrorInvalidResourceHandle);
    drain(s);
    streams.erase(s);
    delete s->capture;
    delete s;
    n_handles--;
    return c.status;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!known(s)) return fail(cudaErrorInvalidResourceHandle);
    if (s && s->capture) return fail(cudaErrorStreamCaptureUnsupported);
    drain(s);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t s) /* asked once, done once: who polls gets there */
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!known(s)) return fail(cudaErrorInvalidResourceHandle);
    if (!s || s->queue.empty()) return cudaSuccess;
    run_one(s);
    return cudaErrorNotReady;
}

/* --------------------------------------------------------------------------------------------------------- events */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    api_call c;
    *event = NULL;
    if (c.status != cudaSuccess) return c.status;
    *event = new simt_event{std::make_shared<moment>()};
    n_handles++;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    api_call c;
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    delete event;
    n_handles--;
    return c.status;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    std::shared_ptr<moment> m = event->m;
    uint64_t                number = ++m->recorded;
    m->stream = s;
    return submit(s, [m, number] {
        m->done = number;
        m->at = std::chrono::steady_clock::now();
    });
}
static void reach(const std::shared_ptr<moment> &m, uint64_t number)
{
    while (m->done < number && m->stream && known(m->stream) && run_one(m->stream)) {}
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    std::shared_ptr<moment> m = event->m;
    uint64_t                number = m->recorded;
    return submit(s, [m, number] { reach(m, number); });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    reach(event->m, event->m->recorded);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!event) return fail(cudaErrorInvalidResourceHandle);
    moment *m = event->m.get();
    if (m->done >= m->recorded) return cudaSuccess;
    if (m->stream && known(m->stream)) run_one(m->stream);
    return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!start || !end || !start->m->recorded || !end->m->recorded) return fail(cudaErrorInvalidResourceHandle);
    if (start->m->done < start->m->recorded || end->m->done < end->m->recorded) return fail(cudaErrorNotReady);
    *ms = std::chrono::duration<float, std::milli>(end->m->at - start->m->at).count();
    return cudaSuccess;
}

/* --------------------------------------------------------------------------------------------------------- graphs */
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!s || !known(s)) return fail(cudaErrorStreamCaptureUnsupported); /* the default stream cannot be captured */
    if (s->capture) return fail(cudaErrorInvalidValue);
    s->capture = new simt_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    api_call c;
    *graph = NULL;
    if (!s || !known(s) || !s->capture) return fail(cudaErrorInvalidValue);
    simt_graph *g = s->capture;
    s->capture = NULL;
    if (c.status != cudaSuccess) { delete g; return c.status; }
    *graph = g;
    n_handles++;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status)
{
    api_call c;
    *status = s && known(s) && s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return c.status;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    api_call c;
    *exec = NULL;
    if (c.status != cudaSuccess) return c.status;
    if (!graph) return fail(cudaErrorInvalidValue);
    *exec = new simt_graph(*graph);
    n_handles++;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    api_call c;
    if (c.status != cudaSuccess) return c.status;
    if (!exec) return fail(cudaErrorInvalidValue);
    for (const work &w : exec->nodes) {
        cudaError_t status = submit(s, w);
        if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    api_call c;
    if (!graph) return fail(cudaErrorInvalidValue);
    delete graph;
    n_handles--;
    return c.status;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }
