/* From a caller's image to packed RGB. */
#ifndef CFF__PIXELS_H
#define CFF__PIXELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cff__pixel_format {
    CFF__PIXELS_RGB = 0,
    CFF__PIXELS_BGR = 1,
    CFF__PIXELS_RGBA = 2, /* alpha is dropped, as by the Python runtime's `imaging` */
    CFF__PIXELS_GREY = 3
} cff__pixel_format;

/* Bytes of one pixel, 0 for a format that there is not. */
size_t cff__pixel_bytes(cff__pixel_format format);

/* Whether a * b fits; only then is *product written. */
bool cff__multiply(size_t a, size_t b, size_t *product);

/* Whether an image of these sizes can lie in memory: no side is 0, rows do not overlap, the last
   byte can be addressed. `stride` is the bytes from one row to the next. */
bool cff__pixels_fit(size_t height, size_t width, size_t stride, cff__pixel_format format);

/* Write an image that fits as packed RGB, height * width * 3 bytes. */
void cff__to_rgb(const uint8_t *pixels, size_t height, size_t width, size_t stride,
                 cff__pixel_format format, uint8_t *rgb);

#endif
