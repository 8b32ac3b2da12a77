/* A manifest: whatever is taken has ids that can be computed, and files that can be found. */
#include <string.h>

#include "fuzz.h"
#include "manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  cff__arena arena = {NULL};
  cff__manifest manifest;
  char hex[CFF__SHA256_HEX_SIZE];
  char *text = fuzz_copy(data, n_bytes);
  cff_status status = cff__manifest_parse(text, n_bytes, &arena, &manifest);
  free(text); /* a bundle keeps the manifest without it */
  if (status != CFF_OK) fuzz_check_failure(status, CFF_ERROR_BUNDLE, CFF_ERROR_BUNDLE);
  /* an id that is right cannot be guessed: go on where nothing else is wrong */
  bool wrong_id = status != CFF_OK && strncmp(cff_last_error(), "`id` of precision", 17) == 0;
  for (size_t i = 0; i < manifest.n_variants && (status == CFF_OK || wrong_id); i++) {
    const cff__variant *variant = &manifest.variants[i];
    FUZZ_CHECK(cff__manifest_compute_id(&manifest, variant->encoder, hex) == CFF_OK);
    FUZZ_CHECK(strlen(hex) == 64);
    FUZZ_CHECK(cff__manifest_encoder_sha256(&manifest, variant->encoder, hex) == CFF_OK);
  }
  if (status == CFF_OK || wrong_id) {
    FUZZ_CHECK(manifest.n_stages >= 1 && manifest.n_stages <= CFF__MAX_STAGES);
    FUZZ_CHECK(manifest.height >= CFF__MIN_SIZE_PX && manifest.width >= CFF__MIN_SIZE_PX);
    const cff__condition *condition = &manifest.condition;
    FUZZ_CHECK(condition->is_of_reference == (condition->file == NULL));
    if (condition->is_of_reference)
      FUZZ_CHECK(condition->stage >= 0 && (size_t)condition->stage < manifest.n_stages);
    else
      FUZZ_CHECK(cff__manifest_file(&manifest, condition->file) != NULL);
    FUZZ_CHECK(condition->n_rows > 0 && condition->n_columns > 0);
    FUZZ_CHECK(manifest.n_scorers == 0 || manifest.n_scorers == manifest.n_stages);
    for (size_t i = 0; i < manifest.n_scorers; i++)
      FUZZ_CHECK(cff__manifest_file(&manifest, manifest.scorers[i]) != NULL);
  }
  cff__arena_free(&arena);
  return 0;
}
