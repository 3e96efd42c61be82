/* hash.h - FNV-1a, 64 bits [Fowler, Noll, Vo; RFC 9923]: tells texts apart in tables of ours. Not for what anybody
 * may choose so that it collides; that is what sha256.h is for. */
#ifndef JOMED_BASE_HASH_H
#define JOMED_BASE_HASH_H

#include <stdint.h>

#define FNV_START 0xcbf29ce484222325u
/* h, taken over some bytes, goes on over one more. */
static inline uint64_t fnv_byte(uint64_t h, char c) { return (h ^ (uint8_t)c) * 0x100000001b3u; }

static inline uint64_t fnv_text(const char *s)
{
    uint64_t h = FNV_START;
    while (*s) h = fnv_byte(h, *s++);
    return h;
}

#endif
