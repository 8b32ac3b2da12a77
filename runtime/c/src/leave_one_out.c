/* Banks compressed alike but without one of their references. That costs what compressing the
 * others once does, not K times: rows that were kept stay kept. */
#include <stdbool.h>
#include <stdlib.h>

#include "coreset.h"
#include "greedy.h"
#include "pixels.h"
#include "status.h"

static int compare_rows(const void *a, const void *b) {
  const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
  return (left > right) - (left < right);
}

/* Largest cosines of every row to the kept rows of one reference, and to those of all others. */
typedef struct shares {
  float *best, *second, *own;
  int64_t *best_of; /* the reference that `best` is of */
} shares;

static void shares_free(shares *found) {
  free(found->best);
  free(found->second);
  free(found->own);
  free(found->best_of);
}

static cff_status shares_make(size_t n_rows, shares *found) {
  found->best = malloc(n_rows * sizeof(float));
  found->second = malloc(n_rows * sizeof(float));
  found->own = malloc(n_rows * sizeof(float));
  found->best_of = calloc(n_rows, sizeof(int64_t));
  if (found->best == NULL || found->second == NULL || found->own == NULL ||
      found->best_of == NULL) {
    shares_free(found);
    return cff__no_memory("leaving references out", n_rows * sizeof(int64_t));
  }
  for (size_t i = 0; i < n_rows; i++) found->best[i] = found->second[i] = -CFF__SETTLED;
  return CFF_OK;
}

/* Compare the bank with the kept rows of one reference after the other. They stand together, as
 * they are ascending. starts: [K+1], where each reference's begin among the kept ones. */
static void shares_fill(const cff__greedy *greedy, const int64_t *kept, const int64_t *starts,
                        int64_t n_references, shares *found) {
  const size_t n_rows = greedy->bank.n;
  for (int64_t reference = 0; reference < n_references; reference++) {
    const size_t n = (size_t)(starts[reference + 1] - starts[reference]);
    for (size_t i = 0; i < n_rows; i++) found->own[i] = -CFF__SETTLED;
    cff__greedy_compare(greedy, kept + starts[reference], n, found->own);
    for (size_t i = 0; i < n_rows; i++) {
      if (found->own[i] > found->best[i]) {
        found->second[i] = found->best[i];
        found->best[i] = found->own[i];
        found->best_of[i] = reference;
      } else if (found->own[i] > found->second[i]) {
        found->second[i] = found->own[i];
      }
    }
  }
}

/* Complete the rows kept of the others, n_left in all. */
static void leave_out(cff__greedy *greedy, const shares *found, const cff__coreset *coreset,
                      const int64_t *starts, int64_t n_references, int64_t left_out,
                      int64_t n_left, int64_t *rows) {
  const int64_t size = coreset->n_rows_full / n_references;
  int64_t n = 0;
  for (int64_t i = 0; i < coreset->n_rows_full; i++) {
    const bool is_out = i / size == left_out;
    const float others = found->best_of[i] == left_out ? found->second[i] : found->best[i];
    greedy->nearest[i] = is_out ? CFF__SETTLED : others;
  }
  for (int64_t i = 0; i < coreset->n_rows; i++) {
    if (i >= starts[left_out] && i < starts[left_out + 1]) continue;
    rows[n++] = coreset->rows[i];
    greedy->nearest[coreset->rows[i]] = CFF__SETTLED;
  }
  cff__greedy_spread(greedy, (size_t)(n_left - n), rows + n);
  qsort(rows, (size_t)n_left, sizeof *rows, compare_rows);
}

/* Where every row was kept, all rows of the others are left. */
static void leave_each_out_of_all(int64_t n_rows, int64_t n_references, int64_t *rows) {
  const int64_t size = n_rows / n_references;
  for (int64_t left_out = 0; left_out < n_references; left_out++)
    for (int64_t i = 0; i < n_rows; i++)
      if (i / size != left_out) *rows++ = i;
}

/* The rows of all references left out, one after the other. */
static cff_status leave_each_out(cff__rows bank, const cff__coreset *coreset, int64_t n_references,
                                 int64_t n_left, int64_t *rows) {
  const int64_t size = coreset->n_rows_full / n_references;
  cff__greedy greedy = {0};
  shares found = {0};
  int64_t *starts = calloc((size_t)n_references + 1, sizeof *starts);
  if (starts == NULL)
    return cff__no_memory("references", (uint64_t)n_references * sizeof *starts);
  for (int64_t i = 0; i < coreset->n_rows; i++) starts[coreset->rows[i] / size + 1]++;
  for (int64_t i = 0; i < n_references; i++) starts[i + 1] += starts[i];
  cff_status done = cff__greedy_make(&greedy, bank);
  if (done == CFF_OK) done = shares_make(bank.n, &found);
  if (done == CFF_OK) {
    shares_fill(&greedy, coreset->rows, starts, n_references, &found);
    for (int64_t i = 0; i < n_references; i++)
      leave_out(&greedy, &found, coreset, starts, n_references, i, n_left, rows + i * n_left);
    shares_free(&found);
  }
  cff__greedy_free(&greedy);
  free(starts);
  return done;
}

cff_status cff__leave_one_out_rows(const float *bank, int64_t n_rows, int64_t width,
                                   int64_t n_references, const cff__coreset *coreset,
                                   int64_t **rows, int64_t *n_left) {
  *rows = NULL;
  *n_left = 0;
  if (n_references < 2 || n_rows % n_references != 0 || coreset->n_rows_full != n_rows)
    return cff__fail(CFF_ERROR_USAGE,
                     "`n_references` must be 2 or more and divide the rows of the bank, got %lld "
                     "for %lld rows",
                     (long long)n_references, (long long)n_rows);
  const cff__rows all = {bank, (size_t)n_rows, (size_t)width};
  const int64_t n_others = n_rows - n_rows / n_references;
  const int64_t n = coreset->n_rows < n_others ? coreset->n_rows : n_others;
  size_t n_bytes = SIZE_MAX;
  if (cff__multiply((size_t)n, (size_t)n_references * sizeof **rows, &n_bytes))
    *rows = malloc(n_bytes);
  if (*rows == NULL) return cff__no_memory("the rows that are left", n_bytes);
  cff_status done = CFF_OK;
  if (coreset->n_rows == n_rows) leave_each_out_of_all(n_rows, n_references, *rows);
  else done = leave_each_out(all, coreset, n_references, n, *rows);
  if (done == CFF_OK) {
    *n_left = n;
  } else {
    free(*rows);
    *rows = NULL;
  }
  return done;
}
