#include "print_json.h"

#include <stdint.h>
#include <string.h>

/* Decode a code point of UTF-8 and return how many bytes it has. A byte that is none becomes
 * 0xDC00 + byte, as in Python's file names. */
static size_t decode(const unsigned char *text, uint32_t *point) {
  static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t n_bytes = 0;
  if (text[0] < 0x80) n_bytes = 1;
  else if (text[0] >= 0xc0 && text[0] < 0xe0) n_bytes = 2;
  else if (text[0] >= 0xe0 && text[0] < 0xf0) n_bytes = 3;
  else if (text[0] >= 0xf0 && text[0] < 0xf8) n_bytes = 4;
  uint32_t value = n_bytes <= 1 ? text[0] : text[0] & (0xffu >> (n_bytes + 1));
  for (size_t i = 1; i < n_bytes; i++) {
    if ((text[i] & 0xc0) != 0x80) n_bytes = 0; /* at the NUL too, behind which nothing is read */
    value = value << 6 | (text[i] & 0x3f);
  }
  int is_surrogate = value >= 0xd800 && value < 0xe000;
  if (n_bytes == 0 || value < smallest[n_bytes] || value > 0x10ffff || is_surrogate) {
    *point = 0xdc00u + text[0];
    return 1;
  }
  *point = value;
  return n_bytes;
}

void print_json(FILE *file, const char *text) {
  static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
  const unsigned char *at = (const unsigned char *)text;
  fputc('"', file);
  while (*at != '\0') {
    uint32_t point = 0;
    at += decode(at, &point);
    const char *special = point < 0x80 ? strchr(plain, (int)point) : NULL;
    if (special != NULL) {
      fprintf(file, "\\%c", letters[special - plain]);
    } else if (point >= 0x20 && point < 0x7f) {
      fputc((int)point, file);
    } else if (point < 0x10000) {
      fprintf(file, "\\u%04x", (unsigned)point);
    } else {
      fprintf(file, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((point - 0x10000) >> 10)),
              (unsigned)(0xdc00 + (point & 0x3ff)));
    }
  }
  fputc('"', file);
}
