#include "settings.h"

#include <string.h>

#include "json.h"
#include "thresholds.h"

/* null stands for what was not asked for. */
static void put(cff__json_writer *out, const char *key, bool given, double value) {
  cff__json_put_key(out, key);
  if (given) cff__json_put_double(out, value);
  else cff__json_put_source(out, "null", 4);
}

cff_status cff__settings_write(const cff__recipe *recipe, cff_profile *profile) {
  cff__json_writer out = {0};
  cff__json_open(&out, '{');
  put(&out, "margin", true, recipe->margin);
  put(&out, "max_false_reject", recipe->max_false_reject != 0.0, recipe->max_false_reject);
  put(&out, "max_false_accept", recipe->max_false_accept != 0.0, recipe->max_false_accept);
  put(&out, "confidence", true, recipe->confidence);
  cff__json_put_key(&out, "max_bank");
  if (recipe->max_bank > 0) cff__json_put_integer(&out, recipe->max_bank);
  else cff__json_put_source(&out, "null", 4);
  cff__json_close(&out, '}');
  return cff__profile_keep_json(&out, &profile->arena, &profile->settings);
}

/* A missing one is as good as null. */
static double number_or(const cff__json *settings, const char *key, double otherwise) {
  const cff__json *value = cff__json_find(settings, key);
  return value == NULL || value->kind != CFF__JSON_NUMBER ? otherwise : value->number;
}

cff_status cff__settings_read(const cff_profile *profile, cff__recipe *recipe) {
  const double most_rows = 1e15; /* more than any bank has */
  const cff__json *settings = NULL;
  cff__arena arena = {NULL};
  cff_status done = cff__json_parse(profile->settings, strlen(profile->settings), "settings",
                                    CFF_ERROR_PROFILE, &arena, &settings);
  if (done == CFF_OK) {
    const double max_bank = number_or(settings, "max_bank", 0.0);
    recipe->margin = number_or(settings, "margin", 0.0);
    recipe->max_false_reject = number_or(settings, "max_false_reject", 0.0);
    recipe->max_false_accept = number_or(settings, "max_false_accept", 0.0);
    recipe->confidence = number_or(settings, "confidence", CFF__DEFAULT_CONFIDENCE);
    recipe->max_bank = max_bank >= 1.0 && max_bank < most_rows ? (int64_t)max_bank : 0;
  }
  cff__arena_free(&arena);
  return done;
}
