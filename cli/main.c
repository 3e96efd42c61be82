/* main.c - jomed: one program, several commands. Exit status 0 done, 1 failed, 2 usage. */
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"

static const struct { const char *name; int (*run)(int, char **); const char *help; } COMMAND[] = {
    {"diagnose", cmd_diagnose, "answer a question about an image, with the evidence"},
    {"retrieve", cmd_retrieve, "find the passages nearest to an image"},
    {"embed", cmd_embed, "embed images or texts"},
    {"index", cmd_index, "build, describe or verify an index"},
    {"eval", cmd_eval, "run a data set and report metrics"},
    {"serve", cmd_serve, "serve requests over HTTP"},
    {"show", cmd_show, "print an answer of the server for people"},
    {"version", cmd_version, "print versions"},
};
enum { N_COMMANDS = sizeof COMMAND / sizeof *COMMAND };

static void usage(FILE *f)
{
    fprintf(f,
            "jomed %s - retrieval-augmented diagnosis of medical images. %s\n\nusage: jomed COMMAND [OPTIONS]\n\n",
            JOMED_VERSION, RESEARCH_USE);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(f, "  %-10s %s\n", COMMAND[i].name, COMMAND[i].help);
    fprintf(f, "\n`jomed COMMAND --help` lists a command's options; `man jomed` has all of them.\n");
}

int main(int argc, char **argv)
{
    json_use_our_memory();
    if (argc < 2) return usage(stderr), EXIT_USAGE;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return usage(stdout), EXIT_DONE;
    if (!strcmp(argv[1], "--version")) return cmd_version(argc - 1, argv + 1);
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], COMMAND[i].name) == 0) return COMMAND[i].run(argc - 1, argv + 1);
    fprintf(stderr, "jomed: there is no command '%.40s'\n\n", argv[1]);
    usage(stderr);
    return EXIT_USAGE;
}
