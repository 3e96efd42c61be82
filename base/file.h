/* file.h - whole files: mapped or read, and paths. */
#ifndef JOMED_BASE_FILE_H
#define JOMED_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"

/* A read-only mapping. An empty file gives bytes == 0 and data non-NULL. */
typedef struct { const uint8_t *data; size_t bytes; } file_map;
bool file_map_open(file_map *out, const char *path, err *e); /* ERR_FILE names the path */
void file_map_close(file_map *m);

/* Read all of path, at most limit bytes, with a zero behind; gives *out (free()). */
bool file_read(char **out, size_t *n, const char *path, size_t limit, err *e);
bool file_exists(const char *path);
/* Write to path.tmp, fsync, rename over path. */
bool file_write(const char *path, const void *data, size_t n, err *e);
/* "dir/name" in buf; ERR_FILE if it does not fit. */
bool path_join(char *buf, size_t size, const char *dir, const char *name, err *e);
/* True when rel is relative and has no ".." part: safe to join below a root. */
bool path_is_below(const char *rel);

#endif
