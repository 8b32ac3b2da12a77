#define _POSIX_C_SOURCE 200809L

#include "fuzz.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "utf8.h"

static char paths[2][512];

void fuzz_stop(const char *what, const char *file, int line) {
  fprintf(stderr, "%s:%d: must hold: %s\nlast error: %s\n", file, line, what, cff_last_error());
  abort();
}

void fuzz_take(fuzz_input *input, void *value, size_t n_bytes) {
  size_t n = n_bytes < input->n_left ? n_bytes : input->n_left;
  memset(value, 0, n_bytes);
  if (n > 0) memcpy(value, input->at, n);
  if (n > 0) input->at += n;
  input->n_left -= n;
}

uint32_t fuzz_take_u32(fuzz_input *input) {
  uint8_t bytes[4];
  fuzz_take(input, bytes, sizeof bytes);
  return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

uint8_t fuzz_take_u8(fuzz_input *input) {
  uint8_t byte;
  fuzz_take(input, &byte, 1);
  return byte;
}

size_t fuzz_take_size(fuzz_input *input, size_t most) {
  return fuzz_take_u32(input) % (most + 1);
}

void fuzz_check_failure(cff_status status, cff_status expected, cff_status other) {
  const char *sentence = cff_last_error();
  FUZZ_CHECK(status == expected || status == other);
  FUZZ_CHECK(sentence[0] != '\0');
  FUZZ_CHECK(cff__utf8_is_valid(sentence, strlen(sentence)));
  for (const char *at = sentence; *at != '\0'; at++)
    FUZZ_CHECK((unsigned char)*at >= 0x20 && *at != 0x7f);
}

void *fuzz_copy(const void *data, size_t n_bytes) {
  void *copy = malloc(n_bytes > 0 ? n_bytes : 1);
  FUZZ_CHECK(copy != NULL);
  if (n_bytes > 0) memcpy(copy, data, n_bytes);
  return copy;
}

static void remove_files(void) {
  for (int i = 0; i < 2; i++)
    if (paths[i][0] != '\0') unlink(paths[i]);
}

const char *fuzz_path(int number) {
  const char *folder = getenv("TMPDIR");
  if (paths[number][0] != '\0') return paths[number];
  if (paths[1 - number][0] == '\0') FUZZ_CHECK(atexit(remove_files) == 0);
  snprintf(paths[number], sizeof paths[number], "%s/cff-fuzz-%ld-%d",
           folder != NULL ? folder : "/tmp", (long)getpid(), number);
  return paths[number];
}

void fuzz_write_file(const char *path, const void *data, size_t n_bytes) {
  FILE *file = fopen(path, "wb");
  FUZZ_CHECK(file != NULL);
  FUZZ_CHECK(n_bytes == 0 || fwrite(data, 1, n_bytes, file) == n_bytes);
  FUZZ_CHECK(fclose(file) == 0);
}
