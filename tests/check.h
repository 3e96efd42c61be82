/* check.h - what our cmocka tests share: includes in the order cmocka wants, paths of fixtures, errors,
 * tolerances. */
#ifndef JOMED_TESTS_CHECK_H
#define JOMED_TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/err.h"

#define FIXTURE(path) "tests/fixtures/" path /* tests run in the project's root */
#define DEMO(path) "models/demo/" path

/* A path below the shared data folder, which may be absent: static storage, four calls deep. */
static inline const char *shared_path(const char *rel)
{
    static char buf[4][512];
    static int  i;
    const char *root = getenv("JOMED_SHARED");
    char       *b = buf[i++ & 3];
    snprintf(b, sizeof buf[0], "%s/%s", root ? root : "../shared", rel);
    return b;
}
/* Skip the running test, saying why. */
#define SKIP(...) do { printf("# SKIP reason: "); printf(__VA_ARGS__); printf("\n"); skip(); } while (0)

/* The call must succeed; shows the error text otherwise. */
#define OK(call, e) do { if (!(call)) fail_msg("%s: %s", #call, (e).text); } while (0)
/* The call must fail with this code, and its text must hold that part. */
#define FAILS(call, e, want, part) do { \
        (e) = (err){0}; \
        if (call) fail_msg("%s: should have failed", #call); \
        if ((e).code != (want) || !strstr((e).text, (part))) \
            fail_msg("%s: got %s '%s', wanted %s with '%s'", #call, err_code_name((e).code), (e).text, err_code_name(want), (part)); \
    } while (0)

/* max |a - b| / max |b|; a NaN anywhere gives infinity. */
static inline double rel_max(const float *a, const float *b, size_t n)
{
    double d = 0, m = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) || isnan(b[i])) return INFINITY;
        double x = fabs((double)a[i] - b[i]), y = fabs((double)b[i]);
        if (x > d) d = x;
        if (y > m) m = y;
    }
    return m > 0 ? d / m : d;
}
#define CLOSE(a, b, n, tol, what) do { \
        double r_ = rel_max((a), (b), (n)); \
        if (!(r_ <= (tol))) fail_msg("%s: relative difference %.3g, allowed %.3g", (what), r_, (double)(tol)); \
    } while (0)

#endif
