#include "result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_writer.h"
#include "status.h"

void cff_result_free(cff_result *result) {
  if (result == NULL) return;
  free(result->map);
  free(result->regions);
  free(result->warning);
  free(result);
}

cff_status cff_result_get_info(const cff_result *result, cff_result_info *info) {
  if (result == NULL || info == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`result` and `info` must be given, got NULL");
  return cff__copy_struct(info, &result->info, sizeof result->info, "info");
}

cff_status cff_result_get_map(const cff_result *result, float *map, size_t n_values) {
  if (result == NULL || map == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`result` and `map` must be given, got NULL");
  size_t n_needed = (size_t)result->info.height * (size_t)result->info.width;
  if (n_values < n_needed)
    return cff__fail(CFF_ERROR_BUFFER, "`map` must have room for %llu values, got %llu",
                     (unsigned long long)n_needed, (unsigned long long)n_values);
  memcpy(map, result->map, n_needed * sizeof *map);
  return CFF_OK;
}

cff_status cff_result_get_region(const cff_result *result, size_t index, cff_region *region) {
  if (result == NULL || region == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`result` and `region` must be given, got NULL");
  if (index >= (size_t)result->info.n_regions)
    return cff__fail(CFF_ERROR_USAGE, "`index` must be below the number of regions, %lld, got %llu",
                     (long long)result->info.n_regions, (unsigned long long)index);
  const cff__region *one = &result->regions[index];
  const cff_region found = {sizeof found, 0,      one->area_px, one->peak,
                            one->x,       one->y, one->width,   one->height};
  return cff__copy_struct(region, &found, sizeof found, "region");
}

static void put_optional(cff__json_writer *out, const char *key, bool is_there, double value) {
  cff__json_put_key(out, key);
  if (is_there) cff__json_put_double(out, value);
  else cff__json_put_source(out, "null", 4);
}

static void put_regions(cff__json_writer *out, const cff_result *result) {
  cff__json_put_key(out, "regions");
  cff__json_open(out, '[');
  for (int64_t i = 0; i < result->info.n_regions; i++) {
    const cff__region *one = &result->regions[i];
    const int64_t box[4] = {one->x, one->y, one->width, one->height};
    cff__json_open(out, '{');
    put_optional(out, "area_px", true, one->area_px);
    put_optional(out, "peak", true, one->peak);
    cff__json_put_key(out, "box");
    cff__json_open(out, '[');
    for (int side = 0; side < 4; side++) cff__json_put_integer(out, box[side]);
    cff__json_close(out, ']');
    cff__json_close(out, '}');
  }
  cff__json_close(out, ']');
}

/* To the microsecond. */
static double rounded(double ms) { return rint(ms * 1000.0) / 1000.0; }

static void put_times(cff__json_writer *out, const cff_result_info *info) {
  cff__json_put_key(out, "stages_ms");
  cff__json_open(out, '{');
  put_optional(out, "preprocess", true, rounded(info->preprocess_ms));
  put_optional(out, "encode", true, rounded(info->encode_ms));
  put_optional(out, "search", true, rounded(info->search_ms));
  put_optional(out, "finish", true, rounded(info->finish_ms));
  cff__json_close(out, '}');
  put_optional(out, "total_ms", true,
               rounded(info->preprocess_ms + info->encode_ms + info->search_ms + info->finish_ms));
}

/* The fields of the Python runtime's `Result.to_dict`, in its order. */
static void put_result(cff__json_writer *out, const cff_result *result) {
  static const char *const verdicts[] = {"pass", "review", "reject"};
  const cff_result_info *info = &result->info;
  cff__json_open(out, '{');
  put_optional(out, "score", true, info->score);
  cff__json_put_key(out, "verdict");
  cff__json_put_text(out, verdicts[info->verdict]);
  put_optional(out, "threshold", true, info->threshold);
  put_optional(out, "review_threshold", info->review_threshold < info->threshold,
               info->review_threshold);
  put_optional(out, "text_score", !isnan(info->text_score), info->text_score);
  put_regions(out, result);
  put_times(out, info);
  cff__json_put_key(out, "warning");
  if (result->warning != NULL) cff__json_put_text(out, result->warning);
  else cff__json_put_source(out, "null", 4);
  cff__json_close(out, '}');
}

cff_status cff_result_get_text(const cff_result *result, cff_result_text which, char *buffer,
                               size_t size, size_t *n_needed) {
  if (result == NULL) return cff__fail(CFF_ERROR_USAGE, "`result` must be given, got NULL");
  if ((int)which == CFF_RESULT_WARNING)
    return cff__copy_text(result->warning == NULL ? "" : result->warning, buffer, size, n_needed);
  if ((int)which != CFF_RESULT_JSON)
    return cff__fail(CFF_ERROR_USAGE, "`which` must be a cff_result_text, got %d", (int)which);
  cff__json_writer json = {0};
  put_result(&json, result);
  cff_status done = cff__json_check(&json);
  if (done == CFF_OK) done = cff__copy_text(json.text, buffer, size, n_needed);
  cff__json_free(&json);
  return done;
}
