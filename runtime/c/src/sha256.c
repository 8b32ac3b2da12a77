#include "sha256.h"

#include <string.h>

/* section 4.2.2 */
const uint32_t cff__sha256_k[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u,
    0xab1c5ed5u, 0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu,
    0x9bdc06a7u, 0xc19bf174u, 0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu,
    0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau, 0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u,
    0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u, 0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu,
    0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u, 0xa2bfe8a1u, 0xa81a664bu,
    0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u, 0x19a4c116u,
    0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u,
    0xc67178f2u};

static uint32_t rotate(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

static uint32_t load(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* section 6.2.2 */
static void block_portable(uint32_t state[8], const uint8_t *block) {
  uint32_t w[64], v[8];
  for (int t = 0; t < 16; t++) w[t] = load(block + 4 * t);
  for (int t = 16; t < 64; t++) {
    uint32_t a = w[t - 15], b = w[t - 2];
    uint32_t s0 = rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3);
    uint32_t s1 = rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10);
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  memcpy(v, state, sizeof v);
  /* instead of moving the eight variables on, each round names them one place further */
  for (int t = 0; t < 64; t += 8) {
    for (int i = 0; i < 8; i++) {
      uint32_t a = v[(8 - i) & 7], b = v[(9 - i) & 7], c = v[(10 - i) & 7];
      uint32_t e = v[(12 - i) & 7], f = v[(13 - i) & 7], g = v[(14 - i) & 7];
      uint32_t t1 = v[(15 - i) & 7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                    ((e & f) ^ (~e & g)) + cff__sha256_k[t + i] + w[t + i];
      v[(11 - i) & 7] += t1;
      v[(15 - i) & 7] = t1 + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                        ((a & b) ^ (a & c) ^ (b & c));
    }
  }
  for (int i = 0; i < 8; i++) state[i] += v[i];
}

static void blocks_portable(uint32_t state[8], const uint8_t *data, size_t n_blocks) {
  for (; n_blocks > 0; n_blocks--, data += 64) block_portable(state, data);
}

/* NULL where the compiler or the processor knows no such instructions. */
static cff__sha256_blocks blocks_of(cff__sha256_way way) {
  switch (way) {
    case CFF__SHA256_X86: return cff__sha256_x86();
    case CFF__SHA256_ARM: return cff__sha256_arm();
    default: return blocks_portable;
  }
}

/* Found out once, as asking the processor may take longer than hashing; by several threads at once
 * if need be, which all find the same. */
static cff__sha256_blocks chosen;

bool cff__sha256_choose(cff__sha256_way way) {
  cff__sha256_blocks blocks = blocks_of(way);
  if (blocks != NULL) __atomic_store_n(&chosen, blocks, __ATOMIC_RELAXED);
  return blocks != NULL;
}

static void compress(uint32_t state[8], const uint8_t *data, size_t n_blocks) {
  cff__sha256_blocks blocks = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
  if (blocks == NULL) {
    if (!cff__sha256_choose(CFF__SHA256_X86) && !cff__sha256_choose(CFF__SHA256_ARM))
      cff__sha256_choose(CFF__SHA256_PORTABLE);
    blocks = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
  }
  blocks(state, data, n_blocks);
}

void cff__sha256_init(cff__sha256 *hash) {
  static const uint32_t start[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                    0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
  memcpy(hash->state, start, sizeof start);
  hash->n_bytes = 0;
}

void cff__sha256_update(cff__sha256 *hash, const void *data, size_t n_bytes) {
  const uint8_t *bytes = data;
  size_t n_held = (size_t)(hash->n_bytes % 64);
  hash->n_bytes += n_bytes;
  if (n_held > 0) {
    size_t n = n_bytes < 64 - n_held ? n_bytes : 64 - n_held;
    if (n > 0) memcpy(hash->block + n_held, bytes, n);
    if (n_held + n < 64) return;
    compress(hash->state, hash->block, 1);
    bytes += n;
    n_bytes -= n;
  }
  if (n_bytes >= 64) compress(hash->state, bytes, n_bytes / 64);
  if (n_bytes % 64 > 0) memcpy(hash->block, bytes + n_bytes / 64 * 64, n_bytes % 64);
}

void cff__sha256_finish(cff__sha256 *hash, char hex[CFF__SHA256_HEX_SIZE]) {
  static const char digits[] = "0123456789abcdef";
  uint64_t n_bits = hash->n_bytes * 8;
  size_t n_held = (size_t)(hash->n_bytes % 64);
  uint8_t tail[128] = {0x80}; /* section 5.1.1: one bit, zeros, the length */
  size_t n_tail = (n_held < 56 ? 64 : 128) - n_held;
  for (int i = 0; i < 8; i++) tail[n_tail - 1 - i] = (uint8_t)(n_bits >> (8 * i));
  cff__sha256_update(hash, tail, n_tail);
  for (int i = 0; i < 64; i++)
    hex[i] = digits[hash->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
  hex[64] = '\0';
}

void cff__sha256_of(const void *data, size_t n_bytes, char hex[CFF__SHA256_HEX_SIZE]) {
  cff__sha256 hash;
  cff__sha256_init(&hash);
  cff__sha256_update(&hash, data, n_bytes);
  cff__sha256_finish(&hash, hex);
}
