/* build.c - see build.h. The walk: open or resume the partial folder; for each item read, compare, embed,
 * store, and at each checkpoint sync the row files before the commit that counts them; then make the FAISS
 * indexes, the manifest, and rename. */
#include "index/build.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "index/caption_cache.h"
#include "index/index.h"
#include "index/manifest.h"
#include "index/passages.h"
#include "index/progress.h"
#include "index/vectors.h"

enum { CHECKPOINT_ITEMS = 256, CHECKPOINT_MS = 10000, MAX_CAPTION_BYTES = 64 << 10, MAX_FIELD_BYTES = 1024 };

static const char *const ROWS_FILE[N_HEADS] = {"image.f32", "text.f32"};

typedef struct {
    const build_options *o;
    const char          *factory;
    char                 out[PATH_MAX - 16], dir[PATH_MAX]; /* OUT without a slash at its end; OUT.partial */
    int                  lock;          /* descriptor of dir, flocked */
    passages            *db;
    build_state          at;
    int64_t              n;             /* passages so far */
    FILE                *rows[N_HEADS], *report;
    image_store         *store;
    caption_cache       *captions;
    arena               *a;             /* of one item */
    float               *z[N_HEADS];    /* [dim] */
    char               **root;          /* [n_sources] absolute image roots */
    json_t              *arguments;
    double               checkpoint_ms;
    progress             show;
} builder;

static bool out_of_memory(err *e) { return err_set(e, ERR_MEMORY, "index build: out of memory"); }

static bool stop_asked(void *ctx)
{
    const builder *b = ctx;
    return b->o->stop && *b->o->stop;
}

/* ---- The arguments, as JSON: kept in passages.db and compared when a build is resumed ---- */

static int64_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (int64_t)st.st_size : -1;
}

/* Whatever changes the items or their order: what was asked for, and the size of the file, since a changed one
 * has other lines. */
static json_t *describe_source(const import_source *s)
{
    json_t *o = json_pack("{s:s, s:s, s:s?, s:s?, s:s?, s:s?, s:s?, s:I}", "kind", SOURCE_KIND[s->kind], "path",
                          s->path, "images", s->images, "split", s->split, "captions", s->captions, "reports",
                          s->reports, "name", s->name, "bytes", (json_int_t)size_of(s->path));
    return o;
}

static bool describe_arguments(builder *b, err *e)
{
    const build_options *o = b->o;
    json_t              *sources = json_array();
    for (int i = 0; i < o->n_sources; i++) {
        const import_source *s = &o->sources[i];
        if (!utf8_valid(s->path, strlen(s->path))) {
            json_decref(sources);
            return err_set(e, ERR_USAGE, "the path of source %d is not UTF-8", i + 1);
        }
        if (json_array_append_new(sources, describe_source(s)) != 0) {
            json_decref(sources);
            return out_of_memory(e);
        }
    }
    b->arguments = json_pack("{s:i, s:s, s:i, s:s, s:b, s:b, s:o}", "format", INDEX_FORMAT, "retriever",
                             o->embed.hash, "dim", o->embed.dim, "factory", b->factory, "dedupe", o->dedupe,
                             "embed-images", o->embed_images, "sources", sources);
    return b->arguments || out_of_memory(e);
}

/* Say which argument differs, in the words of the command line. */
static bool same_arguments(const builder *b, const char *before, err *e)
{
    json_t     *old = json_loads(before, 0, NULL), *value;
    const char *key, *differs = NULL;
    char        name[64];
    if (!old) return out_of_memory(e); /* we wrote it: nothing else can be wrong with it */
    json_object_foreach(b->arguments, key, value) {
        json_t *was = json_object_get(old, key);
        if (differs || json_equal(was, value)) continue;
        differs = key;
        if (strcmp(key, "sources") != 0) continue;
        size_t i = 0, n = json_array_size(value);
        while (i < n && json_equal(json_array_get(was, i), json_array_get(value, i))) i++;
        snprintf(name, sizeof name, "source %zu (or its file's size)", i + 1);
        differs = name;
    }
    json_decref(old);
    return !differs
           || err_set(e, ERR_FILE, "%s was begun with another %s; use the same arguments, or remove that folder",
                      b->dir, differs);
}

/* ---- Opening and resuming ---- */

static bool open_partial(builder *b, err *e)
{
    if (mkdir(b->dir, 0777) != 0 && errno != EEXIST) return err_set(e, ERR_FILE, "%s: %s", b->dir, strerror(errno));
    b->lock = open(b->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->lock < 0) return err_set(e, ERR_FILE, "%s: %s", b->dir, strerror(errno));
    if (flock(b->lock, LOCK_EX | LOCK_NB) != 0)
        return err_set(e, ERR_BUSY, "%s: another build is at work here", b->dir);
    return true;
}

/* Open a file of the partial folder cut to what the last checkpoint counted, ready to append. */
static bool open_cut(const builder *b, FILE **out, const char *name, int64_t bytes, err *e)
{
    char        path[PATH_MAX];
    struct stat st;
    if (!path_join(path, sizeof path, b->dir, name, e)) return false;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0) close(fd);
        return err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
    }
    if (st.st_size < bytes) {
        close(fd);
        return err_set(e, ERR_FILE, "%s: shorter than the build's log says; remove the folder and build again", path);
    }
    if (ftruncate(fd, bytes) != 0 || lseek(fd, 0, SEEK_END) < 0 || !(*out = fdopen(fd, "r+"))) {
        err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
        close(fd);
        return false;
    }
    return true;
}

/* The log of a build that has no passage yet holds nothing to go on from, only what was refused: it begins anew,
 * whatever its arguments were, so that items which were mended are read again. */
static bool open_log(builder *b, err *e)
{
    char        path[PATH_MAX];
    const char *before;
    if (!path_join(path, sizeof path, b->dir, INDEX_FILE[FILE_PASSAGES], e) || !passages_create(&b->db, path, e) ||
        !passages_build_load(b->db, &before, &b->at, b->a, e) || !passages_count(b->db, &b->n, e))
        return false;
    if (*before && b->n > 0) return same_arguments(b, before, e);
    b->at = (build_state){0};
    char *s = json_dumps(b->arguments, JSON_COMPACT);
    bool ok = s ? passages_begin(b->db, e) && passages_build_save(b->db, s, &b->at, e) && passages_commit(b->db, e)
                : out_of_memory(e);
    free(s);
    return ok;
}

static bool open_rows(builder *b, err *e)
{
    int64_t bytes = b->n * b->o->embed.dim * (int64_t)sizeof(float);
    for (int h = 0; h < N_HEADS; h++)
        if (!open_cut(b, &b->rows[h], ROWS_FILE[h], bytes, e)) return false;
    return open_cut(b, &b->report, INDEX_FILE[FILE_REPORT], b->at.report_bytes, e);
}

static bool allocate(builder *b, err *e)
{
    size_t row = (size_t)b->o->embed.dim * sizeof(float);
    b->a = arena_new(0);
    b->store = image_store_new();
    b->captions = caption_cache_new(b->o->embed.dim);
    b->root = mem_zalloc((size_t)b->o->n_sources, sizeof *b->root);
    for (int h = 0; h < N_HEADS; h++) b->z[h] = mem_alloc(row);
    return (b->a && b->store && b->captions && b->root && b->z[HEAD_IMAGE] && b->z[HEAD_TEXT]) || out_of_memory(e);
}

static void close_builder(builder *b)
{
    progress_end(&b->show);
    for (int h = 0; h < N_HEADS; h++) {
        if (b->rows[h]) fclose(b->rows[h]);
        free(b->z[h]);
    }
    if (b->report) fclose(b->report);
    passages_close(b->db);
    image_store_free(b->store);
    caption_cache_free(b->captions);
    for (int i = 0; b->root && i < b->o->n_sources; i++) free(b->root[i]);
    free(b->root);
    json_decref(b->arguments);
    arena_free(b->a);
    if (b->lock >= 0) close(b->lock);
}

/* ---- Checkpoints ---- */

static bool sync_stream(FILE *f, const char *name, err *e)
{
    return (fflush(f) == 0 && fsync(fileno(f)) == 0) || err_set(e, ERR_FILE, "%s: %s", name, strerror(errno));
}

/* Rows first, then the commit that counts them: at any moment the log never counts what is not on disk. */
static bool checkpoint(builder *b, err *e)
{
    for (int h = 0; h < N_HEADS; h++)
        if (!sync_stream(b->rows[h], ROWS_FILE[h], e)) return false;
    if (!sync_stream(b->report, INDEX_FILE[FILE_REPORT], e)) return false;
    b->at.report_bytes = ftello(b->report);
    b->checkpoint_ms = clock_ms();
    return passages_build_save(b->db, NULL, &b->at, e) && passages_commit(b->db, e);
}

static bool checkpoint_if_due(builder *b, err *e)
{
    int every = b->o->checkpoint ? b->o->checkpoint : CHECKPOINT_ITEMS;
    if (b->at.items % every != 0 && clock_ms() - b->checkpoint_ms < CHECKPOINT_MS) return true;
    return checkpoint(b, e) && passages_begin(b->db, e);
}

/* ---- One item ---- */

/* A line of the report: {"source": "roco", "item": "line 17", "id": "ROCO_00059", ...the rest}. */
static bool report(builder *b, const import_item *it, json_t *rest, err *e)
{
    const import_source *s = &b->o->sources[b->at.source];
    const char          *source = it->source ? it->source : SOURCE_KIND[s->kind];
    json_t *o = json_pack("{s:s*, s:s*, s:s*, s:s*}", "source", source, "path", s->path, "item", it->label, "id",
                          it->source_id);
    char   *line = NULL;
    bool    ok = o && rest && json_object_update(o, rest) == 0 && (line = json_dumps(o, JSON_COMPACT)) != NULL;
    if (!ok) out_of_memory(e);
    else if (fprintf(b->report, "%s\n", line) < 0)
        ok = err_set(e, ERR_FILE, "%s: %s", INDEX_FILE[FILE_REPORT], strerror(errno));
    free(line);
    json_decref(o);
    json_decref(rest);
    return ok;
}

static bool skip_item(builder *b, const import_item *it, const char *reason, err *e)
{
    b->at.bad++;
    return report(b, it, json_pack("{s:s}", "reason", reason), e);
}

/* What is wrong with the item's texts, or NULL. */
static const char *text_problem(const import_item *it)
{
    const char *const keys[] = {it->source, it->source_id, it->study, it->patient, it->license, it->image};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i] && (strlen(keys[i]) > MAX_FIELD_BYTES || !utf8_valid(keys[i], strlen(keys[i]))))
            return "a field is too long or not UTF-8";
    size_t n = strlen(it->caption);
    if (n > MAX_CAPTION_BYTES) return "the caption is too long";
    if (!utf8_valid(it->caption, n)) return "the caption is not UTF-8";
    if (strspn(it->caption, " \t\r\n") == n) return "the caption is empty";
    return NULL;
}

/* An error that is the item's own, after which the build goes on. */
static bool is_item_error(const err *e)
{
    return e->code == ERR_INPUT || e->code == ERR_UNSUPPORTED || e->code == ERR_TOO_LARGE || e->code == ERR_UNUSABLE;
}

static bool is_unit(const float *z, int dim)
{
    double s = 0;
    for (int i = 0; i < dim; i++) s += (double)z[i] * z[i];
    return fabs(sqrt(s) - 1) < 1e-3; /* false for NaN */
}

static bool embed_caption(builder *b, const char *caption, float *z, err *e)
{
    const embedder *em = &b->o->embed;
    if (caption_cache_get(b->captions, caption, z)) return true;
    if (!em->text(em->ctx, caption, z, b->a, e)) return false;
    caption_cache_put(b->captions, caption, z);
    return true;
}

static bool embed_item(builder *b, const import_item *it, const stored_image *im, err *e)
{
    const embedder *em = &b->o->embed;
    if (!em->image(em->ctx, &im->pixels, b->z[HEAD_IMAGE], b->a, e)
        || !embed_caption(b, it->caption, b->z[HEAD_TEXT], e))
        return false;
    if (!is_unit(b->z[HEAD_IMAGE], em->dim) || !is_unit(b->z[HEAD_TEXT], em->dim))
        return err_set(e, ERR_BUG, "index build: the retriever gave an embedding that has not length 1");
    return true;
}

static bool store_item(builder *b, const passage_row *r, err *e)
{
    size_t dim = (size_t)b->o->embed.dim;
    for (int h = 0; h < N_HEADS; h++)
        if (fwrite(b->z[h], sizeof(float), dim, b->rows[h]) != dim)
            return err_set(e, ERR_FILE, "%s: %s", ROWS_FILE[h], strerror(errno));
    if (!passages_add(b->db, r, e)) return false;
    b->n++;
    return true;
}

static bool note_clipped(builder *b, const import_item *it, const stored_image *im, err *e)
{
    return !im->pixels.clipped || report(b, it, json_pack("{s:s}", "warning", IMAGE_CLIPPED), e);
}

/* Count a duplicate; with --dedupe also drop it: *drop. */
static bool note_duplicate(builder *b, const import_item *it, const passage_row *r, bool *drop, err *e)
{
    int64_t first;
    *drop = false;
    if (!passages_find_duplicate(b->db, r->image_sha256, r->caption, &first, e)) return false;
    if (first < 0) return true;
    b->at.duplicates++;
    *drop = b->o->dedupe;
    if (!report(b, it, json_pack("{s:I, s:b}", "duplicate_of", (json_int_t)first, "merged", *drop), e)) return false;
    if (!*drop) return true;
    b->at.merged++;
    return passages_add_merged(b->db, first, r, e);
}

static bool take_item(builder *b, const import_item *it, err *e)
{
    err          why = {0};
    stored_image im;
    bool         drop;
    const char  *problem = it->reason ? it->reason : text_problem(it);
    if (problem) return skip_item(b, it, problem, e);
    /* A file that cannot be read is the item's fault here; running out of memory is not. */
    if (!image_store_load(b->store, b->root[b->at.source], it->image, &im, b->a, &why))
        return is_item_error(&why) || why.code == ERR_FILE ? skip_item(b, it, why.text, e) : (*e = why, false);

    bool        is_file = im.is_file && !b->o->embed_images;
    passage_row r = {.id = b->n,
                     .source = it->source,
                     .source_id = it->source_id,
                     .caption = it->caption,
                     .study = it->study,
                     .patient = it->patient,
                     .license = it->license,
                     .root = is_file ? b->at.source : -1,
                     .image_path = it->image,
                     .image_bytes = (int64_t)im.n,
                     .embedded = im.bytes};
    image_hash(r.image_sha256, &im.pixels);
    if (!note_duplicate(b, it, &r, &drop, e)) return false;
    if (drop) return true;
    if (!note_clipped(b, it, &im, e)) return false;
    if (!embed_item(b, it, &im, &why)) return is_item_error(&why) ? skip_item(b, it, why.text, e) : (*e = why, false);
    return store_item(b, &r, e);
}

/* ---- All items ---- */

/* Go on behind the item that the last checkpoint counted. Items are only named here, so this is quick. */
static bool skip_done(builder *b, importer *im, err *e)
{
    import_item it;
    bool        end;
    for (int64_t i = 0; i < b->at.item; i++) {
        if (!im->next(im, &it, &end, b->a, e)) return false;
        if (end)
            return err_set(e, ERR_FILE, "%s: has fewer items than when the build began; remove %s and build again",
                           b->o->sources[b->at.source].path, b->dir);
        arena_reset(b->a);
    }
    return true;
}

static bool take_source(builder *b, bool *stopped, err *e)
{
    const import_source *s = &b->o->sources[b->at.source];
    importer            *im = NULL;
    bool                 ok = false, end = false;
    import_item          it;
    if (!importer_open(&im, s, e)) goto done;
    if (!(b->root[b->at.source] = mem_strdup(im->root))) {
        out_of_memory(e);
        goto done;
    }
    if (!skip_done(b, im, e)) goto done;
    while (!(*stopped = stop_asked(b))) {
        arena_reset(b->a);
        if (!im->next(im, &it, &end, b->a, e)) goto done;
        if (end) break;
        if (!take_item(b, &it, e)) goto done;
        b->at.item++;
        b->at.items++;
        progress_show(&b->show, (int)b->at.source, b->at.items, b->at.bad, im->done(im));
        if (!checkpoint_if_due(b, e)) goto done;
    }
    if (!*stopped) {
        b->at.source++;
        b->at.item = 0;
    }
    ok = true;
done:
    importer_close(im);
    return ok;
}

/* Sources that are done still need their roots for the manifest. */
static bool find_root(builder *b, int i, err *e)
{
    importer *im = NULL;
    bool      ok = importer_open(&im, &b->o->sources[i], e);
    if (ok && !(b->root[i] = mem_strdup(im->root))) ok = out_of_memory(e);
    importer_close(im);
    return ok;
}

static bool take_all(builder *b, bool *stopped, err *e)
{
    *stopped = false;
    for (int i = 0; i < (int)b->at.source; i++)
        if (!find_root(b, i, e)) return false;
    if (!passages_begin(b->db, e)) return false;
    while (b->at.source < b->o->n_sources && !*stopped)
        if (!take_source(b, stopped, e)) return false;
    return checkpoint(b, e);
}

/* ---- The end: FAISS indexes, manifest, rename ---- */

static void note(void *ctx, const char *line) { progress_note(&((builder *)ctx)->show, line); }

static bool build_head(builder *b, head h, bool *stopped, err *e)
{
    char         rows[PATH_MAX], path[PATH_MAX];
    file_map     m;
    vectors_plan plan = {.factory = b->factory, .dim = b->o->embed.dim, .n = b->n, .what = HEAD_NAME[h], .note = note,
                         .stop = stop_asked, .ctx = b};
    const char  *name = INDEX_FILE[h == HEAD_IMAGE ? FILE_IMAGE : FILE_TEXT];
    if (!path_join(rows, sizeof rows, b->dir, ROWS_FILE[h], e) || !path_join(path, sizeof path, b->dir, name, e))
        return false;
    if (!file_map_open(&m, rows, e)) return false;
    bool ok = vectors_build(&plan, (const float *)m.data, path, stopped, e);
    file_map_close(&m);
    return ok;
}

static bool add_source_count(void *ctx, const char *source, int64_t n, err *e)
{
    return json_object_set_new(ctx, source, json_integer(n)) == 0 || out_of_memory(e);
}

static bool write_manifest(builder *b, err *e)
{
    char    created[32];
    json_t *sources = json_object(), *roots = json_array();
    bool    ok = sources && roots;
    clock_rfc3339(created);
    for (int i = 0; ok && i < b->o->n_sources; i++) ok = json_array_append_new(roots, json_string(b->root[i])) == 0;
    if (!ok) out_of_memory(e);
    manifest m = {.tool_version = b->o->tool_version,
                  .created = created,
                  .retriever_hash = b->o->embed.hash,
                  .factory = b->factory,
                  .dim = b->o->embed.dim,
                  .n_passages = b->n,
                  .items = b->at.items,
                  .bad = b->at.bad,
                  .duplicates = b->at.duplicates,
                  .merged = b->at.merged,
                  .sources = sources,
                  .roots = roots};
    ok = ok && passages_sources(b->db, add_source_count, sources, e);
    passages_close(b->db); /* its file is final now, and is measured next */
    b->db = NULL;
    ok = ok && manifest_write(&m, b->dir, e);
    json_decref(sources);
    json_decref(roots);
    return ok;
}

static bool finish(builder *b, bool *stopped, err *e)
{
    if (b->n == 0)
        return err_set(e, ERR_FILE, "no item could be used (%lld were refused): see %s/%s, mend, and start again",
                       (long long)b->at.bad, b->dir, INDEX_FILE[FILE_REPORT]);
    return build_head(b, HEAD_IMAGE, stopped, e) && (*stopped || build_head(b, HEAD_TEXT, stopped, e)) &&
           (*stopped || write_manifest(b, e));
}

static bool remove_files(const char *dir, const char *const *name, int n, err *e)
{
    char path[PATH_MAX];
    for (int i = 0; i < n; i++) {
        if (!path_join(path, sizeof path, dir, name[i], e)) return false;
        if (unlink(path) != 0 && errno != ENOENT) return err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
    }
    return true;
}

/* Remove an index that was replaced: its own files only, so that nothing else is ever lost. */
static bool remove_index(const char *dir, err *e)
{
    static const char *const manifest_name[] = {MANIFEST_FILE};
    if (!remove_files(dir, INDEX_FILE, N_INDEX_FILES, e) || !remove_files(dir, manifest_name, 1, e)) return false;
    return rmdir(dir) == 0 || errno == ENOENT || err_set(e, ERR_FILE, "%s: %s", dir, strerror(errno));
}

static bool sync_folder_of(const char *path, err *e)
{
    char  copy[PATH_MAX];
    int   n = snprintf(copy, sizeof copy, "%s", path);
    char *slash = n < (int)sizeof copy ? strrchr(copy, '/') : NULL;
    if (slash) slash[slash == copy] = 0;
    int  fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok) err_set(e, ERR_FILE, "%s: %s", slash ? copy : ".", strerror(errno));
    if (fd >= 0) close(fd);
    return ok;
}

/* OUT.partial becomes OUT. With --force the old index makes way first: a reader sees the old one, for a moment
 * none, or the new. */
static bool publish(builder *b, err *e)
{
    char old[PATH_MAX];
    bool replace = file_exists(b->out);
    snprintf(old, sizeof old, "%s.old", b->out);
    if (!remove_files(b->dir, ROWS_FILE, N_HEADS, e)) return false;
    if (fsync(b->lock) != 0) return err_set(e, ERR_FILE, "%s: %s", b->dir, strerror(errno));
    if (replace && (!remove_index(old, e) || (rename(b->out, old) != 0 &&
                                              !err_set(e, ERR_FILE, "%s: %s", b->out, strerror(errno)))))
        return false;
    if (rename(b->dir, b->out) != 0) return err_set(e, ERR_FILE, "%s: %s", b->out, strerror(errno));
    return sync_folder_of(b->out, e) && (!replace || remove_index(old, e));
}

/* ---- The whole ---- */

static bool check_out(const builder *b, err *e)
{
    char path[PATH_MAX];
    if (!file_exists(b->out)) return true;
    if (!b->o->force) return err_set(e, ERR_FILE, "%s exists; --force replaces an index", b->out);
    if (!path_join(path, sizeof path, b->out, MANIFEST_FILE, e)) return false;
    return file_exists(path) || err_set(e, ERR_FILE, "%s exists and is not an index: it is left alone", b->out);
}

static bool prepare(builder *b, bool *complete, err *e)
{
    char   path[PATH_MAX];
    size_t n = strlen(b->o->out);
    while (n > 1 && b->o->out[n - 1] == '/') n--;
    if (n == 0 || n >= sizeof b->out) return err_set(e, ERR_USAGE, "--out: the path is empty or too long");
    memcpy(b->out, b->o->out, n);
    b->out[n] = 0;
    snprintf(b->dir, sizeof b->dir, "%s.partial", b->out);
    if (b->o->n_sources < 1) return err_set(e, ERR_USAGE, "no source is given");
    if (!check_out(b, e) || !vectors_factory_check(b->factory, b->o->embed.dim, e) || !allocate(b, e) ||
        !describe_arguments(b, e) || !open_partial(b, e) || !open_log(b, e))
        return false;
    /* A manifest is the last thing written: with it, only the rename is left to do. */
    if (!path_join(path, sizeof path, b->dir, MANIFEST_FILE, e)) return false;
    *complete = file_exists(path);
    return *complete || open_rows(b, e);
}

bool index_build(const build_options *o, build_counts *counts, err *e)
{
    builder b = {.o = o, .lock = -1, .factory = o->factory ? o->factory : "Flat"};
    bool    complete = false, stopped = false;
    bool    ok = prepare(&b, &complete, e);
    *counts = (build_counts){.resumed_at = b.at.items};
    if (ok && !complete) {
        b.checkpoint_ms = clock_ms();
        progress_start(&b.show, o->n_sources, b.at.items, o->quiet);
        ok = take_all(&b, &stopped, e) && (stopped || finish(&b, &stopped, e));
    }
    ok = ok && (stopped || publish(&b, e));
    counts->stopped = stopped;
    counts->items = b.at.items;
    counts->passages = b.n;
    counts->bad = b.at.bad;
    counts->duplicates = b.at.duplicates;
    counts->merged = b.at.merged;
    close_builder(&b);
    return ok;
}
