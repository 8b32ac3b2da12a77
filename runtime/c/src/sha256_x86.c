/* SHA-256 with the SHA extensions of x86 processors. */
#include "sha256.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>

#define WITH_SHA __attribute__((target("sha,sse4.1")))

/* The variables a, b, e, f and c, d, g, h, each first in the highest lane, as the instructions
 * want them. */
typedef struct halves {
  __m128i abef, cdgh;
} halves;

/* Rounds t to t + 3; the instruction does two, after which the halves have changed places. */
WITH_SHA static void four_rounds(halves *at, __m128i words, const uint32_t *k) {
  __m128i sums = _mm_add_epi32(words, _mm_loadu_si128((const __m128i *)k));
  at->cdgh = _mm_sha256rnds2_epu32(at->cdgh, at->abef, sums);
  at->abef = _mm_sha256rnds2_epu32(at->abef, at->cdgh, _mm_shuffle_epi32(sums, 0x0e));
}

/* Words t to t + 3 of the schedule from the sixteen before them. */
WITH_SHA static __m128i next_words(__m128i w16, __m128i w12, __m128i w8, __m128i w4) {
  __m128i sums = _mm_add_epi32(_mm_sha256msg1_epu32(w16, w12), _mm_alignr_epi8(w4, w8, 4));
  return _mm_sha256msg2_epu32(sums, w4);
}

/* Four words, of which each is big-endian. */
WITH_SHA static __m128i load_words(const uint8_t *data) {
  const __m128i order = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)data), order);
}

WITH_SHA static void one_block(halves *at, const uint8_t *data) {
  __m128i w0 = load_words(data), w1 = load_words(data + 16);
  __m128i w2 = load_words(data + 32), w3 = load_words(data + 48);
  const halves before = *at;
  for (const uint32_t *k = cff__sha256_k;; k += 16) {
    four_rounds(at, w0, k);
    four_rounds(at, w1, k + 4);
    four_rounds(at, w2, k + 8);
    four_rounds(at, w3, k + 12);
    if (k == cff__sha256_k + 48) break;
    w0 = next_words(w0, w1, w2, w3);
    w1 = next_words(w1, w2, w3, w0);
    w2 = next_words(w2, w3, w0, w1);
    w3 = next_words(w3, w0, w1, w2);
  }
  at->abef = _mm_add_epi32(at->abef, before.abef);
  at->cdgh = _mm_add_epi32(at->cdgh, before.cdgh);
}

WITH_SHA static void take_blocks(uint32_t state[8], const uint8_t *data, size_t n_blocks) {
  static const int abef[4] = {5, 4, 1, 0}, cdgh[4] = {7, 6, 3, 2}; /* lowest lane first */
  uint32_t low[4], high[4];
  for (int i = 0; i < 4; i++) {
    low[i] = state[abef[i]];
    high[i] = state[cdgh[i]];
  }
  halves at = {_mm_loadu_si128((const __m128i *)low), _mm_loadu_si128((const __m128i *)high)};
  for (; n_blocks > 0; n_blocks--, data += 64) one_block(&at, data);
  _mm_storeu_si128((__m128i *)low, at.abef);
  _mm_storeu_si128((__m128i *)high, at.cdgh);
  for (int i = 0; i < 4; i++) {
    state[abef[i]] = low[i];
    state[cdgh[i]] = high[i];
  }
}

cff__sha256_blocks cff__sha256_x86(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_SSSE3) == 0 || (c & bit_SSE4_1) == 0) return NULL;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & (1u << 29)) == 0) return NULL; /* SHA */
  return take_blocks;
}

#else

cff__sha256_blocks cff__sha256_x86(void) { return NULL; }

#endif
