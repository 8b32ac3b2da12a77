/* Facts of a profile that is being made. */
#include <string.h>

#include "bundle.h"
#include "profile.h"
#include "status.h"
#include "thresholds.h"

cff_status cff__profile_keep_json(cff__json_writer *out, cff__arena *arena, const char **kept) {
  cff_status done = cff__json_check(out);
  if (done == CFF_OK) *kept = cff__arena_text(arena, out->text, out->n_bytes);
  if (done == CFF_OK && *kept == NULL) done = cff__no_memory("facts", out->n_bytes);
  cff__json_free(out);
  return done;
}

cff_status cff__profile_set_origin(cff_profile *profile, const cff_bundle *bundle) {
  const cff__manifest *manifest = &bundle->manifest;
  const cff__variant *variant = bundle->variant;
  cff__arena *arena = &profile->arena;
  cff__origin *origin = &profile->origin;
  cff__json_writer out = {0};
  char hex[CFF__SHA256_HEX_SIZE];
  cff_status done = cff__manifest_encoder_sha256(manifest, variant->encoder, hex);
  if (done != CFF_OK) return done;
  cff__put_preprocessing(&out, manifest->height, manifest->width, false);
  done = cff__profile_keep_json(&out, arena, &origin->preprocessing);
  origin->precision = cff__arena_text(arena, variant->precision, strlen(variant->precision));
  origin->encoder_sha256 = cff__arena_text(arena, hex, strlen(hex));
  origin->distance = cff__arena_text(arena, manifest->distance, strlen(manifest->distance));
  origin->height = manifest->height;
  origin->width = manifest->width;
  origin->map_weight = manifest->map_weight;
  origin->score_statistic = cff__arena_text(arena, manifest->score_statistic,
                                            strlen(manifest->score_statistic));
  profile->bundle_id = cff__arena_text(arena, variant->id, strlen(variant->id));
  if (done == CFF_OK && (origin->precision == NULL || origin->encoder_sha256 == NULL ||
                         origin->distance == NULL || origin->score_statistic == NULL ||
                         profile->bundle_id == NULL))
    done = cff__no_memory("facts", sizeof hex);
  return done;
}

cff_status cff__profile_record(cff_profile *profile, const char *action, const char *key,
                               const char *source) {
  const char *earlier = profile->history;
  char at[CFF__TIME_SIZE];
  cff__json_writer out = {0};
  cff__now_utc(at);
  if (earlier == NULL) {
    cff__json_open(&out, '[');
  } else { /* but for its last bracket */
    cff__json_put_source(&out, earlier, strlen(earlier) - 1);
    out.needs_comma = strchr(earlier, '{') != NULL; /* every entry is an object */
  }
  cff__json_open(&out, '{');
  cff__json_put_key(&out, "action");
  cff__json_put_text(&out, action);
  cff__json_put_key(&out, "at");
  cff__json_put_text(&out, at);
  cff__json_put_key(&out, "sha256_before"); /* whoever replaces a file completes it */
  cff__json_put_source(&out, "null", 4);
  cff__json_put_key(&out, key);
  cff__json_put_source(&out, source, strlen(source));
  cff__json_close(&out, '}');
  cff__json_close(&out, ']');
  return cff__profile_keep_json(&out, &profile->arena, &profile->history);
}
