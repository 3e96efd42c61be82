/* wordpiece.h - BERT uncased WordPiece from tokenizer.json (BertNormalizer, BertPreTokenizer, WordPiece).
 * Threads  read-only after open. */
#ifndef JOMED_RETRIEVER_WORDPIECE_H
#define JOMED_RETRIEVER_WORDPIECE_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"

typedef struct wordpiece wordpiece;
bool wordpiece_open(wordpiece **out, const char *path /* tokenizer.json */, err *e);
bool wordpiece_open_memory(wordpiece **out, const char *json, size_t n, const char *where, err *e);
void wordpiece_close(wordpiece *w);
int  wordpiece_vocab(const wordpiece *w); /* largest id + 1 */

/* [CLS] ... [SEP], at most max_tokens with both (0: no limit); without both when special is false. *ids lives
 * in a. Added tokens spelled out in the text are recognised, as the library does.
 * ERR_UNUSABLE text-not-utf8. */
bool wordpiece_encode(const wordpiece *w, const char *s, size_t n, bool special, int max_tokens,
                      int32_t **ids, int *n_ids, arena *a, err *e);

#endif
