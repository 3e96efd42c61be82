/* demo.h - the whole path on the demonstration's models and index, as the tests of diagnose/ open it. */
#ifndef JOMED_TESTS_DIAGNOSE_DEMO_H
#define JOMED_TESTS_DIAGNOSE_DEMO_H

#include "tests/check.h"
#include "diagnose/engine.h"

static inline engine_options demo_options(void)
{
    const char *index = getenv("JOMED_DEMO_INDEX");
    return (engine_options){.reader = DEMO("reader"),
                            .retriever = DEMO("retriever"),
                            .index = index ? index : "build/demo-index",
                            .device = "cpu",
                            .threads = 1,
                            .cache_bytes = 64 << 20};
}

/* The caller closes the engine, then the kernels. */
static inline void demo_engine(engine *en, kernels **k, const engine_options *o)
{
    err e = {0};
    OK(engine_kernels(k, o, &e), e);
    OK(engine_open(en, o, *k, &e), e);
}

#endif
