/* prompt.h - a piece of a prompt as the reader runs it: token ids, and where pictures stand among them. */
#ifndef JOMED_READER_PROMPT_H
#define JOMED_READER_PROMPT_H

#include <stdint.h>

/* ids[start .. start + rows * cols) are the marker's id; vision tokens take their place, in raster order. A
 * family with break tokens between the rows of a picture has one span a row. */
typedef struct { int start, rows, cols; } image_span;

/* ids and span live in the arena that the piece was made in. Spans are in the order of the ids. */
typedef struct { int32_t *ids; int n_ids; image_span *span; int n_spans; } prompt;

#endif
