#include "reader/config_fields.h"

#include <string.h>

#include "base/json.h"

bool field_size(const config_fields *f, const char *path, int def, int lo, int hi, int *out)
{
    int64_t v;
    bool ok =
        def < 0 ? json_int(f->root, path, &v, f->where, f->e) : json_int_or(f->root, path, def, &v, f->where, f->e);
    if (!ok) return false;
    if (v < lo || v > hi) return err_set(f->e, ERR_FILE, "%s: %s must be %d to %d", f->where, path, lo, hi);
    *out = (int)v;
    return true;
}

bool field_must_be(const config_fields *f, const char *path, const char *want)
{
    const char *v;
    if (!json_str_or(f->root, path, want, &v, f->where, f->e)) return false;
    return strcmp(v, want) == 0
        || err_set(f->e, ERR_FILE, "%s: %s is '%.40s', only '%s' is supported", f->where, path, v, want);
}
