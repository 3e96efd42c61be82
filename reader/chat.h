/* chat.h - Qwen2-VL's chat template, rendered to token ids in the two parts that the reader caches apart:
 *   prefix  <|im_start|>system ... <|im_start|>user\n <vision z> background: CAPTION\n\n   the pair alone
 *   query   <vision q> QUESTION <|im_end|>\n <|im_start|>assistant\n                          the query alone
 * The cut lies before <|vision_start|>, an added token, so no merge of the tokenizer can cross it and the ids
 * are those of the whole string. Callers' text is encoded without added tokens: a caption cannot smuggle a
 * marker in.
 * Threads  read-only after open. */
#ifndef JOMED_READER_CHAT_H
#define JOMED_READER_CHAT_H

#include "base/arena.h"
#include "reader/bpe.h"
#include "reader/prompt.h"

typedef struct chat chat;

/* Keeps b. dir: for the checkpoint's own template, which must be the one rendered here, or be absent
 * (ERR_FILE otherwise). */
bool chat_open(chat **out, const bpe *b, const char *dir, err *e);
void chat_close(chat *c); /* NULL is fine */

int32_t chat_image_id(const chat *c); /* <|image_pad|> */
int32_t chat_end_id(const chat *c);   /* <|im_end|> */

/* rows x cols: the picture's vision tokens. *out lives in a. ERR_UNUSABLE text-not-utf8. */
bool chat_prefix(const chat *c, const char *caption, int rows, int cols, prompt *out, arena *a, err *e);
bool chat_query(const chat *c, const char *question, int rows, int cols, prompt *out, arena *a, err *e);

#endif
