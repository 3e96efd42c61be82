#include "reader/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

enum {
    /* of one match call: the patterns in use backtrack at most a few times over a run they have taken */
    STEPS_PER_BYTE = 64,
    STEPS_AT_LEAST = 10000,
    HEAP_KIB = 64 * 1024 /* of one match call without the JIT */
};

struct split { pcre2_code *code; };

struct split_run {
    pcre2_general_context *memory;
    pcre2_match_context   *limits;
    pcre2_match_data      *match;
};

/* --- Categories ----------------------------------------------------------------------------------------- */

typedef enum { UPPER, LOWER, MODIFIER, LETTER, MARK, NUMBER, FORMAT, N_CATEGORIES } category;

/* Old members of each category: one of three bytes in UTF-8, one of four. */
static const int32_t STAND_IN[N_CATEGORIES][2] = {
    [UPPER] = {0x1e00, 0x10400},    [LOWER] = {0x1e01, 0x10428},  [MODIFIER] = {0x1d2c, 0x16b40},
    [LETTER] = {0x4e00, 0x20000},   [MARK] = {0x20d0, 0x1d165},   [NUMBER] = {0x0966, 0x104a0},
    [FORMAT] = {0x200b, 0xe0001},
};

/* Letters, marks and numbers that Unicode 14, 15 and 16 brought. New symbols and punctuation need no entry:
 * patterns know them only as "none of these", which is also what an unassigned code point is.
 * TRAP: U+180E is a format character since Unicode 6.3, but \s of PCRE2 still takes it as a space. */
static const struct { int32_t first, last; category is; } NEWER[] = {
    {0x0870, 0x0887, LETTER}, {0x0889, 0x088e, LETTER}, {0x0897, 0x089f, MARK}, {0x08b5, 0x08b5, LETTER},
    {0x08c8, 0x08c8, LETTER}, {0x08c9, 0x08c9, MODIFIER}, {0x08ca, 0x08d2, MARK}, {0x0c3c, 0x0c3c, MARK},
    {0x0c5d, 0x0c5d, LETTER}, {0x0cdd, 0x0cdd, LETTER}, {0x0cf3, 0x0cf3, MARK}, {0x0ece, 0x0ece, MARK},
    {0x170d, 0x170d, LETTER}, {0x1715, 0x1715, MARK}, {0x171f, 0x171f, LETTER}, {0x180e, 0x180e, FORMAT},
    {0x180f, 0x180f, MARK}, {0x1ac1, 0x1ace, MARK}, {0x1b4c, 0x1b4c, LETTER}, {0x1c89, 0x1c89, UPPER},
    {0x1c8a, 0x1c8a, LOWER}, {0x1dfa, 0x1dfa, MARK}, {0x2c2f, 0x2c2f, UPPER}, {0x2c5f, 0x2c5f, LOWER},
    {0x9ffd, 0x9fff, LETTER}, {0xa7c0, 0xa7c0, UPPER}, {0xa7c1, 0xa7c1, LOWER}, {0xa7cb, 0xa7cc, UPPER},
    {0xa7cd, 0xa7cd, LOWER}, {0xa7d0, 0xa7d0, UPPER}, {0xa7d1, 0xa7d1, LOWER}, {0xa7d3, 0xa7d3, LOWER},
    {0xa7d5, 0xa7d5, LOWER}, {0xa7d6, 0xa7d6, UPPER}, {0xa7d7, 0xa7d7, LOWER}, {0xa7d8, 0xa7d8, UPPER},
    {0xa7d9, 0xa7d9, LOWER}, {0xa7da, 0xa7da, UPPER}, {0xa7db, 0xa7db, LOWER}, {0xa7dc, 0xa7dc, UPPER},
    {0xa7f2, 0xa7f4, MODIFIER}, {0x10570, 0x1057a, UPPER}, {0x1057c, 0x1058a, UPPER},
    {0x1058c, 0x10592, UPPER}, {0x10594, 0x10595, UPPER}, {0x10597, 0x105a1, LOWER},
    {0x105a3, 0x105b1, LOWER}, {0x105b3, 0x105b9, LOWER}, {0x105bb, 0x105bc, LOWER},
    {0x105c0, 0x105f3, LETTER}, {0x10780, 0x10785, MODIFIER}, {0x10787, 0x107b0, MODIFIER},
    {0x107b2, 0x107ba, MODIFIER}, {0x10d40, 0x10d49, NUMBER}, {0x10d4a, 0x10d4d, LETTER},
    {0x10d4e, 0x10d4e, MODIFIER}, {0x10d4f, 0x10d4f, LETTER}, {0x10d50, 0x10d65, UPPER},
    {0x10d69, 0x10d6d, MARK}, {0x10d6f, 0x10d6f, MODIFIER}, {0x10d70, 0x10d85, LOWER},
    {0x10ec2, 0x10ec4, LETTER}, {0x10efc, 0x10eff, MARK}, {0x10f70, 0x10f81, LETTER},
    {0x10f82, 0x10f85, MARK}, {0x11070, 0x11070, MARK}, {0x11071, 0x11072, LETTER}, {0x11073, 0x11074, MARK},
    {0x11075, 0x11075, LETTER}, {0x110c2, 0x110c2, MARK}, {0x1123f, 0x11240, LETTER},
    {0x11241, 0x11241, MARK}, {0x11380, 0x11389, LETTER}, {0x1138b, 0x1138b, LETTER},
    {0x1138e, 0x1138e, LETTER}, {0x11390, 0x113b5, LETTER}, {0x113b7, 0x113b7, LETTER},
    {0x113b8, 0x113c0, MARK}, {0x113c2, 0x113c2, MARK}, {0x113c5, 0x113c5, MARK}, {0x113c7, 0x113ca, MARK},
    {0x113cc, 0x113d0, MARK}, {0x113d1, 0x113d1, LETTER}, {0x113d2, 0x113d2, MARK},
    {0x113d3, 0x113d3, LETTER}, {0x113e1, 0x113e2, MARK}, {0x116d0, 0x116e3, NUMBER},
    {0x11740, 0x11746, LETTER}, {0x11ab0, 0x11abf, LETTER}, {0x11bc0, 0x11be0, LETTER},
    {0x11bf0, 0x11bf9, NUMBER}, {0x11f00, 0x11f01, MARK}, {0x11f02, 0x11f02, LETTER},
    {0x11f03, 0x11f03, MARK}, {0x11f04, 0x11f10, LETTER}, {0x11f12, 0x11f33, LETTER},
    {0x11f34, 0x11f3a, MARK}, {0x11f3e, 0x11f42, MARK}, {0x11f50, 0x11f59, NUMBER}, {0x11f5a, 0x11f5a, MARK},
    {0x12f90, 0x12ff0, LETTER}, {0x1342f, 0x1342f, LETTER}, {0x13440, 0x13440, MARK},
    {0x13441, 0x13446, LETTER}, {0x13447, 0x13455, MARK}, {0x13460, 0x143fa, LETTER},
    {0x16100, 0x1611d, LETTER}, {0x1611e, 0x1612f, MARK}, {0x16130, 0x16139, NUMBER},
    {0x16a70, 0x16abe, LETTER}, {0x16ac0, 0x16ac9, NUMBER}, {0x16d40, 0x16d42, MODIFIER},
    {0x16d43, 0x16d6a, LETTER}, {0x16d6b, 0x16d6c, MODIFIER}, {0x16d70, 0x16d79, NUMBER},
    {0x18cff, 0x18cff, LETTER}, {0x1aff0, 0x1aff3, MODIFIER}, {0x1aff5, 0x1affb, MODIFIER},
    {0x1affd, 0x1affe, MODIFIER}, {0x1b11f, 0x1b122, LETTER}, {0x1b132, 0x1b132, LETTER},
    {0x1b155, 0x1b155, LETTER}, {0x1ccf0, 0x1ccf9, NUMBER}, {0x1cf00, 0x1cf2d, MARK},
    {0x1cf30, 0x1cf46, MARK}, {0x1d2c0, 0x1d2d3, NUMBER}, {0x1df00, 0x1df09, LOWER},
    {0x1df0a, 0x1df0a, LETTER}, {0x1df0b, 0x1df1e, LOWER}, {0x1df25, 0x1df2a, LOWER},
    {0x1e030, 0x1e06d, MODIFIER}, {0x1e08f, 0x1e08f, MARK}, {0x1e290, 0x1e2ad, LETTER},
    {0x1e2ae, 0x1e2ae, MARK}, {0x1e4d0, 0x1e4ea, LETTER}, {0x1e4eb, 0x1e4eb, MODIFIER},
    {0x1e4ec, 0x1e4ef, MARK}, {0x1e4f0, 0x1e4f9, NUMBER}, {0x1e5d0, 0x1e5ed, LETTER},
    {0x1e5ee, 0x1e5ef, MARK}, {0x1e5f0, 0x1e5f0, LETTER}, {0x1e5f1, 0x1e5fa, NUMBER},
    {0x1e7e0, 0x1e7e6, LETTER}, {0x1e7e8, 0x1e7eb, LETTER}, {0x1e7ed, 0x1e7ee, LETTER},
    {0x1e7f0, 0x1e7fe, LETTER}, {0x2a6de, 0x2a6df, LETTER}, {0x2b735, 0x2b739, LETTER},
    {0x2ebf0, 0x2ee5d, LETTER}, {0x31350, 0x323af, LETTER},
};

static int32_t stand_in(int32_t cp)
{
    int lo = 0, hi = (int)(sizeof NEWER / sizeof *NEWER);
    while (lo < hi) { /* the first range that does not end before cp */
        int mid = (lo + hi) / 2;
        if (NEWER[mid].last < cp) lo = mid + 1;
        else hi = mid;
    }
    if (lo == (int)(sizeof NEWER / sizeof *NEWER) || cp < NEWER[lo].first) return cp;
    return STAND_IN[NEWER[lo].is][cp > 0xffff];
}

bool split_subject(const char **out, const char *s, size_t n, arena *a, err *e)
{
    char *copy = NULL;
    for (const char *p = s, *end = s + n; p < end;) {
        /* below U+0800 nothing stands in; continuation bytes are skipped here too */
        if ((uint8_t)*p < 0xe0) { p++; continue; }
        const char *at = p;
        int32_t     cp = (int32_t)utf8_next(&p), as = stand_in(cp);
        if (as == cp) continue;
        if (!copy && !(copy = arena_strndup(a, s, n, e))) return false;
        utf8_put(copy + (at - s), (uint32_t)as);
    }
    *out = copy ? copy : s;
    return true;
}

/* --- Syntax --------------------------------------------------------------------------------------------- */

static bool refused(const char *where, const char *p, const char *at, const char *what, err *e)
{
    return err_set(e, ERR_FILE, "%s: %s at offset %td: not supported here", where, what, at - p);
}

/* Refuse what Oniguruma and PCRE2 read in two ways. What neither knows is left to PCRE2 to report. */
static bool check_syntax(const char *p, const char *where, err *e)
{
    static const char *const GROUPS[] = {"(?:", "(?=", "(?!", "(?>", "(?i:", "(?<=", "(?<!"};
    bool in_class = false;
    for (const char *c = p; *c; c++) {
        if (*c == '\\') {
            c++;
            /* \h is a hexadecimal digit to one and a blank to the other, \w has other members, and so on */
            if (((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z')) && !strchr("pPsSdDrntx", *c))
                return refused(where, p, c - 1, "escape", e);
            if (*c >= '0' && *c <= '9') return refused(where, p, c - 1, "back reference", e);
            const char *brace = *c && c[1] == '{' && strchr("pPx", *c) ? strchr(c, '}') : NULL;
            if (brace) c = brace; /* the '}' of \p{L} is not a repeat's */
            if (!*c) return true; /* PCRE2 says what is wrong with that */
        } else if (in_class) {
            if (*c == ']') in_class = false;
            /* a nested class, or [:name:] */
            if (*c == '[') return refused(where, p, c, "'[' inside a class", e);
            if (c[0] == '&' && c[1] == '&') return refused(where, p, c, "intersection of classes", e);
        } else if (*c == '[') {
            in_class = true;
            if (c[1] == '^') c++;
            if (c[1] == ']') return refused(where, p, c + 1, "']' as the first member of a class", e);
        } else if (*c == '^' || *c == '$') {
            return refused(where, p, c, "line anchor", e); /* of every line in Ruby's syntax */
        } else if (c[0] == '}' && c[1] == '+') {
            /* repeats again in the one, possessive in the other */
            return refused(where, p, c, "'+' behind '}'", e);
        } else if (c[0] == '{' && c[1] == ',') {
            return refused(where, p, c, "'{,'", e);
        } else if (c[0] == '(' && (c[1] == '?' || c[1] == '*')) {
            size_t i = 0, n = sizeof GROUPS / sizeof *GROUPS;
            while (i < n && strncmp(c, GROUPS[i], strlen(GROUPS[i])) != 0) i++;
            if (i == n) return refused(where, p, c, "group", e);
        }
    }
    return true;
}

/* --- Matching ------------------------------------------------------------------------------------------- */

static void *heap_take(size_t n, void *ctx) { (void)ctx; return mem_alloc(n); }
static void  heap_free(void *p, void *ctx) { (void)ctx; free(p); }

static bool compile(split *s, const char *pattern, bool literal, const char *where, err *e)
{
    int                    code;
    PCRE2_SIZE             at;
    uint32_t               options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP);
    pcre2_general_context *g = pcre2_general_context_create(heap_take, heap_free, NULL);
    pcre2_compile_context *c = g ? pcre2_compile_context_create(g) : NULL;
    if (!c) {
        pcre2_general_context_free(g);
        return err_set(e, ERR_MEMORY, "%s: out of memory", where);
    }
    /* what '.' does not match; the default is the packager's choice */
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    s->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &code, &at, c);
    pcre2_compile_context_free(c);
    pcre2_general_context_free(g);
    if (!s->code) {
        char why[160];
        if (code == PCRE2_ERROR_HEAP_FAILED) return err_set(e, ERR_MEMORY, "%s: out of memory", where);
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return err_set(e, ERR_FILE, "%s: %s at offset %zu", where, why, (size_t)at);
    }
    /* where it cannot, the interpreter finds the same matches */
    pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE);
    return true;
}

bool split_open(split **out, const char *pattern, bool literal, const char *where, err *e)
{
    split *s = NULL;
    bool   ok = false;
    if (!literal && !check_syntax(pattern, where, e)) goto done;
    if (!(s = mem_zalloc(1, sizeof *s))) {
        err_set(e, ERR_MEMORY, "%s: out of memory", where);
        goto done;
    }
    if (!compile(s, pattern, literal, where, e)) goto done;
    *out = s;
    s = NULL;
    ok = true;
done:
    split_close(s);
    return ok;
}

void split_close(split *s)
{
    if (!s) return;
    pcre2_code_free(s->code);
    free(s);
}

static void *arena_malloc(size_t n, void *ctx)
{
    err ignored = {0}; /* PCRE2 answers with its own error */
    return arena_take(ctx, n, &ignored);
}
static void arena_nofree(void *p, void *ctx) { (void)p; (void)ctx; }

bool split_begin(split_run **out, arena *a, err *e)
{
    split_run *r = ARENA_NEW(a, split_run, 1, e);
    if (!r) return false;
    r->memory = pcre2_general_context_create(arena_malloc, arena_nofree, a);
    r->limits = r->memory ? pcre2_match_context_create(r->memory) : NULL;
    r->match = r->memory ? pcre2_match_data_create(1, r->memory) : NULL; /* one pair: the whole match */
    if (!r->limits || !r->match) return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    pcre2_set_heap_limit(r->limits, HEAP_KIB);
    *out = r;
    return true;
}

bool split_next(const split *s, split_run *run, const char *subject, size_t n, size_t from, size_t *start,
                size_t *end, err *e)
{
    size_t steps = STEPS_AT_LEAST + STEPS_PER_BYTE * (n - from);
    pcre2_set_match_limit(run->limits, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);

    /* TRAP: without NO_UTF_CHECK each call reads the whole subject first: quadratic time on a long text. */
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int      r = pcre2_match(s->code, (PCRE2_SPTR)subject, n, from, options, run->match, run->limits);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT)
        r = pcre2_match(s->code, (PCRE2_SPTR)subject, n, from, options | PCRE2_NO_JIT, run->match,
                        run->limits);
    if (r == PCRE2_ERROR_NOMATCH) {
        *start = *end = n;
        return true;
    }
    if (r >= 0) {
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(run->match);
        *start = o[0];
        *end = o[1];
        return true;
    }
    if (r == PCRE2_ERROR_MATCHLIMIT || r == PCRE2_ERROR_HEAPLIMIT || r == PCRE2_ERROR_DEPTHLIMIT)
        return err_at(e, ERR_UNUSABLE, "text-too-complex", NULL,
                      "tokenizer: the split pattern needs too many steps on this text");
    if (r == PCRE2_ERROR_NOMEMORY) return err_set(e, ERR_MEMORY, "tokenizer: out of memory");
    return err_set(e, ERR_BUG, "tokenizer: pcre2_match gave %d", r);
}
