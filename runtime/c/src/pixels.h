/* From a caller's image to packed RGB. */
#ifndef CFF__PIXELS_H
#define CFF__PIXELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cff.h"

/* As in the Python runtime. */
#define CFF__MIN_SIDE 16

/* Whether a * b fits; only then is *product written. */
bool cff__multiply(size_t a, size_t b, size_t *product);

/* CFF_OK if the image's fields can be true and its sides are long enough to be inspected: rows do
 * not overlap, the last byte can be addressed. */
cff_status cff__check_image(const cff_image *image);

/* Write a checked image as packed RGB, height * width * 3 bytes. Alpha is dropped, as by the
 * Python runtime's `imaging`. */
void cff__to_rgb(const cff_image *image, uint8_t *rgb);

#endif
