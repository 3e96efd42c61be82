/* policy.h - what is done to a picture before the reader's own processor sees it.
 *   native      nothing: the model as published
 *   jomed-256   what JOMED's released code does: for Qwen2-VL the resize of qwen-vl-utils first
 *               (qwen_vl_utils_image); then the longer side down to 256 by the nearest pixel (jomed_256), for
 *               every family
 * Readers fine-tuned with that code have only seen such pictures. [../shared/specs/models.md, section 0] */
#ifndef JOMED_IMAGING_POLICY_H
#define JOMED_IMAGING_POLICY_H

#include "imaging/image.h"

typedef enum { IMAGE_NATIVE, IMAGE_JOMED_256, N_IMAGE_POLICIES } image_policy;
bool        image_policy_parse(image_policy *out, const char *name);
const char *image_policy_name(image_policy p);

/* That step alone; *out is in itself where it changes nothing, else it lives in a. */
bool jomed_256(image *out, const image *in, arena *a, err *e);

#endif
