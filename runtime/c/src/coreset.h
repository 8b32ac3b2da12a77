/* Fewer rows of a memory bank: greedy k-centre on cosine distance, as the Python runtime's
 * `coreset`. Rows nearer to each other than rounding tells may be chosen the other way round. */
#ifndef CFF__CORESET_H
#define CFF__CORESET_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "finishing.h"

typedef struct cff__coreset {
  int64_t *rows; /* kept, ascending, from malloc */
  int64_t n_rows, n_rows_full;
  double largest, percentile_99, mean; /* of the dropped rows' distances; 0 where none is dropped */
} cff__coreset;

void cff__coreset_free(cff__coreset *coreset);

/* Choose at most n_kept >= 1 of n_rows > 0 unit rows [n_rows,width]. */
cff_status cff__compress_bank(const float *bank, int64_t n_rows, int64_t width, int64_t n_kept,
                              cff__coreset *coreset);

/* The rows of a bank compressed alike but without reference `left_out` of n_references >= 2.
 * *rows is freed by the caller. */
cff_status cff__leave_one_out_rows(const float *bank, int64_t n_rows, int64_t width,
                                   int64_t n_references, int64_t left_out,
                                   const cff__coreset *coreset, int64_t **rows, int64_t *n_left);

/* How much the anomaly map can rise at most where rows at these distances are dropped. */
double cff__map_rise(const double *distances, size_t n_stages, cff__distance distance);

#endif
