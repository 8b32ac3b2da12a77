/* A safetensors file: every tensor that it describes can be read, and nothing lies beside them. */
#include <string.h>

#include "fuzz.h"
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  cff__safetensors file;
  uint64_t n_data = 0;
  fuzz_write_file(fuzz_path(0), data, n_bytes);
  cff_status status = cff__safetensors_open(fuzz_path(0), CFF_ERROR_BUNDLE, &file);
  if (status != CFF_OK) fuzz_check_failure(status, CFF_ERROR_BUNDLE, CFF_ERROR_BUNDLE);
  for (size_t i = 0; i < file.n_tensors && status == CFF_OK; i++) {
    const cff__tensor *tensor = &file.tensors[i];
    void *values = NULL;
    FUZZ_CHECK(tensor->begin == n_data); /* in the file's order, without gaps */
    FUZZ_CHECK(cff__safetensors_find(&file, tensor->name) != NULL);
    FUZZ_CHECK(cff__safetensors_read(&file, tensor, &values) == CFF_OK && values != NULL);
    FUZZ_CHECK(memcmp(values, data + file.data_start + n_data, (size_t)tensor->n_bytes) == 0);
    n_data += tensor->n_bytes;
    free(values);
  }
  FUZZ_CHECK(status != CFF_OK || file.data_start + n_data == n_bytes);
  if (status == CFF_OK && file.metadata != NULL)
    for (const cff__json *text = file.metadata->first; text != NULL; text = text->next)
      FUZZ_CHECK(text->text != NULL);
  cff__safetensors_close(&file);
  return 0;
}
