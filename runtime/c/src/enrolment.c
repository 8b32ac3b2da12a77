#include "enrolment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "augment.h"
#include "conditions.h"
#include "mapper.h"
#include "product_check.h"
#include "reference_banks.h"
#include "scored.h"
#include "sha256.h"
#include "status.h"
#include "thresholds.h"

/* A profile in the making. */
typedef struct making {
  cff_session *session;
  const cff__manifest *manifest;
  const cff__recipe *recipe;
  cff_profile *profile;
  size_t n_references, n_bytes; /* K; of a preprocessed image */
  cff__mapper mapper;
  cff__conditions conditions;
  cff__reference_banks banks;
  cff__encoding *encodings; /* [K], those that serve for maps too */
  cff__scored scored;       /* the references left out (K > 1), then all augmentations */
  cff__scored further, defects;
} making;

static void making_free(making *one) {
  for (size_t i = 0; one->encodings != NULL && i < one->n_references; i++)
    cff__encoding_free(one->session, &one->encodings[i]);
  free(one->encodings);
  cff__reference_banks_free(&one->banks);
  cff__conditions_free(&one->conditions);
  cff__mapper_free(&one->mapper);
  cff__scored_free(&one->scored);
  cff__scored_free(&one->further);
  cff__scored_free(&one->defects);
}

static cff_status making_start(making *one) {
  const cff__recipe *recipe = one->recipe;
  const size_t n_own = one->n_references * (1 + CFF__N_AUGMENTATIONS);
  const size_t n_scored = one->n_references == 1 ? CFF__N_AUGMENTATIONS : n_own;
  const size_t n_values = one->n_bytes / 3;
  /* references whose condition is chosen from them are encoded twice */
  const bool again = one->manifest->condition.is_of_reference && one->n_references > 1;
  one->encodings = calloc(one->n_references, sizeof *one->encodings);
  if (one->encodings == NULL)
    return cff__no_memory("references", one->n_references * sizeof *one->encodings);
  cff_status done = cff__mapper_make(&one->mapper, one->session,
                                     n_own + (again ? one->n_references : 0) + recipe->n_further +
                                         recipe->n_defects,
                                     recipe->progress, recipe->user);
  if (done == CFF_OK)
    done = cff__conditions_make(&one->conditions, one->manifest, one->profile);
  if (done == CFF_OK)
    done = cff__reference_banks_make(&one->banks, one->session, one->n_references,
                                     recipe->max_bank);
  if (done == CFF_OK) done = cff__scored_make(&one->scored, n_scored, n_values, one->manifest);
  if (done == CFF_OK)
    done = cff__scored_make(&one->further, recipe->n_further, n_values, one->manifest);
  if (done == CFF_OK)
    done = cff__scored_make(&one->defects, recipe->n_defects, n_values, one->manifest);
  return done;
}

/* Means [K,C_s] of the references, which stand in the banks. */
static cff_status make_means(making *one) {
  cff_profile *profile = one->profile;
  profile->n_stages = one->manifest->n_stages;
  for (size_t stage = 0; stage < profile->n_stages; stage++) {
    const cff__matrix *rows = &one->banks.rows[stage];
    const size_t width = (size_t)rows->n_columns;
    const size_t n_tokens = (size_t)rows->n_rows / one->n_references;
    cff__matrix *means = &profile->means[stage];
    means->n_rows = (int64_t)one->n_references;
    means->n_columns = rows->n_columns;
    means->values = malloc(one->n_references * width * sizeof *means->values);
    if (means->values == NULL)
      return cff__no_memory("mean features", one->n_references * width * sizeof *means->values);
    for (size_t i = 0; i < one->n_references; i++)
      cff__mean_feature(rows->values + i * n_tokens * width, n_tokens, width,
                        means->values + i * width);
  }
  return CFF_OK;
}

/* Encode the references, put their features into the banks, and choose the templates. */
static cff_status add_references(making *one) {
  cff_status done = CFF_OK;
  for (size_t i = 0; i < one->n_references && done == CFF_OK; i++) {
    const uint8_t *pixels = one->profile->images + i * one->n_bytes;
    done = cff__mapper_encode(&one->mapper, pixels, cff__conditions_first(&one->conditions),
                              &one->encodings[i]);
    if (done == CFF_OK) done = cff__reference_banks_add(&one->banks, i, &one->encodings[i]);
    if (!cff__conditions_settled(&one->conditions))
      cff__encoding_free(one->session, &one->encodings[i]);
  }
  if (done == CFF_OK) done = make_means(one);
  if (done == CFF_OK)
    done = cff__conditions_choose(&one->conditions,
                                  one->banks.rows[one->manifest->condition.stage].values,
                                  one->profile);
  return done == CFF_OK ? cff__reference_banks_compress(&one->banks, one->recipe->max_bank) : done;
}

/* Score a reference's augmentations against the others. moved: room for an image. */
static cff_status score_augmentations(making *one, size_t index, const cff__banks *const *sets,
                                      size_t n_sets, uint8_t *moved, float *inner) {
  cff__mapper *mapper = &one->mapper;
  const float *condition = cff__conditions_without(&one->conditions, index);
  const size_t n_own = one->n_references > 1 ? one->n_references : 0;
  cff_status done = CFF_OK;
  for (size_t i = 0; i < CFF__N_AUGMENTATIONS && done == CFF_OK; i++) {
    cff__encoding encoding = {0};
    done = cff__augment(one->profile->images + index * one->n_bytes, mapper->height, mapper->width,
                        i, moved);
    if (done == CFF_OK) done = cff__mapper_encode(mapper, moved, condition, &encoding);
    if (done != CFF_OK) break;
    done = cff__mapper_map(mapper, &encoding, sets, n_sets);
    if (done == CFF_OK) {
      const size_t n = cff__without_border(mapper->map, mapper->height, mapper->width, inner);
      cff__scored_put(&one->scored, n_own + index * CFF__N_AUGMENTATIONS + i, inner, n,
                      encoding.score, mapper->scratch);
    }
    cff__encoding_free(one->session, &encoding);
  }
  return done;
}

/* Score a reference against the others. */
static cff_status score_left_out(making *one, size_t index, const cff__banks *const *sets,
                                 size_t n_sets) {
  cff__mapper *mapper = &one->mapper;
  cff__encoding *encoding = &one->encodings[index];
  cff_status done = CFF_OK;
  if (!cff__conditions_settled(&one->conditions))
    done = cff__mapper_encode(mapper, one->profile->images + index * one->n_bytes,
                              cff__conditions_without(&one->conditions, index), encoding);
  if (done == CFF_OK) done = cff__mapper_map(mapper, encoding, sets, n_sets);
  if (done == CFF_OK)
    cff__scored_put(&one->scored, index, mapper->map, mapper->height * mapper->width,
                    encoding->score, mapper->scratch);
  return done;
}

/* Score each reference (K > 1) and its augmentations against the others. */
static cff_status score_references(making *one) {
  cff__mapper *mapper = &one->mapper;
  const size_t n_values = mapper->height * mapper->width;
  uint8_t *moved = malloc(one->n_bytes);
  float *inner = malloc(n_values * sizeof *inner);
  cff_status done = CFF_OK;
  if (moved == NULL || inner == NULL) done = cff__no_memory("an image", one->n_bytes);
  for (size_t i = 0; i < one->n_references && done == CFF_OK; i++) {
    const cff__banks *const *sets = NULL;
    size_t n_sets = 0;
    done = cff__reference_banks_without(&one->banks, i, &sets, &n_sets);
    if (done == CFF_OK && one->n_references > 1) done = score_left_out(one, i, sets, n_sets);
    cff__encoding_free(one->session, &one->encodings[i]); /* on a GPU others need the room */
    if (done == CFF_OK) done = score_augmentations(one, i, sets, n_sets, moved, inner);
  }
  free(moved);
  free(inner);
  return done;
}

/* Score parts that are no references against all of them. */
static cff_status score_parts(making *one, const uint8_t *images, size_t n, cff__scored *scored) {
  const cff__banks *const *sets = NULL;
  size_t n_sets = 0;
  if (n == 0) return CFF_OK;
  cff_status done = cff__reference_banks_all(&one->banks, &sets, &n_sets);
  for (size_t i = 0; i < n && done == CFF_OK; i++) {
    cff__encoding encoding = {0};
    done = cff__mapper_encode(&one->mapper, images + i * one->n_bytes,
                              one->profile->condition.values, &encoding);
    if (done != CFF_OK) break;
    done = cff__mapper_map(&one->mapper, &encoding, sets, n_sets);
    if (done == CFF_OK)
      cff__scored_put(scored, i, one->mapper.map, one->mapper.height * one->mapper.width,
                      encoding.score, one->mapper.scratch);
    cff__encoding_free(one->session, &encoding);
  }
  return done;
}

/* Hashes of n images as texts in the arena; NULL without any. */
static cff_status hash_images(const uint8_t *images, size_t n, size_t n_bytes, cff__arena *arena,
                              const char *const **hashes) {
  char hex[CFF__SHA256_HEX_SIZE];
  *hashes = NULL;
  if (n == 0) return CFF_OK;
  const char **made = cff__arena_alloc(arena, n, sizeof *made);
  for (size_t i = 0; made != NULL && i < n; i++) {
    cff__sha256_of(images + i * n_bytes, n_bytes, hex);
    made[i] = cff__arena_text(arena, hex, CFF__SHA256_HEX_SIZE - 1);
    if (made[i] == NULL) made = NULL;
  }
  *hashes = made;
  return made == NULL ? cff__no_memory("hashes", n * CFF__SHA256_HEX_SIZE) : CFF_OK;
}

/* scores: of all scored images, as many as there are peaks. */
static cff_status choose(making *one, double *scores) {
  const cff__recipe *recipe = one->recipe;
  cff_profile *profile = one->profile;
  cff__arena *arena = &profile->arena;
  double *further = scores + one->scored.n, *defects = further + one->further.n;
  char at[CFF__TIME_SIZE];
  cff__now_utc(at);
  cff__calibration given = {{scores, one->scored.n},
                            {one->scored.peaks, one->scored.n},
                            (int64_t)one->n_references,
                            recipe->margin,
                            {further, one->further.n},
                            {one->further.peaks, one->further.n},
                            {defects, one->defects.n},
                            NULL,
                            NULL,
                            recipe->max_false_reject,
                            recipe->max_false_accept,
                            recipe->confidence,
                            at,
                            one->manifest->score_output != NULL};
  cff_status done = cff__scored_scores(&one->scored, profile->peak_scale, scores);
  if (done == CFF_OK) done = cff__scored_scores(&one->further, profile->peak_scale, further);
  if (done == CFF_OK) done = cff__scored_scores(&one->defects, profile->peak_scale, defects);
  if (done == CFF_OK)
    done = hash_images(recipe->further, recipe->n_further, one->n_bytes, arena,
                       &given.further_hashes);
  if (done == CFF_OK)
    done = hash_images(recipe->defects, recipe->n_defects, one->n_bytes, arena,
                       &given.defective_hashes);
  return done == CFF_OK ? cff__choose_threshold(&given, arena, &profile->threshold) : done;
}

static cff_status set_threshold(making *one) {
  const size_t n = one->scored.n + one->further.n + one->defects.n;
  cff_profile *profile = one->profile;
  double *scores = calloc(n, sizeof *scores), low = 0.0;
  if (scores == NULL) return cff__no_memory("scores", n * sizeof *scores);
  profile->peak_scale = cff__peak_scale(one->scored.peaks, one->scored.n);
  cff_status done = choose(one, scores);
  free(scores);
  if (done == CFF_OK) done = cff__scored_median(&one->scored, &low);
  /* the good parts' median at the start of the colours and the threshold in their middle */
  profile->display_range[0] = low;
  profile->display_range[1] = low + 2.0 * fmax(profile->threshold.pixel_value - low, 1e-6);
  return done;
}

/* The banks and what is told of them. */
static cff_status fill_profile(making *one) {
  cff_profile *profile = one->profile;
  const float *means[CFF__MAX_STAGES];
  size_t widths[CFF__MAX_STAGES];
  profile->compression = "null";
  profile->n_banks = one->manifest->n_scorers;
  for (size_t stage = 0; stage < profile->n_banks; stage++) {
    profile->banks[stage] = one->banks.rows[stage]; /* the profile's from here on */
    one->banks.rows[stage] = (cff__matrix){0};
  }
  for (size_t stage = 0; stage < profile->n_stages; stage++) {
    means[stage] = profile->means[stage].values;
    widths[stage] = (size_t)profile->means[stage].n_columns;
  }
  profile->product_limit =
      cff__product_limit(means, widths, profile->n_stages, one->n_references);
  if (!one->banks.is_compressed) return CFF_OK;
  cff__json_writer out = {0};
  cff__put_compression(&out, one->banks.coresets, profile->n_stages, one->mapper.distance);
  return cff__profile_keep_json(&out, &profile->arena, &profile->compression);
}

cff_status cff__enroll(cff_session *session, const cff__recipe *recipe, cff_profile *profile) {
  making one = {.session = session,
                .manifest = cff__session_manifest(session),
                .recipe = recipe,
                .profile = profile,
                .n_references = profile->n_references};
  one.n_bytes = (size_t)one.manifest->height * (size_t)one.manifest->width * 3;
  cff_status done = making_start(&one);
  if (done == CFF_OK) done = add_references(&one);
  if (done == CFF_OK) done = score_references(&one);
  if (done == CFF_OK) done = cff__reference_banks_settle(&one.banks);
  if (done == CFF_OK) done = score_parts(&one, recipe->further, recipe->n_further, &one.further);
  if (done == CFF_OK) done = score_parts(&one, recipe->defects, recipe->n_defects, &one.defects);
  if (done == CFF_OK) done = set_threshold(&one);
  if (done == CFF_OK) done = fill_profile(&one);
  if (done == CFF_OK) done = cff__profile_set_origin(profile, cff__session_bundle(session));
  making_free(&one);
  return done;
}
