/* config_fields.h - members of a config.json, with the checks that every family needs. Internal to reader/. */
#ifndef JOMED_READER_CONFIG_FIELDS_H
#define JOMED_READER_CONFIG_FIELDS_H

#include <jansson.h>
#include "base/err.h"

typedef struct { const json_t *root; const char *where; err *e; } config_fields;

enum { CONFIG_MAX_SIZE = 1 << 20, CONFIG_MAX_LAYERS = 512 };

/* A size in lo .. hi; def < 0: the member must be there. ERR_FILE names it. */
bool field_size(const config_fields *f, const char *path, int def, int lo, int hi, int *out);
/* A string that has only one value that is built; absent means that one. */
bool field_must_be(const config_fields *f, const char *path, const char *want);

#endif
