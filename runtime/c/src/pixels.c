#include "pixels.h"

#include <string.h>

size_t cff__pixel_bytes(cff__pixel_format format) {
    switch (format) {
    case CFF__PIXELS_RGB:
    case CFF__PIXELS_BGR:
        return 3;
    case CFF__PIXELS_RGBA:
        return 4;
    case CFF__PIXELS_GREY:
        return 1;
    }
    return 0;
}

bool cff__multiply(size_t a, size_t b, size_t *product) {
    if (a != 0 && b > SIZE_MAX / a) {
        return false;
    }
    *product = a * b;
    return true;
}

bool cff__pixels_fit(size_t height, size_t width, size_t stride, cff__pixel_format format) {
    size_t row, bytes;
    const size_t pixel = cff__pixel_bytes(format);
    if (height == 0 || width == 0 || pixel == 0 || !cff__multiply(width, pixel, &row)) {
        return false;
    }
    /* pointers into one object differ by at most PTRDIFF_MAX */
    return stride >= row && cff__multiply(height, stride, &bytes) && bytes <= (size_t)PTRDIFF_MAX;
}

static void bgr_row(const uint8_t *from, size_t width, uint8_t *to) {
    for (size_t x = 0; x < width; x++, from += 3, to += 3) {
        to[0] = from[2];
        to[1] = from[1];
        to[2] = from[0];
    }
}

static void rgba_row(const uint8_t *from, size_t width, uint8_t *to) {
    for (size_t x = 0; x < width; x++, from += 4, to += 3) {
        to[0] = from[0];
        to[1] = from[1];
        to[2] = from[2];
    }
}

static void grey_row(const uint8_t *from, size_t width, uint8_t *to) {
    for (size_t x = 0; x < width; x++, to += 3) {
        to[0] = to[1] = to[2] = from[x];
    }
}

void cff__to_rgb(const uint8_t *pixels, size_t height, size_t width, size_t stride,
                 cff__pixel_format format, uint8_t *rgb) {
    for (size_t y = 0; y < height; y++) {
        const uint8_t *from = pixels + y * stride;
        uint8_t *to = rgb + y * width * 3;
        switch (format) {
        case CFF__PIXELS_RGB:
            memcpy(to, from, width * 3);
            break;
        case CFF__PIXELS_BGR:
            bgr_row(from, width, to);
            break;
        case CFF__PIXELS_RGBA:
            rgba_row(from, width, to);
            break;
        case CFF__PIXELS_GREY:
            grey_row(from, width, to);
            break;
        }
    }
}
