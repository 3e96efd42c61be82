#include "index/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

void progress_start(progress *p, int n_sources, int64_t items_done, bool quiet)
{
    double now = clock_ms();
    *p = (progress){.terminal = !quiet && isatty(STDERR_FILENO), .quiet = quiet, .n_sources = n_sources, .source = -1,
                    .first_items = items_done, .start_ms = now, .last_ms = now};
}

void progress_show(progress *p, int source, int64_t items, int64_t bad, double done)
{
    double now = clock_ms();
    if (!p->terminal) return;
    if (source != p->source) {
        p->source = source;
        p->source_ms = now;
        p->source_done = done; /* after a resume this is not 0, and was not this run's work */
    }
    if (now - p->last_ms < 200 && done < 1) return; /* the end is always shown */
    p->last_ms = now;

    double rate = (double)(items - p->first_items) / (now - p->start_ms) * 1000;
    double gained = done - p->source_done;
    char   left[32] = "?";
    if (gained > 0) {
        long s = (long)((1 - done) / gained * (now - p->source_ms) / 1000 + 0.5);
        snprintf(left, sizeof left, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    }
    fprintf(stderr, "\rsource %d/%d  %3.0f %%  %lld items  %.1f/s  %lld skipped  %s left \033[K", source + 1,
            p->n_sources, 100 * done, (long long)items, rate, (long long)bad, left);
    p->shown = true;
}

void progress_note(progress *p, const char *line)
{
    if (p->quiet) return;
    progress_end(p);
    fprintf(stderr, "%s\n", line);
}

void progress_end(progress *p)
{
    if (p->shown) fputc('\n', stderr);
    p->shown = false;
}
