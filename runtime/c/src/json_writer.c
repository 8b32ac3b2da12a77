#include "json_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "status.h"
#include "utf8.h"

static void put_bytes(cff__json_writer *out, const char *bytes, size_t n) {
  if (out->failed) return;
  if (n >= out->n_allocated - out->n_bytes) {
    size_t wanted = out->n_bytes + n + 1;
    size_t size = wanted < 256 ? 256 : wanted + wanted / 2;
    char *text = wanted > n && size > wanted - 1 ? realloc(out->text, size) : NULL;
    if (text == NULL) {
      out->failed = true;
      return;
    }
    out->text = text;
    out->n_allocated = size;
  }
  memcpy(out->text + out->n_bytes, bytes, n);
  out->n_bytes += n;
  out->text[out->n_bytes] = '\0';
}

static void put_separator(cff__json_writer *out) {
  if (out->needs_comma) put_bytes(out, ", ", 2);
  out->needs_comma = true;
}

void cff__json_free(cff__json_writer *out) {
  free(out->text);
  memset(out, 0, sizeof *out);
}

cff_status cff__json_check(const cff__json_writer *out) {
  return out->failed ? cff__no_memory("JSON", out->n_bytes) : CFF_OK;
}

void cff__json_open(cff__json_writer *out, char bracket) {
  put_separator(out);
  put_bytes(out, &bracket, 1);
  out->needs_comma = false;
}

void cff__json_close(cff__json_writer *out, char bracket) {
  put_bytes(out, &bracket, 1);
  out->needs_comma = true;
}

/* Everything but printable ASCII is escaped. */
static void put_quoted(cff__json_writer *out, const char *text) {
  static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
  put_bytes(out, "\"", 1);
  while (*text != '\0') {
    char escape[16];
    uint32_t code;
    size_t n = cff__utf8_get(text, &code);
    const char *found = code < 0x80 ? strchr(plain, (int)code) : NULL;
    if (found != NULL) {
      escape[0] = '\\';
      escape[1] = letters[found - plain];
      put_bytes(out, escape, 2);
    } else if (code >= 0x20 && code < 0x7f) {
      put_bytes(out, text, 1);
    } else if (code < 0x10000) {
      put_bytes(out, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code));
    } else {
      unsigned high = 0xd800u + (unsigned)((code - 0x10000) >> 10);
      unsigned low = 0xdc00u + (unsigned)((code - 0x10000) & 0x3ff);
      put_bytes(out, escape,
                (size_t)snprintf(escape, sizeof escape, "\\u%04x\\u%04x", high, low));
    }
    text += n > 0 ? n : 1; /* 0 only for text that is not UTF-8 */
  }
  put_bytes(out, "\"", 1);
}

void cff__json_put_key(cff__json_writer *out, const char *key) {
  put_separator(out);
  put_quoted(out, key);
  put_bytes(out, ": ", 2);
  out->needs_comma = false;
}

void cff__json_put_text(cff__json_writer *out, const char *text) {
  put_separator(out);
  put_quoted(out, text);
}

void cff__json_put_source(cff__json_writer *out, const char *source, size_t n_bytes) {
  put_separator(out);
  put_bytes(out, source, n_bytes);
}

void cff__json_put_double(cff__json_writer *out, double value) {
  char text[CFF__DOUBLE_SIZE];
  cff__format_double(value, text);
  cff__json_put_source(out, text, strlen(text));
}

void cff__json_put_integer(cff__json_writer *out, int64_t value) {
  char text[CFF__DOUBLE_SIZE];
  cff__json_put_source(out, text,
                       (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

void cff__json_put_bool(cff__json_writer *out, bool value) {
  cff__json_put_source(out, value ? "true" : "false", value ? 4 : 5);
}

static bool reads_back(const char *digits, int n, int exponent, double value) {
  char text[CFF__DOUBLE_SIZE];
  double back = 0.0;
  snprintf(text, sizeof text, "%.*se%d", n, digits, exponent - (n - 1));
  return cff__parse_number(text, strlen(text), &back) && back == value;
}

/* The next larger number of as many digits; false for 99..9, which has none. */
static bool next_up(char *digits, int n) {
  int last = n - 1;
  while (last >= 0 && digits[last] == '9') last--;
  if (last < 0) return false;
  digits[last]++;
  memset(digits + last + 1, '0', (size_t)(n - 1 - last));
  return true;
}

/* `n` digits, without point, that read back as `value`; false if there are none. */
static bool round_to(double value, int n, char digits[24], int *exponent) {
  char text[CFF__DOUBLE_SIZE];
  int n_written = 0, unused;
  snprintf(text, sizeof text, "%.*e", n - 1, value);
  char *mark = strchr(text, 'e');
  for (const char *at = text; at < mark; at++) /* a locale has its own decimal point */
    if (*at >= '0' && *at <= '9') digits[n_written++] = *at;
  *exponent = atoi(mark + 1);
  if (reads_back(digits, n, *exponent, value)) return true;
  /* above a power of two the next double is twice as far as below: the farther decimal may do */
  return frexp(value, &unused) == 0.5 && next_up(digits, n) &&
         reads_back(digits, n, *exponent, value);
}

/* Fewest digits, without point, that read back as `value`; returns the decimal exponent. Halving,
 * as what `n` digits can say, more can say too; 17 can say every double. */
static int shortest_digits(double value, char digits[24], int *n_digits) {
  int exponent, fewest = 1, most = 17;
  while (fewest < most) {
    int half = (fewest + most) / 2;
    if (round_to(value, half, digits, &exponent)) most = half;
    else fewest = half + 1;
  }
  round_to(value, most, digits, &exponent);
  *n_digits = most;
  return exponent;
}

void cff__format_double(double value, char text[CFF__DOUBLE_SIZE]) {
  char digits[24];
  bool negative = value < 0.0 || (value == 0.0 && 1.0 / value < 0.0);
  int n, exponent = shortest_digits(negative ? -value : value, digits, &n);
  const char *sign = negative ? "-" : "";
  digits[n] = '\0';
  if (exponent < -4 || exponent >= 16) {
    snprintf(text, CFF__DOUBLE_SIZE, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "",
             digits + 1, exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
  } else if (exponent < 0) {
    snprintf(text, CFF__DOUBLE_SIZE, "%s0.%.*s%s", sign, -exponent - 1, "000", digits);
  } else if (n <= exponent + 1) {
    snprintf(text, CFF__DOUBLE_SIZE, "%s%s%.*s.0", sign, digits, exponent + 1 - n,
             "0000000000000000");
  } else {
    snprintf(text, CFF__DOUBLE_SIZE, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
  }
}
