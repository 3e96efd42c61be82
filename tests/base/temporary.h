/* temporary.h - files and a folder that a test makes for itself. */
#ifndef JOMED_TESTS_BASE_TEMPORARY_H
#define JOMED_TESTS_BASE_TEMPORARY_H

#include "tests/check.h"
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

/* A fresh folder; static storage, one at a time. */
static inline const char *temporary_dir(void)
{
    static char dir[64];
    strcpy(dir, "/tmp/jomed-test-XXXXXX");
    if (!mkdtemp(dir)) fail_msg("mkdtemp");
    return dir;
}

/* "dir/name": static storage, four calls deep. */
static inline const char *inside(const char *dir, const char *name)
{
    static char buf[4][512];
    static int  i;
    char       *b = buf[i++ & 3];
    snprintf(b, sizeof buf[0], "%s/%s", dir, name);
    return b;
}

static inline const char *put_file(const char *dir, const char *name, const void *bytes, size_t n)
{
    const char *path = inside(dir, name);
    FILE       *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) fail_msg("cannot write %s", path);
    return path;
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}
static inline void remove_dir(const char *dir) { nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS); }

#endif
