/* Regions: 8-connected parts of an anomaly map above a threshold, as the Python runtime's. */
#ifndef CFF__REGIONS_H
#define CFF__REGIONS_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"

/* Area and box are in pixels of the inspected image. */
typedef struct cff__region {
  double area_px;
  double peak; /* largest value of the map inside */
  int64_t x, y, width, height;
} cff__region;

/* Sides up to this keep every product below within 64 bits, and areas exact. */
#define CFF__REGION_MAX_SIDE ((size_t)1 << 24)

/* Find the regions of a map [height,width] above `threshold`, strongest first. *regions is freed
 * by the caller, NULL where there are none. No side is 0 or longer than CFF__REGION_MAX_SIDE, else
 * CFF_ERROR_IMAGE. */
cff_status cff__find_regions(const float *map, size_t height, size_t width, double threshold,
                             size_t image_height, size_t image_width, cff__region **regions,
                             size_t *n_regions);

#endif
