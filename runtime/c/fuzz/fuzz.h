/* What the fuzz targets share. A target stops the program where an answer is wrong; only here may
 * anything do so. */
#ifndef CFF_FUZZ_H
#define CFF_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "cff.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* Unlike assert, it also holds in a release build. */
#define FUZZ_CHECK(holds) ((holds) ? (void)0 : fuzz_stop(#holds, __FILE__, __LINE__))

void fuzz_stop(const char *what, const char *file, int line);

/* The input, taken from the front; zeros once it has ended. */
typedef struct fuzz_input {
  const uint8_t *at;
  size_t n_left;
} fuzz_input;

void fuzz_take(fuzz_input *input, void *value, size_t n_bytes);
uint32_t fuzz_take_u32(fuzz_input *input);
uint8_t fuzz_take_u8(fuzz_input *input);

/* A number from 0 to `most`. */
size_t fuzz_take_size(fuzz_input *input, size_t most);

/* A call failed: with one of two statuses, and with a sentence of printable UTF-8. */
void fuzz_check_failure(cff_status status, cff_status expected, cff_status other);

/* Exactly `n_bytes` from malloc, so that a sanitizer sees a read beyond them. */
void *fuzz_copy(const void *data, size_t n_bytes);

/* Path of a file of this process in TMPDIR, gone when the process ends. number: 0 or 1. */
const char *fuzz_path(int number);
void fuzz_write_file(const char *path, const void *data, size_t n_bytes);

#endif
