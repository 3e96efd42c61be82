/* labels.h - a list of labels, each a closed question of its own, as one tree behind one query part:
 *
 *     [query image] Which findings are there?\n --+-- Effusion?  <end of turn> <assistant> --+-- Yes
 *                                                 |                                          +-- No
 *                                                 +-- Nodule?    <end of turn> <assistant> --+-- Yes
 *              query part: once                          read, a row for each token          +-- No    scored
 *
 * A label's question is the request's, a line break, the label and a question mark: "Which findings are
 * there?\nNodule?". Each is rendered and tokenised whole, as if it were asked alone, and what all of them begin
 * with is the query part. So the ids are those of the whole prompt, wherever a tokenizer joins what we put
 * together ("?\n" is one token of Qwen2's), and the cut never shows: attention gives a node of the tree the bits
 * of the last token of its path alone (kernels.h), so a label's scores are, bit for bit, those of reader_score
 * with its question alone, and do not depend on the other labels. Internal to reader/. */
#ifndef JOMED_READER_LABELS_H
#define JOMED_READER_LABELS_H

#include "reader/reader_internal.h"
#include "reader/trie.h"

/* A label's question. */
char *label_question(const char *question, const char *label, arena *a, err *e);

/* The query part of q's labels, as a family renders it, and the tree behind it, whose answer l * q->A + i is
 * answer i of label l. ERR_UNUSABLE: an answer that has no token (answers), labels of too many tokens (labels). */
bool labels_prepare(const reader *r, const reader_query *q, const picture *pic, prompt *ask, trie *t, arena *a,
                    err *e);

#endif
