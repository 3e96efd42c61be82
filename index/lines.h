/* lines.h - a text file line by line, with a limit on their length; and fields of a CSV line. */
#ifndef JOMED_INDEX_LINES_H
#define JOMED_INDEX_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { MAX_LINE_BYTES = 1 << 20 };

typedef struct lines lines;

bool lines_open(lines **out, const char *path, err *e); /* gives *out */
void lines_close(lines *l);                             /* NULL is fine */

/* The next line, without its end (LF or CRLF), zero-terminated, until the next call. *s NULL: no more.
 * A line longer than MAX_LINE_BYTES is given as *too_long with what fits. A UTF-8 byte order mark is dropped. */
bool lines_next(lines *l, char **s, size_t *n, bool *too_long, err *e);
int64_t lines_number(const lines *l); /* of the last line given, from 1 */
double  lines_done(const lines *l);   /* share of the file's bytes read */

/* Split one CSV line in place [RFC 4180, no line breaks inside quotes]; field[i] NULL beyond the last.
 * The number of fields, or -1: malformed quotes or more than max. */
int csv_split(char *line, char **field, int max);

#endif
