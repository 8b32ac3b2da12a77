#include "pixels.h"

#include <string.h>

#include "status.h"

/* Bytes of one pixel, 0 for a format that there is not. */
static size_t pixel_bytes(int32_t format) {
  switch (format) {
    case CFF_PIXEL_RGB:
    case CFF_PIXEL_BGR:
      return 3;
    case CFF_PIXEL_RGBA:
      return 4;
    case CFF_PIXEL_GREY:
      return 1;
    default:
      return 0;
  }
}

bool cff__multiply(size_t a, size_t b, size_t *product) {
  if (a != 0 && b > SIZE_MAX / a) {
    return false;
  }
  *product = a * b;
  return true;
}

cff_status cff__check_image(const cff_image *image) {
  size_t row, bytes;
  if (!image || !image->pixels) {
    return cff__fail(CFF_ERROR_USAGE, "`image` must be given with its pixels, got NULL");
  }
  const size_t pixel = pixel_bytes(image->format);
  if (pixel == 0) {
    return cff__fail(CFF_ERROR_USAGE, "`image.format` must be a cff_pixel_format, got %d",
                     (int)image->format);
  }
  if (image->height < CFF__MIN_SIDE || image->width < CFF__MIN_SIDE) {
    return cff__fail(CFF_ERROR_IMAGE,
                     "`image` must be at least %d x %d px, got %d x %d; is it a thumbnail or "
                     "an empty crop?",
                     CFF__MIN_SIDE, CFF__MIN_SIDE, (int)image->width, (int)image->height);
  }
  /* pointers into one object differ by at most PTRDIFF_MAX */
  if (!cff__multiply((size_t)image->width, pixel, &row) || image->stride < row ||
      !cff__multiply((size_t)image->height, image->stride, &bytes) || bytes > (size_t)PTRDIFF_MAX) {
    return cff__fail(CFF_ERROR_USAGE,
                     "`image.stride` must be the bytes from one row to the next, at least the "
                     "%d pixels of a row, got %llu",
                     (int)image->width, (unsigned long long)image->stride);
  }
  return CFF_OK;
}

static void bgr_row(const uint8_t *from, size_t width, uint8_t *to) {
  for (size_t x = 0; x < width; x++, from += 3, to += 3) {
    to[0] = from[2];
    to[1] = from[1];
    to[2] = from[0];
  }
}

static void rgba_row(const uint8_t *from, size_t width, uint8_t *to) {
  for (size_t x = 0; x < width; x++, from += 4, to += 3) {
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
  }
}

static void grey_row(const uint8_t *from, size_t width, uint8_t *to) {
  for (size_t x = 0; x < width; x++, to += 3) {
    to[0] = to[1] = to[2] = from[x];
  }
}

void cff__to_rgb(const cff_image *image, uint8_t *rgb) {
  const size_t width = (size_t)image->width;
  for (size_t y = 0; y < (size_t)image->height; y++) {
    const uint8_t *from = image->pixels + y * image->stride;
    uint8_t *to = rgb + y * width * 3;
    switch (image->format) {
      case CFF_PIXEL_BGR:
        bgr_row(from, width, to);
        break;
      case CFF_PIXEL_RGBA:
        rgba_row(from, width, to);
        break;
      case CFF_PIXEL_GREY:
        grey_row(from, width, to);
        break;
      default:
        memcpy(to, from, width * 3);
    }
  }
}
