#include "conditions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"

#define TIE 1e-9 /* copies, and any two alone, have the same sum but for rounding */

static size_t n_values(const cff__manifest *manifest) {
  return (size_t)manifest->condition.n_rows * (size_t)manifest->condition.n_columns;
}

cff_status cff__conditions_make(cff__conditions *conditions, const cff__manifest *manifest,
                                const cff_profile *profile) {
  memset(conditions, 0, sizeof *conditions);
  conditions->manifest = manifest;
  if (!manifest->condition.is_of_reference) {
    conditions->word = profile->condition.values;
    return CFF_OK;
  }
  const size_t n = n_values(manifest);
  conditions->zeros = calloc(n, sizeof *conditions->zeros);
  conditions->without = calloc(profile->n_references, sizeof *conditions->without);
  if (conditions->zeros != NULL && conditions->without != NULL) return CFF_OK;
  cff__conditions_free(conditions);
  return cff__no_memory("a condition", n * sizeof *conditions->zeros);
}

void cff__conditions_free(cff__conditions *conditions) {
  free(conditions->zeros);
  free(conditions->without);
  memset(conditions, 0, sizeof *conditions);
}

bool cff__conditions_settled(const cff__conditions *conditions) {
  return conditions->word != NULL;
}

const float *cff__conditions_first(const cff__conditions *conditions) {
  return conditions->word != NULL ? conditions->word : conditions->zeros;
}

const float *cff__conditions_without(const cff__conditions *conditions, size_t left_out) {
  if (conditions->word != NULL) return conditions->word;
  return conditions->rows + conditions->without[left_out] * n_values(conditions->manifest);
}

/* Sum of the rows but for number `left_out`. */
static void add_rows(const cff__matrix *rows, size_t left_out, double *total) {
  const size_t width = (size_t)rows->n_columns;
  for (size_t k = 0; k < width; k++) total[k] = 0.0;
  for (size_t i = 0; i < (size_t)rows->n_rows; i++)
    for (size_t k = 0; k < width && i != left_out; k++)
      total[k] += (double)rows->values[i * width + k];
}

size_t cff__medoid(const cff__matrix *rows, size_t left_out, double *sums) {
  const size_t n = (size_t)rows->n_rows, width = (size_t)rows->n_columns;
  const size_t start = left_out == 0 ? 1 : 0;
  double *total = sums + n, largest = -HUGE_VAL;
  add_rows(rows, left_out, total);
  for (size_t i = start; i < n; i++) {
    if (i == left_out) continue;
    sums[i] = 0.0;
    for (size_t k = 0; k < width; k++) { /* with the others, not with itself */
      const double value = (double)rows->values[i * width + k];
      sums[i] += value * (total[k] - value);
    }
    if (sums[i] > largest) largest = sums[i];
  }
  for (size_t i = start; i < n; i++)
    if (i != left_out && sums[i] >= largest - TIE) return i;
  return start; /* NaN is above nothing */
}

/* Choose the reference of each, and return that of all. */
static cff_status choose(const cff__conditions *conditions, const cff__matrix *means,
                         size_t *chosen) {
  const size_t n = (size_t)means->n_rows;
  const size_t n_bytes = (n + (size_t)means->n_columns) * sizeof(double);
  if (strcmp(conditions->manifest->condition.choice, "first") == 0) {
    *chosen = 0;
    if (n > 1) conditions->without[0] = 1;
    return CFF_OK;
  }
  double *sums = malloc(n_bytes);
  if (sums == NULL) return cff__no_memory("sums of cosines", n_bytes);
  *chosen = cff__medoid(means, n, sums);
  for (size_t i = 0; i < n && n > 1; i++) conditions->without[i] = cff__medoid(means, i, sums);
  free(sums);
  return CFF_OK;
}

cff_status cff__conditions_choose(cff__conditions *conditions, const float *rows,
                                  cff_profile *profile) {
  const cff__condition *facts = &conditions->manifest->condition;
  const size_t n = n_values(conditions->manifest);
  size_t chosen = 0;
  if (!facts->is_of_reference) return CFF_OK;
  conditions->rows = rows;
  cff_status done = choose(conditions, &profile->means[facts->stage], &chosen);
  if (done != CFF_OK) return done;
  profile->condition.n_rows = facts->n_rows;
  profile->condition.n_columns = facts->n_columns;
  profile->condition.values = malloc(n * sizeof *rows);
  if (profile->condition.values == NULL) return cff__no_memory("a condition", n * sizeof *rows);
  memcpy(profile->condition.values, rows + chosen * n, n * sizeof *rows);
  profile->condition_name = profile->references[chosen].name;
  return CFF_OK;
}
