/* template.h - the chat template that a checkpoint carries, in up to three places (chat_template.jinja,
 * chat_template.json, tokenizer_config.json). It is a program (Jinja) and is not run here: a family says which
 * ones it renders, and refuses the others. Internal to reader/. */
#ifndef JOMED_READER_TEMPLATE_H
#define JOMED_READER_TEMPLATE_H

#include <stddef.h>
#include "base/err.h"

typedef bool (*template_check)(void *ctx, const char *s, size_t n, const char *path, err *e);

/* Call check for every template of the folder, templates for tools left out; false with its error, or ERR_FILE
 * where a file is not what it should be. */
bool template_each(const char *dir, template_check check, void *ctx, err *e);

#endif
