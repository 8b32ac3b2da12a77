/* Bicubic resize with antialiasing, bit for bit the one of the Python runtime (Pillow).
 *
 * Cubic convolution with a = -0.5 and support 2, the support widened by the scale when an axis
 * shrinks, sample centres at half pixels, weights normalised to sum 1 and rounded to 22 fractional
 * bits, the horizontal pass first, each pass rounded and clipped to 8 bits. */
#ifndef CFF__RESIZE_H
#define CFF__RESIZE_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"

/* No side may be longer: sums of positions and weights stay exact far beyond it. */
#define CFF__MAX_SIDE ((size_t)1 << 20)

/* Resize RGB [in_height,in_width,3] with rows `stride` bytes apart to packed RGB
 * [height,width,3]. No side is 0 or longer than CFF__MAX_SIDE, else CFF_ERROR_IMAGE. */
cff_status cff__resize_rgb(const uint8_t *pixels, size_t in_height, size_t in_width, size_t stride,
                           uint8_t *resized, size_t height, size_t width);

/* Check a caller's image and resize it to the encoder's packed RGB input [height,width,3]. */
cff_status cff__preprocess(const cff_image *image, uint8_t *resized, size_t height, size_t width);

#endif
