/* cli.h - the commands, and what they share: exit statuses, model flags, printing an answer for people. */
#ifndef JOMED_CLI_CLI_H
#define JOMED_CLI_CLI_H

#include <getopt.h>
#include <stdio.h>
#include "diagnose/diagnose.h"
#include "diagnose/engine.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* argv[0] is the command's name. Each answers --help and returns an exit status. */
int cmd_diagnose(int argc, char **argv);
int cmd_retrieve(int argc, char **argv);
int cmd_embed(int argc, char **argv);
int cmd_index(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_version(int argc, char **argv);

/* "jomed COMMAND: text" on stderr (and how to get help, for a usage error); the exit status for e. */
int cli_fail(const char *command, const err *e);

/* One of several items failed, the others go on: "jomed COMMAND: ITEM: text" on stderr, ITEM once. */
void cli_item_failed(const char *command, const char *item, const err *e);

/* The flags that name models, shared by diagnose, retrieve, embed and eval. */
#define CLI_MODEL_OPTIONS \
    {"reader", required_argument, NULL, CLI_READER}, {"retriever", required_argument, NULL, CLI_RETRIEVER}, \
    {"index", required_argument, NULL, CLI_INDEX}, {"device", required_argument, NULL, CLI_DEVICE}, \
    {"products", required_argument, NULL, CLI_PRODUCTS}, {"search", required_argument, NULL, CLI_SEARCH}, \
    {"threads", required_argument, NULL, CLI_THREADS}, \
    {"cache-mb", required_argument, NULL, CLI_CACHE}, \
    {"cache-host-mb", required_argument, NULL, CLI_CACHE_HOST}, {"tau", required_argument, NULL, CLI_TAU}, \
    {"image-policy", required_argument, NULL, CLI_POLICY}
#define CLI_MODEL_HELP \
    "  --reader DIR       reader checkpoint (config.json, tokenizer.json, *.safetensors)\n" \
    "  --retriever DIR    jina-clip-v1 checkpoint\n" \
    "  --index DIR        folder made by `jomed index build`\n" \
    "  --device NAME      auto (default: the first GPU, else the CPU), cpu or cuda:N\n" \
    "  --products TYPE    auto (default), f32, bf16, or own: bf16 without cuBLASLt\n" \
    "  --search NAME      what searches the index: auto (default), faiss, faiss-gpu or exact (all vectors on the GPU)\n" \
    "  --threads N        threads (default: one per core; 1 for small models)\n" \
    "  --cache-mb N       MiB on the device for cached candidate prefixes (default: for 256; a CPU: 64)\n" \
    "  --cache-host-mb N  MiB of pinned host memory for those that a GPU has no more room for (default 0)\n" \
    "  --tau T            temperature of p_R (default 1)\n" \
    "  --image-policy P   what the reader's pictures go through first: native (default: nothing) or jomed-256 (the\n" \
    "                     released code's resizes, longer side 256)\n"
/* Those of diagnose and eval, whose reader may have adapters. */
#define CLI_ADAPTER_OPTIONS \
    {"adapter", required_argument, NULL, CLI_ADAPTER}, {"use-adapter", required_argument, NULL, CLI_USE_ADAPTER}, \
    {"lora-merge", no_argument, NULL, CLI_LORA_MERGE}
#define CLI_ADAPTER_HELP \
    "  --adapter NAME=DIR  PEFT LoRA adapter of the reader (repeat it for several)\n" \
    "  --use-adapter NAME the one that answers, or none; not needed where there is one\n" \
    "  --lora-merge       add it to the weights instead of running it beside them\n"
enum {
    CLI_READER = 1000,
    CLI_RETRIEVER,
    CLI_INDEX,
    CLI_DEVICE,
    CLI_PRODUCTS,
    CLI_SEARCH,
    CLI_THREADS,
    CLI_CACHE,
    CLI_CACHE_HOST,
    CLI_TAU,
    CLI_POLICY,
    CLI_ADAPTER,
    CLI_USE_ADAPTER,
    CLI_LORA_MERGE
};
/* Take one of those options. *taken tells whether opt was one; false: ERR_USAGE. */
bool cli_model_option(engine_options *o, int opt, const char *value, bool *taken, err *e);
/* One adapter is meant to be used; of several one must be named. */
bool cli_choose_adapter(engine_options *o, err *e);
/* Tell on stderr what merging an adapter took. */
void cli_tell_merged(const char *command, const engine *en);
/* Open the models and call each for every image file, the arena reset in between: one that fails is told and
 * the others go on. The exit status. */
typedef bool (*cli_image)(void *ctx, const engine *en, kernels *k, const char *path, arena *a, err *e);
int cli_each_image(const char *command, const engine_options *o, char *const *path, int n, cli_image each, void *ctx);
/* ERR_USAGE naming the flag when a wanted folder was not given. */
bool cli_need(const char *value, const char *flag, err *e);

/* value as a whole number within [least, most]; ERR_USAGE names the flag. */
bool cli_int(long *out, const char *flag, const char *value, long least, long most, err *e);

/* The answer in a screenful: question (NULL: left out), distribution, evidence, agreement, notice. */
void cli_print_answer(FILE *f, const diagnose_request *q, const answer *ans);
/* The same without question and answer, where an open answer stands there already. */
void cli_print_reasons(FILE *f, const diagnose_request *q, const answer *ans);

#endif
