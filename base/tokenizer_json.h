/* tokenizer_json.h - what every tokenizer.json has, whatever its model: added tokens, a post-processor,
 * checked ids. A kind or a switch that the code does not know is refused by its name: a tokenizer that is
 * nearly right gives answers that look right. Errors are ERR_FILE, begin with where (the file) and name the
 * member. */
#ifndef JOMED_BASE_TOKENIZER_JSON_H
#define JOMED_BASE_TOKENIZER_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/pieces.h"

enum { TOKENIZER_MAX_IDS = 1 << 21, MAX_POST_TOKENS = 8 };

const char *tokenizer_type(const json_t *o); /* the member type of a part; "(no type)" */
bool tokenizer_is(const json_t *o, const char *type);
/* Sets e: the type of part o is none of those known. */
bool tokenizer_unknown(const json_t *o, const char *member, const char *known, const char *where, err *e);
bool tokenizer_id(const json_t *v, int32_t *out, const char *member, const char *where, err *e);
bool tokenizer_list(const json_t *o, const char *member, const char *where, err *e); /* a list, or left out */
/* A switch that must be off: absent, null, false, 0 or an empty string. */
bool tokenizer_off(const json_t *o, const char *member, const char *name, const char *where, err *e);

/* Tokens that are cut out of a text before anything else. */
typedef struct { char *content; size_t len; int32_t id; bool special; } added_token;
typedef struct { added_token *list; int n; } added_tokens; /* in byte order of the contents */

/* strip_ok: lstrip and rstrip may be set, for a tokenizer to which white space is nothing anyway. */
bool added_tokens_read(added_tokens *t, const json_t *root, bool strip_ok, const char *where, err *e);
void added_tokens_free(added_tokens *t);
/* The longest one that s [n] begins with; NULL: none. Takes O(its length x log n), whatever the text. */
const added_token *added_tokens_prefix(const added_tokens *t, const char *s, size_t n);
const added_token *added_tokens_find(const added_tokens *t, const char *content);
/* Each may repeat a piece of the vocabulary, but only the very piece with its id. */
bool added_tokens_check(const added_tokens *t, const pieces *p, const char *where, err *e);
/* Largest id + 1 of a vocabulary { piece: id } and the added tokens. */
bool tokenizer_count_ids(int *out, const json_t *vocab, const added_tokens *t, const char *where, err *e);

/* What the post-processor puts around one text. */
typedef struct { int32_t head[MAX_POST_TOKENS], tail[MAX_POST_TOKENS]; int n_head, n_tail; } post_tokens;
bool post_tokens_read(post_tokens *out, const json_t *root, int n_ids, const char *where, err *e);

#endif
