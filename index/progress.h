/* progress.h - one line on a terminal that keeps telling how far a build is; silent elsewhere, but for notes. */
#ifndef JOMED_INDEX_PROGRESS_H
#define JOMED_INDEX_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    bool    terminal, quiet, shown;
    int     n_sources, source;
    int64_t first_items;      /* done by an earlier run: no part of the rate */
    double  start_ms, last_ms;
    double  source_ms, source_done; /* when the source at hand began, and how far it was then */
} progress;

void progress_start(progress *p, int n_sources, int64_t items_done, bool quiet);
/* done: share of source (from 0) that has been given. Writes at most five times a second. */
void progress_show(progress *p, int source, int64_t items, int64_t bad, double done);
void progress_note(progress *p, const char *line); /* a line of its own, also where stderr is no terminal */
void progress_end(progress *p);                    /* ends the line */

#endif
