#include "index/passages.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { APPLICATION_ID = 0x4a4f4d44 /* "JOMD" */, SCHEMA_VERSION = 1 };

static const char SCHEMA[] =
    "CREATE TABLE passages ("
    " id INTEGER PRIMARY KEY, source TEXT NOT NULL, source_id TEXT, caption TEXT NOT NULL, study TEXT, patient TEXT,"
    " license TEXT, root INTEGER, image_path TEXT NOT NULL, image_bytes INTEGER NOT NULL,"
    " image_sha256 BLOB NOT NULL CHECK (length(image_sha256) = 32)) STRICT;"
    "CREATE INDEX passages_by_pixels ON passages (image_sha256);"
    "CREATE TABLE images (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;"
    "CREATE TABLE merged (passage INTEGER NOT NULL, source TEXT NOT NULL, source_id TEXT, study TEXT, patient TEXT) STRICT;"
    "CREATE INDEX merged_by_passage ON merged (passage);"
    "CREATE TABLE build (one INTEGER PRIMARY KEY CHECK (one = 1), arguments TEXT NOT NULL, source INTEGER NOT NULL,"
    " item INTEGER NOT NULL, items INTEGER NOT NULL, bad INTEGER NOT NULL, duplicates INTEGER NOT NULL,"
    " merged INTEGER NOT NULL, report_bytes INTEGER NOT NULL) STRICT;"
    "INSERT INTO build VALUES (1, '', 0, 0, 0, 0, 0, 0, 0);";

/* Statements that the builder runs for every item, prepared once. */
enum { ADD, ADD_IMAGE, ADD_MERGED, FIND, N_WRITES };
static const char *const WRITE[N_WRITES] = {
    [ADD] = "INSERT INTO passages VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
    [ADD_IMAGE] = "INSERT INTO images VALUES (?1,?2)",
    [ADD_MERGED] = "INSERT INTO merged VALUES (?1,?2,?3,?4,?5)",
    [FIND] = "SELECT min(id) FROM passages WHERE image_sha256 = ?1 AND caption = ?2",
};

struct passages {
    sqlite3      *db;
    char         *path;
    sqlite3_stmt *write[N_WRITES]; /* NULL when reading */
};

static bool fail(const passages *p, err *e)
{
    int code = p->db ? sqlite3_errcode(p->db) : SQLITE_NOMEM;
    if (code == SQLITE_NOMEM) return err_set(e, ERR_MEMORY, "%s: out of memory", p->path);
    return err_set(e, ERR_FILE, "%s: SQLite: %s", p->path, sqlite3_errmsg(p->db));
}

static bool run(passages *p, const char *sql, err *e)
{
    return sqlite3_exec(p->db, sql, NULL, NULL, NULL) == SQLITE_OK || fail(p, e);
}

static bool prepare(passages *p, sqlite3_stmt **st, const char *sql, err *e)
{
    return sqlite3_prepare_v2(p->db, sql, -1, st, NULL) == SQLITE_OK || fail(p, e);
}

/* One step of a statement that may give a row. */
static bool step(passages *p, sqlite3_stmt *st, bool *row, err *e)
{
    int r = sqlite3_step(st);
    *row = r == SQLITE_ROW;
    return r == SQLITE_ROW || r == SQLITE_DONE || fail(p, e);
}

/* Run a prepared statement without rows and make it ready for the next time. */
static bool finish(passages *p, sqlite3_stmt *st, err *e)
{
    bool ok = sqlite3_step(st) == SQLITE_DONE || fail(p, e);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return ok;
}

static bool ask_int(passages *p, const char *sql, int64_t *out, err *e)
{
    sqlite3_stmt *st = NULL;
    bool          row = false, ok = prepare(p, &st, sql, e) && step(p, st, &row, e);
    *out = row ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_finalize(st);
    return ok;
}

/* ---- Opening ---- */

/* A file name as a URI: SQLite's immutable=1 can be said in no other way. All but plain characters are escaped. */
static bool uri_of(char *out, size_t size, const char *path, err *e)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t            n = (size_t)snprintf(out, size, "file:");
    for (const char *s = path; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("/._-", c);
        if (n + 32 > size) return err_set(e, ERR_FILE, "%.100s...: path too long", path);
        if (plain) out[n++] = (char)c;
        else {
            out[n++] = '%';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    memcpy(out + n, "?mode=ro&immutable=1", sizeof "?mode=ro&immutable=1");
    return true;
}

static passages *passages_new(const char *path, err *e)
{
    passages *p = mem_zalloc(1, sizeof *p);
    if (p) p->path = mem_strdup(path);
    if (p && p->path) return p;
    free(p);
    err_set(e, ERR_MEMORY, "%s: out of memory", path);
    return NULL;
}

static bool open_db(passages *p, const char *name, int flags, err *e)
{
    if (sqlite3_open_v2(name, &p->db, flags | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK) return fail(p, e);
    /* The file may come from elsewhere: it may not run anything of its own, nor reach SQLite's internals. */
    sqlite3_db_config(p->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(p->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(p->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(p->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    return true;
}

static bool check_kind(passages *p, err *e)
{
    int64_t app, version;
    if (!ask_int(p, "PRAGMA application_id", &app, e) || !ask_int(p, "PRAGMA user_version", &version, e))
        return false;
    if (app != APPLICATION_ID || version != SCHEMA_VERSION)
        return err_set(e, ERR_FILE, "%s: not a passage file of this format; build the index again", p->path);
    return true;
}

bool passages_open(passages **out, const char *path, err *e)
{
    char      uri[4096 * 3];
    passages *p = passages_new(path, e);
    bool ok = p && uri_of(uri, sizeof uri, path, e) && open_db(p, uri, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, e)
              && check_kind(p, e);
    if (ok) *out = p;
    else passages_close(p);
    return ok;
}

bool passages_create(passages **out, const char *path, err *e)
{
    bool          ok = false;
    int64_t       n_tables;
    char          set[96];
    passages     *p = passages_new(path, e);
    if (!p || !open_db(p, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, e)) goto done;
    /* A commit is on disk before the next item: that is what a resumed build stands on. */
    if (!run(p, "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536", e)) goto done;
    if (!ask_int(p, "SELECT count(*) FROM sqlite_schema", &n_tables, e)) goto done;
    if (n_tables == 0) {
        snprintf(set, sizeof set, "PRAGMA application_id = %d; PRAGMA user_version = %d;", APPLICATION_ID,
                 SCHEMA_VERSION);
        if (!run(p, "BEGIN IMMEDIATE", e) || !run(p, set, e) || !run(p, SCHEMA, e) || !run(p, "COMMIT", e)) goto done;
    }
    if (!check_kind(p, e)) goto done;
    for (int i = 0; i < N_WRITES; i++)
        if (!prepare(p, &p->write[i], WRITE[i], e)) goto done;
    *out = p;
    p = NULL;
    ok = true;
done:
    passages_close(p);
    return ok;
}

void passages_close(passages *p)
{
    if (!p) return;
    for (int i = 0; i < N_WRITES; i++) sqlite3_finalize(p->write[i]);
    sqlite3_close(p->db);
    free(p->path);
    free(p);
}

/* ---- Reading ---- */

bool passages_count(passages *p, int64_t *n, err *e)
{
    return ask_int(p, "SELECT ifnull(max(id), -1) + 1 FROM passages", n, e);
}

bool passages_check(passages *p, int64_t n, const char **problem, arena *a, err *e)
{
    sqlite3_stmt *st = NULL;
    bool          row = false, ok = false;
    int64_t       count, least, most, images;
    *problem = NULL;
    if (!prepare(p, &st, "PRAGMA integrity_check(1)", e) || !step(p, st, &row, e)) goto done;
    const char *said = row ? (const char *)sqlite3_column_text(st, 0) : NULL;
    if (!said || strcmp(said, "ok") != 0) {
        *problem = arena_printf(a, e, "SQLite: %s", said ? said : "no answer to the integrity check");
        ok = *problem != NULL;
        goto done;
    }
    if (!ask_int(p, "SELECT count(*) FROM passages", &count, e)
        || !ask_int(p, "SELECT min(id) FROM passages", &least, e)
        || !ask_int(p, "SELECT max(id) FROM passages", &most, e)
        || !ask_int(
            p,
            "SELECT count(*) FROM passages p WHERE root IS NULL AND NOT EXISTS (SELECT 1 FROM images i WHERE i.id = p.id)",
            &images, e))
        goto done;
    ok = true;
    if (count != n || least != 0 || most != n - 1)
        ok = (*problem = arena_printf(a, e, "holds %lld passages with ids %lld..%lld, the manifest says %lld",
                                      (long long)count, (long long)least, (long long)most, (long long)n))
             != NULL;
    else if (images)
        ok = (*problem = arena_printf(a, e, "%lld passages lack their embedded image", (long long)images)) != NULL;
done:
    sqlite3_finalize(st);
    return ok;
}

/* Column c as a string in a; NULL where it is null. False: out of memory. */
static bool get_text(const char **out, sqlite3_stmt *st, int c, arena *a, err *e)
{
    const char *s = (const char *)sqlite3_column_text(st, c);
    *out = s ? arena_strndup(a, s, (size_t)sqlite3_column_bytes(st, c), e) : NULL;
    return !s || *out;
}

static bool get_embedded(passages *p, passage_row *r, arena *a, err *e)
{
    sqlite3_stmt *st = NULL;
    bool          row = false, ok = false;
    if (!prepare(p, &st, "SELECT bytes FROM images WHERE id = ?1", e)) goto done;
    sqlite3_bind_int64(st, 1, r->id);
    if (!step(p, st, &row, e)) goto done;
    const void *bytes = row ? sqlite3_column_blob(st, 0) : NULL;
    int64_t     n = row ? sqlite3_column_bytes(st, 0) : 0;
    if (!bytes || n != r->image_bytes) {
        err_at(e, ERR_FILE, "passage-image-missing", NULL, "%s: passage %lld lacks its embedded image", p->path,
               (long long)r->id);
        goto done;
    }
    uint8_t *copy = arena_take(a, (size_t)n, e);
    if (!copy) goto done;
    memcpy(copy, bytes, (size_t)n);
    r->embedded = copy;
    ok = true;
done:
    sqlite3_finalize(st);
    return ok;
}

bool passages_get(passages *p, int64_t id, bool bytes, passage_row *out, bool *found, arena *a, err *e)
{
    static const char sql[] =
        "SELECT source, source_id, caption, study, patient, license, image_path, root, image_bytes,"
        " image_sha256 FROM passages WHERE id = ?1";
    sqlite3_stmt *st = NULL;
    passage_row   r = {.id = id, .root = -1};
    bool          ok = false;
    *found = false;
    if (!prepare(p, &st, sql, e)) goto done;
    sqlite3_bind_int64(st, 1, id);
    if (!step(p, st, found, e)) goto done;
    if (*found) {
        const char **text[] = {&r.source, &r.source_id, &r.caption, &r.study, &r.patient, &r.license, &r.image_path};
        for (int c = 0; c < 7; c++)
            if (!get_text(text[c], st, c, a, e)) goto done;
        if (sqlite3_column_type(st, 7) != SQLITE_NULL) r.root = sqlite3_column_int64(st, 7);
        r.image_bytes = sqlite3_column_int64(st, 8);
        const void *sha = sqlite3_column_blob(st, 9);
        if (!sha || sqlite3_column_bytes(st, 9) != 32 || !r.source || !r.caption || !r.image_path) {
            err_set(e, ERR_FILE, "%s: passage %lld is damaged", p->path, (long long)id);
            goto done;
        }
        memcpy(r.image_sha256, sha, 32);
        if (bytes && r.root < 0 && !get_embedded(p, &r, a, e)) goto done;
    }
    *out = r;
    ok = true;
done:
    sqlite3_finalize(st);
    return ok;
}

/* ---- Exclusion ---- */

struct key_query {
    passages     *p;
    sqlite3_stmt *st;
};

bool key_query_open(key_query **out, passages *p, const char *study, const char *patient,
                    const uint8_t *image_sha256, err *e)
{
    /* A comparison with a NULL key is NULL, which counts as false: it excludes nothing. Pixels need no look at merged
     * items, since those have the same ones. */
    static const char sql[] =
        "SELECT EXISTS (SELECT 1 FROM passages WHERE id = ?1 AND (study = ?2 OR patient = ?3 OR image_sha256 = ?4))"
        " OR EXISTS (SELECT 1 FROM merged WHERE passage = ?1 AND (study = ?2 OR patient = ?3))";
    key_query *q = mem_zalloc(1, sizeof *q);
    if (!q) return err_set(e, ERR_MEMORY, "index: out of memory");
    q->p = p;
    bool ok = prepare(p, &q->st, sql, e) &&
              ((sqlite3_bind_text(q->st, 2, study, -1, SQLITE_STATIC) == SQLITE_OK &&
                sqlite3_bind_text(q->st, 3, patient, -1, SQLITE_STATIC) == SQLITE_OK &&
                sqlite3_bind_blob(q->st, 4, image_sha256, 32, SQLITE_STATIC) == SQLITE_OK) ||
               fail(p, e));
    if (ok) *out = q;
    else key_query_close(q);
    return ok;
}

bool key_query_excludes(key_query *q, int64_t id, bool *yes, err *e)
{
    bool row;
    sqlite3_bind_int64(q->st, 1, id);
    bool ok = step(q->p, q->st, &row, e);
    *yes = ok && row && sqlite3_column_int(q->st, 0);
    sqlite3_reset(q->st);
    return ok;
}

void key_query_close(key_query *q)
{
    if (!q) return;
    sqlite3_finalize(q->st);
    free(q);
}

/* ---- Building ---- */

bool passages_begin(passages *p, err *e) { return run(p, "BEGIN IMMEDIATE", e); }
bool passages_commit(passages *p, err *e) { return run(p, "COMMIT", e); }

/* NULL binds as null. The strings outlive the statement's run. */
static void bind_text(sqlite3_stmt *st, int i, const char *s) { sqlite3_bind_text(st, i, s, -1, SQLITE_STATIC); }

bool passages_add(passages *p, const passage_row *r, err *e)
{
    sqlite3_stmt *st = p->write[ADD], *im = p->write[ADD_IMAGE];
    const char   *text[] = {r->source, r->source_id, r->caption, r->study, r->patient, r->license};
    sqlite3_bind_int64(st, 1, r->id);
    for (int i = 0; i < 6; i++) bind_text(st, i + 2, text[i]);
    if (r->root >= 0) sqlite3_bind_int64(st, 8, r->root);
    bind_text(st, 9, r->image_path);
    sqlite3_bind_int64(st, 10, r->image_bytes);
    sqlite3_bind_blob(st, 11, r->image_sha256, 32, SQLITE_STATIC);
    if (!finish(p, st, e)) return false;
    if (r->root >= 0) return true;
    sqlite3_bind_int64(im, 1, r->id);
    sqlite3_bind_blob64(im, 2, r->embedded, (sqlite3_uint64)r->image_bytes, SQLITE_STATIC);
    return finish(p, im, e);
}

bool passages_add_merged(passages *p, int64_t into, const passage_row *r, err *e)
{
    sqlite3_stmt *st = p->write[ADD_MERGED];
    const char   *text[] = {r->source, r->source_id, r->study, r->patient};
    sqlite3_bind_int64(st, 1, into);
    for (int i = 0; i < 4; i++) bind_text(st, i + 2, text[i]);
    return finish(p, st, e);
}

bool passages_find_duplicate(passages *p, const uint8_t image_sha256[32], const char *caption, int64_t *id, err *e)
{
    sqlite3_stmt *st = p->write[FIND];
    bool          row = false;
    sqlite3_bind_blob(st, 1, image_sha256, 32, SQLITE_STATIC);
    bind_text(st, 2, caption);
    bool ok = step(p, st, &row, e);
    *id = row && sqlite3_column_type(st, 0) != SQLITE_NULL ? sqlite3_column_int64(st, 0) : -1;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return ok;
}

bool passages_build_load(passages *p, const char **arguments, build_state *s, arena *a, err *e)
{
    sqlite3_stmt *st = NULL;
    bool          row = false, ok = false;
    if (!prepare(p, &st, "SELECT arguments, source, item, items, bad, duplicates, merged, report_bytes FROM build",
                 e)
        || !step(p, st, &row, e))
        goto done;
    if (!row) {
        err_set(e, ERR_FILE, "%s: lacks the state of its build", p->path);
        goto done;
    }
    int64_t *field[] = {&s->source, &s->item, &s->items, &s->bad, &s->duplicates, &s->merged, &s->report_bytes};
    for (int c = 0; c < 7; c++) *field[c] = sqlite3_column_int64(st, c + 1);
    ok = get_text(arguments, st, 0, a, e);
done:
    sqlite3_finalize(st);
    return ok;
}

bool passages_build_save(passages *p, const char *arguments, const build_state *s, err *e)
{
    sqlite3_stmt *st = NULL;
    bool ok =
        prepare(p, &st,
                "UPDATE build SET arguments = ifnull(?1, arguments), source = ?2, item = ?3, items = ?4, bad = ?5,"
                " duplicates = ?6, merged = ?7, report_bytes = ?8",
                e);
    if (ok) {
        const int64_t field[] = {s->source, s->item, s->items, s->bad, s->duplicates, s->merged, s->report_bytes};
        bind_text(st, 1, arguments);
        for (int c = 0; c < 7; c++) sqlite3_bind_int64(st, c + 2, field[c]);
        ok = finish(p, st, e);
    }
    sqlite3_finalize(st);
    return ok;
}

bool passages_sources(passages *p, bool (*each)(void *ctx, const char *source, int64_t n, err *e), void *ctx, err *e)
{
    sqlite3_stmt *st = NULL;
    bool row = true,
         ok = prepare(p, &st, "SELECT source, count(*) FROM passages GROUP BY source ORDER BY min(id)", e);
    while (ok && (ok = step(p, st, &row, e)) && row) {
        const char *source = (const char *)sqlite3_column_text(st, 0);
        ok = source ? each(ctx, source, sqlite3_column_int64(st, 1), e) : fail(p, e);
    }
    sqlite3_finalize(st);
    return ok;
}
