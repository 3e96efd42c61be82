/* bert_text.h - text as BERT's uncased tokenizer sees it: cleaned, without accents, in lower case, cut into
 * words. The categories are those of the tokenizers library, which are Unicode 8's and stay so: vocabularies
 * were made with them. They are tables here, so that an index built on one machine is searched with the same
 * ids on another. */
#ifndef JOMED_RETRIEVER_BERT_TEXT_H
#define JOMED_RETRIEVER_BERT_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"

/* The switches of BertNormalizer. */
typedef struct { bool clean, cjk, strip_accents, lower; } bert_rules;

/* Code points of s [n] (valid UTF-8) after the rules; *out lives in a. */
bool bert_normalize(const bert_rules *r, const char *s, size_t n, int32_t **out, size_t *len, arena *a,
                    err *e);

/* Words are what white space separates; each punctuation character is a word by itself. */
bool bert_is_space(int32_t cp);
bool bert_is_punctuation(int32_t cp);

#endif
