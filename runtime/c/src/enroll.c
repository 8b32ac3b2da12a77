#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "bundle.h"
#include "enroll_job.h"
#include "references.h"
#include "session.h"
#include "settings.h"
#include "status.h"
#include "utf8.h"

static bool knows(const cff__manifest *manifest, const char *name) {
  for (size_t i = 0; i < manifest->condition.n_names; i++)
    if (strcmp(manifest->condition.names[i], name) == 0) return true;
  return false;
}

static cff_status fail_text_name(const cff__manifest *manifest, const char *name) {
  const cff__condition *condition = &manifest->condition;
  char some[200] = "";
  for (size_t i = 0; i < condition->n_names; i++) {
    const size_t n = strlen(some), n_more = strlen(condition->names[i]);
    if (n + n_more + sizeof ", ..." > sizeof some) {
      strcat(some, "...");
      break;
    }
    strcat(strcat(some, condition->names[i]), i + 1 < condition->n_names ? ", " : "");
  }
  return cff__fail(CFF_ERROR_USAGE,
                   "`text_name` must be one of the bundle's, %s; got `%.80s`; export with "
                   "`cff-export --text-names` to add one",
                   some, name);
}

/* Set the class word and its condition. */
static cff_status set_word(cff__job *one, const char *product) {
  const cff__manifest *manifest = one->manifest;
  cff_profile *profile = one->profile;
  const char *name = one->options.text_name;
  if (manifest->condition.is_of_reference) { /* which is chosen once they are encoded */
    if (name == NULL) return CFF_OK;
    return cff__fail(CFF_ERROR_USAGE,
                     "`text_name` must be NULL with this bundle, whose condition is made from the "
                     "references, got `%.80s`; enrol without it",
                     name);
  }
  if (name == NULL) name = knows(manifest, product) ? product : "object";
  if (!knows(manifest, name)) return fail_text_name(manifest, name);
  cff_status done = cff__job_keep_text(one, name, &profile->condition_name);
  if (done == CFF_OK)
    done = cff__bundle_condition_of_word(cff__session_bundle(one->session), name,
                                         &profile->condition.values);
  profile->condition.n_rows = manifest->condition.n_rows;
  profile->condition.n_columns = manifest->condition.n_columns;
  return done;
}

static cff_status check_product(const char *product) {
  static const char blanks[] = " \t\n\v\f\r\x1c\x1d\x1e\x1f"; /* as Python's strip */
  if (product == NULL) return cff__fail(CFF_ERROR_USAGE, "`product` must be given, got NULL");
  const size_t n_bytes = strlen(product);
  if (strspn(product, blanks) == n_bytes)
    return cff__fail(CFF_ERROR_USAGE, "`product` must be a name, got an empty one");
  if (n_bytes > CFF__MAX_NAME_BYTES || !cff__utf8_is_valid(product, n_bytes))
    return cff__fail(CFF_ERROR_USAGE,
                     "`product` must be a name in UTF-8 of at most %d bytes, got another text",
                     CFF__MAX_NAME_BYTES);
  return CFF_OK;
}

static cff_status enroll(cff__job *one, const char *product) {
  const cff_enroll_options *options = &one->options;
  cff_profile *profile = one->profile;
  cff__recipe *recipe = &one->recipe;
  char number[CFF__DOUBLE_SIZE];
  recipe->margin = options->margin;
  recipe->max_false_reject = options->max_false_reject;
  recipe->max_false_accept = options->max_false_accept;
  recipe->confidence = options->confidence;
  recipe->max_bank = options->max_bank;
  if (recipe->max_bank < 0)
    return cff__fail(CFF_ERROR_USAGE, "`max_bank` must be 0 or more, got %lld",
                     (long long)recipe->max_bank);
  if (recipe->max_bank > 0 && one->manifest->n_scorers == 0)
    return cff__fail(CFF_ERROR_USAGE,
                     "`max_bank` must be 0 with this bundle, which has no memory banks, got %lld; "
                     "enrol without it",
                     (long long)recipe->max_bank);
  cff_status done = cff__job_keep_text(one, product, &profile->product);
  if (done == CFF_OK) done = set_word(one, product);
  if (done == CFF_OK) done = cff__references_make(profile, one->n_images, one->manifest);
  if (done == CFF_OK)
    done = cff__references_add(profile, 0, one->images, one->n_images, options->names,
                               one->manifest);
  if (done == CFF_OK) done = cff__job_run(one);
  if (done == CFF_OK) done = cff__settings_write(recipe, profile);
  snprintf(number, sizeof number, "%llu", (unsigned long long)one->n_images);
  return done == CFF_OK ? cff__profile_record(profile, "enroll", "n_references", number) : done;
}

cff_status cff_session_enroll(cff_session *session, const char *product, const cff_image *images,
                              size_t n_images, const cff_enroll_options *options,
                              cff_profile **profile) {
  cff__job one = {0};
  if (profile == NULL) return cff__fail(CFF_ERROR_USAGE, "`profile` must be given, got NULL");
  *profile = NULL;
  if (session == NULL) return cff__fail(CFF_ERROR_USAGE, "`session` must be given, got NULL");
  if (n_images == 0)
    return cff__fail(CFF_ERROR_USAGE, "`images` must hold at least one good part, got none");
  cff_status done = check_product(product);
  if (done == CFF_OK) done = cff__job_start(&one, session, images, n_images, options);
  if (done == CFF_OK) done = enroll(&one, product);
  return cff__job_end(&one, done, profile);
}
