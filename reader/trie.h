/* trie.h - the answers of a question as a tree of tokens, so that what they share is computed once.
 *
 *     "Yes" = Y es      (query part) --Y-- [1] --es-->                A token needs a row of the forward pass only if
 *     "Yet" = Y et           |              +---et-->                 another token follows it: here one row for two
 *     "No"  = No             +---------No-->                          answers, none for "No".
 *
 * An edge is a token to score: its log-probability is read at the row above it. The last token of the query part
 * is the root, the rows behind it are the inner nodes, parents before children.
 *
 * An answer may have text of its own to read first (labels.h): tokens that lead to it and are not scored. Rows
 * that only lead on come before those that an edge hangs from, so that what is scored is always the end of the
 * pass. Internal to reader/. */
#ifndef JOMED_READER_TRIE_H
#define JOMED_READER_TRIE_H

#include <stdint.h>

#include "base/arena.h"
#include "reader/bpe.h"

enum { TRIE_MAX_TREE = 4096 }; /* the visibility matrix is its square in bytes */

/* All lives in the arena. */
typedef struct {
    int      A;
    int     *read;       /* [A] tokens that lead to each answer from the root */
    int     *own;        /* [A] tokens of each answer */
    int     *len;        /* [A] the same, plus one where the end token is scored */
    int    **path;       /* [A][len] edges of each answer from the top down */
    bool     end_token;  /* an answer is a proper prefix of another: without an end the two cannot be compared */
    int      n_rows;     /* that are scored: the last ones of [root | inner nodes] */
    int      n_edges;
    int32_t *row, *token; /* [n_edges] row: of those n_rows */
    int      n_tree;
    int32_t *node;       /* [n_tree] token of inner node i, the i-th row behind the root */
    int     *depth;      /* [n_tree] 1: right below the query part */
    uint8_t *visible;    /* [n_tree, n_tree] node i sees node j: j is i or above it */
} trie;

/* ids[i] [len[i]], of which the first read[i] < len[i] are text to read (NULL: none). Text to read must not go on
 * through tokens that are another one's answer. ERR_UNUSABLE: more than TRIE_MAX_TREE inner nodes; the field is
 * labels where there is text to read, else answers. */
bool trie_build(trie *out, const int32_t *const *ids, const int *len, const int *read, int A, int32_t end_id,
                arena *a, err *e);

/* ERR_UNUSABLE, field answers: an answer that has no token, or is not UTF-8. All in a. */
bool answers_tokenise(const int32_t ***ids, int **len, const bpe *b, const char *const *answers, int A, arena *a,
                      err *e);

/* The two together. */
bool trie_of_answers(trie *out, const bpe *b, const char *const *answers, int A, int32_t end_id, arena *a, err *e);

int trie_text(const trie *t);    /* tokens of the longest text to read */
int trie_longest(const trie *t); /* tokens from the root to the end of the longest answer, end token included */

#endif
