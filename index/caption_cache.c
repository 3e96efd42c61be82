#include "index/caption_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"

enum { PLACES = 256 };

struct caption_cache {
    size_t dim;
    char  *caption[PLACES]; /* NULL: empty */
    float *z;               /* [PLACES,dim] */
};

static size_t place_of(const char *s)
{
    return (size_t)(fnv_text(s) >> 56); /* the well-mixed end: 8 bits for 256 places */
}

caption_cache *caption_cache_new(int dim)
{
    caption_cache *c = mem_zalloc(1, sizeof *c);
    if (!c) return NULL;
    c->dim = (size_t)dim;
    c->z = mem_zalloc(PLACES * c->dim, sizeof *c->z);
    if (c->z) return c;
    free(c);
    return NULL;
}

void caption_cache_free(caption_cache *c)
{
    if (!c) return;
    for (int i = 0; i < PLACES; i++) free(c->caption[i]);
    free(c->z);
    free(c);
}

bool caption_cache_get(const caption_cache *c, const char *caption, float *z)
{
    size_t i = place_of(caption);
    if (!c->caption[i] || strcmp(c->caption[i], caption) != 0) return false;
    memcpy(z, c->z + i * c->dim, c->dim * sizeof *z);
    return true;
}

void caption_cache_put(caption_cache *c, const char *caption, const float *z)
{
    size_t i = place_of(caption);
    free(c->caption[i]);
    if ((c->caption[i] = mem_strdup(caption)) != NULL) memcpy(c->z + i * c->dim, z, c->dim * sizeof *z);
}
