/* detokenise.h - emitted ids to text, piece by piece: what is put out is whole UTF-8 and never taken back.
 *
 *     ids      17      203     99         end
 *     bytes    "Ja "   e4 bd   a0 "!"
 *     put out  "Ja "   -       "你!"      U+FFFD for what is still cut off
 *
 * Special tokens and ids without a text add nothing. Bytes that are no UTF-8 become U+FFFD, one for each
 * maximal part of a character [Unicode 16, section 3.9, "U+FFFD Substitution of Maximal Subparts"], as decoding
 * all ids at once does in the tokenizers library; U+0000, which neither JSON readers nor C take, becomes U+FFFD
 * too. Internal to reader/. */
#ifndef JOMED_READER_DETOKENISE_H
#define JOMED_READER_DETOKENISE_H

#include "reader/bpe.h"

typedef struct {
    const bpe *b;
    arena     *a;     /* where text lives; nothing else may take from it and go back in between */
    char      *text;  /* what was put out so far, NUL-terminated */
    size_t     len, cap;
    uint8_t    part[4]; /* of a character that is not whole */
    int        n_part;
} detokeniser;

/* cap: bytes to begin with. */
bool detokenise_begin(detokeniser *d, const bpe *b, size_t cap, arena *a, err *e);
/* *fresh is set to what the id adds to text, *n_fresh bytes of it: a pointer into text, until the next call. */
bool detokenise(detokeniser *d, int32_t id, const char **fresh, size_t *n_fresh, err *e);
/* The same for what is left when no id follows. */
bool detokenise_end(detokeniser *d, const char **fresh, size_t *n_fresh, err *e);

#endif
