/* fuzz_npz.c - any bytes as a .npz file with an array "a": no crash, no leak; an array that opens has the size
 * its shape says, and gives all its rows, in both directions, or an error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "index/npz.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

enum { MOST_ROW_BYTES = 1 << 20, MOST_ROWS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    npz_array  *z = NULL;
    npy_shape   s;
    const char *why;
    err         e = {0};
    if (npy_parse_header(&s, (const char *)data, n, &why)) MUST(s.n_dims >= 1 && s.row_bytes >= 1 && s.dim[0] >= 0);
    if (!npz_open_memory(&z, data, n, "a", "input", &e)) {
        MUST((e.code == ERR_FILE || e.code == ERR_MEMORY) && e.text[0] && !z);
        return 0;
    }
    s = *npz_shape(z);
    uint8_t *row = s.row_bytes <= MOST_ROW_BYTES ? malloc(s.row_bytes) : NULL;
    if (row) {
        int64_t most = s.dim[0] < MOST_ROWS ? s.dim[0] : MOST_ROWS;
        for (int64_t i = 0; i < most; i++) {
            err why_not = {0};
            if (!npz_row(z, i, row, &why_not)) MUST(why_not.code == ERR_FILE);
            (void)npy_int(&s, row, 0);
        }
        if (most) (void)npz_row(z, 0, row, &(err){0});
        MUST(!npz_row(z, s.dim[0], row, &e) && e.code == ERR_INPUT);
    }
    free(row);
    npz_close(z);
    return 0;
}
