/* trie.h - the answers of a question as a tree of tokens, so that what they share is computed once.
 *
 *     "Yes" = Y es      (query part) --Y-- [1] --es-->                A token needs a row of the forward pass only if
 *     "Yet" = Y et           |              +---et-->                 another token follows it: here one row for two
 *     "No"  = No             +---------No-->                          answers, none for "No".
 *
 * An edge is a token to score: its log-probability is read at the row above it. Row 0 is the last token of the query
 * part, rows 1 .. n_tree are the inner nodes, parents before children. Internal to reader/. */
#ifndef JOMED_READER_TRIE_H
#define JOMED_READER_TRIE_H

#include <stdint.h>

#include "base/arena.h"
#include "reader/bpe.h"

enum { TRIE_MAX_TREE = 4096 }; /* the visibility matrix is its square in bytes */

/* All lives in the arena. */
typedef struct {
    int      A;
    int     *own;        /* [A] tokens of each answer */
    int     *len;        /* [A] the same, plus one where the end token is scored */
    int    **path;       /* [A][len] edges from the root down */
    bool     end_token;  /* an answer is a proper prefix of another, so that without an end the two cannot be compared */
    int      n_edges;
    int32_t *row, *token; /* [n_edges] */
    int      n_tree;
    int32_t *node;       /* [n_tree] token of inner node i, at row 1 + i */
    int     *depth;      /* [n_tree] 1: right below the query part */
    uint8_t *visible;    /* [n_tree, n_tree] node i sees node j: j is i or above it */
} trie;

/* ids[i] [len[i]], each at least one long. ERR_UNUSABLE, field answers: more than TRIE_MAX_TREE inner nodes. */
bool trie_build(trie *out, const int32_t *const *ids, const int *len, int A, int32_t end_id, arena *a, err *e);

/* Tokenise and build. ERR_UNUSABLE, field answers: an answer that has no token, or is not UTF-8. */
bool trie_of_answers(trie *out, const bpe *b, const char *const *answers, int A, int32_t end_id, arena *a, err *e);

int trie_longest(const trie *t); /* tokens of the longest answer, end token included */

#endif
