/* clock.h - monotonic time for budgets and stage times. */
#ifndef JOMED_BASE_CLOCK_H
#define JOMED_BASE_CLOCK_H

#include <stdint.h>

double  clock_ms(void);  /* monotonic milliseconds */
int64_t clock_unix(void);
/* RFC 3339 in UTC with milliseconds, "2026-01-31T12:00:00.000Z" */
void clock_rfc3339(char out[32]);

#endif
