/* replay.c - a fuzz target without a fuzzer: gives it every file of the folders (or the files) named on the
 * command line. Prints how many. The target aborts the program where it finds a fault, so the last line tells
 * which file it was. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A copy of exactly the file's size, so that a sanitizer sees one byte past the end. */
static int replay_file(const char *path, long n)
{
    FILE    *f = fopen(path, "rb");
    uint8_t *p = malloc(n > 0 ? (size_t)n : 1);
    int      ok = f && p && fread(p, 1, (size_t)n, f) == (size_t)n;
    if (ok) {
        printf("# %s\n", path);
        fflush(stdout);
        LLVMFuzzerTestOneInput(p, (size_t)n);
    } else fprintf(stderr, "cannot read %s\n", path);
    if (f) fclose(f);
    free(p);
    return ok;
}

/* Files replayed, or -1. */
static int replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        fprintf(stderr, "cannot find %s\n", path);
        return -1;
    }
    if (!S_ISDIR(st.st_mode)) return replay_file(path, (long)st.st_size) ? 1 : -1;
    struct dirent **entry;
    int             n = scandir(path, &entry, NULL, alphasort), files = 0;
    for (int i = 0; i < n; i++) {
        char child[4096];
        int  got = 0;
        snprintf(child, sizeof child, "%s/%s", path, entry[i]->d_name);
        if (files >= 0 && entry[i]->d_name[0] != '.') got = replay(child);
        files = files < 0 || got < 0 ? -1 : files + got;
        free(entry[i]);
    }
    if (n >= 0) free(entry);
    return files;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int n = replay(argv[i]);
        if (n < 0) return 1;
        total += n;
    }
    printf("%d files\n", total);
    return total > 0 ? 0 : 1;
}
