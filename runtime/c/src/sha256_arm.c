/* SHA-256 with the cryptographic extension of ARMv8. */
#include "sha256.h"

/* Clang before 17 declares the instructions only where all of the file may use them. */
#if defined(__aarch64__) && defined(__linux__) && \
    (defined(__ARM_FEATURE_SHA2) || !defined(__clang__) || __clang_major__ >= 17)

#include <arm_neon.h>
#include <sys/auxv.h>

#define HAS_SHA2 (1UL << 6) /* HWCAP_SHA2 of Linux */

#if defined(__clang__)
#define WITH_SHA __attribute__((target("sha2")))
#else
#define WITH_SHA __attribute__((target("+crypto")))
#endif

typedef struct halves {
  uint32x4_t abcd, efgh;
} halves;

WITH_SHA static void four_rounds(halves *at, uint32x4_t words, const uint32_t *k) {
  uint32x4_t sums = vaddq_u32(words, vld1q_u32(k)), abcd = at->abcd;
  at->abcd = vsha256hq_u32(abcd, at->efgh, sums);
  at->efgh = vsha256h2q_u32(at->efgh, abcd, sums);
}

/* Words t to t + 3 of the schedule from the sixteen before them. */
WITH_SHA static uint32x4_t next_words(uint32x4_t w16, uint32x4_t w12, uint32x4_t w8,
                                      uint32x4_t w4) {
  return vsha256su1q_u32(vsha256su0q_u32(w16, w12), w8, w4);
}

/* Four words, of which each is big-endian. */
WITH_SHA static uint32x4_t load_words(const uint8_t *data) {
  return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
}

WITH_SHA static void one_block(halves *at, const uint8_t *data) {
  uint32x4_t w0 = load_words(data), w1 = load_words(data + 16);
  uint32x4_t w2 = load_words(data + 32), w3 = load_words(data + 48);
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
  at->abcd = vaddq_u32(at->abcd, before.abcd);
  at->efgh = vaddq_u32(at->efgh, before.efgh);
}

WITH_SHA static void take_blocks(uint32_t state[8], const uint8_t *data, size_t n_blocks) {
  halves at = {vld1q_u32(state), vld1q_u32(state + 4)};
  for (; n_blocks > 0; n_blocks--, data += 64) one_block(&at, data);
  vst1q_u32(state, at.abcd);
  vst1q_u32(state + 4, at.efgh);
}

cff__sha256_blocks cff__sha256_arm(void) {
  return (getauxval(AT_HWCAP) & HAS_SHA2) != 0 ? take_blocks : NULL;
}

#else

cff__sha256_blocks cff__sha256_arm(void) { return NULL; }

#endif
