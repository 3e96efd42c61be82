/* png.c - PNG to RGB and back, by libpng.
 * What Pillow's convert("RGB") gives, type by type (checked against Pillow 12.3, tests/oracle/make_variants.py):
 *   grey 1, 2, 4 bits   scaled to 0..255, repeated      grey 8           repeated
 *   RGB, RGBA, LA of 16 bits per channel                 the high byte of each
 *   grey 16             TRAP: min(value, 255), not the high byte. Pillow opens it as mode I;16, whose
 *                       conversion clips. A 16-bit radiograph comes out nearly white: image.clipped
 *                       says so, and with it the answer.
 *   palette             its colours; an index past the palette is black; tRNS is dropped
 *   alpha, tRNS         dropped, not blended             gAMA, iCCP, sRGB, eXIf   ignored
 * Stricter than Pillow in one way: a wrong checksum, a missing palette, too few pixels or a missing end is an error
 * (Pillow would show what it has, the rest black).
 *
 * Memory   the size is checked in the header before libpng sees the file; ancillary chunks are skipped unread, so
 *          libpng holds two rows, a palette and zlib's window whatever the file says. It allocates through mem_alloc.
 * setjmp   all that changes between setjmp and longjmp lies in png_job, which the function above owns, so no local
 *          variable can be clobbered. */
#include <png.h>
#include <string.h>

#include "base/memory.h"
#include "imaging/codec.h"

enum { HEADER_BYTES = 33 /* signature, then IHDR: length, type, 13 bytes, checksum */, CHANNELS = 3 };

typedef struct {
    png_structp png;
    png_infop   info;
    /* reading */
    const uint8_t *in;
    size_t         n, at;
    /* writing */
    uint8_t *out;
    size_t   out_bytes, out_cap;
    bool     no_memory, clipped;
    err     *e;
} png_job;

/* ---- libpng's doors ------------------------------------------------------------------------------------------- */

static void *png_take(png_structp png, png_alloc_size_t n)
{
    png_job *j = png_get_mem_ptr(png);
    void    *p = mem_alloc(n);
    if (!p) j->no_memory = true; /* libpng has a dozen texts for it */
    return p;
}

static void png_give(png_structp png, void *p) { (void)png; mem_free(p); }

/* libpng puts the name of the chunk in front ("IDAT: CRC error"). The name is the file's own bytes: leave it out. */
static void on_error(png_structp png, const char *message)
{
    png_job    *j = png_get_error_ptr(png);
    const char *colon = strstr(message, ": ");
    if (colon) message = colon + 2;
    if (j->no_memory) err_set(j->e, ERR_MEMORY, "PNG: out of memory");
    else image_undecodable(j->e, "PNG", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, const char *message) { (void)png; (void)message; }

static void on_read(png_structp png, png_bytep to, size_t n)
{
    png_job *j = png_get_io_ptr(png);
    if (n > j->n - j->at) png_error(png, "it ends early");
    memcpy(to, j->in + j->at, n);
    j->at += n;
}

static void on_write(png_structp png, png_bytep from, size_t n)
{
    png_job *j = png_get_io_ptr(png);
    if (n > j->out_cap - j->out_bytes) png_error(png, "larger than its bound");
    memcpy(j->out + j->out_bytes, from, n);
    j->out_bytes += n;
}

static void on_flush(png_structp png) { (void)png; }

/* Last of libpng's transformations for 16-bit grey: big-endian 16-bit to clipped RGB, in place and growing, so from
 * the right. */
static void clip_gray16(png_structp png, png_row_infop row, png_bytep p)
{
    png_job *j = png_get_error_ptr(png);
    for (size_t x = row->width; x-- > 0;) {
        uint8_t v = p[2 * x] ? 255 : p[2 * x + 1];
        j->clipped = j->clipped || p[2 * x];
        memset(p + CHANNELS * x, v, CHANNELS);
    }
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

bool image_png_peek(int *width, int *height, const uint8_t *bytes, size_t n, const image_limits *lim, err *e)
{
    if (n < HEADER_BYTES) return image_undecodable(e, "PNG", "it ends early");
    if (be32(bytes + 8) != 13 || memcmp(bytes + 12, "IHDR", 4) != 0) return image_undecodable(e, "PNG", "no header");
    const int64_t w = be32(bytes + 16), h = be32(bytes + 20);
    if (!image_check_size(w, h, lim, e)) return false;
    *width = (int)w;
    *height = (int)h;
    return true;
}

/* Ask libpng for 8-bit RGB whatever is in the file. */
static void ask_for_rgb(png_structp png, png_infop info)
{
    const int depth = png_get_bit_depth(png, info), type = png_get_color_type(png, info);
    if (type == PNG_COLOR_TYPE_GRAY && depth == 16) {
        png_set_read_user_transform_fn(png, clip_gray16);
        png_set_user_transform_info(png, NULL, 8, CHANNELS);
        return;
    }
    if (depth == 16) png_set_strip_16(png);
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_alpha(png);
    if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
}

/* The part that libpng may leave by longjmp. */
static bool png_read_pixels(png_job *j, uint8_t *rgb, int width, int height, const image_limits *lim)
{
    if (setjmp(png_jmpbuf(j->png))) return false;
    const png_structp png = j->png;
    png_set_read_fn(png, j, on_read);
    png_set_user_limits(png, (png_uint_32)lim->max_side, (png_uint_32)lim->max_side);
    png_set_chunk_cache_max(png, 8);
    png_set_chunk_malloc_max(png, j->n); /* no chunk can be longer than its file */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1); /* all but IHDR, PLTE, tRNS, IDAT, IEND */
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_check_for_invalid_index(png, 0); /* an index past the palette is black, as in Pillow */
    png_read_info(png, j->info);
    if (png_get_image_width(png, j->info) != (png_uint_32)width
        || png_get_image_height(png, j->info) != (png_uint_32)height)
        png_error(png, "two headers");
    ask_for_rgb(png, j->info);
    const int passes = png_set_interlace_handling(png);
    png_read_update_info(png, j->info);
    if (png_get_rowbytes(png, j->info) != (size_t)width * CHANNELS) png_error(png, "unknown pixel layout");
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++) png_read_row(png, rgb + (size_t)y * width * CHANNELS, NULL);
    png_read_end(png, NULL); /* the checksum of the last IDAT, and that the file has an end */
    return true;
}

bool image_png_decode(image *out, const uint8_t *bytes, size_t n, const image_limits *lim, arena *a, err *e)
{
    bool    ok = false;
    png_job j = {.in = bytes, .n = n, .e = e};
    int     width, height;
    if (!image_png_peek(&width, &height, bytes, n, lim, e)) return false;
    uint8_t *rgb = arena_take_n(a, (size_t)width * CHANNELS, (size_t)height, e);
    if (!rgb) return false;
    j.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning, &j, png_take, png_give);
    if (j.png) j.info = png_create_info_struct(j.png);
    if (!j.info) {
        err_set(e, ERR_MEMORY, "PNG: out of memory");
        goto done;
    }
    if (!png_read_pixels(&j, rgb, width, height, lim)) goto done;
    *out = (image){.width = width, .height = height, .rgb = rgb, .clipped = j.clipped};
    ok = true;
done:
    if (j.png) png_destroy_read_struct(&j.png, &j.info, NULL);
    return ok;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static bool is_gray(const image *img)
{
    const size_t n = (size_t)img->width * img->height;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = img->rgb + i * CHANNELS;
        if (p[0] != p[1] || p[1] != p[2]) return false;
    }
    return true;
}

static bool png_write_pixels(png_job *j, const image *img, bool gray, uint8_t *row)
{
    if (setjmp(png_jmpbuf(j->png))) return false;
    png_set_write_fn(j->png, j, on_write, on_flush);
    png_set_IHDR(j->png, j->info, (png_uint_32)img->width, (png_uint_32)img->height, 8,
                 gray ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_BASE,
                 PNG_FILTER_TYPE_BASE);
    png_write_info(j->png, j->info);
    for (int y = 0; y < img->height; y++) {
        const uint8_t *from = img->rgb + (size_t)y * img->width * CHANNELS;
        if (gray)
            for (int x = 0; x < img->width; x++) row[x] = from[CHANNELS * (size_t)x];
        png_write_row(j->png, gray ? row : from);
    }
    png_write_end(j->png, NULL);
    return true;
}

bool image_encode_png(uint8_t **out, size_t *n, const image *img, arena *a, err *e)
{
    if (img->width < 1 || img->height < 1) return err_set(e, ERR_BUG, "PNG: no pixels to encode");
    bool         ok = false;
    const bool   gray = is_gray(img);
    const size_t raw = ((size_t)img->width * (gray ? 1 : CHANNELS) + 1) * img->height;
    /* above deflate's worst case and the chunk headers */
    png_job      j = {.e = e, .out_cap = raw + raw / 64 + 4096};
    uint8_t     *row = arena_take(a, (size_t)img->width, e);
    j.out = row ? arena_take(a, j.out_cap, e) : NULL;
    if (!j.out) return false;
    j.png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning, &j, png_take, png_give);
    if (j.png) j.info = png_create_info_struct(j.png);
    if (!j.info) {
        err_set(e, ERR_MEMORY, "PNG: out of memory");
        goto done;
    }
    if (!png_write_pixels(&j, img, gray, row)) goto done;
    *out = j.out;
    *n = j.out_bytes;
    ok = true;
done:
    if (j.png) png_destroy_write_struct(&j.png, &j.info);
    return ok;
}
