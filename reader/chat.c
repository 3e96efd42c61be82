#include "reader/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/sha256.h"
#include "base/text.h"
#include "reader/template.h"

/* What the published template makes of one user turn that has no system turn before it. */
static const char BEFORE_PREFIX[] =
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
static const char AFTER_QUERY[] = "<|im_end|>\n<|im_start|>assistant\n";

/* SHA-256 of the template that Qwen2-VL-Instruct is published with, without white space at its end. It is
 * known by its hash because it is a program (Jinja), and all that this one needs of it is the rendering
 * above. LLaMA-Factory's qwen2_vl template, with which adapters are trained, renders the same. */
static const char TEMPLATE_SHA256[] = "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb";

typedef struct { int32_t *ids; int n; } id_list;

struct chat {
    const bpe *b;
    int32_t    vision_start, vision_end, image_pad, im_end;
    id_list    before_prefix, after_query;
};

/* --- The checkpoint's template -------------------------------------------------------------------------- */

/* A template that is not the known one would be rendered to something else than what the reader was trained
 * on, and the answers would still look right: so it does not start. */
static bool known_template(void *ctx, const char *s, size_t n, const char *path, err *e)
{
    (void)ctx;
    uint8_t hash[SHA256_BYTES];
    char    hex[SHA256_HEX];
    while (n && (s[n - 1] == '\n' || s[n - 1] == '\r' || s[n - 1] == ' ')) n--; /* savers differ there */
    sha256(hash, s, n);
    hex_encode(hex, hash, sizeof hash);
    if (strcmp(hex, TEMPLATE_SHA256) == 0) return true;
    return err_set(e, ERR_FILE,
                   "%s: this chat template is not Qwen2-VL's published one, the only one rendered here; "
                   "if it makes the same of a user turn, take it out of the file",
                   path);
}

/* --- Opening -------------------------------------------------------------------------------------------- */

static bool marker(int32_t *out, const bpe *b, const char *content, const char *dir, err *e)
{
    *out = bpe_special(b, content);
    return *out >= 0 || err_set(e, ERR_FILE, "%s: tokenizer.json has no added token %s", dir, content);
}

static bool fixed_part(id_list *out, const bpe *b, const char *s, arena *a, err *e)
{
    int32_t *ids;
    int      n;
    if (!bpe_encode(b, s, strlen(s), true, false, &ids, &n, a, e)) return false;
    if (!(out->ids = mem_alloc((size_t)n * sizeof *ids)))
        return err_set(e, ERR_MEMORY, "chat template: out of memory");
    memcpy(out->ids, ids, (size_t)n * sizeof *ids);
    out->n = n;
    return true;
}

static bool open_parts(chat *c, const char *dir, err *e)
{
    const bpe *b = c->b;
    int32_t    im_start; /* only looked for: without it the fixed parts would be spelled out as text */
    arena     *a = arena_new(0);
    if (!a) return err_set(e, ERR_MEMORY, "chat template: out of memory");
    bool ok = template_each(dir, known_template, NULL, e)
           && marker(&im_start, b, "<|im_start|>", dir, e) && marker(&c->im_end, b, "<|im_end|>", dir, e)
           && marker(&c->vision_start, b, "<|vision_start|>", dir, e)
           && marker(&c->vision_end, b, "<|vision_end|>", dir, e)
           && marker(&c->image_pad, b, "<|image_pad|>", dir, e)
           && fixed_part(&c->before_prefix, b, BEFORE_PREFIX, a, e)
           && fixed_part(&c->after_query, b, AFTER_QUERY, a, e);
    arena_free(a);
    return ok;
}

bool chat_open(chat **out, const bpe *b, const char *dir, err *e)
{
    chat *c = mem_zalloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_MEMORY, "chat template: out of memory");
    c->b = b;
    if (!open_parts(c, dir, e)) {
        chat_close(c);
        return false;
    }
    *out = c;
    return true;
}

void chat_close(chat *c)
{
    if (!c) return;
    free(c->before_prefix.ids);
    free(c->after_query.ids);
    free(c);
}

int32_t chat_image_id(const chat *c) { return c->image_pad; }
int32_t chat_end_id(const chat *c) { return c->im_end; }

/* --- Rendering ------------------------------------------------------------------------------------------ */

static int32_t *put(int32_t *to, const int32_t *ids, int n)
{
    if (n) memcpy(to, ids, (size_t)n * sizeof *ids);
    return to + n;
}

/* before, a picture of rows x cols tokens between its markers, the ids of say, after. */
static bool piece_of(const chat *c, id_list before, int rows, int cols, const char *say, id_list after,
                     prompt *out, arena *a, err *e)
{
    id_list said;
    if (rows < 1 || cols < 1)
        return err_set(e, ERR_BUG, "chat template: a picture of %d x %d tokens", rows, cols);
    if (!bpe_encode(c->b, say, strlen(say), false, false, &said.ids, &said.n, a, e)) return false;

    *out = (prompt){.n_ids = before.n + 1 + rows * cols + 1 + said.n + after.n, .n_spans = 1};
    out->ids = ARENA_NEW(a, int32_t, out->n_ids, e);
    out->span = out->ids ? ARENA_NEW(a, image_span, 1, e) : NULL;
    if (!out->span) return false;

    int32_t *to = put(out->ids, before.ids, before.n);
    *to++ = c->vision_start;
    out->span[0] = (image_span){(int)(to - out->ids), rows, cols};
    for (int i = 0; i < rows * cols; i++) *to++ = c->image_pad;
    *to++ = c->vision_end;
    to = put(to, said.ids, said.n);
    put(to, after.ids, after.n);
    return true;
}

bool chat_prefix(const chat *c, const char *caption, int rows, int cols, prompt *out, arena *a, err *e)
{
    /* One text between two markers, so it is encoded as one. An empty caption stays "background: ", as the
     * paper's code has it. */
    char *said = arena_printf(a, e, "background: %s\n\n", caption);
    return said && piece_of(c, c->before_prefix, rows, cols, said, (id_list){0}, out, a, e);
}

bool chat_query(const chat *c, const char *question, int rows, int cols, prompt *out, arena *a, err *e)
{
    return piece_of(c, (id_list){0}, rows, cols, question, c->after_query, out, a, e);
}
