#include "index/manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"

const char *const INDEX_FILE[N_INDEX_FILES] = {"passages.db", "image.faiss", "text.faiss", "report.jsonl"};

static bool read_files(manifest *m, const char *where, err *e)
{
    for (int i = 0; i < N_INDEX_FILES; i++) {
        const json_t *f = json_object_get(json_object_get(m->json, "files"), INDEX_FILE[i]);
        const char   *sha = json_string_value(json_object_get(f, "sha256"));
        if (!sha || strlen(sha) != SHA256_HEX - 1 || !json_is_integer(json_object_get(f, "bytes")))
            return err_set(e, ERR_FILE, "%s: files.%s lacks bytes or sha256", where, INDEX_FILE[i]);
        m->file[i].bytes = json_integer_value(json_object_get(f, "bytes"));
        memcpy(m->file[i].sha256, sha, SHA256_HEX);
    }
    return true;
}

static bool read_fields(manifest *m, const char *where, err *e)
{
    const json_t *o = m->json;
    const char   *metric;
    int64_t       format, dim;
    if (!json_int(o, "format", &format, where, e)) return false;
    if (format != INDEX_FORMAT)
        return err_set(e, ERR_FILE, "%s: index format %lld, this program reads %d; build the index again", where,
                       (long long)format, INDEX_FORMAT);
    bool ok = json_int(o, "dim", &dim, where, e) && json_int(o, "n_passages", &m->n_passages, where, e)
              && json_int(o, "items", &m->items, where, e) && json_int(o, "bad", &m->bad, where, e)
              && json_int(o, "duplicates", &m->duplicates, where, e) && json_int(o, "merged", &m->merged, where, e)
              && json_str_or(o, "tool_version", "", &m->tool_version, where, e)
              && json_str_or(o, "created", "", &m->created, where, e)
              && json_str_or(o, "metric", "", &metric, where, e)
              && json_str_or(o, "factory", "", &m->factory, where, e)
              && json_str_or(o, "retriever_hash", "", &m->retriever_hash, where, e);
    if (!ok) return false;
    if (strcmp(metric, "inner_product") != 0 || dim < 1 || dim > 65536 || !*m->retriever_hash)
        return err_set(e, ERR_FILE, "%s: metric, dim or retriever_hash is missing or wrong", where);
    if (m->n_passages < 1) return err_set(e, ERR_FILE, "%s: the index is empty", where);
    m->format = (int)format;
    m->dim = (int)dim;
    m->sources = json_object_get(o, "sources");
    m->roots = json_object_get(o, "image_roots");
    if (!json_is_object(m->sources) || !json_is_array(m->roots))
        return err_set(e, ERR_FILE, "%s: sources or image_roots is missing or wrong", where);
    m->n_roots = (int)json_array_size(m->roots);
    return read_files(m, where, e);
}

bool manifest_open(manifest *m, const char *dir, err *e)
{
    char path[4096];
    *m = (manifest){0};
    if (!path_join(path, sizeof path, dir, MANIFEST_FILE, e)) return false;
    if (!file_exists(path))
        return err_set(e, ERR_FILE, "%s: no index here (no manifest.json); make one with 'jomed index build'", dir);
    if (json_open(&m->json, path, e) && read_fields(m, path, e) && sha256_file(m->hash, path, e)) return true;
    manifest_close(m);
    return false;
}

void manifest_close(manifest *m)
{
    json_decref(m->json);
    *m = (manifest){0};
}

const char *manifest_root(const manifest *m, int64_t i)
{
    return i < 0 || i >= m->n_roots ? NULL : json_string_value(json_array_get(m->roots, (size_t)i));
}

static bool file_size(const char *path, int64_t *bytes, err *e)
{
    struct stat st;
    if (stat(path, &st) != 0) return err_set(e, ERR_FILE, "%s: %s", path, strerror(errno));
    *bytes = st.st_size;
    return true;
}

bool manifest_check_size(const manifest *m, const char *dir, int i, err *e)
{
    char    path[4096];
    int64_t bytes = 0;
    if (!path_join(path, sizeof path, dir, INDEX_FILE[i], e) || !file_size(path, &bytes, e)) return false;
    if (bytes != m->file[i].bytes)
        return err_set(e, ERR_FILE, "%s: %lld bytes, the manifest says %lld; the file is truncated or another's",
                       path, (long long)bytes, (long long)m->file[i].bytes);
    return true;
}

bool manifest_check_sha256(const manifest *m, const char *dir, int i, err *e)
{
    char path[4096], hex[SHA256_HEX];
    if (!path_join(path, sizeof path, dir, INDEX_FILE[i], e) || !sha256_file(hex, path, e)) return false;
    if (strcmp(hex, m->file[i].sha256) != 0)
        return err_set(e, ERR_FILE,
                       "%s: damaged: its SHA-256 is not the manifest's; restore it or build the index again", path);
    return true;
}

static json_t *describe_files(const char *dir, err *e)
{
    json_t *files = json_object();
    for (int i = 0; files && i < N_INDEX_FILES; i++) {
        char    path[4096], hex[SHA256_HEX];
        int64_t bytes = 0;
        json_t *f = NULL;
        if (path_join(path, sizeof path, dir, INDEX_FILE[i], e) && file_size(path, &bytes, e)
            && sha256_file(hex, path, e)
            && !(f = json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "sha256", hex)))
            err_set(e, ERR_MEMORY, "manifest: out of memory");
        if (!f || json_object_set_new(files, INDEX_FILE[i], f) != 0) {
            json_decref(files);
            return NULL;
        }
    }
    return files;
}

bool manifest_write(const manifest *m, const char *dir, err *e)
{
    bool    ok = false;
    char    path[4096];
    char   *s = NULL;
    json_t *o = NULL, *files = describe_files(dir, e);
    if (!files || !path_join(path, sizeof path, dir, MANIFEST_FILE, e)) goto done;
    o = json_pack("{s:i, s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:O, s:O, s:O}", "format",
                  INDEX_FORMAT, "tool_version", m->tool_version, "created", m->created, "retriever_hash",
                  m->retriever_hash, "metric", "inner_product", "dim", m->dim, "factory", m->factory, "n_passages",
                  (json_int_t)m->n_passages, "items", (json_int_t)m->items, "bad", (json_int_t)m->bad, "duplicates",
                  (json_int_t)m->duplicates, "merged", (json_int_t)m->merged, "sources", m->sources, "image_roots",
                  m->roots, "files", files);
    s = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    if (!s) {
        err_set(e, ERR_MEMORY, "manifest: out of memory");
        goto done;
    }
    ok = file_write(path, s, strlen(s), e);
done:
    if (!ok) err_set(e, ERR_MEMORY, "manifest: out of memory");
    free(s);
    json_decref(o);
    json_decref(files);
    return ok;
}
