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

/* Sum the stages' distance maps and the weighted text map into `map` [height,width]. `nearest`
 * holds for each stage the largest cosine per token of its grid. `map` may be `text_map`. On
 * failure the map is undefined. */
cff_status cff__fuse_maps(const float *const *nearest, const cff__grid *grids, size_t n_stages,
                          cff__distance distance, const float *text_map, float text_weight,
                          float *map, size_t height, size_t width);

/* Largest of n > 0 values; NaN if one of them is. */
float cff__peak(const float *values, size_t n);

/* `peak_scale` from the maxima of n > 0 good parts' maps. */
double cff__peak_scale(const double *peaks, size_t n);

/* Image score from the map's maximum and, where `text_score` is not NULL, the text score.
 * CFF_ERROR_BACKEND if it is not finite: NaN is above no threshold, and a part must not pass
 * because of it. */
cff_status cff__image_score(double peak, const double *text_score, double peak_scale,
                            double *score);

cff__verdict cff__verdict_of(double score, double threshold, double review_threshold);

#endif
