/* import_mimic.c - MIMIC-CXR-JPG [Johnson et al. 2019] with the reports of MIMIC-CXR. Layout below the folder given:
 *   mimic-cxr-2.*-metadata.csv                                    dicom_id, subject_id, study_id, ViewPosition, ...
 *   files/p10/p10000032/s50414267/DICOM_ID.jpg                    the images
 *   files/p10/p10000032/s50414267.txt                             the reports, here or below --reports
 * Items are the frontal views (ViewPosition PA or AP) in the order of the metadata; the caption is the FINDINGS
 * section. Lateral views are not items at all and are not reported. What the released preparation script gets
 * wrong [specs/jomed.md 10.3, 25] and is done right here: images are named by dicom_id without a suffix, lines
 * of a report are joined by a blank, and a report without a FINDINGS header is refused instead of sliced at the
 * wrong place. */
#include "index/import.h"

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "index/lines.h"

enum { MAX_COLUMNS = 64, MAX_REPORT_BYTES = 1 << 20 };

enum { COL_DICOM, COL_SUBJECT, COL_STUDY, COL_VIEW, N_COLS };
static const char *const COLUMN[N_COLS] = {"dicom_id", "subject_id", "study_id", "ViewPosition"};

typedef struct {
    importer im;
    lines   *in;
    char    *root, *reports, *name;
    int      column[N_COLS];
} mimic;

static void mimic_close(importer *im)
{
    mimic *m = (mimic *)im;
    lines_close(m->in);
    free(m->root);
    free(m->reports);
    free(m->name);
    free(m);
}

static double mimic_done(const importer *im) { return lines_done(((const mimic *)im)->in); }

/* ---- The report ---- */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/* Header at the start of a word, so that "NON-FINDINGS:" is none. */
static const char *find_header(const char *report, const char *header)
{
    for (const char *p = report; (p = strstr(p, header)) != NULL; p++)
        if (p == report || is_space(p[-1])) return p;
    return NULL;
}

bool mimic_findings(const char **out, const char **why, const char *report, arena *a, err *e)
{
    static const char *const ends[] = {"IMPRESSION:",      "CONCLUSION:",        "CONCLUSIONS:",  "RECOMMENDATION:",
                                       "RECOMMENDATIONS:", "RECOMMENDATION(S):", "NOTIFICATION:", "ADDENDUM:"};
    const char *from = find_header(report, "FINDINGS:"), *to;
    *out = NULL;
    *why = "the report has no FINDINGS section";
    if (!from) return true;
    from += strlen("FINDINGS:");
    to = from + strlen(from);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const char *p = find_header(from, ends[i]);
        if (p && p < to) to = p;
    }
    char *s = arena_take(a, (size_t)(to - from) + 1, e);
    if (!s) return false;
    size_t n = 0;
    for (const char *p = from; p < to; p++) {
        if (!is_space(*p)) s[n++] = *p;
        else if (n && s[n - 1] != ' ') s[n++] = ' ';
    }
    if (n && s[n - 1] == ' ') n--;
    s[n] = 0;
    *why = "the report's FINDINGS section is empty";
    if (n) *out = s;
    return true;
}

static bool read_caption(const mimic *m, import_item *it, arena *a, err *e)
{
    char        path[PATH_MAX], *report;
    const char *rel = arena_printf(a, e, "files/p%.2s/p%s/s%s.txt", it->patient, it->patient, it->study);
    size_t      n;
    err         why = {0};
    if (!rel || !path_join(path, sizeof path, m->reports, rel, e)) return false;
    if (!file_read(&report, &n, path, MAX_REPORT_BYTES, &why)) {
        if (why.code == ERR_MEMORY) return err_set(e, ERR_MEMORY, "%s", why.text);
        it->reason = "its report cannot be read";
        return true;
    }
    bool ok = mimic_findings(&it->caption, &it->reason, report, a, e);
    if (it->caption) it->reason = NULL;
    free(report);
    return ok;
}

/* ---- The table ---- */

static bool is_digits(const char *s)
{
    size_t n = s ? strspn(s, "0123456789") : 0;
    return n >= 2 && n <= 20 && s[n] == 0;
}

static bool is_name(const char *s)
{
    return s && *s && strlen(s) <= 128 && strspn(s, "0123456789abcdefABCDEF-_") == strlen(s);
}

static bool read_row(const mimic *m, char *const *field, import_item *it, arena *a, err *e)
{
    const char *dicom = field[m->column[COL_DICOM]], *subject = field[m->column[COL_SUBJECT]],
               *study = field[m->column[COL_STUDY]];
    if (!is_name(dicom) || !is_digits(subject) || !is_digits(study)) {
        it->reason = "dicom_id, subject_id or study_id is malformed";
        return true;
    }
    it->source_id = arena_strdup(a, dicom, e);
    it->patient = arena_strdup(a, subject, e);
    it->study = arena_strdup(a, study, e);
    it->image = arena_printf(a, e, "files/p%.2s/p%s/s%s/%s.jpg", subject, subject, study, dicom);
    return it->source_id && it->patient && it->study && it->image && read_caption(m, it, a, e);
}

static bool mimic_next(importer *im, import_item *out, bool *end, arena *a, err *e)
{
    mimic *m = (mimic *)im;
    char  *s, *field[MAX_COLUMNS];
    size_t n;
    bool   too_long;
    for (;;) {
        if (!lines_next(m->in, &s, &n, &too_long, e)) return false;
        if ((*end = s == NULL)) return true;
        if (n == 0) continue;
        bool        bad = too_long || csv_split(s, field, MAX_COLUMNS) < 0;
        const char *view = bad ? NULL : field[m->column[COL_VIEW]];
        if (!bad && (!view || (strcmp(view, "PA") != 0 && strcmp(view, "AP") != 0))) continue; /* not frontal */
        *out = (import_item){.source = m->name, .reason = bad ? "malformed CSV line" : NULL};
        out->label = arena_printf(a, e, "line %lld", (long long)lines_number(m->in));
        return out->label && (bad || read_row(m, field, out, a, e));
    }
}

static bool read_header(mimic *m, const char *path, err *e)
{
    char  *s, *field[MAX_COLUMNS];
    size_t n;
    bool   too_long;
    if (!lines_next(m->in, &s, &n, &too_long, e)) return false;
    int columns = !s || too_long ? -1 : csv_split(s, field, MAX_COLUMNS);
    for (int c = 0; c < N_COLS; c++) {
        m->column[c] = -1;
        for (int i = 0; i < columns; i++)
            if (strcmp(field[i], COLUMN[c]) == 0) m->column[c] = i;
        if (m->column[c] < 0) return err_set(e, ERR_FILE, "%s: has no column %s", path, COLUMN[c]);
    }
    return true;
}

static bool open_table(mimic *m, const char *folder, err *e)
{
    char   pattern[PATH_MAX], path[PATH_MAX];
    glob_t g;
    /* The folder's own name may hold what glob takes for a pattern. */
    size_t n = 0;
    for (const char *s = folder; *s && n + 48 < sizeof pattern; s++) {
        if (strchr("*?[\\", *s)) pattern[n++] = '\\';
        pattern[n++] = *s;
    }
    snprintf(pattern + n, sizeof pattern - n, "/mimic-cxr-2.*-metadata.csv");
    bool found = glob(pattern, 0, NULL, &g) == 0 && g.gl_pathc > 0 && strlen(g.gl_pathv[0]) < sizeof path;
    if (found) strcpy(path, g.gl_pathv[0]);
    globfree(&g);
    if (!found)
        return err_set(e, ERR_FILE, "%s: no mimic-cxr-2.*-metadata.csv here (unpack the .csv.gz first)", folder);
    return lines_open(&m->in, path, e) && read_header(m, path, e);
}

bool import_mimic_open(importer **out, const import_source *s, err *e)
{
    mimic *m = mem_zalloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_MEMORY, "%s: out of memory", s->path);
    m->im = (importer){mimic_next, mimic_done, mimic_close, NULL};
    m->name = mem_strdup(s->name ? s->name : "mimic-cxr");
    bool ok = (m->name || err_set(e, ERR_MEMORY, "%s: out of memory", s->path)) &&
              import_root(&m->root, s->images ? s->images : s->path, e) &&
              import_root(&m->reports, s->reports ? s->reports : s->path, e) && open_table(m, s->path, e);
    m->im.root = m->root;
    if (ok) *out = &m->im;
    else mimic_close(&m->im);
    return ok;
}
