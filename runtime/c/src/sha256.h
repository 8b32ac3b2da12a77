/* SHA-256, FIPS 180-4, with the processor's instructions for it where there are some. */
#ifndef CFF_SHA256_H
#define CFF_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CFF__SHA256_HEX_SIZE 65 /* with the NUL */

typedef struct cff__sha256 {
  uint32_t state[8];
  uint64_t n_bytes;
  uint8_t block[64]; /* what does not fill a block yet */
} cff__sha256;

void cff__sha256_init(cff__sha256 *hash);
void cff__sha256_update(cff__sha256 *hash, const void *data, size_t n_bytes);

/* End the message and write the digest as lower-case hex. */
void cff__sha256_finish(cff__sha256 *hash, char hex[CFF__SHA256_HEX_SIZE]);

/* Hash `data` in one call. */
void cff__sha256_of(const void *data, size_t n_bytes, char hex[CFF__SHA256_HEX_SIZE]);

/* ---- Ways to compute it, with the same result ------------------------------------------------ */

typedef enum cff__sha256_way {
  CFF__SHA256_PORTABLE = 0,
  CFF__SHA256_X86 = 1, /* the SHA extensions */
  CFF__SHA256_ARM = 2  /* the cryptographic extension of ARMv8 */
} cff__sha256_way;

/* Use a way from now on, in all threads; false, and nothing changes, where it is not at hand. Only
 * tests need it: the fastest is chosen by itself. */
bool cff__sha256_choose(cff__sha256_way way);

/* Take in blocks of 64 bytes. */
typedef void (*cff__sha256_blocks)(uint32_t state[8], const uint8_t *data, size_t n_blocks);

/* NULL where the compiler or the processor knows no such instructions. */
cff__sha256_blocks cff__sha256_x86(void);
cff__sha256_blocks cff__sha256_arm(void);

extern const uint32_t cff__sha256_k[64]; /* section 4.2.2 */

#endif
