/* bpe.h - byte-level BPE from a Hugging Face tokenizer.json (Qwen2, Tekken).
 * Everything comes from the file: added tokens, NFC or not, the split pattern (PCRE2), merges in both
 * spellings ("a b" and ["a","b"]), ignore_merges, post-processor. Parts of the file that this code does not
 * know are refused by name.
 * Threads  read-only after open. */
#ifndef JOMED_READER_BPE_H
#define JOMED_READER_BPE_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"

typedef struct bpe bpe;
bool bpe_open(bpe **out, const char *path /* tokenizer.json */, err *e);
/* The same from memory; where stands for the file's name in errors. */
bool bpe_open_memory(bpe **out, const char *json, size_t n, const char *where, err *e);
void bpe_close(bpe *b);
int  bpe_vocab(const bpe *b);                       /* largest id + 1 */
int  bpe_special(const bpe *b, const char *content); /* id of an added token; -1: none */

/* Ids of UTF-8 text; *ids lives in a. special: added tokens spelled out in the text are recognised
 * (templates: true; users' text: false, so that a caption cannot smuggle an image marker in). post: apply the
 * post-processor (begin token).
 * ERR_UNUSABLE text-not-utf8, or text-too-complex: the file's pattern takes too many steps on it.
 * ERR_TOO_LARGE: 64 MB. */
bool bpe_encode(const bpe *b, const char *s, size_t n, bool special, bool post, int32_t **ids, int *n_ids,
                arena *a, err *e);
/* Text of ids, bytes as they come (may be cut inside a character); added tokens are written out. */
bool bpe_decode(const bpe *b, const int32_t *ids, int n, char **s, size_t *len, arena *a, err *e);
/* What an id adds to an answer's text: its bytes. None (*n is 0) for special tokens and for ids that are not in
 * use. */
void bpe_text(const bpe *b, int32_t id, const char **s, size_t *n);

#endif
