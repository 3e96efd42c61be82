/* open.h - an open request: text of the reader's own instead of one of a set. Internal to diagnose/. */
#ifndef JOMED_DIAGNOSE_OPEN_H
#define JOMED_DIAGNOSE_OPEN_H

#include "diagnose/diagnose.h"

/* max_new_tokens, beams and repetition_penalty are within their bounds and go with the mode; errors name the
 * field. */
bool open_check(const diagnose_request *q, err *e);

/* Decode the answer, and say which candidates would have given it by themselves. o->z and o->K are set; read:
 * what the reader is asked, without answers. */
bool open_decode(const engine *en, kernels *kern, const diagnose_request *q, const reader_query *read, answer *o,
                 arena *a, err *e);

#endif
