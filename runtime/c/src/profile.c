#define _POSIX_C_SOURCE 200809L

#include "profile.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "status.h"

uint64_t cff__next_serial(void) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static uint64_t latest = 0;
  pthread_mutex_lock(&lock);
  const uint64_t serial = ++latest;
  pthread_mutex_unlock(&lock);
  return serial;
}

void cff_profile_free(cff_profile *profile) {
  if (profile == NULL) return;
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++) {
    free(profile->banks[stage].values);
    free(profile->means[stage].values);
  }
  free(profile->condition.values);
  free(profile->images);
  cff__arena_free(&profile->arena);
  free(profile);
}

/* Say in words what the bundle does otherwise. The encoders are compared in the profile's
 * precision where the bundle has it: the same weights in fp16 are no other encoder. */
static cff_status mismatch(const cff_profile *profile, const cff_bundle *bundle) {
  const cff__origin *origin = &profile->origin;
  const cff__manifest *manifest = &bundle->manifest;
  const cff__variant *same = cff__manifest_variant(manifest, origin->precision);
  char hex[CFF__SHA256_HEX_SIZE];
  if (same != NULL) {
    cff_status done = cff__manifest_encoder_sha256(manifest, same->encoder, hex);
    if (done != CFF_OK) return done;
  }
  bool other_encoder = same != NULL && strcmp(hex, origin->encoder_sha256) != 0;
  bool other_precision = strcmp(origin->precision, bundle->variant->precision) != 0;
  bool other_size = origin->height != manifest->height || origin->width != manifest->width;
  bool other_distance = strcmp(origin->distance, manifest->distance) != 0;
  bool other_weight = origin->map_weight != manifest->map_weight;
  bool other_score = strcmp(origin->score_statistic, manifest->score_statistic) != 0;
  bool known = other_encoder || other_precision || other_size || other_distance || other_weight ||
               other_score;
  return cff__fail(CFF_ERROR_MISMATCH,
                   "profile of `%.80s` belongs to bundle %.12s, this is bundle %.12s:%s%s%s%s%s%s%s; "
                   "enrol the product again with this bundle",
                   profile->product, profile->bundle_id, bundle->variant->id,
                   other_encoder ? " another encoder" : "",
                   other_precision ? " another precision" : "",
                   other_size ? " another image size" : "",
                   other_distance ? " another distance" : "",
                   other_weight ? " another weight of the encoder's map" : "",
                   other_score ? " another image score" : "",
                   known ? "" : " another scorer, condition, preprocessing or schema");
}

cff_status cff_profile_check(const cff_profile *profile, const cff_bundle *bundle) {
  if (profile == NULL || bundle == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`profile` and `bundle` must be given, got NULL");
  const cff__manifest *manifest = &bundle->manifest;
  if (strcmp(profile->bundle_id, bundle->variant->id) != 0) return mismatch(profile, bundle);
  bool fits = profile->n_stages == manifest->n_stages &&
              profile->n_banks == manifest->n_scorers &&
              profile->origin.height == manifest->height &&
              profile->origin.width == manifest->width;
  for (size_t stage = 0; fits && stage < manifest->n_stages; stage++)
    fits = profile->means[stage].n_columns == manifest->stages[stage].width;
  for (size_t stage = 0; fits && stage < manifest->n_scorers; stage++)
    fits = profile->banks[stage].n_columns == manifest->stages[stage].width;
  if (!fits)
    return cff__fail(CFF_ERROR_MISMATCH,
                     "memory banks and references of `%.80s` must have the bundle's widths and "
                     "size; enrol the product again",
                     profile->product);
  const cff__condition *condition = &manifest->condition;
  if (profile->condition.n_rows != condition->n_rows ||
      profile->condition.n_columns != condition->n_columns)
    return cff__fail(CFF_ERROR_MISMATCH,
                     "condition of `%.80s` must have shape (%d, %d), got (%lld, %lld); enrol the "
                     "product again",
                     profile->product, (int)condition->n_rows, (int)condition->n_columns,
                     (long long)profile->condition.n_rows,
                     (long long)profile->condition.n_columns);
  return CFF_OK;
}

cff_status cff_profile_get_info(const cff_profile *profile, cff_profile_info *info) {
  if (profile == NULL || info == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`profile` and `info` must be given, got NULL");
  const cff__threshold *threshold = &profile->threshold;
  cff_profile_info found = {sizeof found,
                            (int32_t)profile->n_references,
                            (int32_t)profile->n_stages,
                            profile->origin.height,
                            profile->origin.width,
                            strcmp(profile->compression, "null") != 0,
                            0,
                            threshold->value,
                            threshold->review,
                            threshold->pixel_value,
                            profile->peak_scale,
                            profile->product_limit,
                            profile->display_range[0],
                            profile->display_range[1],
                            threshold->expected_false_rejects};
  for (size_t stage = 0; stage < profile->n_banks; stage++)
    found.n_bank_rows += profile->banks[stage].n_rows;
  return cff__copy_struct(info, &found, sizeof found, "info");
}

static cff_status get_facts(const cff_profile *profile, char *buffer, size_t size,
                            size_t *n_needed) {
  cff__json_writer facts = {0};
  cff__profile_put_facts(&facts, profile);
  cff_status done = cff__json_check(&facts);
  if (done == CFF_OK) done = cff__copy_text(facts.text, buffer, size, n_needed);
  cff__json_free(&facts);
  return done;
}

cff_status cff_profile_get_text(const cff_profile *profile, cff_profile_text which, char *buffer,
                                size_t size, size_t *n_needed) {
  if (profile == NULL) return cff__fail(CFF_ERROR_USAGE, "`profile` must be given, got NULL");
  const char *text = NULL;
  switch ((int)which) {
    case CFF_PROFILE_PRODUCT: text = profile->product; break;
    case CFF_PROFILE_BUNDLE_ID: text = profile->bundle_id; break;
    case CFF_PROFILE_PRECISION: text = profile->origin.precision; break;
    case CFF_PROFILE_TEXT_NAME: text = profile->condition_name; break;
    case CFF_PROFILE_METHOD: text = profile->threshold.method; break;
    case CFF_PROFILE_STATEMENT: text = profile->threshold.statement; break;
    case CFF_PROFILE_FACTS: return get_facts(profile, buffer, size, n_needed);
    default: return cff__fail(CFF_ERROR_USAGE, "`which` must be a cff_profile_text, got %d", which);
  }
  return cff__copy_text(text, buffer, size, n_needed);
}
