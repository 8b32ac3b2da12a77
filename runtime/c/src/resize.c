#include "resize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pixels.h"
#include "status.h"

#define FRACTION_BITS 22
#define CHUNK 512 /* sums of the vertical pass, on the stack */

/* For each output sample: the first input sample that it reads, how many, and their weights. */
typedef struct axis {
  size_t n_out;
  size_t n_taps; /* room per output sample */
  size_t *first;
  size_t *count;
  int32_t *weights; /* [n_out,n_taps] */
} axis;

static double cubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1.0) {
    return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  }
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

static void axis_free(axis *one) {
  free(one->first);
  free(one->count);
  free(one->weights);
}

/* Weights of one output sample. `room` holds n_taps numbers. */
static void axis_sample(axis *one, size_t index, size_t n_in, double *room) {
  const double scale = (double)n_in / (double)one->n_out;
  const double widened = scale > 1.0 ? scale : 1.0;
  const double support = 2.0 * widened;
  const double centre = ((double)index + 0.5) * scale;
  /* + 0.5 and towards zero: the samples whose centres lie inside the support */
  const double start = centre - support + 0.5, stop = centre + support + 0.5;
  const size_t first = start > 0.0 ? (size_t)start : 0;
  const size_t last = stop < (double)n_in ? (size_t)stop : n_in;
  /* a multiplication, as Pillow has it: a division would round differently */
  const double inverse = 1.0 / widened;
  int32_t *weights = one->weights + index * one->n_taps;
  double total = 0.0;
  one->first[index] = first;
  one->count[index] = last - first;
  for (size_t tap = 0; tap < last - first; tap++) {
    room[tap] = cubic(((double)(tap + first) - centre + 0.5) * inverse);
    total += room[tap];
  }
  for (size_t tap = 0; tap < last - first; tap++) {
    const double fixed =
        (total != 0.0 ? room[tap] / total : room[tap]) * (double)(1 << FRACTION_BITS);
    weights[tap] = (int32_t)(fixed < 0.0 ? fixed - 0.5 : fixed + 0.5);
  }
}

static bool axis_make(axis *one, size_t n_in, size_t n_out) {
  const double scale = (double)n_in / (double)n_out;
  size_t n_weights;
  one->n_out = n_out;
  one->n_taps = (size_t)ceil(2.0 * (scale > 1.0 ? scale : 1.0)) * 2 + 1;
  one->first = malloc(n_out * sizeof *one->first);
  one->count = malloc(n_out * sizeof *one->count);
  one->weights = NULL;
  if (cff__multiply(n_out, one->n_taps * sizeof *one->weights, &n_weights)) {
    one->weights = malloc(n_weights);
  }
  double *room = malloc(one->n_taps * sizeof *room);
  const bool made = one->first && one->count && one->weights && room;
  for (size_t index = 0; made && index < n_out; index++) {
    axis_sample(one, index, n_in, room);
  }
  free(room);
  if (!made) {
    axis_free(one);
  }
  return made;
}

static uint8_t clipped(int32_t sum) {
  /* an arithmetic shift: rounds downwards, of negative sums too */
  const int32_t level = sum >> FRACTION_BITS;
  return (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
}

/* |sum| < 2**31: the weights' absolute values sum to less than 1.5 * 2**22. */
static void row_horizontal(const uint8_t *from, const axis *columns, uint8_t *to) {
  const int32_t half = 1 << (FRACTION_BITS - 1);
  for (size_t x = 0; x < columns->n_out; x++, to += 3) {
    const uint8_t *pixel = from + columns->first[x] * 3;
    const int32_t *weights = columns->weights + x * columns->n_taps;
    const size_t count = columns->count[x];
    int32_t red = half, green = half, blue = half;
    for (size_t tap = 0; tap < count; tap++, pixel += 3) {
      red += pixel[0] * weights[tap];
      green += pixel[1] * weights[tap];
      blue += pixel[2] * weights[tap];
    }
    to[0] = clipped(red);
    to[1] = clipped(green);
    to[2] = clipped(blue);
  }
}

/* One output row from `count` input rows of n values, `stride` apart. */
static void row_vertical(const uint8_t *from, size_t stride, size_t n, const int32_t *weights,
                         size_t count, uint8_t *to) {
  int32_t sums[CHUNK];
  for (size_t start = 0; start < n; start += CHUNK) {
    const size_t length = n - start < CHUNK ? n - start : CHUNK;
    for (size_t i = 0; i < length; i++) {
      sums[i] = 1 << (FRACTION_BITS - 1);
    }
    for (size_t tap = 0; tap < count; tap++) {
      const uint8_t *row = from + tap * stride + start;
      const int32_t weight = weights[tap];
      for (size_t i = 0; i < length; i++) {
        sums[i] += row[i] * weight;
      }
    }
    for (size_t i = 0; i < length; i++) {
      to[start + i] = clipped(sums[i]);
    }
  }
}

static bool pass_horizontal(const uint8_t *from, size_t in_width, size_t stride, uint8_t *to,
                            size_t height, size_t width) {
  axis columns;
  if (in_width == width) {
    for (size_t y = 0; y < height; y++) {
      memcpy(to + y * width * 3, from + y * stride, width * 3);
    }
    return true;
  }
  if (!axis_make(&columns, in_width, width)) {
    return false;
  }
  for (size_t y = 0; y < height; y++) {
    row_horizontal(from + y * stride, &columns, to + y * width * 3);
  }
  axis_free(&columns);
  return true;
}

static bool pass_vertical(const uint8_t *from, size_t in_height, size_t stride, uint8_t *to,
                          size_t height, size_t width) {
  axis rows;
  if (!axis_make(&rows, in_height, height)) {
    return false;
  }
  for (size_t y = 0; y < height; y++) {
    row_vertical(from + rows.first[y] * stride, stride, width * 3, rows.weights + y * rows.n_taps,
                 rows.count[y], to + y * width * 3);
  }
  axis_free(&rows);
  return true;
}

static bool side_fits(size_t side) { return side > 0 && side <= CFF__MAX_SIDE; }

static bool resize(const uint8_t *pixels, size_t in_height, size_t in_width, size_t stride,
                   uint8_t *resized, size_t height, size_t width, size_t bytes) {
  if (in_height == height) {
    return pass_horizontal(pixels, in_width, stride, resized, height, width);
  }
  if (in_width == width) {
    return pass_vertical(pixels, in_height, stride, resized, height, width);
  }
  uint8_t *wide = malloc(bytes);
  const bool made = wide && pass_horizontal(pixels, in_width, stride, wide, in_height, width) &&
                    pass_vertical(wide, in_height, width * 3, resized, height, width);
  free(wide);
  return made;
}

static cff_status check_sides(size_t in_height, size_t in_width) {
  if (side_fits(in_height) && side_fits(in_width)) {
    return CFF_OK;
  }
  return cff__fail(CFF_ERROR_IMAGE, "image sides must be 1 to %llu px, got %llu x %llu",
                   (unsigned long long)CFF__MAX_SIDE, (unsigned long long)in_width,
                   (unsigned long long)in_height);
}

cff_status cff__resize_rgb(const uint8_t *pixels, size_t in_height, size_t in_width, size_t stride,
                           uint8_t *resized, size_t height, size_t width) {
  size_t bytes;
  cff_status status = check_sides(in_height, in_width);
  if (status == CFF_OK) {
    status = check_sides(height, width);
  }
  if (status != CFF_OK) {
    return status;
  }
  if (!cff__multiply(in_height, width * 3, &bytes)) {
    return cff__no_memory("resizing an image", SIZE_MAX);
  }
  if (!resize(pixels, in_height, in_width, stride, resized, height, width, bytes)) {
    return cff__no_memory("resizing an image", bytes);
  }
  return CFF_OK;
}

cff_status cff__preprocess(const cff_image *image, uint8_t *resized, size_t height, size_t width) {
  cff_status status = cff__check_image(image);
  if (status != CFF_OK) {
    return status;
  }
  const size_t in_height = (size_t)image->height, in_width = (size_t)image->width;
  status = check_sides(in_height, in_width); /* before it is copied */
  if (status != CFF_OK) {
    return status;
  }
  if (image->format == CFF_PIXEL_RGB) {
    return cff__resize_rgb(image->pixels, in_height, in_width, image->stride, resized, height,
                           width);
  }
  size_t row, bytes;
  uint8_t *rgb = NULL;
  if (cff__multiply(in_width, 3, &row) && cff__multiply(in_height, row, &bytes)) {
    rgb = malloc(bytes);
  }
  if (!rgb) {
    return cff__no_memory("an image in RGB", (uint64_t)in_height * in_width * 3);
  }
  cff__to_rgb(image, rgb);
  status = cff__resize_rgb(rgb, in_height, in_width, row, resized, height, width);
  free(rgb);
  return status;
}
