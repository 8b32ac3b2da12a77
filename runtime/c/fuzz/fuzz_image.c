/* An image of a caller: whatever its fields say, it is refused or read, and never beyond the last
 * pixel of its last row. */
#include <string.h>

#include "fuzz.h"
#include "pixels.h"
#include "resize.h"

#define MAX_BYTES ((size_t)1 << 18)

static size_t pixel_bytes(int32_t format) {
  return format == CFF_PIXEL_GREY ? 1 : format == CFF_PIXEL_RGBA ? 4 : 3;
}

/* Half of the images are small, so that some are taken. */
static cff_image take_image(fuzz_input *input) {
  cff_image image;
  static const uint8_t byte = 0; /* never read */
  uint8_t how = fuzz_take_u8(input);
  image.pixels = &byte;
  image.format = how & 8 ? (int32_t)fuzz_take_u32(input) : (how & 3);
  if (how & 4) {
    image.width = (int32_t)fuzz_take_u32(input);
    image.height = (int32_t)fuzz_take_u32(input);
    image.stride = (size_t)fuzz_take_u32(input) << (how & 16 ? 32 : 0) | fuzz_take_u32(input);
  } else {
    image.width = 12 + fuzz_take_u8(input);
    image.height = 12 + fuzz_take_u8(input);
    image.stride = (size_t)image.width * pixel_bytes(image.format) + fuzz_take_u8(input) % 70;
  }
  return image;
}

/* As one call, and as the two that it stands for. */
static void check_preprocess(const cff_image *image, size_t height, size_t width) {
  size_t in_height = (size_t)image->height, in_width = (size_t)image->width;
  uint8_t *one = malloc(height * width * 3), *two = malloc(height * width * 3);
  uint8_t *rgb = malloc(in_height * in_width * 3);
  FUZZ_CHECK(one != NULL && two != NULL && rgb != NULL);
  FUZZ_CHECK(cff__preprocess(image, one, height, width) == CFF_OK);
  cff__to_rgb(image, rgb);
  FUZZ_CHECK(cff__resize_rgb(rgb, in_height, in_width, in_width * 3, two, height, width) == CFF_OK);
  FUZZ_CHECK(memcmp(one, two, height * width * 3) == 0);
  free(one);
  free(two);
  free(rgb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  fuzz_input input = {data, n_bytes};
  size_t height = 1 + fuzz_take_u8(&input) % 80, width = 1 + fuzz_take_u8(&input) % 80;
  cff_image image = take_image(&input);
  cff_status status = cff__check_image(&image);
  if (status != CFF_OK) {
    fuzz_check_failure(status, CFF_ERROR_USAGE, CFF_ERROR_IMAGE);
    return 0;
  }
  size_t row = (size_t)image.width * pixel_bytes(image.format);
  FUZZ_CHECK(image.width >= CFF__MIN_SIDE && image.height >= CFF__MIN_SIDE);
  FUZZ_CHECK(image.stride >= row && image.stride <= (size_t)PTRDIFF_MAX / (size_t)image.height);
  if (image.stride > MAX_BYTES / (size_t)image.height) return 0;
  size_t n_pixels = ((size_t)image.height - 1) * image.stride + row;
  uint8_t *pixels = malloc(n_pixels); /* the last row has no gap after it */
  FUZZ_CHECK(pixels != NULL);
  memset(pixels, 0x5a, n_pixels);
  fuzz_take(&input, pixels, n_pixels < input.n_left ? n_pixels : input.n_left);
  image.pixels = pixels;
  check_preprocess(&image, height, width);
  free(pixels);
  return 0;
}
