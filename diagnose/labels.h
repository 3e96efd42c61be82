/* labels.h - what is concluded from the scores of a multi-label request. Internal to diagnose/. */
#ifndef JOMED_DIAGNOSE_LABELS_H
#define JOMED_DIAGNOSE_LABELS_H

#include "diagnose/diagnose.h"

/* What the reader is asked: q's labels, each to be answered with LABEL_ANSWERS. */
void labels_ask(reader_query *out, const diagnose_request *q);

/* From log-likelihoods and mean logits [K,L,2] to p(label|q), the candidates' own, agreement and entropy. o->z and
 * o->K are set. Each label is fused by itself, as fuse.c does a closed question with LABEL_ANSWERS. */
bool labels_conclude(const diagnose_request *q, const reader_scores *s, answer *o, arena *a, err *e);

#endif
