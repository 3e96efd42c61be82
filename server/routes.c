#include "server/routes.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const route ROUTES[N_ROUTES] = {
    [ROUTE_DIAGNOSES] = {"/v1/diagnoses", true, false, "application/json, text/event-stream", DIAGNOSIS_FIELDS,
                         &N_DIAGNOSIS_FIELDS, "Answer a question about an image, with the retrieved evidence"},
    [ROUTE_RETRIEVALS] = {"/v1/retrievals", true, false, "application/json", RETRIEVAL_FIELDS, &N_RETRIEVAL_FIELDS,
                          "Retrieve candidates for an image, without reading them"},
    [ROUTE_PASSAGE] = {"/v1/passages/{id}", false, false, "application/json", NULL, NULL,
                       "One passage of the index"},
    [ROUTE_PASSAGE_IMAGE] = {"/v1/passages/{id}/image", false, false, "image/png, image/jpeg", NULL, NULL,
                             "Its image, as stored"},
    [ROUTE_MODELS] = {"/v1/models", false, false, "application/json", NULL, NULL,
                      "Models and index: names, hashes, sizes, limits"},
    [ROUTE_LIVEZ] = {"/livez", false, true, "application/json", NULL, NULL, "Is the process alive?"},
    [ROUTE_READYZ] = {"/readyz", false, true, "application/json", NULL, NULL,
                      "Should it be sent work? ?verbose names the checks"},
    [ROUTE_METRICS] = {"/metrics", false, true, "text/plain", NULL, NULL, "Prometheus metrics, text format 0.0.4"},
    [ROUTE_OPENAPI] = {"/openapi.json", false, true, "application/json", NULL, NULL,
                       "This API as an OpenAPI 3.1 document"},
};

const char *route_label(route_id r) { return r < N_ROUTES ? ROUTES[r].path : "other"; }

/* 1 to 18 digits: fits int64_t, and no two spellings of one number. */
static int64_t number(const char *s, size_t n)
{
    int64_t v = 0;
    if (n < 1 || n > 18 || (n > 1 && *s == '0')) return -1;
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)s[i])) return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v;
}

route_id route_find(const char *path, int64_t *id)
{
    *id = -1;
    for (int r = 0; r < N_ROUTES; r++) {
        const char *hole = strstr(ROUTES[r].path, "{id}");
        if (!hole) {
            if (strcmp(path, ROUTES[r].path) == 0) return (route_id)r;
            continue;
        }
        size_t before = (size_t)(hole - ROUTES[r].path);
        if (strncmp(path, ROUTES[r].path, before) != 0) continue;
        const char *s = path + before;
        size_t      n = strcspn(s, "/");
        if (n == 0 || strcmp(s + n, hole + 4) != 0) continue;
        *id = number(s, n);
        return (route_id)r;
    }
    return ROUTE_NONE;
}

/* How well range [0,n) fits type: 0 not at all, 1 by "any type", 2 by "type/any", 3 exactly. */
static int specificity(const char *range, size_t n, const char *type, size_t type_len)
{
    const char *slash = memchr(type, '/', type_len);
    size_t      major = (size_t)(slash - type) + 1;
    if (n == 3 && memcmp(range, "*/*", 3) == 0) return 1;
    if (n == major + 1 && range[n - 1] == '*' && strncasecmp(range, type, major) == 0) return 2;
    return n == type_len && strncasecmp(range, type, n) == 0 ? 3 : 0;
}

/* The weight of the most specific range that fits; 0: refused or not mentioned. */
static double weight_of(const char *accept, const char *type, size_t type_len)
{
    int    best = 0;
    double q = 0;
    for (const char *s = accept; *s; s += strcspn(s, ","), s += *s == ',') {
        s += strspn(s, " \t");
        size_t n = strcspn(s, " \t;,");
        int    fit = specificity(s, n, type, type_len);
        if (fit <= best) continue;
        best = fit;
        q = 1;
        const char *end = s + strcspn(s, ",");
        for (const char *p = s; (p = memchr(p, ';', (size_t)(end - p))) != NULL;) {
            p++;
            p += strspn(p, " \t");
            if (strncasecmp(p, "q=", 2) == 0) q = strtod(p + 2, NULL);
        }
    }
    return q;
}

bool accept_admits(const char *accept, const char *media)
{
    if (!accept || !accept[strspn(accept, " \t,")]) return true;
    for (const char *m = media; *m; m += strspn(m, ", ")) {
        size_t n = strcspn(m, ",");
        if (weight_of(accept, m, n) > 0) return true;
        m += n;
    }
    return false;
}

bool accept_prefers(const char *accept, const char *media, const char *other)
{
    return accept && weight_of(accept, media, strlen(media)) > weight_of(accept, other, strlen(other));
}
