#include "reader/mrope.h"

int mrope_positions(int32_t *pos, const prompt *p, int cursor)
{
    int32_t *time = pos, *row = pos + p->n_ids, *col = row + p->n_ids;
    int      t = 0;
    for (int i = 0; i <= p->n_spans; i++) {
        int text_end = i < p->n_spans ? p->span[i].start : p->n_ids;
        for (; t < text_end; t++) time[t] = row[t] = col[t] = cursor++;
        if (i == p->n_spans) break;

        int rows = p->span[i].rows, cols = p->span[i].cols;
        for (int r = 0; r < rows; r++) {
            for (int c = 0; c < cols; c++, t++) {
                time[t] = cursor;
                row[t] = cursor + r;
                col[t] = cursor + c;
            }
        }
        /* TRAP: one past the largest position, not rows * cols further on */
        cursor += rows > cols ? rows : cols;
    }
    return cursor;
}
