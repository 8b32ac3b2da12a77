#include "finishing.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "pixels.h"
#include "status.h"

/* Distances far below it count as none. */
static const float LOG_SCALE = 0.01F;

/* For each of the output samples its left neighbour, and the right one's weight. */
typedef struct taps {
  size_t *left;
  float *weight;
} taps;

void cff__stage_distance(const float *nearest, size_t n, cff__distance distance, float *distances) {
  for (size_t i = 0; i < n; i++) {
    const float plain = 1.0F - nearest[i];
    if (distance == CFF__DISTANCE_COSINE) {
      distances[i] = plain;
    } else {
      /* rounding can leave a token a hair beyond its own twin; NaN must stay NaN */
      distances[i] = log1pf((plain < 0.0F ? 0.0F : plain) / LOG_SCALE);
    }
  }
}

static void taps_free(taps *one) {
  free(one->left);
  free(one->weight);
  one->left = NULL;
  one->weight = NULL;
}

/* Positions as NumPy's linspace has them: a step in float64, the last one exact. */
static bool taps_make(taps *one, size_t n_in, size_t n_out) {
  size_t bytes;
  const double step = n_out > 1 ? (double)(n_in - 1) / (double)(n_out - 1) : 0.0;
  const size_t last = n_in > 2 ? n_in - 2 : 0;
  one->left = cff__multiply(n_out, sizeof *one->left, &bytes) ? malloc(bytes) : NULL;
  one->weight = cff__multiply(n_out, sizeof *one->weight, &bytes) ? malloc(bytes) : NULL;
  if (!one->left || !one->weight) {
    taps_free(one);
    return false;
  }
  for (size_t i = 0; i < n_out; i++) {
    const bool at_end = n_out > 1 && i == n_out - 1;
    const double position = at_end ? (double)(n_in - 1) : (double)i * step;
    const size_t whole = (size_t)position;
    one->left[i] = whole < last ? whole : last;
    one->weight[i] = (float)(position - (double)one->left[i]);
  }
  return true;
}

/* One row of the plane to the map's width. */
static void widen(const float *row, size_t n_in, const taps *columns, float *wide, size_t width) {
  for (size_t x = 0; x < width; x++) {
    const size_t left = columns->left[x];
    const float start = row[left];
    const float end = row[left + 1 < n_in ? left + 1 : n_in - 1];
    wide[x] = start + (end - start) * columns->weight[x];
  }
}

static void blend_rows(const float *upper, const float *lower, float weight, float *total,
                       size_t width) {
  for (size_t x = 0; x < width; x++) {
    total[x] += upper[x] + (lower[x] - upper[x]) * weight;
  }
}

static bool upsample_add(const float *plane, cff__grid grid, float *total, size_t height,
                         size_t width) {
  taps columns = {NULL, NULL}, rows = {NULL, NULL};
  size_t values, bytes;
  if (grid.height == 0 || grid.width == 0 || height == 0 || width == 0 ||
      !cff__multiply(grid.height, width, &values) ||
      !cff__multiply(values, sizeof(float), &bytes)) {
    return false;
  }
  float *wide = malloc(bytes);
  const bool made =
      wide && taps_make(&columns, grid.width, width) && taps_make(&rows, grid.height, height);
  for (size_t y = 0; made && y < grid.height; y++) {
    widen(plane + y * grid.width, grid.width, &columns, wide + y * width, width);
  }
  for (size_t y = 0; made && y < height; y++) {
    const size_t upper = rows.left[y];
    const size_t lower = upper + 1 < grid.height ? upper + 1 : grid.height - 1;
    blend_rows(wide + upper * width, wide + lower * width, rows.weight[y], total + y * width,
               width);
  }
  taps_free(&rows);
  taps_free(&columns);
  free(wide);
  return made;
}

cff_status cff__upsample_add(const float *plane, cff__grid grid, float *total, size_t height,
                             size_t width) {
  if (!upsample_add(plane, grid, total, height, width)) {
    return cff__no_memory("an anomaly map", (uint64_t)height * width * sizeof(float));
  }
  return CFF_OK;
}

static bool same_grid(cff__grid a, cff__grid b) {
  return a.height == b.height && a.width == b.width;
}

/* Sum the distances of all stages of one grid, from `first` on; upsampled together they cost as
   much as one. `scratch` holds two planes. */
static void grid_distances(const float *const *nearest, const cff__grid *grids, size_t n_stages,
                           size_t first, cff__distance distance, float *scratch) {
  const size_t n = grids[first].height * grids[first].width;
  float *other = scratch + n;
  cff__stage_distance(nearest[first], n, distance, scratch);
  for (size_t stage = first + 1; stage < n_stages; stage++) {
    if (!same_grid(grids[stage], grids[first])) {
      continue;
    }
    cff__stage_distance(nearest[stage], n, distance, other);
    for (size_t i = 0; i < n; i++) {
      scratch[i] += other[i];
    }
  }
}

static bool seen_before(const cff__grid *grids, size_t stage) {
  for (size_t earlier = 0; earlier < stage; earlier++) {
    if (same_grid(grids[earlier], grids[stage])) {
      return true;
    }
  }
  return false;
}

static bool largest_plane(const cff__grid *grids, size_t n_stages, size_t *bytes) {
  size_t largest = 1, tokens;
  for (size_t stage = 0; stage < n_stages; stage++) {
    if (!cff__multiply(grids[stage].height, grids[stage].width, &tokens)) {
      return false;
    }
    largest = tokens > largest ? tokens : largest;
  }
  return cff__multiply(largest, 2 * sizeof(float), bytes);
}

cff_status cff__fuse_maps(const float *const *nearest, const cff__grid *grids, size_t n_stages,
                          cff__distance distance, const float *encoder_map, float weight,
                          float *map, size_t height, size_t width) {
  size_t n = 0, bytes = 0;
  float *scratch = NULL;
  if (cff__multiply(height, width, &n) && largest_plane(grids, n_stages, &bytes)) {
    scratch = malloc(bytes);
  }
  if (!scratch) {
    return cff__no_memory("the stages' distances", bytes);
  }
  for (size_t i = 0; i < n; i++) {
    map[i] = encoder_map[i] * weight;
  }
  cff_status status = CFF_OK;
  for (size_t stage = 0; status == CFF_OK && stage < n_stages; stage++) {
    if (!seen_before(grids, stage)) {
      grid_distances(nearest, grids, n_stages, stage, distance, scratch);
      status = cff__upsample_add(scratch, grids[stage], map, height, width);
    }
  }
  free(scratch);
  return status;
}

float cff__peak(const float *values, size_t n) {
  float largest = values[0];
  for (size_t i = 1; i < n; i++) {
    if (isnan(values[i])) {
      return values[i];
    }
    /* NaN first: no comparison replaces it */
    largest = values[i] > largest ? values[i] : largest;
  }
  return largest;
}

double cff__spread(const float *values, size_t n) {
  double sum = 0.0, squares = 0.0;
  for (size_t i = 0; i < n; i++) {
    sum += (double)values[i];
  }
  const double mean = sum / (double)n;
  for (size_t i = 0; i < n; i++) {
    const double off = (double)values[i] - mean;
    squares += off * off;
  }
  return sqrt(squares / (double)n);
}

double cff__peak_scale(const double *peaks, size_t n) {
  double largest = peaks[0];
  for (size_t i = 1; i < n; i++) {
    largest = peaks[i] > largest ? peaks[i] : largest;
  }
  return 0.5 / (largest < (double)FLT_MIN ? (double)FLT_MIN : largest);
}

cff_status cff__image_score(double statistic, const double *encoder_score, double peak_scale,
                            double *score) {
  *score = encoder_score ? 0.5 * (*encoder_score + peak_scale * statistic) : statistic;
  if (!isfinite(*score)) {
    return cff__fail(CFF_ERROR_BACKEND, "image score must be finite, got %g; run `cff-run verify`",
                     *score);
  }
  return CFF_OK;
}

cff__verdict cff__verdict_of(double score, double threshold, double review_threshold) {
  if (score > threshold) {
    return CFF__VERDICT_REJECT;
  }
  return score > review_threshold ? CFF__VERDICT_REVIEW : CFF__VERDICT_PASS;
}
