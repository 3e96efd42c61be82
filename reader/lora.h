/* lora.h - low-rank adapters as PEFT saves them: a folder with adapter_config.json and adapter_model.safetensors.
 *     y = W x + b + s B (A x),   s = alpha / r, rank-stabilised alpha / sqrt(r)
 * [Hu et al. 2021, arXiv:2106.09685, eq. 3; Kalajdzievski 2023, arXiv:2312.03732]. Names and traps:
 * docs/MODEL.md, "LoRA". An adapter is a set of pairs (A [r, in], B [out, r]), each of which must find its
 * layer: linear.c asks for them by the layer's name while the model opens, lora_matched() then tells whether
 * one is left over.
 * Threads  read-only once the model is open. Internal to reader/. */
#ifndef JOMED_READER_LORA_H
#define JOMED_READER_LORA_H

#include "base/safetensors.h"
#include "base/sha256.h"

typedef struct lora lora;

/* The adapters that a model opens with; borrowed. */
typedef struct {
    lora  *const *at;
    int           n;
    bool          merge;        /* into the weights instead of beside them; n is 1 */
    size_t       *merged_bytes; /* counts the weights that then no longer lie in the mapped file */
} lora_set;

/* ERR_FILE names the file, and the tensor or the member of the configuration: not a LoRA adapter, a feature
 * that is not supported, a tensor of another kind, an A without its B, a rank that is not r. */
bool lora_open(lora **out, const char *dir, err *e);
void lora_close(lora *l); /* NULL is fine */

/* The pair of the layer prefixes[i] + module, for the first i that has one; false: this adapter leaves that
 * layer alone. The pair counts as matched from then on. */
typedef struct { const tensor *a, *b; float scale; int rank; } lora_pair;
bool lora_take(lora *l, const char *const *prefixes, const char *module, lora_pair *out);
/* ERR_FILE names the first tensor that no layer has asked for. */
bool lora_matched(const lora *l, err *e);

int         lora_rank(const lora *l);
double      lora_scale(const lora *l);
int64_t     lora_parameters(const lora *l);
size_t      lora_bytes(const lora *l); /* of the file */
const char *lora_hash(const lora *l);  /* sha256_model() of the folder */

#endif
