/* child.h - run a function in a child process and keep what it printed: for mistakes that end the process. */
#ifndef JOMED_SIMT_CHILD_H
#define JOMED_SIMT_CHILD_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
extern "C" {
#include <cmocka.h>
}

struct outcome { int status; char text[4096]; };

static inline outcome in_child(void (*f)())
{
    outcome o = {-1, ""};
    int     ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        signal(SIGSEGV, SIG_DFL); /* cmocka has its own */
        f();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < sizeof o.text - 1 && (got = read(ends[0], o.text + n, sizeof o.text - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    waitpid(child, &o.status, 0);
    o.status = WIFEXITED(o.status) ? WEXITSTATUS(o.status) : 1000 + WTERMSIG(o.status);
    return o;
}

/* f must end in a report that holds every one of the texts. */
static inline void caught(const char *what, void (*f)(), const char *a, const char *b, const char *c)
{
    outcome o = in_child(f);
    if (o.status != 99) fail_msg("%s: ended with status %d: %s", what, o.status, o.text);
    const char *parts[] = {a, b, c};
    for (const char *part : parts)
        if (!strstr(o.text, part)) fail_msg("%s: the report lacks '%s': %s", what, part, o.text);
}

#endif
