/* json.h - checks on jansson's values, with errors that name the file or field. Values belong to the root. */
#ifndef JOMED_BASE_JSON_H
#define JOMED_BASE_JSON_H

#include <jansson.h>
#include "base/err.h"

/* Let jansson allocate through base/memory.h; to be called first of all.
 * TRAP: jansson (2.13, 2.14) drops a character of a string, and says nothing, when memory runs out while it
 * reads one. So whoever parses what a client sent asks json_ran_out() before and after: has an allocation by
 * jansson failed on this thread since it was last asked? */
void json_use_our_memory(void);
bool json_ran_out(void);

/* Parse a file; gives *out (json_decref). Duplicate keys are refused. ERR_FILE names file, line and reason. */
bool json_open(json_t **out, const char *path, err *e);
/* The same of n bytes in memory; where takes the file's place in the message. */
bool json_parse(json_t **out, const char *s, size_t n, const char *where, err *e);

/* Members of o, by a dotted path ("vision_config.depth"). where is for the message (a file name).
 * _or: the default where the member is absent or null; a wrong type is still an error. */
bool json_int(const json_t *o, const char *path, int64_t *out, const char *where, err *e);
bool json_int_or(const json_t *o, const char *path, int64_t def, int64_t *out, const char *where, err *e);
bool json_num_or(const json_t *o, const char *path, double def, double *out, const char *where, err *e);
bool json_bool_or(const json_t *o, const char *path, bool def, bool *out, const char *where, err *e);
bool json_str_or(const json_t *o, const char *path, const char *def, const char **out, const char *where, err *e);
const json_t *json_path(const json_t *o, const char *path); /* NULL: absent */

#endif
