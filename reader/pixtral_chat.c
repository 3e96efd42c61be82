#include "reader/pixtral_chat.h"

#include <string.h>

#include "reader/template.h"

/* ---- Which rendering ------------------------------------------------------------------------------------------ */

typedef struct { int n; bool spaced; } rendering;
typedef enum { NOT_THERE, PLAIN, SPACED, NEITHER } spacing;

/* How every occurrence of the marker in the template stands to the text: at_end looks behind it, else in front. */
static spacing spacing_of(const char *s, size_t n, const char *marker, bool at_end)
{
    size_t  len = strlen(marker);
    spacing all = NOT_THERE;
    for (const char *p = s; (p = memmem(p, n - (size_t)(p - s), marker, len)) != NULL; p += len) {
        const char *q = at_end ? p + len : p - 1;
        char        c = q >= s && q < s + n ? *q : 0;
        bool        escape = at_end ? c == '\\' : q > s && q[-1] == '\\'; /* "\n" is spelled out in a Jinja string */
        spacing     this = c == ' ' ? SPACED : c == '\n' || escape ? NEITHER : PLAIN;
        if (all != NOT_THERE && all != this) return NEITHER;
        all = this;
    }
    return all;
}

/* The published template has had several revisions, which render one user turn alike, so it is not known by a
 * hash (as Qwen2-VL's is): what stands next to its markers tells what it renders. */
static bool look_at_template(void *ctx, const char *s, size_t n, const char *path, err *e)
{
    rendering *r = ctx;
    spacing    open = spacing_of(s, n, "[INST]", true), close = spacing_of(s, n, "[/INST]", false);
    spacing    image = spacing_of(s, n, "[IMG]", true);
    if (open != close || open == NOT_THERE || open == NEITHER || image == SPACED || image == NEITHER)
        return err_set(
            e, ERR_FILE,
            "%s: this chat template does not write [INST]...[/INST], nor the same with one space inside each, the two "
            "that are rendered here",
            path);
    if (r->n++ && r->spaced != (open == SPACED))
        return err_set(
            e, ERR_FILE,
            "%s: this chat template and another in the folder differ in the spaces inside [INST] [/INST]", path);
    r->spaced = open == SPACED;
    return true;
}

/* ---- Opening -------------------------------------------------------------------------------------------------- */

bool pixtral_chat_open(pixtral_chat *out, const bpe *b, const char *dir, err *e)
{
    pixtral_chat c = {.b = b};
    rendering    r = {0};
    const struct { const char *content; int32_t *id; } marker[] = {
        {"<s>", &c.begin}, {"</s>", &c.end}, {"[INST]", &c.inst}, {"[/INST]", &c.end_inst}, {"[IMG]", &c.image},
        {"[IMG_BREAK]", &c.row_break}, {"[IMG_END]", &c.image_end}};
    for (size_t i = 0; i < sizeof marker / sizeof *marker; i++) {
        *marker[i].id = bpe_special(b, marker[i].content);
        if (*marker[i].id < 0)
            return err_set(e, ERR_FILE, "%s: tokenizer.json has no added token %s", dir, marker[i].content);
    }
    if (!template_each(dir, look_at_template, &r, e)) return false;
    c.spaced = r.spaced;
    *out = c;
    return true;
}

/* ---- Rendering ------------------------------------------------------------------------------------------------ */

typedef struct { int32_t *ids; int n; } id_list;

static bool encode(const pixtral_chat *c, const char *s, id_list *out, arena *a, err *e)
{
    return bpe_encode(c->b, s, strlen(s), false, false, &out->ids, &out->n, a, e);
}

static int32_t *put(int32_t *to, id_list l)
{
    if (l.n) memcpy(to, l.ids, (size_t)l.n * sizeof *to);
    return to + l.n;
}

/* before, a picture, the ids of say, after. */
static bool piece_of(const pixtral_chat *c, id_list before, int rows, int cols, const char *say, id_list after,
                     prompt *out, arena *a, err *e)
{
    id_list said;
    if (rows < 1 || cols < 1) return err_set(e, ERR_BUG, "chat template: a picture of %d x %d tokens", rows, cols);
    if (!encode(c, say, &said, a, e)) return false;

    *out = (prompt){.n_ids = before.n + rows * (cols + 1) + said.n + after.n, .n_spans = rows};
    out->ids = ARENA_NEW(a, int32_t, out->n_ids, e);
    out->span = out->ids ? ARENA_NEW(a, image_span, rows, e) : NULL;
    if (!out->span) return false;

    int32_t *to = put(out->ids, before);
    for (int r = 0; r < rows; r++) {
        out->span[r] = (image_span){(int)(to - out->ids), 1, cols};
        for (int i = 0; i < cols; i++) *to++ = c->image;
        *to++ = r < rows - 1 ? c->row_break : c->image_end;
    }
    put(put(to, said), after);
    return true;
}

/* TRAP: <s> stands once, because the template writes it. A tokenizer whose post-processor puts one in front of
 * every text, as Tekken's does, would make two of it, so that is not run here. */
bool pixtral_chat_prefix(const pixtral_chat *c, const char *caption, int rows, int cols, prompt *out, arena *a,
                         err *e)
{
    id_list space = {0}, before = {.n = 2};
    char   *say = arena_printf(a, e, "background: %s\n\n", caption);
    if (!say || (c->spaced && !encode(c, " ", &space, a, e))) return false;
    if (!(before.ids = ARENA_NEW(a, int32_t, 2 + space.n, e))) return false;
    before.ids[0] = c->begin;
    before.ids[1] = c->inst;
    put(before.ids + 2, space);
    before.n += space.n;
    return piece_of(c, before, rows, cols, say, (id_list){0}, out, a, e);
}

bool pixtral_chat_query(const pixtral_chat *c, const char *question, int rows, int cols, prompt *out, arena *a,
                        err *e)
{
    int32_t     end = c->end_inst;
    const char *say = c->spaced ? arena_printf(a, e, "%s ", question) : question;
    return say && piece_of(c, (id_list){0}, rows, cols, say, (id_list){&end, 1}, out, a, e);
}
