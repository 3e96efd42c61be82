/* test_request.c - bodies to requests: every refusal by status, problem type and field, in JSON and in multipart. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "server/request.h"
#include "tests/check.h"

static body_budget    BUDGET = {.limit = 1 << 26};
static request_limits LIMITS = {
    .body_bytes = 1 << 22, .deadline_ms = 1000, .deadline_max_ms = 5000, .budget = &BUDGET};
static char          *IMAGE;
static size_t         IMAGE_N;
static char          *IMAGE64;

static int setup(void **state)
{
    err e = {0};
    (void)state;
    LIMITS.image = IMAGE_LIMITS;
    OK(file_read(&IMAGE, &IMAGE_N, DEMO("synthetic/breast/test/0000.png"), 1 << 20, &e), e);
    IMAGE64 = malloc(base64_encoded_bytes(IMAGE_N));
    base64_encode(IMAGE64, (uint8_t *)IMAGE, IMAGE_N);
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    free(IMAGE);
    free(IMAGE64);
    return atomic_load(&BUDGET.used) == 0 ? 0 : -1; /* all that was counted was counted off */
}

/* The status and name of the problem that e would become. */
static int status_of(const err *e, const char **slug, char at[64], const request *r)
{
    static response out;
    out = (response){0};
    respond_err(&out, e, r ? request_unknown_field(r) : NULL, "id");
    *slug = out.problem;
    const char *f = strstr(out.small, "\"field\":\"");
    snprintf(at, 64, "%.*s", f ? (int)strcspn(f + 9, "\"") : 0, f ? f + 9 : "");
    return out.status;
}

static bool read_body(request **r, bool diagnosis, const char *type, const char *body, size_t n, err *e)
{
    const field *f = diagnosis ? DIAGNOSIS_FIELDS : RETRIEVAL_FIELDS;
    *r = NULL;
    return request_new(r, f, diagnosis ? N_DIAGNOSIS_FIELDS : N_RETRIEVAL_FIELDS, type, &LIMITS, e)
           && request_feed(*r, body, n / 2, e) && request_feed(*r, body + n / 2, n - n / 2, e)
           && request_finish(*r, diagnosis, 100, e);
}

static void expect(const char *type, const char *body, size_t n, int status, const char *slug, const char *name,
                   const char *what)
{
    request    *r;
    err         e = {0};
    const char *got = "none";
    char        field_name[64] = "";
    bool        ok = read_body(&r, true, type, body, n, &e);
    int         s = ok ? 200 : status_of(&e, &got, field_name, r);
    if (s != status || (!ok && (strcmp(got, slug) != 0 || strcmp(field_name, name) != 0)))
        fail_msg("%s: got %d %s field '%s' (%s), wanted %d %s field '%s'", what, s, got, field_name, e.text, status,
                 slug, name);
    request_free(r);
}

/* In the bodies below @ stands for the picture and, in JSON, ' for ". */
static text expand(const char *s, bool json)
{
    text t = {0};
    for (; *s; s++) {
        if (*s == '@') text_addn(&t, json ? IMAGE64 : IMAGE, json ? strlen(IMAGE64) : IMAGE_N);
        else if (json && *s == '\'') text_add(&t, "\"");
        else text_addn(&t, s, 1);
    }
    assert_false(t.failed);
    return t;
}

#define OPEN "'image':'@','question':'q'"
#define REST OPEN ",'answers':['Yes','No']"
static void json_bodies(void **state)
{
    (void)state;
    static const struct { const char *body; int status; const char *slug, *at;
    } c[] = {
        {"{" REST "}", 200, "", ""},
        {"{" REST ",'k':1,'mode':'reference','exclude':{'study':'s','patient':'p','self':true},'deadline_ms':5000}",
         200, "", ""},
        {" \n{" REST ",'exclude':{}} ", 200, "", ""},
        {"{" REST ",'k':50}", 200, "", ""},
        /* the three kinds of question, and what belongs to one of them */
        {"{" OPEN "}", 200, "", ""},
        {"{" OPEN ",'labels':['a']}", 200, "", ""},
        {"{" OPEN ",'labels':['a','b'],'mode':'reference'}", 200, "", ""},
        {"{" OPEN ",'max_new_tokens':512,'beams':8,'repetition_penalty':1.5,'stream':true}", 200, "", ""},
        {"{" OPEN ",'max_new_tokens':1,'beams':1,'repetition_penalty':1,'stream':false}", 200, "", ""},
        {"{" OPEN ",'repetition_penalty':10}", 200, "", ""},
        {"{" REST ",'stream':false}", 200, "", ""},
        {"{" REST ",'labels':['a']}", 422, "field-conflict", "labels"},
        {"{" OPEN ",'labels':[],'answers':['Yes','No']}", 422, "field-conflict", "labels"},
        {"{" REST ",'max_new_tokens':5}", 422, "field-conflict", "max_new_tokens"},
        {"{" REST ",'beams':2}", 422, "field-conflict", "beams"},
        {"{" REST ",'repetition_penalty':1.5}", 422, "field-conflict", "repetition_penalty"},
        {"{" REST ",'stream':true}", 422, "field-conflict", "stream"},
        {"{" OPEN ",'labels':['a'],'beams':1}", 422, "field-conflict", "beams"},
        {"{" OPEN ",'labels':['a'],'stream':true}", 422, "field-conflict", "stream"},
        {"{" OPEN ",'labels':[]}", 422, "labels-too-few", "labels"},
        {"{" OPEN ",'labels':['a',' ']}", 422, "label-empty", "labels"},
        {"{" OPEN ",'labels':['a','b','a']}", 422, "label-duplicate", "labels"},
        {"{" OPEN ",'labels':'a'}", 400, "field-type", "labels"},
        {"{" OPEN ",'labels':['a',1]}", 400, "field-type", "labels"},
        {"{" OPEN ",'labels':['a'],'labels':['b']}", 400, "field-duplicate", "labels"},
        {"{" OPEN ",'max_new_tokens':0}", 422, "field-out-of-range", "max_new_tokens"},
        {"{" OPEN ",'max_new_tokens':513}", 422, "field-out-of-range", "max_new_tokens"},
        {"{" OPEN ",'max_new_tokens':5.0}", 400, "field-type", "max_new_tokens"},
        {"{" OPEN ",'beams':0}", 422, "field-out-of-range", "beams"},
        {"{" OPEN ",'beams':9}", 422, "field-out-of-range", "beams"},
        {"{" OPEN ",'repetition_penalty':0.999}", 422, "field-out-of-range", "repetition_penalty"},
        {"{" OPEN ",'repetition_penalty':10.01}", 422, "field-out-of-range", "repetition_penalty"},
        {"{" OPEN ",'repetition_penalty':'1'}", 400, "field-type", "repetition_penalty"},
        {"{" OPEN ",'repetition_penalty':true}", 400, "field-type", "repetition_penalty"},
        {"{" OPEN ",'repetition_penalty':1e400}", 400, "json-malformed", ""},
        {"{" OPEN ",'stream':1}", 400, "field-type", "stream"},
        /* not JSON, or not an object */
        {"", 400, "json-malformed", ""},
        {"{", 400, "json-malformed", ""},
        {"{'image':'@'", 400, "json-malformed", ""},
        {"{" REST "} x", 400, "json-malformed", ""},
        {"[]", 400, "json-malformed", ""},
        {"'text'", 400, "json-malformed", ""},
        {"{" REST ",}", 400, "json-malformed", ""},
        {"{" REST ",'k':01}", 400, "json-malformed", ""},
        {"{" REST ",'k':NaN}", 400, "json-malformed", ""},
        {"{'question':'\xff'}", 400, "json-malformed", ""},
        {"{'question':'\xed\xa0\x80'}", 400, "json-malformed", ""},
        {"{'question':'\\u0000'}", 400, "json-malformed", ""},
        {"{'question':'\\ud800'}", 400, "json-malformed", ""},
        /* fields */
        {"{}", 400, "field-missing", "image"},
        {"{'image':'@'}", 400, "field-missing", "question"},
        {"{'question':'q','answers':['Yes','No']}", 400, "field-missing", "image"},
        {"{" REST ",'K':3}", 400, "field-unknown", "K"},
        {"{" REST ",'urgency':1}", 400, "field-unknown", "urgency"},
        {"{" REST ",'odd name \\u0041':1}", 400, "field-unknown", ""}, /* not plain: not sent back */
        {"{" REST ",'exclude.study':'s'}", 400, "field-unknown", "exclude.study"},
        {"{" REST ",'exclude':{'series':'s'}}", 400, "field-unknown", "exclude.series"},
        {"{" REST ",'k':1,'k':1}", 400, "field-duplicate", "k"},
        {"{" REST ",'question':'q'}", 400, "field-duplicate", "question"},
        {"{" REST ",'exclude':{'study':'s','study':'s'}}", 400, "field-duplicate", "exclude.study"},
        {"{" REST ",'other':1,'other':2}", 400, "field-duplicate", ""},
        {"{'image':5,'question':'q','answers':['Yes','No']}", 400, "field-type", "image"},
        {"{'image':null,'question':'q','answers':['Yes','No']}", 400, "field-type", "image"},
        {"{'image':'@','question':['q'],'answers':['Yes','No']}", 400, "field-type", "question"},
        {"{'image':'@','question':'q','answers':'Yes,No'}", 400, "field-type", "answers"},
        {"{'image':'@','question':'q','answers':['Yes',0]}", 400, "field-type", "answers"},
        {"{" REST ",'k':'2'}", 400, "field-type", "k"},
        {"{" REST ",'k':2.0}", 400, "field-type", "k"},
        {"{" REST ",'k':true}", 400, "field-type", "k"},
        {"{" REST ",'mode':1}", 400, "field-type", "mode"},
        {"{" REST ",'adapter':1}", 400, "field-type", "adapter"},
        {"{" REST ",'adapter':'retina-v2.1'}", 200, "", ""},
        {"{" REST ",'adapter':''}", 422, "field-out-of-range", "adapter"},
        {"{" REST ",'adapter':'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}", 422,
         "field-out-of-range", "adapter"},
        {"{" REST ",'exclude':'s'}", 400, "field-type", "exclude"},
        {"{" REST ",'exclude':{'self':1}}", 400, "field-type", "exclude.self"},
        {"{" REST ",'deadline_ms':'1'}", 400, "field-type", "deadline_ms"},
        /* base64 */
        {"{'image':'','question':'q','answers':['Yes','No']}", 400, "field-missing", "image"},
        {"{'image':'@=','question':'q','answers':['Yes','No']}", 400, "base64-malformed", "image"},
        {"{'image':'AAA','question':'q','answers':['Yes','No']}", 400, "base64-malformed", "image"},
        {"{'image':'AA\\nAA','question':'q','answers':['Yes','No']}", 400, "base64-malformed", "image"},
        {"{'image':'data:image/png;base64,AAAA','question':'q','answers':['Yes','No']}", 400, "base64-malformed",
         "image"},
        /* bounds */
        {"{" REST ",'k':0}", 422, "k-out-of-range", "k"},
        {"{" REST ",'k':51}", 422, "k-out-of-range", "k"},
        {"{" REST ",'k':-1}", 422, "k-out-of-range", "k"},
        {"{" REST ",'k':4294967298}", 422, "k-out-of-range", "k"}, /* 2 in 32 bits */
        {"{" REST ",'k':99999999999999999999}", 400, "json-malformed", ""},
        {"{" REST ",'mode':'Paper'}", 422, "field-out-of-range", "mode"},
        {"{" REST ",'deadline_ms':0}", 422, "field-out-of-range", "deadline_ms"},
        {"{" REST ",'deadline_ms':5001}", 422, "field-out-of-range", "deadline_ms"},
        {"{" REST ",'exclude':{'study':''}}", 422, "field-out-of-range", "exclude.study"},
        {"{'image':'@','question':'','answers':['Yes','No']}", 400, "field-missing", "question"},
        {"{'image':'@','question':' \\t','answers':['Yes','No']}", 400, "field-missing", "question"},
        {"{'image':'@','question':'q','answers':[]}", 422, "answers-too-few", "answers"},
        {"{'image':'@','question':'q','answers':['Yes']}", 422, "answers-too-few", "answers"},
        {"{'image':'@','question':'q','answers':['Yes','']}", 422, "answer-empty", "answers"},
        {"{'image':'@','question':'q','answers':['Yes',' ']}", 422, "answer-empty", "answers"},
        {"{'image':'@','question':'q','answers':['Yes','No','Yes']}", 422, "answer-duplicate", "answers"},
        /* images */
        {"{'image':'SGVsbG8sIHdvcmxkIQ==','question':'q','answers':['Yes','No']}", 415, "image-unsupported",
         "image"},
        {"{'image':'iVBORw0KGgo=','question':'q','answers':['Yes','No']}", 422, "image-undecodable", "image"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        text t = expand(c[i].body, true);
        expect("application/json", t.s ? t.s : "", t.len, c[i].status, c[i].slug, c[i].at, c[i].body);
        text_free(&t);
    }
}

static void depth_bombs(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        text t = {0};
        text_add(&t, "{\"image\":");
        for (int i = 0; i < 100000; i++) text_add(&t, kind ? "{\"a\":" : "[");
        expect("application/json", t.s, t.len, 400, "json-too-deep", "", "depth bomb");
        text_free(&t);
    }
}

/* A JSON body whose answers or question are made of n times a letter. */
static void lengths(void **state)
{
    (void)state;
    static const struct { const char *format; int n, status; const char *slug, *at;
    } c[] = {
        {"{'image':'@','question':'%s','answers':['Yes','No']}", MAX_QUESTION_BYTES, 200, "", ""},
        {"{'image':'@','question':'%s','answers':['Yes','No']}", MAX_QUESTION_BYTES + 1, 422, "question-too-long",
         "question"},
        {"{'image':'@','question':'q','answers':['%s','No']}", MAX_ANSWER_BYTES, 200, "", ""},
        {"{'image':'@','question':'q','answers':['%s','No']}", MAX_ANSWER_BYTES + 1, 422, "answer-too-long",
         "answers"},
        {"{'image':'@','question':'q','answers':['%s','No']}", 10000, 422, "answer-too-long", "answers"},
        {"{" OPEN ",'labels':['%s']}", MAX_LABEL_BYTES, 200, "", ""},
        {"{" OPEN ",'labels':['%s']}", MAX_LABEL_BYTES + 1, 422, "label-too-long", "labels"},
        {"{" REST ",'exclude':{'patient':'%s'}}", MAX_KEY_BYTES, 200, "", ""},
        {"{" REST ",'exclude':{'patient':'%s'}}", MAX_KEY_BYTES + 1, 422, "field-out-of-range", "exclude.patient"},
        {"{" REST ",'%s':1}", 65, 400, "field-unknown", ""},
        {"{" REST ",'%s':1}", 64, 400, "field-unknown",
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *letters = malloc((size_t)c[i].n + 1);
        memset(letters, 'a', (size_t)c[i].n);
        letters[c[i].n] = 0;
        text t = {0};
        text_printf(&t, c[i].format, letters);
        text body = expand(t.s, true);
        char want[80];
        snprintf(want, sizeof want, "%s%s", c[i].at, c[i].n == 64 ? "a" : "");
        want[63] = 0;
        expect("application/json", body.s, body.len, c[i].status, c[i].slug, want, c[i].format);
        text_free(&t);
        text_free(&body);
        free(letters);
    }
}

static void as_many_answers_as_the_limit_and_one_more(void **state)
{
    (void)state;
    for (int n = MAX_ANSWERS; n <= MAX_ANSWERS + 1; n++)
        for (int multipart = 0; multipart < 2; multipart++) {
            text t = {0}, body;
            text_add(&t, multipart ? "" : "{'image':'@','question':'q','answers':[");
            for (int i = 0; i < n; i++)
                text_printf(&t,
                            multipart ? "--b\r\nContent-Disposition: form-data; name=answers\r\n\r\n%s%d\r\n"
                                      : "%s'%d'",
                            i && !multipart ? "," : "", i);
            text_add(&t, multipart
                             ? "--b\r\nContent-Disposition: form-data; name=question\r\n\r\nq\r\n"
                               "--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n@\r\n--b--"
                             : "]}");
            body = expand(t.s, !multipart);
            expect(multipart ? "multipart/form-data; boundary=b" : "application/json", body.s, body.len,
                   n > MAX_ANSWERS ? 422 : 200, "answers-too-many", "answers", "count");
            text_free(&t);
            text_free(&body);
        }
}

#define P(name) "--b\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n"
#define IMG "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x.png\"\r\nContent-Type: image/png\r\n\r\n@\r\n"
#define Q P("question") "q\r\n"
#define A P("answers") "Yes\r\n" P("answers") "No\r\n"
#define L P("labels") "a\r\n" P("labels") "b\r\n"
static void multipart_bodies(void **state)
{
    (void)state;
    static const struct { const char *body; int status; const char *slug, *at;
    } c[] = {
        {IMG Q A "--b--\r\n", 200, "", ""},
        {A Q IMG "--b--", 200, "", ""},
        {IMG Q P("answers") "[\"Yes\", \"No\"]\r\n--b--", 200, "", ""},
        {IMG Q A P("answers") "[one]\r\n--b--", 200, "", ""}, /* an answer may begin with [ behind the first */
        {IMG Q A P("k") "50\r\n" P("mode") "reference\r\n" P("exclude.study") "s\r\n" P(
             "exclude.patient") "p\r\n" P("exclude.self") "true\r\n" P("deadline_ms") "1\r\n--b--",
         200, "", ""},
        {IMG Q "--b--", 200, "", ""},
        {IMG Q L "--b--", 200, "", ""},
        {IMG Q P("labels") "[\"a\", \"b\"]\r\n--b--", 200, "", ""},
        {IMG Q P("max_new_tokens") "512\r\n" P("beams") "8\r\n" P("repetition_penalty") "1.25e0\r\n" P(
             "stream") "true\r\n--b--",
         200, "", ""},
        {IMG Q A P("stream") "false\r\n--b--", 200, "", ""},
        {IMG Q A P("stream") "true\r\n--b--", 422, "field-conflict", "stream"},
        {IMG Q A L "--b--", 422, "field-conflict", "labels"},
        {IMG Q L P("beams") "2\r\n--b--", 422, "field-conflict", "beams"},
        {IMG Q P("labels") "\r\n--b--", 422, "label-empty", "labels"},
        {IMG Q L P("labels") "a\r\n--b--", 422, "label-duplicate", "labels"},
        {IMG Q P("labels") "[]\r\n--b--", 422, "labels-too-few", "labels"},
        {IMG Q P("repetition_penalty") "11\r\n--b--", 422, "field-out-of-range", "repetition_penalty"},
        {IMG Q P("repetition_penalty") "1e999\r\n--b--", 422, "field-out-of-range", "repetition_penalty"},
        {IMG Q P("repetition_penalty") "nan\r\n--b--", 400, "field-type", "repetition_penalty"},
        {IMG Q P("repetition_penalty") "0x2\r\n--b--", 400, "field-type", "repetition_penalty"},
        {IMG Q P("repetition_penalty") "1,5\r\n--b--", 400, "field-type", "repetition_penalty"},
        {IMG Q P("repetition_penalty") " 1.5\r\n--b--", 400, "field-type", "repetition_penalty"},
        {IMG Q P("repetition_penalty") "\r\n--b--", 400, "field-type", "repetition_penalty"},
        {"--b--", 400, "field-missing", "image"},
        {IMG "--b--", 400, "field-missing", "question"},
        {Q A "--b--", 400, "field-missing", "image"},
        {IMG Q P("answers") "Yes\r\n--b--", 422, "answers-too-few", "answers"},
        {IMG Q P("answers") "[\"Yes\"\r\n--b--", 400, "json-malformed", "answers"},
        {IMG Q P("answers") "[1]\r\n--b--", 400, "field-type", "answers"},
        {IMG Q P("answers") "[\"Yes\", \"No\"]\r\n" P("answers") "Maybe\r\n--b--", 400, "field-duplicate",
         "answers"},
        {IMG Q A P("answers") "\r\n--b--", 422, "answer-empty", "answers"},
        {IMG Q A P("answers") "Yes\r\n--b--", 422, "answer-duplicate", "answers"},
        {IMG Q A P("answers") "\xff\r\n--b--", 422, "text-not-utf8", "answers"},
        {IMG IMG Q A "--b--", 400, "field-duplicate", "image"},
        {IMG Q Q A "--b--", 400, "field-duplicate", "question"},
        {IMG Q A P("study") "s\r\n--b--", 400, "field-unknown", "study"},
        {IMG Q A P("od d") "s\r\n--b--", 400, "field-unknown", ""},
        {IMG Q A P("k") "51\r\n--b--", 422, "k-out-of-range", "k"},
        {IMG Q A P("k") "two\r\n--b--", 400, "field-type", "k"},
        {IMG Q A P("k") "\r\n--b--", 400, "field-type", "k"},
        {IMG Q A P("k") "-1\r\n--b--", 422, "k-out-of-range", "k"},
        {IMG Q A P("k") "2 \r\n--b--", 400, "field-type", "k"},
        {IMG Q A P("k") "2.0\r\n--b--", 400, "field-type", "k"},
        {IMG Q A P("k") "0000000000000000000000000000000000000000000000000000000000000000002\r\n--b--", 422,
         "k-out-of-range", "k"},
        {IMG Q A P("mode") "fast\r\n--b--", 422, "field-out-of-range", "mode"},
        {IMG Q A P("exclude.self") "yes\r\n--b--", 400, "field-type", "exclude.self"},
        {IMG A P("question") "\r\n--b--", 400, "field-missing", "question"},
        {IMG A P("question") "\xc3\x28\r\n--b--", 422, "text-not-utf8", "question"},
        {Q A "--b\r\nContent-Disposition: form-data; name=image\r\n\r\n\r\n--b--", 400, "field-missing", "image"},
        {Q A "--b\r\nContent-Disposition: form-data; name=image\r\n\r\nGIF89a\r\n--b--", 415, "image-unsupported",
         "image"},
        {IMG Q A, 400, "multipart-malformed", ""},
        {IMG Q A "--b", 400, "multipart-malformed", ""},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        text t = expand(c[i].body, false);
        expect("multipart/form-data; boundary=b", t.s, t.len, c[i].status, c[i].slug, c[i].at, c[i].body);
        text_free(&t);
    }
}

static void a_zero_byte_in_a_text_is_refused(void **state)
{
    (void)state;
    text t = expand(IMG A P("question") "q0q\r\n--b--", false);
    char *q = memmem(t.s, t.len, "q0q", 3);
    q[1] = 0;
    expect("multipart/form-data; boundary=b", t.s, t.len, 422, "field-out-of-range", "question", "zero byte");
    text_free(&t);
}

static void both_ways_give_the_same_request(void **state)
{
    (void)state;
    request *r[2];
    err      e = {0};
    text j =
        expand("{" REST ",'k':3,'mode':'reference','exclude':{'study':'S','self':true},'deadline_ms':7}", true);
    text m = expand(IMG Q A P("k") "3\r\n" P("mode") "reference\r\n" P("exclude.study") "S\r\n" P(
                        "exclude.self") "true\r\n" P("deadline_ms") "7\r\n--b--",
                    false);
    OK(read_body(&r[0], true, "application/json", j.s, j.len, &e), e);
    OK(read_body(&r[1], true, "multipart/form-data; boundary=b", m.s, m.len, &e), e);
    for (int i = 0; i < 2; i++) {
        const diagnose_request *q = request_query(r[i]);
        assert_int_equal(q->image_bytes, IMAGE_N);
        assert_memory_equal(q->image, IMAGE, IMAGE_N);
        assert_string_equal(q->question, "q");
        assert_int_equal(q->n_answers, 2);
        assert_string_equal(q->answers[0], "Yes");
        assert_string_equal(q->answers[1], "No");
        assert_int_equal(q->k, 3);
        assert_int_equal(q->mode, MODE_REFERENCE);
        assert_string_equal(q->exclude.study, "S");
        assert_null(q->exclude.patient);
        assert_true(q->exclude_self);
        assert_true(q->deadline_at == 107);
        request_free(r[i]);
    }
    text_free(&j);
    text_free(&m);
}

static void both_ways_give_the_same_open_and_label_requests(void **state)
{
    (void)state;
    for (int labels = 0; labels < 2; labels++) {
        err  e = {0};
        text body[2] = {expand(labels ? "{" OPEN ",'labels':['a','b']}"
                                      : "{" OPEN
                                        ",'max_new_tokens':7,'beams':3,'repetition_penalty':1.5,'stream':true}",
                               true),
                        expand(labels ? IMG Q L "--b--"
                                      : IMG Q P("max_new_tokens") "7\r\n" P("beams") "3\r\n" P(
                                          "repetition_penalty") "1.5\r\n" P("stream") "true\r\n--b--",
                               false)};
        for (int i = 0; i < 2; i++) {
            request *r;
            OK(read_body(&r, true, i ? "multipart/form-data; boundary=b" : "application/json", body[i].s,
                         body[i].len, &e),
               e);
            const diagnose_request *q = request_query(r);
            assert_int_equal(diagnose_task(q), labels ? TASK_LABELS : TASK_OPEN);
            assert_null(q->answers);
            assert_int_equal(q->n_labels, labels ? 2 : 0);
            assert_int_equal(q->open.max_new_tokens, labels ? 0 : 7);
            assert_int_equal(q->open.beams, labels ? 0 : 3);
            assert_true(q->open.repetition_penalty == (labels ? 0 : 1.5));
            if (labels) assert_string_equal(q->labels[1], "b");
            else assert_null(q->labels);
            assert_int_equal(request_streams(r, false), !labels);
            if (labels) assert_true(request_streams(r, true)); /* not given: the caller's choice */
            request_free(r);
            text_free(&body[i]);
        }
    }
}

static void defaults_and_retrievals(void **state)
{
    (void)state;
    request *r;
    err      e = {0};
    text     t = expand("{'image':'@'}", true);
    OK(read_body(&r, false, "application/json", t.s, t.len, &e), e);
    assert_int_equal(request_query(r)->k, 2);
    assert_int_equal(request_query(r)->mode, MODE_PAPER);
    assert_false(request_query(r)->exclude_self);
    assert_true(request_query(r)->deadline_at == 1100);
    request_free(r);
    text_free(&t);
    t = expand("{'image':'@','question':'q'}", true);
    FAILS(read_body(&r, false, "application/json", t.s, t.len, &e), e, ERR_INPUT, "not taken");
    assert_string_equal(request_unknown_field(r), "question");
    request_free(r);
    text_free(&t);
}

static void errors_never_hold_content(void **state)
{
    (void)state;
    static const char *const body[] = {"{'question':'CANARY'",
                                       "{'CANARY':1,'CANARY':2}",
                                       "{" REST ",'k':'CANARY'}",
                                       "{" REST ",'mode':'CANARY'}",
                                       "{'image':'CANARY!!','question':'q','answers':['Yes','No']}",
                                       "{" REST ",'CANARY':1}",
                                       "{'CANARY CANARY':1}"};
    for (size_t i = 0; i < sizeof body / sizeof *body; i++) {
        request *r;
        err      e = {0};
        text     t = expand(body[i], true);
        assert_false(read_body(&r, true, "application/json", t.s, t.len, &e));
        assert_null(strstr(e.text, "CANARY"));
        /* the log writes text and field, never the unknown name */
        assert_null(e.field ? strstr(e.field, "CANARY") : NULL);
        request_free(r);
        text_free(&t);
    }
}

static void the_body_limit_and_the_budget_are_kept(void **state)
{
    (void)state;
    request *r;
    err      e = {0};
    body_budget    small = {.limit = 8000};
    request_limits l = LIMITS;
    l.body_bytes = 6000;
    l.budget = &small;
    static char junk[8000];
    OK(request_new(&r, DIAGNOSIS_FIELDS, N_DIAGNOSIS_FIELDS, "application/json", &l, &e), e);
    OK(request_feed(r, junk, 4096, &e), e);
    FAILS(request_feed(r, junk, 1905, &e), e, ERR_TOO_LARGE, "limit of 6000");
    e = (err){0};
    FAILS(request_feed(r, junk, 1904, &e), e, ERR_BUSY, "as many request bodies"); /* 4096 doubles to 8192 */
    request_free(r);
    assert_int_equal(atomic_load(&small.used), 0);
}

/* The header of the picture decides, however finely the body is cut: a PNG's is its first 33 bytes, the JPEG's frame
 * is known at its first scan, and what has come is looked at whenever it has doubled. */
static void a_too_large_picture_is_refused_by_its_first_bytes(void **state)
{
    (void)state;
    static const char type[] = "multipart/form-data; boundary=b",
                      start[] = "--b\r\nContent-Disposition: form-data; name=image\r\n\r\n";
    static const struct { const char *file; size_t header; } c[] = {{"tests/corpus/image/bomb_20000.png", 33},
                                                                    {"tests/corpus/image/sides_65535.jpg", 0x274}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        for (size_t piece = 1; piece <= 512; piece *= 8) {
            request *r;
            err      e = {0};
            char     first[4096] = {0}, *bytes;
            size_t   n, at = 0;
            OK(file_read(&bytes, &n, c[i].file, sizeof first, &e), e);
            memcpy(first, bytes, n);
            OK(request_new(&r, RETRIEVAL_FIELDS, N_RETRIEVAL_FIELDS, type, &LIMITS, &e), e);
            OK(request_feed(r, start, sizeof start - 1, &e), e);
            while (at < sizeof first && request_feed(r, first + at, piece, &e)) at += piece;
            assert_int_equal(e.code, ERR_TOO_LARGE);
            assert_string_equal(e.problem, "image-too-large");
            assert_string_equal(e.field, "image");
            assert_true(at + piece >= c[i].header && at < 2 * c[i].header + piece);
            request_free(r);
            free(bytes);
        }
    }
}

static void every_failed_allocation_is_an_error_and_no_leak(void **state)
{
    (void)state;
    json_use_our_memory();
    for (int multipart = 0; multipart < 2; multipart++) {
        text t = multipart ? expand(IMG Q P("answers") "[\"Yes\", \"No\"]\r\n" P("exclude.study") "s\r\n--b--", false)
                           : expand("{" REST ",'exclude':{'study':'s'}}", true);
        bool ok = false;
        for (long n = 0; !ok && n < 1000; n++) {
            request *r = NULL;
            err      e = {0};
            mem_fail_after(n);
            ok = read_body(&r, true, multipart ? "multipart/form-data; boundary=b" : "application/json", t.s, t.len,
                           &e);
            mem_fail_after(-1);
            if (!ok && e.code != ERR_MEMORY) fail_msg("allocation %ld: %s '%s'", n, err_code_name(e.code), e.text);
            request_free(r);
            assert_int_equal(atomic_load(&BUDGET.used), 0);
        }
        assert_true(ok);
        text_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_bodies),
        cmocka_unit_test(depth_bombs),
        cmocka_unit_test(lengths),
        cmocka_unit_test(as_many_answers_as_the_limit_and_one_more),
        cmocka_unit_test(multipart_bodies),
        cmocka_unit_test(a_zero_byte_in_a_text_is_refused),
        cmocka_unit_test(both_ways_give_the_same_request),
        cmocka_unit_test(both_ways_give_the_same_open_and_label_requests),
        cmocka_unit_test(defaults_and_retrievals),
        cmocka_unit_test(errors_never_hold_content),
        cmocka_unit_test(the_body_limit_and_the_budget_are_kept),
        cmocka_unit_test(a_too_large_picture_is_refused_by_its_first_bytes),
        cmocka_unit_test(every_failed_allocation_is_an_error_and_no_leak),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
