#include "read_image.h"

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_PNG
#include <png.h>
#define PNG_OR "PNG, "
#else
#define PNG_OR ""
#endif
#ifdef WITH_JPEG
#include <jpeglib.h>
#include <jerror.h>
#define JPEG_OR "JPEG, "
#else
#define JPEG_OR ""
#endif

/* A file that is being read. */
typedef struct reading {
  FILE *file;
  uint8_t *pixels;
  size_t width;
  size_t height;
  char why[256];
  jmp_buf failed; /* where decoders go from any depth */
#ifdef WITH_PNG
  png_structp png;
  png_infop info;
#endif
#ifdef WITH_JPEG
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr jpeg_errors;
#endif
} reading;

static void stop(reading *r, const char *why) {
  snprintf(r->why, sizeof r->why, "%s", why);
  longjmp(r->failed, 1);
}

/* Pillow's limit: a few bytes must not ask for gigabytes. */
static void allocate(reading *r, size_t width, size_t height) {
  const size_t max_pixels = 178956970;
  if (width == 0 || height == 0) stop(r, "it is empty");
  if (height > max_pixels / width) stop(r, "it has more than 178956970 pixels");
  r->pixels = malloc(width * height * 3);
  if (r->pixels == NULL) stop(r, "there is not enough memory");
  r->width = width;
  r->height = height;
}

/* ---- PPM and PGM ----------------------------------------------------------------------------- */

/* A number of the header, behind blanks and comments; the one blank after it is read too. */
static size_t read_number(reading *r) {
  int c = fgetc(r->file);
  while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = fgetc(r->file);
    }
    c = fgetc(r->file);
  }
  if (c < '0' || c > '9') stop(r, "its header is damaged");
  size_t number = 0;
  for (; c >= '0' && c <= '9'; c = fgetc(r->file)) {
    number = 10 * number + (size_t)(c - '0');
    if (number > 1000000000) stop(r, "its header is damaged");
  }
  return number;
}

static void decode_ppm(reading *r) {
  bool is_grey = fgetc(r->file) == 'P' && fgetc(r->file) == '5';
  size_t width = read_number(r);
  size_t height = read_number(r);
  if (read_number(r) != 255) stop(r, "its largest value is not 255");
  allocate(r, width, height);
  size_t n_values = width * height * (is_grey ? 1 : 3);
  if (fread(r->pixels, 1, n_values, r->file) != n_values) stop(r, "it is truncated");
  if (is_grey) { /* from the end, so that no value is overwritten before it was read */
    for (size_t i = n_values; i-- > 0;) memset(r->pixels + 3 * i, r->pixels[i], 3);
  }
}

/* ---- PNG ------------------------------------------------------------------------------------- */

#ifdef WITH_PNG
static void on_png_error(png_structp png, png_const_charp why) {
  stop(png_get_error_ptr(png), why);
}

static void on_png_warning(png_structp png, png_const_charp why) {
  (void)png;
  (void)why;
}

/* Not libpng's simplified interface: that one applies gamma. */
static void decode_png(reading *r) {
  r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, on_png_error, on_png_warning);
  r->info = r->png == NULL ? NULL : png_create_info_struct(r->png);
  if (r->info == NULL) stop(r, "there is not enough memory");
  png_init_io(r->png, r->file);
  png_read_info(r->png, r->info);
  png_set_expand(r->png);      /* palettes, and 1, 2 or 4 bits */
  png_set_strip_16(r->png);    /* keeps the high byte */
  png_set_strip_alpha(r->png); /* drops it, without compositing */
  png_set_gray_to_rgb(r->png);
  int n_passes = png_set_interlace_handling(r->png);
  png_read_update_info(r->png, r->info);
  allocate(r, png_get_image_width(r->png, r->info), png_get_image_height(r->png, r->info));
  if (png_get_rowbytes(r->png, r->info) != 3 * r->width) stop(r, "its rows are not RGB");
  for (int pass = 0; pass < n_passes; pass++) {
    for (size_t y = 0; y < r->height; y++) {
      png_read_row(r->png, r->pixels + 3 * r->width * y, NULL);
    }
  }
}
#endif

/* ---- JPEG ------------------------------------------------------------------------------------ */

#ifdef WITH_JPEG
static void on_jpeg_error(j_common_ptr jpeg) {
  char why[JMSG_LENGTH_MAX];
  jpeg->err->format_message(jpeg, why);
  stop(jpeg->client_data, why);
}

/* libjpeg goes on with grey where a file ends too early. */
static void on_jpeg_message(j_common_ptr jpeg, int level) {
  if (level < 0 && jpeg->err->msg_code == JWRN_JPEG_EOF) stop(jpeg->client_data, "it is truncated");
}

static void decode_jpeg(reading *r) {
  r->jpeg.err = jpeg_std_error(&r->jpeg_errors);
  r->jpeg_errors.error_exit = on_jpeg_error;
  r->jpeg_errors.emit_message = on_jpeg_message;
  r->jpeg.client_data = r;
  jpeg_create_decompress(&r->jpeg);
  jpeg_stdio_src(&r->jpeg, r->file);
  jpeg_read_header(&r->jpeg, TRUE);
  if (r->jpeg.num_components != 1 && r->jpeg.num_components != 3) {
    stop(r, "it is CMYK; convert it to RGB");
  }
  r->jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&r->jpeg);
  allocate(r, r->jpeg.output_width, r->jpeg.output_height);
  while (r->jpeg.output_scanline < r->jpeg.output_height) {
    JSAMPROW row = r->pixels + 3 * r->width * r->jpeg.output_scanline;
    jpeg_read_scanlines(&r->jpeg, &row, 1);
  }
  jpeg_finish_decompress(&r->jpeg);
}
#endif

/* ---------------------------------------------------------------------------------------------- */

static void decode(reading *r) {
  uint8_t start[8] = {0};
  size_t n_bytes = fread(start, 1, sizeof start, r->file);
  rewind(r->file);
  if (n_bytes >= 2 && start[0] == 'P' && (start[1] == '5' || start[1] == '6')) {
    decode_ppm(r);
#ifdef WITH_PNG
  } else if (memcmp(start, "\x89PNG\r\n\x1a\n", 8) == 0) {
    decode_png(r);
#endif
#ifdef WITH_JPEG
  } else if (memcmp(start, "\xff\xd8\xff", 3) == 0) {
    decode_jpeg(r);
#endif
  } else {
    stop(r, "its format is not known to this program");
  }
}

static bool try_decode(reading *r) {
  if (setjmp(r->failed) != 0) return false;
  decode(r);
  return true;
}

bool read_image(const char *path, cff_image *image, char reason[REASON_BYTES]) {
  memset(image, 0, sizeof *image);
  reading r = {0};
  r.file = fopen(path, "rb");
  if (r.file == NULL) {
    snprintf(reason, REASON_BYTES, "image `%s` must be a readable file: %s", path, strerror(errno));
    return false;
  }
  bool is_done = try_decode(&r);
#ifdef WITH_PNG
  if (r.png != NULL) png_destroy_read_struct(&r.png, &r.info, NULL);
#endif
#ifdef WITH_JPEG
  if (r.jpeg.err != NULL) jpeg_destroy_decompress(&r.jpeg);
#endif
  fclose(r.file);
  if (!is_done) {
    free(r.pixels);
    snprintf(reason, REASON_BYTES, "`%s` must be a readable " PNG_OR JPEG_OR "PPM or PGM image: %s",
             path, r.why);
    return false;
  }
  image->pixels = r.pixels;
  image->width = (int32_t)r.width;
  image->height = (int32_t)r.height;
  image->stride = 3 * r.width;
  image->format = CFF_PIXEL_RGB;
  return true;
}

void free_image(cff_image *image) {
  free((void *)image->pixels);
  image->pixels = NULL;
}
