#include "index/lines.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"

struct lines {
    FILE   *f;
    char   *path, *buf;
    int64_t number, bytes, size;
};

bool lines_open(lines **out, const char *path, err *e)
{
    struct stat st;
    lines      *l = mem_zalloc(1, sizeof *l);
    if (l) {
        l->path = mem_strdup(path);
        l->buf = mem_alloc(MAX_LINE_BYTES + 2);
    }
    if (!l || !l->path || !l->buf) err_set(e, ERR_MEMORY, "%s: out of memory", path);
    else if (!(l->f = fopen(path, "re")) || fstat(fileno(l->f), &st) != 0)
        err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode)) err_set(e, ERR_FILE, "%s: not a regular file", path);
    else {
        l->size = st.st_size;
        *out = l;
        return true;
    }
    lines_close(l);
    return false;
}

void lines_close(lines *l)
{
    if (!l) return;
    if (l->f) fclose(l->f);
    free(l->path);
    free(l->buf);
    free(l);
}

bool lines_next(lines *l, char **s, size_t *n, bool *too_long, err *e)
{
    size_t len = 0;
    int    c;
    *s = NULL;
    *n = 0;
    *too_long = false;
    while ((c = getc_unlocked(l->f)) != EOF && c != '\n') {
        if (len < MAX_LINE_BYTES) l->buf[len++] = (char)c;
        else *too_long = true;
        l->bytes++;
    }
    if (ferror(l->f)) return err_set(e, ERR_FILE, "%s: %s", l->path, strerror(errno));
    if (c == EOF && len == 0) return true;
    l->bytes++;
    l->number++;
    if (len && l->buf[len - 1] == '\r') len--;
    l->buf[len] = 0;
    size_t skip = l->number == 1 && len >= 3 && memcmp(l->buf, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    *s = l->buf + skip;
    *n = len - skip;
    return true;
}

int64_t lines_number(const lines *l) { return l->number; }
double  lines_done(const lines *l) { return l->size > 0 ? (double)l->bytes / (double)l->size : 1; }

int csv_split(char *line, char **field, int max)
{
    int   n = 0;
    char *in = line;
    for (;;) {
        if (n == max) return -1;
        char *out = in;
        field[n++] = out;
        if (*in == '"') {
            for (in++;; in++) {
                if (*in == 0) return -1;
                if (*in == '"' && *++in != '"') break; /* a doubled quote stands for one */
                *out++ = *in;
            }
            if (*in && *in != ',') return -1;
        } else {
            while (*in && *in != ',') in++;
            out = in;
        }
        char end = *in++;
        *out = 0;
        if (end == 0) break;
    }
    for (int i = n; i < max; i++) field[i] = NULL;
    return n;
}
