/* What is kept of the anomaly maps of some images; the maps of hundreds would fill a small box. */
#ifndef CFF__SCORED_H
#define CFF__SCORED_H

#include <stdbool.h>
#include <stddef.h>

#include "cff.h"
#include "manifest.h"

typedef struct cff__scored {
  size_t n;            /* images */
  double *peaks;       /* [n], their maps' maxima */
  double *statistics;  /* [n], what of their maps is scored */
  double *own_scores;  /* [n], of the encoder */
  bool has_own_score, is_spread;
  float *samples; /* of their maps, for the colour scale */
  size_t n_samples, n_room;
  size_t stride;  /* from one sample to the next among the sorted values */
} cff__scored;

/* n_images: that will be put in. n_values: of a map. Begin with zeros. */
cff_status cff__scored_make(cff__scored *scored, size_t n_images, size_t n_values,
                            const cff__manifest *manifest);
void cff__scored_free(cff__scored *scored);

/* Take in the n_values > 0 of the map of image `index`, which are sorted on the way.
 * scratch: room for as many. */
void cff__scored_put(cff__scored *scored, size_t index, float *map, size_t n_values,
                     double own_score, float *scratch);

/* The image scores, [n]. */
cff_status cff__scored_scores(const cff__scored *scored, double peak_scale, double *scores);

/* The median of all samples, of which there are some; sorts them. */
cff_status cff__scored_median(cff__scored *scored, double *median);

#endif
