/* What dropping rows of a memory bank can do to the anomaly map; the formulas and their reasons
 * stand in the Python runtime's `coreset`. */
#include <math.h>
#include <stdbool.h>

#include "coreset.h"

#define LOG_SCALE 0.01 /* as in finishing.c */

static double stage_rise(double cosine_distance, cff__distance distance) {
  const double half = 0.5 * acos(1.0 - fmin(fmax(cosine_distance, 0.0), 2.0));
  const double offset = 1.0 + LOG_SCALE;
  if (distance == CFF__DISTANCE_COSINE) return 2.0 * sin(half);
  const double middle = acos(cos(half) / offset); /* where the rise is largest */
  return log((offset - cos(middle + half)) / (offset - cos(middle - half)));
}

double cff__map_rise(const double *distances, size_t n_stages, cff__distance distance) {
  double rise = 0.0;
  for (size_t stage = 0; stage < n_stages; stage++) rise += stage_rise(distances[stage], distance);
  return rise;
}

static void put_rows(cff__json_writer *out, const char *key, const cff__coreset *coresets,
                     size_t n_stages, bool full) {
  cff__json_put_key(out, key);
  cff__json_open(out, '[');
  for (size_t stage = 0; stage < n_stages; stage++)
    cff__json_put_integer(out, full ? coresets[stage].n_rows_full : coresets[stage].n_rows);
  cff__json_close(out, ']');
}

/* A list of one of the coresets' numbers; returns the rise where rows at these distances go. */
static double put_distances(cff__json_writer *out, const char *key, const cff__coreset *coresets,
                            size_t n_stages, size_t offset, cff__distance distance) {
  double rise = 0.0;
  cff__json_put_key(out, key);
  cff__json_open(out, '[');
  for (size_t stage = 0; stage < n_stages; stage++) {
    const double value = *(const double *)((const char *)&coresets[stage] + offset);
    cff__json_put_double(out, value);
    rise += stage_rise(value, distance);
  }
  cff__json_close(out, ']');
  return rise;
}

void cff__put_compression(cff__json_writer *out, const cff__coreset *coresets, size_t n_stages,
                          cff__distance distance) {
  cff__json_open(out, '{');
  cff__json_put_key(out, "method");
  cff__json_put_text(out, "greedy k-centre");
  put_rows(out, "n_rows_full", coresets, n_stages, true);
  put_rows(out, "n_rows", coresets, n_stages, false);
  const double largest =
      put_distances(out, "largest", coresets, n_stages, offsetof(cff__coreset, largest), distance);
  const double percentile_99 = put_distances(out, "percentile_99", coresets, n_stages,
                                             offsetof(cff__coreset, percentile_99), distance);
  put_distances(out, "mean", coresets, n_stages, offsetof(cff__coreset, mean), distance);
  cff__json_put_key(out, "map_rise_largest");
  cff__json_put_double(out, largest);
  cff__json_put_key(out, "map_rise_percentile_99");
  cff__json_put_double(out, percentile_99);
  cff__json_close(out, '}');
}
