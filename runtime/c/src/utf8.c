#include "utf8.h"

/* Bytes that a first byte announces, 0 if it can be none. */
static size_t length_of(uint8_t first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) return 3;
  return first >= 0xf0 && first <= 0xf4 ? 4 : 0;
}

size_t cff__utf8_get(const char *text, uint32_t *code) {
  static const uint8_t masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
  size_t n = length_of((uint8_t)text[0]);
  *code = (uint8_t)text[0] & masks[n];
  for (size_t i = 1; i < n; i++) *code = *code << 6 | ((uint8_t)text[i] & 0x3fu);
  return n;
}

bool cff__utf8_is_valid(const char *text, size_t n_bytes) {
  for (size_t at = 0, n; at < n_bytes; at += n) {
    uint32_t code;
    n = length_of((uint8_t)text[at]);
    if (n == 0 || n > n_bytes - at) return false;
    for (size_t i = 1; i < n; i++)
      if (((uint8_t)text[at + i] & 0xc0) != 0x80) return false;
    cff__utf8_get(text + at, &code);
    if ((n == 3 && code < 0x800) || (n == 4 && code < 0x10000)) return false;
    if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return false;
  }
  return true;
}

size_t cff__utf8_put(uint32_t code, char *out) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
  out[0] = (char)((0xf00u >> n & 0xf0u) | code);
  return n;
}
