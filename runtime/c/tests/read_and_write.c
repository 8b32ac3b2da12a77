/* Read a bundle and a profile, and write the profile again, in the locale of the environment.
 *
 *     read_and_write BUNDLE PROFILE COPY
 *
 * Prints how the locale writes a half, the bundle's id and the profile's facts, a line each. Exit
 * status: 0, else that of libcff. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

#include "cff.h"

static cff_status print_bundle(const cff_bundle *bundle) {
  char id[65];
  cff_bundle_info info = {.struct_size = sizeof info};
  cff_status status = cff_bundle_get_info(bundle, &info);
  if (status == CFF_OK) status = cff_bundle_get_text(bundle, CFF_BUNDLE_ID, id, sizeof id, NULL);
  if (status == CFF_OK) printf("%s\n", id);
  return status;
}

static cff_status print_facts(const cff_profile *profile) {
  size_t n = 0;
  cff_status status = cff_profile_get_text(profile, CFF_PROFILE_FACTS, NULL, 0, &n);
  char *text = status == CFF_OK ? malloc(n) : NULL;
  if (status == CFF_OK && text == NULL) status = CFF_ERROR_MEMORY;
  if (status == CFF_OK) status = cff_profile_get_text(profile, CFF_PROFILE_FACTS, text, n, NULL);
  if (status == CFF_OK) printf("%s\n", text);
  free(text);
  return status;
}

int main(int n_arguments, char **arguments) {
  cff_bundle *bundle = NULL;
  cff_profile *profile = NULL;
  if (n_arguments != 4) return CFF_ERROR_USAGE;
  setlocale(LC_ALL, "");
  printf("%.1f\n", 0.5);
  cff_status status = cff_bundle_open(arguments[1], NULL, &bundle);
  if (status == CFF_OK) status = print_bundle(bundle);
  if (status == CFF_OK) status = cff_profile_load(arguments[2], &profile);
  if (status == CFF_OK) status = print_facts(profile);
  if (status == CFF_OK) status = cff_profile_save(profile, arguments[3]);
  if (status != CFF_OK) fprintf(stderr, "%s\n", cff_last_error());
  cff_profile_free(profile);
  cff_bundle_free(bundle);
  return (int)status;
}
