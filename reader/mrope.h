/* mrope.h - positions of Qwen2-VL's rotary embedding: (time, row, column) of each token
 * [Wang et al. 2024, arXiv:2409.12191, section 2.1]. Text counts all three up together; a picture holds time
 * still and lays its tokens out by row and column; what follows starts one past the largest position used. */
#ifndef JOMED_READER_MROPE_H
#define JOMED_READER_MROPE_H

#include "reader/prompt.h"

/* Write pos [3, p->n_ids] (axis-major) for a piece whose first token stands at cursor; returns the cursor
 * after it. A prompt may be cut between any two tokens outside pictures: the second half starts at the
 * first's cursor. */
int mrope_positions(int32_t *pos, const prompt *p, int cursor);

#endif
