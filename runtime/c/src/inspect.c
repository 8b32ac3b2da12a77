#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "banks.h"
#include "finishing.h"
#include "pixels.h"
#include "product_check.h"
#include "profile.h"
#include "regions.h"
#include "resize.h"
#include "result.h"
#include "session_state.h"
#include "status.h"

/* One image on its way. */
typedef struct inspection {
  cff_session *session;
  const cff_profile *profile;
  cff__encoding encoding;
  float *nearest[CFF__MAX_STAGES]; /* [N_s] each, all in nearest[0] */
  cff_result *result;
} inspection;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* Add the time since *mark to *stage_ms, and begin the next stage. */
static void lap(double *mark, double *stage_ms) {
  const double now = now_ms();
  *stage_ms = now - *mark;
  *mark = now;
}

static cff_status encode(inspection *one, const cff_image *image, double *mark) {
  const cff__manifest *manifest = &one->session->bundle->manifest;
  const size_t height = (size_t)manifest->height, width = (size_t)manifest->width;
  uint8_t *resized = malloc(height * width * 3);
  if (resized == NULL) return cff__no_memory("an image", height * width * 3);
  cff_status done = cff__preprocess(image, resized, height, width);
  lap(mark, &one->result->info.preprocess_ms);
  if (done == CFF_OK)
    done = cff__encode(one->session, resized, one->profile->condition.values, &one->encoding);
  free(resized);
  lap(mark, &one->result->info.encode_ms);
  return done;
}

static cff_status search(inspection *one, double *mark) {
  const size_t n_stages = one->session->bundle->manifest.n_scorers;
  size_t n_tokens = 0;
  cff__banks *banks = NULL;
  if (n_stages == 0) return CFF_OK;
  for (size_t stage = 0; stage < n_stages; stage++) n_tokens += cff__n_tokens(one->session, stage);
  one->nearest[0] = malloc(n_tokens * sizeof *one->nearest[0]);
  if (one->nearest[0] == NULL) return cff__no_memory("a search", n_tokens * sizeof(float));
  for (size_t stage = 1; stage < n_stages; stage++)
    one->nearest[stage] = one->nearest[stage - 1] + cff__n_tokens(one->session, stage - 1);
  cff_status done = cff__banks_take(one->session, one->profile, &banks);
  if (done != CFF_OK) return done;
  const cff__banks *const sets[1] = {banks};
  done = cff__search(one->session, &one->encoding, sets, 1, one->nearest);
  cff__banks_give(one->session, banks);
  lap(mark, &one->result->info.search_ms);
  return done;
}

static cff_status make_map(inspection *one) {
  const cff__manifest *manifest = &one->session->bundle->manifest;
  const size_t height = (size_t)manifest->height, width = (size_t)manifest->width;
  const cff__distance distance =
      strcmp(manifest->distance, "log") == 0 ? CFF__DISTANCE_LOG : CFF__DISTANCE_COSINE;
  cff__grid grids[CFF__MAX_STAGES];
  for (size_t stage = 0; stage < manifest->n_stages; stage++)
    grids[stage] = (cff__grid){(size_t)manifest->stages[stage].rows,
                               (size_t)manifest->stages[stage].columns};
  float *map = one->encoding.map; /* is turned into the anomaly map in its place */
  cff_status done = cff__fuse_maps((const float *const *)one->nearest, grids, manifest->n_scorers,
                                   distance, map, (float)manifest->map_weight, map, height, width);
  one->result->map = map;
  one->encoding.map = NULL;
  return done;
}

static cff_status judge(inspection *one) {
  const cff__threshold *limits = &one->profile->threshold;
  cff_result_info *info = &one->result->info;
  const size_t n = (size_t)info->height * (size_t)info->width;
  const double *own = one->encoding.has_score ? &one->encoding.score : NULL;
  const double statistic = cff__scores_spread(&one->session->bundle->manifest)
                               ? cff__spread(one->result->map, n)
                               : (double)cff__peak(one->result->map, n);
  cff_status done = cff__image_score(statistic, own, one->profile->peak_scale, &info->score);
  info->text_score = own == NULL ? NAN : *own;
  info->threshold = limits->value;
  info->review_threshold = limits->review;
  info->verdict = (int32_t)cff__verdict_of(info->score, limits->value, limits->review);
  return done;
}

static cff_status find_regions(inspection *one, const cff_image *image) {
  cff_result_info *info = &one->result->info;
  size_t n_regions = 0;
  cff_status done = cff__find_regions(one->result->map, (size_t)info->height, (size_t)info->width,
                                      one->profile->threshold.pixel_value, (size_t)image->height,
                                      (size_t)image->width, &one->result->regions, &n_regions);
  info->n_regions = (int64_t)n_regions;
  return done;
}

static cff_status mean_of_stage(inspection *one, size_t stage, float *mean) {
  const float *rows = NULL;
  float *copy = NULL;
  cff_status done = cff__host_rows(one->session, &one->encoding, stage, &rows, &copy);
  if (done == CFF_OK)
    cff__mean_feature(rows, cff__n_tokens(one->session, stage),
                      (size_t)one->session->bundle->manifest.stages[stage].width, mean);
  free(copy);
  return done;
}

static cff_status compare_product(inspection *one) {
  const cff__manifest *manifest = &one->session->bundle->manifest;
  const float *means[CFF__MAX_STAGES], *references[CFF__MAX_STAGES];
  size_t widths[CFF__MAX_STAGES], n_values = 0;
  for (size_t stage = 0; stage < manifest->n_stages; stage++) {
    widths[stage] = (size_t)manifest->stages[stage].width;
    references[stage] = one->profile->means[stage].values;
    n_values += widths[stage];
  }
  float *values = malloc(n_values * sizeof *values), *mean = values;
  if (values == NULL) return cff__no_memory("mean features", n_values * sizeof *values);
  cff_status done = CFF_OK;
  for (size_t stage = 0; stage < manifest->n_stages && done == CFF_OK; stage++) {
    done = mean_of_stage(one, stage, mean);
    means[stage] = mean;
    mean += widths[stage];
  }
  if (done == CFF_OK)
    one->result->info.product_distance =
        cff__product_distance(means, references, widths, manifest->n_stages,
                              one->profile->n_references, one->profile->n_references);
  one->result->info.product_limit = one->profile->product_limit;
  free(values);
  return done;
}

void cff__format_tenths(double value, char text[CFF__DOUBLE_SIZE]) {
  if (!isfinite(value) || fabs(value) > 1e15) {
    snprintf(text, CFF__DOUBLE_SIZE, "%s", isnan(value) ? "nan" : "more than 1e15");
    return;
  }
  snprintf(text, CFF__DOUBLE_SIZE, "%.1f", value);
  const size_t whole = strspn(text, "-0123456789");
  const char tenth = text[strlen(text) - 1];
  text[whole] = '.';
  text[whole + 1] = tenth;
  text[whole + 2] = '\0';
}

static cff_status warn(inspection *one) {
  const cff_result_info *info = &one->result->info;
  if (info->product_distance <= info->product_limit) return CFF_OK; /* NaN is not */
  const char *product = one->profile->product;
  char distance[CFF__DOUBLE_SIZE], limit[CFF__DOUBLE_SIZE];
  cff__format_tenths(info->product_distance, distance);
  cff__format_tenths(info->product_limit, limit);
  const size_t n_bytes = strlen(product) + 400;
  one->result->warning = malloc(n_bytes);
  if (one->result->warning == NULL) return cff__no_memory("a warning", n_bytes);
  snprintf(one->result->warning, n_bytes,
           "looks like another product than `%s`: as a whole it differs from the references by %s, "
           "usual is %s at most",
           product, distance, limit);
  return CFF_OK;
}

static cff_status inspect(inspection *one, const cff_image *image) {
  const cff__manifest *manifest = &one->session->bundle->manifest;
  double mark = now_ms();
  one->result->info.struct_size = sizeof one->result->info;
  one->result->info.height = manifest->height;
  one->result->info.width = manifest->width;
  cff_status done = encode(one, image, &mark);
  if (done == CFF_OK) done = search(one, &mark);
  if (done == CFF_OK) done = make_map(one);
  if (done == CFF_OK) done = judge(one);
  if (done == CFF_OK) done = find_regions(one, image);
  if (done == CFF_OK) done = compare_product(one);
  if (done == CFF_OK) done = warn(one);
  lap(&mark, &one->result->info.finish_ms);
  return done;
}

cff_status cff_session_inspect(cff_session *session, const cff_profile *profile,
                               const cff_image *image, cff_result **result) {
  if (result == NULL) return cff__fail(CFF_ERROR_USAGE, "`result` must be given, got NULL");
  *result = NULL;
  if (session == NULL || profile == NULL || image == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`session`, `profile` and `image` must be given, got NULL");
  cff_status done = cff_profile_check(profile, session->bundle);
  if (done != CFF_OK) return done;
  inspection one;
  memset(&one, 0, sizeof one);
  one.session = session;
  one.profile = profile;
  one.result = calloc(1, sizeof *one.result);
  if (one.result == NULL) return cff__no_memory("a result", sizeof *one.result);
  done = inspect(&one, image);
  cff__encoding_free(session, &one.encoding);
  free(one.nearest[0]);
  if (done == CFF_OK) *result = one.result;
  else cff_result_free(one.result);
  return done;
}
