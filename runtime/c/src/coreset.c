#include "coreset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "greedy.h"
#include "pixels.h"
#include "status.h"

static int compare_rows(const void *a, const void *b) {
  const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
  return (left > right) - (left < right);
}

static int compare_distances(const void *a, const void *b) {
  const double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* The row nearest the bank's mean. */
static cff_status find_first(cff__rows bank, int64_t *first) {
  double *mean = calloc(bank.width, sizeof *mean), largest = -INFINITY;
  *first = 0;
  if (mean == NULL) return cff__no_memory("a bank's mean", bank.width * sizeof *mean);
  for (size_t i = 0; i < bank.n; i++)
    for (size_t k = 0; k < bank.width; k++) mean[k] += bank.values[i * bank.width + k];
  for (size_t i = 0; i < bank.n; i++) {
    double product = 0.0;
    for (size_t k = 0; k < bank.width; k++) product += mean[k] * bank.values[i * bank.width + k];
    if (product > largest) {
      largest = product;
      *first = (int64_t)i;
    }
  }
  free(mean);
  return CFF_OK;
}

/* Sum up how far the dropped rows are from the kept ones. */
static cff_status measure(const float *nearest, cff__coreset *coreset) {
  const size_t n = (size_t)(coreset->n_rows_full - coreset->n_rows);
  double *distances = malloc(n * sizeof *distances), sum = 0.0;
  if (distances == NULL) return cff__no_memory("distances", n * sizeof *distances);
  for (size_t i = 0, at = 0; at < n; i++) {
    if (nearest[i] == CFF__SETTLED) continue;
    distances[at] = fmax(0.0, 1.0 - (double)nearest[i]);
    sum += distances[at++];
  }
  qsort(distances, n, sizeof *distances, compare_distances);
  /* between the ranks on both sides of 99 %, as NumPy's percentile */
  const double position = 0.99 * (double)(n - 1);
  const size_t below = (size_t)position, above = below + 1 < n ? below + 1 : below;
  const double share = position - (double)below;
  coreset->largest = distances[n - 1];
  coreset->percentile_99 = distances[below] + (distances[above] - distances[below]) * share;
  coreset->mean = sum / (double)n;
  free(distances);
  return CFF_OK;
}

static cff_status check_bank(const float *bank, int64_t n_rows, int64_t width) {
  size_t n_values, bytes;
  if (bank == NULL || n_rows < 1 || width < 1 ||
      !cff__multiply((size_t)n_rows, (size_t)width, &n_values) ||
      !cff__multiply(n_values, sizeof(double), &bytes) || bytes > (size_t)PTRDIFF_MAX)
    return cff__fail(CFF_ERROR_USAGE, "`bank` must be a matrix of at least one row, got %lld x %lld",
                     (long long)n_rows, (long long)width);
  return CFF_OK;
}

void cff__coreset_free(cff__coreset *coreset) {
  free(coreset->rows);
  memset(coreset, 0, sizeof *coreset);
}

/* Fewer rows than there are. */
static cff_status choose(cff__rows bank, cff__coreset *coreset) {
  cff__greedy greedy;
  int64_t first = 0;
  cff_status done = find_first(bank, &first);
  if (done == CFF_OK) done = cff__greedy_make(&greedy, bank);
  if (done != CFF_OK) return done;
  cff__greedy_compare(&greedy, &first, 1, greedy.nearest);
  greedy.nearest[first] = CFF__SETTLED;
  coreset->rows[0] = first;
  cff__greedy_spread(&greedy, (size_t)coreset->n_rows - 1, coreset->rows + 1);
  qsort(coreset->rows, (size_t)coreset->n_rows, sizeof *coreset->rows, compare_rows);
  done = measure(greedy.nearest, coreset);
  cff__greedy_free(&greedy);
  return done;
}

cff_status cff__compress_bank(const float *bank, int64_t n_rows, int64_t width, int64_t n_kept,
                              cff__coreset *coreset) {
  memset(coreset, 0, sizeof *coreset);
  cff_status done = check_bank(bank, n_rows, width);
  if (done != CFF_OK) return done;
  if (n_kept < 1)
    return cff__fail(CFF_ERROR_USAGE, "`n_kept` must be 1 or more, got %lld", (long long)n_kept);
  const cff__rows all = {bank, (size_t)n_rows, (size_t)width};
  const size_t n = (size_t)(n_kept < n_rows ? n_kept : n_rows);
  coreset->n_rows_full = n_rows;
  coreset->n_rows = (int64_t)n;
  coreset->rows = malloc(n * sizeof *coreset->rows);
  if (coreset->rows == NULL)
    done = cff__no_memory("the rows of a bank", n * sizeof *coreset->rows);
  else if (n_kept < n_rows)
    done = choose(all, coreset);
  else
    for (size_t row = 0; row < n; row++) coreset->rows[row] = (int64_t)row;
  if (done != CFF_OK) cff__coreset_free(coreset);
  return done;
}
