#include "server/headers.h"

#include <string.h>
#include <strings.h>

/* Names are tokens [RFC 9110 section 5.6.2]: this also catches "Content-Length : 5", whose name ends in a space. */
static bool is_token(const char *s)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return *s && s[strspn(s, token)] == 0;
}

static void read_length(headers *h, const char *v)
{
    size_t n = strlen(v);
    h->n_content_length++;
    if (n < 1 || n > 18 || strspn(v, "0123456789") != n) {
        h->malformed = true;
        return;
    }
    h->content_length = 0;
    for (; *v; v++) h->content_length = h->content_length * 10 + (*v - '0');
}

static void keep(headers *h, const char **where, const char *v)
{
    if (*where) h->repeated = true;
    *where = v;
}

static enum MHD_Result read_one(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
    headers    *h = cls;
    const char *v = value ? value : "";
    (void)kind;
    h->n++;
    if (!is_token(key)) h->malformed = true;
    if (strcasecmp(key, "Content-Length") == 0) read_length(h, v);
    else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        h->n_transfer_encoding++;
        h->chunked = strcasecmp(v, "chunked") == 0;
        if (!h->chunked) h->malformed = true;
    } else if (strcasecmp(key, "Host") == 0) h->n_host++;
    else if (strcasecmp(key, "Content-Type") == 0) keep(h, &h->content_type, v);
    else if (strcasecmp(key, "Content-Encoding") == 0) keep(h, &h->content_encoding, v);
    else if (strcasecmp(key, "Expect") == 0) keep(h, &h->expect, v);
    else if (strcasecmp(key, "Accept") == 0)
        h->accept = h->accept ? "*/*" : v; /* a list in two headers: not weighed */
    else if (strcasecmp(key, "X-Request-Id") == 0) h->request_id = v;
    else if (strcasecmp(key, "traceparent") == 0) h->traceparent = v;
    return MHD_YES;
}

void headers_read(headers *h, struct MHD_Connection *c)
{
    *h = (headers){.content_length = -1};
    MHD_get_connection_values(c, MHD_HEADER_KIND, read_one, h);
}

const char *headers_conflict(const headers *h, const char *version)
{
    if (h->n_content_length > 1) return "Content-Length was given more than once";
    if (h->n_transfer_encoding > 1) return "Transfer-Encoding was given more than once";
    if (h->n_content_length && h->n_transfer_encoding)
        return "Content-Length and Transfer-Encoding exclude each other";
    if (h->n_transfer_encoding && strcmp(version, "HTTP/1.1") != 0) return "Transfer-Encoding needs HTTP/1.1";
    if (h->n_host > 1) return "Host was given more than once";
    if (h->n_host == 0 && strcmp(version, "HTTP/1.1") == 0) return "Host is missing";
    if (h->malformed) return "a header's name, Content-Length or Transfer-Encoding is malformed";
    if (h->repeated) return "Content-Type, Content-Encoding or Expect was given more than once";
    return NULL;
}

bool request_id_is_sane(const char *s)
{
    size_t n = strlen(s);
    return n >= 1 && n <= 64 && strspn(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") == n;
}

bool trace_id(char out[33], const char *t)
{
    /* 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 [W3C Trace Context, section 3.2] */
    static const char hex[] = "0123456789abcdef";
    size_t            n = strlen(t);
    if (n < 55 || strspn(t, hex) != 2 || t[2] != '-' || strspn(t + 3, hex) != 32 || t[35] != '-'
        || strspn(t + 36, hex) != 16)
        return false;
    if (strspn(t + 3, "0") == 32 || memcmp(t, "ff", 2) == 0) return false;
    memcpy(out, t + 3, 32);
    out[32] = 0;
    return true;
}
