#include "scored.h"

#include <stdlib.h>
#include <string.h>

#include "finishing.h"
#include "pixels.h"
#include "sort.h"
#include "status.h"

#define SAMPLES ((size_t)1 << 14) /* of a map */

void cff__scored_free(cff__scored *scored) {
  free(scored->peaks);
  free(scored->statistics);
  free(scored->own_scores);
  free(scored->samples);
  memset(scored, 0, sizeof *scored);
}

cff_status cff__scored_make(cff__scored *scored, size_t n_images, size_t n_values,
                            const cff__manifest *manifest) {
  size_t n_bytes = SIZE_MAX;
  memset(scored, 0, sizeof *scored);
  if (n_images == 0) return CFF_OK;
  scored->stride = n_values < 2 * SAMPLES ? 1 : n_values / SAMPLES;
  scored->has_own_score = manifest->score_output != NULL;
  scored->is_spread = cff__scores_spread(manifest);
  scored->peaks = calloc(n_images, sizeof *scored->peaks);
  scored->statistics = calloc(n_images, sizeof *scored->statistics);
  scored->own_scores = calloc(n_images, sizeof *scored->own_scores);
  const size_t n_of_one = n_values / scored->stride + 1;
  if (cff__multiply(n_images, n_of_one * sizeof *scored->samples, &n_bytes))
    scored->samples = malloc(n_bytes);
  if (scored->peaks == NULL || scored->statistics == NULL || scored->own_scores == NULL ||
      scored->samples == NULL) {
    cff__scored_free(scored);
    return cff__no_memory("scores", n_bytes);
  }
  scored->n = n_images;
  scored->n_room = n_images * n_of_one;
  return CFF_OK;
}

void cff__scored_put(cff__scored *scored, size_t index, float *map, size_t n_values,
                     double own_score, float *scratch) {
  scored->peaks[index] = (double)cff__peak(map, n_values); /* before NaN is sorted to one side */
  scored->statistics[index] =
      scored->is_spread ? cff__spread(map, n_values) : scored->peaks[index];
  scored->own_scores[index] = own_score;
  cff__sort_floats(map, scratch, n_values);
  for (size_t i = scored->stride / 2; i < n_values && scored->n_samples < scored->n_room;
       i += scored->stride)
    scored->samples[scored->n_samples++] = map[i];
}

cff_status cff__scored_scores(const cff__scored *scored, double peak_scale, double *scores) {
  cff_status done = CFF_OK;
  for (size_t i = 0; i < scored->n && done == CFF_OK; i++)
    done = cff__image_score(scored->statistics[i],
                            scored->has_own_score ? &scored->own_scores[i] : NULL, peak_scale,
                            &scores[i]);
  return done;
}

cff_status cff__scored_median(cff__scored *scored, double *median) {
  const size_t n = scored->n_samples, n_bytes = n * sizeof *scored->samples;
  float *scratch = malloc(n_bytes);
  if (scratch == NULL) return cff__no_memory("a median", n_bytes);
  cff__sort_floats(scored->samples, scratch, n);
  free(scratch);
  const float low = scored->samples[(n - 1) / 2], high = scored->samples[n / 2];
  const float sum = low + high; /* in float32, as NumPy */
  *median = (double)(sum / 2.0F);
  return CFF_OK;
}
