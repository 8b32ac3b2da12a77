/* Resizing between any two sizes: refused, or done without reading or writing beyond them. */
#include <string.h>

#include "fuzz.h"
#include "resize.h"

#define MAX_BYTES ((size_t)1 << 18)
#define MAX_WORK ((size_t)1 << 21) /* weights times rows, so that none takes long */

/* Small, or near the limit. */
static size_t take_side(fuzz_input *input) {
  uint8_t how = fuzz_take_u8(input);
  if (how < 200) return how;
  return how < 228 ? fuzz_take_size(input, 5000) : fuzz_take_size(input, CFF__MAX_SIDE + 2);
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  fuzz_input input = {data, n_bytes};
  size_t in_height = take_side(&input), in_width = take_side(&input);
  size_t height = take_side(&input), width = take_side(&input);
  size_t stride = in_width * 3 + fuzz_take_u8(&input) % 9;
  size_t limit = CFF__MAX_SIDE;
  uint8_t nothing[3];
  if (in_height == 0 || in_width == 0 || height == 0 || width == 0 || in_height > limit ||
      in_width > limit || height > limit || width > limit) {
    cff_status status =
        cff__resize_rgb(nothing, in_height, in_width, stride, nothing, height, width);
    fuzz_check_failure(status, CFF_ERROR_IMAGE, CFF_ERROR_IMAGE);
    return 0;
  }
  size_t n_in = (in_height - 1) * stride + in_width * 3, n_out = height * width * 3;
  if (n_in > MAX_BYTES || n_out > MAX_BYTES || in_height * width * 3 > MAX_BYTES ||
      5 * in_height * larger(in_width, width) > MAX_WORK ||
      5 * width * larger(in_height, height) > MAX_WORK)
    return 0;
  uint8_t *pixels = malloc(n_in), *resized = malloc(n_out);
  FUZZ_CHECK(pixels != NULL && resized != NULL);
  uint8_t fill = fuzz_take_u8(&input);
  memset(pixels, fill, n_in);
  fuzz_take(&input, pixels, n_in < input.n_left ? n_in : input.n_left);
  FUZZ_CHECK(cff__resize_rgb(pixels, in_height, in_width, stride, resized, height, width) ==
             CFF_OK);
  if (in_height == height && in_width == width)
    for (size_t y = 0; y < height; y++)
      FUZZ_CHECK(memcmp(pixels + y * stride, resized + y * width * 3, width * 3) == 0);
  free(pixels);
  free(resized);
  return 0;
}
