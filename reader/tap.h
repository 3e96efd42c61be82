/* tap.h - lets a test look at the stages of a forward pass by the names the goldens have. It only observes: serving
 * passes NULL. Internal to reader/. */
#ifndef JOMED_READER_TAP_H
#define JOMED_READER_TAP_H

#include "kernels/kernels.h"

/* x [T,D] is the output of the stage; i is the block or layer, -1 where there is one only. */
typedef struct {
    void (*see)(void *ctx, const char *stage, int i, kernels *k, const act *x, int T, int D);
    void *ctx;
} tap;

static inline void tap_see(const tap *t, const char *stage, int i, kernels *k, const act *x, int T, int D)
{
    if (t) t->see(t->ctx, stage, i, k, x, T, D);
}

#endif
