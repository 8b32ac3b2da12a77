#include "sort.h"

#include <stdint.h>
#include <string.h>

#define DIGIT_BITS 11
#define N_DIGITS (1u << DIGIT_BITS)
#define N_PASSES 3 /* of 11 bits: all 32 */

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* A number that rises with the float: negative ones fall with their bits. */
static uint32_t key_of(float value) {
  const uint32_t bits = bits_of(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static size_t digit_of(float value, int pass) {
  return (key_of(value) >> (pass * DIGIT_BITS)) & (N_DIGITS - 1);
}

/* Radix sort, the lowest digits first: each pass keeps the order of the passes before. */
void cff__sort_floats(float *values, float *scratch, size_t n) {
  float *from = values, *to = scratch;
  for (int pass = 0; pass < N_PASSES; pass++) {
    size_t starts[N_DIGITS] = {0}, start = 0;
    for (size_t i = 0; i < n; i++) starts[digit_of(from[i], pass)]++;
    for (size_t digit = 0; digit < N_DIGITS; digit++) {
      const size_t count = starts[digit];
      starts[digit] = start;
      start += count;
    }
    for (size_t i = 0; i < n; i++) to[starts[digit_of(from[i], pass)]++] = from[i];
    float *sorted = to;
    to = from;
    from = sorted;
  }
  if (from != values) memcpy(values, from, n * sizeof *values); /* after an odd number of passes */
}
