/* Read image files as the Python runtime does: 8-bit RGB, alpha dropped, the high byte of 16 bits,
 * no colour management, orientation in EXIF not applied.
 *
 * Binary PPM and PGM always; PNG and JPEG where CMake found libpng and libjpeg. */
#ifndef READ_IMAGE_H
#define READ_IMAGE_H

#include <stdbool.h>

#include "cff.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { REASON_BYTES = 512 };

/* Fill in `image`, which `free_image` frees. On failure return false and a sentence in `reason`. */
bool read_image(const char *path, cff_image *image, char reason[REASON_BYTES]);

void free_image(cff_image *image);

#ifdef __cplusplus
}
#endif

#endif
