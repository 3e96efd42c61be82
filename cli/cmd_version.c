/* cmd_version.c - our version and those of the libraries that read untrusted input. */
#include <string.h>
#include <jansson.h>
#include <microhttpd.h>
#include <png.h>
#include <sqlite3.h>

#include "cli/cli.h"

int cmd_version(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0)
        return printf("usage: jomed version\n\nPrint versions.\n"), EXIT_DONE;
    if (argc > 1) {
        err e = {0};
        err_set(&e, ERR_USAGE, "takes no arguments");
        return cli_fail("version", &e);
    }
    printf("jomed %s\nlibmicrohttpd %s\njansson %s\nlibpng %s\nSQLite %s\n%s\n", JOMED_VERSION, MHD_get_version(),
           JANSSON_VERSION, png_get_libpng_ver(NULL), sqlite3_libversion(), RESEARCH_USE);
    return EXIT_DONE;
}
