/* npz.h - one array of a NumPy .npz file (a zip of .npy files), read row by row along its first axis.
 * Unsigned and signed integers, C order. Small arrays are held whole; of larger ones rows are inflated as they are
 * asked for, which is quick forwards; a step back starts the stream over.
 * Everything in the file is checked before it is believed: header, type, shape against size, all lengths.
 * Threads  one array, one thread at a time.   Errors  ERR_FILE names file and array. */
#ifndef JOMED_INDEX_NPZ_H
#define JOMED_INDEX_NPZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { NPY_DIMS = 8 };
typedef struct {
    int     n_dims;
    int64_t dim[NPY_DIMS];
    int     item_bytes; /* 1, 2, 4 or 8, little endian */
    bool    is_signed;
    size_t  row_bytes;  /* of one step along the first axis */
} npy_shape;

typedef struct npz_array npz_array;

/* The member NAME.npy of the .npz file at path. Gives *out. */
bool npz_open(npz_array **out, const char *path, const char *name, err *e);
/* The same from memory, borrowed until close; where is for messages. */
bool npz_open_memory(npz_array **out, const void *bytes, size_t n, const char *name, const char *where, err *e);
void npz_close(npz_array *z); /* NULL is fine */

const npy_shape *npz_shape(const npz_array *z);
/* Copy row i, row_bytes long. ERR_INPUT: no such row. */
bool npz_row(npz_array *z, int64_t i, void *out, err *e);
/* Element j of a row that npz_row() gave. */
int64_t npy_int(const npy_shape *s, const void *row, size_t j);

/* Exposed for tests: parse the header's dictionary, n bytes of text. *why: what is wrong. */
bool npy_parse_header(npy_shape *out, const char *s, size_t n, const char **why);

#endif
