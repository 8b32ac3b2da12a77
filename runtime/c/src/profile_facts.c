/* The facts of a profile: reading and writing their JSON. */
#include <math.h>
#include <string.h>

#include "json.h"
#include "profile.h"
#include "status.h"

#define FAIL CFF_ERROR_PROFILE

static cff_status keep_source(cff__arena *arena, const cff__json *value, const char **kept) {
  *kept = cff__arena_text(arena, value->source, value->n_source);
  return *kept == NULL ? cff__no_memory("facts", value->n_source) : CFF_OK;
}

static cff_status take_source(const cff__json *fields, const char *key, cff__json_kind kind,
                              cff__arena *arena, const char **kept) {
  const cff__json *value = NULL;
  cff_status done = cff__json_take(fields, key, kind, FAIL, &value);
  return done == CFF_OK ? keep_source(arena, value, kept) : done;
}

static cff_status parse_origin(const cff__json *fields, cff_profile *profile) {
  const cff__json *entry = NULL, *preprocessing = NULL;
  cff__origin *origin = &profile->origin;
  int64_t height = 0, width = 0;
  cff_status done = cff__json_take(fields, "origin", CFF__JSON_OBJECT, FAIL, &entry);
  if (done == CFF_OK)
    done = cff__json_take(entry, "preprocessing", CFF__JSON_OBJECT, FAIL, &preprocessing);
  if (done == CFF_OK)
    done = cff__json_take_integer(preprocessing, "height", 1, CFF__MAX_SIZE_PX, FAIL, &height);
  if (done == CFF_OK)
    done = cff__json_take_integer(preprocessing, "width", 1, CFF__MAX_SIZE_PX, FAIL, &width);
  if (done == CFF_OK) done = keep_source(&profile->arena, preprocessing, &origin->preprocessing);
  if (done == CFF_OK) done = cff__json_take_text(entry, "precision", FAIL, &origin->precision);
  if (done == CFF_OK)
    done = cff__json_take_text(entry, "encoder_sha256", FAIL, &origin->encoder_sha256);
  if (done == CFF_OK) done = cff__json_take_text(entry, "distance", FAIL, &origin->distance);
  if (done == CFF_OK)
    done = cff__json_take_number(entry, "map_weight", FAIL, &origin->map_weight);
  if (done == CFF_OK)
    done = cff__json_take_text(entry, "score_statistic", FAIL, &origin->score_statistic);
  origin->height = (int32_t)height;
  origin->width = (int32_t)width;
  return done;
}

static cff_status parse_reference(const cff__json *entry, cff__reference *reference) {
  const cff__json *size = NULL;
  if (entry->kind != CFF__JSON_OBJECT)
    return cff__fail(FAIL, "every entry of `references` must be an object");
  cff_status done = cff__json_take_text(entry, "name", FAIL, &reference->name);
  if (done == CFF_OK) done = cff__json_take_text(entry, "sha256", FAIL, &reference->sha256);
  if (done == CFF_OK) done = cff__json_take_text(entry, "added", FAIL, &reference->added);
  if (done == CFF_OK) done = cff__json_take(entry, "size", CFF__JSON_ARRAY, FAIL, &size);
  if (done != CFF_OK) return done;
  if (size->n_children != 2 || !size->first->is_integer || !size->first->next->is_integer ||
      size->first->integer < 1 || size->first->next->integer < 1)
    return cff__fail(FAIL, "`size` of a reference must be two sides in px");
  reference->width = size->first->integer;
  reference->height = size->first->next->integer;
  return CFF_OK;
}

static cff_status parse_references(const cff__json *fields, cff_profile *profile) {
  const cff__json *list = NULL;
  cff_status done = cff__json_take(fields, "references", CFF__JSON_ARRAY, FAIL, &list);
  if (done != CFF_OK) return done;
  size_t n = list->n_children;
  profile->references = cff__arena_alloc(&profile->arena, n, sizeof *profile->references);
  if (profile->references == NULL)
    return cff__no_memory("references", n * sizeof *profile->references);
  for (const cff__json *entry = list->first; entry != NULL && done == CFF_OK; entry = entry->next)
    done = parse_reference(entry, &profile->references[profile->n_references++]);
  return done;
}

static cff_status parse_lists(const cff__json *entry, cff__arena *arena, cff__threshold *found) {
  cff_status done =
      cff__json_take_numbers(entry, "scores", FAIL, arena, &found->scores, &found->n_scores);
  if (done == CFF_OK)
    done = cff__json_take_numbers(entry, "peaks", FAIL, arena, &found->peaks, &found->n_peaks);
  if (done != CFF_OK) return done;
  found->card = "{}"; /* `review` and `card` may be missing, as they once were */
  found->review = found->value;
  if (cff__json_find(entry, "card") != NULL)
    done = take_source(entry, "card", CFF__JSON_OBJECT, arena, &found->card);
  if (done == CFF_OK && cff__json_find(entry, "review") != NULL)
    done = cff__json_take_number(entry, "review", FAIL, &found->review);
  return done;
}

static cff_status check_reach(const cff__threshold *found) {
  const double values[] = {found->value, found->review, found->pixel_value};
  static const char *const names[] = {"value", "review", "pixel_value"};
  for (size_t i = 0; i < 3; i++)
    if (!(fabs(values[i]) <= CFF__MAX_THRESHOLD))
      return cff__fail(FAIL, "`%s` of the threshold must be at most %.0f, which no score reaches, "
                             "got %g", names[i], CFF__MAX_THRESHOLD, values[i]);
  return CFF_OK;
}

static cff_status parse_threshold(const cff__json *fields, cff_profile *profile) {
  const cff__json *entry = NULL;
  cff__threshold *found = &profile->threshold;
  cff_status done = cff__json_take(fields, "threshold", CFF__JSON_OBJECT, FAIL, &entry);
  if (done == CFF_OK) done = cff__json_take_number(entry, "value", FAIL, &found->value);
  if (done == CFF_OK) done = cff__json_take_number(entry, "pixel_value", FAIL, &found->pixel_value);
  if (done == CFF_OK) done = cff__json_take_text(entry, "method", FAIL, &found->method);
  if (done == CFF_OK)
    done = cff__json_take_integer(entry, "n_parts", INT64_MIN, INT64_MAX, FAIL, &found->n_parts);
  if (done == CFF_OK)
    done = cff__json_take_number(entry, "expected_false_rejects", FAIL,
                                 &found->expected_false_rejects);
  if (done == CFF_OK) done = cff__json_take_text(entry, "statement", FAIL, &found->statement);
  if (done == CFF_OK) done = parse_lists(entry, &profile->arena, found);
  if (done == CFF_OK && !(found->review <= found->value))
    return cff__fail(FAIL, "`review` must be at most the threshold %.9g, got %.9g", found->value,
                     found->review);
  return done == CFF_OK ? check_reach(found) : done;
}

static cff_status parse_display(const cff__json *fields, cff_profile *profile) {
  double *range = NULL;
  size_t n = 0;
  cff_status done =
      cff__json_take_numbers(fields, "display_range", FAIL, &profile->arena, &range, &n);
  if (done != CFF_OK) return done;
  if (n != 2 || !(range[0] < range[1]))
    return cff__fail(FAIL, "`display_range` must be two rising numbers");
  profile->display_range[0] = range[0];
  profile->display_range[1] = range[1];
  return CFF_OK;
}

/* Kept as they were written: no score depends on them. */
static cff_status parse_kept(const cff__json *fields, cff_profile *profile) {
  const cff__json *value = NULL;
  cff__arena *arena = &profile->arena;
  cff_status done = cff__json_take(fields, "settings", CFF__JSON_OBJECT, FAIL, &value);
  if (done != CFF_OK) return done;
  for (const cff__json *item = value->first; item != NULL; item = item->next)
    if (item->kind != CFF__JSON_NULL && item->kind != CFF__JSON_NUMBER)
      return cff__fail(FAIL, "field `%.80s` must be a finite number", item->key);
  done = keep_source(arena, value, &profile->settings);
  if (done != CFF_OK) return done;
  value = cff__json_find(fields, "compression");
  if (value != NULL && value->kind == CFF__JSON_NULL) profile->compression = "null";
  else done = take_source(fields, "compression", CFF__JSON_OBJECT, arena, &profile->compression);
  if (done == CFF_OK) done = cff__json_take(fields, "history", CFF__JSON_ARRAY, FAIL, &value);
  if (done != CFF_OK) return done;
  for (const cff__json *item = value->first; item != NULL; item = item->next)
    if (item->kind != CFF__JSON_OBJECT)
      return cff__fail(FAIL, "every entry of `history` must be an object");
  return keep_source(arena, value, &profile->history);
}

cff_status cff__profile_parse_facts(const char *text, size_t n_bytes, cff_profile *profile) {
  const cff__json *fields = NULL;
  int64_t version = 0;
  cff_status done = cff__json_parse(text, n_bytes, "metadata", FAIL, &profile->arena, &fields);
  if (done == CFF_OK)
    done = cff__json_take_integer(fields, "schema_version", INT32_MIN, INT32_MAX, FAIL, &version);
  if (done != CFF_OK) return done;
  if (version != CFF__PROFILE_SCHEMA)
    return cff__fail(FAIL, "`schema_version` must be %d, got %d%s", CFF__PROFILE_SCHEMA,
                     (int)version,
                     version < CFF__PROFILE_SCHEMA ? ", it was made by an earlier version" : "");
  done = parse_origin(fields, profile);
  if (done == CFF_OK) done = parse_references(fields, profile);
  if (done == CFF_OK) done = parse_display(fields, profile);
  if (done == CFF_OK) done = cff__json_take_text(fields, "product", FAIL, &profile->product);
  if (done == CFF_OK) done = cff__json_take_text(fields, "bundle_id", FAIL, &profile->bundle_id);
  if (done == CFF_OK) done = parse_threshold(fields, profile);
  if (done == CFF_OK)
    done = cff__json_take_number(fields, "peak_scale", FAIL, &profile->peak_scale);
  if (done == CFF_OK)
    done = cff__json_take_text(fields, "condition_name", FAIL, &profile->condition_name);
  if (done == CFF_OK)
    done = cff__json_take_number(fields, "product_limit", FAIL, &profile->product_limit);
  return done == CFF_OK ? parse_kept(fields, profile) : done;
}

static void put_text_field(cff__json_writer *out, const char *key, const char *text) {
  cff__json_put_key(out, key);
  cff__json_put_text(out, text);
}

static void put_number_field(cff__json_writer *out, const char *key, double number) {
  cff__json_put_key(out, key);
  cff__json_put_double(out, number);
}

static void put_source_field(cff__json_writer *out, const char *key, const char *source) {
  cff__json_put_key(out, key);
  cff__json_put_source(out, source, strlen(source));
}

static void put_numbers_field(cff__json_writer *out, const char *key, const double *numbers,
                              size_t n) {
  cff__json_put_key(out, key);
  cff__json_open(out, '[');
  for (size_t i = 0; i < n; i++) cff__json_put_double(out, numbers[i]);
  cff__json_close(out, ']');
}

static void put_origin(cff__json_writer *out, const cff__origin *origin) {
  cff__json_put_key(out, "origin");
  cff__json_open(out, '{');
  put_text_field(out, "precision", origin->precision);
  put_text_field(out, "encoder_sha256", origin->encoder_sha256);
  put_source_field(out, "preprocessing", origin->preprocessing);
  put_text_field(out, "distance", origin->distance);
  put_number_field(out, "map_weight", origin->map_weight);
  put_text_field(out, "score_statistic", origin->score_statistic);
  cff__json_close(out, '}');
}

static void put_references(cff__json_writer *out, const cff_profile *profile) {
  cff__json_put_key(out, "references");
  cff__json_open(out, '[');
  for (size_t i = 0; i < profile->n_references; i++) {
    const cff__reference *reference = &profile->references[i];
    cff__json_open(out, '{');
    put_text_field(out, "name", reference->name);
    put_text_field(out, "sha256", reference->sha256);
    put_text_field(out, "added", reference->added);
    cff__json_put_key(out, "size");
    cff__json_open(out, '[');
    cff__json_put_integer(out, reference->width);
    cff__json_put_integer(out, reference->height);
    cff__json_close(out, ']');
    cff__json_close(out, '}');
  }
  cff__json_close(out, ']');
}

static void put_threshold(cff__json_writer *out, const cff__threshold *threshold) {
  cff__json_put_key(out, "threshold");
  cff__json_open(out, '{');
  put_number_field(out, "value", threshold->value);
  put_number_field(out, "pixel_value", threshold->pixel_value);
  put_text_field(out, "method", threshold->method);
  cff__json_put_key(out, "n_parts");
  cff__json_put_integer(out, threshold->n_parts);
  put_numbers_field(out, "scores", threshold->scores, threshold->n_scores);
  put_numbers_field(out, "peaks", threshold->peaks, threshold->n_peaks);
  put_number_field(out, "expected_false_rejects", threshold->expected_false_rejects);
  put_text_field(out, "statement", threshold->statement);
  put_number_field(out, "review", threshold->review);
  put_source_field(out, "card", threshold->card);
  cff__json_close(out, '}');
}

void cff__profile_put_facts(cff__json_writer *out, const cff_profile *profile) {
  cff__json_open(out, '{');
  cff__json_put_key(out, "schema_version");
  cff__json_put_integer(out, CFF__PROFILE_SCHEMA);
  put_text_field(out, "product", profile->product);
  put_text_field(out, "bundle_id", profile->bundle_id);
  put_origin(out, &profile->origin);
  put_references(out, profile);
  put_threshold(out, &profile->threshold);
  put_numbers_field(out, "display_range", profile->display_range, 2);
  put_number_field(out, "peak_scale", profile->peak_scale);
  put_text_field(out, "condition_name", profile->condition_name);
  put_number_field(out, "product_limit", profile->product_limit);
  put_source_field(out, "settings", profile->settings);
  put_source_field(out, "compression", profile->compression);
  put_source_field(out, "history", profile->history);
  cff__json_close(out, '}');
}
