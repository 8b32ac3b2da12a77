/* Run a fuzz target on the files that are named, for compilers without libFuzzer. */
#include <stdio.h>

#include "fuzz.h"

static void run_file(const char *path) {
  FILE *file = fopen(path, "rb");
  FUZZ_CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
  long size = ftell(file);
  FUZZ_CHECK(size >= 0 && fseek(file, 0, SEEK_SET) == 0);
  uint8_t *data = malloc(size > 0 ? (size_t)size : 1); /* not a byte more */
  FUZZ_CHECK(data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size);
  fclose(file);
  LLVMFuzzerTestOneInput(data, (size_t)size);
  free(data);
}

int main(int n_arguments, char **arguments) {
  for (int i = 1; i < n_arguments; i++) {
    fprintf(stderr, "%s\n", arguments[i]); /* which one it was, if it stops */
    run_file(arguments[i]);
  }
  return 0;
}
