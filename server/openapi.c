/* openapi.c - the API as an OpenAPI 3.1 document, written from the tables that do the work: ROUTES and its fields
 * (request.c), and the problem types (respond.c). What is checked is what is documented, because it is the same
 * row. */
#include <stdlib.h>
#include <string.h>

#include "server/http.h"

/* A 1 x 1 grey PNG: the image of the examples, so that every one of them can be sent as it stands. */
static const char EXAMPLE_PNG[] =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==";

static const char EVENTS[] =
    "server-sent events: token, data {\"text\": what was emitted}, any number of times; then one answer, with the JSON "
    "object that the request gets without streaming, or one error, with the problem";

/* Put v under key; a NULL anywhere (out of memory) makes *ok false and the document NULL. */
static void put(json_t *o, const char *key, json_t *v, bool *ok)
{
    if (!v || json_object_set_new(o, key, v) != 0) *ok = false; /* takes v also when o is NULL */
}

static json_t *literal(const char *s) { return json_loads(s, JSON_DECODE_ANY, NULL); }

static json_t *choices(const char *list, bool *ok)
{
    json_t *a = json_array();
    for (const char *s = list; *s; s += *s == '|') {
        size_t n = strcspn(s, "|");
        if (!a || json_array_append_new(a, json_stringn(s, n)) != 0) *ok = false;
        s += n;
    }
    return a;
}

static json_t *text_schema(int64_t min, int64_t max)
{
    return json_pack("{s:s, s:I, s:I}", "type", "string", "minLength", (json_int_t)min, "maxLength", (json_int_t)max);
}

/* The schema of one field; multipart differs from JSON in the image alone. */
static json_t *field_schema(const field *f, const request_limits *l, bool multipart, bool *ok)
{
    int64_t max = strcmp(f->name, "deadline_ms") == 0 ? l->deadline_max_ms : f->max;
    json_t *o = NULL;
    switch (f->type) {
    case FIELD_IMAGE:
        o = multipart ? json_pack("{s:s}", "contentMediaType", "application/octet-stream")
                      : json_pack("{s:s, s:s, s:s}", "type", "string", "contentEncoding", "base64",
                                  "contentMediaType", "image/*");
        break;
    case FIELD_TEXT: o = text_schema(f->min, f->max); break;
    case FIELD_TEXTS:
        o = json_pack("{s:s, s:I, s:I, s:b, s:o}", "type", "array", "minItems", (json_int_t)f->min, "maxItems",
                      (json_int_t)f->max, "uniqueItems", 1, "items", text_schema(1, f->item_max));
        break;
    case FIELD_INT:
        o = json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", (json_int_t)f->min, "maximum",
                      (json_int_t)max);
        break;
    case FIELD_NUMBER:
        o = json_pack("{s:s, s:I, s:I}", "type", "number", "minimum", (json_int_t)f->min, "maximum",
                      (json_int_t)max);
        break;
    case FIELD_BOOL: o = json_pack("{s:s}", "type", "boolean"); break;
    case FIELD_CHOICE: o = json_pack("{s:s, s:o}", "type", "string", "enum", choices(f->choices, ok)); break;
    }
    bool open_only = f->tasks == 1u << TASK_OPEN;
    put(o, "description", open_only ? json_sprintf("%s (open questions only)", f->help) : json_string(f->help), ok);
    if (f->def) put(o, "default", literal(f->def), ok);
    else if (strcmp(f->name, "deadline_ms") == 0) put(o, "default", json_integer(l->deadline_ms), ok);
    if (f->type == FIELD_TEXT || f->type == FIELD_TEXTS)
        put(o, "$comment", json_string("lengths count bytes of UTF-8"), ok);
    return o;
}

static json_t *object_schema(json_t *properties, json_t *required)
{
    return json_pack("{s:s, s:b, s:o, s:o}", "type", "object", "additionalProperties", 0, "properties", properties,
                     "required", required);
}

/* Kinds of question that a route takes. */
static int tasks_of(const route *r)
{
    unsigned seen = 0;
    for (int i = 0; i < *r->n_fields; i++) seen |= r->fields[i].tasks;
    return seen ? __builtin_popcount(seen) : 1;
}

static json_t *body_schema(const route *r, const request_limits *l, bool multipart, bool *ok)
{
    json_t *props = json_object(), *required = json_array(), *inner = json_object();
    for (int i = 0; i < *r->n_fields; i++) {
        const field *f = &r->fields[i];
        const char  *dot = strchr(f->name, '.');
        if (f->required && json_array_append_new(required, json_string(f->name)) != 0) *ok = false;
        if (dot && !multipart) put(inner, dot + 1, field_schema(f, l, multipart, ok), ok);
        else put(props, f->name, field_schema(f, l, multipart, ok), ok);
    }
    if (json_object_size(inner) > 0) put(props, "exclude", object_schema(json_incref(inner), json_array()), ok);
    json_decref(inner);
    json_t *schema = object_schema(props, required);
    if (tasks_of(r) > 1) put(schema, "not", json_pack("{s:[s,s]}", "required", "answers", "labels"), ok);
    return schema;
}

/* A whole JSON request of one kind of question, with every field that it takes and that has an example. */
static json_t *example(const route *r, task_kind kind, bool *ok)
{
    json_t *o = json_object(), *inner = json_object();
    for (int i = 0; i < *r->n_fields; i++) {
        const field *f = &r->fields[i];
        if (f->tasks && !(f->tasks & 1u << kind)) continue;
        const char *dot = strchr(f->name, '.');
        json_t     *v = f->type == FIELD_IMAGE ? json_string(EXAMPLE_PNG) : f->example ? literal(f->example) : NULL;
        put(dot ? inner : o, dot ? dot + 1 : f->name, v, ok);
    }
    put(o, "exclude", inner, ok);
    return o;
}

static json_t *examples(const route *r, bool *ok)
{
    static const struct { const char *name, *summary; task_kind kind;
    } of[] = {{"closed", "one of a set of answers", TASK_CLOSED},
              {"open", "an answer in words", TASK_OPEN},
              {"labels", "which labels are present", TASK_LABELS}};
    json_t *all = json_object();
    if (tasks_of(r) == 1) put(all, "image", json_pack("{s:o}", "value", example(r, TASK_CLOSED, ok)), ok);
    else
        for (size_t i = 0; i < sizeof of / sizeof *of; i++)
            put(all, of[i].name,
                json_pack("{s:s, s:o}", "summary", of[i].summary, "value", example(r, of[i].kind, ok)), ok);
    return all;
}

static json_t *request_body(const route *r, const request_limits *l, bool *ok)
{
    return json_pack("{s:b, s:{s:{s:o, s:o}, s:{s:o}}}", "required", 1, "content",
                     "application/json", "schema", body_schema(r, l, false, ok), "examples", examples(r, ok),
                     "multipart/form-data", "schema", body_schema(r, l, true, ok));
}

static json_t *success(const route *r, bool *ok)
{
    json_t *content = json_object();
    for (const char *s = r->media; *s; s += strspn(s, ", ")) {
        char   media[64];
        size_t n = strcspn(s, ",");
        memcpy(media, s, n);
        media[n] = 0;
        bool events = strcmp(media, "text/event-stream") == 0;
        put(content, media,
            events ? json_pack("{s:{s:s, s:s}}", "schema", "type", "string", "description", EVENTS)
                   : json_pack("{s:{}}", "schema"),
            ok);
        s += n;
    }
    return json_pack("{s:s, s:o}", "description", "done", "content", content);
}

static json_t *operation(route_id id, const char *method, const request_limits *l, bool *ok)
{
    const route *r = &ROUTES[id];
    json_t *o =
        json_pack("{s:s, s:o}", "summary", r->summary, "operationId", json_sprintf("%s %s", method, r->path));
    json_t      *params = json_array();
    if (strstr(r->path, "{id}")
        && json_array_append_new(params, json_pack("{s:s, s:s, s:b, s:{s:s, s:i}}", "name", "id", "in", "path",
                                                   "required", 1, "schema", "type", "integer", "minimum", 0))
               != 0)
        *ok = false;
    if (id == ROUTE_READYZ
        && json_array_append_new(params, json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", "verbose", "in", "query",
                                                   "allowEmptyValue", 1, "schema", "type", "string"))
               != 0)
        *ok = false;
    put(o, "parameters", params, ok);
    if (r->post) put(o, "requestBody", request_body(r, l, ok), ok);
    put(o, "responses",
        json_pack("{s:o, s:{s:s}}", "200", success(r, ok), "default", "$ref", "#/components/responses/Problem"),
        ok);
    return o;
}

static json_t *problem_types(bool *ok)
{
    json_t     *list = json_array();
    int         status;
    const char *title, *slug;
    for (int i = 0; (slug = problem_at(i, &status, &title)) != NULL; i++)
        if (!list || json_array_append_new(list, json_sprintf("%s%s", PROBLEM_PREFIX, slug)) != 0) *ok = false;
    return list;
}

static json_t *components(bool *ok)
{
    json_t *problem =
        json_pack("{s:s, s:[s,s,s], s:{s:{s:s, s:o}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s, s:s}, s:{s:s, s:s}}}",
                  "type", "object", "required", "type", "title", "status", "properties", "type", "type", "string",
                  "enum", problem_types(ok), "title", "type", "string", "status", "type", "integer", "detail",
                  "type", "string", "field", "type", "string", "description", "the request's field at fault",
                  "instance", "type", "string", "description", "the request's id, as in X-Request-Id");
    return json_pack("{s:{s:{s:s, s:{s:{s:{s:s}}}}}, s:{s:o}}", "responses", "Problem", "description", "RFC 9457",
                     "content", "application/problem+json", "schema", "$ref", "#/components/schemas/Problem",
                     "schemas", "Problem", problem);
}

char *openapi_document(const request_limits *l)
{
    bool    ok = true;
    json_t *paths = json_object();
    for (int r = 0; r < N_ROUTES; r++) {
        json_t *o = json_object();
        put(o, ROUTES[r].post ? "post" : "get", operation((route_id)r, ROUTES[r].post ? "post" : "get", l, &ok), &ok);
        if (!ROUTES[r].post) put(o, "head", operation((route_id)r, "head", l, &ok), &ok);
        put(paths, ROUTES[r].path, o, &ok);
    }
    json_t *doc =
        json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:o}", "openapi", "3.1.0", "info", "title", "jomed", "version",
                  JOMED_VERSION, "description", RESEARCH_USE, "paths", paths, "components", components(&ok));
    char *s = ok && doc ? json_dumps(doc, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    json_decref(doc);
    return s;
}
