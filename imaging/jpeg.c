/* jpeg.c - JPEG to RGB by libjpeg-turbo with its defaults (accurate integer inverse DCT, triangle-filter chroma
 * upsampling), which are Pillow's too: the pixels are the same.
 * Grey is repeated. CMYK and YCCK are read as inverted, as Adobe writes them and Pillow assumes, then
 * RGB = (255 - ink) (255 - K) / 255. Colour profiles and EXIF orientation are ignored, as convert("RGB") does.
 *
 * What is an error       libjpeg warns and goes on where it can; a made-up pixel is no pixel of the patient, so the
 *                        warnings about data that ended, bad codes, lost restart markers and impossible progression
 *                        are errors here. Stray bytes between segments, odd JFIF or Adobe versions are harmless.
 * A file that ends early is an error, even where only the end marker is missing: so it is in Pillow, and what
 * is missing in a file of several scans cannot be told. There must be a scan for each component.
 * Bounds                 Sides and pixels are checked in the header. A progressive file costs time per scan whatever
 *                        its length: scans are counted (MAX_SCANS), and so is their product with the picture's size.
 *                        Coefficient memory is capped by the number of pixels.
 * setjmp                 all that changes lies in jpeg_job, which the function above owns. */
#include <stdio.h> /* jpeglib.h needs FILE */

#include <jpeglib.h>
#include <jerror.h>
#include <setjmp.h>
#include <string.h>

#include "imaging/codec.h"

/* Encoders write 10 scans, optimisers up to about 20: FREE_SCANS are always taken, up to MAX_SCANS where the
 * picture is small enough that scans times pixels stay below SCAN_PIXELS. */
enum { FREE_SCANS = 16, MAX_SCANS = 100, CHANNELS = 3 };
static const int64_t SCAN_PIXELS = (int64_t)FREE_SCANS << 26;

typedef struct {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr         errors;
    struct jpeg_source_mgr        source;
    struct jpeg_progress_mgr      progress;
    jmp_buf                       leave;
    err                          *e;
    int                           last_scan;
    unsigned                      seen; /* bit i: a scan held component i */
} jpeg_job;

/* ---- libjpeg's doors ------------------------------------------------------------------------------------------ */

static _Noreturn void leave(jpeg_job *j) { longjmp(j->leave, 1); }

static _Noreturn void refuse(jpeg_job *j, const char *what)
{
    image_undecodable(j->e, "JPEG", what);
    leave(j);
}

static void on_error(j_common_ptr c)
{
    jpeg_job *j = (jpeg_job *)c->client_data;
    char      message[JMSG_LENGTH_MAX];
    switch (c->err->msg_code) {
    case JERR_OUT_OF_MEMORY:
    case JERR_NO_BACKING_STORE: err_set(j->e, ERR_MEMORY, "JPEG: out of memory"); break;
    case JERR_IMAGE_TOO_BIG:
        err_at(j->e, ERR_TOO_LARGE, "image-too-large", "image", "the image has a side of more than %ld pixels",
               (long)JPEG_MAX_DIMENSION);
        break;
    default: /* libjpeg's texts hold numbers of the header at most */
        c->err->format_message(c, message);
        image_undecodable(j->e, "JPEG", message);
    }
    leave(j);
}

/* level -1 is a warning, 0 and up are trace messages. */
static void on_message(j_common_ptr c, int level)
{
    if (level >= 0) return;
    switch (c->err->msg_code) {
    case JWRN_HIT_MARKER:
    case JWRN_JPEG_EOF: refuse((jpeg_job *)c->client_data, "it ends early or its data is damaged");
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_BOGUS_PROGRESSION: refuse((jpeg_job *)c->client_data, "its data is damaged");
    default: break;
    }
}

static void on_output(j_common_ptr c) { (void)c; }
static void source_nothing(j_decompress_ptr c) { (void)c; }

static boolean source_fill(j_decompress_ptr c) { refuse(c->client_data, "it ends early"); }

static void source_skip(j_decompress_ptr c, long n)
{
    if (n <= 0) return;
    if ((size_t)n > c->src->bytes_in_buffer) refuse(c->client_data, "it ends early");
    c->src->next_input_byte += n;
    c->src->bytes_in_buffer -= (size_t)n;
}

/* Called once per row of blocks and at each new scan: counts scans and the components they hold. */
static void on_progress(j_common_ptr common)
{
    j_decompress_ptr c = (j_decompress_ptr)common;
    jpeg_job        *j = c->client_data;
    if (c->input_scan_number == j->last_scan) return;
    j->last_scan = c->input_scan_number;
    for (int i = 0; i < c->comps_in_scan; i++) j->seen |= 1u << c->cur_comp_info[i]->component_index;
    const int64_t work = j->last_scan * (int64_t)c->image_width * c->image_height;
    if (j->last_scan > MAX_SCANS || (j->last_scan > FREE_SCANS && work > SCAN_PIXELS))
        refuse(j, "it has too many scans");
}

/* ---- decoding ------------------------------------------------------------------------------------------------- */

/* Up to the first scan; what the header says is then in c. Run under setjmp. */
static void read_header(jpeg_job *j, const uint8_t *bytes, size_t n, const image_limits *lim)
{
    j_decompress_ptr c = &j->c;
    jpeg_create_decompress(c);
    j->source = (struct jpeg_source_mgr){.next_input_byte = bytes,
                                         .bytes_in_buffer = n,
                                         .init_source = source_nothing,
                                         .fill_input_buffer = source_fill,
                                         .skip_input_data = source_skip,
                                         .resync_to_restart = jpeg_resync_to_restart,
                                         .term_source = source_nothing};
    c->src = &j->source;
    jpeg_read_header(c, TRUE);
    if (!image_check_size(c->image_width, c->image_height, lim, j->e)) leave(j);
    if (c->num_components != 1 && c->num_components != 3 && c->num_components != 4)
        refuse(j, "it has neither 1 nor 3 nor 4 components");
}

static void prepare(jpeg_job *j, err *e)
{
    *j = (jpeg_job){.e = e};
    j->c.err = jpeg_std_error(&j->errors);
    j->errors.error_exit = on_error;
    j->errors.emit_message = on_message;
    j->errors.output_message = on_output;
    j->c.client_data = j; /* jpeg_create_decompress keeps err and client_data and clears the rest */
}

/* (255 - ink) (255 - K) / 255 rounded, of inks that are stored inverted. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++, rgb += CHANNELS, cmyk += 4)
        for (int i = 0; i < CHANNELS; i++) {
            const int k = cmyk[3], t = (255 - cmyk[i]) * k + 128; /* k: what black leaves */
            rgb[i] = (uint8_t)(k - ((t >> 8) + t) / 256);
        }
}

/* The part that libjpeg may leave by longjmp. */
static bool read_pixels(jpeg_job *j, image *out, const uint8_t *bytes, size_t n, const image_limits *lim, arena *a)
{
    if (setjmp(j->leave)) return false;
    j_decompress_ptr c = &j->c;
    read_header(j, bytes, n, lim);
    const size_t width = c->image_width, pixels = width * c->image_height;
    const bool   cmyk = c->num_components == 4;
    uint8_t     *rgb = arena_take_n(a, pixels, CHANNELS, j->e);
    uint8_t     *inks = rgb && cmyk ? arena_take_n(a, width, 4, j->e) : NULL;
    if (!rgb || (cmyk && !inks)) leave(j);

    /* Coefficients of a file with several scans: 2 bytes per sample, sides padded to blocks of at most 4 x 8. */
    c->mem->max_memory_to_use =
        (long)((width + 32) * ((size_t)c->image_height + 32) * 2 * (size_t)c->num_components + (1 << 20));
    c->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    c->progress = &j->progress;
    j->progress.progress_monitor = on_progress;
    jpeg_start_decompress(c);
    if (jpeg_has_multiple_scans(c) && j->seen + 1 != 1u << c->num_components) refuse(j, "a component is missing");
    while (c->output_scanline < c->output_height) {
        uint8_t *row = rgb + (size_t)c->output_scanline * width * CHANNELS, *into = cmyk ? inks : row;
        jpeg_read_scanlines(c, &into, 1);
        if (cmyk) cmyk_to_rgb(row, inks, (int)width);
    }
    jpeg_finish_decompress(c); /* the end marker is there, and no further scan */
    *out = (image){.width = (int)width, .height = (int)c->image_height, .rgb = rgb};
    return true;
}

static bool read_size(jpeg_job *j, const uint8_t *bytes, size_t n, const image_limits *lim)
{
    if (setjmp(j->leave)) return false;
    read_header(j, bytes, n, lim);
    return true;
}

bool image_jpeg_decode(image *out, const uint8_t *bytes, size_t n, const image_limits *lim, arena *a, err *e)
{
    jpeg_job j;
    prepare(&j, e);
    const bool ok = read_pixels(&j, out, bytes, n, lim, a);
    jpeg_destroy_decompress(&j.c); /* fine on a struct that was never created: mem is NULL */
    return ok;
}

bool image_jpeg_peek(int *width, int *height, const uint8_t *bytes, size_t n, const image_limits *lim, err *e)
{
    jpeg_job j;
    prepare(&j, e);
    const bool ok = read_size(&j, bytes, n, lim);
    if (ok) {
        *width = (int)j.c.image_width;
        *height = (int)j.c.image_height;
    }
    jpeg_destroy_decompress(&j.c);
    return ok;
}
