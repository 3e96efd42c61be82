/* safetensors.h - a checkpoint: one .safetensors file, or the shards that an index JSON lists, mapped read-only.
 * Every header is checked before anything is used: length, JSON, dtype, shape product, offsets inside the file,
 * no overlap, no duplicate name. Errors are ERR_FILE and name the file and the tensor.
 * Threads  read-only after open. */
#ifndef JOMED_BASE_SAFETENSORS_H
#define JOMED_BASE_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include "base/dtype.h"
#include "base/err.h"

enum { TENSOR_DIMS = 8 };
typedef struct {
    const char *name; /* kept by the checkpoint */
    const char *file; /* the shard it lies in, for messages */
    const void *data; /* in the mapping; aligned to the element only if the writer did so */
    dtype       type;
    int         n_dims;
    int64_t     dim[TENSOR_DIMS];
    int64_t     count; /* product of dim */
    size_t      bytes; /* of data */
} tensor;

typedef struct safetensors safetensors;

/* path is a .safetensors file, or a folder with model.safetensors.index.json, model.safetensors or
 * adapter_model.safetensors (looked for in that order). Gives *out. */
bool safetensors_open(safetensors **out, const char *path, err *e);
void safetensors_close(safetensors *s); /* NULL is fine */

const tensor *safetensors_find(const safetensors *s, const char *name); /* NULL: not there */
int           safetensors_count(const safetensors *s);
const tensor *safetensors_at(const safetensors *s, int i); /* in byte order of the names */
int64_t       safetensors_parameters(const safetensors *s);
size_t        safetensors_bytes(const safetensors *s);

/* The tensor of that name with exactly this shape (dims ends with -1; a dim of 0 takes any size);
 * ERR_FILE says which is wrong: missing, dtype not a float type, or shape. */
bool safetensors_need(const safetensors *s, const tensor **out, const char *name, const int64_t *dims, err *e);

#endif
