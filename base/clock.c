#include "base/clock.h"

#include <stdio.h>
#include <time.h>

double clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int64_t clock_unix(void) { return (int64_t)time(NULL); }

void clock_rfc3339(char out[32])
{
    struct timespec t;
    struct tm       tm;
    char            seconds[24];
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 32, "%s.%03dZ", seconds, (int)(t.tv_nsec / 1000000));
}
