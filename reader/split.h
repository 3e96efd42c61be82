/* split.h - the regular expression of a pre-tokenizer, as the tokenizers library (Oniguruma, Ruby syntax)
 * reads it, run by PCRE2.
 * Syntax   what means the same in both engines; a pattern with anything else is refused, and says what.
 * Unicode  the categories of Unicode 16 on every PCRE2 since 10.39: code points that its tables lack, or see
 *          otherwise, are matched by stand-ins of the same category and length (split_subject).
 * Time     a match call stops after a number of steps linear in the text (ERR_UNUSABLE text-too-complex).
 * Threads  a split is read-only after open; a split_run belongs to one call. */
#ifndef JOMED_READER_SPLIT_H
#define JOMED_READER_SPLIT_H

#include "base/arena.h"

typedef struct split     split;
typedef struct split_run split_run;

/* where names file and member for messages. literal: pattern is a plain string. Gives *out. */
bool split_open(split **out, const char *pattern, bool literal, const char *where, err *e);
void split_close(split *s); /* NULL is fine */

/* What the matches of one call need; lives in a. */
bool split_begin(split_run **out, arena *a, err *e);

/* The text to match instead of s [n] (valid UTF-8): s itself, or a copy in a with every offset the same. */
bool split_subject(const char **out, const char *s, size_t n, arena *a, err *e);

/* First match in subject [n] that begins at from or later: *start and *end; *start == n where there is none.
 * What lies before from is seen by lookbehind. An empty match has *start == *end. */
bool split_next(const split *s, split_run *run, const char *subject, size_t n, size_t from, size_t *start,
                size_t *end, err *e);

#endif
