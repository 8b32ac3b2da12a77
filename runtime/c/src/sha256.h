/* SHA-256, FIPS 180-4. */
#ifndef CFF_SHA256_H
#define CFF_SHA256_H

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

#endif
