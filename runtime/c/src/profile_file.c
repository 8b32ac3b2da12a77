/* Reading and writing profile files. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profile.h"
#include "safetensors.h"
#include "status.h"
#include "storage.h"

#define FAIL CFF_ERROR_PROFILE
#define UNIT_TOLERANCE 1e-3
#define NAME_SIZE 16
#define MAX_TENSORS (2 * CFF__MAX_STAGES + 2)

/* Refuse, before anything is read, what has a wrong type or takes too much memory. */
static cff_status check_types(const cff__safetensors *file) {
  uint64_t n_bytes = 0;
  for (size_t i = 0; i < file->n_tensors; i++) {
    const cff__tensor *tensor = &file->tensors[i];
    if (strcmp(tensor->name, "references") == 0) {
      if (tensor->dtype != CFF__U8 || tensor->n_dimensions != 4 || tensor->shape[3] != 3)
        return cff__fail(FAIL, "`references` must be uint8 [K,H,W,3]");
    } else if (tensor->dtype != CFF__F32 || tensor->n_dimensions != 2) {
      return cff__fail(FAIL, "`%.80s` must be a float32 matrix", tensor->name);
    }
    n_bytes += tensor->n_bytes; /* all lie in one file, the sum cannot overflow */
  }
  if (n_bytes > CFF__MAX_PROFILE_BYTES)
    return cff__fail(FAIL, "tensors must take at most %llu bytes, got %llu",
                     (unsigned long long)CFF__MAX_PROFILE_BYTES, (unsigned long long)n_bytes);
  return CFF_OK;
}

static const cff__tensor *find_stage(const cff__safetensors *file, const char *kind, size_t stage) {
  char name[NAME_SIZE];
  snprintf(name, sizeof name, "%s_%d", kind, (int)stage);
  return cff__safetensors_find(file, name);
}

static cff_status check_names(const cff__safetensors *file, cff_profile *profile) {
  size_t n_stages = 0, n_banks = 0;
  while (n_stages < CFF__MAX_STAGES && find_stage(file, "mean", n_stages) != NULL) n_stages++;
  while (n_banks < CFF__MAX_STAGES && find_stage(file, "bank", n_banks) != NULL) n_banks++;
  if (n_stages == 0 || (n_banks != 0 && n_banks != n_stages) ||
      cff__safetensors_find(file, "condition") == NULL ||
      cff__safetensors_find(file, "references") == NULL ||
      file->n_tensors != n_stages + n_banks + 2)
    return cff__fail(FAIL, "tensors must be `condition`, `references`, `mean_0` to `mean_{S-1}`, "
                           "and `bank_0` to `bank_{S-1}` or no banks");
  profile->n_stages = n_stages;
  profile->n_banks = n_banks;
  return CFF_OK;
}

static cff_status read_matrix(const cff__safetensors *file, const cff__tensor *tensor,
                              cff__matrix *matrix) {
  void *data = NULL;
  cff_status done = cff__safetensors_read(file, tensor, &data);
  matrix->values = data;
  matrix->n_rows = tensor->shape[0];
  matrix->n_columns = tensor->shape[1];
  return done;
}

/* Read a matrix whose rows have unit length; NaN has none. */
static cff_status read_unit_rows(const cff__safetensors *file, const char *kind, size_t stage,
                                 cff__matrix *matrix) {
  cff_status done = read_matrix(file, find_stage(file, kind, stage), matrix);
  if (done != CFF_OK) return done;
  bool unit = matrix->n_rows > 0 && matrix->n_columns > 0;
  for (int64_t row = 0; row < matrix->n_rows && unit; row++) {
    const float *values = matrix->values + row * matrix->n_columns;
    double square = 0.0;
    for (int64_t i = 0; i < matrix->n_columns; i++) square += (double)values[i] * values[i];
    unit = fabs(sqrt(square) - 1.0) <= UNIT_TOLERANCE;
  }
  if (!unit) return cff__fail(FAIL, "rows of `%s_%d` must have unit length", kind, (int)stage);
  return CFF_OK;
}

static cff_status read_images(const cff__safetensors *file, cff_profile *profile) {
  const cff__tensor *tensor = cff__safetensors_find(file, "references");
  const cff__origin *origin = &profile->origin;
  void *data = NULL;
  if (profile->n_references == 0 || tensor->shape[0] != (int64_t)profile->n_references ||
      tensor->shape[1] != origin->height || tensor->shape[2] != origin->width)
    return cff__fail(FAIL,
                     "tensor `references` must hold an image of every entry of `references`, "
                     "(%llu, %d, %d, 3), got (%lld, %lld, %lld, 3)",
                     (unsigned long long)profile->n_references, (int)origin->height,
                     (int)origin->width, (long long)tensor->shape[0], (long long)tensor->shape[1],
                     (long long)tensor->shape[2]);
  cff_status done = cff__safetensors_read(file, tensor, &data);
  profile->images = data;
  return done;
}

static cff_status read_tensors(const cff__safetensors *file, cff_profile *profile) {
  cff_status done = read_images(file, profile);
  if (done == CFF_OK)
    done = read_matrix(file, cff__safetensors_find(file, "condition"), &profile->condition);
  const int64_t n_values = profile->condition.n_rows * profile->condition.n_columns;
  if (done == CFF_OK && n_values == 0) return cff__fail(FAIL, "`condition` must not be empty");
  for (int64_t i = 0; done == CFF_OK && i < n_values; i++)
    if (!isfinite(profile->condition.values[i]))
      return cff__fail(FAIL, "`condition` must be finite");
  for (size_t stage = 0; stage < profile->n_stages && done == CFF_OK; stage++) {
    if (stage < profile->n_banks)
      done = read_unit_rows(file, "bank", stage, &profile->banks[stage]);
    if (done == CFF_OK) done = read_unit_rows(file, "mean", stage, &profile->means[stage]);
    if (done == CFF_OK && profile->means[stage].n_rows != (int64_t)profile->n_references)
      return cff__fail(FAIL, "`mean_s` must have a row of each of %llu references",
                       (unsigned long long)profile->n_references);
  }
  return done;
}

static cff_status read_profile(const cff__safetensors *file, cff_profile *profile) {
  const cff__json *facts =
      file->metadata == NULL ? NULL : cff__json_find(file->metadata, CFF__PROFILE_KEY);
  if (facts == NULL) return cff__fail(FAIL, "must be a profile, this safetensors file is none");
  cff_status done = cff__profile_parse_facts(facts->text, strlen(facts->text), profile);
  if (done == CFF_OK) done = check_types(file);
  if (done == CFF_OK) done = check_names(file, profile);
  return done == CFF_OK ? read_tensors(file, profile) : done;
}

cff_status cff_profile_load(const char *path, cff_profile **profile) {
  if (profile == NULL) return cff__fail(CFF_ERROR_USAGE, "`profile` must be given, got NULL");
  *profile = NULL;
  if (path == NULL) return cff__fail(CFF_ERROR_USAGE, "`path` must be given, got NULL");
  if (!cff__is_file(path))
    return cff__fail(CFF_ERROR_USAGE,
                     "profile `%.500s` must be an existing file; make one with `cff-run enroll`",
                     path);
  cff_profile *loaded = calloc(1, sizeof *loaded);
  if (loaded == NULL) return cff__no_memory("a profile", sizeof *loaded);
  cff__safetensors file;
  cff_status done = cff__safetensors_open(path, FAIL, &file);
  if (done == CFF_OK) done = read_profile(&file, loaded);
  cff__safetensors_close(&file);
  if (done == CFF_OK) {
    loaded->serial = cff__next_serial();
    *profile = loaded;
    return CFF_OK;
  }
  cff_profile_free(loaded);
  if (done != FAIL) return done;
  char before[408];
  snprintf(before, sizeof before, "`%.400s`: ", path);
  return cff__wrap_error(done, before, "; copy it again or enrol again");
}

static void add_matrix(cff__tensor *tensor, const char *name, const cff__matrix *matrix,
                       const void **data) {
  cff__tensor made = {name, CFF__F32, 2, {matrix->n_rows, matrix->n_columns}, 0, 0};
  *tensor = made;
  *data = matrix->values;
}

cff_status cff_profile_save(const cff_profile *profile, const char *path) {
  if (profile == NULL || path == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`profile` and `path` must be given, got NULL");
  cff__tensor tensors[MAX_TENSORS];
  const void *data[MAX_TENSORS];
  char names[2 * CFF__MAX_STAGES][NAME_SIZE];
  size_t n = 0;
  for (size_t i = 0; i < 2 * profile->n_stages; i++) {
    size_t stage = i / 2;
    const bool is_bank = i % 2 == 0;
    if (is_bank && stage >= profile->n_banks) continue;
    snprintf(names[i], NAME_SIZE, "%s_%d", is_bank ? "bank" : "mean", (int)stage);
    add_matrix(&tensors[n], names[i], is_bank ? &profile->banks[stage] : &profile->means[stage],
               &data[n]);
    n++;
  }
  add_matrix(&tensors[n], "condition", &profile->condition, &data[n]);
  n++;
  cff__tensor images = {"references", CFF__U8, 4,
                        {(int64_t)profile->n_references, profile->origin.height,
                         profile->origin.width, 3},
                        0, 0};
  tensors[n] = images;
  data[n++] = profile->images;
  cff__json_writer facts = {0};
  cff__profile_put_facts(&facts, profile);
  cff_status done = cff__json_check(&facts);
  if (done == CFF_OK)
    done = cff__safetensors_write(path, CFF__PROFILE_KEY, facts.text, tensors, data, n);
  cff__json_free(&facts);
  return done;
}
