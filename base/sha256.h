/* sha256.h - SHA-256 by nettle, of memory and of files. */
#ifndef JOMED_BASE_SHA256_H
#define JOMED_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { SHA256_BYTES = 32, SHA256_HEX = 65 };

void sha256(uint8_t out[SHA256_BYTES], const void *p, size_t n);
/* Of a file's bytes, as lower-case hexadecimal. ERR_FILE names the file. */
bool sha256_file(char hex[SHA256_HEX], const char *path, err *e);
/* Identity of a model folder: SHA-256 over "NAME SHA256\n" of each of its .json, .jinja, .txt and .safetensors
 * files in byte order of their names, tuned query towers (query_*.safetensors) left out: an index stays valid
 * without them. Shards are hashed side by side. */
bool sha256_model(char hex[SHA256_HEX], const char *dir, err *e);

#endif
