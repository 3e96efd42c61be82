/* test_run.c - cases lost, doubled or out of order when several workers run them. diagnose() is a fake of this file, which
 * goes by the first byte of the "image": a digit is the answer, and 's' takes its time, so that later cases overtake it. */
#include "tests/check.h"
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

static atomic_int answered;

bool diagnose(const engine *en, kernels *k, const diagnose_request *q, arena *a, answer *out, err *e)
{
    char c = (char)q->image[0];
    (void)en, (void)k;
    atomic_fetch_add(&answered, 1);
    if (c == 's') nanosleep(&(struct timespec){0, 20 * 1000 * 1000}, NULL);
    if (c == 'g') return err_set(e, ERR_GPU, "the device is lost");
    if (c == '!') return err_at(e, ERR_UNUSABLE, "image-undecodable", "image", "image: cut short");
    int said = c >= '0' && c <= '9' ? c - '0' : 0;
    *out = (answer){.A = q->n_answers, .K = 1, .answer = said, .consistent = true, .flops = 10, .total_ms = 1,
                    .z = ARENA_NEW(a, evidence, 1, e), .prob = ARENA_NEW(a, float, q->n_answers, e)};
    float *v = ARENA_NEW(a, float, 2 * (size_t)q->n_answers, e);
    if (!out->z || !out->prob || !v) return false;
    for (int i = 0; i < q->n_answers; i++) v[i] = v[q->n_answers + i] = i == said ? 0 : -9;
    out->prob[said] = 1;
    *out->z = (evidence){.c = {.id = 7, .heads = 1, .score = {.5f}, .weight = 1}, .logp = v, .logit = v + q->n_answers, .answer = said};
    return true;
}

/* ---- a set of cases, one character each ---- */

typedef struct { char folder[64]; dataset *set; report *report; char path[128]; int fd; } world;

static world begin(const char *cases)
{
    world w = {.folder = "/tmp/jomed-run-XXXXXX"};
    err   e = {0};
    char  name[160];
    assert_non_null(mkdtemp(w.folder));
    snprintf(name, sizeof name, "%s/set.jsonl", w.folder);
    FILE *set = fopen(name, "w");
    assert_non_null(set);
    for (const char *c = cases; *c; c++) {
        if (*c == '?') fprintf(set, "{\"image_path\": \"x\", \"question\": \"q\", \"answer\": \"a mass\"}\n");
        else if (*c == '-') fprintf(set, "{\n");
        else fprintf(set, "{\"image_path\": \"%c\", \"question\": \"q\", \"answer\": \"zero\", \"answers\": [\"zero\", \"one\"]}\n", *c);
        snprintf(w.path, sizeof w.path, "%s/%c", w.folder, *c);
        FILE *f = fopen(w.path, "w");
        assert_non_null(f);
        fputc(*c, f);
        fclose(f);
    }
    fclose(set);
    OK(dataset_open_jsonl(&w.set, name, w.folder, &e), e);
    OK(report_new(&w.report, &e), e);
    snprintf(w.path, sizeof w.path, "%s/predictions", w.folder);
    w.fd = open(w.path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(w.fd >= 0);
    return w;
}

static void end(world *w)
{
    char command[128];
    close(w->fd);
    report_free(w->report);
    dataset_close(w->set);
    snprintf(command, sizeof command, "rm -rf %s", w->folder);
    assert_int_equal(system(command), 0);
}

static kernels *const NO_KERNELS[8];
static const engine   NO_MODELS = {.tau = 1};

static run_plan plan_of(const world *w, int workers)
{
    return (run_plan){.en = &NO_MODELS, .set = w->set, .kern = NO_KERNELS, .workers = workers, .n_cases = dataset_count(w->set), .k = 2,
                      .predictions = w->fd};
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
        OK(run_cases(&p, w.report, &done, &e), e);
        assert_int_equal(done, 10);
        assert_int_equal(report_scored(w.report), 7);
        assert_int_equal(report_failed(w.report), 2);
        assert_int_equal(lines(&w, l, 10), 10);
        assert_string_equal(text_at(l[0], "answer"), "zero");
        assert_string_equal(text_at(l[2], "answer"), "one");
        assert_string_equal(text_at(l[2], "gold"), "zero");
        assert_string_equal(text_at(json_object_get(l[3], "error"), "problem"), "image-undecodable");
        assert_string_equal(text_at(l[3], "gold"), "zero");
        assert_string_equal(text_at(l[4], "skipped"), "open question");
        assert_string_equal(text_at(json_object_get(l[5], "error"), "problem"), "line-malformed");
        const json_t *c = json_array_get(json_object_get(l[8], "candidates"), 0);
        assert_int_equal(json_integer_value(json_object_get(c, "id")), 7);
        assert_string_equal(json_string_value(json_array_get(json_object_get(c, "heads"), 0)), "image");
        assert_int_equal(json_array_size(json_object_get(c, "logp")), 2);
        for (int i = 0; i < 10; i++) json_decref(l[i]);
        end(&w);
    }
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
        assert_int_equal(lines(&w, NULL, 0), done);
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
            int64_t failed = report_failed(w.report); /* of the two closed ones, or the open one */
            assert_true(failed <= 1);
            if (untouched) assert_int_equal(failed, 0);
            assert_true(report_scored(w.report) == 2 || report_scored(w.report) + failed == 2);
        } else {
            assert_int_equal(e.code, ERR_MEMORY);
            int64_t written = lines(&w, NULL, 0);
            assert_true(written == done || written == done + 1); /* the one that the report had no room for */
        }
        end(&w);
        assert_true(n < 2000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_are_lost_or_out_of_order), cmocka_unit_test(stopping_leaves_part_of_a_line),
        cmocka_unit_test(first_cases_only_is_ignored),    cmocka_unit_test(lost_device_or_full_disk_is_a_failed_case),
        cmocka_unit_test(lost_memory_loses_a_case),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
