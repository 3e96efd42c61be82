/* json.h - an answer as the JSON that the API, the command line and eval print. */
#ifndef JOMED_DIAGNOSE_JSON_H
#define JOMED_DIAGNOSE_JSON_H

#include <jansson.h>
#include "diagnose/diagnose.h"

/* New references; NULL: out of memory. answers: the request's. Fields: docs/API.md. */
json_t *answer_json(const engine *en, const diagnose_request *q, const answer *ans, const char *request_id);
json_t *retrieval_json(const engine *en, const answer *ans, const char *request_id);
json_t *provenance_json(const engine *en, int adapter); /* adapter: that answered; 0: none */
json_t *models_json(const engine *en, const char *kernels_name);

#endif
