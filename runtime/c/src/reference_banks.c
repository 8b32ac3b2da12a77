#include "reference_banks.h"

#include <stdlib.h>
#include <string.h>

#include "pixels.h"
#include "status.h"

static void drop(cff__matrix *matrix) {
  free(matrix->values);
  memset(matrix, 0, sizeof *matrix);
}

static cff_status make_matrix(cff__matrix *matrix, int64_t n_rows, int64_t n_columns) {
  size_t n_values = 0, n_bytes = SIZE_MAX;
  matrix->n_rows = n_rows;
  matrix->n_columns = n_columns;
  if (cff__multiply((size_t)n_rows, (size_t)n_columns, &n_values) &&
      cff__multiply(n_values, sizeof *matrix->values, &n_bytes))
    matrix->values = malloc(n_bytes);
  return matrix->values == NULL ? cff__no_memory("a memory bank", n_bytes) : CFF_OK;
}

static int64_t n_tokens(const cff__reference_banks *banks, size_t stage) {
  return (int64_t)banks->manifest->stages[stage].rows * banks->manifest->stages[stage].columns;
}

/* Give up the banks that the last call gave. */
static void give_back(cff__reference_banks *banks) {
  if (banks->taken != NULL) cff__banks_free(banks->session, banks->taken);
  banks->taken = NULL;
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++) drop(&banks->gathered[stage]);
}

static void drop_singles(cff__reference_banks *banks) {
  for (size_t i = 0; banks->singles != NULL && i < banks->n_references; i++)
    if (banks->singles[i] != NULL) cff__banks_free(banks->session, banks->singles[i]);
  free(banks->singles);
  banks->singles = NULL;
}

void cff__reference_banks_free(cff__reference_banks *banks) {
  give_back(banks);
  drop_singles(banks);
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++) {
    drop(&banks->rows[stage]);
    cff__coreset_free(&banks->coresets[stage]);
    free(banks->left_rows[stage]);
  }
  free(banks->sets);
  memset(banks, 0, sizeof *banks);
}

cff_status cff__reference_banks_make(cff__reference_banks *banks, cff_session *session,
                                     size_t n_references, int64_t max_bank) {
  memset(banks, 0, sizeof *banks);
  banks->session = session;
  banks->manifest = cff__session_manifest(session);
  banks->n_references = n_references;
  banks->singles = calloc(n_references, sizeof *banks->singles);
  banks->sets = calloc(n_references, sizeof *banks->sets);
  cff_status done = CFF_OK;
  if (banks->singles == NULL || banks->sets == NULL)
    done = cff__no_memory("memory banks", n_references * sizeof *banks->sets);
  for (size_t stage = 0; stage < banks->manifest->n_stages && done == CFF_OK; stage++) {
    const int64_t n_rows = (int64_t)n_references * n_tokens(banks, stage);
    if (stage < banks->manifest->n_scorers)
      banks->is_compressed = banks->is_compressed || (max_bank > 0 && n_rows > max_bank);
    done = make_matrix(&banks->rows[stage], n_rows, banks->manifest->stages[stage].width);
  }
  if (done != CFF_OK) cff__reference_banks_free(banks);
  return done;
}

/* Rows of a reference in a stage's bank. */
static float *rows_of(const cff__reference_banks *banks, size_t stage, size_t index) {
  const size_t n = (size_t)n_tokens(banks, stage);
  return banks->rows[stage].values + index * n * (size_t)banks->rows[stage].n_columns;
}

cff_status cff__reference_banks_add(cff__reference_banks *banks, size_t index,
                                    const cff__encoding *encoding) {
  const float *rows[CFF__MAX_STAGES];
  int64_t n_rows[CFF__MAX_STAGES];
  cff_status done = CFF_OK;
  for (size_t stage = 0; stage < banks->manifest->n_stages && done == CFF_OK; stage++) {
    float *own = rows_of(banks, stage, index);
    done = cff__download(banks->session, encoding, stage, own);
    rows[stage] = own;
    n_rows[stage] = n_tokens(banks, stage);
  }
  if (done == CFF_OK && !banks->is_compressed)
    done = cff__banks_make(banks->session, rows, n_rows, &banks->singles[index]);
  return done;
}

cff_status cff__reference_banks_compress(cff__reference_banks *banks, int64_t max_bank) {
  const int64_t n_references = (int64_t)banks->n_references;
  cff_status done = CFF_OK;
  if (!banks->is_compressed) return CFF_OK;
  for (size_t stage = 0; stage < banks->manifest->n_scorers && done == CFF_OK; stage++) {
    const cff__matrix *rows = &banks->rows[stage];
    cff__coreset *coreset = &banks->coresets[stage];
    done = cff__compress_bank(rows->values, rows->n_rows, rows->n_columns, max_bank, coreset);
    if (done == CFF_OK && n_references > 1)
      done = cff__leave_one_out_rows(rows->values, rows->n_rows, rows->n_columns, n_references,
                                     coreset, &banks->left_rows[stage], &banks->n_left[stage]);
  }
  return done;
}

static cff_status gather(const cff__matrix *from, const int64_t *rows, int64_t n, cff__matrix *to) {
  const size_t width = (size_t)from->n_columns;
  cff_status done = make_matrix(to, n, from->n_columns);
  for (int64_t i = 0; i < n && done == CFF_OK; i++)
    memcpy(to->values + (size_t)i * width, from->values + (size_t)rows[i] * width,
           width * sizeof *to->values);
  return done;
}

/* One set, made around some matrices. */
static cff_status take(cff__reference_banks *banks, const cff__matrix *matrices,
                       const cff__banks *const **sets, size_t *n_sets) {
  const float *rows[CFF__MAX_STAGES];
  int64_t n_rows[CFF__MAX_STAGES];
  for (size_t stage = 0; stage < banks->manifest->n_scorers; stage++) {
    rows[stage] = matrices[stage].values;
    n_rows[stage] = matrices[stage].n_rows;
  }
  cff_status done = cff__banks_make(banks->session, rows, n_rows, &banks->taken);
  banks->sets[0] = banks->taken;
  *sets = banks->sets;
  *n_sets = 1;
  return done;
}

cff_status cff__reference_banks_without(cff__reference_banks *banks, size_t left_out,
                                        const cff__banks *const **sets, size_t *n_sets) {
  const size_t n_references = banks->n_references;
  cff_status done = CFF_OK;
  give_back(banks);
  *sets = banks->sets;
  *n_sets = 0;
  if (!banks->is_compressed) {
    for (size_t i = 0; i < n_references; i++)
      if (i != left_out || n_references == 1) banks->sets[(*n_sets)++] = banks->singles[i];
    return CFF_OK;
  }
  for (size_t stage = 0; stage < banks->manifest->n_scorers && done == CFF_OK; stage++) {
    const cff__coreset *coreset = &banks->coresets[stage];
    const int64_t n_left = banks->n_left[stage];
    done = n_references == 1
               ? gather(&banks->rows[stage], coreset->rows, coreset->n_rows,
                        &banks->gathered[stage])
               : gather(&banks->rows[stage], banks->left_rows[stage] + (int64_t)left_out * n_left,
                        n_left, &banks->gathered[stage]);
  }
  return done == CFF_OK ? take(banks, banks->gathered, sets, n_sets) : done;
}

cff_status cff__reference_banks_settle(cff__reference_banks *banks) {
  cff_status done = CFF_OK;
  give_back(banks);
  drop_singles(banks);
  for (size_t stage = 0; stage < banks->manifest->n_scorers && done == CFF_OK; stage++) {
    free(banks->left_rows[stage]);
    banks->left_rows[stage] = NULL;
    if (!banks->is_compressed) continue;
    cff__matrix kept = {0};
    const cff__coreset *coreset = &banks->coresets[stage];
    done = gather(&banks->rows[stage], coreset->rows, coreset->n_rows, &kept);
    if (done != CFF_OK) break;
    drop(&banks->rows[stage]);
    banks->rows[stage] = kept;
  }
  return done;
}

cff_status cff__reference_banks_all(cff__reference_banks *banks, const cff__banks *const **sets,
                                    size_t *n_sets) {
  give_back(banks);
  return take(banks, banks->rows, sets, n_sets);
}
