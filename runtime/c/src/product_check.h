/* Does an image show the product of a profile at all? As the Python runtime's `product_check`. */
#ifndef CFF__PRODUCT_CHECK_H
#define CFF__PRODUCT_CHECK_H

#include <stddef.h>

#include "manifest.h"

/* Mean of n > 0 rows [n,width], scaled to unit length. */
void cff__mean_feature(const float *rows, size_t n, size_t width, float *mean);

/* How far an image is from the nearest of n_references > 0 references as a whole; NaN if a mean
 * is. Reference `left_out` does not count; n_references for none.
 * means: of the image, per stage [C_s]. references: per stage [K,C_s]. widths: C_s. */
double cff__product_distance(const float *const *means, const float *const *references,
                             const size_t *widths, size_t n_stages, size_t n_references,
                             size_t left_out);

/* The distance above which an image looks like another product, 12 at most.
 * n_stages: at most CFF__MAX_STAGES. */
double cff__product_limit(const float *const *references, const size_t *widths, size_t n_stages,
                          size_t n_references);

#endif
