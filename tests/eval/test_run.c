/* test_run.c - cases lost, doubled or out of order when several workers run them. diagnose() is a fake of this
 * file, which goes by the first byte of the "image": a digit is the answer, and 's' takes its time, so that
 * later cases overtake it. A request without answers is told "a mass", one with labels has the first of
 * them. */
#include "tests/base/temporary.h"
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>
#include "base/memory.h"
#include "eval/run.h"

/* All that diagnose.c defines, so that the linker does not take it from the library. */
const char RESEARCH_USE[] = "notice";
const char JOMED_VERSION[] = "0";
const char *const STAGE_NAME[N_STAGES] = {"", "", "", "", ""};
bool diagnose_check(const diagnose_request *q, err *e) { (void)q, (void)e; return true; }
bool diagnose_retrieve(const engine *en, kernels *k, const diagnose_request *q, arena *a, answer *out, err *e)
{
    (void)en, (void)k, (void)q, (void)a, (void)out;
    return err_set(e, ERR_BUG, "not here");
}

task_kind diagnose_task(const diagnose_request *q)
{
    return q->n_labels ? TASK_LABELS : q->n_answers ? TASK_CLOSED : TASK_OPEN;
}

static atomic_int      answered;
static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;
static char            order[2000]; /* first bytes of the images, as they were asked for */
static int             max_new_tokens; /* of the last open request */

/* The one candidate of every answer here. */
static bool candidate_of(answer *out, arena *a, err *e)
{
    out->K = 1;
    out->consistent = true;
    out->flops = 10;
    out->total_ms = 1;
    if (!(out->z = ARENA_NEW(a, evidence, 1, e))) return false;
    *out->z = (evidence){.c = {.id = 7, .heads = 1, .score = {.5f}, .weight = 1}};
    return true;
}

static bool closed_answer(answer *out, const diagnose_request *q, int said, arena *a, err *e)
{
    float *v = ARENA_NEW(a, float, 2 * (size_t)q->n_answers, e);
    out->A = q->n_answers;
    out->answer = out->z->answer = said;
    if (!v || !(out->prob = ARENA_NEW(a, float, q->n_answers, e))) return false;
    for (int i = 0; i < q->n_answers; i++) v[i] = v[q->n_answers + i] = i == said ? 0 : -9;
    out->prob[said] = 1;
    out->z->logp = v;
    out->z->logit = v + q->n_answers;
    return true;
}

static bool labels_answer(answer *out, const diagnose_request *q, arena *a, err *e)
{
    out->L = q->n_labels;
    if (!(out->label_prob = out->z->label_prob = ARENA_NEW(a, float, q->n_labels, e))) return false;
    for (int l = 0; l < q->n_labels; l++) out->label_prob[l] = l ? .25f : .75f;
    return true;
}

bool diagnose(const engine *en, kernels *k, const diagnose_request *q, arena *a, answer *out, err *e)
{
    char c = (char)q->image[0];
    (void)en, (void)k;
    pthread_mutex_lock(&order_lock);
    int n = atomic_fetch_add(&answered, 1);
    if (n < (int)sizeof order - 1) order[n] = c;
    pthread_mutex_unlock(&order_lock);
    if (c == 's') nanosleep(&(struct timespec){0, 20 * 1000 * 1000}, NULL);
    if (c == 'g') return err_set(e, ERR_GPU, "the device is lost");
    if (c == '!') return err_at(e, ERR_UNUSABLE, "image-undecodable", "image", "image: cut short");
    if (!q->vision) return err_set(e, ERR_BUG, "no cache of vision tokens");
    *out = (answer){.task = diagnose_task(q)};
    if (!candidate_of(out, a, e)) return false;
    switch (out->task) {
    case TASK_CLOSED: return closed_answer(out, q, c >= '0' && c <= '9' ? c - '0' : 0, a, e);
    case TASK_LABELS: return labels_answer(out, q, a, e);
    case TASK_OPEN: break;
    }
    max_new_tokens = q->open.max_new_tokens;
    static const int32_t token[] = {5, 6};
    out->open = (open_answer){
        .text = c == 'l' ? "0, 2, x" : "A mass.", .token = token, .n_tokens = 2, .ended = c != 'c', .logp = -1.5f};
    out->z->open_logp = -1.25f;
    out->z->agrees = true;
    return true;
}

/* ---- a set of cases, one character each ---- */

typedef struct { const char *folder; eval_task *task; dataset *set; report *report; char path[128]; int fd; } world;

/* task: the text of a task file; NULL: none. With one, the gold of every case is "0,1". */
static world begin_task(const char *cases, const char *task)
{
    world w = {.folder = temporary_dir()};
    err   e = {0};
    FILE *set = fopen(inside(w.folder, "set.jsonl"), "w");
    assert_non_null(set);
    for (const char *c = cases; *c; c++) {
        if (task) fprintf(set, "{\"image_path\": \"%c\", \"question\": \"q\", \"answer\": \"0,1\"}\n", *c);
        else if (*c == '?') fprintf(set, "{\"image_path\": \"x\", \"question\": \"q\", \"answer\": \"a mass\"}\n");
        else if (*c == '-') fprintf(set, "{\n");
        else
            fprintf(
                set,
                "{\"image_path\": \"%c\", \"question\": \"q\", \"answer\": \"zero\", \"answers\": [\"zero\", \"one\"]}\n",
                *c);
        put_file(w.folder, (char[]){*c, 0}, c, 1);
    }
    fclose(set);
    if (task) OK(task_open(&w.task, put_file(w.folder, "task.json", task, strlen(task)), &e), e);
    put_file(w.folder, "x", "x", 1); /* of the open questions */
    OK(dataset_open_jsonl(&w.set, inside(w.folder, "set.jsonl"), w.folder, w.task, &e), e);
    OK(report_new(&w.report, &e), e);
    snprintf(w.path, sizeof w.path, "%s/predictions", w.folder);
    w.fd = open(w.path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(w.fd >= 0);
    return w;
}

static world begin(const char *cases) { return begin_task(cases, NULL); }

static void end(world *w)
{
    close(w->fd);
    report_free(w->report);
    dataset_close(w->set);
    task_close(w->task);
    remove_dir(w->folder);
}

static kernels *const NO_KERNELS[8];
static const engine   NO_MODELS = {.tau = 1};

static run_plan plan_of(const world *w, int workers)
{
    return (run_plan){.en = &NO_MODELS,
                      .set = w->set,
                      .kern = NO_KERNELS,
                      .workers = workers,
                      .n_cases = dataset_count(w->set),
                      .k = 2,
                      .predictions = w->fd};
}

/* Lines of the predictions file; every one is whole. */
static int64_t written(const world *w)
{
    char    line[1024];
    int64_t n = 0;
    FILE   *f = fopen(w->path, "r");
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); n++) assert_int_equal(line[strlen(line) - 1], '\n');
    fclose(f);
    return n;
}

/* The lines of the predictions file, each whole JSON of the case at its place. The number of lines. */
static int lines(const world *w, json_t **out, int most)
{
    char   line[1024];
    int    n = 0;
    FILE  *f = fopen(w->path, "r");
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); n++) {
        assert_int_equal(line[strlen(line) - 1], '\n');
        json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        if (!o) fail_msg("line %d: %s", n, line);
        assert_int_equal(json_integer_value(json_object_get(o, "case")), n);
        if (n < most) out[n] = o;
        else json_decref(o);
    }
    fclose(f);
    return n;
}

static const char *text_at(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void cases_are_lost_or_out_of_order(void **state)
{
    (void)state;
    for (int workers = 1; workers <= 8; workers += workers < 3 ? 1 : 5) {
        world    w = begin("s01!?-0s1s");
        run_plan p = plan_of(&w, workers);
        json_t  *l[10];
        int64_t  done;
        err      e = {0};
        atomic_store(&answered, 0);
        OK(run_cases(&p, w.report, &done, &e), e);
        assert_int_equal(done, 10);
        assert_int_equal(report_scored(w.report), 8);
        assert_int_equal(report_failed(w.report), 2);
        assert_int_equal(lines(&w, l, 10), 10);
        assert_string_equal(text_at(l[0], "answer"), "zero");
        assert_string_equal(text_at(l[2], "answer"), "one");
        assert_string_equal(text_at(l[2], "gold"), "zero");
        assert_string_equal(text_at(json_object_get(l[3], "error"), "problem"), "image-undecodable");
        assert_string_equal(text_at(l[3], "gold"), "zero");
        assert_string_equal(text_at(l[4], "answer"), "A mass.");
        assert_string_equal(text_at(l[4], "gold"), "a mass");
        assert_int_equal(json_integer_value(json_object_get(l[4], "tokens")), 2);
        assert_true(json_is_true(json_object_get(l[4], "ended")));
        assert_true(json_real_value(json_object_get(l[4], "log_likelihood")) == -1.5);
        assert_true(json_real_value(
                        json_object_get(json_array_get(json_object_get(l[4], "candidates"), 0), "log_likelihood"))
                    == -1.25);
        assert_true(json_is_true(json_object_get(json_array_get(json_object_get(l[4], "candidates"), 0), "agrees")));
        assert_string_equal(text_at(json_object_get(l[5], "error"), "problem"), "line-malformed");
        const json_t *c = json_array_get(json_object_get(l[8], "candidates"), 0);
        assert_int_equal(json_integer_value(json_object_get(c, "id")), 7);
        assert_string_equal(json_string_value(json_array_get(json_object_get(c, "heads"), 0)), "image");
        assert_int_equal(json_array_size(json_object_get(c, "logp")), 2);
        for (int i = 0; i < 10; i++) json_decref(l[i]);
        end(&w);
    }
}

/* Ten questions about three pictures, in turn: one after the other of each, whatever the workers, and lines in
 * file order. */
static void questions_of_a_picture_are_torn_apart(void **state)
{
    (void)state;
    for (int workers = 1; workers <= 3; workers++) {
        world    w = begin("0101s0101s");
        run_plan p = plan_of(&w, workers);
        json_t  *l[10];
        int64_t  done;
        err      e = {0};
        atomic_store(&answered, 0);
        memset(order, 0, sizeof order);
        OK(run_cases(&p, w.report, &done, &e), e);
        assert_int_equal(done, 10);
        assert_int_equal(lines(&w, l, 10), 10);
        for (int i = 0; i < 10; i++) {
            assert_string_equal(text_at(l[i], "answer"), i % 5 == 1 || i % 5 == 3 ? "one" : "zero");
            json_decref(l[i]);
        }
        if (workers == 1) assert_string_equal(order, "00001111ss");
        end(&w);
    }
}

/* What a task makes of a case: a set by probabilities, a set by a generated list, a text. */
static void sets_or_texts_are_taken_for_others(void **state)
{
    (void)state;
#define SET "{\"kind\": \"multilabel\", \"question\": \"which?\", \"labels\": [\"a\", \"b\", \"c\"]"
    json_t *l[2], *o = NULL;
    int64_t done;
    err     e = {0};
    world   w = begin_task("zl", SET "}");
    run_plan p = plan_of(&w, 1);
    OK(run_cases(&p, w.report, &done, &e), e);
    assert_int_equal(lines(&w, l, 2), 2);
    const json_t *gold = json_object_get(l[0], "gold"), *said = json_object_get(l[0], "answer");
    assert_int_equal(json_array_size(gold), 2);
    assert_string_equal(json_string_value(json_array_get(gold, 1)), "b");
    assert_int_equal(json_array_size(said), 1);
    assert_string_equal(json_string_value(json_array_get(said, 0)), "a");
    assert_int_equal(json_array_size(json_object_get(l[0], "probs")), 3);
    assert_int_equal(
        json_array_size(json_object_get(json_array_get(json_object_get(l[0], "candidates"), 0), "probs")), 3);
    json_decref(l[0]);
    json_decref(l[1]);
    end(&w);

    w = begin_task("lc", SET ", \"answer_form\": \"generated\", \"max_new_tokens\": 9}");
    p = plan_of(&w, 1);
    OK(run_cases(&p, w.report, &done, &e), e);
    assert_int_equal(max_new_tokens, 9);
    assert_int_equal(lines(&w, l, 2), 2);
    said = json_object_get(l[0], "answer");
    assert_int_equal(json_array_size(said), 2);
    assert_string_equal(json_string_value(json_array_get(said, 1)), "c");
    assert_string_equal(text_at(l[0], "text"), "0, 2, x");
    assert_int_equal(json_integer_value(json_object_get(l[0], "unparsed")), 1);
    assert_int_equal(json_array_size(json_object_get(l[1], "answer")), 0);
    assert_true(json_is_false(json_object_get(l[1], "ended")));
    json_decref(l[0]);
    json_decref(l[1]);
    report_run run = {.dataset = "set", .kernels = "cpu", .k = 2, .workers = 1, .tau = 1, .n_cases = 2};
    OK(report_json(&o, w.report, &run, NULL, &e), e);
    assert_int_equal(json_integer_value(json_object_get(o, "n_multilabel")), 2);
    assert_int_equal(json_integer_value(json_object_get(o, "n_open")), 0);
    json_decref(o);
    end(&w);

    w = begin_task("00", "{\"kind\": \"open\", \"max_new_tokens\": 7}");
    p = plan_of(&w, 2);
    OK(run_cases(&p, w.report, &done, &e), e);
    assert_int_equal(max_new_tokens, 7);
    assert_int_equal(lines(&w, l, 2), 2);
    assert_string_equal(text_at(l[1], "gold"), "0,1");
    json_decref(l[0]);
    json_decref(l[1]);
    end(&w);
}

static bool until_three(void *ctx, int64_t done, int64_t n)
{
    (void)ctx, (void)n;
    return done < 3;
}

static void stopping_leaves_part_of_a_line(void **state)
{
    (void)state;
    for (int workers = 1; workers <= 4; workers++) {
        world    w = begin("000000ssssssssssssssssssssssssssssssssss");
        run_plan p = plan_of(&w, workers);
        int64_t  done;
        err      e = {0};
        p.progress = until_three;
        atomic_store(&answered, 0);
        OK(run_cases(&p, w.report, &done, &e), e);
        assert_true(done >= 3 && done < 40);
        assert_int_equal(written(&w), done);
        assert_int_equal(report_scored(w.report), done);
        assert_int_equal(atomic_load(&answered), done); /* what was under way is in the file too */
        end(&w);
    }
}

static void first_cases_only_is_ignored(void **state)
{
    (void)state;
    world    w = begin("0101");
    run_plan p = plan_of(&w, 2);
    int64_t  done;
    err      e = {0};
    p.n_cases = 1;
    OK(run_cases(&p, w.report, &done, &e), e);
    assert_int_equal(done, 1);
    assert_int_equal(lines(&w, NULL, 0), 1);
    end(&w);
}

static void lost_device_or_full_disk_is_a_failed_case(void **state)
{
    (void)state;
    for (int workers = 1; workers <= 2; workers++) {
        world    w = begin("00g0000000");
        run_plan p = plan_of(&w, workers);
        int64_t  done;
        err      e;
        FAILS(run_cases(&p, w.report, &done, &e), e, ERR_GPU, "the device is lost");
        assert_true(done <= 2);
        assert_int_equal(lines(&w, NULL, 0), done);
        end(&w);

        w = begin("0000000000");
        p = plan_of(&w, workers);
        p.predictions = open("/dev/full", O_WRONLY);
        if (p.predictions >= 0) {
            FAILS(run_cases(&p, w.report, &done, &e), e, ERR_FILE, "predictions: ");
            assert_int_equal(done, 0);
            close(p.predictions);
        }
        end(&w);
    }
}

/* Each allocation in turn: the run ends with an error, or the case is a failed one. Never silence. */
static void lost_memory_loses_a_case(void **state)
{
    (void)state;
    bool untouched = false;
    for (long n = 0; !untouched; n++) {
        world    w = begin("01?");
        run_plan p = plan_of(&w, 2);
        int64_t  done = 0;
        err      e = {0};
        mem_fail_after(n);
        bool ok = run_cases(&p, w.report, &done, &e);
        untouched = mem_fail_after(-1) <= n;
        if (ok) {
            assert_int_equal(done, 3);
            assert_int_equal(lines(&w, NULL, 0), 3);
            int64_t failed = report_failed(w.report);
            assert_true(failed <= 1);
            if (untouched) assert_int_equal(failed, 0);
            assert_int_equal(report_scored(w.report) + failed, 3);
        } else {
            assert_int_equal(e.code, ERR_MEMORY);
            int64_t n_lines = lines(&w, NULL, 0);
            assert_true(n_lines == done || n_lines == done + 1); /* the one that the report had no room for */
        }
        end(&w);
        assert_true(n < 2000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_are_lost_or_out_of_order), cmocka_unit_test(questions_of_a_picture_are_torn_apart),
        cmocka_unit_test(sets_or_texts_are_taken_for_others), cmocka_unit_test(stopping_leaves_part_of_a_line),
        cmocka_unit_test(first_cases_only_is_ignored),    cmocka_unit_test(lost_device_or_full_disk_is_a_failed_case),
        cmocka_unit_test(lost_memory_loses_a_case),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
