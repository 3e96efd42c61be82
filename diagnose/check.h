/* check.h - what of a request can be judged without a model. diagnose_check() in diagnose.h does all of it; this
 * is the part that a retrieval needs. Internal to diagnose/. */
#ifndef JOMED_DIAGNOSE_CHECK_H
#define JOMED_DIAGNOSE_CHECK_H

#include "diagnose/diagnose.h"

/* An image is there, and k is within its bounds. */
bool check_image(const diagnose_request *q, err *e);

#endif
