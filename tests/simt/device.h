/* device.h - between memory.cc's neighbours runtime.cc (the device, copies, launches) and stream.cc (when work is
 * done). */
#ifndef JOMED_SIMT_DEVICE_H
#define JOMED_SIMT_DEVICE_H

#include <functional>
#include <mutex>
#include "tests/simt/control.h"
#include "tests/simt/inner.h"

namespace simt {

typedef std::function<void()> work;

/* Begins each call to the API: one host thread at a time, counted, made to fail where a test said so. */
class api_call {
    std::lock_guard<std::recursive_mutex> lock;
public:
    cudaError_t status; /* not cudaSuccess: return it */
    api_call();
};
/* Keep it for cudaGetLastError() and give it back. */
cudaError_t fail(cudaError_t status);

cudaError_t submit(cudaStream_t s, work w); /* do w in s's turn; the default stream's turn is now */
void        drain(cudaStream_t s);          /* do what waits in s; NULL: in all streams but the non-blocking ones */
void        drain_all();
bool        capturing();                    /* some stream is: calls that wait or allocate are refused */
extern long n_handles;

} // namespace simt

#endif
