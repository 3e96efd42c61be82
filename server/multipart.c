/* multipart.c - how the parser walks:
 *
 *   preamble --boundary CRLF headers CRLF CRLF data CRLF--boundary CRLF headers ... CRLF--boundary-- epilogue
 *   PREAMBLE            LINE         HEADERS        DATA           LINE                          EPILOGUE
 *
 * The delimiter is "CR LF - - boundary", and only its first byte is a CR. So when a match breaks off, no
 * shorter match can be hidden in the bytes already matched: they are data, and only the byte at hand can start
 * again. That is what makes the search linear without a table. */
#include "server/multipart.h"

#include <string.h>
#include <strings.h>

enum { PREAMBLE, LINE, LINE_DASH, LINE_LF, HEADERS, DATA, EPILOGUE };

static bool bad(err *e, const char *what)
{
    return err_at(e, ERR_INPUT, "multipart-malformed", NULL, "multipart: %s", what);
}

static bool is_token(unsigned char c)
{
    return c > 0x20 && c < 0x7f && !strchr("()<>@,;:\\\"/[]?={}", c);
}

static const char *skip_space(const char *s) { return s + strspn(s, " \t"); }

bool header_is(const char *value, const char *word)
{
    size_t n = strlen(word);
    value = skip_space(value);
    if (strncasecmp(value, word, n) != 0) return false;
    value = skip_space(value + n);
    return *value == 0 || *value == ';';
}

/* One parameter's value at *s, unquoted into out (may be NULL); *s moves behind it. */
static bool take_value(const char **s, char *out, size_t size)
{
    const char *p = *s;
    size_t      n = 0;
    bool        quoted = *p == '"';
    if (quoted) p++;
    for (; quoted ? *p && *p != '"' : is_token((unsigned char)*p) || (*p && strchr("/:=?@()<>,[]{}", *p)); p++) {
        if (quoted && *p == '\\' && p[1]) p++;
        if ((unsigned char)*p < 0x20 || *p == 0x7f) return false;
        if (out && n + 1 >= size) return false;
        if (out) out[n] = *p;
        n++;
    }
    if (quoted && *p++ != '"') return false;
    if (!quoted && n == 0) return false;
    if (out) out[n] = 0;
    *s = skip_space(p);
    return **s == 0 || **s == ';';
}

param_result header_param(const char *value, const char *name, char *out, size_t size)
{
    param_result r = PARAM_NONE;
    const char  *s = value + strcspn(value, ";");
    while (*s == ';') {
        s = skip_space(s + 1);
        if (*s == 0 || *s == ';') continue; /* an empty parameter, as in "form-data;" */
        size_t n = 0;
        while (is_token((unsigned char)s[n])) n++;
        bool        ours = n == strlen(name) && strncasecmp(s, name, n) == 0;
        const char *v = skip_space(s + n);
        if (n == 0 || *v != '=' || (ours && r == PARAM_FOUND)) return PARAM_BAD;
        s = skip_space(v + 1);
        if (!take_value(&s, ours ? out : NULL, size)) return PARAM_BAD;
        if (ours) r = PARAM_FOUND;
    }
    return r;
}

bool multipart_init(multipart *m, const char *content_type, const multipart_sink *sink, void *ctx, err *e)
{
    *m = (multipart){.sink = *sink, .ctx = ctx, .state = PREAMBLE, .matched = 2}; /* as if a CR LF came before */
    memcpy(m->delimiter, "\r\n--", 4);
    switch (header_param(content_type, "boundary", m->delimiter + 4, BOUNDARY_MAX + 1)) {
    case PARAM_NONE: return bad(e, "Content-Type has no boundary");
    case PARAM_BAD: return bad(e, "the boundary in Content-Type is malformed or longer than 200 characters");
    case PARAM_FOUND: break;
    }
    m->delimiter_len = strlen(m->delimiter);
    return m->delimiter_len > 4 || bad(e, "the boundary in Content-Type is empty");
}

/* The end of one header line's value; lines end in CR LF, which the caller has turned into zeros. */
static bool take_header(const char *line, char *name, bool *named, err *e)
{
    const char *colon = strchr(line, ':');
    if (!colon || colon == line || !is_token((unsigned char)colon[-1]))
        return bad(e, "a part's header line is malformed");
    size_t      n = (size_t)(colon - line);
    const char *value = skip_space(colon + 1);
    if (n == 19 && strncasecmp(line, "Content-Disposition", n) == 0) {
        if (*named) return bad(e, "a part has two Content-Disposition headers");
        if (!header_is(value, "form-data")) return bad(e, "a part's Content-Disposition is not form-data");
        if (header_param(value, "name", name, PART_NAME_BYTES) != PARAM_FOUND)
            return bad(e, "a part has no name, two names, or one longer than 127 bytes");
        *named = true;
    }
    if (n == 25 && strncasecmp(line, "Content-Transfer-Encoding", n) == 0 && !header_is(value, "binary") &&
        !header_is(value, "8bit") && !header_is(value, "7bit"))
        return bad(e, "a part's Content-Transfer-Encoding is not binary, 8bit or 7bit");
    return true;
}

/* header holds a part's header block, each line with its CR LF, the empty last one too. */
static bool begin_part(multipart *m, err *e)
{
    char  name[PART_NAME_BYTES];
    bool  named = false;
    char *line = m->header, *end = m->header + m->header_len - 2;
    *end = 0;
    if (memchr(m->header, 0, m->header_len - 2)) return bad(e, "a zero byte in a part's headers");
    while (line < end) {
        char *nl = strstr(line, "\r\n");
        *nl = 0;
        if (*line == ' ' || *line == '\t') return bad(e, "a part's header is folded");
        if (!take_header(line, name, &named, e)) return false;
        line = nl + 2;
    }
    if (!named) return bad(e, "a part has no Content-Disposition");
    if (++m->parts > PARTS_MAX) return bad(e, "more than 256 parts");
    return m->sink.begin(m->ctx, name, e);
}

static bool take_header_byte(multipart *m, char c, err *e)
{
    if (m->header_len == sizeof m->header) return bad(e, "a part's headers are longer than 4096 bytes");
    m->header[m->header_len++] = c;
    if (c != '\n') return true;
    size_t n = m->header_len;
    if (n < 2 || m->header[n - 2] != '\r') return bad(e, "a part's header line ends without CR");
    bool empty_line = n == 2 || (n >= 4 && m->header[n - 4] == '\r' && m->header[n - 3] == '\n');
    if (!empty_line) return true;
    m->state = DATA;
    m->matched = 0;
    return begin_part(m, e);
}

/* Scan data (or the preamble, which nobody is told of) for the delimiter; returns the bytes used up. */
static bool take_data(multipart *m, const char *p, size_t n, size_t *used, err *e)
{
    bool   tell = m->state == DATA;
    size_t start = 0, i = 0; /* p[start..i) is data not yet told */
    while (i < n) {
        if (m->matched == 0) {
            const char *cr = memchr(p + i, '\r', n - i);
            i = cr ? (size_t)(cr - p) : n;
            if (!cr) break;
        }
        size_t held = m->matched; /* how much of the delimiter was matched before this byte */
        if (p[i] == m->delimiter[held]) {
            if (held == 0) { /* tell what lies before the CR, then hold it back */
                if (tell && i > start && !m->sink.data(m->ctx, p + start, i - start, e)) return false;
            }
            i++;
            start = i;
            if (++m->matched < m->delimiter_len) continue;
            m->state = LINE;
            *used = i;
            return !tell || m->sink.end(m->ctx, e);
        }
        /* broken off: what was held back is data after all, and it is the delimiter's own first bytes */
        m->matched = 0;
        start = i;
        if (tell && !m->sink.data(m->ctx, m->delimiter, held, e)) return false;
    }
    *used = n;
    return !tell || n == start || m->sink.data(m->ctx, p + start, n - start, e);
}

/* Behind a delimiter: "--" closes, else spaces and CR LF. */
static bool take_line_byte(multipart *m, char c, err *e)
{
    switch (m->state) {
    case LINE:
        if (c == '-') m->state = LINE_DASH;
        else if (c == '\r') m->state = LINE_LF;
        else if (c != ' ' && c != '\t') return bad(e, "a boundary is followed by other text");
        return true;
    case LINE_DASH:
        if (c != '-') return bad(e, "a boundary is followed by a single dash");
        m->state = EPILOGUE;
        return true;
    default:
        if (c != '\n') return bad(e, "a boundary's line ends without LF");
        m->state = HEADERS;
        m->header_len = 0;
        return true;
    }
}

bool multipart_feed(multipart *m, const char *p, size_t n, err *e)
{
    while (n > 0) {
        size_t used = 1;
        bool   ok = true;
        switch (m->state) {
        case PREAMBLE:
        case DATA: ok = take_data(m, p, n, &used, e); break;
        case HEADERS: ok = take_header_byte(m, *p, e); break;
        case EPILOGUE: return true;
        default: ok = take_line_byte(m, *p, e); break;
        }
        if (!ok) return false;
        p += used;
        n -= used;
    }
    return true;
}

bool multipart_end(multipart *m, err *e)
{
    if (m->state == PREAMBLE) return bad(e, "the boundary of Content-Type does not occur in the body");
    return m->state == EPILOGUE || bad(e, "the body ends before its closing boundary");
}
