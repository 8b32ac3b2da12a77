/* The gentle augmentations that thresholds are set with, as the Python runtime's
 * `thresholds.augmentations` makes them with OpenCV. */
#ifndef CFF__AUGMENT_H
#define CFF__AUGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"

#define CFF__N_AUGMENTATIONS 4

/* Positions are float32: whole pixels are exact up to here. */
#define CFF__AUGMENT_MAX_SIDE ((size_t)1 << 20)

/* Write augmentation `index`, 0 to 3, of packed RGB [height,width,3] to `moved` of the same size.
 * The two images do not overlap. CFF_ERROR_USAGE if there is no such augmentation or a side is 0
 * or too long. */
cff_status cff__augment(const uint8_t *pixels, size_t height, size_t width, size_t index,
                        uint8_t *moved);

/* Copy a map [height,width] without a sixteenth of each side, where moving invents what comes in.
 * `inner` has room for height * width values; returns how many were written. */
size_t cff__without_border(const float *map, size_t height, size_t width, float *inner);

#endif
