#include "reader/trie.h"

#include <string.h>

/* While the tree grows, a node is its edge from the parent. Children are a list: answers are few. */
typedef struct {
    int32_t token;
    int     parent, child, next;
    int     edge;   /* among those to score; -1: only read */
    bool    scored; /* an edge to score hangs from it */
    int     row;
} node;

static bool is_proper_prefix(const int32_t *x, int nx, const int32_t *y, int ny)
{
    return nx < ny && memcmp(x, y, (size_t)nx * sizeof *x) == 0;
}

static bool needs_end(const int32_t *const *ids, const int *len, int A)
{
    for (int i = 0; i < A; i++)
        for (int j = 0; j < A; j++)
            if (is_proper_prefix(ids[i], len[i], ids[j], len[j])) return true;
    return false;
}

/* The child of parent (-1: the root, whose list starts at *root) by this token, made if new. */
static int descend(node *n, int *count, int *root, int parent, int32_t token)
{
    int *list = parent < 0 ? root : &n[parent].child;
    for (int c = *list; c >= 0; c = n[c].next)
        if (n[c].token == token) return c;
    int c = (*count)++;
    n[c] = (node){.token = token, .parent = parent, .child = -1, .next = *list, .edge = -1};
    return *list = c;
}

/* Number the edges to score, then give the inner nodes their rows in the order they were made (parents come
 * first), those that only lead on before the others. *first: the row of [root | inner nodes] that scoring begins
 * with. */
static void number(trie *t, node *n, int count, int *first)
{
    bool root = false;
    for (int c = 0; c < count; c++) {
        if (n[c].edge < 0) continue;
        n[c].edge = t->n_edges++;
        if (n[c].parent < 0) root = true;
        else n[n[c].parent].scored = true;
    }
    for (int scored = 0; scored < 2; scored++) {
        if (scored) *first = root ? 0 : 1 + t->n_tree;
        for (int c = 0; c < count; c++)
            if (n[c].child >= 0 && n[c].scored == scored) n[c].row = ++t->n_tree;
    }
    t->n_rows = 1 + t->n_tree - *first;
}

static bool lay_out(trie *t, node *n, int count, bool labels, arena *a, err *e)
{
    int first;
    number(t, n, count, &first);
    if (t->n_tree > TRIE_MAX_TREE && labels)
        return err_at(e, ERR_UNUSABLE, "labels-too-long", "labels",
                      "the labels make %d tokens to compute, at most %d", t->n_tree, TRIE_MAX_TREE);
    if (t->n_tree > TRIE_MAX_TREE)
        return err_at(e, ERR_UNUSABLE, "answers-too-long", "answers",
                      "the answers share too little: %d tokens to compute, at most %d", t->n_tree, TRIE_MAX_TREE);
    size_t N = (size_t)t->n_tree;
    t->node = ARENA_NEW(a, int32_t, N, e);
    t->depth = t->node ? ARENA_NEW(a, int, N, e) : NULL;
    t->visible = t->depth ? ARENA_NEW(a, uint8_t, N * N, e) : NULL;
    t->row = t->visible ? ARENA_NEW(a, int32_t, t->n_edges, e) : NULL;
    t->token = t->row ? ARENA_NEW(a, int32_t, t->n_edges, e) : NULL;
    if (!t->token) return false;

    for (int c = 0; c < count; c++) {
        int above = n[c].parent < 0 ? 0 : n[n[c].parent].row; /* its row, 0 for the root */
        if (n[c].edge >= 0) {
            t->row[n[c].edge] = above - first;
            t->token[n[c].edge] = n[c].token;
        }
        if (n[c].child < 0) continue;
        size_t i = (size_t)n[c].row - 1;
        t->node[i] = n[c].token;
        t->depth[i] = above ? t->depth[above - 1] + 1 : 1;
        if (above) memcpy(t->visible + i * N, t->visible + (size_t)(above - 1) * N, N);
        t->visible[i * N + i] = 1;
    }
    for (int i = 0; i < t->A; i++)
        for (int j = 0; j < t->len[i]; j++) t->path[i][j] = n[t->path[i][j]].edge;
    return true;
}

bool trie_build(trie *out, const int32_t *const *ids, const int *len, const int *read, int A, int32_t end_id,
                arena *a, err *e)
{
    trie t = {.A = A, .end_token = needs_end(ids, len, A)};
    int  total = 0, count = 0, root = -1;
    for (int i = 0; i < A; i++) total += len[i] + t.end_token;
    node *n = ARENA_NEW(a, node, total, e);
    t.read = n ? ARENA_NEW(a, int, A, e) : NULL;
    t.own = t.read ? ARENA_NEW(a, int, A, e) : NULL;
    t.len = t.own ? ARENA_NEW(a, int, A, e) : NULL;
    t.path = t.len ? ARENA_NEW(a, int *, A, e) : NULL;
    int *edges = t.path ? ARENA_NEW(a, int, total, e) : NULL;
    if (!edges) return false;

    for (int i = 0; i < A; i++) {
        t.read[i] = read ? read[i] : 0;
        t.own[i] = len[i] - t.read[i];
        t.len[i] = t.own[i] + t.end_token;
        t.path[i] = edges;
        edges += t.len[i];
        for (int j = 0, at = -1; j < len[i] + t.end_token; j++) {
            at = descend(n, &count, &root, at, j < len[i] ? ids[i][j] : end_id);
            if (j < t.read[i]) continue;
            n[at].edge = 0;
            t.path[i][j - t.read[i]] = at;
        }
    }
    if (!lay_out(&t, n, count, read != NULL, a, e)) return false;
    *out = t;
    return true;
}

bool answers_tokenise(const int32_t ***ids, int **len, const bpe *b, const char *const *answers, int A, arena *a,
                      err *e)
{
    *ids = ARENA_NEW(a, const int32_t *, A, e);
    *len = *ids ? ARENA_NEW(a, int, A, e) : NULL;
    if (!*len) return false;
    for (int i = 0; i < A; i++) {
        int32_t *x;
        if (!bpe_encode(b, answers[i], strlen(answers[i]), false, false, &x, &(*len)[i], a, e)) {
            if (e->code == ERR_UNUSABLE) e->field = "answers";
            return false;
        }
        if ((*len)[i] == 0)
            return err_at(e, ERR_UNUSABLE, "answer-empty", "answers", "answer %d of %d has no token", i + 1, A);
        (*ids)[i] = x;
    }
    return true;
}

bool trie_of_answers(trie *out, const bpe *b, const char *const *answers, int A, int32_t end_id, arena *a, err *e)
{
    const int32_t **ids;
    int            *len;
    return answers_tokenise(&ids, &len, b, answers, A, a, e) && trie_build(out, ids, len, NULL, A, end_id, a, e);
}

int trie_text(const trie *t)
{
    int n = 0;
    for (int i = 0; i < t->A; i++)
        if (t->read[i] > n) n = t->read[i];
    return n;
}

int trie_longest(const trie *t)
{
    int n = 0;
    for (int i = 0; i < t->A; i++)
        if (t->read[i] + t->len[i] > n) n = t->read[i] + t->len[i];
    return n;
}
