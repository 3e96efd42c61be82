/* test_api.c - the tables and what is written from them: routes, Accept, problem types, the OpenAPI document,
 * metrics. */
#include <glob.h>

#include "base/file.h"
#include "server/headers.h"
#include "server/routes.h"
#include "tests/server/serving.h"

static serving S;
static int start(void **state) { return (void)state, serving_defaults(&S), serving_start(&S), 0; }
static int stop(void **state) { return (void)state, serving_stop(&S), 0; }

static void paths_find_their_routes(void **state)
{
    (void)state;
    static const struct { const char *path; route_id r; int64_t id;
    } c[] = {{"/v1/diagnoses", ROUTE_DIAGNOSES, -1},
             {"/v1/passages/0", ROUTE_PASSAGE, 0},
             {"/v1/passages/123456789012345678/image", ROUTE_PASSAGE_IMAGE, 123456789012345678},
             {"/v1/passages/1234567890123456789", ROUTE_PASSAGE, -1},
             {"/v1/passages/ 1", ROUTE_PASSAGE, -1},
             {"/v1/passages/1e3", ROUTE_PASSAGE, -1},
             {"/v1/passages/", ROUTE_NONE, -1},
             {"/v1/passages", ROUTE_NONE, -1},
             {"/v1/passages/1/", ROUTE_NONE, -1},
             {"/v1/passages/1/image/x", ROUTE_NONE, -1},
             {"", ROUTE_NONE, -1},
             {"/", ROUTE_NONE, -1},
             {"/LIVEZ", ROUTE_NONE, -1},
             {"/livez", ROUTE_LIVEZ, -1}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int64_t  id;
        route_id r = route_find(c[i].path, &id);
        if (r != c[i].r || id != c[i].id) fail_msg("%s: route %d, id %lld", c[i].path, r, (long long)id);
    }
}

static void accept_is_weighed(void **state)
{
    (void)state;
    static const struct { const char *accept, *media; bool yes;
    } c[] = {{NULL, "application/json", true},
             {"", "application/json", true},
             {"*/*", "application/json", true},
             {"application/*", "application/json", true},
             {"APPLICATION/JSON", "application/json", true},
             {"text/html", "application/json", false},
             {"text/*", "application/json", false},
             {"application/jso", "application/json", false},
             {"application/json2", "application/json", false},
             {"application/json; q=0", "application/json", false},
             {"application/json;q=0.0", "application/json", false},
             {"*/*;q=0", "application/json", false},
             {"application/json;q=0, */*;q=1", "application/json", false},
             {"*/*;q=0, application/json", "application/json", true},
             {"text/html, application/json;q=0.001", "application/json", true},
             {"image/png", "image/png, image/jpeg", true},
             {"image/jpeg", "image/png, image/jpeg", true},
             {"image/webp", "image/png, image/jpeg", false},
             {"image/*;q=0.5, image/png;q=0", "image/png, image/jpeg", true},
             {"text/plain;version=0.0.4;q=0.5", "text/plain", true},
             {",,", "application/json", true},
             {"application/json;q=abc", "application/json", false},
             {";", "application/json", false}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        if (accept_admits(c[i].accept, c[i].media) != c[i].yes)
            fail_msg("%s for %s", c[i].accept ? c[i].accept : "none", c[i].media);
}

static void one_of_two_media_types_is_preferred(void **state)
{
    (void)state;
    static const struct { const char *accept; bool events;
    } c[] = {{NULL, false},
             {"", false},
             {"*/*", false},
             {"text/event-stream", true},
             {"TEXT/*", true},
             {"application/json, text/event-stream", false},
             {"text/event-stream, application/json;q=0.9", true},
             {"text/event-stream;q=0.9, application/json", false},
             {"text/event-stream;q=0, */*", false},
             {"text/event-stream, */*;q=0.1", true},
             {"application/json", false},
             {"text/html", false}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        if (accept_prefers(c[i].accept, "text/event-stream", "application/json") != c[i].events)
            fail_msg("%s", c[i].accept ? c[i].accept : "none");
}

static void trace_ids_are_taken_only_when_well_formed(void **state)
{
    (void)state;
    char id[33];
    assert_true(trace_id(id, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_string_equal(id, "4bf92f3577b34da6a3ce929d0e0e4736");
    static const char *const bad[] = {"",
                                      "00",
                                      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
                                      "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                                      "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                      "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                                      "00-4bf92f3577b34da6a3ce929d0e0e473-000f067aa0ba902b7-01",
                                      "00 4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 01"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(trace_id(id, bad[i]));
}

/* ---- problems ---- */

static void problems_are_json_whatever_their_text(void **state)
{
    (void)state;
    static const char *const said[] = {"plain", "quote \" and \\ back", "line\nbreak\ttab", "caf\xc3\xa9 \xff", ""};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        err      e = {.code = ERR_UNUSABLE, .problem = "image-undecodable", .field = "image"};
        response r = {0};
        snprintf(e.text, sizeof e.text, "%s", said[i]);
        respond_err(&r, &e, NULL, "the-id");
        json_t *o = json_loadb(r.small, r.bytes, 0, NULL);
        assert_non_null(o);
        assert_string_equal(json_string_value(json_object_get(o, "type")), "urn:jomed:problem:image-undecodable");
        assert_string_equal(json_string_value(json_object_get(o, "instance")), "the-id");
        assert_string_equal(json_string_value(json_object_get(o, "field")), "image");
        assert_int_equal(json_integer_value(json_object_get(o, "status")), 422);
        json_decref(o);
    }
    err      e = {.code = ERR_INPUT}; /* the longest of everything still closes its braces */
    response r = {0};
    char     name[FIELD_NAME_BYTES], id[REQUEST_ID_BYTES], raw[2048];
    memset(e.text, '"', sizeof e.text - 1);
    memset(name, '\\', sizeof name - 1), name[sizeof name - 1] = 0;
    memset(id, 'i', sizeof id - 1), id[sizeof id - 1] = 0;
    respond_err(&r, &e, name, id);
    json_t *o = json_loadb(r.small, r.bytes, 0, NULL);
    assert_non_null(o);
    json_decref(o);
    size_t n = response_raw(&r, id, raw, sizeof raw);
    assert_true(n < sizeof raw - 1 && raw[n - 1] == '}');
}

static void an_unlisted_slug_still_has_the_status_of_its_code(void **state)
{
    (void)state;
    err      e = {.code = ERR_UNUSABLE, .problem = "brand-new"};
    response r = {0};
    respond_err(&r, &e, NULL, "id");
    assert_int_equal(r.status, 422);
    assert_non_null(strstr(r.small, "urn:jomed:problem:brand-new"));
    e = (err){.code = ERR_USAGE};
    respond_err(&r, &e, NULL, "id");
    assert_int_equal(r.status, 500);
}

static bool is_listed(const char *slug, size_t n)
{
    int         status;
    const char *title, *s;
    for (int i = 0; (s = problem_at(i, &status, &title)) != NULL; i++)
        if (strlen(s) == n && memcmp(s, slug, n) == 0) return true;
    return false;
}

/* Every slug that any folder gives to err_at() is in the table: else its title and status would be guesses. */
static void every_slug_in_the_sources_is_in_the_table(void **state)
{
    (void)state;
    static const char *const folders[] = {"base/*.c",      "imaging/*.c", "index/index.c", "index/passages.c",
                                          "retriever/*.c", "reader/*.c",  "diagnose/*.c",  "server/*.c"};
    int                      found = 0;
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        glob_t g;
        if (glob(folders[f], 0, NULL, &g) != 0) fail_msg("no %s: run in the project's root", folders[f]);
        for (size_t i = 0; i < g.gl_pathc; i++) {
            char  *s;
            size_t n;
            err    e = {0};
            OK(file_read(&s, &n, g.gl_pathv[i], 1 << 22, &e), e);
            for (const char *p = s; (p = strstr(p, "err_at(")) != NULL; p++) {
                const char *code = strstr(p, "ERR_"), *q = code ? strchr(code, ',') : NULL;
                if (!q || q - p > 60 || strncmp(q + 1 + strspn(q + 1, " \n"), "\"", 1) != 0)
                    continue; /* NULL, or a variable */
                q = strchr(q, '"') + 1;
                size_t len = strcspn(q, "\"");
                if (!is_listed(q, len))
                    fail_msg("%s: problem type %.*s is not in respond.c", g.gl_pathv[i], (int)len, q);
                found++;
            }
            free(s);
        }
        globfree(&g);
    }
    assert_true(found > 40);
}

static void the_manual_explains_every_problem_route_and_field(void **state)
{
    (void)state;
    char       *doc;
    size_t      n;
    int         status;
    const char *title, *slug;
    err         e = {0};
    OK(file_read(&doc, &n, "docs/API.md", 1 << 20, &e), e);
    for (int i = 0; (slug = problem_at(i, &status, &title)) != NULL; i++) {
        char row[96];
        snprintf(row, sizeof row, "| `%s` | %d |", slug, status);
        if (!strstr(doc, row)) fail_msg("docs/API.md lacks the row %s", row);
    }
    for (int r = 0; r < N_ROUTES; r++)
        if (!strstr(doc, ROUTES[r].path)) fail_msg("docs/API.md lacks %s", ROUTES[r].path);
    for (int i = 0; i < N_DIAGNOSIS_FIELDS; i++) {
        char cell[64];
        snprintf(cell, sizeof cell, "| `%s` |", DIAGNOSIS_FIELDS[i].name);
        if (!strstr(doc, cell)) fail_msg("docs/API.md lacks the field %s", DIAGNOSIS_FIELDS[i].name);
    }
    free(doc);
}

/* ---- OpenAPI ---- */

static json_t *get_json(const char *path)
{
    char line[128];
    snprintf(line, sizeof line, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    reply r = ask(S.port, line);
    assert_int_equal(r.status, 200);
    json_t *o = json_loads(r.body, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(o);
    free(r.body);
    return o;
}

static const json_t *at(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!v) fail_msg("the document lacks %s", key);
    return v;
}

static void the_document_has_every_route_and_field_with_its_bounds(void **state)
{
    (void)state;
    json_t *doc = get_json("/openapi.json");
    assert_string_equal(json_string_value(at(doc, "openapi")), "3.1.0");
    assert_int_equal(json_object_size(at(doc, "paths")), N_ROUTES);
    for (int r = 0; r < N_ROUTES; r++) {
        const json_t *path = at(at(doc, "paths"), ROUTES[r].path), *op = at(path, ROUTES[r].post ? "post" : "get");
        at(at(at(op, "responses"), "200"), "content");
        if (!ROUTES[r].post) {
            at(path, "head");
            continue;
        }
        const json_t *content = at(at(op, "requestBody"), "content");
        const json_t *json = at(at(content, "application/json"), "schema"),
                     *form = at(at(content, "multipart/form-data"), "schema");
        assert_true(json_is_false(at(json, "additionalProperties")));
        for (int i = 0; i < *ROUTES[r].n_fields; i++) {
            const field  *f = &ROUTES[r].fields[i];
            const char   *dot = strchr(f->name, '.');
            const json_t *props = at(json, "properties");
            const json_t *schema = dot ? at(at(at(props, "exclude"), "properties"), dot + 1) : at(props, f->name);
            at(at(form, "properties"), f->name);
            if (f->type == FIELD_INT || f->type == FIELD_NUMBER)
                assert_int_equal(json_integer_value(at(schema, "minimum")), f->min);
            if (f->type == FIELD_TEXT) assert_int_equal(json_integer_value(at(schema, "maxLength")), f->max);
            if (f->type == FIELD_TEXTS) assert_int_equal(json_integer_value(at(schema, "maxItems")), f->max);
        }
    }
    /* the server's own maximum, not the table's */
    const json_t *props =
        at(at(at(at(at(at(at(at(doc, "paths"), "/v1/diagnoses"), "post"), "requestBody"), "content"),
                 "application/json"),
              "schema"),
           "properties");
    assert_int_equal(json_integer_value(at(at(props, "deadline_ms"), "maximum")), S.cfg.deadline_max_ms);
    /* what excludes what, and both forms of the answer */
    const json_t *post = at(at(at(doc, "paths"), "/v1/diagnoses"), "post");
    const json_t *not_both =
        at(at(at(at(at(at(post, "requestBody"), "content"), "application/json"), "schema"), "not"), "required");
    assert_string_equal(json_string_value(json_array_get(not_both, 0)), "answers");
    assert_string_equal(json_string_value(json_array_get(not_both, 1)), "labels");
    assert_non_null(strstr(json_string_value(at(at(props, "stream"), "description")), "open questions only"));
    at(at(at(at(post, "responses"), "200"), "content"), "text/event-stream");
    json_decref(doc);
}

static void every_example_is_accepted(void **state)
{
    (void)state;
    json_t *doc = get_json("/openapi.json");
    int     sent = 0;
    for (int r = 0; r < N_ROUTES; r++) {
        if (!ROUTES[r].post) continue;
        const json_t *op = at(at(at(doc, "paths"), ROUTES[r].path), "post");
        const char   *name;
        json_t       *ex;
        json_object_foreach((json_t *)at(at(at(at(op, "requestBody"), "content"), "application/json"), "examples"),
                            name, ex)
        {
            char *body = json_dumps(at(ex, "value"), 0);
            reply got = ask_text(S.port, post_json(ROUTES[r].path, "", body));
            if (got.status != 200) fail_msg("%s, %s: %d %s", ROUTES[r].path, name, got.status, got.body);
            free(body);
            free(got.body);
            sent++;
        }
    }
    assert_int_equal(sent, 4); /* three kinds of question, and a retrieval */
    json_decref(doc);
}

static void models_name_identities_and_limits(void **state)
{
    (void)state;
    json_t *o = get_json("/v1/models");
    assert_int_equal(json_integer_value(at(at(o, "limits"), "body_bytes")), S.cfg.body_bytes);
    assert_string_equal(json_string_value(at(at(o, "reader"), "sha256")), FAKE_HASH);
    assert_string_equal(json_string_value(at(o, "intended_use")), RESEARCH_USE);
    const json_t *adapter = json_array_get(at(o, "adapters"), 0);
    assert_string_equal(json_string_value(at(adapter, "name")), "retina");
    assert_string_equal(json_string_value(at(adapter, "sha256")), FAKE_HASH);
    assert_int_equal(json_integer_value(at(adapter, "rank")), 8);
    json_decref(o);
}

/* As JSON and as a form's field; the answer says which adapter it is from, a wrong name which there are. */
static void an_adapter_is_chosen_by_name(void **state)
{
    (void)state;
    static const struct { const char *field, *name; } chosen[] = {
        {"", NULL}, {",\"adapter\":\"none\"", NULL}, {",\"adapter\":\"retina\"", "retina"}};
    json_t *doc = get_json("/openapi.json");
    const json_t *body =
        at(at(at(at(at(at(doc, "paths"), "/v1/diagnoses"), "post"), "requestBody"), "content"), "application/json");
    const char   *png = json_string_value(at(at(at(at(body, "examples"), "closed"), "value"), "image"));
    char          sent[2048];
    for (int i = 0; i < 4; i++) {
        snprintf(sent, sizeof sent, "{\"image\":\"%s\",\"question\":\"q\",\"answers\":[\"a\",\"b\"]%s}", png,
                 i < 3 ? chosen[i].field : ",\"adapter\":\"CANARY\"");
        reply   r = ask_text(S.port, post_json("/v1/diagnoses", "", sent));
        json_t *o = json_loads(r.body, 0, NULL);
        assert_non_null(o);
        if (i < 3) {
            assert_int_equal(r.status, 200);
            const json_t *from = at(at(o, "provenance"), "adapter");
            if (chosen[i].name) assert_string_equal(json_string_value(at(from, "name")), chosen[i].name);
            else assert_true(json_is_null(from));
        } else {
            assert_int_equal(r.status, 422);
            assert_string_equal(json_string_value(at(o, "type")), "urn:jomed:problem:adapter-unknown");
            assert_string_equal(json_string_value(at(o, "field")), "adapter");
            assert_string_equal(json_string_value(at(o, "detail")), "adapter: this reader has retina");
        }
        json_decref(o);
        free(r.body);
    }
    json_decref(doc);
}

/* ---- metrics ---- */

static bool is_name(const char *s, size_t n)
{
    return n > 0 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789") == n
           && !(*s >= '0' && *s <= '9');
}

static void metrics_are_well_formed_and_bounded(void **state)
{
    (void)state;
    /* things that must not become labels */
    free(ask(S.port, "GET /CANARY-PATH HTTP/1.1\r\nHost: x\r\n\r\n").body);
    free(ask(S.port, "CANARYMETHOD /livez HTTP/1.1\r\nHost: x\r\n\r\n").body);
    free(ask(S.port, "GET /v1/passages/424242 HTTP/1.1\r\nHost: x\r\nX-Request-Id: CANARY-ID\r\n\r\n").body);
    reply r = ask(S.port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(r.status, 200);
    char type[64];
    assert_true(header_of(&r, "Content-Type", type, sizeof type));
    assert_string_equal(type, "text/plain; version=0.0.4; charset=utf-8");
    assert_null(strstr(r.body, "CANARY"));
    assert_null(strstr(r.body, "424242"));
    char declared[128] = "";
    int  lines = 0;
    for (char *s = r.body, *nl; (nl = strchr(s, '\n')) != NULL; s = nl + 1, lines++) {
        *nl = 0;
        if (strncmp(s, "# TYPE ", 7) == 0)
            snprintf(declared, sizeof declared, "%.*s", (int)strcspn(s + 7, " "), s + 7);
        if (*s == '#') continue;
        size_t n = strcspn(s, "{ ");
        char  *value = strrchr(s, ' '), *end;
        if (!is_name(s, n) || !value) fail_msg("metric line: %s", s);
        if (strncmp(s, declared, strlen(declared)) != 0) fail_msg("%s is not under its # TYPE", s);
        if (s[n] == '{' && value[-1] != '}') fail_msg("labels do not close: %s", s);
        strtod(value + 1, &end);
        if (end == value + 1 || *end) fail_msg("metric value: %s", s);
    }
    assert_true(lines > 200);
    free(r.body);
}

static void histograms_add_up(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) free(ask_text(S.port, sound_request("", "")).body);
    reply       r = ask(S.port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    double      last = -1, inf = -1, n = -2;
    const char *name = "jomed_http_request_duration_seconds_bucket{route=\"/v1/diagnoses\",le=\"", *s = r.body;
    for (; (s = strstr(s, name)) != NULL; s++) {
        double v = atof(strchr(s, ' '));
        assert_true(v >= last);
        last = v;
        if (strncmp(s + strlen(name), "+Inf", 4) == 0) inf = v;
    }
    s = strstr(r.body, "jomed_http_request_duration_seconds_count{route=\"/v1/diagnoses\"} ");
    assert_non_null(s);
    n = atof(strchr(s, ' '));
    assert_true(inf == n && n >= 3);
    free(r.body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_find_their_routes),
        cmocka_unit_test(accept_is_weighed),
        cmocka_unit_test(one_of_two_media_types_is_preferred),
        cmocka_unit_test(trace_ids_are_taken_only_when_well_formed),
        cmocka_unit_test(problems_are_json_whatever_their_text),
        cmocka_unit_test(an_unlisted_slug_still_has_the_status_of_its_code),
        cmocka_unit_test(every_slug_in_the_sources_is_in_the_table),
        cmocka_unit_test(the_manual_explains_every_problem_route_and_field),
        cmocka_unit_test(the_document_has_every_route_and_field_with_its_bounds),
        cmocka_unit_test(every_example_is_accepted),
        cmocka_unit_test(models_name_identities_and_limits),
        cmocka_unit_test(an_adapter_is_chosen_by_name),
        cmocka_unit_test(metrics_are_well_formed_and_bounded),
        cmocka_unit_test(histograms_add_up),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
