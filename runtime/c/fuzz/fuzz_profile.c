/* A profile: what was loaded can be asked for everything, and saved and loaded again it is the
 * same. An input that starts with 'F' is the facts of a small profile, else it is a file. */
#include <string.h>

#include "fuzz.h"
#include "profile.h"
#include "safetensors.h"
#include "utf8.h"

/* One reference of 1 x 1 px, one stage. */
static void write_around(const char *facts) {
  static const float unit[2] = {0.6F, 0.8F};
  static const uint8_t pixel[3] = {1, 2, 3};
  cff__tensor tensors[] = {{"bank_0", CFF__F32, 2, {1, 2}, 0, 0},
                           {"mean_0", CFF__F32, 2, {1, 2}, 0, 0},
                           {"condition", CFF__F32, 2, {1, 2}, 0, 0},
                           {"references", CFF__U8, 4, {1, 1, 1, 3}, 0, 0}};
  const void *const data[] = {unit, unit, unit, pixel};
  FUZZ_CHECK(cff__safetensors_write(fuzz_path(0), CFF__PROFILE_KEY, facts, tensors, data, 4) ==
             CFF_OK);
}

/* The caller frees it. */
static char *get_text(const cff_profile *profile, int which) {
  size_t n = 0, n_again = 0;
  FUZZ_CHECK(cff_profile_get_text(profile, (cff_profile_text)which, NULL, 0, &n) == CFF_OK);
  char *text = malloc(n);
  FUZZ_CHECK(n > 0 && text != NULL);
  FUZZ_CHECK(cff_profile_get_text(profile, (cff_profile_text)which, text, n - 1, NULL) ==
             CFF_ERROR_BUFFER);
  FUZZ_CHECK(cff_profile_get_text(profile, (cff_profile_text)which, text, n, &n_again) == CFF_OK);
  FUZZ_CHECK(n_again == n && strlen(text) == n - 1 && cff__utf8_is_valid(text, n - 1));
  return text;
}

static void check_same(const cff_profile *a, const cff_profile *b) {
  cff_profile_info x, y;
  memset(&x, 0, sizeof x); /* gaps between the fields too */
  memset(&y, 0, sizeof y);
  x.struct_size = y.struct_size = sizeof x;
  FUZZ_CHECK(cff_profile_get_info(a, &x) == CFF_OK && cff_profile_get_info(b, &y) == CFF_OK);
  FUZZ_CHECK(memcmp(&x, &y, sizeof x) == 0);
  for (int which = CFF_PROFILE_PRODUCT; which <= CFF_PROFILE_FACTS; which++) {
    char *ours = get_text(a, which), *theirs = get_text(b, which);
    FUZZ_CHECK(strcmp(ours, theirs) == 0);
    free(ours);
    free(theirs);
  }
}

static void check_round_trip(const cff_profile *profile) {
  cff_profile *again = NULL;
  cff_status status = cff_profile_save(profile, fuzz_path(1));
  if (status != CFF_OK) { /* escaped, the facts may have become too long */
    fuzz_check_failure(status, CFF_ERROR_USAGE, CFF_ERROR_USAGE);
    return;
  }
  FUZZ_CHECK(cff_profile_load(fuzz_path(1), &again) == CFF_OK);
  check_same(profile, again);
  cff_profile_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  cff_profile *profile = NULL;
  if (n_bytes > 0 && data[0] == 'F') {
    if (!cff__utf8_is_valid((const char *)data, n_bytes) || memchr(data, 0, n_bytes) != NULL)
      return 0;
    char *facts = malloc(n_bytes);
    FUZZ_CHECK(facts != NULL);
    memcpy(facts, data + 1, n_bytes - 1);
    facts[n_bytes - 1] = '\0';
    write_around(facts);
    free(facts);
  } else {
    fuzz_write_file(fuzz_path(0), data, n_bytes);
  }
  cff_status status = cff_profile_load(fuzz_path(0), &profile);
  FUZZ_CHECK((status == CFF_OK) == (profile != NULL));
  if (status == CFF_OK) check_round_trip(profile);
  else fuzz_check_failure(status, CFF_ERROR_PROFILE, CFF_ERROR_PROFILE);
  cff_profile_free(profile);
  return 0;
}
