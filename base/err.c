#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>

static bool fill(err *e, err_code code, const char *problem, const char *field, const char *fmt, va_list ap)
{
    if (e->code == ERR_NONE) {
        e->code = code;
        e->problem = problem;
        e->field = field;
        vsnprintf(e->text, sizeof e->text, fmt, ap);
    }
    return false;
}

bool err_set(err *e, err_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, NULL, NULL, fmt, ap);
    va_end(ap);
    return false;
}

bool err_at(err *e, err_code code, const char *problem, const char *field, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, problem, field, fmt, ap);
    va_end(ap);
    return false;
}

const char *err_code_name(err_code code)
{
    static const char *const name[] = {
        [ERR_NONE] = "none",           [ERR_INPUT] = "input",         [ERR_TOO_LARGE] = "too-large",
        [ERR_UNSUPPORTED] = "unsupported", [ERR_UNUSABLE] = "unusable", [ERR_NOT_FOUND] = "not-found",
        [ERR_BUSY] = "busy",           [ERR_DEADLINE] = "deadline",   [ERR_FILE] = "file",
        [ERR_MEMORY] = "memory",       [ERR_GPU] = "gpu",             [ERR_USAGE] = "usage",
        [ERR_BUG] = "bug",
    };
    return (unsigned)code < sizeof name / sizeof *name ? name[code] : "unknown";
}
