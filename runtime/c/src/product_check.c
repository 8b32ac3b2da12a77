#include "product_check.h"

#include <math.h>
#include <string.h>

/* As in the Python runtime's `product_check`, which says where they come from. */
#define SCALE 0.01
#define MARGIN 2.8
#define LIMIT_OF_ONE 10.0
#define LARGEST_LIMIT 12.0
#define TINY 1e-12

void cff__mean_feature(const float *rows, size_t n, size_t width, float *mean) {
  double square = 0.0;
  memset(mean, 0, width * sizeof *mean);
  for (size_t row = 0; row < n; row++)
    for (size_t i = 0; i < width; i++) mean[i] += rows[row * width + i];
  for (size_t i = 0; i < width; i++) {
    mean[i] /= (float)n;
    square += (double)mean[i] * mean[i];
  }
  const double length = sqrt(square);
  const float divisor = (float)(length < TINY ? TINY : length); /* NaN stays NaN */
  for (size_t i = 0; i < width; i++) mean[i] /= divisor;
}

/* Distance of an image from one reference, summed over the stages. */
static double distance_from(const float *const *means, const float *const *references,
                            const size_t *widths, size_t n_stages, size_t reference) {
  double total = 0.0;
  for (size_t stage = 0; stage < n_stages; stage++) {
    const float *row = references[stage] + reference * widths[stage];
    double cosine = 0.0;
    for (size_t i = 0; i < widths[stage]; i++) cosine += (double)row[i] * means[stage][i];
    /* rounding can leave an image a hair beyond its own twin */
    total += log1p((cosine > 1.0 ? 0.0 : 1.0 - cosine) / SCALE);
  }
  return total;
}

double cff__product_distance(const float *const *means, const float *const *references,
                             const size_t *widths, size_t n_stages, size_t n_references,
                             size_t left_out) {
  double nearest = INFINITY;
  for (size_t reference = 0; reference < n_references; reference++) {
    if (reference == left_out) continue;
    const double distance = distance_from(means, references, widths, n_stages, reference);
    if (isnan(distance)) return distance; /* an image that cannot be judged is not near */
    if (distance < nearest) nearest = distance;
  }
  return nearest;
}

double cff__product_limit(const float *const *references, const size_t *widths, size_t n_stages,
                          size_t n_references) {
  double largest = 0.0;
  if (n_references == 1) return LIMIT_OF_ONE;
  for (size_t left_out = 0; left_out < n_references; left_out++) {
    const float *means[CFF__MAX_STAGES];
    for (size_t stage = 0; stage < n_stages; stage++)
      means[stage] = references[stage] + left_out * widths[stage];
    const double distance =
        cff__product_distance(means, references, widths, n_stages, n_references, left_out);
    if (distance > largest) largest = distance;
  }
  return fmin(largest + MARGIN, LARGEST_LIMIT);
}
