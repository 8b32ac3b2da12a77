#include "augment.h"

#include <math.h>
#include <string.h>

#include "status.h"

#define BORDER_SHARE 16 /* of a side */
/* OpenCV computes in float32. It adds a row's terms in one order in blocks of so many pixels, and
 * in another in what is left of the row; 16 and fused multiply-adds where it runs with AVX2. Learnt
 * from OpenCV 5.0 and confirmed by experiment, also the order of the row's end, which its compiler
 * chose. Without AVX2 its own levels differ by 1 in 0.02 % of the places. */
#define BLOCK 16

typedef struct augmentation {
  double degrees;
  double shift_x, shift_y; /* shares of the side */
  float gain;
} augmentation;

static const augmentation AUGMENTATIONS[CFF__N_AUGMENTATIONS] = {
    {1.5, 0.01, 0.0, 1.0F},
    {-1.5, -0.01, 0.0, 1.0F},
    {0.0, 0.0, 0.015, 1.04F},
    {0.0, 0.0, -0.015, 0.96F},
};

typedef struct image {
  const uint8_t *pixels;
  size_t height, width;
} image;

/* From a pixel of the moved image to its place in the given one; two rows of three. */
typedef struct motion {
  float x[3], y[3];
} motion;

/* The motion about the image's centre, inverted in float64 in OpenCV's order of operations. */
static motion inverse_motion(const augmentation *how, double height, double width) {
  const double radians = how->degrees * (3.1415926535897932384626433832795 / 180);
  const double alpha = cos(radians), beta = sin(radians);
  const double centre_x = width / 2 - 0.5, centre_y = height / 2 - 0.5;
  const double right = (1 - alpha) * centre_x - beta * centre_y + how->shift_x * width;
  const double down = beta * centre_x + (1 - alpha) * centre_y + how->shift_y * height;
  const double inverse = 1.0 / (alpha * alpha - beta * -beta);
  const double a = alpha * inverse, b = beta * -inverse, c = -beta * -inverse;
  motion made;
  made.x[0] = (float)a;
  made.x[1] = (float)b;
  made.x[2] = (float)(-a * right - b * down);
  made.y[0] = (float)c;
  made.y[1] = (float)a;
  made.y[2] = (float)(-c * right - a * down);
  return made;
}

/* Mirror a position into [0,side), the outermost pixel not repeated. */
static size_t mirrored(int64_t position, size_t side) {
  const int64_t last = (int64_t)side - 1;
  if (last == 0) {
    return 0;
  }
  position = (position < 0 ? -position : position) % (2 * last);
  return (size_t)(position > last ? 2 * last - position : position);
}

static float between(float start, float end, float share) {
  return fmaf(share, end - start, start);
}

/* Half to even, as `rint`; the level is 0 to 255 times a small gain. */
static uint8_t rounded(float level) {
  level = rintf(level);
  return (uint8_t)(level < 0.0F ? 0.0F : level > 255.0F ? 255.0F : level);
}

static void sample(const image *from, float x, float y, float gain, uint8_t *to) {
  const float floor_x = floorf(x), floor_y = floorf(y);
  const int64_t left = (int64_t)floor_x, top = (int64_t)floor_y;
  const size_t x0 = mirrored(left, from->width) * 3, x1 = mirrored(left + 1, from->width) * 3;
  const uint8_t *upper = from->pixels + mirrored(top, from->height) * from->width * 3;
  const uint8_t *lower = from->pixels + mirrored(top + 1, from->height) * from->width * 3;
  for (size_t colour = 0; colour < 3; colour++) {
    const float above = between(upper[x0 + colour], upper[x1 + colour], x - floor_x);
    const float below = between(lower[x0 + colour], lower[x1 + colour], x - floor_x);
    const uint8_t level = rounded(between(above, below, y - floor_y));
    to[colour] = rounded((float)level * gain);
  }
}

static void move_row(const image *from, const motion *by, size_t row, float gain, uint8_t *to) {
  const float y = (float)row;
  const float row_x = y * by->x[1], row_y = y * by->y[1];
  const float start_x = row_x + by->x[2], start_y = row_y + by->y[2];
  const size_t blocks = from->width / BLOCK * BLOCK;
  for (size_t column = 0; column < from->width; column++, to += 3) {
    const float x = (float)column;
    if (column < blocks) {
      sample(from, fmaf(by->x[0], x, start_x), fmaf(by->y[0], x, start_y), gain, to);
    } else {
      const float at_x = fmaf(by->x[0], x, row_x) + by->x[2];
      const float at_y = fmaf(by->y[0], x, row_y) + by->y[2];
      sample(from, at_x, at_y, gain, to);
    }
  }
}

cff_status cff__augment(const uint8_t *pixels, size_t height, size_t width, size_t index,
                        uint8_t *moved) {
  if (index >= CFF__N_AUGMENTATIONS || height == 0 || width == 0 ||
      height > CFF__AUGMENT_MAX_SIDE || width > CFF__AUGMENT_MAX_SIDE) {
    return cff__fail(CFF_ERROR_USAGE,
                     "augmentations must be of sides of 1 to %llu px and numbered 0 to %d, "
                     "got %llu x %llu and %llu",
                     (unsigned long long)CFF__AUGMENT_MAX_SIDE, CFF__N_AUGMENTATIONS - 1,
                     (unsigned long long)width, (unsigned long long)height,
                     (unsigned long long)index);
  }
  const augmentation *how = &AUGMENTATIONS[index];
  const image from = {pixels, height, width};
  const motion by = inverse_motion(how, (double)height, (double)width);
  for (size_t y = 0; y < height; y++) {
    move_row(&from, &by, y, how->gain, moved + y * width * 3);
  }
  return CFF_OK;
}

size_t cff__without_border(const float *map, size_t height, size_t width, float *inner) {
  const size_t top = height / BORDER_SHARE, left = width / BORDER_SHARE;
  const size_t rows = height - 2 * top, columns = width - 2 * left;
  for (size_t y = 0; y < rows; y++) {
    memcpy(inner + y * columns, map + (y + top) * width + left, columns * sizeof *inner);
  }
  return rows * columns;
}
