#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

/* Open a regular file for reading and tell its size. -1: e is set. */
static int open_regular(const char *path, size_t *bytes, err *e)
{
    struct stat st;
    /* or a pipe without a writer would block the open */
    int         fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_set(e, ERR_FILE, "%s: %s", path, strerror(errno)), -1;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_FILE, "%s: not a regular file", path), -1;
    }
    *bytes = (size_t)st.st_size;
    return fd;
}

bool file_map_open(file_map *out, const char *path, err *e)
{
    static const uint8_t nothing;
    size_t               n;
    int                  fd = open_regular(path, &n, e);
    if (fd < 0) return false;
    void *p = n ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : (void *)&nothing;
    int   why = errno;
    close(fd);
    if (p == MAP_FAILED) return err_set(e, ERR_FILE, "%s: cannot be mapped: %s", path, strerror(why));
    *out = (file_map){p, n};
    return true;
}

void file_map_close(file_map *m)
{
    if (m->data && m->bytes) munmap((void *)m->data, m->bytes);
    *m = (file_map){0};
}

bool file_read(char **out, size_t *n, const char *path, size_t limit, err *e)
{
    bool   ok = false;
    char  *buf = NULL;
    size_t size, got = 0;
    int    fd = open_regular(path, &size, e);
    if (fd < 0) return false;
    if (size > limit) {
        err_set(e, ERR_FILE, "%s: %zu bytes, at most %zu are taken", path, size, limit);
        goto done;
    }
    if (!(buf = mem_alloc(size + 1))) {
        err_set(e, ERR_MEMORY, "%s: out of memory", path);
        goto done;
    }
    while (got < size) {
        ssize_t r = read(fd, buf + got, size - got);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) {
            err_set(e, ERR_FILE, "%s: %s", path, r < 0 ? strerror(errno) : "became shorter while it was read");
            goto done;
        }
        got += (size_t)r;
    }
    buf[size] = 0;
    *out = buf;
    *n = size;
    buf = NULL;
    ok = true;
done:
    free(buf);
    close(fd);
    return ok;
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool file_write(const char *path, const void *data, size_t n, err *e)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary)
        return err_set(e, ERR_FILE, "%.100s...: path too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return err_set(e, ERR_FILE, "%s: %s", temporary, strerror(errno));
    const char *p = data;
    for (size_t done = 0; done < n;) {
        ssize_t w = write(fd, p + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            err_set(e, ERR_FILE, "%s: %s", temporary, strerror(errno));
            close(fd);
            unlink(temporary);
            return false;
        }
        done += (size_t)w;
    }
    bool ok = fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    if (!ok || rename(temporary, path) != 0) {
        err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
        unlink(temporary);
        return false;
    }
    return true;
}

bool path_join(char *buf, size_t size, const char *dir, const char *name, err *e)
{
    size_t      n = strlen(dir);
    const char *slash = n && dir[n - 1] == '/' ? "" : "/";
    if (snprintf(buf, size, "%s%s%s", dir, slash, name) >= (int)size)
        return err_set(e, ERR_FILE, "%.100s...: path too long", dir);
    return true;
}

bool path_is_below(const char *rel)
{
    if (*rel == 0 || *rel == '/') return false;
    for (const char *p = rel; *p;) {
        const char *end = strchr(p, '/');
        size_t      n = end ? (size_t)(end - p) : strlen(p);
        if (n == 2 && p[0] == '.' && p[1] == '.') return false;
        p += n + (end != NULL);
    }
    return true;
}
