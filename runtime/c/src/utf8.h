/* UTF-8, RFC 3629. */
#ifndef CFF_UTF8_H
#define CFF_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False for longer forms than needed, for surrogates and above U+10FFFF. */
bool cff__utf8_is_valid(const char *text, size_t n_bytes);

/* Write a code point, at most 4 bytes; returns their number. */
size_t cff__utf8_put(uint32_t code, char *out);

/* Read a code point of valid text; returns its number of bytes. */
size_t cff__utf8_get(const char *text, uint32_t *code);

#endif
