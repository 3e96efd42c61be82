/* make_random_checkpoint.c - a Qwen2-VL folder of a published size with random BF16 weights, to time the real thing
 * without downloading it.
 *     make_random_checkpoint 2b|7b|tiny TOKENIZER_DIR OUT_DIR [LAYERS]
 *     make_random_checkpoint 2b|7b|tiny --adapter RANK OUT_DIR [LAYERS]
 * Layout, names and configuration are those of the published files; shards of at most 4 GB with an index where
 * there is more. TOKENIZER_DIR's tokenizer.json (and chat_template.json) are copied, its ids go into
 * config.json. Values are uniform with the deviation 1 / sqrt(columns), gains about 1, so that activations stay
 * in range through 28 layers. LAYERS cuts both halves short: real shapes in a small file. With --adapter, a
 * PEFT folder instead: F32, all linear layers of both towers but not the merger, as LLaMA-Factory trains
 * them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/dtype.h"
#include "base/file.h"
#include "base/text.h"
#include "reader/bpe.h"

enum { MAX_TENSORS = 2048, MAX_NAME = 96, VISION_F = 3 * 2 * 14 * 14 };
static const int64_t SHARD_BYTES = 4000000000;

typedef struct {
    const char *name;
    int D, F, L, N, kv_heads, V, section[3];
    bool tied;
    int E, depth, heads;
} size_class;
static const size_class SIZES[] = {
    {"2b", 1536, 8960, 28, 12, 2, 151936, {16, 24, 24}, true, 1280, 32, 16},
    {"7b", 3584, 18944, 28, 28, 4, 152064, {16, 24, 24}, false, 1280, 32, 16},
    {"tiny", 128, 192, 3, 4, 2, 640, {4, 6, 6}, true, 64, 2, 4},
};

typedef struct { char name[MAX_NAME]; int n_dims; int64_t dim[5], count; float mean, deviation; } planned;
typedef struct {
    planned t[MAX_TENSORS];
    int     n, rank; /* rank > 0: an adapter's plan, of which only the linear layers of blocks are written */
    dtype   type;
} plan;

static void add(plan *p, const char *name, float mean, float deviation, int n_dims, const int64_t *dim)
{
    planned *t = &p->t[p->n++];
    *t = (planned){.n_dims = n_dims, .count = 1, .mean = mean, .deviation = deviation};
    snprintf(t->name, sizeof t->name, "%s", name);
    for (int i = 0; i < n_dims; i++) t->count *= t->dim[i] = dim[i];
}

static void matrix(plan *p, const char *stem, int64_t rows, int64_t cols, bool bias)
{
    char name[MAX_NAME];
    if (p->rank) {
        if (!strstr(stem, "blocks.") && !strstr(stem, "layers.")) return;
        snprintf(name, sizeof name, "base_model.model.%.60s.lora_A.weight", stem);
        add(p, name, 0, 1 / sqrtf((float)cols), 2, (int64_t[]){p->rank, cols});
        snprintf(name, sizeof name, "base_model.model.%.60s.lora_B.weight", stem);
        add(p, name, 0, 0.02f, 2, (int64_t[]){rows, p->rank});
        return;
    }
    snprintf(name, sizeof name, "%.80s.weight", stem);
    add(p, name, 0, 1 / sqrtf((float)cols), 2, (int64_t[]){rows, cols});
    snprintf(name, sizeof name, "%.80s.bias", stem);
    if (bias) add(p, name, 0, 0.02f, 1, &rows);
}

static void norm(plan *p, const char *stem, int64_t n, bool bias)
{
    char name[MAX_NAME];
    if (p->rank) return;
    snprintf(name, sizeof name, "%.80s.weight", stem);
    add(p, name, 1, 0.1f, 1, &n);
    snprintf(name, sizeof name, "%.80s.bias", stem);
    if (bias) add(p, name, 0, 0.02f, 1, &n);
}

/* The printf of one numbered stem; valid until the next. */
static const char *stem(char buf[MAX_NAME], const char *fmt, int i, const char *part)
{
    snprintf(buf, MAX_NAME, fmt, i, part);
    return buf;
}

static void plan_vision(plan *p, const size_class *s)
{
    char b[MAX_NAME];
    int  E = s->E;
    if (!p->rank) add(p, "visual.patch_embed.proj.weight", 0, 1 / sqrtf(VISION_F), 5, (int64_t[]){E, 3, 2, 14, 14});
    for (int i = 0; i < s->depth; i++) {
        const char *fmt = "visual.blocks.%d.%s";
        norm(p, stem(b, fmt, i, "norm1"), E, true);
        norm(p, stem(b, fmt, i, "norm2"), E, true);
        matrix(p, stem(b, fmt, i, "attn.qkv"), 3 * E, E, true);
        matrix(p, stem(b, fmt, i, "attn.proj"), E, E, true);
        matrix(p, stem(b, fmt, i, "mlp.fc1"), 4 * E, E, true);
        matrix(p, stem(b, fmt, i, "mlp.fc2"), E, 4 * E, true);
    }
    norm(p, "visual.merger.ln_q", E, true);
    matrix(p, "visual.merger.mlp.0", 4 * E, 4 * E, true);
    matrix(p, "visual.merger.mlp.2", s->D, 4 * E, true);
}

static void plan_text(plan *p, const size_class *s)
{
    char b[MAX_NAME];
    int  hd = s->D / s->N, kv = s->kv_heads * hd;
    matrix(p, "model.embed_tokens", s->V, s->D, false);
    for (int i = 0; i < s->L; i++) {
        const char *fmt = "model.layers.%d.%s";
        norm(p, stem(b, fmt, i, "input_layernorm"), s->D, false);
        norm(p, stem(b, fmt, i, "post_attention_layernorm"), s->D, false);
        matrix(p, stem(b, fmt, i, "self_attn.q_proj"), s->D, s->D, true);
        matrix(p, stem(b, fmt, i, "self_attn.k_proj"), kv, s->D, true);
        matrix(p, stem(b, fmt, i, "self_attn.v_proj"), kv, s->D, true);
        matrix(p, stem(b, fmt, i, "self_attn.o_proj"), s->D, s->D, false);
        matrix(p, stem(b, fmt, i, "mlp.gate_proj"), s->F, s->D, false);
        matrix(p, stem(b, fmt, i, "mlp.up_proj"), s->F, s->D, false);
        matrix(p, stem(b, fmt, i, "mlp.down_proj"), s->D, s->F, false);
    }
    norm(p, "model.norm", s->D, false);
    if (!s->tied) matrix(p, "lm_head", s->V, s->D, false);
}

/* ---- writing ---- */

static void header_of(text *h, const planned *t, int n, dtype type)
{
    int64_t at = 0, size = (int64_t)dtype_bytes(type);
    text_add(h, "{");
    for (int i = 0; i < n; i++) {
        text_printf(h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t[i].name, dtype_name(type));
        for (int d = 0; d < t[i].n_dims; d++) text_printf(h, "%s%lld", d ? "," : "", (long long)t[i].dim[d]);
        text_printf(h, "],\"data_offsets\":[%lld,%lld]}", (long long)at, (long long)(at + size * t[i].count));
        at += size * t[i].count;
    }
    text_add(h, "}");
    while (h->len % 8) text_add(h, " ");
}

static bool values_out(FILE *f, const planned *t, dtype type, uint64_t *seed)
{
    enum { BLOCK = 1 << 16 };
    static uint16_t block[BLOCK];
    static float    wide[BLOCK];
    for (int64_t left = t->count; left > 0; left -= BLOCK) {
        size_t n = left < BLOCK ? (size_t)left : BLOCK;
        for (size_t i = 0; i < n; i++) {
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            float u = (float)(int32_t)(*seed >> 32) * 0x1p-31f; /* -1 .. 1, whose deviation is 1 / sqrt(3) */
            wide[i] = t->mean + t->deviation * 1.7320508f * u;
            block[i] = bf16_from_f32(wide[i]);
        }
        if (fwrite(type == DTYPE_F32 ? (void *)wide : block, dtype_bytes(type), n, f) != n) return false;
    }
    return true;
}

static bool shard_out(const char *path, const planned *t, int n, dtype type, uint64_t *seed, err *e)
{
    text  h = {0};
    FILE *f = fopen(path, "wb");
    if (!f) return err_set(e, ERR_FILE, "%s cannot be written", path);
    header_of(&h, t, n, type);
    uint64_t len = h.len;
    bool     ok = !h.failed && fwrite(&len, 8, 1, f) == 1 && fwrite(h.s, 1, h.len, f) == h.len;
    for (int i = 0; ok && i < n; i++) ok = values_out(f, &t[i], type, seed);
    text_free(&h);
    if (fclose(f) != 0 || !ok) return err_set(e, ERR_FILE, "%s was not written", path);
    return true;
}

/* How many tensors from t on go into one shard. */
static int shard_len(const planned *t, int n)
{
    int64_t bytes = 0;
    int     i = 0;
    while (i < n && (i == 0 || bytes + 2 * t[i].count <= SHARD_BYTES)) bytes += 2 * t[i++].count;
    return i;
}

static bool weights_out(const char *dir, const plan *p, err *e)
{
    char     path[1024], file[64];
    text     index = {0};
    uint64_t seed = 1;
    int      shards = 0;
    for (int i = 0; i < p->n; i += shard_len(p->t + i, p->n - i)) shards++;
    text_add(&index, "{\"metadata\": {}, \"weight_map\": {");
    for (int i = 0, s = 1, n; i < p->n; i += n, s++) {
        n = shard_len(p->t + i, p->n - i);
        if (shards == 1) snprintf(file, sizeof file, "model.safetensors");
        else snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s, shards);
        if (!path_join(path, sizeof path, dir, file, e) || !shard_out(path, p->t + i, n, p->type, &seed, e))
            return false;
        for (int j = i; j < i + n; j++) text_printf(&index, "%s\"%s\": \"%s\"", j ? ", " : "", p->t[j].name, file);
    }
    text_add(&index, "}}");
    bool ok = shards == 1 || (path_join(path, sizeof path, dir, "model.safetensors.index.json", e)
                              && file_write(path, index.s, index.len, e));
    text_free(&index);
    return ok;
}

/* ---- the small files ---- */

static bool copy_file(const char *from, const char *to, const char *name, bool needed, err *e)
{
    char   path[1024], *s;
    size_t n;
    if (!path_join(path, sizeof path, from, name, e)) return false;
    if (!needed && !file_exists(path)) return true;
    if (!file_read(&s, &n, path, 64 << 20, e)) return false;
    bool ok = path_join(path, sizeof path, to, name, e) && file_write(path, s, n, e);
    free(s);
    return ok;
}

static bool text_out(const char *dir, const char *name, text *t, err *e)
{
    char path[1024];
    bool ok = (!t->failed || err_set(e, ERR_MEMORY, "out of memory")) && path_join(path, sizeof path, dir, name, e)
           && file_write(path, t->s, t->len, e);
    text_free(t);
    return ok;
}

static bool configs_out(const char *dir, const size_class *s, const bpe *b, err *e)
{
    text c = {0}, g = {0}, p = {0};
    int  end = bpe_special(b, "<|im_end|>"), pad = bpe_special(b, "<|endoftext|>");
    text_printf(
        &c,
        "{\"architectures\": [\"Qwen2VLForConditionalGeneration\"], \"model_type\": \"qwen2_vl\", \"hidden_act\": \"silu\",\n"
        " \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d,\n"
        " \"num_key_value_heads\": %d, \"vocab_size\": %d, \"tie_word_embeddings\": %s, \"rms_norm_eps\": 1e-06,\n"
        " \"rope_theta\": 1000000.0, \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [%d, %d, %d]},\n"
        " \"max_position_embeddings\": 32768, \"torch_dtype\": \"bfloat16\", \"bos_token_id\": %d, \"eos_token_id\": %d,\n",
        s->D, s->F, s->L, s->N, s->kv_heads, s->V, s->tied ? "true" : "false", s->section[0], s->section[1],
        s->section[2], pad, end);
    text_printf(
        &c,
        " \"vision_start_token_id\": %d, \"vision_end_token_id\": %d, \"image_token_id\": %d,\n"
        " \"vision_config\": {\"depth\": %d, \"embed_dim\": %d, \"num_heads\": %d, \"hidden_size\": %d, \"mlp_ratio\": 4,\n"
        " \"in_chans\": 3, \"patch_size\": 14, \"spatial_merge_size\": 2, \"spatial_patch_size\": 14, \"temporal_patch_size\": 2}}\n",
        bpe_special(b, "<|vision_start|>"), bpe_special(b, "<|vision_end|>"), bpe_special(b, "<|image_pad|>"),
        s->depth, s->E, s->heads, s->D);
    text_printf(&g,
                "{\"bos_token_id\": %d, \"pad_token_id\": %d, \"eos_token_id\": [%d, %d], \"do_sample\": false}\n",
                pad, pad, end, pad);
    text_add(
        &p,
        "{\"min_pixels\": 3136, \"max_pixels\": 12845056, \"patch_size\": 14, \"temporal_patch_size\": 2, \"merge_size\": 2,\n"
        " \"image_mean\": [0.48145466, 0.4578275, 0.40821073], \"image_std\": [0.26862954, 0.26130258, 0.27577711],\n"
        " \"image_processor_type\": \"Qwen2VLImageProcessor\"}\n");
    bool ok = text_out(dir, "config.json", &c, e);
    ok = text_out(dir, "generation_config.json", &g, e) && ok;
    return text_out(dir, "preprocessor_config.json", &p, e) && ok;
}

static bool make_adapter(const size_class *s, int rank, const char *out, err *e)
{
    static plan p = {.type = DTYPE_F32};
    char        path[1024];
    text        c = {0};
    uint64_t    seed = 2;
    if (mkdir(out, 0777) != 0) return err_set(e, ERR_FILE, "%s exists or cannot be made", out);
    p.rank = rank;
    plan_vision(&p, s);
    plan_text(&p, s);
    text_printf(&c, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %d, \"bias\": \"none\"}\n", rank, 2 * rank);
    return text_out(out, "adapter_config.json", &c, e)
           && path_join(path, sizeof path, out, "adapter_model.safetensors", e)
           && shard_out(path, p.t, p.n, p.type, &seed, e);
}

static bool make(const size_class *s, const char *tokenizer, const char *out, err *e)
{
    static plan p = {.type = DTYPE_BF16};
    char        path[1024];
    bpe        *b = NULL;
    if (mkdir(out, 0777) != 0) return err_set(e, ERR_FILE, "%s exists or cannot be made", out);
    if (!path_join(path, sizeof path, tokenizer, "tokenizer.json", e) || !bpe_open(&b, path, e)) return false;
    plan_vision(&p, s);
    plan_text(&p, s);
    bool ok = bpe_vocab(b) <= s->V
              || err_set(e, ERR_USAGE, "the tokenizer has %d ids, this size %d rows", bpe_vocab(b), s->V);
    ok = ok && copy_file(tokenizer, out, "tokenizer.json", true, e)
         && copy_file(tokenizer, out, "chat_template.json", false, e) && configs_out(out, s, b, e)
         && weights_out(out, &p, e);
    bpe_close(b);
    return ok;
}

int main(int argc, char **argv)
{
    err  e = {0};
    bool adapter = argc > 2 && strcmp(argv[2], "--adapter") == 0;
    int words = adapter ? 5 : 4, layers = argc == words + 1 ? atoi(argv[words]) : 512,
        rank = adapter && argc > 3 ? atoi(argv[3]) : 1;
    for (size_t i = 0;
         (argc == words || argc == words + 1) && layers > 0 && rank > 0 && i < sizeof SIZES / sizeof *SIZES; i++) {
        if (strcmp(argv[1], SIZES[i].name) != 0) continue;
        size_class s = SIZES[i];
        if (s.L > layers) s.L = layers;
        if (s.depth > layers) s.depth = layers;
        if (adapter ? make_adapter(&s, rank, argv[4], &e) : make(&s, argv[2], argv[3], &e)) return 0;
        fprintf(stderr, "make_random_checkpoint: %s\n", e.text);
        return 1;
    }
    fprintf(stderr, "usage: make_random_checkpoint 2b|7b|tiny TOKENIZER_DIR|--adapter RANK OUT_DIR [LAYERS]\n");
    return 2;
}
