/* range.h - names for stretches of a thread's time, in the timeline of NVIDIA's profilers (NVTX): `nsys profile
 * jomed ...` then shows which stage a kernel belongs to. They nest. Without a profiler, and in a build without
 * CUDA, they do nothing. */
#ifndef JOMED_KERNELS_RANGE_H
#define JOMED_KERNELS_RANGE_H

#ifdef __cplusplus
extern "C" {
#endif
void range_begin(const char *name); /* name outlives the program: a literal */
void range_end(void);
#ifdef __cplusplus
}
#endif

#endif
