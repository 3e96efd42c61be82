/* test_image.c - bytes to pixels: Pillow's pixels for every layout of PNG and JPEG; what is truncated, corrupt,
 * empty, too large or a bomb is an error with its problem type and field, in little time and memory; PNG
 * written and read back. */
#include "tests/imaging/fixture.h"
#include <time.h>
#include <zlib.h>
#include <jpeglib.h>
#include "base/memory.h"
#include "base/text.h"

/* Must fail with code and problem type, naming the field. */
#define REFUSED(call, e, want, slug, part) do { \
        FAILS(call, e, want, part); \
        assert_string_equal((e).problem, (slug)); \
        assert_string_equal((e).field, "image"); \
    } while (0)

/* ---- pixels --------------------------------------------------------------------------------------------------- */

static void decode_and_compare(const char *path, const char *name, void *goldens)
{
    size_t   n;
    uint8_t *bytes = slurp(path, &n);
    arena   *a = arena_new(0);
    err      e = {0};
    image    img;
    int      w, h;
    if (!image_decode(&img, bytes, n, &IMAGE_LIMITS, a, &e)) fail_msg("%s: %s", name, e.text);
    same_pixels(&img, need_tensor(goldens, name), name);
    assert_int_equal(img.clipped, strncmp(name, "gray16", 6) == 0);
    OK(image_peek(&w, &h, bytes, n, &IMAGE_LIMITS, &e), e);
    assert_true(w == img.width && h == img.height);
    arena_free(a);
    free(bytes);
}

static void compare_folder(const char *dir, const char *golden, int files)
{
    safetensors *s;
    err          e = {0};
    OK(safetensors_open(&s, golden, &e), e);
    assert_int_equal(safetensors_count(s), files);
    assert_int_equal(each_picture(dir, decode_and_compare, s), files);
    safetensors_close(s);
}

/* JPEG too: the fixtures were decoded by libjpeg-turbo with the same settings, so nothing less than equality
 * will do. */
static void test_fixtures_give_pillows_pixels(void **state)
{
    (void)state;
    compare_folder(FIXTURE("images"), FIXTURE("images/decoded.safetensors"), 9);
}

static void test_every_layout_gives_pillows_pixels(void **state)
{
    (void)state;
    compare_folder(FIXTURE("variants"), FIXTURE("variants/decoded.safetensors"), 55);
}

static void test_sniffing(void **state)
{
    (void)state;
    assert_int_equal(image_sniff("\x89PNG\r\n\x1a\n", 8), MEDIA_PNG);
    assert_int_equal(image_sniff("\x89PNG\r\n\x1a\n", 7), MEDIA_NONE);
    assert_int_equal(image_sniff("\xff\xd8\xff", 3), MEDIA_JPEG);
    assert_int_equal(image_sniff("\xff\xd8\xff", 2), MEDIA_NONE);
    assert_int_equal(image_sniff("GIF89a\0\0\0\0", 10), MEDIA_NONE);
    assert_int_equal(image_sniff("", 0), MEDIA_NONE);
    assert_string_equal(media_type_name(MEDIA_PNG), "image/png");
    assert_string_equal(media_type_name(MEDIA_JPEG), "image/jpeg");
    assert_string_equal(media_type_name(MEDIA_NONE), "application/octet-stream");
}

/* ---- building bad files --------------------------------------------------------------------------------------- */

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void add_chunk(text *t, const char *name, const void *data, size_t n)
{
    uint8_t b[4];
    put32(b, (uint32_t)n);
    text_addn(t, (char *)b, 4);
    size_t at = t->len;
    text_addn(t, name, 4);
    text_addn(t, data, n);
    put32(b, (uint32_t)crc32(0, (Bytef *)t->s + at, (uInt)(n + 4)));
    text_addn(t, (char *)b, 4);
}

static void png_start(text *t, uint32_t w, uint32_t h, int depth, int type)
{
    uint8_t head[13] = {0};
    put32(head, w);
    put32(head + 4, h);
    head[8] = (uint8_t)depth;
    head[9] = (uint8_t)type;
    text_addn(t, "\x89PNG\r\n\x1a\n", 8);
    add_chunk(t, "IHDR", head, 13);
}

/* IDAT of n zero bytes, deflated in pieces. */
static void add_zeros(text *t, size_t n)
{
    static uint8_t zero[1 << 16];
    uint8_t       *out = malloc(1 << 20);
    z_stream       z = {.next_out = out, .avail_out = 1 << 20};
    assert_int_equal(deflateInit(&z, 9), Z_OK);
    while (n > 0) {
        uInt part = n < sizeof zero ? (uInt)n : (uInt)sizeof zero;
        z.next_in = zero;
        z.avail_in = part;
        assert_int_equal(deflate(&z, part == n ? Z_FINISH : Z_NO_FLUSH), part == n ? Z_STREAM_END : Z_OK);
        n -= part;
    }
    add_chunk(t, "IDAT", out, (size_t)z.total_out);
    deflateEnd(&z);
    free(out);
}

static void add_data(text *t, const void *data, size_t n)
{
    uint8_t out[256];
    uLongf  size = sizeof out;
    assert_int_equal(compress(out, &size, data, (uLong)n), Z_OK);
    add_chunk(t, "IDAT", out, size);
}

/* The offset of the first pair of bytes ff, marker at or after from. */
static size_t find_marker(const uint8_t *p, size_t n, int marker, size_t from)
{
    for (size_t i = from; i + 1 < n; i++)
        if (p[i] == 0xff && p[i + 1] == marker) return i;
    fail_msg("no marker %02x", (unsigned)marker);
    return 0;
}

/* A JPEG of a flat picture in three scans (sequential) or four (progressive), of which any may be repeated
 * lawfully. */
static void jpeg_of_scans(text *t, int w, int h, bool progressive, int repeats)
{
    static const jpeg_scan_info lines[3] = {{1, {0}, 0, 63, 0, 0}, {1, {1}, 0, 63, 0, 0}, {1, {2}, 0, 63, 0, 0}};
    static const jpeg_scan_info steps[4] = {
        {3, {0, 1, 2}, 0, 0, 0, 0}, {1, {0}, 1, 63, 0, 0}, {1, {1}, 1, 63, 0, 0}, {1, {2}, 1, 63, 0, 0}};
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr       errors;
    unsigned char              *out = NULL;
    unsigned long               n = 0;
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &out, &n);
    c.image_width = (JDIMENSION)w;
    c.image_height = (JDIMENSION)h;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    c.scan_info = progressive ? steps : lines;
    c.num_scans = progressive ? 4 : 3;
    jpeg_start_compress(&c, TRUE);
    uint8_t *row = calloc((size_t)w, 3);
    for (int y = 0; y < h; y++) {
        row[0] = (uint8_t)y;
        jpeg_write_scanlines(&c, &row, 1);
    }
    free(row);
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    size_t last = 0;
    for (size_t i = 0; i + 1 < n; i++)
        if (out[i] == 0xff && out[i + 1] == 0xda) last = i;
    text_addn(t, (char *)out, n - 2);
    for (int i = 0; i < repeats; i++) text_addn(t, (char *)out + last, n - 2 - last);
    text_addn(t, "\xff\xd9", 2);
    assert_false(t->failed);
    free(out);
}

static void test_grey_of_16_bits_says_when_it_was_clipped(void **state)
{
    (void)state;
    static const uint8_t value[6] = {0, 1, 127, 128, 254, 255};
    for (int above = 0; above < 7; above++) { /* 6: none is */
        arena  *a = arena_new(0);
        text    t = {0};
        err     e = {0};
        image   img;
        uint8_t rows[2 * 7] = {0};
        for (int i = 0; i < 6; i++) {
            uint8_t *sample = rows + i / 3 * 7 + 1 + 2 * (i % 3);
            sample[0] = i == above;
            sample[1] = value[i];
        }
        png_start(&t, 3, 2, 16, 0);
        add_data(&t, rows, sizeof rows);
        add_chunk(&t, "IEND", "", 0);
        OK(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e);
        assert_int_equal(img.clipped, above < 6);
        for (int i = 0; i < 18; i++) assert_int_equal(img.rgb[i], i / 3 == above ? 255 : value[i / 3]);
        text_free(&t);
        arena_free(a);
    }
}

/* ---- bad input ------------------------------------------------------------------------------------------------ */

static void refused_header(const void *bytes, size_t n, err_code code, const char *slug, const char *part)
{
    arena *a = arena_new(0);
    err    e = {0};
    image  img;
    int    w, h;
    REFUSED(image_peek(&w, &h, bytes, n, &IMAGE_LIMITS, &e), e, code, slug, part);
    REFUSED(image_decode(&img, bytes, n, &IMAGE_LIMITS, a, &e), e, code, slug, part);
    assert_int_equal(arena_high_water(a), 0); /* refused before memory was taken */
    arena_free(a);
}

static void test_not_an_image(void **state)
{
    (void)state;
    refused_header("", 0, ERR_UNSUPPORTED, "image-unsupported", "neither PNG nor JPEG");
    refused_header("hello, world", 12, ERR_UNSUPPORTED, "image-unsupported", "neither PNG nor JPEG");
    refused_header("GIF89a\1\0\1\0\0\0\0;", 14, ERR_UNSUPPORTED, "image-unsupported", "neither PNG nor JPEG");
    refused_header("\x89PNG\r\n\x1a\n", 8, ERR_UNUSABLE, "image-undecodable",
                   "the PNG does not decode: it ends early");
    refused_header("\x89PNG\r\n\x1a\n\0\0\0\rIDAT.......................", 40, ERR_UNUSABLE, "image-undecodable",
                   "no header");
    refused_header("\xff\xd8\xff", 3, ERR_UNUSABLE, "image-undecodable", "the JPEG does not decode: it ends early");
    refused_header("\xff\xd8\xff\xd9", 4, ERR_UNUSABLE, "image-undecodable", "the JPEG does not decode");
    refused_header("\xff\xd8\xff\xe0\xff\xff....", 10, ERR_UNUSABLE, "image-undecodable", "it ends early");
}

static void test_png_headers_of_impossible_sizes(void **state)
{
    (void)state;
    static const struct { uint32_t w, h; err_code code; const char *slug, *part; } row[] = {
        {0, 0, ERR_UNUSABLE, "image-undecodable", "no pixels: 0 x 0"},
        {0, 5, ERR_UNUSABLE, "image-undecodable", "no pixels: 0 x 5"},
        {65535, 65535, ERR_TOO_LARGE, "image-too-large", "65535 x 65535; a side may have 32767"},
        {32768, 1, ERR_TOO_LARGE, "image-too-large", "32768 x 1; a side"},
        {1, 0xffffffffu, ERR_TOO_LARGE, "image-too-large", "1 x 4294967295"},
        {0x80000001u, 0x80000001u, ERR_TOO_LARGE, "image-too-large", "a side"},
        {20000, 20000, ERR_TOO_LARGE, "image-too-large", "20000 x 20000; it may have 67108864 pixels"},
        {8193, 8192, ERR_TOO_LARGE, "image-too-large", "pixels"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        text t = {0};
        png_start(&t, row[i].w, row[i].h, 8, 2);
        add_zeros(&t, 10);
        add_chunk(&t, "IEND", "", 0);
        refused_header(t.s, t.len, row[i].code, row[i].slug, row[i].part);
        text_free(&t);
    }
}

static void test_jpeg_headers_of_impossible_sizes(void **state)
{
    (void)state;
    static const struct { int w, h; err_code code; const char *slug, *part; } row[] = {
        {0, 61, ERR_UNUSABLE, "image-undecodable", "does not decode"},
        {83, 0, ERR_UNUSABLE, "image-undecodable", "does not decode"},
        {65535, 65535, ERR_TOO_LARGE, "image-too-large", "a side of more than 65500"},
        {32768, 1, ERR_TOO_LARGE, "image-too-large", "32768 x 1"},
        {20000, 20000, ERR_TOO_LARGE, "image-too-large", "20000 x 20000"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        size_t   n;
        uint8_t *p = slurp(FIXTURE("variants/ycc420.jpg"), &n);
        size_t   sof = find_marker(p, n, 0xc0, 2);
        p[sof + 5] = (uint8_t)(row[i].h >> 8);
        p[sof + 6] = (uint8_t)row[i].h;
        p[sof + 7] = (uint8_t)(row[i].w >> 8);
        p[sof + 8] = (uint8_t)row[i].w;
        refused_header(p, n, row[i].code, row[i].slug, row[i].part);
        free(p);
    }
}

/* 1 x 1 decodes; a caller with a floor refuses it by its own name. */
static void test_one_pixel_and_the_floor(void **state)
{
    (void)state;
    static const char *const path[] = {FIXTURE("variants/one_pixel.png"), FIXTURE("variants/one_pixel.jpg")};
    const image_limits       floor = {.max_pixels = 1000, .max_side = 100, .min_side = 2};
    for (int i = 0; i < 2; i++) {
        size_t   n;
        uint8_t *p = slurp(path[i], &n);
        arena   *a = arena_new(0);
        err      e = {0};
        image    img;
        OK(image_decode(&img, p, n, &IMAGE_LIMITS, a, &e), e);
        assert_true(img.width == 1 && img.height == 1);
        REFUSED(image_decode(&img, p, n, &floor, a, &e), e, ERR_UNUSABLE, "image-too-small",
                "1 x 1; a side must have 2");
        arena_free(a);
        free(p);
    }
    size_t   n;
    uint8_t *p = slurp(FIXTURE("variants/rgb8.png"), &n); /* 37 x 23 */
    int      w, h;
    err      e = {0};
    REFUSED(image_peek(&w, &h, p, n, &(image_limits){37 * 23 - 1, 37, 1}, &e), e, ERR_TOO_LARGE, "image-too-large",
            "850 pixels");
    REFUSED(image_peek(&w, &h, p, n, &(image_limits){37 * 23, 36, 1}, &e), e, ERR_TOO_LARGE, "image-too-large",
            "36 pixels");
    e = (err){0};
    OK(image_peek(&w, &h, p, n, &(image_limits){37 * 23, 37, 23}, &e), e);
    free(p);
}

/* Neither decoder takes a file that is cut anywhere: the end must be there. Exact-size copies let the sanitizer see a
 * read past the end. */
static void cut_everywhere(const char *path, const char *name, void *ctx)
{
    (void)ctx;
    size_t   n;
    uint8_t *bytes = slurp(path, &n);
    arena   *a = arena_new(0);
    const size_t step = n < 20000 ? 16 : 97; /* one file is larger, and slower per cut */
    for (size_t cut = 0; cut < n; cut = cut + step < n ? cut + step : cut + 1, arena_reset(a)) {
        uint8_t *p = malloc(cut ? cut : 1);
        err      e = {0};
        image    img;
        memcpy(p, bytes, cut);
        if (image_decode(&img, p, cut, &IMAGE_LIMITS, a, &e))
            fail_msg("%s cut to %zu of %zu bytes decodes", name, cut, n);
        assert_int_equal(e.code, cut < 8 ? ERR_UNSUPPORTED : ERR_UNUSABLE);
        assert_string_equal(e.problem, cut < 8 ? "image-unsupported" : "image-undecodable");
        assert_string_equal(e.field, "image");
        free(p);
    }
    arena_free(a);
    free(bytes);
}

static void test_truncated_anywhere_is_an_error(void **state)
{
    (void)state;
    assert_int_equal(each_picture(FIXTURE("images"), cut_everywhere, NULL), 9);
    assert_int_equal(each_picture(FIXTURE("variants"), cut_everywhere, NULL), 55);
}

/* A few bytes changed: any result but a crash, and an error is one of the stated ones. PNG has checksums, so there a
 * change past the header is always seen. */
static void flip_bytes(const char *path, const char *name, void *count)
{
    enum { ROUNDS = 40 };
    size_t   n;
    uint8_t *bytes = slurp(path, &n), *p = malloc(n);
    arena   *a = arena_new(0);
    uint32_t seed = 1;
    for (int round = 0; round < ROUNDS; round++, arena_reset(a)) {
        memcpy(p, bytes, n);
        for (int k = 0; k <= round % 4; k++) {
            seed = seed * 1664525u + 1013904223u;
            p[8 + (seed >> 8) % (n - 8)] ^= (uint8_t)(1u << (seed >> 28 & 7));
        }
        err   e = {0};
        image img;
        bool  ok = image_decode(&img, p, n, &(image_limits){1 << 22, 32767, 1}, a, &e);
        if (ok && image_sniff(p, n) == MEDIA_PNG && memcmp(p, bytes, n) != 0)
            fail_msg("%s: round %d was not noticed", name, round);
        if (!ok) {
            assert_true(e.code == ERR_UNUSABLE || e.code == ERR_TOO_LARGE || e.code == ERR_UNSUPPORTED);
            assert_string_equal(e.field, "image");
            ++*(int *)count;
        }
    }
    arena_free(a);
    free(p);
    free(bytes);
}

static void test_flipped_bytes(void **state)
{
    (void)state;
    int refused = 0;
    each_picture(FIXTURE("images"), flip_bytes, &refused);
    each_picture(FIXTURE("variants"), flip_bytes, &refused);
    assert_true(refused > 64 * 40 / 2);
}

static void test_png_content_that_lies(void **state)
{
    (void)state;
    static const struct { int zeros, depth, type; bool end; const char *part; } row[] = {
        {9, 8, 2, true, "Not enough"},      /* 4 x 3 pixels need 39 bytes */
        {39, 8, 2, false, "it ends early"}, /* all pixels, no end */
        {39, 8, 3, true, "Missing PLTE"},   /* a palette image without one */
        {39, 3, 2, true, "Invalid"},        /* no such depth */
        {39, 8, 5, true, "Invalid"},        /* no such colour type */
    };
    arena *a = arena_new(0);
    image  img;
    err    e = {0};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        text t = {0};
        png_start(&t, 4, 3, row[i].depth, row[i].type);
        add_zeros(&t, (size_t)row[i].zeros);
        if (row[i].end) add_chunk(&t, "IEND", "", 0);
        REFUSED(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable",
                row[i].part);
        text_free(&t);
    }
    text t = {0}; /* a second header that is larger than the first */
    png_start(&t, 4, 3, 8, 2);
    uint8_t head[13] = {0, 0, 0x40, 0, 0, 0, 0x40, 0, 8, 2};
    add_chunk(&t, "IHDR", head, 13);
    add_zeros(&t, 39);
    add_chunk(&t, "IEND", "", 0);
    REFUSED(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable",
            "the PNG does not decode");
    text_free(&t);
    arena_free(a);
}

static void test_checksums(void **state)
{
    (void)state;
    static const char *const chunk[] = {"IHDR", "gAMA", "IDAT", "IEND"};
    for (int i = 0; i < 4; i++) {
        size_t   n;
        uint8_t *p = slurp(FIXTURE("variants/gamma.png"), &n), *at = memmem(p, n, chunk[i], 4);
        assert_non_null(at);
        uint32_t length = (uint32_t)at[-4] << 24 | (uint32_t)at[-3] << 16 | (uint32_t)at[-2] << 8 | at[-1];
        at[4 + length] ^= 1;
        arena *a = arena_new(0);
        err    e = {0};
        image  img;
        REFUSED(image_decode(&img, p, n, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable", "CRC error");
        assert_null(strstr(e.text, chunk[i])); /* the chunk's name is the file's content */
        arena_free(a);
        free(p);
    }
}

static void test_jpeg_content_that_lies(void **state)
{
    (void)state;
    size_t   n;
    uint8_t *p = slurp(FIXTURE("variants/ycc444_progressive.jpg"), &n);
    size_t   second = find_marker(p, n, 0xda, find_marker(p, n, 0xda, 2) + 2);
    arena   *a = arena_new(0);
    err      e = {0};
    image    img;
    /* only the first scan, then the end: the coarse picture is no answer to what was sent, but it is a lawful file */
    p[second] = 0xff;
    p[second + 1] = 0xd9;
    OK(image_decode(&img, p, second + 2, &IMAGE_LIMITS, a, &e), e);
    free(p);

    text t = {0}; /* three scans of one component each; the last left out */
    jpeg_of_scans(&t, 40, 24, false, 0);
    size_t at = 0;
    for (size_t i = 0; i + 1 < t.len; i++)
        if ((uint8_t)t.s[i] == 0xff && (uint8_t)t.s[i + 1] == 0xda) at = i;
    t.s[at + 1] = (char)0xd9;
    REFUSED(image_decode(&img, t.s, at + 2, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable",
            "a component is missing");
    text_free(&t);

    p = slurp(FIXTURE("variants/restart.jpg"), &n);
    p[find_marker(p, n, 0xd3, 0) + 1] = 0xd6; /* restart markers out of order */
    REFUSED(image_decode(&img, p, n, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable", "damaged");
    free(p);
    p = slurp(FIXTURE("variants/ycc420.jpg"), &n);
    p[find_marker(p, n, 0xc0, 2) + 4] = 12; /* bits per sample */
    REFUSED(image_decode(&img, p, n, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable",
            "the JPEG does not decode");
    free(p);
    arena_free(a);
}

/* Bytes behind the end belong to nobody and harm nobody. */
static void test_bytes_behind_the_end(void **state)
{
    (void)state;
    static const char *const path[] = {FIXTURE("variants/rgb8.png"), FIXTURE("variants/ycc420.jpg")};
    for (int i = 0; i < 2; i++) {
        size_t   n;
        uint8_t *p = slurp(path[i], &n);
        text     t = {0};
        arena   *a = arena_new(0);
        err      e = {0};
        image    img;
        text_addn(&t, (char *)p, n);
        text_add(&t, "tail that some scanners leave");
        OK(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e);
        text_free(&t);
        arena_free(a);
        free(p);
    }
}

/* ---- bombs ---------------------------------------------------------------------------------------------------- */

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}
enum { SOON_MS = 1500 }; /* of processor time, sanitizers included */

static void test_png_bomb_is_refused_by_its_header(void **state)
{
    (void)state;
    text t = {0};
    png_start(&t, 20000, 20000, 1, 0);
    add_zeros(&t, (size_t)20000 * 2501);
    add_chunk(&t, "IEND", "", 0);
    assert_true(t.len < 20000 * 2501 / 900); /* about 1000 : 1 */
    const double start = cpu_ms();
    refused_header(t.s, t.len, ERR_TOO_LARGE, "image-too-large", "20000 x 20000");
    assert_true(cpu_ms() - start < 50);
    text_free(&t);
}

/* 300 times what the header needs; the rest of the stream is not inflated into memory. */
static void test_png_that_inflates_to_more_than_its_pixels(void **state)
{
    (void)state;
    text t = {0};
    png_start(&t, 30, 30, 8, 2);
    add_zeros(&t, (size_t)1 << 20);
    add_chunk(&t, "IEND", "", 0);
    arena *a = arena_new(65536);
    err    e = {0};
    image  img;
    OK(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e); /* the surplus is ignored, as in Pillow */
    assert_true(arena_high_water(a) <= 30 * 30 * 3 + 64);
    arena_free(a);
    text_free(&t);
}

static void test_png_with_100000_text_chunks(void **state)
{
    (void)state;
    text t = {0};
    png_start(&t, 4, 3, 8, 2);
    for (int i = 0; i < 100000; i++) add_chunk(&t, i % 2 ? "tEXt" : "zTXt", "Comment\0\0x\x9cK\xaa\xaa", 14);
    add_zeros(&t, 39);
    for (int i = 0; i < 1000; i++) add_chunk(&t, "tEXt", "Comment\0x", 9);
    add_chunk(&t, "IEND", "", 0);
    assert_false(t.failed);
    arena *a = arena_new(4096);
    err    e = {0};
    image  img;
    mem_fail_after(1000000);
    const double start = cpu_ms();
    OK(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e);
    assert_true(cpu_ms() - start < SOON_MS);
    assert_true(mem_fail_after(-1) < 50); /* they are not kept: libpng asked for what any PNG takes */
    arena_free(a);
    text_free(&t);
}

static void test_jpeg_with_500_scans(void **state)
{
    (void)state;
    for (int progressive = 0; progressive < 2; progressive++) {
        text   few = {0}, many = {0};
        arena *a = arena_new(0);
        err    e = {0};
        image  img;
        jpeg_of_scans(&few, 640, 480, progressive, 70);
        OK(image_decode(&img, few.s, few.len, &IMAGE_LIMITS, a, &e), e);
        jpeg_of_scans(&many, 640, 480, progressive, 500);
        const double start = cpu_ms();
        REFUSED(image_decode(&img, many.s, many.len, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable",
                "too many scans");
        assert_true(cpu_ms() - start < SOON_MS);
        text_free(&few);
        text_free(&many);
        arena_free(a);
    }
}

/* Scans times pixels: 70 scans are taken of a small picture (above), not of one of 16 M pixels. */
static void test_scans_are_counted_by_size(void **state)
{
    (void)state;
    text   t = {0};
    arena *a = arena_new(0);
    err    e = {0};
    image  img;
    jpeg_of_scans(&t, 4096, 4096, true, 70);
    const double start = cpu_ms();
    REFUSED(image_decode(&img, t.s, t.len, &IMAGE_LIMITS, a, &e), e, ERR_UNUSABLE, "image-undecodable",
            "too many scans");
    assert_true(cpu_ms() - start < SOON_MS);
    arena_free(a);
    text_free(&t);
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static void fail_each_allocation(const char *path, const char *name, void *count)
{
    size_t   n;
    uint8_t *p = slurp(path, &n);
    for (long i = 0;; i++) {
        arena *a = arena_new(0);
        err    e = {0};
        image  img;
        mem_fail_after(i);
        bool ok = image_decode(&img, p, n, &IMAGE_LIMITS, a, &e);
        long calls = mem_fail_after(-1);
        if (!ok && e.code != ERR_MEMORY) fail_msg("%s: allocation %ld failed and the error is %s", name, i, e.text);
        e = (err){0};
        OK(image_decode(&img, p, n, &IMAGE_LIMITS, a, &e), e); /* still usable */
        arena_free(a);
        if (ok && calls <= i) break; /* the i-th was not reached */
        ++*(int *)count;
    }
    free(p);
}

static void test_decoding_without_memory(void **state)
{
    (void)state;
    static const char *const name[] = {"rgb8.png", "palette4_adam7.png", "gray16.png", "cmyk.jpg",
                                       "ycc420_progressive.jpg"};
    int                      faults = 0;
    for (int i = 0; i < 5; i++) {
        char path[256];
        snprintf(path, sizeof path, FIXTURE("variants/%s"), name[i]);
        fail_each_allocation(path, name[i], &faults);
    }
    assert_true(faults > 15);
    size_t   n;
    uint8_t *p = slurp(FIXTURE("variants/cmyk.jpg"), &n);
    arena   *a = arena_new(1000);
    err      e = {0};
    image    img;
    FAILS(image_decode(&img, p, n, &IMAGE_LIMITS, a, &e), e, ERR_MEMORY, "1000 bytes");
    arena_free(a);
    free(p);
}

/* ---- PNG written ---------------------------------------------------------------------------------------------- */

static void round_trip(const image *img, int color_type)
{
    arena   *a = arena_new(0);
    err      e = {0};
    uint8_t *png;
    size_t   n;
    image    back;
    OK(image_encode_png(&png, &n, img, a, &e), e);
    assert_int_equal(image_sniff(png, n), MEDIA_PNG);
    assert_int_equal(png[25], color_type);
    OK(image_decode(&back, png, n, &IMAGE_LIMITS, a, &e), e);
    assert_true(back.width == img->width && back.height == img->height);
    assert_memory_equal(back.rgb, img->rgb, (size_t)img->width * img->height * 3);
    arena_free(a);
}

static void test_png_round_trip(void **state)
{
    (void)state;
    static const int size[][2] = {{1, 1}, {1, 97}, {97, 1}, {63, 64}, {257, 129}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        arena *a = arena_new(0);
        image  img = synthetic(size[i][0], size[i][1], a);
        round_trip(&img, 2);
        const size_t bytes = (size_t)img.width * img.height * 3;
        for (size_t k = 0; k < bytes; k++) img.rgb[k] = img.rgb[k / 3 * 3];
        round_trip(&img, 0);
        img.rgb[bytes - 1] ^= 1; /* one pixel that is not grey, the last */
        round_trip(&img, 2);
        uint32_t seed = 3; /* noise does not compress: the output's bound must hold */
        for (size_t k = 0; k < bytes; k++) img.rgb[k] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
        round_trip(&img, 2);
        arena_free(a);
    }
}

static void test_encoding_without_memory(void **state)
{
    (void)state;
    int   faults = 0;
    arena *keep = arena_new(0);
    image  img = synthetic(40, 30, keep);
    for (long i = 0;; i++) {
        arena   *a = arena_new(0);
        err      e = {0};
        uint8_t *png;
        size_t   n;
        mem_fail_after(i);
        bool ok = image_encode_png(&png, &n, &img, a, &e);
        long calls = mem_fail_after(-1);
        if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        arena_free(a);
        if (ok && calls <= i) break;
        faults++;
    }
    assert_true(faults >= 4);
    err      e = {0};
    uint8_t *png;
    size_t   n;
    FAILS(image_encode_png(&png, &n, &(image){0}, keep, &e), e, ERR_BUG, "no pixels");
    arena_free(keep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures_give_pillows_pixels),
        cmocka_unit_test(test_every_layout_gives_pillows_pixels),
        cmocka_unit_test(test_grey_of_16_bits_says_when_it_was_clipped),
        cmocka_unit_test(test_sniffing),
        cmocka_unit_test(test_not_an_image),
        cmocka_unit_test(test_png_headers_of_impossible_sizes),
        cmocka_unit_test(test_jpeg_headers_of_impossible_sizes),
        cmocka_unit_test(test_one_pixel_and_the_floor),
        cmocka_unit_test(test_truncated_anywhere_is_an_error),
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_png_content_that_lies),
        cmocka_unit_test(test_checksums),
        cmocka_unit_test(test_jpeg_content_that_lies),
        cmocka_unit_test(test_bytes_behind_the_end),
        cmocka_unit_test(test_png_bomb_is_refused_by_its_header),
        cmocka_unit_test(test_png_that_inflates_to_more_than_its_pixels),
        cmocka_unit_test(test_png_with_100000_text_chunks),
        cmocka_unit_test(test_jpeg_with_500_scans),
        cmocka_unit_test(test_scans_are_counted_by_size),
        cmocka_unit_test(test_decoding_without_memory),
        cmocka_unit_test(test_png_round_trip),
        cmocka_unit_test(test_encoding_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
