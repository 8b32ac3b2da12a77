/* From nearest-neighbour cosines to an anomaly map, an image score and a verdict: the numbers of
 * the Python runtime's `finishing`, operation by operation in float32. */
#ifndef CFF__FINISHING_H
#define CFF__FINISHING_H

#include <stdbool.h>
#include <stddef.h>

#include "cff.h"

typedef enum cff__distance { CFF__DISTANCE_COSINE = 0, CFF__DISTANCE_LOG = 1 } cff__distance;

typedef struct cff__grid {
  size_t height;
  size_t width;
} cff__grid;

typedef enum cff__verdict {
  CFF__VERDICT_PASS = 0,
  CFF__VERDICT_REVIEW = 1,
  CFF__VERDICT_REJECT = 2
} cff__verdict;

/* Distances from n largest cosines to a memory bank. `distances` may be `nearest`. */
void cff__stage_distance(const float *nearest, size_t n, cff__distance distance, float *distances);

/* Add to `total` [height,width] a map [grid.height,grid.width], upsampled bilinearly with aligned
 * corners. No side is 0. */
cff_status cff__upsample_add(const float *plane, cff__grid grid, float *total, size_t height,
                             size_t width);

/* Sum the distance maps of n_stages >= 0 stages and the weighted map of the encoder into `map`
 * [height,width]. `nearest` holds for each stage the largest cosine per token of its grid. `map`
 * may be `encoder_map`. On failure the map is undefined. */
cff_status cff__fuse_maps(const float *const *nearest, const cff__grid *grids, size_t n_stages,
                          cff__distance distance, const float *encoder_map, float weight,
                          float *map, size_t height, size_t width);

/* Largest of n > 0 values; NaN if one of them is. */
float cff__peak(const float *values, size_t n);

/* Population standard deviation of n > 0 values, in float64; NaN if one of them is. */
double cff__spread(const float *values, size_t n);

/* `peak_scale` from the maxima of n > 0 good parts' maps. */
double cff__peak_scale(const double *peaks, size_t n);

/* Image score from the map's statistic and, where `encoder_score` is not NULL, the encoder's score.
 * CFF_ERROR_BACKEND if it is not finite: NaN is above no threshold, and a part must not pass
 * because of it. */
cff_status cff__image_score(double statistic, const double *encoder_score, double peak_scale,
                            double *score);

cff__verdict cff__verdict_of(double score, double threshold, double review_threshold);

#endif
