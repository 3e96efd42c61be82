/* pixtral_chat.h - Pixtral's prompt, rendered to token ids in the two parts that the reader caches apart:
 *   prefix  <s> [INST] PICTURE background: CAPTION\n\n             PICTURE  [IMG] [IMG] [IMG] [IMG_BREAK]
 *   query   PICTURE QUESTION [/INST]                                        [IMG] [IMG] [IMG] [IMG_END]
 * Two renderings, told apart by the chat template that the checkpoint carries:
 *   plain   no space anywhere, as the published template; also where the checkpoint carries none
 *   spaced  a space after [INST] and one before [/INST], as LLaMA-Factory trained with in 2024; a space is
 *           text, and joins the piece next to it, so the ids differ by more than the spaces
 * Callers' text is encoded without added tokens: a caption that spells [IMG] stays text. Internal to reader/. */
#ifndef JOMED_READER_PIXTRAL_CHAT_H
#define JOMED_READER_PIXTRAL_CHAT_H

#include "base/arena.h"
#include "reader/bpe.h"
#include "reader/prompt.h"

typedef struct {
    const bpe *b;
    int32_t    begin, end, inst, end_inst, image, row_break, image_end;
    bool       spaced;
} pixtral_chat;

/* Keeps b. ERR_FILE: the tokenizer lacks a marker, or dir carries a template that is neither of the two. */
bool pixtral_chat_open(pixtral_chat *out, const bpe *b, const char *dir, err *e);

/* rows x cols: the picture's vision tokens, one span a row. *out lives in a. ERR_UNUSABLE text-not-utf8. */
bool pixtral_chat_prefix(const pixtral_chat *c, const char *caption, int rows, int cols, prompt *out, arena *a,
                         err *e);
bool pixtral_chat_query(const pixtral_chat *c, const char *question, int rows, int cols, prompt *out, arena *a,
                        err *e);

#endif
